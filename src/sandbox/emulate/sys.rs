//! The system calls of emulation that have no safe wrapper elsewhere: tracing a thread, and limits of other processes.
#![expect(
    unsafe_code,
    reason = "ptrace, prlimit of another process and calls with a number in front of a filter have no safe wrapper"
)]

use std::{
    io, mem,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
};

use rustix::io::Errno;

/// Numbers of calls that threads are made to make.
pub(super) mod number {
    pub(in super::super) const BIND: i64 = libc::SYS_bind;
    pub(in super::super) const CHDIR: i64 = libc::SYS_chdir;
    pub(in super::super) const CLOSE: i64 = libc::SYS_close;
    pub(in super::super) const CONNECT: i64 = libc::SYS_connect;
    pub(in super::super) const EXECVEAT: i64 = libc::SYS_execveat;
    pub(in super::super) const FCHDIR: i64 = libc::SYS_fchdir;
    pub(in super::super) const FTRUNCATE: i64 = libc::SYS_ftruncate;
    pub(in super::super) const GETPEERNAME: i64 = libc::SYS_getpeername;
    pub(in super::super) const GETSOCKNAME: i64 = libc::SYS_getsockname;
    pub(in super::super) const GETSOCKOPT: i64 = libc::SYS_getsockopt;
    pub(in super::super) const INOTIFY_ADD_WATCH: i64 = libc::SYS_inotify_add_watch;
    pub(in super::super) const MMAP: i64 = libc::SYS_mmap;
    pub(in super::super) const MUNMAP: i64 = libc::SYS_munmap;
    pub(in super::super) const OPENAT: i64 = libc::SYS_openat;
    pub(in super::super) const SENDMSG: i64 = libc::SYS_sendmsg;
}

/// The registers of a thread: `struct user_regs_struct`.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub(super) struct Registers(libc::user_regs_struct);

/// Nothing is known of the registers of other machines, on which emulation is refused.
#[cfg(not(target_arch = "x86_64"))]
#[derive(Debug, Clone, Copy)]
pub(super) struct Registers;

#[cfg(target_arch = "x86_64")]
impl Registers {
    /// As if the thread, which has just made a system call, made the call `number` at the same place.
    pub(super) fn calling(mut self, number: i64, arguments: [u64; 6]) -> Self {
        /// Bytes of the instruction `syscall`.
        const LENGTH: u64 = 2;
        self.0.rip = self.0.rip.wrapping_sub(LENGTH);
        self.0.rax = number.cast_unsigned();
        // No call that the kernel would think of restarting.
        self.0.orig_rax = u64::MAX;
        [
            self.0.rdi, self.0.rsi, self.0.rdx, self.0.r10, self.0.r8, self.0.r9,
        ] = arguments;
        self
    }

    /// As if the call that the thread has made had this result.
    pub(super) fn returning(mut self, value: i64) -> Self {
        self.0.rax = value.cast_unsigned();
        self.0.orig_rax = u64::MAX;
        self
    }

    /// The result of a call.
    pub(super) fn result(&self) -> i64 {
        self.0.rax.cast_signed()
    }

    /// Where the stack ends.
    pub(super) fn stack(&self) -> u64 {
        self.0.rsp
    }

