//! Blocks (RFC 1951, 3.2.3 to 3.2.7).

use super::{
    code,
    parse::{Counts, Tokens},
    token::{self, LENGTH},
};

/// Symbols of bytes, of the end, and of lengths.
const SYMBOLS: usize = 288;
/// The end of a block.
const END: usize = 256;
/// Distance symbols; the last two are not in use.
const DISTANCES: usize = 32;
/// Symbols of the code that code lengths are in.
const LENGTH_CODES: usize = 19;
/// Their order in a block's header.
const ORDER: [usize; LENGTH_CODES] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];
/// The least length of each length symbol.
const LENGTHS: [u16; 29] = [
    3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131,
    163, 195, 227, 258,
];
/// The length symbol of each length, from 3.
const OF_LENGTH: [u16; 256] = {
    let mut symbols = [0; 256];
    let (mut length, mut symbol) = (3, 0);
    while length <= 258 {
        while symbol + 1 < LENGTHS.len() && LENGTHS[symbol + 1] as usize <= length {
            symbol += 1;
        }
        symbols[length - 3] = (END + 1 + symbol) as u16;
        length += 1;
    }
    symbols
};

/// Bits that are written one after the other, the lowest first.
pub(super) struct Writer<'a> {
    room: &'a mut [u8],
    length: usize,
    /// Those that do not fill a byte yet.
    bits: u64,
    count: u32,
}

impl<'a> Writer<'a> {
    pub(super) const fn new(room: &'a mut [u8]) -> Self {
        Self {
            room,
            length: 0,
            bits: 0,
            count: 0,
        }
    }

    /// At most 56 bits; those above `count` are 0.
    #[inline(always)]
    fn put(&mut self, bits: u64, count: u32) {
        self.bits |= bits << self.count;
        self.count += count;
        self.room[self.length..self.length + 8].copy_from_slice(&self.bits.to_le_bytes());
        self.length += (self.count / 8) as usize;
        self.bits >>= self.count - self.count % 8;
        self.count %= 8;
    }

    /// Fills up the last byte.
    fn align(&mut self) {
        let missing = self.count.wrapping_neg() % 8;
        self.put(0, missing);
    }

