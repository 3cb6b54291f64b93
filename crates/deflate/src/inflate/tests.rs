use std::io::{self, Read, Write};

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;

use super::Gunzip;

/// Gives so many bytes at a time.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = out.len().min(self.1);
        self.0.read(&mut out[..length])
    }
}

fn gunzip(blob: &[u8], at_once: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Gunzip::new(Trickle(blob, at_once), 0).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn by_flate2(blob: &[u8]) -> io::Result<Vec<u8>> {
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
fn long_streams_are_what_flate2_reads() {
    for (seed, level) in [(1, 1), (2, 6), (3, 9), (4, 0)] {
        let bytes = mixed(seed, 3_000_000);
        let blob = gzip(&bytes, level);
        for at_once in [17, 5000, usize::MAX] {
            assert!(
                gunzip(&blob, at_once).unwrap() == bytes,
                "level {level}, {at_once}"
            );
        }
    }
}

#[test]
fn matches_of_every_length_and_short_distance_are_copied() {
    for distance in 1..70_usize {
        let mut bytes: Vec<u8> = (0..distance).map(|i| i as u8 ^ 0x5a).collect();
        for length in 3..300_usize {
            for _ in 0..length {
                bytes.push(bytes[bytes.len() - distance]);
            }
            // Ends the match.
            bytes.push(length as u8);
            bytes.extend_from_within(bytes.len() - distance..);
        }
        assert!(
            gunzip(&gzip(&bytes, 9), usize::MAX).unwrap() == bytes,
            "{distance}"
        );
    }
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
    let mut gunzip = Gunzip::new(&blob[..], 16 << 10);
    let mut read = Vec::new();
    gunzip.read_to_end(&mut read).unwrap();
    assert!(read == [&bytes[..], &bytes[..]].concat());
    let (starts, length) = gunzip.into_starts();
    assert_eq!(length, blob.len() as u64);
    let offsets: Vec<u64> = starts.iter().map(|start| start.yielded).collect();
    assert_eq!(offsets, [0, 200_000.max(bytes.len() as u64)]);
    assert!(self::gunzip(&[&blob[..], b"x"].concat(), usize::MAX).is_err());
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
    assert_eq!(gunzip(&blob, usize::MAX).unwrap(), b"text");
    let mut reserved = blob.clone();
    reserved[3] |= 0x40;
    assert!(gunzip(&reserved, usize::MAX).is_err());
}

#[test]
fn a_match_cannot_reach_before_its_member() {
    // Fixed codes: a literal, then a match of three bytes from three back.
    let stream: &[u8] = &[0x4b, 0x04, 0x22, 0x00];
    let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let blob = [&gzip(b"before", 6), &head[..], stream, &[0; 8]].concat();
    assert!(by_flate2(&blob).is_err());
    assert!(gunzip(&blob, usize::MAX).is_err());
}

#[test]
fn a_stream_that_ends_early_is_an_error_wherever() {
    let bytes = mixed(6, 60_000);
    let blob = gzip(&bytes, 6);
    for length in (0..blob.len())
        .step_by(97)
        .chain(blob.len() - 12..blob.len())
    {
        let error = gunzip(&blob[..length], usize::MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_flate2_reads_is_read_and_nothing_else(
        seed: u64, length in 0..600_000_usize, level in 0..10_u32, at_once in prop_oneof![1..100_usize, Just(usize::MAX)],
        cut in prop::option::of(any::<prop::sample::Index>()), flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 0..2),
    ) {
        let mut blob = gzip(&mixed(seed, length), level);
        for (place, bit) in flips {
            let place = place.index(blob.len());
            blob[place] ^= 1 << bit;
        }
        if let Some(cut) = cut {
            blob.truncate(cut.index(blob.len()));
        }
        match (gunzip(&blob, at_once), by_flate2(&blob)) {
            (Ok(ours), Ok(theirs)) => prop_assert!(ours == theirs),
            (Err(_), Err(_)) => {}
            (ours, theirs) => prop_assert!(false, "{:?} {:?}", ours.map(|b| b.len()), theirs.map(|b| b.len())),
        }
    }

    #[test]
    fn junk_is_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let head: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
        let blob = [head, &bytes[..]].concat();
        let (ours, theirs) = (gunzip(&blob, usize::MAX), by_flate2(&blob));
        prop_assert_eq!(ours.is_ok(), theirs.is_ok());
    }
}

/// Of streams with a wrong bit each, those that both readers read are read alike, and no reader panics.
#[test]
fn one_wrong_bit_anywhere_is_an_error_or_makes_no_difference() {
    for (bytes, level) in [
        (mixed(8, 900), 9),
        (b"abcabcabcabcabcabcabcabcabc".to_vec(), 9),
        (mixed(9, 400), 0),
        (vec![b'x'; 70_000], 6),
    ] {
        let blob = gzip(&bytes, level);
        for bit in 0..blob.len() * 8 {
            let mut wrong = blob.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            match (gunzip(&wrong, usize::MAX), by_flate2(&wrong)) {
                (Ok(ours), Ok(theirs)) => assert!(ours == theirs, "bit {bit}"),
                (Err(_), Err(_)) => {}
                (ours, theirs) => panic!("bit {bit}: {:?} {:?}", ours.is_ok(), theirs.is_ok()),
            }
        }
    }
}

#[test]
fn our_own_streams_are_read_and_never_as_other_bytes() {
    let bytes = mixed(10, 120_000);
    let mut stream = vec![0; crate::Compressor::bound(bytes.len())];
    let length = crate::Compressor::new().compress(&bytes, &mut stream);
    stream.truncate(length);
    let mut crc = libdeflater::Crc::new();
    crc.update(&bytes);
    let head: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let end = [crc.sum().to_le_bytes(), (bytes.len() as u32).to_le_bytes()].concat();
    let blob = [head, &stream, &end].concat();
    assert!(gunzip(&blob, 4096).unwrap() == bytes);
    for length in (0..blob.len()).step_by(61) {
        assert!(gunzip(&blob[..length], usize::MAX).is_err(), "{length}");
    }
    for bit in (80..(blob.len()) * 8).step_by(1009) {
        let mut wrong = blob.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        // Nothing is in the bits that fill up the last byte.
        if let Ok(read) = gunzip(&wrong, usize::MAX) {
            assert!(read == bytes, "bit {bit}");
        }
    }
}
