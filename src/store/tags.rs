//! Tags: names of images, the entries of `index.json`.
//!
//! Each name is an entry of its own with two annotations: `org.opencontainers.image.ref.name` has the short form, by
//! which `oci:ROOT:app:v1` finds the image, `io.containerd.image.name` the full one. Both are unique, since a short
//! form is short for one full name only. Entries of other programs, and what they say, are kept.
//!
//! Readers take no lock: the file is replaced by a rename. Writers hold `locks/index`.

use std::{fs, io};

use super::{
    Store, StoreError,
    error::At as _,
    lock::{FileLock, Hold},
};
use crate::{
    oci::{ANNOTATION_REF_NAME, Descriptor, Index, Manifest, to_json},
    reference::Reference,
};

/// The annotation by which containerd and Docker name an image of a layout.
pub const ANNOTATION_IMAGE_NAME: &str = "io.containerd.image.name";

/// The most indexes that are followed inside one another.
const MAX_INDEX_DEPTH: usize = 4;

/// A named image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// Its name, with a tag or a digest.
    pub reference: Reference,
    /// Its manifest or index, without the annotations that hold the name.
    pub descriptor: Descriptor,
}

impl Store {
    /// All named images, by name.
    pub fn tags(&self) -> Result<Vec<Tag>, StoreError> {
        let mut tags: Vec<Tag> = self
            .read_index()?
            .manifests
            .into_iter()
            .filter_map(as_tag)
            .collect();
        tags.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(tags)
    }

    /// The image with this name; `latest` is meant when it has neither tag nor digest.
    pub fn tag(&self, reference: &Reference) -> Result<Option<Descriptor>, StoreError> {
        let reference = reference.clone().with_default_tag();
        let found = self
            .read_index()?
            .manifests
            .into_iter()
            .filter_map(as_tag)
            .find(|tag| tag.reference == reference);
        Ok(found.map(|tag| tag.descriptor))
    }

    /// Gives an image these names, all at once; they are taken from other images. The image's blobs that are in the
    /// store, and the names, are on disk when this returns.
    pub fn set_tags(
        &self,
        references: &[Reference],
        descriptor: &Descriptor,
    ) -> Result<(), StoreError> {
        if references.is_empty() {
            return Ok(());
        }
        let blobs: Vec<_> = self
            .reachable(descriptor)?
            .iter()
            .map(|descriptor| descriptor.digest)
            .collect();
        self.sync_blobs(&blobs)?;
        let references: Vec<_> = references
            .iter()
            .map(|reference| reference.clone().with_default_tag())
            .collect();
        self.mark_images(&references)?;
        self.edit_index(|index| {
            index.manifests.retain(|entry| {
                as_tag(entry.clone()).is_none_or(|tag| !references.contains(&tag.reference))
            });
            for reference in &references {
                let mut entry = descriptor.clone();
                entry
                    .annotations
                    .insert(ANNOTATION_IMAGE_NAME.to_owned(), reference.to_string());
                entry
                    .annotations
                    .insert(ANNOTATION_REF_NAME.to_owned(), reference.familiar());
                index.manifests.push(entry);
            }
        })
    }

    /// Takes a name away; the image's blobs stay. Returns what it named.
    pub fn remove_tag(&self, reference: &Reference) -> Result<Option<Descriptor>, StoreError> {
        let reference = reference.clone().with_default_tag();
        self.mark_images(std::slice::from_ref(&reference))?;
        let mut removed = None;
        self.edit_index(|index| {
            index.manifests.retain(|entry| {
                let Some(tag) = as_tag(entry.clone()) else {
                    return true;
                };
                let matches = tag.reference == reference;
                if matches {
                    removed = Some(tag.descriptor);
                }
                !matches
            });
        })?;
        Ok(removed)
    }

    /// Marks what these names lead to as used, since they are about to be taken away: somebody who found an image by
    /// its name may be reading it.
    fn mark_images(&self, references: &[Reference]) -> Result<(), StoreError> {
        for tag in self.tags()? {
            if references.contains(&tag.reference) {
                for blob in self.reachable(&tag.descriptor)? {
                    self.has_blob(&blob.digest)?;
                }
            }
        }
        Ok(())
    }

