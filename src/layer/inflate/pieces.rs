//! Input in pieces that two threads can look at.

use std::{
    collections::VecDeque,
    io::{self, Read},
    sync::Arc,
};

/// Length of a piece but the last.
pub(super) const PIECE: usize = 1 << 20;
/// How many bytes of the next piece lie behind one: more than any header of a block has.
const TAIL: usize = 4 << 10;
/// Zeros behind all, for words that are read across the end.
const PADDING: usize = 64;

/// A part of the input.
pub(super) struct Piece {
    /// Its bytes, the first ones of the next piece, and some zeros.
    pub(super) bytes: Vec<u8>,
    /// How many bytes are its own.
    pub(super) length: usize,
    /// Whether it ends with the input.
    pub(super) is_last: bool,
}

/// Reads pieces from a reader.
pub(super) struct Pieces<R> {
    reader: R,
    ahead: VecDeque<Arc<Piece>>,
    /// How many pieces were dropped.
    first: u64,
    /// What was read of the next piece.
    tail: Vec<u8>,
    piece: usize,
    is_all: bool,
    failed: Option<io::Error>,
}

impl<R: Read> Pieces<R> {
    pub(super) fn new(reader: R, piece: usize) -> Self {
        Self {
            reader,
            ahead: VecDeque::new(),
            first: 0,
            tail: Vec::new(),
            piece,
            is_all: false,
            failed: None,
        }
    }

    /// The number of the first piece.
    pub(super) const fn number(&self) -> u64 {
        self.first
    }

    /// Offset in the input of the first piece.
    pub(super) const fn offset(&self) -> u64 {
        self.first * self.piece as u64
    }

    /// The first piece, once it was read.
    pub(super) fn current(&mut self) -> io::Result<&Arc<Piece>> {
        if self.ahead.is_empty() {
            self.read_up_to(1);
        }
        match (self.ahead.front(), &mut self.failed) {
            (Some(piece), _) => Ok(piece),
            (None, Some(error)) => {
                let kind = error.kind();
                Err(std::mem::replace(error, kind.into()))
            }
            (None, None) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The piece of this number and the one after it, if they were read.
    pub(super) fn pair(&self, number: u64) -> Option<[Arc<Piece>; 2]> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let one = |place| self.ahead.get(place).cloned();
        Some([one(place)?, one(place + 1)?])
    }

    /// Goes on to the next piece.
    pub(super) fn advance(&mut self) {
        self.ahead.pop_front();
        self.first += 1;
    }

    /// Reads until there are so many pieces, or all that there will be. Errors come when the piece is asked for.
    pub(super) fn read_up_to(&mut self, n_pieces: usize) {
        while self.ahead.len() < n_pieces && !self.is_all && self.failed.is_none() {
            match self.read() {
                Ok(piece) => self.ahead.push_back(Arc::new(piece)),
                Err(error) => self.failed = Some(error),
            }
        }
    }

    fn read(&mut self) -> io::Result<Piece> {
        let whole = self.piece + TAIL;
        let mut bytes = Vec::with_capacity(whole + PADDING);
        bytes.append(&mut self.tail);
        let missing = (whole - bytes.len()) as u64;
        (&mut self.reader).take(missing).read_to_end(&mut bytes)?;
        let is_last = bytes.len() < whole;
        let length = if is_last { bytes.len() } else { self.piece };
        self.tail.extend_from_slice(&bytes[length..]);
        self.is_all = is_last;
        bytes.resize(bytes.len() + PADDING, 0);
        Ok(Piece {
            bytes,
            length,
            is_last,
        })
    }
}
