//! Reading ahead: one thread decompresses while another takes the bytes.

use std::{
    io::{self, Read},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

/// How many bytes travel at once, and how many chunks wait at most.
const CHUNK: usize = 256 << 10;
const WAITING: usize = 8;

/// Calls `take` with a reader of the same bytes, which `reader` gives on a thread of its own. Gives `reader` back; it has been
/// read to its end if the other one was.
pub fn read_ahead<R: Read + Send, T>(
    mut reader: R,
    take: impl FnOnce(&mut ReadAhead) -> T,
) -> (T, R) {
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(WAITING);
        let pump = scope.spawn(move || {
            pump(&mut reader, &sender);
            reader
        });
        let mut ahead = ReadAhead {
            chunks: receiver,
            chunk: Vec::new(),
            used: 0,
            position: 0,
        };
        let taken = take(&mut ahead);
        // The other side ends when nobody listens.
        drop(ahead);
        let reader = pump
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (taken, reader)
    })
}

/// Reads until the end, an error, or until nobody listens.
fn pump(reader: &mut impl Read, sender: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let read = reader.take(CHUNK as u64).read_to_end(&mut chunk);
        let ended = chunk.is_empty() || read.is_err();
        if sender.send(read.map(|_| chunk)).is_err() || ended {
            return;
        }
    }
}

/// What another thread reads.
#[derive(Debug)]
pub struct ReadAhead {
    chunks: Receiver<io::Result<Vec<u8>>>,
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
        let missing = position.saturating_sub(self.position);
        io::copy(&mut self.take(missing), &mut io::sink())?;
        Ok(())
    }
}

impl Read for ReadAhead {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.used == self.chunk.len() {
            // The sender ends with an empty chunk or an error; after that there is nothing.
            self.chunk = self.chunks.recv().unwrap_or_else(|_| Ok(Vec::new()))?;
            self.used = 0;
        }
        let available = &self.chunk[self.used..];
        let length = available.len().min(out.len());
        out[..length].copy_from_slice(&available[..length]);
        self.used += length;
        self.position += length as u64;
        Ok(length)
    }
}
