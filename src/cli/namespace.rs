//! Going where steps can be run, before a build: into a user namespace where this process has no privilege.
//!
//! The program then starts a second time, in the namespace, with the same arguments. There it looks like root's, so
//! what goes by the user is decided here and handed on: the place of the store, in `$RBUILD_ROOT`.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use rbuild::{
    sandbox::{Choice, Isolation, Program, Refusal, Rung, Shelter, choose, shelter},
    snapshot::remove_tree,
    store::Store,
};

use super::{
    diagnostics::{Failure, Kind},
    environment::Environment,
};

/// Where the program is to go on.
pub(crate) enum Place {
    /// Here: steps are run in this way, or cannot be run for this reason.
    Here(Result<Rung, Refusal>),
    /// Nowhere: it has run in a namespace, with this exit status.
    Finished(u8),
}

/// What lies under the states of steps for as long as this lives.
#[must_use]
pub(crate) struct Sheltered(Shelter);

/// Sees to it that overlays can be made of the states of a store, with what `$TMPDIR`, `/tmp` and `/var/tmp` are on, else
/// with memory. To be called before there is a second thread.
pub(crate) fn shelter_states(
    store: &Store,
    rung: &Result<Rung, Refusal>,
    env: &Environment,
) -> Result<Sheltered, Failure> {
    if !matches!(rung, Ok(Rung::Native | Rung::Userns)) {
        return Ok(Sheltered(Shelter::None));
    }
    let places: Vec<PathBuf> = env
        .path("TMPDIR")
        .into_iter()
        .chain([PathBuf::from("/tmp"), PathBuf::from("/var/tmp")])
        .collect();
    shelter(&store.snapshots_dir(), &places)
        .map(Sheltered)
        .map_err(|failure| Failure::new(Kind::Machine, failure.to_string()))
}

impl Drop for Sheltered {
    fn drop(&mut self) {
        if let Shelter::Dir(dir) = &self.0 {
            // What cannot be removed is scratch in a place for scratch.
            remove_tree(dir).ok();
        }
    }
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
    match choose(isolation, &program, root) {
        Ok(Choice::Here(rung)) => Place::Here(Ok(rung)),
        Ok(Choice::Finished(status)) => Place::Finished(status),
        Err(refusal) => Place::Here(Err(refusal)),
    }
}
