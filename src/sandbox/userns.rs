//! Becoming root of a user namespace: the way for an ordinary user to mount and to have many ids.
//!
//! A process with several threads cannot do it, so the whole program does it at its start: it makes a child in new user
//! and mount namespaces, writes the child's id maps, and the child becomes the same program with the same arguments,
//! now as user 0. The first process stays to pass on signals and the exit status.
//!
//! What the kernel allows is found by trying: containers differ in which of `clone3`, `clone` and `unshare` they
//! refuse, and some let a namespace be made that can do nothing. So the child mounts something before anybody
//! believes in it.

use std::{
    ffi::{CString, OsStr, OsString},
    io::{Read as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::{
    fs::{self, Gid, Uid},
    io::Errno,
    mount::{MountFlags, UnmountFlags},
    pipe::PipeFlags,
    process::{self, Pid, Signal, WaitOptions},
    thread::{self, CapabilitySet},
};

use super::{
    error::{During as _, Failure},
    idmap::{IdMap, IdRange, identity_map, map_with_ranges, subordinate_ids, user_name},
    mount,
    obstacle::Obstacle,
    sys::{self, Fork},
};

/// Signals that are meant for the program and passed on to it.
const FORWARDED: [libc::c_int; 6] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// What became of the attempt to enter a user namespace.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// The calling process has the privileges of root where it is, over these ids. Go on.
    Inside(IdMap),
    /// The program has run in a child; this is its exit status. End with it.
    Finished(u8),
}

/// There is no way into a user namespace here. What needs no namespace still works.
#[derive(Debug, thiserror::Error)]
#[error("{failure}: {obstacle}")]
pub struct NamespaceError {
    /// What was tried last.
    pub failure: Failure,
    /// What stands in the way, as far as can be told, and what would remove it.
    pub obstacle: Obstacle,
}

/// What to start in the namespace.
#[derive(Debug, Clone)]
pub struct Program {
    /// The file; `/proc/self/exe` is the calling program.
    pub file: PathBuf,
    /// Its arguments, its name first.
    pub argv: Vec<OsString>,
    /// Its environment.
    pub env: Vec<(OsString, OsString)>,
}

/// Whether the calling process may mount where it is: then no namespace is needed.
pub fn is_privileged() -> bool {
    process::geteuid().is_root()
        && thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Sees to it that the program runs with the privileges of root over a mount namespace: returns at once in a process
/// that has them; else runs `program` in new user and mount namespaces, in a child that has them, and returns when
/// it has ended.
///
/// To be called before there is a second thread.
pub fn enter_user_namespace(program: &Program) -> Result<Entry, NamespaceError> {
    if is_privileged() {
        let map = IdMap::current().unwrap_or(IdMap::Full);
        return Ok(Entry::Inside(map));
    }
    enter_by(program, &plans())
}

/// The same in a process that could do without, too: the namespace then keeps its first 65536 ids.
pub(super) fn enter_userns_anyway(program: &Program) -> Result<Entry, NamespaceError> {
    let mut plans = plans();
    for plan in &mut plans {
        if let Plan::Direct { uids, gids } = plan {
            for [first, _, count] in uids.iter_mut().chain(&mut *gids) {
                *count = (*count).min(0x1_0000_u64.saturating_sub(*first));
            }
            for map in [uids, gids] {
                map.retain(|[.., count]| *count > 0);
            }
        }
    }
    enter_by(program, &plans)
}

fn enter_by(program: &Program, plans: &[Plan]) -> Result<Entry, NamespaceError> {
    let mut last = None;
    for plan in plans {
        match enter(program, plan) {
            Ok(status) => return Ok(Entry::Finished(status)),
            Err(failure) => last = Some(failure),
        }
    }
    let failure = last.unwrap_or_else(|| Failure::new("make a user namespace", Errno::PERM));
    let obstacle = Obstacle::find(&failure);
    Err(NamespaceError { failure, obstacle })
}

/// A way to map ids.
#[derive(Debug)]
enum Plan {
    /// The caller may write any map.
    Direct {
        uids: Vec<[u64; 3]>,
        gids: Vec<[u64; 3]>,
    },
    /// The set-user-ID programs `newuidmap` and `newgidmap` write it.
    Helpers {
        uids: Vec<[u64; 3]>,
        gids: Vec<[u64; 3]>,
    },
    /// One id each, which everybody may map.
    Single,
}

/// The ways to try, the best first.
fn plans() -> Vec<Plan> {
    let mut plans = Vec::new();
    let caps = thread::capabilities(None).map_or(CapabilitySet::empty(), |s| s.effective);
    if caps.contains(CapabilitySet::SETUID | CapabilitySet::SETGID)
        && let (Ok(uids), Ok(gids)) = (
            std::fs::read_to_string("/proc/self/uid_map"),
            std::fs::read_to_string("/proc/self/gid_map"),
        )
    {
        plans.push(Plan::Direct {
            uids: identity_map(&uids),
            gids: identity_map(&gids),
        });
    }
    let (uids, gids) = own_subordinate_ids();
    if !uids.is_empty() && !gids.is_empty() {
        plans.push(Plan::Helpers {
            uids: map_with_ranges(process::geteuid().as_raw(), &uids),
            gids: map_with_ranges(process::getegid().as_raw(), &gids),
        });
    }
    plans.push(Plan::Single);
    plans
}

/// The subordinate user and group ids that `/etc/subuid` and `/etc/subgid` give to the caller.
pub(super) fn own_subordinate_ids() -> (Vec<IdRange>, Vec<IdRange>) {
    let read = |path: &str| std::fs::read(path).unwrap_or_default();
    let uid = process::getuid().as_raw();
    let passwd = read("/etc/passwd");
    let name = user_name(&passwd, uid);
    (
        subordinate_ids(&read("/etc/subuid"), uid, name),
        subordinate_ids(&read("/etc/subgid"), uid, name),
    )
}

/// Whether the programs are there that map subordinate ids.
pub(super) fn map_helpers() -> bool {
    ["newuidmap", "newgidmap"].into_iter().all(|program| {
        let run = Command::new(program)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        run.is_ok()
    })
}

/// What the child says first.
const IN_NAMESPACE: u8 = b'+';

/// Runs `program` in namespaces with ids mapped by `plan`; its exit status.
fn enter(program: &Program, plan: &Plan) -> Result<u8, Failure> {
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).during("make a pipe");
    // Ours to the child: its ids are mapped. The child's to us: it is in its namespace, then a failure or the end.
    let (mapped, map) = pipe()?;
    let (heard, word) = pipe()?;
    let mut watched = FORWARDED.to_vec();
    watched.push(libc::SIGCHLD);
    let signals = sys::signal_fd(&watched).during("watch for signals")?;
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
    let (fork, refused) = match sys::clone3(flags).or_else(|_refused| sys::clone(flags)) {
        Ok(fork) => (fork, None),
        // It may be that only these are refused, and `unshare` is not.
        Err(error) => (sys::clone(0).during("fork")?, Some(error)),
    };
    let pid = match fork {
        Fork::Child => {
            drop((map, heard));
            let failure = become_program(program, refused.is_some(), mapped, &word);
            if let Ok(text) = serde_json::to_vec(&failure) {
                let _deaf = rustix::io::write(&word, &text);
            }
            sys::exit_now(127)
        }
        Fork::Parent(pid) => pid,
    };
    drop((mapped, word));
    let mut heard = std::fs::File::from(heard);
    let mut first = [0];
    let result = match heard.read(&mut first) {
        Ok(1) if first[0] == IN_NAMESPACE => tend(pid, plan, map, heard, &signals),
        // Then the first refusal says more than that of `unshare`.
        _ => Err(Failure::new(
            "make a user namespace",
            refused.unwrap_or_else(|| Errno::PERM.into()),
        )),
    };
    sys::unblock_signals();
    if result.is_err() {
        let _gone = process::kill_process(pid, Signal::KILL);
        let _gone = process::waitpid(Some(pid), WaitOptions::empty());
    }
    result
}

fn tend(
    pid: Pid,
    plan: &Plan,
    map: OwnedFd,
    mut heard: std::fs::File,
    signals: &OwnedFd,
) -> Result<u8, Failure> {
    write_maps(pid, plan)?;
    drop(map);
    let mut text = Vec::new();
    heard.read_to_end(&mut text).during("hear from the child")?;
    if let Ok(failure) = serde_json::from_slice::<Failure>(&text) {
        return Err(failure);
    }
    loop {
        match process::waitpid(Some(pid), WaitOptions::NOHANG).during("wait for the program")? {
            Some((_, status)) => {
                let signal = status.terminating_signal().map(|signal| 128 + signal);
                let code = signal.or(status.exit_status()).unwrap_or(1);
                return Ok(u8::try_from(code).unwrap_or(u8::MAX));
            }
            None => forward(pid, signals)?,
        }
    }
}

/// Waits for signals and passes on those that are not for the whole group of processes anyway.
fn forward(pid: Pid, signals: &OwnedFd) -> Result<(), Failure> {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(signals, PollFlags::IN)];
    match poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(Failure::new("wait for the program", error)),
    }
    while let Some(received) = sys::read_signal(signals.as_fd()).during("read a signal")? {
        // The terminal sends its interrupt to parent and child alike.
        let wanted = FORWARDED.contains(&received.signal) && received.by_process;
        if let (true, Some(signal)) = (wanted, Signal::from_named_raw(received.signal)) {
            let _ended = process::kill_process(pid, signal);
        }
    }
    Ok(())
}

