//! The system calls of the sandbox that have no safe wrapper elsewhere.
#![expect(
    unsafe_code,
    reason = "clone, execve, mount_setattr, seccomp and signal masks have no safe wrapper in rustix"
)]

use std::{
    ffi::CString,
    io,
    mem::{self, MaybeUninit},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr,
};

use rustix::process::Pid;

/// Which half of a fork the caller is.
#[derive(Debug)]
pub(super) enum Fork {
    /// The parent; the child has this number.
    Parent(Pid),
    /// The child.
    Child,
}

/// Turns `-1` into the last error.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn forked(pid: libc::c_long) -> io::Result<Fork> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    Ok(Pid::from_raw(pid).map_or(Fork::Child, Fork::Parent))
}

/// Forks into the new namespaces of `flags` (`CLONE_NEW…`) by `clone`.
///
/// The calling process must have a single thread: in the child of one with several, locks would stay taken forever.
pub(super) fn clone(flags: libc::c_int) -> io::Result<Fork> {
    let flags = libc::c_long::from(flags | libc::SIGCHLD);
    // SAFETY: without CLONE_VM and with a null stack this is fork: the child has its own copy of everything. The
    // caller has one thread, so no lock of the C library is held. Null for the remaining arguments is "none".
    forked(check(unsafe {
        libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize)
    })?)
}

/// The same by `clone3`, which some filters of system calls allow where they refuse `clone`.
pub(super) fn clone3(flags: libc::c_int) -> io::Result<Fork> {
    // The first version of `struct clone_args`: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls.
    let mut args = [0_u64; 8];
    args[0] = u64::from(flags.cast_unsigned());
    args[4] = u64::from(libc::SIGCHLD.cast_unsigned());
    // SAFETY: as for `clone`; `args` is a valid `clone_args` of the size that is passed with it.
    forked(check(unsafe {
        libc::syscall(libc::SYS_clone3, args.as_ptr(), mem::size_of_val(&args))
    })?)
}

/// Room for the functions of a process that shares the memory of its parent, with a page below that cannot be used.
#[derive(Debug)]
pub(super) struct Stack(ptr::NonNull<libc::c_void>);

impl Stack {
    /// What is not used takes no memory.
    const SIZE: usize = 1 << 20;
    /// At least a page on any machine.
    const GUARD: usize = 1 << 16;

    pub(super) fn new() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a new mapping at an address that the kernel chooses; the part that is made unusable is its own.
        unsafe {
            let start = libc::mmap(ptr::null_mut(), Self::SIZE, libc::PROT_NONE, flags, -1, 0);
            if start == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let stack = Self(ptr::NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?);
            let usable = libc::PROT_READ | libc::PROT_WRITE;
            let above = start.byte_add(Self::GUARD);
            check(libc::mprotect(above, Self::SIZE - Self::GUARD, usable).into())?;
            Ok(stack)
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own. Nobody runs on it: `clone_sharing` borrows it until they have gone.
        unsafe { libc::munmap(self.0.as_ptr(), Self::SIZE) };
    }
}

