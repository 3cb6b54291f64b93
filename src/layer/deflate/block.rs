//! A block, as bits (RFC 1951, 3.2).

use super::{
    bits::{Bits, Code},
    huffman::{codes, lengths},
    matches::Block,
};

/// How many symbols for distances there are.
pub(super) const DISTANCES: usize = 30;
/// How many lengths a match can have.
pub(super) const CODED_LENGTHS: usize = 256;
/// How many bytes a stored block has besides its content, at most.
pub(super) const STORED_MORE: usize = 6;

/// Literals, the end of the block, and symbols for lengths; the last two never occur.
const LITERALS_AND_LENGTHS: usize = 288;
const END: usize = 256;
/// Codes are no longer than this for literals and lengths, so that four of them can be added at once.
const LONGEST_LITERAL: usize = 12;
const LONGEST_DISTANCE: usize = 15;
/// The order in which the lengths of the codes for lengths of codes are written.
const ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];
/// Symbols that say that a length of a code, or 0, is repeated.
const AGAIN: u8 = 16;
const ZEROS: u8 = 17;
const MANY_ZEROS: u8 = 18;

/// The symbol, counted from the first one, that says the length of a match, less three.
const LENGTH_SYMBOLS: [u8; CODED_LENGTHS] = {
    let mut symbols = [0; CODED_LENGTHS];
    let mut length = 0;
    while length < CODED_LENGTHS - 1 {
        let bits = length_bits_of(length as u32);
        symbols[length] = 4 * bits as u8 + (length >> bits) as u8;
        length += 1;
    }
    // The longest has a symbol of its own.
    symbols[CODED_LENGTHS - 1] = 28;
    symbols
};

const fn length_bits_of(length: u32) -> u32 {
    29 - (length | 4).leading_zeros()
}

/// How many bits follow the symbol for a length.
const fn length_bits(symbol: u8) -> u32 {
    match symbol {
        0..8 | 28 => 0,
        _ => symbol as u32 / 4 - 1,
    }
}

/// How many bits follow the symbol for a distance.
#[inline(always)]
pub(super) const fn distance_bits(symbol: u8) -> u32 {
    (symbol as u32 / 2).saturating_sub(1)
}

/// The symbol for a distance, less one.
#[inline(always)]
pub(super) const fn distance_symbol(distance: u16) -> u8 {
    let distance = distance as u32;
    let bits = 30 - (distance | 2).leading_zeros();
    (2 * bits + (distance >> bits)) as u8
}

/// Writes blocks.
pub(super) struct Writer {
    literals: [Code; LITERALS_AND_LENGTHS],
    /// Symbol and bits of each length of a match.
    lengths: [Code; CODED_LENGTHS],
    distances: [Code; 32],
}

/// How long the codes of a block are.
struct Lengths {
    literals: [u8; LITERALS_AND_LENGTHS],
    distances: [u8; DISTANCES],
}

impl Writer {
    pub(super) const fn new() -> Self {
        Self {
            literals: [Code(0); LITERALS_AND_LENGTHS],
            lengths: [Code(0); CODED_LENGTHS],
            distances: [Code(0); 32],
        }
    }

    /// Writes the block that stands for `bytes`, in the shortest form.
    pub(super) fn write(&mut self, bytes: &[u8], block: &Block, is_last: bool, out: &mut Bits<'_>) {
        let mut counts = [0; LITERALS_AND_LENGTHS];
        counts[..256].copy_from_slice(&block.literals);
        counts[END] = 1;
        for (&symbol, &count) in LENGTH_SYMBOLS.iter().zip(&block.lengths) {
            counts[END + 1 + usize::from(symbol)] += count;
        }
        let dynamic = Lengths {
            literals: lengths(&counts, LONGEST_LITERAL),
            distances: lengths(&block.distances, LONGEST_DISTANCE),
        };
        let header = Header::new(&dynamic);
        let in_bits = |lengths: &Lengths| {
            let of = |counts: &[u32], lengths: &[u8]| -> u32 {
                let pairs = counts.iter().zip(lengths);
                pairs
                    .map(|(&count, &length)| count * u32::from(length))
                    .sum()
            };
            of(&counts, &lengths.literals) + of(&block.distances, &lengths.distances)
        };
        let fixed = Lengths::fixed();
        let by_dynamic = header.bits() + in_bits(&dynamic);
        let by_fixed = in_bits(&fixed);
        let more: u32 = (0..)
            .zip(&block.distances)
            .map(|(s, &n)| distance_bits(s) * n)
            .sum::<u32>()
            + (0..)
                .zip(&counts[END + 1..])
                .map(|(s, &n)| length_bits(s) * n)
                .sum::<u32>();

        if by_dynamic.min(by_fixed) + more >= 8 * (bytes.len() + STORED_MORE) as u32 {
            stored(bytes, is_last, out);
        } else if by_fixed <= by_dynamic {
            out.add(Code::new(u32::from(is_last) | 1 << 1, 3));
            self.coded(bytes, block, &fixed, out);
        } else {
            out.add(Code::new(u32::from(is_last) | 2 << 1, 3));
            header.write(out);
            self.coded(bytes, block, &dynamic, out);
        }
    }