    /// The image itself and all that it points to, each blob once: indexes, manifests, configs, layers. Documents
    /// that are not in the store are listed, but what they point to is not known.
    pub fn reachable(&self, root: &Descriptor) -> Result<Vec<Descriptor>, StoreError> {
        let mut found: Vec<Descriptor> = Vec::new();
        let mut todo = vec![(root.clone(), 0)];
        let mut seen = std::collections::BTreeSet::new();
        while let Some((descriptor, depth)) = todo.pop() {
            if !seen.insert(descriptor.digest) {
                continue;
            }
            let here = self.is_there(&descriptor.digest)?;
            if here && descriptor.media_type.is_manifest() {
                if let Ok(manifest) = self.peek_json::<Manifest>(&descriptor) {
                    todo.extend(manifest.layers.into_iter().rev().map(|d| (d, depth)));
                    todo.push((manifest.config, depth));
                }
            } else if here
                && descriptor.media_type.is_index()
                && depth < MAX_INDEX_DEPTH
                && let Ok(index) = self.peek_json::<Index>(&descriptor)
            {
                todo.extend(index.manifests.into_iter().rev().map(|d| (d, depth + 1)));
            }
            found.push(descriptor);
        }
        Ok(found)
    }

    /// Reads and parses a document. Digest and size are checked.
    pub fn read_json<T: serde::de::DeserializeOwned>(
        &self,
        descriptor: &Descriptor,
    ) -> Result<T, StoreError> {
        self.has_blob(&descriptor.digest)?;
        self.peek_json(descriptor)
    }

    /// [`Store::read_json`], which does not count as using the document.
    pub fn peek_json<T: serde::de::DeserializeOwned>(
        &self,
        descriptor: &Descriptor,
    ) -> Result<T, StoreError> {
        let bytes = self.peek_blob(descriptor)?;
        serde_json::from_slice(&bytes).map_err(|error| StoreError::Damaged {
            path: self.blob_path(&descriptor.digest),
            reason: error.to_string(),
        })
    }

    /// Takes the names away that `is_damaged` picks.
    pub fn remove_damaged_tags(
        &self,
        is_damaged: impl Fn(&Descriptor) -> bool,
    ) -> Result<(), StoreError> {
        self.edit_index(|index| index.manifests.retain(|entry| !is_damaged(entry)))
    }

    /// Puts an index that cannot be read aside, as `index.json.damaged`, and begins an empty one; whether that was
    /// needed.
    pub fn replace_damaged_index(&self) -> Result<bool, StoreError> {
        let _lock = FileLock::wait(&self.root.join("locks/index"), Hold::Exclusive)?;
        let path = self.root.join("index.json");
        match self.read_index() {
            Err(StoreError::Damaged { .. }) => {}
            other => return other.map(|_| false),
        }
        fs::rename(&path, self.root.join("index.json.damaged")).at("rename", &path)?;
        let empty = Index::new(Vec::new());
        self.workspace.replace_durably(&path, &to_json(&empty))?;
        Ok(true)
    }

    fn read_index(&self) -> Result<Index, StoreError> {
        let path = self.root.join("index.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Index::new(Vec::new()));
            }
            Err(error) => return Err(error).at("read", &path),
        };
        serde_json::from_slice(&bytes).map_err(|error| StoreError::Damaged {
            path,
            reason: error.to_string(),
        })
    }

    fn edit_index(&self, edit: impl FnOnce(&mut Index)) -> Result<(), StoreError> {
        let _lock = FileLock::wait(&self.root.join("locks/index"), Hold::Exclusive)?;
        let before = self.read_index()?;
        let mut after = before.clone();
        edit(&mut after);
        if before == after {
            return Ok(());
        }
        self.workspace
            .replace_durably(&self.root.join("index.json"), &to_json(&after))
    }
}

/// An entry of the index as a tag, if it has a name that is a reference.
fn as_tag(mut descriptor: Descriptor) -> Option<Tag> {
    let full = descriptor.annotations.remove(ANNOTATION_IMAGE_NAME);
    let short = descriptor.annotations.remove(ANNOTATION_REF_NAME);
    let reference = Reference::parse(&full.or(short)?).ok()?.with_default_tag();
    Some(Tag {
        reference,
        descriptor,
    })
}
