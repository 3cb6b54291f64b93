use std::io::Read;

use proptest::prelude::*;

use super::search::Means;
use super::*;

fn compressed(compressor: &mut Compressor, bytes: &[u8]) -> Vec<u8> {
    let mut room = vec![0xaa; Compressor::bound(bytes.len())];
    let length = compressor.compress(bytes, &mut room);
    room.truncate(length);
    room
}

fn decompressed(stream: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut reader = flate2::bufread::DeflateDecoder::new(stream);
    reader
        .read_to_end(&mut bytes)
        .expect("another reader accepts it");
    assert_eq!(
        reader.total_in(),
        stream.len() as u64,
        "nothing is behind its end"
    );
    bytes
}

/// Numbers that look random, the same ones each time.
fn noise(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(move || {
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 56) as u8
    })
}

/// Words of a small language.
fn prose(seed: u64, length: usize) -> Vec<u8> {
    let words: Vec<&str> = "the layer of a base image is read once and its digest is kept beside every file that it has"
        .split(' ')
        .collect();
    let picks = noise(seed).flat_map(|pick| {
        let word = words[usize::from(pick) % words.len()];
        word.bytes()
            .chain(std::iter::once(if pick < 20 { b'\n' } else { b' ' }))
    });
    picks.take(length).collect()
}

/// A part of what is compressed.
#[derive(Debug, Clone)]
enum Part {
    Noise(u64, usize),
    Prose(u64, usize),
    Run(u8, usize),
    /// What was so far back, again.
    Again(usize, usize),
    Few(u64, usize),
}

