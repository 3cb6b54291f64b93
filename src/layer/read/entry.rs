//! What a tar entry means: its path, its metadata, and whether it is a whiteout.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Component, Path, PathBuf},
};

use tar_core::{PaxExtensions, parse::ParsedEntry};

use super::{
    super::{
        change::{OPAQUE_NAME, WHITEOUT_PREFIX},
        toc::Extent,
    },
    ArchiveError, Whiteouts,
};
use crate::tree::{self, Kind, Metadata, Timestamp};

/// A file with holes is hashed holes and all; a few bytes of archive must not cost hours.
const MAX_SPARSE: u64 = 64 << 30;

/// One entry; its content is still unread.
#[derive(Debug)]
pub(in crate::layer) struct RawEntry {
    /// Relative, without `.` and `..`.
    pub(in crate::layer) path: PathBuf,
    pub(in crate::layer) item: RawItem,
    /// Offset in the tar of the first byte of content.
    pub(in crate::layer) offset: u64,
    /// Runs of content, when not all of a file is stored.
    pub(in crate::layer) sparse: Option<Vec<Extent>>,
}

impl RawEntry {
    /// About how many bytes its names and attributes take in memory.
    pub(in crate::layer) fn footprint(&self) -> usize {
        let item = match &self.item {
            RawItem::Node(metadata) => {
                let target = match &metadata.kind {
                    Kind::Symlink { target } => target.as_os_str().len(),
                    _ => 0,
                };
                let xattrs = metadata.xattrs.iter();
                target
                    + xattrs
                        .map(|(name, value)| 64 + name.len() + value.len())
                        .sum::<usize>()
            }
            RawItem::Link { target, .. } => target.as_os_str().len(),
            RawItem::Remove | RawItem::Opaque => 0,
        };
        let sparse = self
            .sparse
            .as_ref()
            .map_or(0, |map| map.len() * size_of::<Extent>());
        self.path.as_os_str().len() + item + sparse
    }
}

#[derive(Debug)]
pub(in crate::layer) enum RawItem {
    Node(Metadata),
    /// Another name of `target`, with what the header says of the inode; the kind says nothing.
    Link {
        target: PathBuf,
        metadata: Box<Metadata>,
    },
    Remove,
    Opaque,
}

/// How many bytes follow the header. Only files have content; old archives give links the size of their target.
pub(super) fn stored_size(entry: &ParsedEntry<'_>) -> u64 {
    if matches!(flag(entry), b'1'..=b'6') {
        0
    } else {
        entry.size
    }
}

fn flag(entry: &ParsedEntry<'_>) -> u8 {
    entry.header.as_bytes()[156]
}

pub(super) type Converted = Option<(PathBuf, RawItem, Option<Vec<Extent>>)>;

/// Gives an entry its meaning; `None` for one that has none.
pub(super) fn convert(
    entry: &ParsedEntry<'_>,
    sparse: Option<(Vec<Extent>, u64)>,
    whiteouts: Whiteouts,
) -> Result<Converted, ArchiveError> {
    // Some archives begin with a nameless file, which stands for nothing.
    if entry.path.is_empty() {
        return Ok(None);
    }
    let raw_path = as_path(&entry.path);
    // Docker takes a name that leads out of an archive as one at its root; in a layer it is a lie.
    let clean = |path: &Path| match whiteouts {
        Whiteouts::Names if !path.as_os_str().as_bytes().contains(&0) => Some(tree::clean(path)),
        Whiteouts::Names | Whiteouts::Meant => clean(path),
    };
    let path = clean(&raw_path).ok_or_else(|| ArchiveError::Name {
        path: raw_path.clone(),
    })?;
    if whiteouts == Whiteouts::Meant {
        match whiteout(&path)? {
            Whiteout::None => {}
            Whiteout::Is(path, item) => return Ok(Some((path, item, None))),
            Whiteout::Bookkeeping => return Ok(None),
        }
    }
    let link = || -> Result<PathBuf, ArchiveError> {
        entry
            .link_target
            .as_deref()
            .filter(|target| !target.contains(&0))
            .map(as_path)
            .ok_or_else(|| ArchiveError::LinkTarget { path: path.clone() })
    };
    let device = || -> Result<(u32, u32), ArchiveError> {
        Ok((entry.dev_major.unwrap_or(0), entry.dev_minor.unwrap_or(0)))
    };
    let kind = match flag(entry) {
        // Before POSIX, directories were files with a slash.
        0 if entry.path.ends_with(b"/") => Kind::Dir,
        0 | b'0' | b'7' | b'S' => Kind::File {
            size: sparse.as_ref().map_or(entry.size, |(_, size)| *size),
        },
        b'1' => {
            let target = clean(&link()?).filter(|target| !target.as_os_str().is_empty());
            let target = target.ok_or_else(|| ArchiveError::LinkTarget { path: path.clone() })?;
            let metadata = Box::new(metadata(entry, Kind::File { size: 0 }, &path)?);
            return Ok(Some((path, RawItem::Link { target, metadata }, None)));
        }
        b'2' => Kind::Symlink { target: link()? },
        b'3' => {
            let (major, minor) = device()?;
            Kind::Char { major, minor }
        }
        b'4' => {
            let (major, minor) = device()?;
            Kind::Block { major, minor }
        }
        b'5' => Kind::Dir,
        b'6' => Kind::Fifo,
        flag => return Err(ArchiveError::EntryType { path, flag }),
    };
    if path.as_os_str().is_empty() && kind != Kind::Dir {
        return match whiteouts {
            // The destination is there already, which is all that Docker asks of such an entry.
            Whiteouts::Names => Ok(None),
            Whiteouts::Meant => Err(ArchiveError::Name { path: raw_path }),
        };
    }
    let metadata = metadata(entry, kind, &path)?;
    Ok(Some((
        path,
        RawItem::Node(metadata),
        sparse.map(|(map, _)| map),
    )))
}

