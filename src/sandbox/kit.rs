//! What a helper makes once and uses for each of its steps.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    rc::Rc,
};

use super::{
    error::{During as _, Failure},
    idmap::IdMap,
    overlay, seccomp,
    sys::{Instruction, Stack},
};

/// Things that are the same for all steps of a helper.
#[derive(Debug)]
pub(super) struct Kit {
    /// Which ids exist here.
    pub(super) ids: IdMap,
    /// The filter of system calls of ordinary steps.
    pub(super) filter: Vec<Instruction>,
    /// What the step's process runs on until it is a program.
    pub(super) stack: Stack,
    /// Directories of layers.
    pub(super) dirs: Dirs,
}

impl Kit {
    pub(super) fn new() -> Result<Self, Failure> {
        Ok(Self {
            ids: IdMap::current().during("read the id map")?,
            filter: seccomp::docker_filter(),
            stack: Stack::new().during("make a stack")?,
            dirs: Dirs::default(),
        })
    }
}

/// Directories of layers that are open: most of those of a step are of the next one, too. Whoever names them sees to it that
/// nothing else comes to lie at their paths while the helper lives.
#[derive(Debug, Default)]
pub(super) struct Dirs(HashMap<PathBuf, Rc<OwnedFd>>);

impl Dirs {
    /// The directory `path` of the host.
    pub(super) fn open(&mut self, path: &Path) -> Result<Rc<OwnedFd>, Failure> {
        if let Some(fd) = self.0.get(path) {
            return Ok(Rc::clone(fd));
        }
        let fd = Rc::new(overlay::open_dir(path)?);
        self.0.insert(path.to_owned(), Rc::clone(&fd));
        Ok(fd)
    }

    /// Lets go of all but `paths`.
    pub(super) fn keep(&mut self, paths: &[PathBuf]) {
        if self.0.len() > paths.len() {
            self.0.retain(|path, _| paths.contains(path));
        }
    }
}
