//! Snapshots that are known to be on disk, which counts when the machine is started again.

use std::{io, path::Path, sync::atomic::Ordering, time::Duration};

use super::{At, SnapshotError, Snapshots, lock::Held};

/// Snapshots are settled when they are so old: twice the age at which the kernel writes things of its own accord.
pub const LEAST_AGE: Duration = Duration::from_mins(1);

/// The mark of a snapshot that is on disk as a whole.
pub(super) const SETTLED: &str = "settled";

/// Whether a directory has been as it is for so long. Not, when that began in the future.
fn is_older(dir: &Path, age: Duration) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let since = i128::from(std::fs::metadata(dir)?.ctime());
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    let now = i128::from(now.unwrap_or_default().as_secs());
    Ok(now - since >= i128::from(age.as_secs()))
}

impl Snapshots {
    /// Waits until the snapshots that were made `least_age` ago are on disk, so that they outlive a power cut and the next start
    /// of the machine; how many there were. Nothing is waited for when there are none.
    pub fn settle(&self, least_age: Duration) -> Result<usize, SnapshotError> {
        let mut held = Vec::new();
        for chain_id in self.list()? {
            let path = self.dir.join(chain_id.0.hex());
            let Some(lock) = Held::shared(&path)? else {
                continue;
            };
            // What another boot made has to be known whole already.
            if lock.is_of_this_boot().at("read", &path)?
                && is_older(&path.join("fs"), least_age).at("read", &path)?
                && !path.join(SETTLED).try_exists().at("find", &path)?
            {
                held.push((lock, path));
            }
        }
        if held.is_empty() {
            return Ok(0);
        }
        let dir = std::fs::File::open(&self.dir).at("open", &self.dir)?;
        rustix::fs::syncfs(&dir).at("sync", &self.dir)?;
        for (_, path) in &held {
            let mark = path.join(SETTLED);
            std::fs::File::create(&mark).at("create", &mark)?;
        }
        Ok(held.len())
    }

    /// Settles, beside whatever else is done, what earlier processes made. By then the kernel has written most of it, and whoever
    /// comes here makes or runs something that takes longer. Once for each opening of the directory.
    pub(super) fn settle_aside(&self, least_age: Duration) {
        if self.settling.swap(true, Ordering::Relaxed) {
            return;
        }
        let snapshots = self.clone();
        // States that are not settled cost time after the next start of the machine, nothing else; the same when this process
        // ends first.
        let _best_effort = std::thread::Builder::new()
            .spawn(move || snapshots.settle(least_age).is_ok())
            .is_ok();
    }
}
