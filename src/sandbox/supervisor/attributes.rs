//! Extended attributes: those with the records are the supervisor's own, and do not exist for a step. Otherwise it would copy them
//! from file to file (`cp -a`, `rsync -X`) and pack them into archives.
//!
//! File capabilities that the file system of an image's layer could not hold are kept in an attribute of ours
//! (`snapshot::owner`), and shown as what they are.

use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::{
    fs::{self, XattrFlags},
    io::Errno,
};

use super::{Supervisor, Verdict, calls::Call, object_of, record, sys::Answer, tracee::Tracee};

/// The attributes of the records.
const OWN: [&[u8]; 2] = [record::XATTR.as_bytes(), record::CAPABILITY.as_bytes()];

const CAPABILITY: &str = "security.capability";

/// The largest value that the kernel takes, and the longest list.
const MAX: usize = 65536;

/// A call about attributes.
#[derive(Debug, Clone, Copy)]
enum Wish {
    /// Arguments of the name, of the address and size of the value; flags.
    Set(usize, Buffer, u32),
    Get(usize, Buffer),
    List(Buffer),
    Remove(usize),
}

/// Memory of the caller.
#[derive(Debug, Clone, Copy)]
struct Buffer {
    address: u64,
    size: usize,
}

impl Supervisor {
    /// Answers a call about attributes, if it is about ours.
    pub(super) fn attributes(&self, call: Call, tracee: &Tracee) -> Verdict {
        let here = libc::AT_FDCWD;
        let object = match call {
            Call::Setxattr | Call::Getxattr | Call::Listxattr | Call::Removexattr => {
                (here, Some(0), true)
            }
            Call::Lsetxattr | Call::Lgetxattr | Call::Llistxattr | Call::Lremovexattr => {
                (here, Some(0), false)
            }
            Call::Fsetxattr | Call::Fgetxattr | Call::Flistxattr | Call::Fremovexattr => {
                (tracee.signed(0), None, true)
            }
            _ => object_of(tracee, 2),
        };
        let Some(wish) = wish(call, tracee)? else {
            return Ok(Answer::Native);
        };
        // Most are about attributes that are none of our business.
        let name = match wish {
            Wish::Set(name, ..) | Wish::Get(name, _) | Wish::Remove(name) => {
                let name = tracee.path(name)?;
                let name = name.as_encoded_bytes().to_vec();
                if OWN.contains(&&*name) {
                    return Err(match wish {
                        Wish::Set(..) => Errno::OPNOTSUPP,
                        _ => Errno::NODATA,
                    });
                }
                if name != CAPABILITY.as_bytes() {
                    return Ok(Answer::Native);
                }
                Some(name)
            }
            Wish::List(_) => None,
        };
        debug_assert!(name.is_none_or(|name| name == CAPABILITY.as_bytes()));
        // What cannot be found is for the kernel to say.
        let Ok(fd) = Self::object(tracee, object) else {
            return Ok(Answer::Native);
        };
        match wish {
            Wish::List(buffer) => list(tracee, fd.as_fd(), buffer),
            Wish::Get(_, buffer) => get_capability(tracee, fd.as_fd(), buffer),
            Wish::Set(_, buffer, flags) => {
                self.may_set_capability(tracee)?;
                set_capability(tracee, fd.as_fd(), buffer, flags)
            }
            Wish::Remove(_) => {
                self.may_set_capability(tracee)?;
                match fs::removexattr(record::name(fd.as_fd()), record::CAPABILITY) {
                    Ok(()) => {
                        let _other = fs::removexattr(record::name(fd.as_fd()), CAPABILITY);
                        Ok(Answer::Value(0))
                    }
                    Err(_) => Ok(Answer::Native),
                }
            }
        }
    }

    fn may_set_capability(&self, tracee: &Tracee) -> Result<(), Errno> {
        if self.identity_of(tracee).is_root() {
            Ok(())
        } else {
            Err(Errno::PERM)
        }
    }
}

