//! The allocator's settings.
#![expect(unsafe_code, reason = "mallopt has no safe wrapper")]

/// Has all threads share two of the C library's arenas. By default each thread gets its own, and keeps what it has freed:
/// a build that copies many files would hold a quarter more memory, for no gain in time.
pub(crate) fn share_arenas() {
    // SAFETY: it only sets a number, and no other thread runs yet. Where it is refused, memory is what it was.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}
