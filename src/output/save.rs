//! Images of the store as archives: what `save` does.

use std::io::Write;

use super::{
    ArchiveFormat, Dest, OutputError,
    archive::{Contents, Named},
};
use crate::{oci::Descriptor, reference::Reference, store::Store};

/// An image of the store, for an archive.
#[derive(Debug, Clone)]
pub struct SavedImage {
    /// Its manifest or index.
    pub descriptor: Descriptor,
    /// The names it has in the archive; it may have none.
    pub names: Vec<Reference>,
}

/// Writes images as one archive. All their blobs have to be in the store. `now` dates the entries of the index, in seconds since 1970.
pub fn save(
    store: &Store,
    images: &[SavedImage],
    format: ArchiveFormat,
    dest: &Dest,
    now: i64,
    stdout: &mut dyn Write,
) -> Result<(), OutputError> {
    let named: Vec<Named> = images
        .iter()
        .map(|image| Named {
            root: image.descriptor.clone(),
            names: image
                .names
                .iter()
                .map(|name| name.clone().with_default_tag())
                .collect(),
        })
        .collect();
    let contents = Contents::new(store, &named, format, &super::rfc3339(now))?;
    super::write_archive(&contents, store, dest, true, stdout)
}
