//! Opening files that somebody may have put another thing in the place of: a pipe must not make the program wait, nor a device
//! give bytes without end.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::OFlags;

/// Opens a regular file for reading. Anything else is an error of kind [`io::ErrorKind::InvalidData`], a directory one of kind
/// [`io::ErrorKind::IsADirectory`].
pub fn open_regular(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let none = || io::Error::new(io::ErrorKind::InvalidData, "it is no regular file");
    let file = options.open(path).map_err(|error| {
        // Of a socket, and of a device that nobody drives.
        let is_none = error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error());
        if is_none { none() } else { error }
    })?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        Ok(file)
    } else if kind.is_dir() {
        Err(io::ErrorKind::IsADirectory.into())
    } else {
        Err(none())
    }
}

/// The bytes of a regular file, as [`open_regular`].
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = open_regular(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
