//! Whether steps can be emulated here: all that it takes, tried.

use std::{
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::Path,
};

use rustix::{
    fs::{self, Mode, OFlags, ResolveFlags, XattrFlags},
    io::Errno,
    process::{self, WaitOptions},
    thread,
};

use super::{
    super::{
        error::{During as _, Failure},
        mount::fd_path,
        probe, step,
        supervisor::{record::XATTR, sys as notify, tracee::Tracee},
        sys as sandbox_sys,
        sys::Fork,
    },
    calls, secret,
    sys::{self, number},
    trace::Session,
};

/// Whether steps can be emulated, with their roots below `dir`. Made in a child.
pub(in crate::sandbox) fn can_emulate(dir: &Path) -> Result<(), Failure> {
    if cfg!(not(target_arch = "x86_64")) {
        return Err(Failure::new(
            "emulate system calls on a machine other than 64-bit x86",
            Errno::NOSYS,
        ));
    }
    probe::in_child(&|| {
        try_paths(dir)?;
        try_calls()
    })
}

/// Paths that are bound to a directory, and programs and attributes for owners in it. Where the file system can do without, nothing gets
/// a name: an empty directory is to look empty to others who want it for a store.
fn try_paths(dir: &Path) -> Result<(), Failure> {
    let there = dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(dir);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = fs::open(there, flags, Mode::empty()).during_at("open", there)?;
    fs::openat2(root, "..", flags, Mode::empty(), ResolveFlags::IN_ROOT)
        .during("open a path bound to a directory")?;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match fs::open(there, flags, Mode::RWXU) {
        Ok(file) => try_file(&fd_path(&file), there),
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => probe::in_own_dir(there, &|place| {
            let file = place.join("file");
            std::fs::write(&file, "").during_at("write", &file)?;
            fs::chmod(&file, Mode::RWXU).during_at("set the mode of", &file)?;
            try_file(&file, there)
        }),
        Err(error) => Err(Failure::new("make a file in", error).at(there)),
    }
}

fn try_file(file: &Path, dir: &Path) -> Result<(), Failure> {
    fs::setxattr(file, XATTR, b"0:0:0644:file", XattrFlags::empty())
        .during_at("keep owners as attributes of files in", dir)?;
    fs::access(file, fs::Access::EXEC_OK).during_at("run programs in", dir)
}

/// A child that asks for its working directory, has its answer written into its memory, and is made to close a descriptor.
fn try_calls() -> Result<(), Failure> {
    let pass = secret().during("make up a number")?;
    let filter = calls::filter(pass, false);
    let (ours, theirs) = UnixStream::pair().during("make a socket")?;
    let child = match sandbox_sys::clone(0).during("fork")? {
        Fork::Child => {
            drop(ours);
            let asked = thread::set_no_new_privs(true)
                .map_err(Into::into)
                .and_then(|()| sandbox_sys::set_filter_with_listener(&filter));
            let Ok(listener) = asked else {
                sandbox_sys::exit_now(1)
            };
            if sys::send_descriptor(theirs.as_fd(), listener.as_fd(), pass).is_err() {
                sandbox_sys::exit_now(1)
            }
            drop(listener);
            let right = process::getcwd(Vec::new()).is_ok_and(|cwd| cwd.as_bytes() == b"/emulated");
            sandbox_sys::exit_now(if right { 0 } else { 2 })
        }
        Fork::Parent(pid) => pid,
    };
    drop(theirs);
    let result = answer(&ours, pass);
    if result.is_err() {
        let _gone = process::kill_process(child, process::Signal::KILL);
    }
    let status = process::waitpid(Some(child), WaitOptions::empty()).during("wait for a child")?;
    result?;
    match status.and_then(|(_, status)| status.exit_status()) {
        Some(0) => Ok(()),
        _ => Err(Failure::new("answer system calls of a child", Errno::PERM)),
    }
}

fn answer(ours: &UnixStream, pass: u64) -> Result<(), Failure> {
    let listener = step::receive_listener(ours)?
        .ok_or_else(|| Failure::new("listen to system calls", Errno::PERM))?;
    process::chdir("/proc").during("go to /proc")?;
    let call = notify::receive(listener.as_fd())
        .during("hear of a system call")?
        .ok_or_else(|| Failure::new("hear of a system call", Errno::NOENT))?;
    let caller = Tracee::new(&call);
    caller
        .write(caller.word(0), b"/emulated\0")
        .during("write to the memory of a child")?;
    let null = fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .during("open /dev/null")?;
    let number = notify::give_fd(listener.as_fd(), call.id, null.as_fd())
        .during("give a child a descriptor")?;
    let session =
        Session::begin(listener.as_fd(), (&caller, call.id), pass).during("trace a child")?;
    let closed = session
        .call(
            number::CLOSE,
            [u64::from(number.cast_unsigned()), 0, 0, 0, 0],
        )
        .during("have a child make a call")?;
    session.end(10).during("let go of a child")?;
    if closed == 0 {
        Ok(())
    } else {
        Err(Failure::new("have a child make a call", Errno::PERM))
    }
}
