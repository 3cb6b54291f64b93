//! A step where nothing is granted: no namespaces, no mounts, no `chroot`, no ids but one, as in a pod that Kubernetes calls "restricted".
//!
//! Every system call of the step that names a file is announced to a server, which makes it in the step's root and answers: it hands
//! over the descriptors of what it opens, writes metadata into the caller's memory, makes, moves and removes names. The kernel never
//! resolves a path of the step. Owners, modes and devices are recorded, users are believed in.
//!
//! ```text
//! helper ── server        a process that is the parent of all the step's, so that it may look into them
//!             └─ step     its first process, under the filter
//!
//! calls   which are announced        paths   what a path means, who may reach it     exec    starting programs
//! serve   the loop                   owners  what files look like                    elf     copies of programs
//! opens   looks   makes   changes   attributes   sockets: the calls, by kind         stack   their arguments
//! powers  capabilities
//! told    what `/proc` says of it     birth   from the fork to its program            trace   calls made by the thread itself
//! trial   whether all this works here
//! ```
//!
//! What lies in `/proc` and `/sys`, and what would be mounted, is as with [`chroot`](super::chroot).
//!
//! This is emulation, not a wall. What the kernel is asked to do is decided by us on values that nobody can change meanwhile, and paths
//! are bound to the root by the kernel; so a step reaches no file of the container by path. But its processes are those of the same user
//! in the same container, and calls that name no file go to the kernel as they are.

mod attributes;
mod birth;
mod calls;
mod changes;
mod elf;
mod exec;
mod looks;
mod makes;
mod opens;
mod owners;
mod paths;
mod powers;
mod serve;
mod sockets;
mod stack;
mod sys;
mod told;
mod trace;
mod trial;

use std::{
    io::Read as _,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use rustix::{
    fs::Mode,
    pipe::PipeFlags,
    process::{self, Pid, Signal},
};

use self::{
    birth::Way,
    exec::Programs,
    owners::Looks,
    serve::{Emulator, end_like},
    sockets::Addresses,
};
pub(super) use self::{
    owners::dress,
    sys::{set_time_limit, time_limit},
    trial::can_emulate,
};
use super::{
    child::{self, Word},
    chroot::{self, Furniture, Owning},
    error::{During as _, Failure},
    keeper::{self, Keeper},
    mount::make_dir,
    spec::{Exit, Network, ProcessSpec},
    step::{self, Step},
    supervisor::{Identity, identity::Identities, record::Records},
    sys as sandbox_sys,
    sys::Fork,
};

/// Runs a step in the directory `root`; `work` is another one beside it.
pub(super) fn run(
    spec: &ProcessSpec,
    (root, work): (&Path, &Path),
    socket: &UnixStream,
    signals: BorrowedFd<'_>,
    streams: &[OwnedFd],
) -> Result<Exit, Failure> {
    if spec.insecure {
        let refused = "give all capabilities, as `security=insecure` asks, where there are none";
        return Err(Failure::new(refused, rustix::io::Errno::PERM));
    }
    chroot::furnished(spec, (root, work), Owning::Recorded, |furniture, kept| {
        let line = (socket, signals, streams);
        run_in(furniture, spec, (root, work), kept, line)
    })
}

fn run_in(
    furniture: &mut Furniture,
    spec: &ProcessSpec,
    (path, work): (&Path, &Path),
    kept: keeper::Kept,
    (socket, signals, streams): (&UnixStream, BorrowedFd<'_>, &[OwnedFd]),
) -> Result<Exit, Failure> {
    // What the server leaves behind when it ends is ours to kill.
    process::set_child_subreaper(Some(process::getpid())).during("adopt orphans")?;
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).during("make a pipe");
    let (heard, word) = pipe()?;
    let (alive, our_life) = pipe()?;
    let (first_heard, first_said) = pipe()?;
    let programs = work.join("programs");
    make_dir(&programs)?;
    let server = match sandbox_sys::clone(0).during("fork the server")? {
        Fork::Child => {
            drop((heard, our_life, first_heard));
            let post = Post {
                spec,
                furniture,
                path,
                programs: &programs,
                streams,
            };
            match serve(&post, kept, (word, alive), first_said) {
                Ok(never) => match never {},
                // The helper hears from the step, or that there is none.
                Err(_) => sandbox_sys::exit_now(1),
            }
        }
        Fork::Parent(pid) => pid,
    };
    drop((word, alive, first_said));
    let read = |fd: OwnedFd| {
        let mut bytes = Vec::new();
        std::fs::File::from(fd)
            .read_to_end(&mut bytes)
            .during("hear from the step")
            .map(|_| bytes)
    };
    let first = read(first_heard)?;
    let text = read(heard)?;
    let number = first.try_into().map(i32::from_ne_bytes).ok();
    let step = Step::with_server(server, number.and_then(Pid::from_raw), our_life);
    match (text.is_empty(), number) {
        (true, Some(_)) => {
            return step::attend(&step, furniture.take_proxies(), socket, signals);
        }
        (true, None) => {
            step.dismiss()?;
            return Err(Failure::new(
                "start the server of the step",
                rustix::io::Errno::PERM,
            ));
        }
        _ => {}
    }
    step.dismiss()?;
    match serde_json::from_slice(&text) {
        Ok(Word::Failed(failure)) => Err(failure),
        Ok(Word::NotStarted { code, reason }) => {
            step::release_output()?;
            Ok(Exit::NotStarted { code, reason })
        }
        Ok(Word::ProcDenied) => Err(Failure::new("show /proc", rustix::io::Errno::PERM)),
        Err(error) => Err(Failure::new("understand the step's child", error)),
    }
}

/// What a server is given.
struct Post<'a> {
    spec: &'a ProcessSpec,
    furniture: &'a Furniture,
    path: &'a Path,
    programs: &'a Path,
    streams: &'a [OwnedFd],
}

