use std::io::Read;

use proptest::prelude::*;

use super::{
    Deflater,
    bits::{Bits, Code},
    huffman::{codes, lengths},
};

fn deflate(bytes: &[u8]) -> Vec<u8> {
    deflate_by(&mut Deflater::new(), bytes)
}

fn deflate_by(deflater: &mut Deflater, bytes: &[u8]) -> Vec<u8> {
    let mut room = vec![0xaa; Deflater::bound(bytes.len())];
    let length = deflater.deflate(bytes, &mut room);
    room.truncate(length);
    room
}

/// What two readers that share no code make of it.
#[track_caller]
fn assert_reads_as(stream: &[u8], bytes: &[u8]) {
    let mut back = Vec::new();
    flate2::read::DeflateDecoder::new(stream)
        .read_to_end(&mut back)
        .unwrap();
    assert!(back == bytes, "zlib-rs reads something else");
    back.fill(0);
    let n = libdeflater::Decompressor::new()
        .deflate_decompress(stream, &mut back)
        .unwrap();
    assert!(back[..n] == *bytes, "libdeflate reads something else");
}

/// Runs, text, noise, and repeats from near and far.
fn mixed(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below) as usize
    };
    let mut bytes = Vec::with_capacity(length + 8_000);
    while bytes.len() < length {
        let (kind, n) = (random(8), random(1_000) + 1);
        match kind {
            0 => bytes.extend((0..n * 4).map(|_| random(256) as u8)),
            1 => bytes.resize(bytes.len() + n, random(256) as u8),
            2 | 3 => bytes.extend((0..n).map(|_| b'a' + random(11) as u8)),
            _ => {
                let back = (random(70 << 10) + 1).min(bytes.len());
                for _ in 0..if back > 0 { n / 4 + 1 } else { 0 } {
                    bytes.push(bytes[bytes.len() - back]);
                }
            }
        }
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn streams_of_any_length_are_read_by_others() {
    let bytes = mixed(1, 200_000);
    for length in (0..700).chain([
        24_570, 24_576, 24_580, 65_248, 65_535, 65_536, 65_537, 98_304,
    ]) {
        assert_reads_as(&deflate(&bytes[..length]), &bytes[..length]);
    }
    for seed in 2..10 {
        let bytes = mixed(seed, 1_200_000 + seed as usize);
        assert_reads_as(&deflate(&bytes), &bytes);
    }
}

#[test]
fn one_byte_over_and_over_is_next_to_nothing() {
    for byte in [0, 0xff] {
        let bytes = vec![byte; 1 << 20];
        let stream = deflate(&bytes);
        assert_reads_as(&stream, &bytes);
        assert!(stream.len() < 6_000, "{}", stream.len());
    }
}

#[test]
fn noise_is_stored() {
    let mut state = 1_u64;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(300_000)
    .collect();
    let stream = deflate(&bytes);
    assert_reads_as(&stream, &bytes);
    assert!(stream.len() <= bytes.len() + 100, "{}", stream.len());
}

#[test]
fn what_is_too_far_away_is_no_match() {
    let needle = b"only twice in all of this";
    for distance in 32_760..32_776 {
        let mut bytes = vec![0; 40_000];
        bytes[..needle.len()].copy_from_slice(needle);
        bytes[distance..distance + needle.len()].copy_from_slice(needle);
        assert_reads_as(&deflate(&bytes), &bytes);
    }
}

#[test]
fn a_stream_does_not_depend_on_the_one_before() {
    let mut deflater = Deflater::new();
    let many: Vec<_> = (0..40).map(|i| mixed(i, i as usize * 3_001)).collect();
    for bytes in many.iter().rev().chain(&many) {
        assert!(deflate_by(&mut deflater, bytes) == deflate(bytes));
    }
}

/// Matches that are not found would be seen nowhere else.
#[test]
fn text_is_about_as_small_as_by_libdeflate() {
    let text = include_bytes!("../../dockerfile/instruction.rs");
    // Not `fastest()`, which stores.
    let level = libdeflater::CompressionLvl::new(1).unwrap();
    let mut library = libdeflater::Compressor::new(level);
    let mut room = vec![0; library.deflate_compress_bound(text.len())];
    let theirs = library.deflate_compress(text, &mut room).unwrap();
    let ours = deflate(text).len();
    assert!(
        ours * 100 < theirs * 108,
        "{ours} bytes, {theirs} by libdeflate"
    );
}

#[test]
fn codes_of_rare_symbols_are_not_too_long() {
    let mut counts = [0; 30];
    let (mut a, mut b) = (1, 1);
    for count in &mut counts {
        *count = a;
        (a, b) = (b, a + b);
    }
    for most in [5, 7, 12, 15] {
        let lengths = lengths(&counts, most);
        assert_eq!(usize::from(lengths[0]), most);
        assert_eq!(used(&lengths), 1 << 15);
    }
}

/// The part of all codes that these take, in units of 2^-15.
fn used(lengths: &[u8]) -> u32 {
    let coded = lengths.iter().filter(|&&length| length > 0);
    coded.map(|&length| 1 << (15 - length)).sum()
}

#[test]
fn bits_are_written_lowest_first() {
    let mut room = [0; 16];
    let mut bits = Bits::new(&mut room);
    bits.add(Code::new(0b1, 1));
    bits.add(Code::new(0b01, 2).and(0b1_0000_0001, 9));
    bits.flush();
    bits.add(Code::new(0, 0));
    bits.add(Code::new(0xdead, 16).only_if(false));
    bits.add(Code::new(0b1111, 4));
    assert_eq!(bits.finish(), 2);
    assert_eq!(room[..2], [0b0000_1011, 0b1111_1000]);
}

proptest! {
    #[test]
    fn any_bytes_come_back(bytes in proptest::collection::vec(prop_oneof![0..4_u8, any::<u8>()], 0..3_000)) {
        assert_reads_as(&deflate(&bytes), &bytes);
    }

    /// Complete, and never longer than allowed: what every reader takes.
    #[test]
    fn codes_are_complete(counts in proptest::array::uniform30(prop_oneof![Just(0), 1..20_u32, any::<u16>().prop_map(u32::from)])) {
        for most in [7, 12, 15] {
            let lengths = lengths(&counts, most);
            prop_assert_eq!(used(&lengths), 1 << 15);
            prop_assert!(lengths.iter().all(|&length| usize::from(length) <= most));
            let mut codes: Vec<_> = codes(&lengths).into_iter().filter(|code| code.length() > 0).collect();
            codes.sort_unstable_by_key(|code| code.0);
            codes.dedup();
            prop_assert_eq!(codes.len(), lengths.iter().filter(|&&length| length > 0).count());
        }
    }
}
