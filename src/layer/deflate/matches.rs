//! What of the input was there before.
//!
//! The last 64 KiB of what was read lie in a ring, so a place in it is any `u16`, and needs no check. A table
//! has the last place where four bytes of some hash began. Four places are tried at once: which of them has a match is then data and no
//! branch that a processor would guess wrong half of the time.

use super::block::{CODED_LENGTHS, DISTANCES, distance_symbol};

/// How many bytes a block has, unless it is the last one or a match goes beyond.
pub(super) const BLOCK: usize = 24 << 10;
/// The shortest match that is looked for.
const SHORTEST: usize = 4;
/// The longest one that can be said.
const LONGEST: usize = 258;
/// How far back a match may begin.
const FURTHEST: u16 = 32 << 10;
/// How many places are tried at once.
pub(super) const GROUP: usize = 4;

const HASH_BITS: u32 = 14;
const WINDOW: usize = 1 << 16;
/// How many bytes of the window's beginning follow its end once more, for what reads on there.
const MARGIN: usize = 512 + 8;
/// Nothing is looked for where fewer bytes than this are in the window, unless the input ends there.
const AHEAD: usize = LONGEST + 32;
/// What is put behind the input.
const PADDING: [u8; 16] = [0; 16];
/// The window holds no more of what comes next than this, so what matches may refer to is still in it.
const MOST_AHEAD: usize = WINDOW - FURTHEST as usize - PADDING.len();

/// Some literals, and a match behind them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sequence {
    pub(super) literals: u16,
    /// Less one.
    pub(super) distance: u16,
    /// Less three.
    pub(super) length: u8,
    /// Of the distance.
    pub(super) symbol: u8,
}

/// What a block is made of; behind the last sequence come literals.
pub(super) struct Block {
    sequences: Box<[Sequence; BLOCK / SHORTEST]>,
    n: usize,
    /// How often each literal occurs.
    pub(super) literals: [u32; 256],
    /// How often each length of a match occurs, less three.
    pub(super) lengths: [u32; CODED_LENGTHS],
    /// How often each symbol for distances occurs.
    pub(super) distances: [u32; DISTANCES],
}

impl Block {
    pub(super) fn new() -> Self {
        Self {
            sequences: boxed(),
            n: 0,
            literals: [0; 256],
            lengths: [0; CODED_LENGTHS],
            distances: [0; DISTANCES],
        }
    }

    pub(super) fn sequences(&self) -> &[Sequence] {
        &self.sequences[..self.n]
    }

    fn clear(&mut self) {
        self.n = 0;
        self.literals.fill(0);
        self.lengths.fill(0);
        self.distances.fill(0);
    }

    #[inline(always)]
    fn count(&mut self, literal: u64, times: bool) {
        self.literals[usize::from(literal as u8)] += u32::from(times);
    }

    #[inline(always)]
    fn add(&mut self, literals: usize, distance: u16, length: usize) {
        let distance = distance - 1;
        let symbol = distance_symbol(distance);
        let length = (length - 3) as u8;
        self.lengths[usize::from(length)] += 1;
        self.distances[usize::from(symbol) % DISTANCES] += 1;
        self.sequences[self.n] = Sequence {
            literals: literals as u16,
            distance,
            length,
            symbol,
        };
        self.n += 1;
    }
}

/// Finds matches in a stream.
pub(super) struct Finder {
    /// By hash, the last place where such bytes began. A place that was never set is the input's first: as good as any other, since
    /// what is there is compared.
    table: Box<[u16; 1 << HASH_BITS]>,
    /// What is at a place of the input is here at its lowest 16 bits.
    window: Box<[u8; WINDOW + MARGIN]>,
    /// Where in the input the next block begins.
    at: usize,
    /// How much of the input was put into the window.
    read: usize,
}

impl Finder {
    pub(super) fn new() -> Self {
        Self {
            table: boxed(),
            window: boxed(),
            at: 0,
            read: 0,
        }
    }

    /// Forgets the stream before.
    pub(super) fn begin(&mut self) {
        self.table.fill(0);
        (self.at, self.read) = (0, 0);
    }

    /// Finds the sequences of the next block and says where in the input it ends.
    pub(super) fn block(&mut self, input: &[u8], block: &mut Block) -> usize {
        block.clear();
        let end = self.at + BLOCK;
        let mut literals = 0;
        loop {
            self.fill(input);
            let is_all = self.read == input.len();
            let known = self.read - if is_all { 0 } else { AHEAD };
            literals = self.scan(known.min(end), literals, block);
            if is_all && self.at + GROUP > self.read {
                for &byte in &input[self.at..] {
                    block.count(u64::from(byte), true);
                }
                return input.len();
            }
            if self.at + GROUP > end {
                return self.at;
            }
        }
    }