    /// With the stack ending elsewhere.
    pub(super) fn with_stack(mut self, stack: u64) -> Self {
        self.0.rsp = stack;
        self
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Registers {
    pub(super) fn calling(self, _number: i64, _arguments: [u64; 6]) -> Self {
        self
    }

    pub(super) fn returning(self, _value: i64) -> Self {
        self
    }

    pub(super) fn result(&self) -> i64 {
        -i64::from(libc::ENOSYS)
    }

    pub(super) fn stack(&self) -> u64 {
        0
    }

    pub(super) fn with_stack(self, _stack: u64) -> Self {
        self
    }
}

fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result == -1 {
        Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
    } else {
        Ok(result)
    }
}

fn request(request: libc::c_uint, thread: i32, address: usize, data: usize) -> Result<(), Errno> {
    // SAFETY: none of the requests that come here takes a pointer to this process's memory.
    check(unsafe { libc::ptrace(request, thread, address, data) }).map(drop)
}

/// Begins to trace a thread, which goes on as it was. It is killed with this process.
pub(super) fn seize(thread: i32) -> Result<(), Errno> {
    let options = libc::PTRACE_O_TRACEEXEC | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
    request(
        libc::PTRACE_SEIZE,
        thread,
        0,
        usize::try_from(options).unwrap_or(0),
    )
}

/// Asks a traced thread to stop; it does before it comes back from the kernel.
pub(super) fn interrupt(thread: i32) -> Result<(), Errno> {
    request(libc::PTRACE_INTERRUPT, thread, 0, 0)
}

/// Lets a traced thread that has stopped go on to the next call's beginning or end, with `signal` unless that is 0.
pub(super) fn go_on(thread: i32, signal: i32) -> Result<(), Errno> {
    let signal = usize::try_from(signal).unwrap_or(0);
    request(libc::PTRACE_SYSCALL, thread, 0, signal)
}

/// Lets go of a traced thread that has stopped.
pub(super) fn detach(thread: i32) -> Result<(), Errno> {
    request(libc::PTRACE_DETACH, thread, 0, 0)
}

/// The registers of a traced thread that has stopped.
#[cfg(target_arch = "x86_64")]
pub(super) fn registers(thread: i32) -> Result<Registers, Errno> {
    // SAFETY: all-zero is a valid value; the request fills the structure, whose size the kernel knows.
    unsafe {
        let mut registers: libc::user_regs_struct = mem::zeroed();
        check(libc::ptrace(
            libc::PTRACE_GETREGS,
            thread,
            0_usize,
            ptr::from_mut(&mut registers),
        ))?;
        Ok(Registers(registers))
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn registers(_thread: i32) -> Result<Registers, Errno> {
    Err(Errno::NOSYS)
}

/// Sets them.
#[cfg(target_arch = "x86_64")]
pub(super) fn set_registers(thread: i32, registers: &Registers) -> Result<(), Errno> {
    // SAFETY: the request reads a structure of the size that the kernel knows.
    check(unsafe {
        libc::ptrace(
            libc::PTRACE_SETREGS,
            thread,
            0_usize,
            ptr::from_ref(&registers.0),
        )
    })
    .map(drop)
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn set_registers(_thread: i32, _registers: &Registers) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

/// The signals that a traced thread that has stopped blocks.
pub(super) fn blocked(thread: i32) -> Result<u64, Errno> {
    let mut mask = 0_u64;
    // SAFETY: the kernel writes as many bytes as the request names, which is the size of `mask`.
    check(unsafe {
        libc::ptrace(
            libc::PTRACE_GETSIGMASK,
            thread,
            mem::size_of::<u64>(),
            ptr::from_mut(&mut mask),
        )
    })?;
    Ok(mask)
}

/// Sets them.
pub(super) fn block(thread: i32, mask: u64) -> Result<(), Errno> {
    // SAFETY: the kernel reads as many bytes as the request names, which is the size of `mask`.
    check(unsafe {
        libc::ptrace(
            libc::PTRACE_SETSIGMASK,
            thread,
            mem::size_of::<u64>(),
            ptr::from_ref(&mask),
        )
    })
    .map(drop)
}

/// Why a traced thread has come to the one who traces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// It begins a call, or has ended one.
    Call,
    /// It has become another program.
    Exec,
    /// It is about to get this signal.
    Signal(i32),
    /// It was asked to stop, or stops with its process.
    Asked,
    /// It is gone.
    Gone,
}

/// Waits for a thread that this thread traces; without `patient`, comes back with `None` at once when it has nothing to tell.
pub(super) fn wait(thread: i32, patient: bool) -> Result<Option<Stop>, Errno> {
    /// `PTRACE_EVENT_STOP`
    const EVENT_STOP: i32 = 128;
    let mut status = 0;
    let flags = libc::__WALL | libc::__WNOTHREAD | if patient { 0 } else { libc::WNOHANG };
    // SAFETY: `status` is valid for writes.
    match check(unsafe { libc::waitpid(thread, &raw mut status, flags) }.into()) {
        Ok(0) => return Ok(None),
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(None),
        Err(error) => return Err(error),
    }
    if !libc::WIFSTOPPED(status) {
        return Ok(Some(Stop::Gone));
    }
    let signal = libc::WSTOPSIG(status);
    Ok(Some(match status >> 16 {
        libc::PTRACE_EVENT_EXEC => Stop::Exec,
        EVENT_STOP => Stop::Asked,
        _ if signal == libc::SIGTRAP | 0x80 => Stop::Call,
        _ => Stop::Signal(signal),
    }))
}

/// Takes note of a child of this thread that has ended, of `child` or of any: its number and status; `None` when there is none. The
/// stops of children that other threads trace are theirs: a child is looked at before anything is taken.
pub(super) fn reap(child: Option<i32>) -> Result<Option<(i32, i32)>, Errno> {
    let kinds = libc::__WNOTHREAD | libc::__WALL | libc::WNOHANG;
    let flags = kinds | libc::WEXITED | libc::WNOWAIT;
    let (which, number) = match child {
        Some(child) => (libc::P_PID, child.cast_unsigned()),
        None => (libc::P_ALL, 0),
    };
    // SAFETY: all-zero is a valid value, which the call fills in; a child that is told of has a number.
    let (code, child) = unsafe {
        let mut told: libc::siginfo_t = mem::zeroed();
        check(libc::waitid(which, number, &raw mut told, flags).into())?;
        (told.si_code, told.si_pid())
    };
    let has_ended = [libc::CLD_EXITED, libc::CLD_KILLED, libc::CLD_DUMPED].contains(&code);
    if child == 0 || !has_ended {
        return Ok(None);
    }
    let mut status = 0;
    // SAFETY: `status` is valid for writes.
    let reaped = check(unsafe { libc::waitpid(child, &raw mut status, kinds) }.into())?;
    Ok((reaped != 0).then_some((child, status)))
}

/// Has this process told of children that end, and not of those that stop, as they do each time when they are traced.
pub(super) fn hear_of_ends_only() -> Result<(), Errno> {
    // SAFETY: all-zero is a valid value: the default action.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_flags = libc::SA_NOCLDSTOP;
        check(libc::sigaction(libc::SIGCHLD, &raw const action, ptr::null_mut()).into()).map(drop)
    }
}

/// The soft and hard limit of a process, or of that of a thread, to the time that real-time processes run.
pub(in crate::sandbox) fn time_limit(thread: u32) -> Option<(u64, u64)> {
    limit(thread, libc::RLIMIT_RTTIME)
}

/// How large a process may make files, in bytes.
pub(super) fn size_limit(thread: u32) -> Option<u64> {
    limit(thread, libc::RLIMIT_FSIZE).map(|(soft, _)| soft)
}

fn limit(thread: u32, resource: libc::__rlimit_resource_t) -> Option<(u64, u64)> {
    let mut limit = [0_u64; 2];
    // SAFETY: a null pointer sets nothing; the kernel writes a `struct rlimit64`, which is two numbers of 64 bits.
    let result = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            thread,
            resource,
            ptr::null::<u64>(),
            limit.as_mut_ptr(),
        )
    };
    (result == 0).then_some((limit[0], limit[1]))
}

