//! Extended attributes. Those with the records are ours, and do not exist for a step; file capabilities, which only privilege can set,
//! are kept in another of ours and shown as what they are.

use std::os::fd::AsFd as _;

use rustix::{
    fs::{self, XattrFlags},
    io::Errno,
};

use super::{
    super::{
        keeper::Verdict,
        supervisor::{
            record::{self, CAPABILITY, XATTR},
            sys::Answer,
            tracee::Tracee,
        },
    },
    calls::Call,
    owners::Known,
    paths::{READ, Thing, WRITE},
    serve::Emulator,
};

const SHOWN_CAPABILITY: &[u8] = b"security.capability";
/// The access control list, of which the permission bits are a part.
const ACCESS_LIST: &[u8] = b"system.posix_acl_access";

/// The largest value that the kernel takes, and the longest list.
const MAX: usize = 65536;

impl Emulator {
    pub(super) fn attributes(&mut self, call: Call, caller: &Tracee) -> Verdict {
        let here = libc::AT_FDCWD;
        let object = match call {
            Call::Setxattr | Call::Getxattr | Call::Listxattr | Call::Removexattr => {
                (here, Some(0), true)
            }
            Call::Lsetxattr | Call::Lgetxattr | Call::Llistxattr | Call::Lremovexattr => {
                (here, Some(0), false)
            }
            _ => {
                caller.is_to_use(caller.signed(0))?;
                (caller.signed(0), None, true)
            }
        };
        let thing = self.thing(caller, object)?;
        match call {
            Call::Listxattr | Call::Llistxattr | Call::Flistxattr => list(caller, &thing),
            Call::Getxattr | Call::Lgetxattr | Call::Fgetxattr => self.get(caller, &thing),
            Call::Setxattr | Call::Lsetxattr | Call::Fsetxattr => self.set(caller, &thing),
            _ => self.remove(caller, &thing),
        }
        .map(|value| Some(Answer::Value(value)))
    }

    /// The name of an attribute as it is kept; an error where the step has none of that name.
    fn kept(caller: &Tracee, error: Errno) -> Result<Vec<u8>, Errno> {
        let name = caller.path(1)?.as_encoded_bytes().to_vec();
        if name == XATTR.as_bytes() || name == CAPABILITY.as_bytes() {
            return Err(error);
        }
        if name == SHOWN_CAPABILITY {
            return Ok(CAPABILITY.as_bytes().to_vec());
        }
        Ok(name)
    }

    fn get(&self, caller: &Tracee, thing: &Thing) -> Result<i64, Errno> {
        let name = Self::kept(caller, Errno::NODATA)?;
        if name.starts_with(b"user.") && name != CAPABILITY.as_bytes() {
            self.may(&self.who(caller), thing, READ)?;
        }
        let mut value = vec![0; MAX];
        let length = fs::getxattr(record::name(thing.fd.as_fd()), &*name, &mut value)?;
        if length == 0 && name == CAPABILITY.as_bytes() {
            return Err(Errno::INVAL);
        }
        give(caller, &value[..length], (2, 3))
    }

    /// Refuses to change attributes of what is not the step's, or not the caller's.
    fn may_mark(&self, caller: &Tracee, thing: &Thing, name: &[u8]) -> Result<(), Errno> {
        let who = self.who(caller);
        let path = thing.path.as_deref().ok_or(Errno::PERM)?;
        self.writable(path)?;
        if name == CAPABILITY.as_bytes() {
            let is_file = fs::FileType::from_raw_mode(thing.stat.st_mode).is_file();
            return if who.is_root() && is_file {
                Ok(())
            } else {
                Err(Errno::PERM)
            };
        }
        if name.starts_with(b"system.posix_acl_") {
            let is_owner = who.is_root() || self.known(thing).uid == who.user();
            return if is_owner { Ok(()) } else { Err(Errno::PERM) };
        }
        self.may(&who, thing, WRITE)
    }

    fn set(&mut self, caller: &Tracee, thing: &Thing) -> Result<i64, Errno> {
        let name = Self::kept(caller, Errno::OPNOTSUPP)?;
        self.may_mark(caller, thing, &name)?;
        let size = usize::try_from(caller.word(3)).unwrap_or(usize::MAX);
        if size > MAX {
            return Err(Errno::TOOBIG);
        }
        let value = caller.read(caller.word(2), size)?;
        if name == CAPABILITY.as_bytes() && !is_capability(&value) {
            return Err(Errno::INVAL);
        }
        let flags = XattrFlags::from_bits_retain(caller.number(4));
        fs::setxattr(record::name(thing.fd.as_fd()), &*name, &value, flags)?;
        if name == ACCESS_LIST
            && let Some(path) = &thing.path
        {
            // The kernel has set the permission bits of what it knows, as `cp -p` expects.
            let stat = fs::fstat(&thing.fd)?;
            let known = self.known(thing);
            let mode = known.mode & 0o7000 | stat.st_mode & 0o777;
            self.looks
                .set(thing.fd.as_fd(), &stat, path, Known { mode, ..known })?;
        }
        Ok(0)
    }

    fn remove(&mut self, caller: &Tracee, thing: &Thing) -> Result<i64, Errno> {
        let name = Self::kept(caller, Errno::NODATA)?;
        self.may_mark(caller, thing, &name)?;
        fs::removexattr(record::name(thing.fd.as_fd()), &*name)?;
        Ok(0)
    }
}

/// Whether the kernel would take this for `struct vfs_cap_data` of revision 1 to 3, whose lengths differ.
fn is_capability(value: &[u8]) -> bool {
    const LENGTHS: [usize; 3] = [12, 20, 24];
    let revision = value.get(3).map(|byte| usize::from(*byte));
    let known = revision.and_then(|revision| LENGTHS.get(revision.checked_sub(1)?));
    value.is_empty() || known == Some(&value.len())
}

fn list(caller: &Tracee, thing: &Thing) -> Result<i64, Errno> {
    let mut all = vec![0; MAX];
    let length = fs::listxattr(record::name(thing.fd.as_fd()), &mut all)?;
    let names = all[..length].split(|b| *b == 0);
    let mut bytes = Vec::new();
    for name in names.filter(|name| !name.is_empty() && *name != XATTR.as_bytes()) {
        let shown = if name == CAPABILITY.as_bytes() {
            SHOWN_CAPABILITY
        } else {
            name
        };
        bytes.extend(shown);
        bytes.push(0);
    }
    give(caller, &bytes, (1, 2))
}

/// Puts bytes into the caller's memory, whose address and size are in these arguments; a size of 0 asks how many there are.
fn give(caller: &Tracee, bytes: &[u8], (address, size): (usize, usize)) -> Result<i64, Errno> {
    let size = usize::try_from(caller.word(size)).unwrap_or(usize::MAX);
    if size > 0 {
        if size < bytes.len() {
            return Err(Errno::RANGE);
        }
        caller.write(caller.word(address), bytes)?;
    }
    Ok(i64::try_from(bytes.len()).unwrap_or(0))
}