fn write_maps(pid: Pid, plan: &Plan) -> Result<(), Failure> {
    let file = |name: &str| PathBuf::from(format!("/proc/{}/{name}", pid.as_raw_pid()));
    let write = |name: &str, text: &str| {
        let path = file(name);
        // In one write, or the kernel takes the first piece for the whole.
        std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .during_at("write", &path)
    };
    let text = |map: &[[u64; 3]]| -> String {
        let line = |[inside, outside, count]: &[u64; 3]| format!("{inside} {outside} {count}");
        map.iter().map(line).collect::<Vec<_>>().join("\n")
    };
    match plan {
        Plan::Direct { uids, gids } => {
            write("gid_map", &text(gids))?;
            write("uid_map", &text(uids))
        }
        Plan::Helpers { uids, gids } => {
            map_helper("newgidmap", pid, gids)?;
            map_helper("newuidmap", pid, uids)
        }
        Plan::Single => {
            // The price of writing a group map without privilege; before Linux 3.19 there is no such file.
            match write("setgroups", "deny") {
                Err(failure) if failure.errno != Errno::NOENT.raw_os_error() => {
                    return Err(failure);
                }
                _ => {}
            }
            let map = |own: u32| format!("0 {own} 1\n");
            write("gid_map", &map(process::getegid().as_raw()))?;
            write("uid_map", &map(process::geteuid().as_raw()))
        }
    }
}

