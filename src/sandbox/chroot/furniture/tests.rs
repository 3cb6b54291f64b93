use std::os::unix::fs::MetadataExt as _;

use super::*;

/// Whether this test may do what only root may.
#[expect(clippy::print_stderr, reason = "a test that does not run says why")]
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root for devices and owners");
    }
    root
}

fn shown(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let stat = std::fs::symlink_metadata(&path).unwrap();
            all.push(format!(
                "{} {:o} {} {}.{}",
                path.display(),
                stat.mode(),
                stat.ino(),
                stat.mtime(),
                stat.mtime_nsec()
            ));
            if stat.is_dir() {
                todo.push(path);
            }
        }
    }
    all.sort();
    all
}

#[test]
fn what_was_put_in_leaves_no_trace() {
    if !is_root() {
        return;
    }
    let at = tempfile::tempdir().unwrap();
    let (root, work) = (at.path().join("root"), at.path().join("work"));
    for dir in [
        "root/etc",
        "root/cache",
        "root/proc",
        "root/dev",
        "work",
        "own",
    ] {
        std::fs::create_dir_all(at.path().join(dir)).unwrap();
    }
    std::fs::write(root.join("etc/hosts"), "image's").unwrap();
    std::fs::write(root.join("cache/hidden"), "image's").unwrap();
    let before = shown(&root);
    let mut furniture = Furniture::new(&root, &work, Owning::Real).unwrap();
    furniture.kernel_dir("proc").unwrap();
    furniture.dev(None).unwrap();
    let etc = Path::new("/etc/hosts");
    furniture.bytes(etc, b"ours", 0o644, (0, 0)).unwrap();
    let own = at.path().join("own");
    for (target, kind) in [
        (
            "/cache",
            MountKind::Own {
                source: own.clone(),
                readonly: false,
            },
        ),
        (
            "/run/x/tmp",
            MountKind::Tmpfs {
                size: None,
                readonly: false,
            },
        ),
    ] {
        furniture.put(&MountSpec::new(target, kind)).unwrap();
    }
    assert_eq!(std::fs::read(root.join("etc/hosts")).unwrap(), b"ours");
    assert!(!root.join("cache/hidden").try_exists().unwrap());
    std::fs::write(root.join("cache/kept"), "").unwrap();
    std::fs::write(root.join("run/x/tmp/lost"), "").unwrap();
    furniture.take_out().unwrap();
    assert_eq!(shown(&root), before);
    assert!(own.join("kept").try_exists().unwrap());
}

#[test]
fn a_step_cannot_lead_the_cleaning_out_of_the_root() {
    if !is_root() {
        return;
    }
    let at = tempfile::tempdir().unwrap();
    let (root, work) = (at.path().join("root"), at.path().join("work"));
    for dir in ["root/etc", "work", "host"] {
        std::fs::create_dir_all(at.path().join(dir)).unwrap();
    }
    std::fs::write(at.path().join("host/hosts"), "the host's").unwrap();
    let mut furniture = Furniture::new(&root, &work, Owning::Real).unwrap();
    let etc = Path::new("/etc/hosts");
    furniture.bytes(etc, b"ours", 0o644, (0, 0)).unwrap();
    std::fs::rename(root.join("etc"), root.join("moved")).unwrap();
    std::os::unix::fs::symlink(at.path().join("host"), root.join("etc")).unwrap();
    furniture.take_out().unwrap();
    assert!(at.path().join("host/hosts").try_exists().unwrap());
    assert!(!root.join("moved/hosts").try_exists().unwrap());
}
