//! Decodes blocks.

use std::io::Read;

use super::{
    Fault,
    input::{Bytes, Input},
    tables::{DIST_BITS, END, FURTHER, LITERAL, LITLEN_BITS, SPECIAL, Tables, code_lengths},
};

/// How far back a match can reach.
const WINDOW: usize = 32 << 10;
/// How many bytes are decoded before they are given out.
const ROOM: usize = 256 << 10;
/// What may be written beyond where decoding stops: four literals, the longest match, and the rest of a copied run.
const SLACK: usize = 4 + 512 + RUN;
/// Matches are copied by so many bytes at once.
const RUN: usize = 32;
/// Decoding stops here.
const OUTPUT_END: usize = WINDOW + ROOM;
/// So many bytes are between the last block and the end of its member.
const TRAILER: usize = 8;
/// No match is longer than a number of so many bits.
const LENGTH_MASK: usize = 511;

/// What was decoded: a window, and what follows it.
pub(super) struct Output {
    bytes: Box<[u8; OUTPUT_END + SLACK]>,
    at: usize,
    /// The first byte that matches can refer to.
    oldest: usize,
    /// How much was given out.
    given: usize,
}

impl Output {
    pub(super) fn new() -> Self {
        let bytes = vec![0; OUTPUT_END + SLACK].into_boxed_slice();
        Self {
            bytes: bytes.try_into().expect("it is so long"),
            at: 0,
            oldest: 0,
            given: 0,
        }
    }

    /// From here on nothing can be copied from what is here.
    pub(super) const fn begin(&mut self) {
        self.oldest = self.at;
    }

    /// What is to be given out.
    pub(super) fn decoded(&self) -> &[u8] {
        &self.bytes[self.given..self.at]
    }

    /// So much of it was given out.
    pub(super) const fn give(&mut self, length: usize) {
        self.given += length;
    }

    /// Once all was given out, moves the window to the front if there is no room behind it.
    pub(super) fn make_room(&mut self) {
        if self.at >= OUTPUT_END {
            self.bytes.copy_within(self.at - WINDOW..self.at, 0);
            self.oldest = self.oldest.saturating_sub(self.at - WINDOW);
            (self.at, self.given) = (WINDOW, WINDOW);
        }
    }
}

/// Why decoding stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// There is no more input, or no room.
    Short,
    /// A block ended, and another one follows.
    Block,
    /// The last block ended.
    Stream,
}

/// Where in a block decoding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    Stored(usize),
    Coded,
}

/// A decoder between two symbols.
pub(super) struct Blocks {
    /// What was taken from the input and not used.
    bits: u64,
    n_bits: u32,
    place: Place,
    is_last: bool,
    tables: Tables,
}

impl Blocks {
    pub(super) fn new() -> Self {
        Self {
            bits: 0,
            n_bits: 0,
            place: Place::Before,
            is_last: false,
            tables: Tables::new(),
        }
    }

    /// Decodes until something ends. The input has to have been filled. When the stream ends, the input is at the byte after it.
    pub(super) fn run(
        &mut self,
        input: &mut Input<impl Read>,
        output: &mut Output,
    ) -> Result<Stop, Fault> {
        let outcome = self.run_block(input, output);
        // Behind blocks are checksum and length, behind the end of the input zeros, and what these are taken for means nothing.
        if input.is_all() && input.next + TRAILER > input.end() + self.n_bits as usize / 8 {
            return Err(Fault::Truncated);
        }
        if !outcome? {
            return Ok(Stop::Short);
        }
        self.place = Place::Before;
        if !self.is_last {
            return Ok(Stop::Block);
        }
        self.give_back(input);
        Ok(Stop::Stream)
    }

    /// Decodes some of a block, or all that is left; which it was.
    fn run_block(
        &mut self,
        input: &mut Input<impl Read>,
        output: &mut Output,
    ) -> Result<bool, Fault> {
        if self.place == Place::Before {
            self.begin(input)?;
        }
        match self.place {
            Place::Stored(left) => self.copy_stored(left, input, output),
            Place::Coded | Place::Before => {
                let limit = input.limit();
                self.decode(&input.bytes, &mut input.next, limit, output)
            }
        }
    }

    fn refill(&mut self, input: &mut Input<impl Read>) -> Result<(), Fault> {
        // Zeros behind the end are more than can be taken from one word.
        if input.next >= input.limit() && input.is_all() {
            return Err(Fault::Truncated);
        }
        self.bits |= word(&input.bytes, input.next) << self.n_bits;
        input.next += ((63 - self.n_bits) >> 3) as usize;
        self.n_bits |= 0b11_1000;
        Ok(())
    }

