//! The system calls of the supervisor: the listener of a filter, and metadata as raw bytes.
#![expect(
    unsafe_code,
    reason = "the ioctls of a seccomp listener and stat into raw buffers have no safe wrapper"
)]

use std::{
    io, mem,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
};

/// A call that waits for an answer: `struct seccomp_notif`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(in crate::sandbox) struct Notification {
    /// Names it in the answer.
    pub(in crate::sandbox) id: u64,
    /// The thread that makes it.
    pub(in crate::sandbox) thread: u32,
    flags: u32,
    /// Its number.
    pub(in crate::sandbox) number: i32,
    /// `AUDIT_ARCH_…`
    pub(in crate::sandbox) architecture: u32,
    instruction: u64,
    /// Its arguments.
    pub(in crate::sandbox) arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// `struct seccomp_notif_addfd`.
#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    from: u32,
    to: u32,
    to_flags: u32,
}

/// The argument of a request to a listener, which names no other.
trait Argument {
    /// `_IOWR('!', 0, struct seccomp_notif)` and so on.
    const REQUEST: u64;
}

impl Argument for Notification {
    const REQUEST: u64 = 0xc050_2100;
}

impl Argument for Response {
    const REQUEST: u64 = 0xc018_2101;
}

/// The id of a call, for the question whether it still waits.
#[repr(transparent)]
struct Id(u64);

impl Argument for Id {
    const REQUEST: u64 = 0x4008_2102;
}

impl Argument for AddFd {
    const REQUEST: u64 = 0x4018_2103;
}

const SET_FLAGS: u64 = 0x4008_2104;

const CONTINUE: u32 = 1;
const ADD_FD_SEND: u32 = 2;
const SYNC_WAKE_UP: u64 = 1;

