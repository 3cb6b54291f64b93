//! Modes and owners of what a process has open, by the link to its descriptor in `/proc`: so they are set by who has opened a file only to
//! look at it, as systemd's tools do.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

use rustix::fs::{self, AtFlags, CWD, Gid, Mode, Uid};

use super::{
    super::supervisor::{sys::Answer, tracee::Tracee},
    Keeper, Verdict,
    calls::Call,
    files::as_user,
    view::{Last, Place, Spot},
};

impl Keeper {
    /// A call that sets mode or owner. All but links to descriptors is for the kernel, which finds nothing else that could be changed.
    pub(super) fn change(&self, call: Call, caller: &Tracee) -> Verdict {
        let (dir, path) = match call {
            Call::Fchmodat | Call::Fchownat => (caller.signed(0), 1),
            _ => (libc::AT_FDCWD, 0),
        };
        let link = match self.spot(caller, (dir, path, Last::Follow))? {
            Spot::Shown(Place::Proc(link)) if is_own_descriptor(caller, &link) => link,
            _ => return Ok(Some(Answer::Native)),
        };
        let number = |index: usize| caller.number(path + index);
        as_user(caller, || match call {
            Call::Chmod | Call::Fchmodat => {
                fs::chmod(&link, Mode::from_raw_mode(number(1) & 0o7777))
            }
            _ => {
                let known = |id: u32| (id != u32::MAX).then_some(id);
                let user = known(number(1)).map(Uid::from_raw);
                let group = known(number(2)).map(Gid::from_raw);
                fs::chownat(CWD, &link, user, group, AtFlags::empty())
            }
        })?;
        Ok(Some(Answer::Value(0)))
    }
}

/// Whether a file of `/proc` is the link to a descriptor of the caller.
fn is_own_descriptor(caller: &Tracee, link: &Path) -> bool {
    let names: Vec<&[u8]> = link.iter().map(OsStr::as_bytes).collect();
    let own = caller.process().map(|process| process.to_string());
    names.first().copied() == own.as_deref().map(str::as_bytes)
        && matches!(names.as_slice(), [_, b"fd", _] | [_, b"task", _, b"fd", _])
}
