//! What a thread may do beside what its user says: capabilities, of which there is none, what `prctl` says of them, and the one limit that
//! is used to carry its identity.

use rustix::io::Errno;

use super::{
    super::{
        caps,
        keeper::Verdict,
        supervisor::{members, sys::Answer, tracee::Tracee},
    },
    calls::{Call, REAL_TIME},
    serve::Emulator,
};

/// `_LINUX_CAPABILITY_VERSION_1` to 3, of which the last is the one to use, and how many words of 32 bits their sets have.
const VERSIONS: [(u32, usize); 3] = [(0x1998_0330, 1), (0x2007_1026, 2), (0x2008_0522, 2)];

impl Emulator {
    /// What root may do: as much as it could with real ids.
    pub(super) fn capget(&self, caller: &Tracee) -> Verdict {
        let header = caller.read(caller.word(0), 4)?;
        let version = u32::from_ne_bytes(std::array::from_fn(|i| header[i]));
        let Some((_, words)) = VERSIONS.into_iter().find(|(known, _)| *known == version) else {
            caller.write(caller.word(0), &VERSIONS[2].0.to_ne_bytes())?;
            return if caller.word(1) == 0 {
                Ok(Some(Answer::Value(0)))
            } else {
                Err(Errno::INVAL)
            };
        };
        if caller.word(1) == 0 {
            return Ok(Some(Answer::Value(0)));
        }
        let all = if self.who(caller).is_root() {
            caps::DOCKER.bits()
        } else {
            0
        };
        let mut bytes = Vec::new();
        for half in [all & 0xffff_ffff, all >> 32].into_iter().take(words) {
            let half = u32::try_from(half).unwrap_or(0).to_ne_bytes();
            // Effective, permitted, inheritable.
            bytes.extend([half, half, [0; 4]].concat());
        }
        caller.write(caller.word(1), &bytes)?;
        Ok(Some(Answer::Value(0)))
    }

    /// What a thread gives up of what it has kept is gone; all else is root's, who has it anyway.
    pub(super) fn capset(&mut self, caller: &Tracee) -> Verdict {
        let header = caller.read(caller.word(0), 4)?;
        let version = u32::from_ne_bytes(std::array::from_fn(|i| header[i]));
        let found = VERSIONS.into_iter().find(|(known, _)| *known == version);
        let (_, words) = found.ok_or(Errno::INVAL)?;
        let sets = caller.read(caller.word(1), 12 * words)?;
        let permits = sets.chunks_exact(12).any(|set| set[4..8] != [0; 4]);
        let mut who = self.who(caller);
        if who.capable && !permits {
            who.capable = false;
            self.identities.set(caller.thread(), who)?;
        }
        Ok(Some(Answer::Value(0)))
    }

    /// What of `prctl` is announced.
    pub(super) fn prctl(&mut self, caller: &Tracee) -> Verdict {
        let mut who = self.who(caller);
        let argument = caller.word(1);
        let value = match caller.signed(0) {
            libc::PR_GET_KEEPCAPS => who.keeps.into(),
            libc::PR_SET_KEEPCAPS if argument > 1 => return Err(Errno::INVAL),
            libc::PR_SET_KEEPCAPS => {
                who.keeps = argument == 1;
                self.identities.set(caller.thread(), who)?;
                0
            }
            libc::PR_CAPBSET_READ | libc::PR_CAPBSET_DROP if argument > LAST => {
                return Err(Errno::INVAL);
            }
            libc::PR_CAPBSET_READ => i64::from(caps::DOCKER.bits() >> argument & 1 == 1),
            libc::PR_CAPBSET_DROP if !who.is_root() => return Err(Errno::PERM),
            // Said to have been done.
            _ => 0,
        };
        Ok(Some(Answer::Value(value)))
    }

    /// Limits of other processes, and that to the time that real-time processes run: there seems to be none, whatever is set. `pam_limits`
    /// sets all of them to what the first process has.
    pub(super) fn limit(&self, call: Call, caller: &Tracee) -> Verdict {
        const SIZE: usize = 16;
        const NONE: [u8; SIZE] = [0xff; SIZE];
        let (new, old) = match call {
            Call::Getrlimit => (0, caller.word(1)),
            Call::Setrlimit => (caller.word(1), 0),
            _ => {
                let may = if caller.signed(0) == 0 {
                    Answer::Native
                } else {
                    let members = &self.keeper.view.members;
                    members.decide(members::Call::Process, caller)?
                };
                if caller.number(1) != REAL_TIME {
                    return Ok(Some(may));
                }
                (caller.word(2), caller.word(3))
            }
        };
        if new != 0 || call == Call::Setrlimit {
            caller.read(new, SIZE)?;
        }
        if old != 0 || call == Call::Getrlimit {
            caller.write(old, &NONE)?;
        }
        Ok(Some(Answer::Value(0)))
    }
}

/// `CAP_LAST_CAP`
const LAST: u64 = 40;
