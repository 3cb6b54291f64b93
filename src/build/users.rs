//! Users of processes, looked up once for all steps that see the same files of users.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Mutex, PoisonError},
};

use crate::{
    copy::{self, FindUserError},
    layer::LayerTree,
    oci::Digest,
    sandbox::User,
    tree::{self, Last, Tree as _},
};

/// What decides who a user is: the name, and the contents of the two files, where they exist.
type Question = (String, [Option<Digest>; 2]);

/// Users that were looked up.
#[derive(Debug, Default)]
pub(super) struct Users(Mutex<HashMap<Question, User>>);

impl Users {
    /// The user that `spec` (the argument of `USER`) means in a tree.
    pub(super) fn find(&self, spec: &str, tree: &LayerTree) -> Result<User, FindUserError> {
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
        let user = copy::find_user(spec, tree)?;
        known().insert(question, user.clone());
        Ok(user)
    }
}

/// The digest of a file that a table of contents has; `None` when there is nothing.
fn digest(tree: &LayerTree, path: &str) -> Result<Option<Digest>, tree::TreeError> {
    let path = tree::resolve(tree, Path::new(path), Last::Follow)?;
    match tree.node(&path)? {
        Some(_) => tree.digest(&path).map(Some),
        None => Ok(None),
    }
}
