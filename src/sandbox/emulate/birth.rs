//! The way of a step's first process from its fork to the step's own program.

use std::{
    convert::Infallible,
    ffi::OsStr,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{self, Mode, OFlags},
    io::Errno,
    process,
    thread::{self, CapabilitySet, CapabilitySets},
};

use super::{
    super::{
        child::{self, Word},
        error::{During as _, Failure},
        mount::Root,
        seccomp,
        spec::ProcessSpec,
        sys as sandbox_sys,
    },
    owners, sys,
};

/// What the child is given beside the spec.
#[derive(Debug)]
pub(super) struct Way<'a> {
    /// The root directory.
    pub(super) root: &'a Root,
    /// The filter that announces calls to the server.
    pub(super) filter: &'a [sandbox_sys::Instruction],
    /// What calls have in their last argument that pass it.
    pub(super) pass: u64,
    /// Where its listener goes.
    pub(super) listener: OwnedFd,
    /// Standard streams that it shares with the program, from the first on.
    pub(super) streams: &'a [OwnedFd],
    /// Closed for writing when the helper is gone.
    pub(super) alive: BorrowedFd<'a>,
}

/// Becomes the step's program; returns the reason when that is not possible.
pub(super) fn become_step(spec: &ProcessSpec, way: &Way<'_>) -> Word {
    match try_become(spec, way) {
        Ok(never) => match never {},
        Err(word) => word,
    }
}

fn try_become(spec: &ProcessSpec, way: &Way<'_>) -> Result<Infallible, Word> {
    child::die_with_parent(way.alive)?;
    process::setsid().during("start a session")?;
    child::connect_standard_streams(spec, way.streams)?;
    child::set_limits(&spec.ulimits)?;
    go_to(way.root, &spec.cwd, (spec.uid, spec.gid))?;
    process::umask(Mode::from_raw_mode(0o022));
    give_up()?;
    sandbox_sys::reset_signals();
    sandbox_sys::close_on_exec_from(3);
    let listener = sandbox_sys::set_filter_with_listener(way.filter)
        .during("install the filter of the server")?;
    // From here on, calls that name files wait for the server, as sending does: it could go to one.
    sys::send_descriptor(way.listener.as_fd(), listener.as_fd(), way.pass)
        .during("send the listener")?;
    drop(listener);
    sandbox_sys::set_filter(&seccomp::docker_filter()).during("install the system call filter")?;
    Err(child::execute(spec))
}

/// Gives up all privilege there is: none is shown to the step, and none is to be there.
fn give_up() -> Result<(), Failure> {
    let none = CapabilitySet::empty();
    thread::set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )
    .during("give up capabilities")?;
    thread::set_no_new_privs(true).during("give up new privileges")
}

/// Enters the working directory. What is missing of it is made, and belongs to the user; what only the spelling asks for, as
/// `/a/../b` does for `/a`, is root's.
fn go_to(root: &Root, cwd: &Path, owner: (u32, u32)) -> Result<(), Failure> {
    let place = root.resolve(cwd)?;
    if root.stat(&place)?.is_none() || follow_literally(root, cwd).is_err() {
        let mut cleaned = PathBuf::new();
        for part in cwd.components() {
            match part {
                Component::ParentDir => drop(cleaned.pop()),
                Component::Normal(name) => cleaned.push(name),
                _ => {}
            }
        }
        make_all(root, &cleaned, owner)?;
        make_all(root, cwd, (0, 0))?;
    }
    let place = root.resolve(cwd)?;
    let dir = root.at(&place)?;
    process::fchdir(&dir).during_at("enter the working directory", cwd)
}

/// Opens a path as the kernel does, every name of which has to be there.
fn follow_literally(root: &Root, path: &Path) -> Result<OwnedFd, Errno> {
    let bytes = path.as_os_str().as_bytes();
    let start = bytes.iter().position(|b| *b != b'/').unwrap_or(bytes.len());
    let name = match &bytes[start..] {
        [] => OsStr::new("."),
        rest => OsStr::from_bytes(rest),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let inside = fs::ResolveFlags::IN_ROOT | fs::ResolveFlags::NO_MAGICLINKS;
    fs::openat2(root.fd(), name, flags, Mode::empty(), inside)
}

fn make_all(root: &Root, dir: &Path, owner: (u32, u32)) -> Result<(), Failure> {
    for dir in dir.ancestors().collect::<Vec<_>>().into_iter().rev() {
        let place = root.resolve(dir)?;
        let Some(name) = place.file_name() else {
            continue;
        };
        let above = root.at(place.parent().unwrap_or(Path::new("")))?;
        match fs::mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
            Ok(()) if owner != (0, 0) => {
                owners::dress(above.as_fd(), name, 0o755, owner)
                    .during_at("set the owner of the working directory", dir)?;
            }
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => {
                return Err(Failure::new("make the working directory", error).at(dir));
            }
        }
    }
    Ok(())
}
