//! Records of owners that a file system cannot hold: because only one id is mapped into the user namespace, because an id is
//! outside what is mapped, or because device nodes may not be made.
//!
//! A record is a text, `UID:GID:MODE:TYPE`, with `MODE` four octal digits and `TYPE` one of `file`, `dir`, `symlink`,
//! `pipe`, `socket`, `block-MAJOR-MINOR`, `char-MAJOR-MINOR`. It is the form of the containers storage library.
//!
//! - Regular files and directories carry it as the attribute [`XATTR`], so it goes with them when they are renamed, and overlayfs
//!   copies it up. A device that could not be made is an empty regular file with a record that says what it stands for.
//! - Symbolic links and pipes cannot have such attributes. Their records are lines of the file `owners` beside the directory,
//!   `RECORD PATH` and a NUL, the path relative; a later line wins, so records are added by appending
//!   one line in one write ([`append`]).
//! - What has no record has the owner and mode that `stat` shows.
//!
//! File capabilities that could not be set are kept as they are in the attribute [`CAPABILITY`].

use std::{
    collections::HashMap,
    ffi::OsStr,
    fmt,
    fs::OpenOptions,
    io::{self, Read as _, Write as _},
    os::{fd::AsFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use super::xattr;
use crate::tree::{Kind, Metadata};

/// The attribute with a record.
pub const XATTR: &str = "user.containers.override_stat";
/// The attribute that stands in for `security.capability`.
pub const CAPABILITY: &str = "user.rbuild.capability";

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// What it is.
    pub kind: OwnedKind,
}

/// What the owned thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnedKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
    /// A block device.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A character device.
    Char {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

impl Owner {
    /// The record for what has this metadata.
    pub const fn of(metadata: &Metadata) -> Self {
        Self {
            uid: metadata.uid,
            gid: metadata.gid,
            mode: metadata.mode & 0o7777,
            kind: match metadata.kind {
                Kind::File { .. } => OwnedKind::File,
                Kind::Dir => OwnedKind::Dir,
                Kind::Symlink { .. } => OwnedKind::Symlink,
                Kind::Char { major, minor } => OwnedKind::Char { major, minor },
                Kind::Block { major, minor } => OwnedKind::Block { major, minor },
                Kind::Fifo => OwnedKind::Pipe,
                Kind::Socket => OwnedKind::Socket,
            },
        }
    }

    /// Reads a record; `None` when it is none.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut parts = str::from_utf8(text).ok()?.split(':');
        let (uid, gid) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let mode = u32::from_str_radix(parts.next()?, 8).ok()?;
        let kind = parts.next().unwrap_or("file");
        if mode > 0o7777 || parts.next().is_some() {
            return None;
        }
        let device = |numbers: &str| {
            let (major, minor) = numbers.split_once('-')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        };
        let kind = match kind {
            "file" => OwnedKind::File,
            "dir" => OwnedKind::Dir,
            "symlink" => OwnedKind::Symlink,
            "pipe" => OwnedKind::Pipe,
            "socket" => OwnedKind::Socket,
            _ => {
                if let Some(numbers) = kind.strip_prefix("block-") {
                    let (major, minor) = device(numbers)?;
                    OwnedKind::Block { major, minor }
                } else {
                    let (major, minor) = device(kind.strip_prefix("char-")?)?;
                    OwnedKind::Char { major, minor }
                }
            }
        };
        Some(Self {
            uid,
            gid,
            mode,
            kind,
        })
    }

    /// The record of what is at a path of this machine, links not followed; `None` when it has none.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        Ok(xattr::get(path, XATTR)?.and_then(|text| Self::parse(&text)))
    }

    /// Gives a regular file or directory this record.
    pub fn write_at(&self, file: impl AsFd) -> io::Result<()> {
        Ok(xattr::set(file, XATTR, self.to_string().as_bytes())?)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{:04o}:", self.uid, self.gid, self.mode)?;
        match self.kind {
            OwnedKind::File => f.write_str("file"),
            OwnedKind::Dir => f.write_str("dir"),
            OwnedKind::Symlink => f.write_str("symlink"),
            OwnedKind::Pipe => f.write_str("pipe"),
            OwnedKind::Socket => f.write_str("socket"),
            OwnedKind::Block { major, minor } => write!(f, "block-{major}-{minor}"),
            OwnedKind::Char { major, minor } => write!(f, "char-{major}-{minor}"),
        }
    }
}

