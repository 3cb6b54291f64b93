//! Which exit status an error of the library means.
//!
//! The chain of causes is followed from the outside in; the first error whose type says who has to act decides.

use std::{error::Error, io};

use rbuild::{
    build::StepError, output::OutputError, reference::ReferenceError, registry,
    sandbox::SandboxError, store::StoreError,
};

use super::diagnostics::{Failure, Kind};

/// The kind of an error; `otherwise` when nothing in the chain of causes says.
pub(crate) fn kind_of(error: &(dyn Error + 'static), otherwise: Kind) -> Kind {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(kind) = known(error) {
            return kind;
        }
        next = error.source();
    }
    otherwise
}

fn known(error: &(dyn Error + 'static)) -> Option<Kind> {
    if let Some(error) = error.downcast_ref::<registry::Error>() {
        return Some(registry_kind(error));
    }
    if error.is::<StoreError>() {
        return Some(Kind::Machine);
    }
    if error.is::<SandboxError>() {
        return Some(Kind::Machine);
    }
    if let Some(error) = error.downcast_ref::<OutputError>() {
        return output_kind(error);
    }
    if let Some(StepError::Unsupported(_) | StepError::NoSandbox { .. }) = error.downcast_ref() {
        return Some(Kind::Machine);
    }
    if error.is::<ReferenceError>() {
        return Some(Kind::Build);
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return matches!(
            error.kind(),
            io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::OutOfMemory
        )
        .then_some(Kind::Machine);
    }
    None
}

/// Of an output that failed because of something else, that something decides.
fn output_kind(error: &OutputError) -> Option<Kind> {
    match error {
        OutputError::DockerIndex
        | OutputError::NoName
        | OutputError::NoIndex { .. }
        | OutputError::NoPlatform { .. }
        | OutputError::NoAnnotations { .. } => Some(Kind::Usage),
        OutputError::Io { .. } | OutputError::Stdout { .. } => Some(Kind::Machine),
        _ => None,
    }
}

fn registry_kind(error: &registry::Error) -> Kind {
    use registry::Error;
    match error {
        Error::NoPlatform { .. } => Kind::Build,
        Error::Setting { .. } | Error::Certificate { .. } | Error::Blocked { .. } => Kind::Usage,
        Error::Helper { .. } | Error::Io { .. } => Kind::Machine,
        _ => Kind::Remote,
    }
}

/// A failure of a command out of an error of the library.
pub(crate) fn failure(error: &(dyn Error + 'static)) -> Failure {
    let failure = Failure::from_error(kind_of(error, Kind::Machine), error);
    match hint(error) {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

/// Advice that only the whole program can give.
pub(crate) fn hint(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(StepError::NoSandbox { remedy, .. }) = error.downcast_ref() {
            return *remedy;
        }
        if let Some(registry::Error::Unauthorized { .. }) = error.downcast_ref() {
            return Some("`rbuild login REGISTRY -u NAME --password-stdin` stores credentials");
        }
        if let Some(error) = error.downcast_ref::<io::Error>()
            && matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        {
            return Some("make room, or put the store elsewhere with --root");
        }
        next = error.source();
    }
    None
}
