//! The two files of a context that are looked for by name: the Dockerfile and the ignore file.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{ContextError, Patterns};
use crate::tree::{Kind, Tree};

/// The most bytes that a Dockerfile or an ignore file may have: as many as BuildKit's client can send.
pub const MAX_TEXT_BYTES: u64 = 16 << 20;

/// The ignore file that holds for a context.
#[derive(Debug, Clone)]
pub struct IgnoreFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What it says.
    pub patterns: Patterns,
}

impl IgnoreFile {
    /// The file `<dockerfile>.dockerignore` if there is one, else `.dockerignore` in the context; never both.
    pub fn find(context: &Path, dockerfile: Option<&Path>) -> Result<Option<Self>, ContextError> {
        let beside = dockerfile.map(|path| {
            let mut name = path.as_os_str().to_owned();
            name.push(".dockerignore");
            PathBuf::from(name)
        });
        for path in beside.into_iter().chain([context.join(".dockerignore")]) {
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if is_absent(&error) => continue,
                Err(source) => return Err(ContextError::Read { path, source }),
            };
            let bytes = read_text(file, &path)?;
            let mut patterns = Patterns::parse(&bytes).map_err(|error| ContextError::Patterns {
                path: path.clone(),
                error,
            })?;
            patterns.file = path.file_name().map(ToOwned::to_owned);
            return Ok(Some(Self { path, patterns }));
        }
        Ok(None)
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Reads a Dockerfile or an ignore file, of which `path` is shown; no more than [`MAX_TEXT_BYTES`].
pub fn read_text(reader: impl Read, path: &Path) -> Result<Vec<u8>, ContextError> {
    let mut bytes = Vec::new();
    let read = reader.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|source| ContextError::Read {
        path: path.to_owned(),
        source,
    })?;
    if bytes.len() as u64 > MAX_TEXT_BYTES {
        return Err(ContextError::TooLarge {
            path: path.to_owned(),
            limit: MAX_TEXT_BYTES,
        });
    }
    Ok(bytes)
}

/// A Dockerfile found in a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundDockerfile {
    /// Its name as it was looked for, `dockerfile` if only that was there.
    pub name: PathBuf,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Reads the Dockerfile `name` of a tree. A symbolic link is followed inside the tree; where `Dockerfile` is missing,
/// `dockerfile` is taken.
pub fn read_dockerfile(tree: &dyn Tree, name: &Path) -> Result<FoundDockerfile, ContextError> {
    let mut names = vec![crate::tree::clean(name)];
    if name.file_name() == Some(OsStr::new("Dockerfile")) {
        names.push(names[0].with_file_name("dockerfile"));
    }
    for name in names {
        let path = crate::tree::resolve(tree, &name, crate::tree::Last::Follow)?;
        let Some(node) = tree.node(&path)? else {
            continue;
        };
        if !matches!(node.metadata.kind, Kind::File { .. }) {
            return Err(ContextError::DockerfileIsNoFile { path: name });
        }
        let bytes = read_text(tree.open(&path)?, &path)?;
        return Ok(FoundDockerfile { name, bytes });
    }
    Err(ContextError::NoDockerfile {
        path: name.to_owned(),
    })
}
