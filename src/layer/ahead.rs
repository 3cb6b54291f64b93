//! Reading ahead: one thread decompresses, one may hash, and another takes the bytes. They pass on the same few buffers, so
//! nothing is copied and memory is not asked for anew.

use std::{
    io::{self, BufRead, Read},
    sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    thread::{self, ScopedJoinHandle},
};

use crate::oci::{Digest, Digester};

/// How many bytes travel at once. Decompressors write 32 KiB twice for each piece that they are asked for.
const CHUNK: usize = 256 << 10;
/// How many at first: most layers are small. It doubles from there.
const FIRST_CHUNK: usize = 16 << 10;
/// How many chunks wait at most for each thread.
const WAITING: usize = 4;

type Chunk = io::Result<Vec<u8>>;

/// What a thread has hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hashed {
    pub(super) digest: Digest,
    pub(super) length: u64,
}

/// Calls `take` with a reader of the same bytes, which `reader` gives on a thread of its own. Gives `reader` back; it has been
/// read to its end if the other one was.
pub fn read_ahead<R: Read + Send, T>(reader: R, take: impl FnOnce(&mut ReadAhead) -> T) -> (T, R) {
    thread::scope(|scope| {
        let (sender, chunks) = sync_channel(WAITING);
        let (spares, returned) = channel();
        let pump = scope.spawn(|| pump(reader, sender, returned));
        let taken = take_all(chunks, spares, take);
        (taken, join(pump))
    })
}

/// [`read_ahead`] that also hashes all bytes up to the last that were taken, or some further.
pub(super) fn read_ahead_hashed<R: Read + Send, T>(
    reader: R,
    take: impl FnOnce(&mut ReadAhead) -> T,
) -> (T, R, Hashed) {
    thread::scope(|scope| {
        let (sender, unhashed) = sync_channel(WAITING);
        let (onward, chunks) = sync_channel(WAITING);
        let (spares, returned) = channel();
        let pump = scope.spawn(|| pump(reader, sender, returned));
        let hash = scope.spawn(|| hash(unhashed, onward));
        let taken = take_all(chunks, spares, take);
        let hashed = join(hash);
        (taken, join(pump), hashed)
    })
}

/// Each thread ends when the one after it does, so this one lets go before anybody waits.
fn take_all<T>(
    chunks: Receiver<Chunk>,
    spares: Sender<Vec<u8>>,
    take: impl FnOnce(&mut ReadAhead) -> T,
) -> T {
    take(&mut ReadAhead {
        chunks,
        spares,
        chunk: Vec::new(),
        used: 0,
        position: 0,
    })
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Reads until the end, an error, or until nobody listens. The last chunk is empty or an error.
fn pump<R: Read>(mut reader: R, sender: SyncSender<Chunk>, returned: Receiver<Vec<u8>>) -> R {
    let mut size = FIRST_CHUNK;
    loop {
        let mut chunk = returned.try_recv().unwrap_or_default();
        let read = fill(&mut reader, &mut chunk, size);
        size = (2 * size).min(CHUNK);
        let ended = chunk.is_empty() || read.is_err();
        if sender.send(read.map(|()| chunk)).is_err() || ended {
            drop((sender, returned));
            return reader;
        }
    }
}

/// Makes it the next `size` bytes, or what is left.
fn fill(reader: &mut impl Read, chunk: &mut Vec<u8>, size: usize) -> io::Result<()> {
    // Nearly all buffers come back as long as this, so it writes nothing.
    chunk.resize(size, 0);
    let mut filled = 0;
    while filled < size {
        match reader.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    chunk.truncate(filled);
    Ok(())
}

/// Hashes what goes by.
fn hash(from: Receiver<Chunk>, to: SyncSender<Chunk>) -> Hashed {
    let (mut digester, mut length) = (Digester::new(), 0);
    for chunk in &from {
        if let Ok(bytes) = &chunk {
            digester.update(bytes);
            length += bytes.len() as u64;
        }
        if to.send(chunk).is_err() {
            break;
        }
    }
    drop((from, to));
    let digest = digester.finish();
    Hashed { digest, length }
}

/// What another thread reads.
#[derive(Debug)]
pub struct ReadAhead {
    chunks: Receiver<Chunk>,
    /// Takes back what was used up.
    spares: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    used: usize,
    position: u64,
}

impl ReadAhead {
    /// How many bytes were taken.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Passes over bytes up to a position further on.
    pub fn skip_to(&mut self, position: u64) -> io::Result<()> {
        while self.position < position {
            let available = self.fill_buf()?.len();
            if available == 0 {
                break;
            }
            let missing = usize::try_from(position - self.position).unwrap_or(usize::MAX);
            self.consume(available.min(missing));
        }
        Ok(())
    }
}

impl BufRead for ReadAhead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.chunk.len() {
            // The sender ends with an empty chunk or an error; after that there is nothing.
            let next = self.chunks.recv().unwrap_or_else(|_| Ok(Vec::new()))?;
            let used = std::mem::replace(&mut self.chunk, next);
            // Nobody needs it at the end.
            self.spares.send(used).ok();
            self.used = 0;
        }
        Ok(&self.chunk[self.used..])
    }

    fn consume(&mut self, length: usize) {
        self.used += length;
        self.position += length as u64;
    }
}

impl Read for ReadAhead {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(out.len());
        out[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use crate::oci::sha256;

    use super::*;

    fn bytes() -> Vec<u8> {
        (0..400_000_u32).flat_map(u32::to_le_bytes).collect()
    }

    #[test]
    fn all_bytes_come_in_order_and_are_hashed() {
        let bytes = bytes();
        let (taken, rest, hashed) = read_ahead_hashed(&bytes[..], |ahead| {
            let mut taken = Vec::new();
            ahead.read_to_end(&mut taken).map(|_| taken)
        });
        assert!(taken.unwrap() == bytes && rest.is_empty());
        assert_eq!(hashed.digest, sha256(&bytes));
        assert_eq!(hashed.length, bytes.len() as u64);
    }

    #[test]
    fn bytes_are_passed_over_up_to_a_position() {
        let bytes = bytes();
        let (found, _rest) = read_ahead(&bytes[..], |ahead| {
            let mut four = [0; 4];
            ahead.skip_to(1_200_000).unwrap();
            ahead.read_exact(&mut four).unwrap();
            assert_eq!(ahead.position(), 1_200_004);
            ahead.skip_to(u64::MAX).unwrap();
            (four, ahead.position())
        });
        assert_eq!(found, (300_000_u32.to_le_bytes(), bytes.len() as u64));
    }

    #[test]
    fn who_stops_early_is_not_waited_for() {
        let endless = io::repeat(7);
        let (taken, _reader, hashed) = read_ahead_hashed(endless, |ahead| {
            ahead.skip_to(3_000_000).map(|()| ahead.position())
        });
        assert_eq!(taken.unwrap(), 3_000_000);
        assert!(hashed.length >= 3_000_000);
    }

    #[test]
    fn an_error_comes_after_the_chunks_before_it() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        let reader = io::repeat(7).take(FIRST_CHUNK as u64).chain(Broken);
        let ((position, error), _reader) = read_ahead(reader, |ahead| {
            let error = ahead.skip_to(u64::MAX).unwrap_err();
            (ahead.position(), error.kind())
        });
        assert_eq!(position, FIRST_CHUNK as u64);
        assert_eq!(error, io::ErrorKind::ConnectionReset);
    }
}
