use std::io::{Read, Write};

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;

use super::{
    Gunzip,
    blocks::{Blocks, WINDOW},
    find::Finder,
    helper::{Run, decode},
    pieces::Pieces,
};

/// As small as pieces can be, so that little input has many.
const SMALL: usize = 3 << 10;

fn gunzip(blob: &[u8], piece: usize, helped: bool) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Gunzip::with(blob, piece, helped).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn by_flate2(blob: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn gzip(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bytes in which some repeat from near and far, and some do not at all.
fn mixed(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let (kind, n) = (random() % 8, (random() % 700) as usize + 1);
        match kind {
            0 => bytes.extend((0..n * 8).map(|_| random() as u8)),
            1 => bytes.extend(std::iter::repeat_n(random() as u8, n)),
            2..=4 => bytes.extend((0..n).map(|_| b'a' + (random() % 11) as u8)),
            _ => {
                let back = (random() as usize % (40 << 10)).min(bytes.len());
                let from = bytes.len() - back;
                for i in from..from + n.min(back) {
                    bytes.push(bytes[i]);
                }
            }
        }
    }
    bytes
}

#[test]
fn long_streams_are_the_same_by_one_thread_and_two() {
    for (seed, level) in [(1, 1), (2, 6), (3, 9), (4, 0)] {
        let bytes = mixed(seed, 3_000_000);
        let blob = gzip(&bytes, level);
        for (piece, helped) in [
            (SMALL, true),
            (40 << 10, true),
            (1 << 20, true),
            (SMALL, false),
        ] {
            assert!(
                gunzip(&blob, piece, helped).unwrap() == bytes,
                "level {level}, {piece}"
            );
        }
    }
}

#[test]
fn a_run_from_the_middle_is_what_the_whole_has_there() {
    let bytes = mixed(7, 2_000_000);
    let blob = gzip(&bytes, 6);
    let mut pieces = Pieces::new(&blob[..], 100 << 10);
    pieces.read_up_to(4);
    let pair = pieces.pair(2).unwrap();
    let mut run = Run::new();
    let is_found = decode(
        &pair,
        &mut Finder::new(),
        &mut Blocks::new(),
        &mut run,
        &|| true,
    );
    assert!(is_found && run.end >= 100 << 13);
    // What is known whatever the window is tells where in the whole it is.
    let [mut zeros, mut ones] = [Vec::new(), Vec::new()];
    run.resolve(&vec![0; WINDOW], &mut zeros);
    run.resolve(&vec![1; WINDOW], &mut ones);
    let known: Vec<usize> = (0..zeros.len()).filter(|&i| zeros[i] == ones[i]).collect();
    assert!(known.len() > 1000 && known.len() < zeros.len());
    let is_here = |start: &usize| known.iter().all(|i| bytes[start + i] == zeros[*i]);
    let start = (WINDOW..=bytes.len() - zeros.len()).find(is_here).unwrap();
    let mut known = Vec::new();
    run.resolve(&bytes[start - WINDOW..start], &mut known);
    assert!(known == bytes[start..start + known.len()]);
    assert!(known.len() > 100_000);
}

#[test]
fn members_empty_ones_and_zeros_at_the_end_are_read() {
    let bytes = mixed(5, 200_000);
    let blob = [
        gzip(&bytes, 6),
        gzip(b"", 6),
        gzip(&bytes, 1),
        vec![0; 9000],
    ]
    .concat();
    let mut gunzip = Gunzip::with(&blob[..], SMALL, true);
    let mut read = Vec::new();
    gunzip.read_to_end(&mut read).unwrap();
    assert!(read == [&bytes[..], &bytes[..]].concat());
    let (members, length) = gunzip.into_members();
    assert_eq!(length, blob.len() as u64);
    let offsets: Vec<u64> = members.iter().map(|member| member.tar_offset).collect();
    assert_eq!(offsets, [0, 200_000.max(bytes.len() as u64)]);
    assert!(self::gunzip(&[&blob[..], b"x"].concat(), SMALL, true).is_err());
}

#[test]
fn every_field_of_a_header_is_passed_over() {
    let builder = flate2::GzBuilder::new()
        .filename("a".repeat(9000))
        .comment("b")
        .extra([7; 500]);
    let mut encoder = builder.write(Vec::new(), Compression::fast());
    encoder.write_all(b"text").unwrap();
    let blob = encoder.finish().unwrap();
    assert_eq!(gunzip(&blob, SMALL, true).unwrap(), b"text");
    let mut reserved = blob.clone();
    reserved[3] |= 0x40;
    assert!(gunzip(&reserved, SMALL, true).is_err());
}

#[test]
fn a_match_cannot_reach_before_its_member() {
    // Fixed codes: a literal, then a match of three bytes from three back.
    let stream: &[u8] = &[0x4b, 0x04, 0x22, 0x00];
    let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let blob = [&gzip(b"before", 6), &head[..], stream, &[0; 8]].concat();
    assert!(by_flate2(&blob).is_err());
    assert!(gunzip(&blob, SMALL, true).is_err());
}

#[test]
fn a_stream_that_ends_early_is_an_error_wherever() {
    let bytes = mixed(6, 60_000);
    let blob = gzip(&bytes, 6);
    for length in (0..blob.len())
        .step_by(97)
        .chain(blob.len() - 12..blob.len())
    {
        assert!(gunzip(&blob[..length], SMALL, true).is_err(), "{length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_flate2_reads_is_read_and_nothing_else(
        seed: u64, length in 0..600_000_usize, level in 0..10_u32, piece in prop_oneof![Just(SMALL), Just(24 << 10)],
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 0..2),
    ) {
        let mut blob = gzip(&mixed(seed, length), level);
        for (place, bit) in flips {
            let place = place.index(blob.len());
            blob[place] ^= 1 << bit;
        }
        match (gunzip(&blob, piece, true), by_flate2(&blob)) {
            (Ok(ours), Ok(theirs)) => prop_assert!(ours == theirs),
            (Err(_), Err(_)) => {}
            (ours, theirs) => prop_assert!(false, "{:?} {:?}", ours.map(|b| b.len()), theirs.map(|b| b.len())),
        }
    }

    #[test]
    fn junk_is_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let head: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
        let blob = [head, &bytes[..]].concat();
        let (ours, theirs) = (gunzip(&blob, SMALL, true), by_flate2(&blob));
        prop_assert_eq!(ours.is_ok(), theirs.is_ok());
    }
}
