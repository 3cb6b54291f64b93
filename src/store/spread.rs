//! Where a file system puts new directories.

use std::path::Path;

use rustix::fs::{IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags};

/// Tells the file system that the directories which will be made in `dir` have nothing to do with each other, so that each gets a
/// place of its own with room around it. Whatever cannot be told is not needed.
///
/// ext4 otherwise puts all of a store beside the directory that it lies in, and passes over numbers of inodes that were
/// freed in the last minutes one by one: where a tree was removed just before, as between two builds, that takes
/// several times as long as making the inode.
pub fn spread(dir: &Path) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(dir) = rustix::fs::open(dir, flags, Mode::empty()) else {
        return;
    };
    if let Ok(present) = ioctl_getflags(&dir)
        && !present.contains(IFlags::TOPDIR)
    {
        let _not_every_file_system = ioctl_setflags(&dir, present | IFlags::TOPDIR).is_ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_marked_where_that_can_be() {
        let dir = tempfile::tempdir().unwrap();
        spread(dir.path());
        spread(&dir.path().join("missing"));
        let open = std::fs::File::open(dir.path()).unwrap();
        // EXT4_SUPER_MAGIC; others have no such mark, or ignore it.
        let is_ext = rustix::fs::fstatfs(&open).is_ok_and(|fs| fs.f_type == 0xef53);
        if is_ext && rustix::process::geteuid().is_root() {
            assert!(ioctl_getflags(&open).unwrap().contains(IFlags::TOPDIR));
        }
    }
}
