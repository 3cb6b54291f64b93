//! What to do about an error of the library, where somebody can do something.
//!
//! The chain of causes is followed from the outside in; the first error that there is advice for decides.

use std::{borrow::Cow, error::Error, io};

use rbuild::{
    build::{BuildRequest, ContextSource, StepError},
    cache::remote::PlaceError,
    copy::{CopyError, FindUserError},
    output::OutputError,
    registry,
    sandbox::UserError,
    snapshot::SnapshotError,
    store::StoreError,
};

use super::classify::{chain, is_about_damage, is_of_damaged_layer};

/// What an error of the library knows, or what only the whole program can tell.
pub(crate) fn hint(error: &(dyn Error + 'static)) -> Option<Cow<'static, str>> {
    chain(error).find_map(|error| {
        if let Some(error) = error.downcast_ref::<StepError>() {
            return step_hint(error);
        }
        let fixed = if let Some(error) = error.downcast_ref::<registry::Error>() {
            registry_hint(error)
        } else if let Some(error) = error.downcast_ref::<StoreError>() {
            store_hint(error)
        } else if let Some(error) = error.downcast_ref::<SnapshotError>() {
            (is_about_damage(error) && !chain(error).any(is_about_room)).then_some(VERIFY)
        } else if let Some(error) = error.downcast_ref::<OutputError>() {
            output_hint(error)
        } else if let Some(PlaceError::File { source, .. }) = error.downcast_ref() {
            is_about_room(source).then_some(OTHER_PLACE)
        } else {
            error.downcast_ref().and_then(io_hint)
        };
        fixed.map(Cow::Borrowed)
    })
}

/// The same for a step, of which the request and the text of its instruction say more.
pub(crate) fn hint_at(
    error: &StepError,
    instruction: &str,
    request: &BuildRequest,
) -> Option<Cow<'static, str>> {
    hint(error).or_else(|| {
        let StepError::Copy(CopyError::NotFound { .. }) = error else {
            return None;
        };
        let is_from_elsewhere = instruction.contains("from=");
        let is_outside = |word: &str| word.trim_matches(['"', '[', ',']).starts_with("../");
        if is_from_elsewhere {
            None
        } else if matches!(request.context, ContextSource::Empty) {
            Some("the Dockerfile came without a context; `rbuild -f - DIRECTORY` takes files from there")
        } else if instruction.split_whitespace().any(is_outside) {
            Some("`..` does not lead out of the build context; --build-context names another one, for --from")
        } else {
            None
        }
        .map(Cow::Borrowed)
    })
}

fn step_hint(error: &StepError) -> Option<Cow<'static, str>> {
    let fixed = match error {
        StepError::NoSandbox(refusal) => return refusal.remedy.map(Cow::Borrowed),
        StepError::SecretMissing(id) => {
            return Some(Cow::Owned(format!(
                "give it with --secret id={id},src=FILE or --secret id={id},env=VARIABLE"
            )));
        }
        StepError::Copy(error) => return error.hint().map(Cow::Owned),
        StepError::User {
            source: FindUserError::User(error),
            ..
        } => return user_hint(error),
        StepError::Foreign { .. } => {
            "install qemu-user-static (it registers interpreters), or let the stage run here: \
             FROM --platform=$BUILDPLATFORM"
        }
        StepError::NotStarted {
            command, code: 127, ..
        } if command.starts_with("/bin/sh -c ") => {
            "there is no shell in the image, which RUN takes for a command that is not in JSON form: \
             [\"PROGRAM\", \"ARGUMENT\"]"
        }
        StepError::Exit { code: 126, .. } => {
            "126 is a shell's for a file that it may not execute: `COPY --chmod=755` makes one that it may"
        }
        StepError::Exit { code: 127, .. } => {
            "127 is a shell's for a program that is not there; of a script, it may be the interpreter that its \
             first line names (a line break of Windows counts as part of the name)"
        }
        StepError::Exit { code: 137, .. } => {
            "137 is that of a process that was killed, mostly since there was no memory left for it"
        }
        StepError::Exit { absent, .. } if !absent.is_empty() => {
            return Some(Cow::Owned(format!(
                "the step can have what was not given: {}",
                absent.join(", ")
            )));
        }
        _ => return None,
    };
    Some(Cow::Borrowed(fixed))
}

fn user_hint(error: &UserError) -> Option<Cow<'static, str>> {
    let (UserError::NoUser { near, .. } | UserError::NoGroup { near, .. }) = error else {
        return None;
    };
    Some(match near {
        Some(near) => Cow::Owned(format!("did you mean `{near}`?")),
        None => Cow::Borrowed(
            "names of USER are looked up in the image, where a RUN has to make them; numbers need not be there",
        ),
    })
}

const VERIFY: &str =
    "`rbuild cache verify` drops what is damaged, so that it is made or fetched again";

const OTHER_PLACE: &str = "make room there, or name another place";

fn registry_hint(error: &registry::Error) -> Option<&'static str> {
    match error {
        registry::Error::Unauthorized { .. } => Some(
            "`rbuild login REGISTRY -u NAME --password-stdin` stores credentials; registries say this of names that \
             they do not have, too",
        ),
        registry::Error::Tls { .. } => Some(
            "--insecure-registry HOST does without TLS or with any certificate, --registry-certificate trusts one more authority",
        ),
        _ => None,
    }
}

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

fn output_hint(error: &OutputError) -> Option<&'static str> {
    match error {
        OutputError::Io { source, .. } | OutputError::Stdout { source } => {
            is_about_room(source).then_some(OTHER_PLACE)
        }
        OutputError::NoEngine { .. } => Some(
            "start one or name it with $DOCKER_HOST, or leave out --load: the image then goes to rbuild's own store",
        ),
        _ => None,
    }
}

const EMFILE: i32 = rustix::io::Errno::MFILE.raw_os_error();
const ENFILE: i32 = rustix::io::Errno::NFILE.raw_os_error();

fn io_hint(error: &io::Error) -> Option<&'static str> {
    if is_of_damaged_layer(error) {
        return Some(VERIFY);
    }
    // Neither has an `io::ErrorKind`: this process has too many files open, or the whole machine.
    if let Some(EMFILE | ENFILE) = error.raw_os_error() {
        return Some("allow more open files: `ulimit -n`");
    }
    if error.kind() == io::ErrorKind::FileTooLarge {
        return Some(
            "allow larger files (`ulimit -f`), or put the store on a file system that has them with --root",
        );
    }
    is_about_room(error).then_some("make room, or put the store elsewhere with --root")
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
