//! Decodes blocks: from any bit at which one begins, into bytes, or into symbols where the bytes before are not known.

use super::{
    Fault, Piece,
    tables::{DIST_BITS, END, FURTHER, LITERAL, LITLEN_BITS, SPECIAL, Tables, code_lengths},
};

/// How far back a match can reach.
pub(super) const WINDOW: usize = 32 << 10;
/// What may be written beyond where decoding stops: two literals, the longest match, and the rest of a copied run.
pub(super) const SLACK: usize = 2 + 258 + RUN + 14;
/// Matches are copied by so many at once.
const RUN: usize = 16;
/// Symbols from here on stand for places in the window that nobody knows yet.
pub(super) const FIRST_UNKNOWN: u16 = 256;

/// What decoding gives: bytes, or [`FIRST_UNKNOWN`] and above for a byte of the window.
pub(super) trait Symbol: Copy {
    fn of(byte: u8) -> Self;
}

impl Symbol for u8 {
    #[inline(always)]
    fn of(byte: u8) -> Self {
        byte
    }
}

impl Symbol for u16 {
    #[inline(always)]
    fn of(byte: u8) -> Self {
        Self::from(byte)
    }
}

/// Why decoding stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// It is going on in the next piece.
    Input,
    /// There is no room for more.
    Room,
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

/// What has been written, and where the next symbol goes.
pub(super) struct Room<'a, T> {
    pub(super) symbols: &'a mut [T],
    pub(super) at: usize,
    /// The first one that matches can refer to.
    pub(super) oldest: usize,
}

/// A decoder between two symbols.
pub(super) struct Blocks {
    /// Offset in the piece of what is read next; `bits` holds what was read and not used.
    next: usize,
    bits: u64,
    n_bits: u32,
    place: Place,
    is_last: bool,
    tables: Tables,
}

impl Blocks {
    pub(super) fn new() -> Self {
        Self {
            next: 0,
            bits: 0,
            n_bits: 0,
            place: Place::Before,
            is_last: false,
            tables: Tables::new(),
        }
    }

    /// Goes to the beginning of a block.
    pub(super) fn seek(&mut self, piece: &Piece, bit: usize) {
        (self.next, self.bits, self.n_bits) = (bit / 8, 0, 0);
        self.place = Place::Before;
        self.refill(&piece.bytes);
        self.take((bit % 8) as u32);
    }

    /// Offset in the piece of the next bit.
    pub(super) const fn position(&self) -> usize {
        self.next * 8 - self.n_bits as usize
    }

    /// Goes on in the piece behind the one that it has been at, which was so long.
    pub(super) const fn next_piece(&mut self, length: usize) {
        self.next -= length;
    }

    pub(super) fn is_between_blocks(&self) -> bool {
        self.place == Place::Before
    }

    #[inline(always)]
    fn refill(&mut self, input: &[u8]) {
        self.bits |= word(input, self.next) << self.n_bits;
        self.next += ((63 - self.n_bits) >> 3) as usize;
        self.n_bits |= 0b11_1000;
    }

    #[inline(always)]
    const fn take(&mut self, n: u32) -> u32 {
        let value = self.bits & ((1 << n) - 1);
        self.bits >>= n;
        self.n_bits -= n;
        value as u32
    }

    /// Decodes until something ends.
    pub(super) fn run<T: Symbol>(
        &mut self,
        piece: &Piece,
        room: &mut Room<'_, T>,
    ) -> Result<Stop, Fault> {
        let outcome = self.run_block(piece, room);
        if piece.is_last && self.position() > piece.length * 8 {
            return Err(Fault::Truncated);
        }
        outcome
    }

