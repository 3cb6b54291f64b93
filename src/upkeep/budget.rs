//! How much room there is.

use std::path::Path;

use super::{At as _, UpkeepError};

/// Room on the file system of a store, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Free(pub u64);

/// How much an ordinary user may still write where `path` is.
pub fn free_space(path: &Path) -> Result<Free, UpkeepError> {
    let stat = rustix::fs::statvfs(path).at("measure", path)?;
    Ok(Free(stat.f_bavail.saturating_mul(stat.f_frsize)))
}
