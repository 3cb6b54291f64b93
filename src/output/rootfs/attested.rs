//! What is said about the files of an image, as files beside them: `sbom.spdx.json`, `provenance.json`.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{OutputError, tree_error};
use crate::{
    oci::{Digest, sha256},
    output::attestation::Statement,
    tree::{Kind, Metadata, Node, Timestamp, Tree, TreeError},
};

/// A tree with a few more files in its root directory, which go before its own of the same names.
pub(super) struct Attested {
    tree: Arc<dyn Tree>,
    files: BTreeMap<OsString, Vec<u8>>,
    made: Timestamp,
}

impl Attested {
    /// The tree with what these statements, each with the name of its file, say about all its regular files.
    pub(super) fn beside(
        tree: Arc<dyn Tree>,
        statements: &[(String, Statement)],
        made: Timestamp,
    ) -> Result<Arc<dyn Tree>, OutputError> {
        if statements.is_empty() {
            return Ok(tree);
        }
        let mut subjects = Vec::new();
        subject(&*tree, Path::new(""), &mut subjects).map_err(tree_error)?;
        let mut files = BTreeMap::new();
        for (name, statement) in statements {
            let bytes = serde_json::to_vec_pretty(&statement.about(&subjects))
                .expect("statements are JSON");
            if files.insert(OsString::from(name), bytes).is_some() {
                return Err(OutputError::SameName { name: name.clone() });
            }
        }
        Ok(Arc::new(Self { tree, files, made }))
    }

    /// The bytes of an added file.
    fn added(&self, path: &Path) -> Option<&[u8]> {
        self.files.get(path.as_os_str()).map(Vec::as_slice)
    }
}

/// Adds the regular files below a directory, by name in order of bytes.
fn subject(tree: &dyn Tree, dir: &Path, subjects: &mut Vec<Value>) -> Result<(), TreeError> {
    for listed in tree.list(dir)? {
        let path = dir.join(&listed.name);
        match listed.node.metadata.kind {
            Kind::Dir => subject(tree, &path, subjects)?,
            Kind::File { .. } => {
                let digest = tree.digest(&path)?;
                let name = path.to_string_lossy();
                subjects.push(json!({"name": name, "digest": {"sha256": digest.hex()}}));
            }
            _ => {}
        }
    }
    Ok(())
}

impl Tree for Attested {
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        match self.added(path) {
            Some(bytes) => Ok(Some(Node {
                metadata: Metadata {
                    mode: 0o600,
                    ..Metadata::file(bytes.len() as u64, self.made)
                },
                inode: None,
            })),
            None => self.tree.node(path),
        }
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>, TreeError> {
        let mut names = self.tree.names(path)?;
        if path.as_os_str().is_empty() {
            names.retain(|name| !self.files.contains_key(name));
            names.extend(self.files.keys().cloned());
            names.sort();
        }
        Ok(names)
    }

    fn open(&self, path: &Path) -> Result<Box<dyn io::Read + Send>, TreeError> {
        match self.added(path) {
            Some(bytes) => Ok(Box::new(io::Cursor::new(bytes.to_vec()))),
            None => self.tree.open(path),
        }
    }

    fn digest(&self, path: &Path) -> Result<Digest, TreeError> {
        match self.added(path) {
            Some(bytes) => Ok(sha256(bytes)),
            None => self.tree.digest(path),
        }
    }
}

/// The name of a statement's file: with the prefix that the output asks for, and with the platform where several share a directory.
pub(super) fn file_name(prefix: &str, name: &str, platform: Option<&str>) -> String {
    let Some(platform) = platform else {
        return format!("{prefix}{name}");
    };
    let path = PathBuf::from(name);
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    match path.extension().map(OsStr::to_string_lossy) {
        Some(extension) => format!("{prefix}{stem}.{platform}.{extension}"),
        None => format!("{prefix}{stem}.{platform}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_called_as_buildkit_calls_them() {
        assert_eq!(file_name("", "sbom.spdx.json", None), "sbom.spdx.json");
        assert_eq!(file_name("a-", "sbom.spdx.json", None), "a-sbom.spdx.json");
        assert_eq!(
            file_name("a-", "sbom.spdx.json", Some("linux_arm64")),
            "a-sbom.spdx.linux_arm64.json"
        );
        assert_eq!(
            file_name("", "list", Some("linux_s390x")),
            "list.linux_s390x"
        );
    }
}