    fn run_block<T: Symbol>(
        &mut self,
        piece: &Piece,
        room: &mut Room<'_, T>,
    ) -> Result<Stop, Fault> {
        if self.place == Place::Before {
            if !piece.is_last && self.position() >= piece.length * 8 {
                return Ok(Stop::Input);
            }
            self.begin(piece)?;
        }
        let stop = match self.place {
            Place::Stored(left) => self.copy_stored(left, piece, room),
            Place::Coded | Place::Before => self.decode(piece, room)?,
        };
        if let Some(stop) = stop {
            return Ok(stop);
        }
        self.place = Place::Before;
        Ok(if self.is_last {
            Stop::Stream
        } else {
            Stop::Block
        })
    }

    /// Some of a block that is not compressed.
    fn copy_stored<T: Symbol>(
        &mut self,
        left: usize,
        piece: &Piece,
        room: &mut Room<'_, T>,
    ) -> Option<Stop> {
        let space = (room.symbols.len() - SLACK).saturating_sub(room.at);
        let available = piece.length.saturating_sub(self.next);
        let length = left.min(space).min(available);
        let from = &piece.bytes[self.next..self.next + length];
        let to = &mut room.symbols[room.at..room.at + length];
        for (to, from) in to.iter_mut().zip(from) {
            *to = T::of(*from);
        }
        room.at += length;
        self.next += length;
        self.place = Place::Stored(left - length);
        if length == left {
            None
        } else if space > length {
            if piece.is_last {
                // There is no more, which the caller's look at the position tells.
                self.next = piece.length + 8;
            }
            Some(Stop::Input)
        } else {
            Some(Stop::Room)
        }
    }