fn wish(call: Call, tracee: &Tracee) -> Result<Option<Wish>, Errno> {
    let buffer = |address: usize, size: usize| Buffer {
        address: tracee.word(address),
        size: usize::try_from(tracee.word(size)).unwrap_or(usize::MAX),
    };
    // `struct xattr_args`: address, size, flags.
    let arguments = || -> Result<(Buffer, u32), Errno> {
        let bytes = tracee.read(tracee.word(4), 16)?;
        let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
        let address = u64::from(word(0)) | u64::from(word(4)) << 32;
        let address = if cfg!(target_endian = "big") {
            address.rotate_left(32)
        } else {
            address
        };
        let size = usize::try_from(word(8)).unwrap_or(usize::MAX);
        Ok((Buffer { address, size }, word(12)))
    };
    Ok(Some(match call {
        Call::Setxattr | Call::Lsetxattr | Call::Fsetxattr => {
            Wish::Set(1, buffer(2, 3), tracee.number(4))
        }
        Call::Getxattr | Call::Lgetxattr | Call::Fgetxattr => Wish::Get(1, buffer(2, 3)),
        Call::Listxattr | Call::Llistxattr | Call::Flistxattr => Wish::List(buffer(1, 2)),
        Call::Removexattr | Call::Lremovexattr | Call::Fremovexattr => Wish::Remove(1),
        Call::Setxattrat => {
            let (buffer, flags) = arguments()?;
            Wish::Set(3, buffer, flags)
        }
        Call::Getxattrat => Wish::Get(3, arguments()?.0),
        Call::Listxattrat => Wish::List(buffer(3, 4)),
        Call::Removexattrat => Wish::Remove(3),
        _ => return Ok(None),
    }))
}

/// Puts bytes into the caller's memory; a size of 0 asks how many there are.
fn give(tracee: &Tracee, bytes: &[u8], buffer: Buffer) -> Verdict {
    if buffer.size > 0 {
        if buffer.size < bytes.len() {
            return Err(Errno::RANGE);
        }
        tracee.write(buffer.address, bytes)?;
    }
    Ok(Answer::Value(i64::try_from(bytes.len()).unwrap_or(0)))
}

fn list(tracee: &Tracee, fd: BorrowedFd<'_>, buffer: Buffer) -> Verdict {
    let mut all = vec![0; MAX];
    let Ok(length) = fs::listxattr(record::name(fd), &mut all) else {
        return Ok(Answer::Native);
    };
    let names = all[..length].split(|b| *b == 0).filter(|n| !n.is_empty());
    let (own, mut seen): (Vec<_>, Vec<_>) = names.partition(|name| OWN.contains(name));
    if own.is_empty() {
        return Ok(Answer::Native);
    }
    let (kept, real) = (record::CAPABILITY.as_bytes(), CAPABILITY.as_bytes());
    if own.contains(&kept) && !seen.contains(&real) {
        seen.push(real);
    }
    let bytes: Vec<u8> = seen
        .into_iter()
        .flat_map(|name| name.iter().copied().chain([0]))
        .collect();
    give(tracee, &bytes, buffer)
}

fn get_capability(tracee: &Tracee, fd: BorrowedFd<'_>, buffer: Buffer) -> Verdict {
    let mut value = [0; 256];
    match fs::getxattr(record::name(fd), record::CAPABILITY, &mut value) {
        Ok(length) => give(tracee, &value[..length], buffer),
        Err(_) => Ok(Answer::Native),
    }
}

fn set_capability(tracee: &Tracee, fd: BorrowedFd<'_>, buffer: Buffer, flags: u32) -> Verdict {
    if buffer.size > MAX {
        return Ok(Answer::Native);
    }
    let value = tracee.read(buffer.address, buffer.size)?;
    let flags = XattrFlags::from_bits_retain(flags);
    match fs::setxattr(record::name(fd), CAPABILITY, &value, flags) {
        Ok(()) => {
            let _none = fs::removexattr(record::name(fd), record::CAPABILITY);
        }
        Err(Errno::PERM | Errno::OPNOTSUPP) => {
            fs::setxattr(record::name(fd), record::CAPABILITY, &value, flags)?;
        }
        Err(error) => return Err(error),
    }
    Ok(Answer::Value(0))
}
