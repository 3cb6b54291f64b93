//! A step in a root directory changed by `chroot`, for containers in which nothing can be mounted and no namespace be made.
//!
//! The root is a directory of the step's own. What would be mounted is put into it (`furniture`), `/proc` and `/sys` are
//! answered by a [keeper](super::keeper), and so is every call that could reach a process outside the step: the step has
//! no process numbers of its own. What it leaves behind becomes the helper's, which kills it.
//!
//! The step has neither `CAP_SYS_CHROOT`, which would let it out, nor programs that raise privilege: a filter without
//! `CAP_SYS_ADMIN` takes no-new-privileges.

mod furniture;

use std::{
    io::Read as _,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use rustix::{
    pipe::PipeFlags,
    process::{self, Pid},
};

pub(super) use self::furniture::{Furniture, Owning};
use super::{
    child::{self, Way, Word},
    error::{During as _, Failure},
    keeper,
    spec::{Exit, Network, ProcessSpec},
    step::{self, Step},
    sys::{self, Fork},
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
        let refused = "give all capabilities, as `security=insecure` asks, without namespaces";
        return Err(Failure::new(refused, rustix::io::Errno::PERM));
    }
    furnished(spec, (root, work), Owning::Real, |furniture, kept| {
        run_in(furniture, spec, root, kept, (socket, signals, streams))
    })
}

/// Puts what a step finds into the directory `root`, has it run, and takes everything out again. `work` is another directory beside it.
pub(super) fn furnished(
    spec: &ProcessSpec,
    (root, work): (&Path, &Path),
    owning: Owning,
    run: impl FnOnce(&mut Furniture, keeper::Kept) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let mut furniture = Furniture::new(root, work, owning)?;
    let result = furnish(&mut furniture, spec).and_then(|kept| run(&mut furniture, kept));
    // Also when it failed: what was moved in has to get back.
    let taken_out = furniture.take_out();
    let exit = result?;
    taken_out.map(|()| exit)
}

fn furnish(furniture: &mut Furniture, spec: &ProcessSpec) -> Result<keeper::Kept, Failure> {
    let kept = keeper::Kept {
        proc: furniture.kernel_dir("proc")?,
        sys: furniture.kernel_dir("sys")?,
        devices: furniture.dev(spec.shm_size)?,
    };
    for (path, content) in [
        ("/etc/resolv.conf", &spec.resolv_conf),
        ("/etc/hosts", &spec.etc_hosts),
    ] {
        if let Some(content) = content {
            furniture.bytes(Path::new(path), content, 0o644, (0, 0))?;
        }
    }
    for mount in &spec.mounts {
        furniture.put(mount)?;
    }
    Ok(kept)
}

fn run_in(
    furniture: &mut Furniture,
    spec: &ProcessSpec,
    path: &Path,
    kept: keeper::Kept,
    (socket, signals, streams): (&UnixStream, BorrowedFd<'_>, &[OwnedFd]),
) -> Result<Exit, Failure> {
    process::set_child_subreaper(Some(process::getpid())).during("adopt orphans")?;
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).during("make a pipe");
    let (heard, word) = pipe()?;
    let (alive, our_life) = pipe()?;
    let (ours, theirs) = UnixStream::pair().during("make a socket")?;
    let keeper_filter = keeper::filter(spec.network == Network::None);
    let pid = match sys::clone(0).during("fork")? {
        Fork::Child => {
            drop((heard, our_life, ours));
            let way = Way {
                root: furniture.root(),
                filter: &keeper_filter,
                listener: theirs.into(),
                streams,
                alive,
            };
            let reason = child::become_step_by_chroot(spec, &way);
            child::send(word.as_fd(), &reason);
            sys::exit_now(1)
        }
        Fork::Parent(pid) => pid,
    };
    drop((word, alive, theirs));
    let keeper = match step::receive_listener(&ours)? {
        Some(listener) => Some(start_keeper(spec, furniture, path, pid, listener, kept)?),
        None => None,
    };
    let mut text = Vec::new();
    std::fs::File::from(heard)
        .read_to_end(&mut text)
        .during("hear from the step")?;
    let step = Step::without_own_pids(pid, keeper, our_life);
    if text.is_empty() {
        return step::attend(&step, furniture.take_proxies(), socket, signals);
    }
    step.dismiss()?;
    match serde_json::from_slice(&text) {
        Ok(Word::Failed(failure)) => Err(failure),
        Ok(Word::NotStarted { code, reason }) => Ok(Exit::NotStarted { code, reason }),
        Ok(Word::ProcDenied) => Err(Failure::new("mount /proc", rustix::io::Errno::PERM)),
        Err(error) => Err(Failure::new("understand the step's child", error)),
    }
}

fn start_keeper(
    spec: &ProcessSpec,
    furniture: &Furniture,
    path: &Path,
    step: Pid,
    listener: OwnedFd,
    kept: keeper::Kept,
) -> Result<Pid, Failure> {
    let charge = keeper::Charge {
        listener,
        step,
        helper: process::getpid(),
        root: furniture
            .root()
            .fd()
            .try_clone_to_owned()
            .during_at("open", path)?,
        readonly: furniture.readonly().to_vec(),
        mounted: furniture.mounted().to_vec(),
        offline: spec.network == Network::None,
        hostname: spec.hostname.clone(),
        kept,
    };
    match sys::clone(0).during("fork the keeper")? {
        Fork::Parent(pid) => Ok(pid),
        Fork::Child => {
            let served = step::release_output().and_then(|()| keeper::serve(charge));
            // The step hears that its calls are not implemented and fails; there is nobody else to tell.
            sys::exit_now(i32::from(served.is_err()))
        }
    }
}
