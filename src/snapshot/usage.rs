//! What snapshots take up, and when they were used last.
//!
//! A snapshot does not change, so its size is measured once and kept in `<chainID>/usage`, in decimal. The time of the lock file is
//! that of its last use, give or take [`COARSE`].

use std::{
    collections::HashSet,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{At as _, Marks, Owners, SnapshotError, Snapshots, Style, lock::Held};
use crate::oci::ChainId;

const NAME: &str = "usage";

/// A use so soon after another is not noted.
pub(super) const COARSE: Duration = Duration::from_mins(1);

/// `stat` counts in these, whatever the file system does.
const BLOCK_BYTES: u64 = 512;

/// A snapshot, for lists and for cleaning up.
#[derive(Debug, Clone)]
pub struct SnapshotOnDisk {
    /// The state that it completes.
    pub chain_id: ChainId,
    /// Its directory.
    pub path: PathBuf,
    /// What it takes up on disk, in bytes.
    pub size: u64,
    /// When it was used last.
    pub last_used: SystemTime,
    /// Whether somebody uses it.
    pub in_use: bool,
}

impl Snapshots {
    /// The snapshots below `dir` of each style of which there may be some.
    pub fn of_all_styles(dir: &Path) -> Result<Vec<Self>, SnapshotError> {
        let mut found = Vec::new();
        for marks in [Marks::Trusted, Marks::User] {
            for owners in [
                Owners::Real,
                Owners::Mapped,
                Owners::Recorded,
                Owners::Emulated,
            ] {
                let style = Style { marks, owners };
                let path = dir.join(style.dir_name());
                if path.join("tmp").try_exists().at("find", &path)? {
                    found.push(Self::open(dir, style)?);
                }
            }
        }
        Ok(found)
    }

    /// What there is. Those that go meanwhile are left out.
    pub fn on_disk(&self) -> Result<Vec<SnapshotOnDisk>, SnapshotError> {
        let mut found = Vec::new();
        for chain_id in self.list()? {
            let path = self.dir.join(chain_id.0.hex());
            let lock = path.join("lock");
            let last_used = match std::fs::metadata(&lock).and_then(|m| m.modified()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.at("read", &lock)?,
            };
            let in_use = Held::alone(&path)?.is_none();
            found.push(SnapshotOnDisk {
                chain_id,
                size: size(&path).at("measure", &path)?,
                path,
                last_used,
                in_use,
            });
        }
        Ok(found)
    }
}

fn size(path: &Path) -> io::Result<u64> {
    let file = path.join(NAME);
    if let Ok(text) = std::fs::read_to_string(&file)
        && let Some(number) = text.strip_suffix('\n')
        && let Ok(size) = number.parse()
    {
        return Ok(size);
    }
    let size = disk_usage(path)?;
    // Only to save work next time. Without its line's end it was cut short and does not count.
    let _best_effort = std::fs::write(&file, format!("{size}\n")).is_ok();
    Ok(size)
}

/// What a file or directory takes up on disk, in bytes: an inode with several names counts once. What may not be read, or
/// goes meanwhile, counts nothing.
pub fn disk_usage(path: &Path) -> io::Result<u64> {
    let mut blocks = 0;
    let mut seen = HashSet::new();
    let mut todo = vec![path.to_owned()];
    while let Some(path) = todo.pop() {
        let Some(stat) = passing_over(std::fs::symlink_metadata(&path))? else {
            continue;
        };
        if stat.is_dir() {
            for entry in passing_over(std::fs::read_dir(&path))?
                .into_iter()
                .flatten()
            {
                todo.push(entry?.path());
            }
        } else if stat.nlink() > 1 && !seen.insert((stat.dev(), stat.ino())) {
            continue;
        }
        blocks += stat.blocks();
    }
    Ok(blocks * BLOCK_BYTES)
}

fn passing_over<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