/// Makes a request; gives what the kernel does.
fn ioctl<T: Argument>(listener: BorrowedFd<'_>, argument: &mut T) -> io::Result<i32> {
    // A request says how many bytes its argument has.
    const { assert!((T::REQUEST >> 16) as usize & 0x3fff == mem::size_of::<T>()) }
    let listener = listener.as_raw_fd();
    // SAFETY: the kernel reads and writes the argument of the request, which is of that size and laid out as its structure.
    let result = unsafe { libc::ioctl(listener, T::REQUEST, ptr::from_mut(argument)) };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Has the kernel run listener and caller on one processor in turn, which halves the cost (Linux 6.6).
pub(in crate::sandbox) fn wake_in_turn(listener: BorrowedFd<'_>) {
    // The argument is the flags themselves.
    // SAFETY: takes numbers.
    let _older_kernel = unsafe { libc::ioctl(listener.as_raw_fd(), SET_FLAGS, SYNC_WAKE_UP) };
}

/// Waits for a call. `None` when its thread was killed before it could be told, and when a listener that does not block has none.
pub(in crate::sandbox) fn receive(listener: BorrowedFd<'_>) -> io::Result<Option<Notification>> {
    let mut notification = Notification::default();
    match ioctl(listener, &mut notification) {
        Ok(_) => Ok(Some(notification)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::EINTR | libc::EAGAIN) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Whether the call still waits: after this, what was learnt of its thread was about that thread and no later one of
/// the same number.
pub(in crate::sandbox) fn is_valid(listener: BorrowedFd<'_>, id: u64) -> bool {
    ioctl(listener, &mut Id(id)).is_ok()
}

/// The answer to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) enum Answer {
    /// The kernel makes the call.
    Native,
    /// It has been made, with this result.
    Value(i64),
    /// It fails with this error number.
    Error(i32),
}

/// Answers a call. An error says that nobody waits any more.
pub(in crate::sandbox) fn send(
    listener: BorrowedFd<'_>,
    id: u64,
    answer: Answer,
) -> io::Result<()> {
    let (value, error, flags) = match answer {
        Answer::Native => (0, 0, CONTINUE),
        Answer::Value(value) => (value, 0, 0),
        Answer::Error(errno) => (0, -errno, 0),
    };
    let mut response = Response {
        id,
        value,
        error,
        flags,
    };
    ioctl(listener, &mut response).map(drop)
}

/// Gives the caller of a call that waits a copy of `fd`, to be closed when it starts a program; its number there.
pub(in crate::sandbox) fn give_fd(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
) -> io::Result<i32> {
    let mut request = AddFd {
        id,
        flags: 0,
        from: fd.as_raw_fd().cast_unsigned(),
        to: 0,
        to_flags: libc::O_CLOEXEC.cast_unsigned(),
    };
    ioctl(listener, &mut request)
}

/// Answers a call with a new descriptor of the caller that is a copy of `fd`.
pub(in crate::sandbox) fn send_fd(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    close_on_exec: bool,
) -> io::Result<()> {
    let mut request = AddFd {
        id,
        flags: ADD_FD_SEND,
        from: fd.as_raw_fd().cast_unsigned(),
        to: 0,
        to_flags: if close_on_exec {
            libc::O_CLOEXEC.cast_unsigned()
        } else {
            0
        },
    };
    match ioctl(listener, &mut request) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
        outcome => return outcome.map(drop),
    }
    // Before Linux 5.14: put the descriptor there, then answer with its number.
    request.flags = 0;
    let number = ioctl(listener, &mut request)?;
    send(listener, id, Answer::Value(number.into()))
}

/// Reads from the memory of a thread's process, as many bytes of `into` as there are from `address` on.
pub(in crate::sandbox) fn read_memory(
    thread: u32,
    address: u64,
    into: &mut [u8],
) -> io::Result<usize> {
    let ours = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    transfer(libc::SYS_process_vm_readv, thread, address, ours)
}

/// Writes to it; gives how many bytes were written. Unlike `/proc/PID/mem` it respects what may not be written.
pub(in crate::sandbox) fn write_memory(
    thread: u32,
    address: u64,
    from: &[u8],
) -> io::Result<usize> {
    let ours = libc::iovec {
        iov_base: from.as_ptr().cast_mut().cast(),
        iov_len: from.len(),
    };
    transfer(libc::SYS_process_vm_writev, thread, address, ours)
}

fn transfer(call: libc::c_long, thread: u32, address: u64, ours: libc::iovec) -> io::Result<usize> {
    // An address of another process, which only the kernel uses.
    let theirs = [address, ours.iov_len as u64];
    // SAFETY: `ours` describes memory that is valid for the call; `theirs` has the layout of a `struct iovec` of 64 bits.
    let count = unsafe {
        libc::syscall(
            call,
            thread,
            ptr::from_ref(&ours),
            1_u64,
            theirs.as_ptr(),
            1_u64,
            0_u64,
        )
    };
    usize::try_from(count).map_err(|_negative| io::Error::last_os_error())
}

/// `struct stat` of the kernel as bytes, and where it has the fields that the supervisor changes.
#[derive(Debug, Clone)]
pub(in crate::sandbox) struct RawStat(pub(in crate::sandbox) [u8; STAT_LEN]);

#[cfg(target_arch = "x86_64")]
mod layout {
    pub(super) const STAT_LEN: usize = 144;
    pub(super) const MODE: usize = 24;
    pub(super) const UID: usize = 28;
    pub(super) const GID: usize = 32;
    pub(super) const RDEV: usize = 40;
    pub(super) const DEV: usize = 0;
    pub(super) const NLINK: usize = 16;
}

#[cfg(not(target_arch = "x86_64"))]
mod layout {
    pub(super) const STAT_LEN: usize = 128;
    pub(super) const MODE: usize = 16;
    pub(super) const UID: usize = 24;
    pub(super) const GID: usize = 28;
    pub(super) const RDEV: usize = 32;
    pub(super) const DEV: usize = 0;
    pub(super) const NLINK: usize = 20;
}

use layout::STAT_LEN;

/// What the supervisor changes in metadata.
#[derive(Debug, Clone, Copy)]
pub(in crate::sandbox) struct Changed {
    pub(in crate::sandbox) uid: u32,
    pub(in crate::sandbox) gid: u32,
    /// Permission bits of the mode; `None`: those that it has.
    pub(in crate::sandbox) mode: Option<u32>,
    /// Type bits of the mode, and device number.
    pub(in crate::sandbox) device: Option<(u32, u32, u32)>,
    /// Device number of the file system that it seems to be in, major and minor.
    pub(in crate::sandbox) file_system: Option<(u32, u32)>,
}

impl RawStat {
    /// The metadata of what `fd` is open on.
    pub(in crate::sandbox) fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let mut raw = Self([0; STAT_LEN]);
        // SAFETY: the path is an empty string; the buffer has the size of the kernel's `struct stat`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_newfstatat,
                fd.as_raw_fd(),
                c"".as_ptr(),
                raw.0.as_mut_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
        if result == -1 {
            Err(io::Error::last_os_error())
        } else {
            Ok(raw)
        }
    }

    /// Metadata that is known already.
    pub(in crate::sandbox) fn new(stat: &rustix::fs::Stat) -> Self {
        // Where both machines have the rest.
        let [ino, size, blksize, blocks, times_at] = [8, 48, 56, 64, 72];
        let mut raw = Self([0; STAT_LEN]);
        raw.put(layout::DEV, &stat.st_dev.to_ne_bytes());
        raw.put(ino, &stat.st_ino.to_ne_bytes());
        raw.put(layout::NLINK, &stat.st_nlink.to_ne_bytes());
        raw.put(layout::MODE, &stat.st_mode.to_ne_bytes());
        raw.put(layout::UID, &stat.st_uid.to_ne_bytes());
        raw.put(layout::GID, &stat.st_gid.to_ne_bytes());
        raw.put(layout::RDEV, &stat.st_rdev.to_ne_bytes());
        raw.put(size, &stat.st_size.to_ne_bytes());
        raw.put(blksize, &stat.st_blksize.to_ne_bytes());
        raw.put(blocks, &stat.st_blocks.to_ne_bytes());
        let times = [
            (stat.st_atime, stat.st_atime_nsec),
            (stat.st_mtime, stat.st_mtime_nsec),
            (stat.st_ctime, stat.st_ctime_nsec),
        ];
        for (index, (seconds, nanos)) in times.into_iter().enumerate() {
            raw.put(times_at + 16 * index, &seconds.to_ne_bytes());
            raw.put(times_at + 16 * index + 8, &nanos.to_ne_bytes());
        }
        raw
    }

    /// Puts other values in.
    pub(in crate::sandbox) fn change(&mut self, changed: Changed) {
        self.put(layout::UID, &changed.uid.to_ne_bytes());
        self.put(layout::GID, &changed.gid.to_ne_bytes());
        if let Some(mode) = changed.mode {
            let at = layout::MODE;
            let old = u32::from_ne_bytes(std::array::from_fn(|i| self.0[at + i]));
            self.put(at, &(old & libc::S_IFMT | mode).to_ne_bytes());
        }
        if let Some((kind, major, minor)) = changed.device {
            let at = layout::MODE;
            let mut mode = [0; 4];
            mode.copy_from_slice(&self.0[at..at + 4]);
            let mode = (u32::from_ne_bytes(mode) & 0o7777) | kind;
            self.put(at, &mode.to_ne_bytes());
            let device = rustix::fs::makedev(major, minor);
            self.put(layout::RDEV, &device.to_ne_bytes());
        }
        if let Some((major, minor)) = changed.file_system {
            let device = rustix::fs::makedev(major, minor);
            self.put(layout::DEV, &device.to_ne_bytes());
        }
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// The lower half of a number. Times before 1970 and inodes lose their upper halves, as they do with the kernel.
fn low(value: impl Into<u64>) -> [u8; 4] {
    let value = value.into() & 0xffff_ffff;
    u32::try_from(value).unwrap_or(0).to_ne_bytes()
}

/// `struct stat64` of 32-bit x86.
pub(in crate::sandbox) fn stat_of_32_bits(stat: &rustix::fs::Stat, changed: Changed) -> [u8; 96] {
    let mut raw = [0; 96];
    let mut put = |at: usize, bytes: &[u8]| raw[at..at + bytes.len()].copy_from_slice(bytes);
    let (mut mode, mut device) = (stat.st_mode, stat.st_rdev);
    if let Some((kind, major, minor)) = changed.device {
        (mode, device) = ((mode & 0o7777) | kind, rustix::fs::makedev(major, minor));
    }
    put(0, &stat.st_dev.to_ne_bytes());
    put(12, &low(stat.st_ino));
    put(16, &mode.to_ne_bytes());
    put(20, &low(stat.st_nlink));
    put(24, &changed.uid.to_ne_bytes());
    put(28, &changed.gid.to_ne_bytes());
    put(32, &device.to_ne_bytes());
    put(44, &stat.st_size.to_ne_bytes());
    put(52, &low(stat.st_blksize.cast_unsigned()));
    put(56, &stat.st_blocks.to_ne_bytes());
    for (at, seconds, nanos) in [
        (64, stat.st_atime, stat.st_atime_nsec),
        (72, stat.st_mtime, stat.st_mtime_nsec),
        (80, stat.st_ctime, stat.st_ctime_nsec),
    ] {
        put(at, &low(seconds.cast_unsigned()));
        put(at + 4, &low(nanos));
    }
    put(88, &stat.st_ino.to_ne_bytes());
    raw
}

/// `struct statx` as bytes.
#[derive(Debug, Clone)]
pub(in crate::sandbox) struct RawStatx(pub(in crate::sandbox) [u8; 256]);

impl RawStatx {
    /// The metadata of what `fd` is open on.
    pub(in crate::sandbox) fn of(fd: BorrowedFd<'_>, flags: i32, mask: u32) -> io::Result<Self> {
        let mut raw = Self([0; 256]);
        let sync = flags & (libc::AT_STATX_FORCE_SYNC | libc::AT_STATX_DONT_SYNC);
        // SAFETY: the path is an empty string; the buffer has the size of `struct statx`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_statx,
                fd.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH | sync,
                mask,
                raw.0.as_mut_ptr(),
            )
        };
        if result == -1 {
            Err(io::Error::last_os_error())
        } else {
            Ok(raw)
        }
    }

    /// Puts other values in.
    pub(in crate::sandbox) fn change(&mut self, changed: Changed) {
        self.put(20, &changed.uid.to_ne_bytes());
        self.put(24, &changed.gid.to_ne_bytes());
        if let Some(wanted) = changed.mode {
            let old = u32::from(u16::from_ne_bytes([self.0[28], self.0[29]]));
            let mode = u16::try_from(old & libc::S_IFMT | wanted).unwrap_or(u16::MAX);
            self.put(28, &mode.to_ne_bytes());
        }
        if let Some((kind, major, minor)) = changed.device {
            let mode = u32::from(u16::from_ne_bytes([self.0[28], self.0[29]]));
            let mode = u16::try_from((mode & 0o7777) | kind).unwrap_or(u16::MAX);
            self.put(28, &mode.to_ne_bytes());
            self.put(128, &major.to_ne_bytes());
            self.put(132, &minor.to_ne_bytes());
        }
        if let Some((major, minor)) = changed.file_system {
            self.put(136, &major.to_ne_bytes());
            self.put(140, &minor.to_ne_bytes());
        }
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// Makes the calling thread another user and group to the file system and to the check of who may look into whom.
/// Returns without having done so where that is not allowed.
pub(in crate::sandbox) fn set_file_ids(uid: u32, gid: u32) {
    // Group first: the user that is left may not be allowed to.
    // SAFETY: both take numbers.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
    }
}

/// `struct statfs` of the file system that `fd` is in, as bytes.
pub(in crate::sandbox) fn raw_statfs(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut raw = vec![0; mem::size_of::<libc::statfs>()];
    // SAFETY: the buffer has the size of the structure.
    let result = unsafe { libc::syscall(libc::SYS_fstatfs, fd.as_raw_fd(), raw.as_mut_ptr()) };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(raw)
    }
}

/// The same for a file system in memory that holds `size` bytes and is empty.
pub(in crate::sandbox) fn in_memory(mut raw: Vec<u8>, size: u64) -> Vec<u8> {
    /// `TMPFS_MAGIC`, and a page.
    const MAGIC: u64 = 0x0102_1994;
    const PAGE: u64 = 4096;
    let blocks = size.div_ceil(PAGE);
    // Kind, size of a block, blocks, and those that are free for root and for all.
    for (index, word) in [MAGIC, PAGE, blocks, blocks, blocks]
        .into_iter()
        .enumerate()
    {
        raw[8 * index..8 * index + 8].copy_from_slice(&word.to_ne_bytes());
    }
    // The size of a fragment is what blocks are counted in.
    raw[72..80].copy_from_slice(&PAGE.to_ne_bytes());
    raw
}

/// Bytes of memory that the machine has.
pub(in crate::sandbox) fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram * u64::from(info.mem_unit)
}

const _: () = assert!(mem::size_of::<libc::statfs>() == 120);
const _: () = assert!(mem::size_of::<libc::stat>() == STAT_LEN);
const _: () = assert!(mem::size_of::<libc::statx>() == mem::size_of::<RawStatx>());
