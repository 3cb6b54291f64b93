//! Becoming root of a user namespace before a build, where this process is not privileged already.
//!
//! The program then starts a second time, in the namespace, with the same arguments. There it looks like root's, so
//! what goes by the user is decided here and handed on: the place of the store, in `$RBUILD_ROOT`.

use std::{ffi::OsString, path::Path};

use rbuild::sandbox::{Entry, NamespaceError, Program, enter_user_namespace, is_privileged};

use super::environment::Environment;

/// Where the program is to go on.
pub(crate) enum Place {
    /// Here. When there is no way into a namespace, RUN steps cannot be run; the reason says why.
    Here(Option<NamespaceError>),
    /// Nowhere: it has run in a namespace, with this exit status.
    Finished(u8),
}

/// Enters a user namespace, if that takes one. To be called before there is a second thread.
pub(crate) fn enter(root: &Path, env: &Environment) -> Place {
    if is_privileged() {
        return Place::Here(None);
    }
    let mut variables = env.variables();
    variables.retain(|(name, _)| name != "RBUILD_ROOT");
    variables.push((OsString::from("RBUILD_ROOT"), root.as_os_str().to_owned()));
    let program = Program {
        file: "/proc/self/exe".into(),
        argv: std::env::args_os().collect(),
        env: variables,
    };
    match enter_user_namespace(&program) {
        Ok(Entry::Inside(_)) => Place::Here(None),
        Ok(Entry::Finished(status)) => Place::Finished(status),
        Err(error) => Place::Here(Some(error)),
    }
}