fn map_helper(program: &str, pid: Pid, map: &[[u64; 3]]) -> Result<(), Failure> {
    let output = Command::new(program)
        .arg(pid.as_raw_pid().to_string())
        .args(map.iter().flatten().map(u64::to_string))
        .stdin(Stdio::null())
        .output()
        .during(&format!("run {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("it gave no reason");
    let mut failure = Failure::new(format!("map ids ({said})"), Errno::PERM);
    failure.errno = 0;
    Err(failure)
}

fn become_program(program: &Program, unshare: bool, mapped: OwnedFd, word: &OwnedFd) -> Failure {
    match try_become(program, unshare, mapped, word) {
        Ok(never) => match never {},
        Err(failure) => failure,
    }
}

fn try_become(
    program: &Program,
    unshare: bool,
    mapped: OwnedFd,
    word: &OwnedFd,
) -> Result<std::convert::Infallible, Failure> {
    if unshare {
        sys::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS).during("make a user namespace")?;
    }
    rustix::io::write(word, &[IN_NAMESPACE]).during("tell the parent")?;
    let mut none = Vec::new();
    std::fs::File::from(mapped)
        .read_to_end(&mut none)
        .during("wait for the id map")?;
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    thread::set_thread_res_gid(gid, gid, gid).during("become group 0 of the namespace")?;
    thread::set_thread_res_uid(uid, uid, uid).during("become user 0 of the namespace")?;
    process::set_parent_process_death_signal(Some(Signal::KILL)).during("tie to the parent")?;
    prove()?;
    sys::reset_signals();
    let c = |text: &OsStr| CString::new(text.as_bytes()).during("start the program");
    let file = c(program.file.as_os_str())?;
    let argv: Vec<_> = program
        .argv
        .iter()
        .map(|a| c(a))
        .collect::<Result<_, _>>()?;
    let env: Vec<_> = program
        .env
        .iter()
        .map(|(name, value)| {
            let mut text = name.clone();
            text.push("=");
            text.push(value);
            c(&text)
        })
        .collect::<Result<_, _>>()?;
    let error = sys::execve(&file, &argv, &env);
    Err(Failure::new("start", error).at(&program.file))
}

/// Mounts something, which shows that the namespace is more than a name.
fn prove() -> Result<(), Failure> {
    mount::isolate()?;
    let place = ["/tmp", "/dev", "/etc", "/proc"]
        .map(Path::new)
        .into_iter()
        .find(|path| fs::stat(*path).is_ok())
        .unwrap_or(Path::new("/"));
    rustix::mount::mount("tmpfs", place, "tmpfs", MountFlags::empty(), None)
        .during("mount a tmpfs in the user namespace")?;
    rustix::mount::unmount(place, UnmountFlags::DETACH).during("unmount the tmpfs again")
}
