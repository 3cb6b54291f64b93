//! Who is at the other end of a socket: the kernel knows which process that is, and the supervisor who that believes to be. Servers go by
//! it, such as databases that let in whoever is the user of the same name.

use rustix::process::{self, Pid, PidfdFlags, PidfdGetfdFlags};

use super::{
    super::sys::peer_of, Supervisor, Verdict, identity::Identities, sys::Answer, tracee::Tracee,
};

/// How long a `struct ucred` is: process, user, group.
pub(in crate::sandbox) const LENGTH: [u8; 4] = 12_u32.to_ne_bytes();

/// The `struct ucred` of a process that has the number `outer` here and `inner` in the step.
pub(in crate::sandbox) fn ucred(identities: &Identities, outer: u32, inner: i32) -> Vec<u8> {
    let who = identities.of(outer);
    [
        inner.to_ne_bytes(),
        who.user().to_ne_bytes(),
        who.group().to_ne_bytes(),
    ]
    .concat()
}

impl Supervisor {
    /// `getsockopt` of `SO_PEERCRED`.
    pub(super) fn peer(&self, tracee: &Tracee) -> Verdict {
        let asks = tracee.signed(1) == libc::SOL_SOCKET;
        if !asks || tracee.read(tracee.word(4), LENGTH.len())? != LENGTH {
            return Ok(Answer::Native);
        }
        let Some((outer, inner)) = other_end(tracee) else {
            return Ok(Answer::Native);
        };
        tracee.write(tracee.word(3), &ucred(&self.identities, outer, inner))?;
        Ok(Answer::Value(0))
    }
}

/// The process at the other end of the socket in the first argument, by its number here and in the step; `None` where it cannot be
/// found out or is not the step's.
fn other_end(tracee: &Tracee) -> Option<(u32, i32)> {
    let owner = process::pidfd_open(Pid::from_raw(tracee.process()?)?, PidfdFlags::empty()).ok()?;
    let socket = process::pidfd_getfd(owner, tracee.signed(0), PidfdGetfdFlags::empty()).ok()?;
    let outer = u32::try_from(peer_of(&socket)?).ok()?;
    let peer = Tracee::of(outer);
    if !peer.shares_numbers_with(tracee) {
        return None;
    }
    Some((outer, peer.inner_number()?))
}
