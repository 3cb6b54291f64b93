//! Going where steps can be run, before a build: into a user namespace where this process has no privilege.
//!
//! The program then starts a second time, in the namespace, with the same arguments. There it looks like root's, so
//! what goes by the user is decided here and handed on: the place of the store, in `$RBUILD_ROOT`.

use std::{ffi::OsString, path::Path};

use rbuild::sandbox::{Choice, Isolation, Program, Refusal, Rung, choose};

use super::environment::Environment;

/// Where the program is to go on.
pub(crate) enum Place {
    /// Here: steps are run in this way, or cannot be run for this reason.
    Here(Result<Rung, Refusal>),
    /// Nowhere: it has run in a namespace, with this exit status.
    Finished(u8),
}

/// Goes where steps can be run as `isolation` says. To be called before there is a second thread.
pub(crate) fn enter(isolation: Isolation, root: &Path, env: &Environment) -> Place {
    let mut variables = env.variables();
    variables.retain(|(name, _)| name != "RBUILD_ROOT");
    variables.push((OsString::from("RBUILD_ROOT"), root.as_os_str().to_owned()));
    let program = Program {
        file: "/proc/self/exe".into(),
        argv: std::env::args_os().collect(),
        env: variables,
    };
    match choose(isolation, &program) {
        Ok(Choice::Here(rung)) => Place::Here(Ok(rung)),
        Ok(Choice::Finished(status)) => Place::Finished(status),
        Err(refusal) => Place::Here(Err(refusal)),
    }
}
