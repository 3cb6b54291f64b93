//! Layers of an image that leave while the build still goes on: who sends them somewhere learns of them here.
//!
//! A step that will probably make a layer that begins as the one of last time lets that beginning leave at once, before it is
//! known what all the files are. Should the step turn out to be in the cache, or the layer to begin otherwise, it is taken back;
//! it has no bytes of files that the context does not have any more, or leaves out now.

use std::{
    fs::File,
    io::{self, Write},
};

use crate::{
    layer::{BlobSink, Compression, LayerBlob, unchanged_start},
    oci::Descriptor,
    store::{BlobFile, Follower, HeadStart, StoreError},
};

/// A layer with more bytes than this may leave before it is whole.
const LARGE_BYTES: u64 = 16 << 20;

/// Told of the layers of an image while steps make them. What it is told may come to nothing: the step fails, or turns out
/// to make what it made before.
pub trait Departures: Sync {
    /// A layer is being made.
    fn expected(&self);

    /// It has grown large, or will; the reader gives all of it, as it is written.
    fn growing(&self, layer: Follower);

    /// It belongs to the image, and its blob is in the store.
    fn made(&self, layer: &Descriptor);
}

/// Lets the beginning of a layer leave that will probably be as the earlier one for so many bytes of the tar. `None` when that
/// is little.
pub(super) fn head_start(
    departures: &dyn Departures,
    earlier: &LayerBlob,
    before: u64,
    compression: Compression,
) -> Option<HeadStart> {
    let (file, length) = unchanged_start(earlier, before, compression)?;
    if length <= LARGE_BYTES {
        return None;
    }
    let (start, follower) = HeadStart::new(file, length).ok()?;
    departures.expected();
    departures.growing(follower);
    Some(start)
}

/// Writes a layer's blob, and tells of it.
pub(super) struct Announced<'a> {
    blob: BlobFile<'a>,
    /// `None` when there is nobody to tell, or no more to be told.
    departures: Option<&'a dyn Departures>,
    /// What has left already, until it is known whether the blob begins so.
    head_start: Option<HeadStart>,
}

impl<'a> Announced<'a> {
    pub(super) fn new(
        blob: BlobFile<'a>,
        departures: Option<&'a dyn Departures>,
        head_start: Option<HeadStart>,
    ) -> Self {
        if let Some(departures) = departures.filter(|_| head_start.is_none()) {
            departures.expected();
        }
        Self {
            blob,
            departures,
            head_start,
        }
    }

    pub(super) fn commit(self, digest: &crate::oci::Digest) -> Result<(), StoreError> {
        self.blob.commit(digest)
    }
}

impl Write for Announced<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // It would have arrived before any other bytes.
        drop(self.head_start.take());
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

impl BlobSink for Announced<'_> {
    fn start_as(&mut self, earlier: &File, length: u64) -> io::Result<()> {
        self.blob.start_as(earlier, length)?;
        if let Some(start) = self.head_start.take()
            && self.blob.lead_on(start)?
        {
            self.departures = None;
        }
        Ok(())
    }
}
