//! The compressed bytes, some of them at a time.

use std::io::{self, Read};

/// How many bytes there can be at once. Most of it is read at a time: more than buffered readers pass on by way of their buffer.
const MOST: usize = 160 << 10;
/// So many are there, unless the input ends before: more than any header of a block has.
const ENOUGH: usize = 4 << 10;
/// So many bytes that were passed stay, to be gone back to: as many as a decoder takes at once.
const PASSED: usize = 8;
/// Zeros behind the end of the input, for words that are read across it.
const PADDING: usize = 64;

/// What of the input is in memory, and how to come by the rest.
pub(super) struct Input<R> {
    reader: R,
    pub(super) bytes: Box<Bytes>,
    /// The next byte. Behind the last one are zeros, and this may be beyond it.
    pub(super) next: usize,
    end: usize,
    is_all: bool,
    /// Offset in the input of the first byte that is here.
    offset: u64,
}

/// Room for them.
pub(super) type Bytes = [u8; MOST + PADDING];

impl<R: Read> Input<R> {
    pub(super) fn new(reader: R) -> Self {
        let bytes = vec![0; MOST + PADDING].into_boxed_slice();
        Self {
            reader,
            bytes: bytes.try_into().expect("it is so long"),
            next: 0,
            end: 0,
            is_all: false,
            offset: 0,
        }
    }

    /// Offset in the input of the next byte.
    pub(super) const fn position(&self) -> u64 {
        self.offset + self.next as u64
    }

    /// Where words of eight bytes cannot be taken from any longer: some bytes before the end of what is here, or beyond the end of
    /// the input.
    pub(super) fn limit(&self) -> usize {
        let limit = if self.is_all {
            self.end + 8
        } else {
            self.end.saturating_sub(24)
        };
        limit.min(MOST + 8)
    }

    /// How many of the bytes that are here were not passed.
    pub(super) const fn available(&self) -> usize {
        self.end.saturating_sub(self.next)
    }

    /// Where what is here ends.
    pub(super) const fn end(&self) -> usize {
        self.end
    }

    /// Whether there is nothing to be read any longer.
    pub(super) const fn is_all(&self) -> bool {
        self.is_all
    }

    /// Reads, if there is not enough of it here.
    pub(super) fn fill(&mut self) -> io::Result<()> {
        if self.available() >= ENOUGH || self.is_all {
            return Ok(());
        }
        let passed = self.next.saturating_sub(PASSED);
        self.bytes.copy_within(passed..self.end, 0);
        self.offset += passed as u64;
        self.next -= passed;
        self.end -= passed;
        while self.available() < ENOUGH && !self.is_all {
            match self.reader.read(&mut self.bytes[self.end..MOST]) {
                Ok(0) => {
                    self.is_all = true;
                    self.bytes[self.end..].fill(0);
                }
                Ok(length) => self.end += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next byte.
    pub(super) fn byte(&mut self) -> io::Result<Option<u8>> {
        self.fill()?;
        if self.available() == 0 {
            return Ok(None);
        }
        let byte = self.bytes[self.next];
        self.next += 1;
        Ok(Some(byte))
    }
}