/// Sets it.
pub(in crate::sandbox) fn set_time_limit(thread: u32, limit: (u64, u64)) -> Result<(), Errno> {
    let limit = [limit.0, limit.1];
    // SAFETY: the kernel reads a `struct rlimit64`, which is two numbers of 64 bits.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            thread,
            libc::RLIMIT_RTTIME,
            limit.as_ptr(),
            ptr::null_mut::<u64>(),
        )
    })
    .map(drop)
}

/// Sends a descriptor through a socket, in a call whose last argument is `pass`.
pub(super) fn send_descriptor(
    to: BorrowedFd<'_>,
    fd: BorrowedFd<'_>,
    pass: u64,
) -> Result<(), Errno> {
    /// Room for one message with one descriptor, aligned as its header has to be.
    #[repr(C, align(8))]
    struct Control([u8; 24]);
    let mut control = Control([0; 24]);
    let mut byte = *b"l";
    let mut vector = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    // SAFETY: all-zero is a valid header. The control buffer has room for one descriptor, which is written into it where the
    // macros say. All that the header points to lives until the call is over.
    unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = usize::try_from(libc::CMSG_LEN(4)).unwrap_or(20);
        ptr::write_unaligned(libc::CMSG_DATA(header).cast(), fd.as_raw_fd());
        let sent = libc::syscall(
            libc::SYS_sendmsg,
            to.as_raw_fd(),
            &raw const message,
            0,
            0,
            0,
            pass,
        );
        let sent = check(sent).map(drop);
        // Else the register would keep it for later calls, which have fewer arguments.
        libc::syscall(libc::SYS_getpid, 0, 0, 0, 0, 0, 0);
        sent
    }
}