    /// A block of bytes as they are, at most 65,535.
    pub(super) fn store(&mut self, bytes: &[u8], is_last: bool) {
        self.put(u64::from(is_last), 3);
        self.align();
        let length = bytes.len() as u64;
        self.put(length | ((length ^ 0xffff) << 16), 32);
        self.room[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// The stream's length.
    pub(super) fn finish(mut self) -> usize {
        self.align();
        self.length
    }
}

/// The codes of a block.
struct Codes {
    symbols: [u8; SYMBOLS],
    distances: [u8; DISTANCES],
}

impl Codes {
    /// The best ones.
    fn of(symbols: &[u32; SYMBOLS], distances: &[u32; DISTANCES]) -> Self {
        let mut codes = Self {
            symbols: [0; SYMBOLS],
            distances: [0; DISTANCES],
        };
        code::lengths(&symbols[..286], 15, &mut codes.symbols[..286]);
        code::lengths(&distances[..30], 15, &mut codes.distances[..30]);
        codes
    }

    /// Those that every reader knows.
    fn fixed() -> Self {
        let mut symbols = [8; SYMBOLS];
        symbols[144..256].fill(9);
        symbols[256..280].fill(7);
        Self {
            symbols,
            distances: [5; DISTANCES],
        }
    }

    /// How many bits the block's tokens take.
    fn cost(&self, symbols: &[u32; SYMBOLS], distances: &[u32; DISTANCES]) -> usize {
        let cost = |counts: &[u32], lengths: &[u8], extra: fn(usize) -> u32| -> usize {
            let used = counts.iter().zip(lengths).enumerate();
            used.map(|(symbol, (&count, &length))| {
                (count * (u32::from(length) + extra(symbol))) as usize
            })
            .sum()
        };
        cost(symbols, &self.symbols, extra_of_length)
            + cost(&distances[..30], &self.distances, extra_of_distance)
    }
}

/// How many bits follow a symbol of bytes and lengths.
const fn extra_of_length(symbol: usize) -> u32 {
    match symbol {
        265..285 => (symbol as u32 - 261) / 4,
        _ => 0,
    }
}

/// How many bits follow a distance symbol.
const fn extra_of_distance(symbol: usize) -> u32 {
    (symbol as u32 / 2).saturating_sub(1)
}

/// The lengths of codes as a header has them: symbols, with what follows them.
struct Header {
    items: Vec<(u8, u8)>,
    symbols: usize,
    distances: usize,
    lengths: [u8; LENGTH_CODES],
    in_use: usize,
}

impl Header {
    fn of(codes: &Codes) -> Self {
        let used = |lengths: &[u8], least: usize| {
            let last = lengths.iter().rposition(|&length| length > 0);
            last.map_or(least, |last| (last + 1).max(least))
        };
        let symbols = used(&codes.symbols, END + 1);
        let distances = used(&codes.distances, 1);
        let mut all = [0; SYMBOLS + DISTANCES];
        all[..symbols].copy_from_slice(&codes.symbols[..symbols]);
        all[symbols..symbols + distances].copy_from_slice(&codes.distances[..distances]);
        let items = repeats(&all[..symbols + distances]);
        let mut counts = [0; LENGTH_CODES];
        for &(symbol, _) in &items {
            counts[usize::from(symbol)] += 1;
        }
        let mut lengths = [0; LENGTH_CODES];
        code::lengths(&counts, 7, &mut lengths);
        let last = ORDER.iter().rposition(|&symbol| lengths[symbol] > 0);
        Self {
            items,
            symbols,
            distances,
            lengths,
            in_use: last.map_or(4, |last| (last + 1).max(4)),
        }
    }

    fn cost(&self) -> usize {
        let items = self.items.iter();
        let bits = |&(symbol, _): &(u8, u8)| {
            u32::from(self.lengths[usize::from(symbol)]) + extra_of_item(symbol)
        };
        14 + 3 * self.in_use + items.map(bits).sum::<u32>() as usize
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.put((self.symbols - 257) as u64, 5);
        writer.put((self.distances - 1) as u64, 5);
        writer.put((self.in_use - 4) as u64, 4);
        for &symbol in &ORDER[..self.in_use] {
            writer.put(u64::from(self.lengths[symbol]), 3);
        }
        let words = code::words(&self.lengths);
        for &(symbol, follows) in &self.items {
            let at = usize::from(symbol);
            writer.put(u64::from(words[at]), u32::from(self.lengths[at]));
            writer.put(u64::from(follows), extra_of_item(symbol));
        }
    }
}

const fn extra_of_item(symbol: u8) -> u32 {
    match symbol {
        16 => 2,
        17 => 3,
        18 => 7,
        _ => 0,
    }
}

/// Runs of lengths, as a header says them.
fn repeats(lengths: &[u8]) -> Vec<(u8, u8)> {
    let mut items = Vec::with_capacity(lengths.len());
    for run in lengths.chunk_by(|a, b| a == b) {
        let (value, mut left) = (run[0], run.len());
        if value != 0 {
            items.push((value, 0));
            left -= 1;
        }
        while left > 0 {
            let (item, taken) = match (value, left) {
                (0, 11..) => ((18, left.min(138) - 11), left.min(138)),
                (0, 3..) => ((17, left - 3), left),
                (1.., 3..) => ((16, left.min(6) - 3), left.min(6)),
                _ => ((value, 0), 1),
            };
            items.push((item.0, item.1 as u8));
            left -= taken;
        }
    }
    items
}

/// Writes a block in the shortest of the three forms. The tokens stand for `bytes`.
pub(super) fn write(tokens: &Tokens, bytes: &[u8], is_last: bool, writer: &mut Writer<'_>) {
    let (symbols, distances) = by_symbol(&tokens.counts);
    let codes = Codes::of(&symbols, &distances);
    let header = Header::of(&codes);
    let cost = header.cost() + codes.cost(&symbols, &distances);
    let fixed = Codes::fixed();
    let fixed_cost = fixed.cost(&symbols, &distances);
    if cost.min(fixed_cost).div_ceil(8) >= bytes.len() {
        writer.store(bytes, is_last);
    } else if fixed_cost <= cost {
        writer.put(u64::from(is_last) | (1 << 1), 3);
        write_tokens(tokens, &fixed, writer);
    } else {
        writer.put(u64::from(is_last) | (2 << 1), 3);
        header.write(writer);
        write_tokens(tokens, &codes, writer);
    }
}

/// How often each symbol is used; the end is, once.
fn by_symbol(counts: &Counts) -> ([u32; SYMBOLS], [u32; DISTANCES]) {
    let mut symbols = [0; SYMBOLS];
    symbols[..END].copy_from_slice(&counts.indices[..END]);
    for (&symbol, count) in OF_LENGTH.iter().zip(&counts.indices[END..]) {
        symbols[usize::from(symbol)] += count;
    }
    symbols[END] = 1;
    let mut distances = counts.distances;
    distances[30..].fill(0);
    (symbols, distances)
}

fn write_tokens(tokens: &Tokens, codes: &Codes, writer: &mut Writer<'_>) {
    let words = code::words(&codes.symbols);
    // Of each index, the bits above their number.
    let mut indices = [0_u32; 512];
    for (byte, entry) in indices[..END].iter_mut().enumerate() {
        *entry = (u32::from(words[byte]) << 8) | u32::from(codes.symbols[byte]);
    }
    for (at, entry) in indices[END..].iter_mut().enumerate() {
        let symbol = usize::from(OF_LENGTH[at]);
        let count = u32::from(codes.symbols[symbol]);
        let rest = at as u32 + 3 - u32::from(LENGTHS[symbol - END - 1]);
        let bits = u32::from(words[symbol]) | (rest << count);
        *entry = (bits << 8) | (count + extra_of_length(symbol));
    }
    // Of each distance symbol, the bits above their number with what follows, above their number without it.
    let words_of_distances = code::words(&codes.distances);
    let mut symbols = [0_u32; DISTANCES];
    for (symbol, entry) in symbols[..30].iter_mut().enumerate() {
        let count = u32::from(codes.distances[symbol]);
        let total = count + extra_of_distance(symbol);
        *entry = (u32::from(words_of_distances[symbol]) << 16) | (total << 8) | count;
    }
    for run in tokens.runs() {
        for &token in run {
            let index = indices[token::index(token)];
            let symbol = symbols[token::symbol(token)];
            let distance =
                u64::from(symbol >> 16) | u64::from(token::rest(token)).wrapping_shl(symbol);
            writer.put(
                u64::from(index >> 8) | distance.wrapping_shl(index),
                (index & 0xff) + ((symbol >> 8) & 0xff),
            );
        }
    }
    writer.put(u64::from(words[END]), u32::from(codes.symbols[END]));
}

const _: () = assert!(END as u32 == LENGTH + 3);
