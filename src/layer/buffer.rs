//! Buffers that go round: the bytes of a member, those of the tar and those of the blob, are let go by the thread that writes the
//! blob, and their room is taken up by those that make the next ones. A new buffer of a mebibyte costs the kernel 256 page faults, and whoever reads
//! into it 1 MiB of zeros, so that nobody sees what was there before.

use std::{
    io,
    ops::Deref,
    sync::{Mutex, PoisonError},
};

/// A buffer that holds more is let go after use: few members are so long.
const MOST_KEPT: usize = 1280 << 10;
/// No more than this is kept of buffers that nobody uses.
const MOST_UNUSED: usize = 3 << 20;

/// Bytes, and behind them room that was written to before.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    length: usize,
}

impl Buffer {
    /// Appends.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// Has `fill` write to up to `wanted` bytes after the end, and say how many they were.
    pub(super) fn extend_with(
        &mut self,
        wanted: usize,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let used = fill(self.room(wanted))?.min(wanted);
        self.length += used;
        Ok(used)
    }

    fn room(&mut self, wanted: usize) -> &mut [u8] {
        let end = self.length + wanted;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.length..end]
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Buffers that nobody uses at the moment.
#[derive(Debug, Default)]
pub(super) struct Buffers(Mutex<Vec<Buffer>>);

impl Buffers {
    /// An empty one that will hold as many bytes.
    pub(super) fn take(&self, length: u64) -> Buffer {
        let length = usize::try_from(length).unwrap_or(0);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |buffer: &Buffer| buffer.bytes.capacity() >= length;
        let fitting = (0..kept.len())
            .filter(|&at| fits(&kept[at]))
            .min_by_key(|&at| kept[at].bytes.capacity());
        if let Some(at) = fitting {
            return kept.swap_remove(at);
        }
        // One that is too small would only add to the memory.
        kept.pop();
        Buffer {
            bytes: Vec::with_capacity(length),
            length: 0,
        }
    }

    /// Takes one back.
    pub(super) fn put(&self, mut buffer: Buffer) {
        if buffer.bytes.capacity() > MOST_KEPT {
            return;
        }
        buffer.length = 0;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let unused: usize = kept.iter().map(|buffer| buffer.bytes.capacity()).sum();
        if unused + buffer.bytes.capacity() <= MOST_UNUSED {
            kept.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_last_use_is_seen() {
        let buffers = Buffers::default();
        let mut first = buffers.take(13);
        first.extend(b"the first use");
        buffers.put(first);
        let mut second = buffers.take(3);
        assert_eq!(*second, *b"");
        let used = second.extend_with(100, |room| {
            assert_eq!(room.len(), 100);
            room[..2].copy_from_slice(b"ab");
            Ok(2)
        });
        assert_eq!(used.unwrap(), 2);
        second.extend(b"c");
        assert_eq!(*second, *b"abc");
    }
}