fn parts() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![0_usize..40, 0_usize..3_000, 0_usize..60_000];
    let part = (any::<u64>(), any::<u8>(), 1_usize..70_000, length, 0..5).prop_map(
        |(seed, byte, back, length, kind)| match kind {
            0 => Part::Noise(seed, length),
            1 => Part::Prose(seed, length),
            2 => Part::Run(byte, length),
            3 => Part::Again(back, length),
            _ => Part::Few(seed, length),
        },
    );
    prop::collection::vec(part, 0..8).prop_map(|parts| {
        let mut bytes = Vec::new();
        for part in parts {
            match part {
                Part::Noise(seed, length) => bytes.extend(noise(seed).take(length)),
                Part::Prose(seed, length) => bytes.extend(prose(seed, length)),
                Part::Run(byte, length) => bytes.resize(bytes.len() + length, byte),
                Part::Again(back, length) => {
                    let from = bytes.len().saturating_sub(back);
                    let again = bytes[from..].iter().copied().cycle().take(length);
                    let again: Vec<u8> = again.collect();
                    bytes.extend(again);
                }
                Part::Few(seed, length) => {
                    bytes.extend(noise(seed).take(length).map(|byte| byte & 3));
                }
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn streams_are_read_back_and_equal_by_all_means(bytes in parts()) {
        let mut streams = Means::all().into_iter().map(|means| {
            compressed(&mut Compressor::with(Search::by(means)), &bytes)
        });
        let first = streams.next().expect("one is portable");
        prop_assert!(decompressed(&first) == bytes);
        for other in streams {
            prop_assert!(other == first);
        }
    }

    #[test]
    fn codes_are_complete_and_within_their_limit(
        counts in prop::collection::vec(prop_oneof![Just(0), 1_u32..10, 1_u32..65_536], 2..286),
    ) {
        // A code of 286 symbols needs nine bits.
        for limit in [9, 11, 15] {
            let mut lengths = vec![0; counts.len()];
            code::lengths(&counts, limit, &mut lengths);
            let words = lengths.iter().filter(|&&length| length > 0);
            let sum: usize = words.map(|&length| 1_usize << (15 - length)).sum();
            prop_assert_eq!(sum, 1 << 15);
            for (count, &length) in counts.iter().zip(&lengths) {
                prop_assert!(usize::from(length) <= limit);
                prop_assert!(*count == 0 || length > 0);
            }
        }
    }
}

#[test]
fn what_was_compressed_before_changes_nothing() {
    let mut used = Compressor::new();
    for (seed, length) in [(1, 300_000), (2, 10), (3, 40_000), (4, 0), (5, 100_000)] {
        let bytes = prose(seed, length);
        let mut again = compressed(&mut used, &bytes);
        assert_eq!(
            again,
            compressed(&mut Compressor::new(), &bytes),
            "{length} bytes"
        );
        again = decompressed(&again);
        assert!(again == bytes, "{length} bytes");
    }
}

#[test]
fn a_match_is_at_most_32_kib_back() {
    for (back, matches) in [
        ((32 << 10) - 16, true),
        (32 << 10, true),
        ((32 << 10) + 1, false),
    ] {
        let mut bytes: Vec<u8> = noise(7).take(back).collect();
        bytes.extend_from_within(..2_000);
        let stream = compressed(&mut Compressor::new(), &bytes);
        assert!(decompressed(&stream) == bytes);
        assert_eq!(stream.len() < back + 1_000, matches, "{back} bytes back");
    }
}

#[test]
fn what_repeats_shrinks_as_far_as_matches_reach() {
    let zeros = vec![0; 1 << 20];
    let stream = compressed(&mut Compressor::new(), &zeros);
    assert!(decompressed(&stream) == zeros);
    assert!(stream.len() < zeros.len() / 250, "{}", stream.len());
}

#[test]
fn noise_is_stored_and_fits_into_the_bound() {
    for length in [1, 15, 16, 17, 23, 24, 25, 32_767, 32_768, 32_769, 200_000] {
        let bytes: Vec<u8> = noise(11).take(length).collect();
        let stream = compressed(&mut Compressor::new(), &bytes);
        assert!(decompressed(&stream) == bytes);
        assert!(
            stream.len() <= Compressor::bound(length) - 8 + 1,
            "{length}"
        );
    }
}

#[test]
fn more_than_the_table_reaches_is_compressed_too() {
    let mut bytes = prose(3, 100_000).repeat(REACH / 100_000 + 1);
    bytes.truncate(REACH + 50_000);
    let mut streams = Vec::new();
    for means in Means::all() {
        streams.push(compressed(&mut Compressor::with(Search::by(means)), &bytes));
    }
    assert!(decompressed(&streams[0]) == bytes);
    assert!(streams.iter().all(|stream| *stream == streams[0]));
}

#[test]
fn words_are_those_of_the_specification() {
    // The example of RFC 1951, 3.2.2, whose words are written highest bit first.
    let words = code::words(&[3, 3, 3, 3, 3, 2, 4, 4]);
    let reversed = [0b010, 0b110, 0b001, 0b101, 0b011, 0b00, 0b0111, 0b1111];
    assert_eq!(words, reversed);
}

/// Layers have been made of such streams: a change makes all of them anew, and has to be told to who keeps them.
#[test]
fn the_bytes_are_what_they_were() {
    let mut bytes = prose(1, 200_000);
    bytes.extend(noise(2).take(50_000));
    bytes.resize(bytes.len() + 10_000, 0);
    let stream = compressed(&mut Compressor::new(), &bytes);
    let sum = stream
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    assert_eq!((stream.len(), sum), (105_547, 9_063_248_772_173_027_332));
}

/// A stream is read back by other readers and by ours, and is the same by all means.
fn check(bytes: &[u8], what: &dyn std::fmt::Debug) {
    let mut streams = Means::all()
        .into_iter()
        .map(|means| compressed(&mut Compressor::with(Search::by(means)), bytes));
    let first = streams.next().expect("one is portable");
    assert!(first.len() <= Compressor::bound(bytes.len()), "{what:?}");
    assert!(decompressed(&first) == bytes, "{what:?}");
    assert!(streams.all(|other| other == first), "{what:?}");
    let mut by_libdeflate = vec![0; bytes.len()];
    let length = libdeflater::Decompressor::new().deflate_decompress(&first, &mut by_libdeflate);
    assert_eq!(length, Ok(bytes.len()), "{what:?}");
    assert!(by_libdeflate == bytes, "{what:?}");
}

#[test]
fn streams_of_every_small_length_are_read_back() {
    for length in 0..600 {
        let noise: Vec<u8> = noise(length as u64).take(length).collect();
        for bytes in [
            noise.iter().map(|byte| byte & 1).collect(),
            prose(length as u64, length),
            vec![b'a'; length],
            noise,
        ] {
            check(&bytes, &length);
        }
    }
}

#[test]
fn streams_of_every_short_period_are_read_back() {
    for period in 1..=300 {
        let bytes: Vec<u8> = noise(period as u64).take(period).collect();
        for length in [
            period + 3,
            700,
            PIECE / 2 + period,
            PIECE + 7,
            2 * PIECE + 301,
        ] {
            let repeated: Vec<u8> = bytes.iter().copied().cycle().take(length).collect();
            check(&repeated, &(period, length));
        }
    }
}

#[test]
fn matches_across_the_ends_of_halves_pieces_and_blocks_are_read_back() {
    // A match of each length that reaches over the end by each number of bytes.
    for end in [PIECE / 2, PIECE, PIECES * PIECE, 2 * PIECES * PIECE] {
        for beyond in [
            0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 255, 256, 257, 258, 259, 300,
        ] {
            for length in [3, 4, 5, 8, 9, 16, 257, 258, 259, 600] {
                let mut bytes: Vec<u8> = noise(13).take(end + beyond - length.min(end)).collect();
                let from = bytes.len() - 1000;
                bytes.extend_from_within(from..from + length.min(1000));
                bytes.extend(noise(14).take(40));
                check(&bytes, &(end, beyond, length));
            }
        }
    }
}

#[test]
fn repeats_from_32_kib_back_are_read_back() {
    for back in 32_758..=32_778 {
        for length in [4, 8, 9, 258, 300, 40_000] {
            let mut bytes: Vec<u8> = noise(back as u64).take(back).collect();
            let again: Vec<u8> = bytes.iter().copied().cycle().take(length).collect();
            bytes.extend(again);
            check(&bytes, &(back, length));
        }
    }
}

#[test]
fn lengths_about_those_of_blocks_are_read_back() {
    for around in [PIECE, PIECES * PIECE, 65_535] {
        for length in around - 26..around + 26 {
            check(&noise(5).take(length).collect::<Vec<_>>(), &length);
            check(&prose(5, length), &length);
            check(&vec![0; length], &length);
        }
    }
}

#[test]
fn skewed_counts_make_long_words_that_are_within_the_limit() {
    // Bytes as often as Fibonacci's numbers say: the best code without a limit has words of 20 bits.
    let (mut a, mut b) = (1, 1);
    let mut bytes = Vec::new();
    for byte in 0..20 {
        bytes.extend(std::iter::repeat_n(byte * 7, a));
        (a, b) = (b, a + b);
    }
    let mut order = noise(9);
    for place in (1..bytes.len()).rev() {
        let other = order
            .by_ref()
            .take(4)
            .fold(0_usize, |sum, byte| (sum << 8) | usize::from(byte));
        bytes.swap(place, other % (place + 1));
    }
    check(&bytes, &bytes.len());
}