    fn coded(&mut self, bytes: &[u8], block: &Block, lengths: &Lengths, out: &mut Bits<'_>) {
        self.literals = codes(&lengths.literals);
        self.distances[..DISTANCES].copy_from_slice(&codes(&lengths.distances));
        for (length, (code, &symbol)) in (0..).zip(self.lengths.iter_mut().zip(&LENGTH_SYMBOLS)) {
            let bits = length_bits(symbol);
            let low = length & ((1 << bits) - 1);
            *code = self.literals[END + 1 + usize::from(symbol)].and(low, bits);
        }
        out.quickly(|out| self.sequences(bytes, block, out));
        out.add(self.literals[END]);
        out.flush();
    }

    #[inline(always)]
    fn sequences(&self, bytes: &[u8], block: &Block, out: &mut Bits<'_>) {
        let literal = |byte: u8| self.literals[usize::from(byte)];
        // A match follows the literals, so there are as many bytes.
        let four = |at: usize| *bytes[at..].first_chunk::<4>().expect("a match is longer");
        let mut at = 0;
        for sequence in block.sequences() {
            let mut left = usize::from(sequence.literals);
            let mut next = four(at);
            while left >= 4 {
                out.add(literal(next[0]));
                out.add(literal(next[1]));
                out.add(literal(next[2]));
                out.add(literal(next[3]));
                out.flush();
                at += 4;
                left -= 4;
                next = four(at);
            }
            out.add(literal(next[0]).only_if(left > 0));
            out.add(literal(next[1]).only_if(left > 1));
            out.add(literal(next[2]).only_if(left > 2));
            out.flush();
            out.add(self.lengths[usize::from(sequence.length)]);
            out.add(self.distances[usize::from(sequence.symbol) % 32]);
            let bits = distance_bits(sequence.symbol);
            let low = u32::from(sequence.distance) & ((1 << bits) - 1);
            out.add(Code::new(low, bits));
            out.flush();
            at += left + usize::from(sequence.length) + 3;
        }
        for &byte in &bytes[at..] {
            out.add(literal(byte));
            out.flush();
        }
    }
}

impl Lengths {
    /// Those that need no header.
    fn fixed() -> Self {
        let mut literals = [8; LITERALS_AND_LENGTHS];
        literals[144..256].fill(9);
        literals[256..280].fill(7);
        Self {
            literals,
            distances: [5; DISTANCES],
        }
    }
}

fn stored(bytes: &[u8], is_last: bool, out: &mut Bits<'_>) {
    out.add(Code::new(u32::from(is_last), 3));
    out.align();
    let length = bytes.len() as u16;
    out.bytes(&length.to_le_bytes());
    out.bytes(&(!length).to_le_bytes());
    out.bytes(bytes);
}

/// What says the lengths of the codes.
struct Header {
    literals: usize,
    distances: usize,
    /// Symbols for lengths, with what follows each.
    items: Vec<(u8, u32)>,
    lengths: [u8; 19],
    n_lengths: usize,
}

impl Header {
    fn new(lengths: &Lengths) -> Self {
        let used = |lengths: &[u8]| lengths.iter().rposition(|&l| l > 0).map_or(1, |at| at + 1);
        let literals = used(&lengths.literals);
        let distances = used(&lengths.distances);
        let mut all = [0; LITERALS_AND_LENGTHS + DISTANCES];
        all[..literals].copy_from_slice(&lengths.literals[..literals]);
        all[literals..literals + distances].copy_from_slice(&lengths.distances[..distances]);

        let mut items = Vec::new();
        for run in all[..literals + distances].chunk_by(|a, b| a == b) {
            let (length, mut left) = (run[0], run.len());
            if length > 0 {
                items.push((length, 0));
                left -= 1;
            }
            let repeat = |items: &mut Vec<_>, left: &mut usize, symbol, least, most| {
                while *left >= least {
                    let n = (*left).min(most);
                    items.push((symbol, (n - least) as u32));
                    *left -= n;
                }
            };
            if length > 0 {
                repeat(&mut items, &mut left, AGAIN, 3, 6);
            } else {
                repeat(&mut items, &mut left, MANY_ZEROS, 11, 138);
                repeat(&mut items, &mut left, ZEROS, 3, 10);
            }
            items.extend(std::iter::repeat_n((length, 0), left));
        }

        let mut counts = [0; 19];
        for &(symbol, _) in &items {
            counts[usize::from(symbol)] += 1;
        }
        let lengths = super::huffman::lengths(&counts, 7);
        let last = ORDER.iter().rposition(|&symbol| lengths[symbol] > 0);
        Self {
            literals,
            distances,
            items,
            lengths,
            n_lengths: last.map_or(4, |at| (at + 1).max(4)),
        }
    }

    /// How many bits follow a symbol.
    const fn more(symbol: u8) -> u32 {
        match symbol {
            AGAIN => 2,
            ZEROS => 3,
            MANY_ZEROS => 7,
            _ => 0,
        }
    }

    fn bits(&self) -> u32 {
        let items = self.items.iter();
        let items = items.map(|&(s, _)| u32::from(self.lengths[usize::from(s)]) + Self::more(s));
        14 + 3 * self.n_lengths as u32 + items.sum::<u32>()
    }

    fn write(&self, out: &mut Bits<'_>) {
        out.add(Code::new(self.literals as u32 - 257, 5));
        out.add(Code::new(self.distances as u32 - 1, 5));
        out.add(Code::new(self.n_lengths as u32 - 4, 4));
        for &symbol in &ORDER[..self.n_lengths] {
            out.flush();
            out.add(Code::new(u32::from(self.lengths[symbol]), 3));
        }
        out.flush();
        let codes = codes(&self.lengths);
        for &(symbol, more) in &self.items {
            out.add(codes[usize::from(symbol)].and(more, Self::more(symbol)));
            out.flush();
        }
    }
}
