//! What `/proc` tells of processes, as it would be if all were real: their users, and the paths of what they have mapped.

use std::{
    ffi::OsString,
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::Path,
};

use rustix::{fs::OFlags, io::Errno};

use super::{
    super::{
        caps,
        keeper::{mounted::told, view::Place},
        supervisor::identity::Identity,
    },
    serve::Emulator,
};

impl Emulator {
    /// A file of `/proc` whose text has to be another one than the kernel's; `None` for all others.
    pub(super) fn told(&self, place: &Place, flags: OFlags) -> Option<Result<OwnedFd, Errno>> {
        let Place::Proc(path) = place else {
            return None;
        };
        let mut names = path.iter();
        let process: u32 = names.next()?.to_str()?.parse().ok()?;
        if flags.intersects(OFlags::WRONLY | OFlags::RDWR) {
            return None;
        }
        let last = names.next_back()?.as_bytes();
        if !matches!(last, b"status" | b"maps" | b"smaps" | b"limits") {
            return None;
        }
        let number = i32::try_from(process).ok()?;
        if !self.keeper.view.members.contains(number) {
            return None;
        }
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) => return Some(Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))),
        };
        Some(told(&match last {
            b"status" => status(&text, self.identities.of(process)),
            b"limits" => limits(&text),
            _ => self.maps(&text),
        }))
    }

    /// The list of what a process has mapped, with paths as the step knows them.
    fn maps(&self, text: &[u8]) -> Vec<u8> {
        let mut new = Vec::with_capacity(text.len());
        for line in text.split_inclusive(|b| *b == b'\n') {
            let Some(at) = line.windows(2).position(|two| two == b" /") else {
                new.extend(line);
                continue;
            };
            let end = line.len() - usize::from(line.ends_with(b"\n"));
            let host = OsString::from_vec(line[at + 1..end].to_vec());
            new.extend(&line[..=at]);
            new.extend(self.keeper.seen(Path::new(&host)).as_os_str().as_bytes());
            new.extend(&line[end..]);
        }
        new
    }
}

/// The state of a process that is `who`.
fn status(text: &[u8], who: &Identity) -> Vec<u8> {
    let ids = |name: &str, [real, effective, saved]: [u32; 3]| {
        format!("{name}:\t{real}\t{effective}\t{saved}\t{effective}\n")
    };
    let capabilities = if who.user() == 0 {
        caps::DOCKER.bits()
    } else {
        0
    };
    let mut new = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|b| *b == b'\n') {
        let name = line.split(|b| *b == b':').next().unwrap_or_default();
        match name {
            b"Uid" => new.extend(ids("Uid", who.users).bytes()),
            b"Gid" => new.extend(ids("Gid", who.groups).bytes()),
            b"Groups" => {
                new.extend(b"Groups:\t");
                for group in &who.supplementary {
                    new.extend(format!("{group} ").bytes());
                }
                new.push(b'\n');
            }
            b"CapPrm" | b"CapEff" => {
                new.extend(name);
                new.extend(format!(":\t{capabilities:016x}\n").bytes());
            }
            b"CapBnd" => {
                let all = caps::DOCKER.bits();
                new.extend(format!("CapBnd:\t{all:016x}\n").bytes());
            }
            _ => new.extend(line),
        }
    }
    new
}

/// The limits of a process without the one that carries its identity.
fn limits(text: &[u8]) -> Vec<u8> {
    let lines = text.split_inclusive(|b| *b == b'\n');
    let shown = lines.map(|line| {
        if line.starts_with(b"Max realtime timeout") {
            b"Max realtime timeout      unlimited            unlimited            us        \n"
        } else {
            line
        }
    });
    shown.collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_that_carries_an_identity_is_not_shown() {
        let told = limits(
            b"Limit  Soft  Hard\nMax realtime timeout      18446744073709551614 unlimited us\n",
        );
        let told = String::from_utf8(told).unwrap();
        assert_eq!(told.matches("unlimited").count(), 2, "{told}");
        assert!(
            told.starts_with("Limit  Soft  Hard\n") && !told.contains("184467"),
            "{told}"
        );
    }

    #[test]
    fn a_process_is_who_it_believes_to_be() {
        let text = b"Name:\tUid:\nUid:\t1\t1\t1\t1\nGid:\t1\t1\t1\t1\nGroups:\t1 \nCapEff:\t0000000000000000\nThreads:\t1\n";
        let who = Identity::new(33, 34, vec![35, 36]);
        let told = String::from_utf8(status(text, &who)).unwrap();
        assert_eq!(
            told,
            "Name:\tUid:\nUid:\t33\t33\t33\t33\nGid:\t34\t34\t34\t34\nGroups:\t35 36 \nCapEff:\t0000000000000000\n\
             Threads:\t1\n"
        );
        let root = status(b"CapEff:\t0\n", &Identity::new(0, 0, vec![]));
        assert_eq!(root, b"CapEff:\t00000000a80425fb\n");
    }
}
