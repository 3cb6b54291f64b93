//! Layers of an image that leave while the build still goes on: who sends them somewhere learns of them here.

use std::io::{self, Write};

use crate::{
    oci::Descriptor,
    store::{BlobFile, Follower, StoreError},
};

/// A layer with more bytes than this may leave before it is whole.
const LARGE_BYTES: u64 = 16 << 20;

/// Told of the layers of an image while steps make them. What it is told may come to nothing: the step fails, or turns out
/// to make what it made before.
pub trait Departures: Sync {
    /// A layer is being made.
    fn expected(&self);

    /// It has grown large; the reader gives all of it, as it is written.
    fn growing(&self, layer: Follower);

    /// It belongs to the image, and its blob is in the store.
    fn made(&self, layer: &Descriptor);
}

/// Writes a layer's blob, and tells of it.
pub(super) struct Announced<'a> {
    blob: BlobFile<'a>,
    /// `None` when there is nobody to tell, or no more to be told.
    departures: Option<&'a dyn Departures>,
}

impl<'a> Announced<'a> {
    pub(super) fn new(blob: BlobFile<'a>, departures: Option<&'a dyn Departures>) -> Self {
        if let Some(departures) = departures {
            departures.expected();
        }
        Self { blob, departures }
    }

    pub(super) fn commit(self, digest: &crate::oci::Digest) -> Result<(), StoreError> {
        self.blob.commit(digest)
    }
}

impl Write for Announced<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.blob.write(bytes)?;
        if self.blob.size() > LARGE_BYTES
            && let Some(departures) = self.departures.take()
            // Else it leaves once it is whole.
            && let Ok(follower) = self.blob.follow()
        {
            departures.growing(follower);
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.blob.flush()
    }
}
