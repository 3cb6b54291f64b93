//! Users of processes, looked up once for all steps that see the same files of users.

use std::{
    collections::HashMap,
    ffi::OsString,
    io,
    path::Path,
    sync::{Mutex, PoisonError},
};

use super::ground::Ground;
use crate::{
    copy::{self, FindUserError},
    layer::LayerTree,
    oci::{Digest, sha256},
    sandbox::User,
    tree::{self, Last, Node, Tree, TreeError},
};

/// What decides who a user is: the name, and the contents of the two files, where they exist.
type Question = (String, [Option<Digest>; 2]);

/// Users that were looked up.
#[derive(Debug, Default)]
pub(super) struct Users(Mutex<HashMap<Question, User>>);

impl Users {
    /// The user that `spec` (the argument of `USER`) means in a tree, which `ground` has on disk.
    pub(super) fn find(
        &self,
        spec: &str,
        tree: &LayerTree,
        ground: &Ground,
    ) -> Result<User, FindUserError> {
        let digests = ["etc/passwd", "etc/group"].map(|path| digest(tree, path));
        let [Ok(passwd), Ok(group)] = digests else {
            // Whatever it is, looking says it better.
            return copy::find_user(spec, tree);
        };
        let question = (spec.to_owned(), [passwd, group]);
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(user) = known().get(&question) {
            return Ok(user.clone());
        }
        let user = copy::find_user(spec, &OnDisk { tree, ground })?;
        known().insert(question, user.clone());
        Ok(user)
    }
}

/// A tree whose files are read from disk: a layer has to be decompressed up to the file.
struct OnDisk<'a> {
    tree: &'a LayerTree,
    ground: &'a Ground,
}

impl Tree for OnDisk<'_> {
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        self.tree.node(path)
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>, TreeError> {
        self.tree.names(path)
    }

    fn open(&self, path: &Path) -> Result<Box<dyn io::Read + Send>, TreeError> {
        match self.ground.peek(path) {
            Some(bytes) if sha256(&bytes) == self.tree.digest(path)? => {
                Ok(Box::new(io::Cursor::new(bytes)))
            }
            _ => self.tree.open(path),
        }
    }

    fn digest(&self, path: &Path) -> Result<Digest, TreeError> {
        self.tree.digest(path)
    }
}

/// The digest of a file that a table of contents has; `None` when there is nothing.
fn digest(tree: &LayerTree, path: &str) -> Result<Option<Digest>, TreeError> {
    let path = tree::resolve(tree, Path::new(path), Last::Follow)?;
    match tree.node(&path)? {
        Some(_) => tree.digest(&path).map(Some),
        None => Ok(None),
    }
}