    /// Makes sure that there is something to look at in the window.
    fn fill(&mut self, input: &[u8]) {
        let end = input.len().min(self.at + MOST_AHEAD);
        if self.read - self.at >= AHEAD + GROUP || self.read == end {
            return;
        }
        self.put(&input[self.read..end]);
        self.read = end;
        // What the stream before left there must not be seen.
        self.put(&PADDING);
    }

    /// Puts bytes where the window goes on.
    fn put(&mut self, bytes: &[u8]) {
        let at = self.read % WINDOW;
        let (now, later) = bytes.split_at(bytes.len().min(WINDOW - at));
        self.window[at..at + now.len()].copy_from_slice(now);
        self.window[..later.len()].copy_from_slice(later);
        self.window.copy_within(..MARGIN, WINDOW);
    }

    /// Finds matches before `limit`. `literals` is how many literals of the block wait for a match, and so is what comes back.
    #[inline(never)]
    fn scan(&mut self, limit: usize, mut literals: usize, block: &mut Block) -> usize {
        let window = &*self.window;
        let table = &mut *self.table;
        let mut at = self.at;
        while at + GROUP <= limit {
            let place = at as u16;
            let next = load(window, place, 0);
            let mut probe = |k: u16| {
                let bytes = (next >> (8 * k)) as u32;
                let slot = &mut table[hash(bytes)];
                let candidate = *slot;
                *slot = place.wrapping_add(k);
                let is_equal = load(window, candidate, 0) as u32 == bytes;
                (candidate, u32::from(is_equal) << k)
            };
            let [first, second, third, fourth] = [probe(0), probe(1), probe(2), probe(3)];
            let candidates = [first.0, second.0, third.0, fourth.0];
            let mut equal = first.1 | second.1 | third.1 | fourth.1;
            let found = loop {
                if equal == 0 {
                    break None;
                }
                let k = equal.trailing_zeros() as usize % GROUP;
                let distance = place.wrapping_add(k as u16).wrapping_sub(candidates[k]);
                // None is the place itself: the input's first, before anything was set.
                if distance.wrapping_sub(1) < FURTHEST {
                    let length = same(window, place.wrapping_add(k as u16), candidates[k]);
                    let length = length.min(self.read - at - k);
                    if length >= SHORTEST {
                        break Some((k, distance, length));
                    }
                }
                equal &= equal - 1;
            };
            let Some((k, distance, length)) = found else {
                block.count(next, true);
                block.count(next >> 8, true);
                block.count(next >> 16, true);
                block.count(next >> 24, true);
                literals += GROUP;
                at += GROUP;
                continue;
            };
            block.count(next, k > 0);
            block.count(next >> 8, k > 1);
            block.count(next >> 16, k > 2);
            block.add(literals + k, distance, length);
            literals = 0;
            at += k + length;
            let last = (at as u16).wrapping_sub(2);
            let bytes = load(window, last, 0);
            table[hash(bytes as u32)] = last;
            table[hash((bytes >> 8) as u32)] = last.wrapping_add(1);
        }
        self.at = at;
        literals
    }
}

/// How many bytes are the same at both places, up to [`LONGEST`].
#[inline(always)]
fn same(window: &[u8; WINDOW + MARGIN], a: u16, b: u16) -> usize {
    let first = load(window, a, 0) ^ load(window, b, 0);
    let second = load(window, a, 8) ^ load(window, b, 8);
    if first | second != 0 {
        let bits = if first == 0 {
            64 + second.trailing_zeros()
        } else {
            first.trailing_zeros()
        };
        return (bits / 8) as usize;
    }
    let mut length = 16;
    while length < LONGEST {
        let different = load(window, a, length) ^ load(window, b, length);
        if different != 0 {
            length += (different.trailing_zeros() / 8) as usize;
            break;
        }
        length += 8;
    }
    length.min(LONGEST)
}

/// Eight bytes, `further` (at most 511) behind a place.
#[inline(always)]
fn load(window: &[u8; WINDOW + MARGIN], place: u16, further: usize) -> u64 {
    let at = usize::from(place) + further % 512;
    let bytes = window[at..].first_chunk();
    u64::from_le_bytes(*bytes.expect("the margin is as long"))
}

#[inline(always)]
const fn hash(bytes: u32) -> usize {
    (bytes.wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)) as usize
}

fn boxed<T: Copy + Default, const N: usize>() -> Box<[T; N]> {
    let zeros = vec![T::default(); N].into_boxed_slice();
    let Ok(array) = zeros.try_into() else {
        unreachable!("it has as many")
    };
    array
}
