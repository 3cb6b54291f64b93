//! Lists of images that are being joined: documents kept by name beside the images, until they are pushed.
//!
//! ```text
//! lists/HEX.json     HEX is the SHA-256 of the whole name
//! ```
//! What a list says is its owner's business. Files are replaced at once; a crash leaves the old one or the new one.

use std::{fs, io, path::PathBuf};

use super::{Store, StoreError, error::At as _, read_regular};
use crate::{oci::sha256, reference::Reference};

impl Store {
    /// Keeps a list under a name, in place of what had it.
    pub fn put_list(&self, name: &Reference, bytes: &[u8]) -> Result<(), StoreError> {
        let dir = self.root.join("lists");
        fs::create_dir_all(&dir).at("create", &dir)?;
        self.workspace.replace_durably(&self.list_path(name), bytes)
    }

    /// The list with this name; `None` when there is none.
    pub fn list(&self, name: &Reference) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.list_path(name);
        match read_regular(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("read", &path),
        }
    }

    fn list_path(&self, name: &Reference) -> PathBuf {
        let hex = sha256(name.to_string().as_bytes()).hex();
        self.root.join("lists").join(format!("{hex}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_kept_by_their_whole_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("store")).expect("a store");
        let name = |text: &str| Reference::parse(text).expect("valid");
        store.put_list(&name("a:1"), b"one").expect("kept");
        store.put_list(&name("a:1"), b"two").expect("kept");
        let list = |text| store.list(&name(text)).expect("readable");
        assert_eq!(list("docker.io/library/a:1").as_deref(), Some(&b"two"[..]));
        assert_eq!(list("a:2"), None);
    }
}