/// Runs `work` in a new process in the new namespaces of `flags` (`CLONE_NEW…`). It shares the memory of the caller, who waits
/// until it has started a program or has ended: nothing has to be copied for it, and nothing be faulted in again.
///
/// `work` gives the exit status if it returns. What it leaves allocated when it starts a program stays so. It has its own copy of the
/// descriptors, the working directory, and the handlers and the mask of signals. The calling process must have a single thread.
pub(super) fn clone_sharing(
    flags: libc::c_int,
    stack: &mut Stack,
    work: &dyn Fn() -> i32,
) -> io::Result<Pid> {
    extern "C" fn begin(work: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `clone_sharing` passes a pointer to its own `work`, and waits in the kernel while this runs.
        let work = unsafe { &*work.cast::<&dyn Fn() -> i32>() };
        exit_now(work())
    }
    let flags = flags | libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the top of the stack is aligned as the end of a mapping is, and stacks grow down. The caller has one thread, which
    // CLONE_VFORK stops until the child no longer uses the memory, so no two ever use it at once.
    let pid = check(
        unsafe {
            let top = stack.0.as_ptr().byte_add(Stack::SIZE);
            libc::clone(begin, top, flags, ptr::from_ref(&work).cast_mut().cast())
        }
        .into(),
    )?;
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    Pid::from_raw(pid).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Closes the calling process's own copies of descriptors that belong to the process whose memory it shares, or has a copy of.
pub(super) fn close_copies(fds: &[BorrowedFd<'_>]) {
    for fd in fds {
        // SAFETY: the owners are in the other process, which has its own table of descriptors; nothing here uses them after this.
        unsafe { libc::close(fd.as_raw_fd()) };
    }
}

/// Moves the calling process into the new namespaces of `flags` (`CLONE_NEW…`).
pub(super) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: takes a number. The flags in use make namespaces; none unshares memory or descriptors.
    check(unsafe { libc::syscall(libc::SYS_unshare, flags) }).map(drop)
}

/// Replaces the program; returns only if that fails.
pub(super) fn execve(program: &CString, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| {
        let mut all: Vec<_> = strings.iter().map(|s| s.as_ptr()).collect();
        all.push(ptr::null());
        all
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end in null and point to strings that end in NUL and outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Sets attributes (`MOUNT_ATTR_…`) on the mount that `fd` is in, and with `recursive` on all mounts below it.
/// Attributes that are set already stay.
pub(super) fn mount_setattr(
    fd: BorrowedFd<'_>,
    attributes: u64,
    recursive: bool,
) -> io::Result<()> {
    // `struct mount_attr`: attr_set, attr_clr, propagation, userns_fd.
    let attr = [attributes, 0, 0, 0];
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is an empty string, `attr` a valid `mount_attr` of the size that is passed with it.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            attr.as_ptr(),
            mem::size_of_val(&attr),
        )
    })
    .map(drop)
}

/// A copy of the mount that `fd` is in, from what `fd` is open on, with everything mounted below it; mounted nowhere yet.
/// Since Linux 5.2.
pub(super) fn copy_mounts(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | libc::AT_EMPTY_PATH.cast_unsigned()
        | libc::AT_RECURSIVE.cast_unsigned();
    // SAFETY: the path is an empty string; the descriptor that comes back is nobody else's.
    unsafe {
        let name = c"".as_ptr();
        let tree = check(libc::syscall(
            libc::SYS_open_tree,
            fd.as_raw_fd(),
            name,
            flags,
        ))?;
        let tree = i32::try_from(tree).map_err(io::Error::other)?;
        Ok(OwnedFd::from_raw_fd(tree))
    }
}

/// Mounts what [`copy_mounts`] gave on what `target` is open on.
pub(super) fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    let name = c"".as_ptr();
    // SAFETY: both paths are empty strings.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            name,
            target.as_raw_fd(),
            name,
            flags,
        )
    })
    .map(drop)
}

/// Blocks `signals` and gives a descriptor that becomes readable when one of them is pending. Each read of a
/// `signalfd_siginfo` takes one; see [`read_signal`].
pub(super) fn signal_fd(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set before anything reads it; `signalfd` gives a new descriptor that
    // nobody else owns.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        check(libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut()).into())?;
        let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        check(fd.into())?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// The process at the other end of a socket; `None` when it has none, or is no socket.
pub(super) fn peer_of(socket: &OwnedFd) -> Option<i32> {
    let mut told = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut length = libc::socklen_t::try_from(mem::size_of_val(&told)).ok()?;
    // SAFETY: the buffer has the length that is given, and both are valid for writes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            std::ptr::from_mut(&mut told).cast(),
            &raw mut length,
        )
    };
    (result == 0 && told.pid > 0).then_some(told.pid)
}

/// A signal taken from a [`signal_fd`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    /// Which.
    pub(super) signal: libc::c_int,
    /// Whether a process sent it by `kill`, rather than the terminal.
    pub(super) by_process: bool,
}