fn metadata(entry: &ParsedEntry<'_>, kind: Kind, path: &Path) -> Result<Metadata, ArchiveError> {
    let number = |field| ArchiveError::Number {
        path: path.to_owned(),
        field,
    };
    let mut mtime = Timestamp::from_seconds(entry.mtime.cast_signed());
    for record in entry.pax.into_iter().flat_map(PaxExtensions::new) {
        // A broken record was an error of the parser already.
        let Ok(record) = record else { break };
        let text = str::from_utf8(record.value_bytes()).ok();
        match record.key_bytes() {
            b"mtime" => {
                mtime = text
                    .and_then(parse_time)
                    .ok_or_else(|| number("modification time"))?;
            }
            b"uid" if text.is_none_or(|text| text.parse::<u64>().is_err()) => {
                return Err(number("owner"));
            }
            b"gid" if text.is_none_or(|text| text.parse::<u64>().is_err()) => {
                return Err(number("group"));
            }
            b"size" if text.is_none_or(|text| text.parse::<u64>().is_err()) => {
                return Err(number("size"));
            }
            _ => {}
        }
    }
    Ok(Metadata {
        kind,
        mode: entry.mode & 0o7777,
        uid: id(entry.uid).ok_or_else(|| number("owner"))?,
        gid: id(entry.gid).ok_or_else(|| number("group"))?,
        mtime,
        xattrs: entry
            .xattrs
            .iter()
            .filter(|(name, _)| !name.is_empty() && !name.contains(&0))
            .map(|(name, value)| (OsString::from_vec(name.to_vec()), value.to_vec()))
            .collect(),
    })
}

/// A number that a file's owner or group can have: the largest one means "leave it as it is" to the kernel.
fn id(number: u64) -> Option<u32> {
    u32::try_from(number).ok().filter(|id| *id != u32::MAX)
}

/// Decimal seconds with an optional sign and fraction.
fn parse_time(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = fraction.get(..9).unwrap_or(fraction);
    let nanos: u32 = format!("{digits:0<9}").parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some(Timestamp {
            seconds: seconds.checked_sub(1)?,
            nanos: 1_000_000_000 - nanos,
        });
    }
    Some(Timestamp { seconds, nanos })
}

/// Checks that the stored runs are in order, inside the file, and as long together as what is stored. Empty runs, by which
/// archivers mark the end of a file, are left out.
pub(super) fn check_sparse(
    entry: &ParsedEntry<'_>,
    map: Vec<Extent>,
    real_size: u64,
    stored: u64,
) -> Result<Vec<Extent>, ArchiveError> {
    let lie = |problem| ArchiveError::Sparse {
        path: as_path(&entry.path),
        problem,
    };
    if real_size > MAX_SPARSE {
        return Err(lie("makes it larger than 64 GiB"));
    }
    let (mut end, mut sum) = (0_u64, 0_u64);
    for run in &map {
        if run.offset < end {
            return Err(lie("goes backwards"));
        }
        end = run
            .offset
            .checked_add(run.length)
            .filter(|&end| end <= real_size)
            .ok_or_else(|| lie("goes beyond its end"))?;
        sum += run.length;
    }
    if sum != stored {
        return Err(lie("does not add up to what is stored"));
    }
    Ok(map.into_iter().filter(|run| run.length > 0).collect())
}

fn as_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

/// A name as a path below the root: absolute ones begin there, `..` is undone as long as it stays inside.
fn clean(path: &Path) -> Option<PathBuf> {
    if path.as_os_str().is_empty() || path.as_os_str().as_bytes().contains(&0) {
        return None;
    }
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                if !clean.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(clean)
}

enum Whiteout {
    /// The name is an ordinary one.
    None,
    Is(PathBuf, RawItem),
    /// Left behind by AUFS; means nothing to anybody else.
    Bookkeeping,
}

/// What a name says by its `.wh.`.
fn whiteout(path: &Path) -> Result<Whiteout, ArchiveError> {
    let marked = |name: &OsStr| name.as_bytes().starts_with(WHITEOUT_PREFIX);
    let error = || ArchiveError::Whiteout {
        path: path.to_owned(),
    };
    let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
        return Ok(Whiteout::None);
    };
    for above in parent {
        if above.as_bytes().starts_with(b".wh..wh.") {
            return Ok(Whiteout::Bookkeeping);
        }
        if marked(above) {
            return Err(error());
        }
    }
    let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT_PREFIX) else {
        return Ok(Whiteout::None);
    };
    if name.as_bytes() == OPAQUE_NAME {
        return Ok(Whiteout::Is(parent.to_owned(), RawItem::Opaque));
    }
    if hidden.starts_with(WHITEOUT_PREFIX) {
        return Ok(Whiteout::Bookkeeping);
    }
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(error());
    }
    let path = parent.join(OsStr::from_bytes(hidden));
    Ok(Whiteout::Is(path, RawItem::Remove))
}