/// Starts the step and serves it, in a process of its own; ends as its first process does.
fn serve(
    post: &Post<'_>,
    kept: keeper::Kept,
    (word, alive): (OwnedFd, OwnedFd),
    first_said: OwnedFd,
) -> Result<std::convert::Infallible, Failure> {
    let spec = post.spec;
    process::set_parent_process_death_signal(Some(Signal::KILL)).during("tie to the parent")?;
    process::set_child_subreaper(Some(process::getpid())).during("adopt orphans")?;
    process::umask(Mode::empty());
    let pass = secret().during("make up a number")?;
    let offline = spec.network == Network::None;
    let filter = calls::filter(pass, offline);
    let (ours, theirs) = UnixStream::pair().during("make a socket")?;
    let first = match sandbox_sys::clone(0).during("fork the step")? {
        Fork::Child => {
            drop((ours, first_said));
            let way = Way {
                root: post.furniture.root(),
                filter: &filter,
                pass,
                listener: theirs.into(),
                streams: post.streams,
                alive: alive.as_fd(),
            };
            let reason = birth::become_step(spec, &way);
            child::send(word.as_fd(), &reason);
            sandbox_sys::exit_now(1)
        }
        Fork::Parent(pid) => pid,
    };
    drop((word, theirs));
    let _deaf = rustix::io::write(&first_said, &first.as_raw_pid().to_ne_bytes());
    drop(first_said);
    step::release_output()?;
    let Some(listener) = step::receive_listener(&ours)? else {
        return Err(Failure::new(
            "hear of the step's calls",
            rustix::io::Errno::PIPE,
        ));
    };
    drop(ours);
    let recorded = post.path.with_file_name("owners");
    let text = std::fs::read(&recorded).unwrap_or_default();
    let file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(&recorded)
        .during_at("open", &recorded)?;
    let own = (process::geteuid().as_raw(), process::getegid().as_raw());
    let root = post.furniture.root().fd();
    let keeper = Keeper::new(keeper::Charge {
        listener,
        step: first,
        helper: process::getpid(),
        root: root.try_clone_to_owned().during_at("open", post.path)?,
        readonly: post.furniture.readonly().to_vec(),
        mounted: post.furniture.mounted().to_vec(),
        offline,
        hostname: spec.hostname.clone(),
        kept,
    })?;
    let mut by_path = Records::load(Some(file), &[text]);
    for (place, (uid, gid)) in post.furniture.sockets() {
        by_path.introduce(&owners::absolute(place), *uid, *gid);
    }
    let identity = Identity::new(spec.uid, spec.gid, spec.groups.clone());
    let status = Emulator {
        keeper,
        looks: Looks::new(by_path, own),
        identities: Identities::without_privilege(identity),
        programs: Programs::new(post.programs.to_owned()),
        addresses: Addresses::default(),
        pass,
    }
    .run(first, alive.as_fd());
    // As long as there is somebody to answer them: else they would complain of calls that are not there.
    step::kill_descendants(None);
    end_like(status?)
}

/// A number that nobody guesses.
fn secret() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}
