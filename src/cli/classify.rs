//! Which exit status an error of the library means.
//!
//! The chain of causes is followed from the outside in; the first error whose type says who has to act decides.

use std::{borrow::Cow, error::Error, io};

use rbuild::{
    build::{BuildError, BuildRequest, ImageError, StepError},
    cache::remote::PlaceError,
    context::git::GitError,
    layer::ArchiveError,
    output::{LoadError, OutputError},
    reference::ReferenceError,
    registry,
    sandbox::SandboxError,
    snapshot::SnapshotError,
    store::StoreError,
    upkeep::UpkeepError,
};

use super::{
    advice,
    diagnostics::{Failure, Kind},
    transfer::TransferError,
};

/// A failure of a command out of an error of the library, which is this machine's unless the error says otherwise.
pub(crate) fn failure(error: &(dyn Error + 'static)) -> Failure {
    failure_or(Kind::Machine, error)
}

/// The same where the error is another one's unless it says otherwise.
pub(crate) fn failure_or(otherwise: Kind, error: &(dyn Error + 'static)) -> Failure {
    advised(error, otherwise, advice::hint(error))
}

/// A failure of a step, of whose instruction the request and the text are known.
pub(crate) fn step_failure(
    error: &StepError,
    instruction: &str,
    request: &BuildRequest,
) -> Failure {
    let hint = advice::hint_at(error, instruction, request);
    advised(error, Kind::Build, hint)
}

fn advised(
    error: &(dyn Error + 'static),
    otherwise: Kind,
    hint: Option<Cow<'static, str>>,
) -> Failure {
    let failure = Failure::from_error(kind_of(error, otherwise), error);
    match hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

/// The kind of an error; `otherwise` when nothing in the chain of causes says.
fn kind_of(error: &(dyn Error + 'static), otherwise: Kind) -> Kind {
    chain(error).find_map(known).unwrap_or(otherwise)
}

/// An error and all that caused it. Errors that only pass on another one's words are followed by that one, which
/// their `source` skips.
pub(super) fn chain<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error = *error;
        wrapped(error).or_else(|| error.source())
    })
}

fn wrapped<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(error) = error.downcast_ref::<StepError>() {
        return match error {
            StepError::Copy(inner) => Some(inner),
            StepError::Context(inner) => Some(inner),
            StepError::Registry(inner) => Some(inner),
            StepError::Git(inner) => Some(inner),
            StepError::Image(inner) => Some(inner),
            StepError::Sandbox(inner) => Some(inner),
            StepError::Layer(inner) => Some(inner),
            StepError::Tree(inner) => Some(inner),
            StepError::Store(inner) => Some(inner),
            StepError::Snapshot(inner) => Some(inner),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<ImageError>() {
        return match error {
            ImageError::Reference(inner) => Some(inner),
            ImageError::Registry(inner) => Some(inner),
            ImageError::Store(inner) => Some(inner),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<TransferError>() {
        return match error {
            TransferError::Registry(inner) => Some(inner),
            TransferError::Store(inner) => Some(inner),
        };
    }
    if let Some(error) = error.downcast_ref::<PlaceError>() {
        return match error {
            PlaceError::Registry(inner) => Some(inner),
            PlaceError::Store(inner) => Some(inner),
            _ => None,
        };
    }
    if let Some(BuildError::Store(inner)) = error.downcast_ref() {
        return Some(inner);
    }
    if let Some(OutputError::Store(inner)) = error.downcast_ref() {
        return Some(inner);
    }
    if let Some(error) = error.downcast_ref::<UpkeepError>() {
        return match error {
            UpkeepError::Store(inner) => Some(inner),
            UpkeepError::Snapshot(inner) => Some(inner),
            _ => None,
        };
    }
    match error.downcast_ref() {
        Some(LoadError::Store(inner)) => Some(inner),
        Some(LoadError::Layer(inner)) => Some(inner),
        _ => None,
    }
}

fn known(error: &(dyn Error + 'static)) -> Option<Kind> {
    if let Some(error) = error.downcast_ref::<registry::Error>() {
        return Some(registry_kind(error));
    }
    if let Some(error) = error.downcast_ref::<PlaceError>() {
        return match error {
            PlaceError::File { .. } => Some(Kind::Machine),
            _ => Some(Kind::Remote),
        };
    }
    if let Some(SandboxError::Setup(failure)) = error.downcast_ref()
        && is_about_names(failure.error().kind())
    {
        return Some(Kind::Build);
    }
    if let Some(SandboxError::Nul { .. }) = error.downcast_ref() {
        return Some(Kind::Build);
    }
    if let Some(error) = error.downcast_ref::<SnapshotError>() {
        return match error {
            SnapshotError::Io { source, .. } if is_about_names(source.kind()) => Some(Kind::Build),
            SnapshotError::Io { .. } => Some(Kind::Machine),
            _ => is_about_damage(error).then_some(Kind::Machine),
        };
    }
    if error.is::<StoreError>() || error.is::<SandboxError>() {
        return Some(Kind::Machine);
    }
    if let Some(error) = error.downcast_ref::<OutputError>() {
        return output_kind(error);
    }
    if let Some(error) = error.downcast_ref::<GitError>() {
        return match error {
            GitError::NoGit { .. } | GitError::Io { .. } => Some(Kind::Machine),
            GitError::Failed { .. } | GitError::NoReference { .. } => Some(Kind::Remote),
            _ => None,
        };
    }
    if let Some(StepError::Unsupported(_) | StepError::NoSandbox(_) | StepError::Foreign { .. }) =
        error.downcast_ref()
    {
        return Some(Kind::Machine);
    }
    if error.is::<ReferenceError>() || matches!(error.downcast_ref(), Some(StepError::List { .. }))
    {
        return Some(Kind::Build);
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return (is_machine(error.kind()) || is_of_damaged_layer(error)).then_some(Kind::Machine);
    }
    None
}

/// Whether a file operation failed for what the image has at a path, or for the path itself, such as a mount on a file.
fn is_about_names(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::InvalidFilename
    )
}

/// Whether a file operation failed for want of something that only this machine can give.
fn is_machine(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::OutOfMemory
            | io::ErrorKind::FileTooLarge
    )
}

/// Whether the bytes of a layer of the store, which were verified when they came, cannot be decompressed or read any more.
pub(super) fn is_of_damaged_layer(error: &io::Error) -> bool {
    let inner = error.get_ref();
    inner
        .and_then(|inner| inner.downcast_ref::<ArchiveError>())
        .is_some()
}

/// Whether a layer of the store, which was verified when it came, has other bytes now.
pub(super) fn is_about_damage(error: &SnapshotError) -> bool {
    matches!(
        error,
        SnapshotError::Tree(_) | SnapshotError::Layer { .. } | SnapshotError::Incomplete { .. }
    )
}

/// Of an output that failed because of something else, that something decides.
fn output_kind(error: &OutputError) -> Option<Kind> {
    match error {
        OutputError::Statement { .. } | OutputError::PredicateType { .. } => Some(Kind::Build),
        OutputError::SameName { .. }
        | OutputError::DockerIndex
        | OutputError::NoName
        | OutputError::NoIndex { .. }
        | OutputError::NoPlatform { .. }
        | OutputError::NoAnnotations { .. }
        | OutputError::Overwritten { .. } => Some(Kind::Usage),
        OutputError::Io { .. }
        | OutputError::Stdout { .. }
        | OutputError::NoEngine { .. }
        | OutputError::NoEngineNamed => Some(Kind::Machine),
        OutputError::Engine { .. } => Some(Kind::Remote),
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
