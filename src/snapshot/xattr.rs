//! Extended attributes, by path or descriptor, where "there is none" is no error.

use std::{ffi::OsStr, os::fd::AsFd, path::Path};

use rustix::{
    fs::{XattrFlags, fsetxattr, lgetxattr},
    io::Errno,
};

/// As long as Linux lets a value be.
const MAX_VALUE: usize = 64 << 10;

/// The value of an attribute of what is at a path, links not followed; `None` where there is none or can be none.
pub(super) fn get(path: &Path, name: impl AsRef<OsStr>) -> Result<Option<Vec<u8>>, Errno> {
    // Nearly all values are short, and nearly all files have none.
    let mut short = [0; 256];
    match lgetxattr(path, name.as_ref(), &mut short[..]) {
        Ok(length) => Ok(Some(short[..length].to_vec())),
        Err(Errno::RANGE) => {
            let mut long = vec![0; MAX_VALUE];
            let length = lgetxattr(path, name.as_ref(), &mut long[..])?;
            long.truncate(length);
            Ok(Some(long))
        }
        Err(error) => absent(error),
    }
}

fn absent(error: Errno) -> Result<Option<Vec<u8>>, Errno> {
    match error {
        // PERM: `user.*` on what is neither file nor directory.
        // INVAL: file capabilities that are empty, which the kernel sets but does not give.
        Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::INVAL => Ok(None),
        error => Err(error),
    }
}

/// Sets an attribute of an open file.
pub(super) fn set(file: impl AsFd, name: impl AsRef<OsStr>, value: &[u8]) -> Result<(), Errno> {
    fsetxattr(file, name.as_ref(), value, XattrFlags::empty())
}