    const fn take(&mut self, n: u32) -> u32 {
        let value = self.bits & ((1 << n) - 1);
        self.bits >>= n;
        self.n_bits -= n;
        value as u32
    }

    /// Goes back to the first byte of which no bit was used.
    fn give_back(&mut self, input: &mut Input<impl Read>) {
        input.next -= (self.n_bits / 8) as usize;
        (self.bits, self.n_bits) = (0, 0);
    }

    /// Some of a block that is not compressed; whether that was all.
    fn copy_stored(
        &mut self,
        left: usize,
        input: &mut Input<impl Read>,
        output: &mut Output,
    ) -> Result<bool, Fault> {
        let space = OUTPUT_END.saturating_sub(output.at);
        let length = left.min(space).min(input.available());
        if length == 0 && left > 0 && space > 0 {
            return Err(Fault::Truncated);
        }
        let from = &input.bytes[input.next..input.next + length];
        output.bytes[output.at..output.at + length].copy_from_slice(from);
        output.at += length;
        input.next += length;
        self.place = Place::Stored(left - length);
        Ok(length == left)
    }

    /// Reads the header of a block.
    fn begin(&mut self, input: &mut Input<impl Read>) -> Result<(), Fault> {
        const ORDER: [usize; 19] = [
            16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
        ];
        self.refill(input)?;
        self.is_last = self.take(1) != 0;
        match self.take(2) {
            0 => {
                self.take(self.n_bits % 8);
                if self.n_bits < 32 {
                    self.refill(input)?;
                }
                let (length, inverse) = (self.take(16), self.take(16));
                if length != !inverse & 0xffff {
                    return Err(Fault::Corrupt);
                }
                self.give_back(input);
                self.place = Place::Stored(length as usize);
            }
            1 => {
                let mut litlen = [8; 288];
                litlen[144..256].fill(9);
                litlen[256..280].fill(7);
                self.tables.set(&litlen, &[5; 32])?;
                self.place = Place::Coded;
            }
            2 => {
                let n_litlen = self.take(5) as usize + 257;
                let n_dist = self.take(5) as usize + 1;
                let n_lengths = self.take(4) as usize + 4;
                if n_litlen > 286 || n_dist > 30 {
                    return Err(Fault::Corrupt);
                }
                let mut lengths = [0; 19];
                for &symbol in &ORDER[..n_lengths] {
                    if self.n_bits < 3 {
                        self.refill(input)?;
                    }
                    lengths[symbol] = self.take(3) as u8;
                }
                let table = code_lengths(&lengths)?;
                let all = n_litlen + n_dist;
                // The last one may repeat beyond the end, which is looked at afterwards.
                let mut lengths = [0; 286 + 30 + 138];
                let mut n = 0;
                while n < all {
                    if self.n_bits < 14 {
                        self.refill(input)?;
                    }
                    let (symbol, bits) = table[(self.bits & 127) as usize];
                    self.take(bits.into());
                    let (value, times) = match symbol {
                        0..=15 => (symbol, 1),
                        16 if n == 0 => return Err(Fault::Corrupt),
                        16 => (lengths[n - 1], 3 + self.take(2)),
                        17 => (0, 3 + self.take(3)),
                        _ => (0, 11 + self.take(7)),
                    };
                    lengths[n..n + times as usize].fill(value);
                    n += times as usize;
                }
                if n > all || lengths[256] == 0 {
                    return Err(Fault::Corrupt);
                }
                self.tables
                    .set(&lengths[..n_litlen], &lengths[n_litlen..all])?;
                self.place = Place::Coded;
            }
            _ => return Err(Fault::Corrupt),
        }
        Ok(())
    }

