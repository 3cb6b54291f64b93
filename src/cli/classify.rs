//! Which exit status an error of the library means.
//!
//! The chain of causes is followed from the outside in; the first error whose type says who has to act decides.

use std::{borrow::Cow, error::Error, io};

use rbuild::{
    build::{BuildError, ImageError, StepError},
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
    diagnostics::{Failure, Kind},
    transfer::TransferError,
};

/// The kind of an error; `otherwise` when nothing in the chain of causes says.
pub(crate) fn kind_of(error: &(dyn Error + 'static), otherwise: Kind) -> Kind {
    chain(error).find_map(known).unwrap_or(otherwise)
}

/// An error and all that caused it. Errors that only pass on another one's words are followed by that one, which
/// their `source` skips.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
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
fn is_of_damaged_layer(error: &io::Error) -> bool {
    let inner = error.get_ref();
    inner
        .and_then(|inner| inner.downcast_ref::<ArchiveError>())
        .is_some()
}

/// Whether a layer of the store, which was verified when it came, has other bytes now.
fn is_about_damage(error: &SnapshotError) -> bool {
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

/// A failure of a command out of an error of the library.
pub(crate) fn failure(error: &(dyn Error + 'static)) -> Failure {
    let failure = Failure::from_error(kind_of(error, Kind::Machine), error);
    match hint(error) {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

const VERIFY: &str =
    "`rbuild cache verify` drops what is damaged, so that it is made or fetched again";

/// What to do about a store that cannot be used.
fn store_hint(error: &StoreError) -> Option<&'static str> {
    match error {
        StoreError::Foreign { .. } | StoreError::NotADirectory { .. } => Some(
            "name another directory with --root; one that is empty or not there becomes a store",
        ),
        StoreError::Io { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            Some("put the store where it can be written, with --root")
        }
        StoreError::TooNew { .. } => {
            Some("use the version that made it, or another directory with --root")
        }
        StoreError::Damaged { path, .. } if path.ends_with("rbuild.json") => {
            Some("if the rest of the directory is a store, remove this file: it is made again")
        }
        StoreError::Damaged { path, .. } if path.ends_with("index.json") => Some(
            "`rbuild cache verify` puts the file aside: the names of images are lost, all else is kept",
        ),
        StoreError::Damaged { .. } | StoreError::Corrupt { .. } | StoreError::Size { .. } => {
            Some(VERIFY)
        }
        _ => None,
    }
}

/// Whether there was no room on a disk, or a quota was used up.
fn is_about_room(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    })
}

const EMFILE: i32 = rustix::io::Errno::MFILE.raw_os_error();
const ENFILE: i32 = rustix::io::Errno::NFILE.raw_os_error();

/// Advice: what an error of the library knows, or what only the whole program can tell.
pub(crate) fn hint(error: &(dyn Error + 'static)) -> Option<Cow<'static, str>> {
    chain(error).find_map(|error| {
        if let Some(StepError::NoSandbox(refusal)) = error.downcast_ref() {
            return refusal.remedy.map(Cow::Borrowed);
        }
        if let Some(StepError::Foreign { .. }) = error.downcast_ref() {
            return Some(Cow::Borrowed(
                "install qemu-user-static (it registers interpreters), or let the stage run here: \
                 FROM --platform=$BUILDPLATFORM",
            ));
        }
        if let Some(StepError::SecretMissing(id)) = error.downcast_ref() {
            return Some(Cow::Owned(format!(
                "give it with --secret id={id},src=FILE or --secret id={id},env=VARIABLE"
            )));
        }
        if let Some(StepError::Copy(error)) = error.downcast_ref() {
            return error.hint().map(Cow::Owned);
        }
        if let Some(registry::Error::Unauthorized { .. }) = error.downcast_ref() {
            return Some(Cow::Borrowed(
                "`rbuild login REGISTRY -u NAME --password-stdin` stores credentials",
            ));
        }
        if let Some(error) = error.downcast_ref::<StoreError>()
            && let Some(hint) = store_hint(error)
        {
            return Some(Cow::Borrowed(hint));
        }
        if let Some(error) = error.downcast_ref::<SnapshotError>()
            && is_about_damage(error)
            && !chain(error).any(is_about_room)
        {
            return Some(Cow::Borrowed(VERIFY));
        }
        let outside = match (error.downcast_ref(), error.downcast_ref()) {
            (Some(OutputError::Io { source, .. } | OutputError::Stdout { source }), _)
            | (_, Some(PlaceError::File { source, .. })) => Some(source),
            _ => None,
        };
        if outside.is_some_and(|error| is_about_room(error)) {
            return Some(Cow::Borrowed("make room there, or name another place"));
        }
        if let Some(OutputError::NoEngine { .. }) = error.downcast_ref() {
            return Some(Cow::Borrowed(
                "start one or name it with $DOCKER_HOST, or leave out --load: the image then goes to rbuild's own store",
            ));
        }
        let error = error.downcast_ref::<io::Error>()?;
        if is_of_damaged_layer(error) {
            return Some(Cow::Borrowed(VERIFY));
        }
        // Neither has an `io::ErrorKind`: this process has too many files open, or the whole machine.
        if let Some(EMFILE | ENFILE) = error.raw_os_error() {
            return Some(Cow::Borrowed("allow more open files: `ulimit -n`"));
        }
        if error.kind() == io::ErrorKind::FileTooLarge {
            return Some(Cow::Borrowed(
                "allow larger files (`ulimit -f`), or put the store on a file system that has them with --root",
            ));
        }
        is_about_room(error).then_some(Cow::Borrowed(
            "make room, or put the store elsewhere with --root",
        ))
    })
}
