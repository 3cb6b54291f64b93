//! Tags: names of images, the entries of `index.json`.
//!
//! Each name is an entry of its own with two annotations: `org.opencontainers.image.ref.name` has the short form, by
//! which `oci:ROOT:app:v1` finds the image, `io.containerd.image.name` the full one. Both are unique, since a short
//! form is short for one full name only. Entries of other programs, and what they say, are kept.
//!
//! Readers take no lock: the file is replaced by a rename. Writers hold `locks/index`.

use std::{collections::BTreeSet, fs, io};

use super::{
    Store, StoreError,
    error::At as _,
    lock::{FileLock, Hold},
    read_regular,
};
use crate::{
    oci::{ANNOTATION_REF_NAME, Descriptor, Index, Manifest, to_json},
    reference::{DOCKER_IO, Reference},
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
        let names = Names::of(std::slice::from_ref(reference));
        let mut entries = self.read_index()?.manifests.into_iter();
        let found = entries.find(|entry| names.has(entry)).and_then(as_tag);
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
        let names = Names::of(references);
        self.edit_index(|index| {
            let before = take(index, &names);
            let mut new = Vec::with_capacity(references.len());
            for reference in references {
                let reference = reference.clone().with_default_tag();
                let mut entry = descriptor.clone();
                entry
                    .annotations
                    .insert(ANNOTATION_IMAGE_NAME.to_owned(), reference.to_string());
                entry
                    .annotations
                    .insert(ANNOTATION_REF_NAME.to_owned(), reference.familiar());
                new.push(entry);
            }
            let is_same = before == new;
            self.mark_images(before.into_iter().filter_map(as_tag))?;
            index.manifests.extend(new);
            Ok(!is_same)
        })
    }

    /// Takes names away, all at once; the images' blobs stay. Gives what they named.
    pub fn remove_tags(&self, references: &[Reference]) -> Result<Vec<Tag>, StoreError> {
        let names = Names::of(references);
        let mut removed = Vec::new();
        self.edit_index(|index| {
            removed = take(index, &names).into_iter().filter_map(as_tag).collect();
            self.mark_images(removed.iter().cloned())?;
            Ok(!removed.is_empty())
        })?;
        Ok(removed)
    }

    /// Marks what names lead to as used, since they are about to be taken away: somebody who found an image by its name may
    /// be reading it.
    fn mark_images(&self, tags: impl Iterator<Item = Tag>) -> Result<(), StoreError> {
        let mut seen = BTreeSet::new();
        for tag in tags {
            if !seen.insert(tag.descriptor.digest) {
                continue;
            }
            for blob in self.reachable(&tag.descriptor)? {
                self.has_blob(&blob.digest)?;
            }
        }
        Ok(())
    }

    /// The image itself and all that it points to, each blob once: indexes, manifests, configs, layers. Documents
    /// that are not in the store are listed, but what they point to is not known.
    pub fn reachable(&self, root: &Descriptor) -> Result<Vec<Descriptor>, StoreError> {
        let mut found: Vec<Descriptor> = Vec::new();
        let mut todo = vec![(root.clone(), 0)];
        let mut seen = BTreeSet::new();
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
        self.edit_index(|index| {
            let before = index.manifests.len();
            index.manifests.retain(|entry| !is_damaged(entry));
            Ok(index.manifests.len() != before)
        })
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
        let bytes = match read_regular(&path) {
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

    /// Changes the index; `edit` says whether it did.
    fn edit_index(
        &self,
        edit: impl FnOnce(&mut Index) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let _lock = FileLock::wait(&self.root.join("locks/index"), Hold::Exclusive)?;
        let mut index = self.read_index()?;
        if !edit(&mut index)? {
            return Ok(());
        }
        self.workspace
            .replace_durably(&self.root.join("index.json"), &to_json(&index))
    }
}

/// Takes the entries with these names out of an index.
fn take(index: &mut Index, names: &Names) -> Vec<Descriptor> {
    index
        .manifests
        .extract_if(.., |entry| names.has(entry))
        .collect()
}

/// Names that are looked for among the entries of an index. There may be thousands of both.
struct Names(BTreeSet<String>);

impl Names {
    fn of(references: &[Reference]) -> Self {
        let full = |reference: &Reference| reference.clone().with_default_tag().to_string();
        Self(references.iter().map(full).collect())
    }

    fn has(&self, entry: &Descriptor) -> bool {
        let full = entry.annotations.get(ANNOTATION_IMAGE_NAME);
        match full {
            // Reading a name takes longer than all else that is done with its entry.
            Some(full) if is_in_full(full) => self.0.contains(full),
            _ => name(entry).is_some_and(|name| self.0.contains(&name.to_string())),
        }
    }
}

/// Whether a text is the whole form of a reference, if it is one: then no other reference has it.
fn is_in_full(text: &str) -> bool {
    let Some((registry, rest)) = text.split_once('/') else {
        return false;
    };
    let last = rest.rsplit('/').next().unwrap_or(rest);
    let is_host = registry == "localhost" || registry.contains(['.', ':']);
    let is_whole = match registry {
        "index.docker.io" => false,
        DOCKER_IO => rest.contains('/'),
        _ => true,
    };
    is_host && is_whole && last.contains([':', '@'])
}

/// The name that an entry has, if that is a reference.
fn name(entry: &Descriptor) -> Option<Reference> {
    let annotations = &entry.annotations;
    let text = annotations
        .get(ANNOTATION_IMAGE_NAME)
        .or_else(|| annotations.get(ANNOTATION_REF_NAME))?;
    Some(Reference::parse(text).ok()?.with_default_tag())
}

/// An entry of the index as a tag, if it has a name.
fn as_tag(mut descriptor: Descriptor) -> Option<Tag> {
    let reference = name(&descriptor)?;
    descriptor.annotations.remove(ANNOTATION_IMAGE_NAME);
    descriptor.annotations.remove(ANNOTATION_REF_NAME);
    Some(Tag {
        reference,
        descriptor,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_are_compared_as_texts() {
        for text in [
            "docker.io/library/app:v1",
            "localhost/app:v1",
            "localhost:5000/a/b@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "app",
            "app:v1",
            "library/app:v1",
            "user/app:v1",
            "docker.io/app:v1",
            "docker.io/library/app",
            "index.docker.io/library/app:v1",
            "ghcr.io/x/app",
            "ghcr.io/x/app:v1",
        ] {
            let whole = Reference::parse(text).expect("valid").with_default_tag();
            assert_eq!(is_in_full(text), whole.to_string() == text, "{text}");
        }
    }
}
