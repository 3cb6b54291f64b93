//! The allocator's settings, a signal that is an error here, and what the program was started with before its runtime changes it.
#![expect(unsafe_code, reason = "none has a safe wrapper")]

use std::sync::atomic::{AtomicBool, Ordering};

static STDOUT_WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether the program was started without standard output (`>&-`). The runtime opens `/dev/null` in its place before `main`, where
/// data would get lost without an error.
pub(crate) fn stdout_was_closed() -> bool {
    STDOUT_WAS_CLOSED.load(Ordering::Relaxed)
}

/// Whether the program was told to live on without its terminal (`nohup`).
pub(crate) fn hangup_is_ignored() -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the pointer is to a whole action, of which all zeroes are one, and nothing is set.
    let action = unsafe {
        libc::sigaction(libc::SIGHUP, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

extern "C" fn look_at_stdout() {
    // SAFETY: it only asks for the flags of a number, whatever is open there.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    STDOUT_WAS_CLOSED.store(flags == -1, Ordering::Relaxed);
}

// SAFETY: the C library calls what this section points at before `main`, with one thread; the function needs nothing of the runtime.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = look_at_stdout;

extern "C" fn nothing(_signal: libc::c_int) {}

/// Lets writing beyond a limit on the size of files (`ulimit -f`) be an error, which can be told, where it would end the program without
/// a word. A handler, unlike [`libc::SIG_IGN`], is not passed on to the programs that are started.
pub(crate) fn tell_of_large_files() {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all zeroes are an action, with an empty mask; the handler does nothing. Where it is refused, all is as it was.
    unsafe {
        let action = action.assume_init_mut();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(libc::SIGXFSZ, action, std::ptr::null_mut());
    }
}

/// Has all threads share two of the C library's arenas. By default each thread gets its own, and keeps what it has freed:
/// a build that copies many files would hold a quarter more memory, for no gain in time.
pub(crate) fn share_arenas() {
    // SAFETY: it only sets a number, and no other thread runs yet. Where it is refused, memory is what it was.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}