    /// Reads the header of a block. Pieces have some of the next one's bytes behind them, more than any header takes.
    pub(super) fn begin(&mut self, piece: &Piece) -> Result<(), Fault> {
        const ORDER: [usize; 19] = [
            16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
        ];
        let input = &piece.bytes[..];
        if piece.is_last && self.next > piece.length + 8 {
            return Err(Fault::Truncated);
        }
        self.refill(input);
        self.is_last = self.take(1) != 0;
        match self.take(2) {
            0 => {
                self.take(self.n_bits % 8);
                if self.n_bits < 32 {
                    self.refill(input);
                }
                let (length, inverse) = (self.take(16), self.take(16));
                if length != !inverse & 0xffff {
                    return Err(Fault::Corrupt);
                }
                self.next -= (self.n_bits / 8) as usize;
                (self.bits, self.n_bits) = (0, 0);
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
                        self.refill(input);
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
                        if piece.is_last && self.next > piece.length + 8 {
                            return Err(Fault::Truncated);
                        }
                        self.refill(input);
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

    /// Decodes symbols of a block; `None` when it ended.
    #[inline(never)]
    fn decode<T: Symbol>(
        &mut self,
        piece: &Piece,
        room: &mut Room<'_, T>,
    ) -> Result<Option<Stop>, Fault> {
        const LITLEN: usize = (1 << LITLEN_BITS) - 1;
        const DIST: usize = (1 << DIST_BITS) - 1;
        let input = &piece.bytes[..];
        // Eight bytes further, so that none of the bits that are left are before the next piece. Behind the last one are zeros, and
        // who takes these for symbols is found out.
        let input_end = piece.length + 8;
        let out = &mut *room.symbols;
        let out_end = out.len() - SLACK;
        let litlen = &*self.tables.litlen;
        let dist = &*self.tables.dist;
        let litlen_further = &self.tables.litlen_further[..];
        let dist_further = &self.tables.dist_further[..];
        let (mut next, mut bits, mut n_bits) = (self.next, self.bits, self.n_bits);
        let mut at = room.at;
        macro_rules! refill {
            () => {
                bits |= word(input, next) << n_bits;
                next += ((63 - n_bits) >> 3) as usize;
                n_bits |= 0b11_1000;
            };
        }
        macro_rules! drop_bits {
            ($n:expr) => {
                let n = $n & 63;
                bits >>= n;
                n_bits -= n;
            };
        }
        let stop = 'symbols: loop {
            if next >= input_end {
                break Some(Stop::Input);
            }
            if at >= out_end {
                break Some(Stop::Room);
            }
            refill!();
            let mut entry = litlen[bits as usize & LITLEN];
            loop {
                if entry & LITERAL != 0 {
                    let first = T::of((entry >> 16) as u8);
                    drop_bits!(entry);
                    entry = litlen[bits as usize & LITLEN];
                    if entry & LITERAL == 0 {
                        out[at] = first;
                        at += 1;
                    } else {
                        let second = T::of((entry >> 16) as u8);
                        drop_bits!(entry);
                        entry = litlen[bits as usize & LITLEN];
                        let three: &mut [T; 3] =
                            out[at..].first_chunk_mut().expect("there is slack");
                        three[0] = first;
                        three[1] = second;
                        if entry & LITERAL != 0 {
                            three[2] = T::of((entry >> 16) as u8);
                            drop_bits!(entry);
                            at += 3;
                            continue 'symbols;
                        }
                        at += 2;
                    }
                    refill!();
                }
                if entry & SPECIAL != 0 {
                    if entry & FURTHER != 0 {
                        let index = (bits >> LITLEN_BITS) as usize & ((1 << (entry & 0xff)) - 1);
                        entry = litlen_further[(entry >> 16) as usize + index];
                        if entry & LITERAL != 0 {
                            out[at] = T::of((entry >> 16) as u8);
                            at += 1;
                            drop_bits!(entry);
                            continue 'symbols;
                        }
                    }
                    if entry & SPECIAL != 0 {
                        if entry & END == 0 {
                            return Err(Fault::Corrupt);
                        }
                        drop_bits!(entry);
                        break 'symbols None;
                    }
                }
                let length = value(entry, bits);
                drop_bits!(entry);
                let mut entry_of_dist = dist[bits as usize & DIST];
                if entry_of_dist & SPECIAL != 0 {
                    if entry_of_dist & FURTHER != 0 {
                        let index =
                            (bits >> DIST_BITS) as usize & ((1 << (entry_of_dist & 0xff)) - 1);
                        entry_of_dist = dist_further[(entry_of_dist >> 16) as usize + index];
                    }
                    if entry_of_dist & SPECIAL != 0 {
                        return Err(Fault::Corrupt);
                    }
                }
                let distance = value(entry_of_dist, bits);
                drop_bits!(entry_of_dist);
                if distance + room.oldest > at {
                    return Err(Fault::Corrupt);
                }
                let goes_on = next < input_end && at + length < out_end;
                if goes_on {
                    // While this one is copied the next is looked up.
                    refill!();
                    entry = litlen[bits as usize & LITLEN];
                }
                copy(out, at, distance, length);
                at += length;
                if !goes_on {
                    continue 'symbols;
                }
            }
        };
        (self.next, self.bits, self.n_bits) = (next, bits, n_bits);
        room.at = at;
        Ok(stop)
    }
}

/// The length or distance of an entry with its further bits.
#[inline(always)]
const fn value(entry: u32, bits: u64) -> usize {
    let further = (bits & ((1 << (entry & 63)) - 1)) >> ((entry >> 8) & 31);
    (entry >> 16) as usize + further as usize
}

#[inline(always)]
fn word(input: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*input[at..].first_chunk().expect("pieces are padded"))
}

/// Copies a match, or some more than that.
#[inline(always)]
fn copy<T: Symbol>(out: &mut [T], at: usize, distance: usize, length: usize) {
    let from = at - distance;
    if distance >= RUN {
        for done in (0..length).step_by(RUN) {
            let run: [T; RUN] = *out[from + done..].first_chunk().expect("there is slack");
            *out[at + done..].first_chunk_mut().expect("there is slack") = run;
        }
    } else if distance == 1 {
        let run = [out[from]; RUN];
        for done in (0..length).step_by(RUN) {
            *out[at + done..].first_chunk_mut().expect("there is slack") = run;
        }
    } else {
        let out = &mut out[from..at + length];
        for i in distance..out.len() {
            out[i] = out[i - distance];
        }
    }
}