    /// Decodes symbols of a block; whether it ended.
    #[inline(never)]
    fn decode(
        &mut self,
        input: &Bytes,
        input_next: &mut usize,
        input_end: usize,
        output: &mut Output,
    ) -> Result<bool, Fault> {
        const LITLEN: usize = (1 << LITLEN_BITS) - 1;
        const DIST: usize = (1 << DIST_BITS) - 1;
        let out = &mut *output.bytes;
        let oldest = output.oldest;
        let litlen = &*self.tables.litlen;
        let dist = &*self.tables.dist;
        let litlen_further = &self.tables.litlen_further[..];
        let dist_further = &self.tables.dist_further[..];
        // Only the lowest byte of `n_bits` counts in here: whole entries are subtracted.
        let (mut next, mut bits, mut n_bits) = (*input_next, self.bits, self.n_bits);
        let mut at = output.at;
        macro_rules! refill {
            () => {
                bits |= word(input, next).wrapping_shl(n_bits);
                next += 7 - (n_bits >> 3 & 7) as usize;
                n_bits |= 0b11_1000;
            };
        }
        macro_rules! drop_bits {
            ($n:expr) => {
                bits = bits.wrapping_shr($n);
                n_bits = n_bits.wrapping_sub($n);
            };
        }
        macro_rules! literal {
            ($entry:expr) => {
                out[at] = ($entry >> 16) as u8;
                at += 1;
                drop_bits!($entry);
            };
        }
        let outcome = 'symbols: loop {
            if next >= input_end || at >= OUTPUT_END {
                break Ok(false);
            }
            refill!();
            let mut entry = litlen[bits as usize & LITLEN];
            loop {
                // The bits are enough for four codes of the first table, or for one of each code.
                if entry & LITERAL != 0 {
                    literal!(entry);
                    entry = litlen[bits as usize & LITLEN];
                    if entry & LITERAL != 0 {
                        literal!(entry);
                        entry = litlen[bits as usize & LITLEN];
                        if entry & LITERAL != 0 {
                            literal!(entry);
                            entry = litlen[bits as usize & LITLEN];
                            if entry & LITERAL != 0 {
                                literal!(entry);
                                continue 'symbols;
                            }
                        }
                    }
                    refill!();
                }
                if entry & SPECIAL != 0 {
                    if entry & FURTHER != 0 {
                        let index = (bits >> LITLEN_BITS) as usize & ((1 << (entry & 0xff)) - 1);
                        entry = litlen_further[(entry >> 16) as usize + index];
                        if entry & LITERAL != 0 {
                            literal!(entry);
                            continue 'symbols;
                        }
                    }
                    if entry & SPECIAL != 0 {
                        if entry & END == 0 {
                            break 'symbols Err(Fault::Corrupt);
                        }
                        drop_bits!(entry);
                        break 'symbols Ok(true);
                    }
                }
                let length = value(entry, bits) & LENGTH_MASK;
                drop_bits!(entry);
                let mut entry_of_dist = dist[bits as usize & DIST];
                if entry_of_dist & SPECIAL != 0 {
                    if entry_of_dist & FURTHER != 0 {
                        let index =
                            (bits >> DIST_BITS) as usize & ((1 << (entry_of_dist & 0xff)) - 1);
                        entry_of_dist = dist_further[(entry_of_dist >> 16) as usize + index];
                    }
                    if entry_of_dist & SPECIAL != 0 {
                        break 'symbols Err(Fault::Corrupt);
                    }
                }
                let distance = value(entry_of_dist, bits);
                drop_bits!(entry_of_dist);
                let Some(from) = at.checked_sub(distance) else {
                    break 'symbols Err(Fault::Corrupt);
                };
                if from < oldest {
                    break 'symbols Err(Fault::Corrupt);
                }
                // While this one is copied the next is looked up.
                refill!();
                entry = litlen[bits as usize & LITLEN];
                copy(out, from, at, length);
                at += length;
                if next >= input_end || at >= OUTPUT_END {
                    break 'symbols Ok(false);
                }
            }
        };
        (self.bits, self.n_bits) = (bits, n_bits & 63);
        *input_next = next;
        output.at = at;
        outcome
    }
}

/// The length or distance of an entry with its further bits.
#[inline(always)]
fn value(entry: u32, bits: u64) -> usize {
    let further = (bits as u32 & MASKS[entry as usize & 31]) >> ((entry >> 8) & 31);
    (entry >> 16) as usize + further as usize
}

/// The lowest bits, by their number.
static MASKS: [u32; 32] = {
    let mut masks = [0; 32];
    let mut n = 0;
    while n < 32 {
        masks[n] = (1 << n) - 1;
        n += 1;
    }
    masks
};

#[inline(always)]
fn word(input: &Bytes, at: usize) -> u64 {
    u64::from_le_bytes(*input[at..].first_chunk().expect("it is padded"))
}

/// Copies a match, or some more than that.
#[inline(always)]
fn copy(out: &mut [u8; OUTPUT_END + SLACK], from: usize, to: usize, length: usize) {
    let distance = to - from;
    if distance >= RUN || distance >= length {
        copy_run(out, from, to);
        let mut done = RUN;
        while done < length {
            copy_run(out, from + done, to + done);
            done += RUN;
        }
    } else if distance == 1 {
        let byte = out[from];
        out[to..to + length].fill(byte);
    } else {
        let out = &mut out[from..to + length];
        for i in distance..out.len() {
            out[i] = out[i - distance];
        }
    }
}

#[inline(always)]
fn copy_run(out: &mut [u8; OUTPUT_END + SLACK], from: usize, to: usize) {
    let run: [u8; RUN] = *out[from..].first_chunk().expect("there is slack");
    *out[to..].first_chunk_mut().expect("there is slack") = run;
}