/// Takes one pending signal; `None` when there is none.
pub(super) fn read_signal(fd: BorrowedFd<'_>) -> io::Result<Option<Received>> {
    let mut buffer = [0_u8; mem::size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(fd, &mut buffer) {
        Ok(n) if n == buffer.len() => {
            // `ssi_signo` and `ssi_code` are the first and third word.
            let word = |at: usize| {
                i32::from_ne_bytes([buffer[at], buffer[at + 1], buffer[at + 2], buffer[at + 3]])
            };
            Ok(Some(Received {
                signal: word(0),
                by_process: word(8) <= 0,
            }))
        }
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives all signals their default action and unblocks them, as a new program expects.
pub(super) fn reset_signals() {
    // The system call and not `signal`, which refuses the two signals that C libraries keep for their threads: glibc ignores
    // them in programs that it spawns, and that is inherited. All zeros is the default action, on every machine.
    let default = [0_usize; 8];
    // SAFETY: the array is longer than the kernel's structure and lives on; failures (SIGKILL, SIGSTOP) change nothing.
    unsafe {
        for signal in 1..=64_usize {
            let nothing = ptr::null_mut::<libc::c_void>();
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                nothing,
                8_usize,
            );
        }
    }
    unblock_signals();
}

/// Unblocks all signals of the calling thread.
pub(super) fn unblock_signals() {
    // SAFETY: the set is initialised before it is used.
    unsafe {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut());
    }
}

/// Marks all descriptors from `first` on to be closed when a program is started.
pub(super) fn close_on_exec_from(first: u32) {
    // SAFETY: takes numbers; closes nothing now.
    let result = check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    });
    if result.is_ok() {
        return;
    }
    // Before Linux 5.11. What we opened ourselves is marked anyway; inherited descriptors have low numbers.
    for fd in first.cast_signed()..1024 {
        // SAFETY: takes numbers; fails for what is not open.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// One instruction of a filter of system calls, as the kernel takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    /// The operation.
    pub(super) code: u16,
    /// How many instructions to skip when a comparison holds.
    pub(super) jump_true: u8,
    /// How many when not.
    pub(super) jump_false: u8,
    /// The operand.
    pub(super) k: u32,
}

#[repr(C)]
struct Program {
    len: u16,
    filter: *const Instruction,
}

/// Installs a filter of system calls on the calling thread, for good. Needs `CAP_SYS_ADMIN` or no-new-privileges.
pub(super) fn set_filter(filter: &[Instruction]) -> io::Result<()> {
    seccomp_filter(filter, 0).map(drop)
}

/// The same with `SECCOMP_FILTER_FLAG_NEW_LISTENER`: gives the descriptor on which calls are announced.
pub(super) fn set_filter_with_listener(filter: &[Instruction]) -> io::Result<OwnedFd> {
    /// Once a call is announced, only a deadly signal interrupts it (Linux 5.19): a call that was carried out is not
    /// made again.
    const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let fd = seccomp_filter(filter, listener | WAIT_KILLABLE_RECV)
        .or_else(|_unknown| seccomp_filter(filter, listener))?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn seccomp_filter(filter: &[Instruction], flags: libc::c_ulong) -> io::Result<libc::c_long> {
    let program = Program {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_ptr(),
    };
    // SAFETY: `program` is laid out as `sock_fprog` and its pointer is good for `len` instructions of the layout of
    // `sock_filter`. The kernel checks the instructions.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            ptr::from_ref(&program),
        )
    })
}

/// Switches the interface `lo` on in the network namespace of the calling process.
pub(super) fn loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    request.ifr_name[0] = b'l'.cast_signed();
    request.ifr_name[1] = b'o'.cast_signed();
    let up = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = i16::try_from(up).map_err(io::Error::other)?;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`.
    check(
        unsafe {
            libc::ioctl(
                socket.as_raw_fd(),
                libc::SIOCSIFFLAGS,
                ptr::from_ref(&request),
            )
        }
        .into(),
    )
    .map(drop)
}

/// Puts `fd` in place of the descriptor `number` of the calling process.
pub(super) fn replace_descriptor(number: i32, fd: impl AsFd) -> io::Result<()> {
    // SAFETY: dup2 closes `number`; the callers give 0, 1 or 2, which no `OwnedFd` of theirs owns.
    check(unsafe { libc::dup2(fd.as_fd().as_raw_fd(), number) }.into()).map(drop)
}

/// The standard descriptor `number` (0, 1 or 2) as a borrowed one.
pub(super) fn standard(number: i32) -> BorrowedFd<'static> {
    // SAFETY: the three standard descriptors are open for the life of the process: Rust's start-up opens missing
    // ones, and the sandbox only ever replaces them.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Ends the calling process at once, without running anything more of the program: for the child of a fork.
pub(super) fn exit_now(status: i32) -> ! {
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(status) }
}