/// The mode by which a process without privilege, which owns it all, reads and writes what is to be seen with `mode`. Set-user-ID and
/// the like would be about that process, not about whom the record names.
pub const fn unprivileged_mode(mode: u32, is_dir: bool) -> u32 {
    let runs = is_dir || mode & 0o111 != 0;
    mode & 0o777 | if runs { 0o700 } else { 0o600 }
}

/// Gives a directory mode, owner and group; where these do not exist, a record says so, which steps are shown.
pub fn give_dir(dir: &Path, uid: u32, gid: u32, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let set = |mode| std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode));
    set(mode & 0o7777)?;
    match std::os::unix::fs::chown(dir, Some(uid), Some(gid)) {
        Err(error)
            if matches!(
                rustix::io::Errno::from_io_error(&error),
                Some(rustix::io::Errno::INVAL | rustix::io::Errno::PERM)
            ) =>
        {
            let record = Owner {
                uid,
                gid,
                mode,
                kind: OwnedKind::Dir,
            };
            set(unprivileged_mode(mode, true))?;
            record.write_at(std::fs::File::open(dir)?)
        }
        other => other,
    }
}

/// Adds a record to the file `owners`, which is made when missing. Safe against other appenders.
pub fn append(owners: &Path, path: &Path, owner: Owner) -> io::Result<()> {
    let mut line = owner.to_string().into_bytes();
    line.push(b' ');
    line.extend_from_slice(path.as_os_str().as_bytes());
    line.push(0);
    let mut file = OpenOptions::new().append(true).create(true).open(owners)?;
    file.write_all(&line)
}

/// All records of the file `owners` by path; none when it does not exist. Lines that are none are passed over.
pub fn load(owners: &Path) -> io::Result<HashMap<PathBuf, Owner>> {
    let mut bytes = Vec::new();
    match std::fs::File::open(owners) {
        Ok(mut file) => file.read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(error) => return Err(error),
    };
    let lines = bytes.split(|&byte| byte == 0);
    Ok(lines
        .filter_map(|line| {
            let space = line.iter().position(|&byte| byte == b' ')?;
            let owner = Owner::parse(&line[..space])?;
            Some((OsStr::from_bytes(&line[space + 1..]).into(), owner))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back() {
        for text in [
            "0:0:0644:file",
            "4294967295:1:7777:dir",
            "1:2:0777:symlink",
            "1:2:0600:pipe",
            "1:2:0600:socket",
            "0:6:0660:block-8-1",
            "0:5:0620:char-4-64",
        ] {
            assert_eq!(Owner::parse(text.as_bytes()).unwrap().to_string(), text);
        }
        // An older form of other programs ends before the type.
        assert_eq!(
            Owner::parse(b"1:2:644").unwrap().to_string(),
            "1:2:0644:file"
        );
        for text in [
            "",
            "1:2",
            "1:2:9:file",
            "1:2:644:door",
            "1:2:10000:file",
            "-1:2:644:file",
            "1:2:644:char-1",
            "1:2:644:file:x",
        ] {
            assert_eq!(Owner::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_last_record_of_a_path_counts() {
        let dir = tempfile::tempdir().unwrap();
        let owners = dir.path().join("owners");
        assert!(load(&owners).unwrap().is_empty());
        let owner = |text: &str| Owner::parse(text.as_bytes()).unwrap();
        append(&owners, Path::new("a b"), owner("1:1:0777:symlink")).unwrap();
        append(&owners, Path::new("c"), owner("3:3:0600:pipe")).unwrap();
        append(&owners, Path::new("a b"), owner("2:2:0777:symlink")).unwrap();
        let found = load(&owners).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[Path::new("a b")].uid, 2);
    }
}
