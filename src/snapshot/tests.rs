//! Layers become directories, steps change them, changes become layers: what comes out is what a process saw.

mod changes;
mod lasting;
mod many;
mod one_id;
mod random;
mod staged;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::fs::{Mode, OFlags};

use super::*;
use crate::{
    layer::{Change, Compression, Content, LayerBlob, WriteOptions, write_layer},
    tree::{Kind, Metadata, Timestamp, Tree as _},
};

const REAL: Style = Style {
    marks: Marks::Trusted,
    owners: Owners::Real,
};

#[expect(clippy::print_stderr, reason = "a test that does not run says why")]
fn skipped(reason: &str) {
    eprintln!("skipped: {reason}");
}

/// Whether this test may do what only root may.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skipped("needs root for owners, devices and overlayfs");
    }
    root
}

fn metadata(kind: Kind, mode: u32) -> Metadata {
    Metadata {
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: Timestamp::from_seconds(1_000_000_000),
        xattrs: BTreeMap::new(),
    }
}

fn file(path: &str, text: &str) -> Change {
    let size = text.len() as u64;
    Change::Put {
        path: path.into(),
        metadata: metadata(Kind::File { size }, 0o644),
        content: Content::bytes(text.as_bytes()),
    }
}

fn put(path: &str, metadata: Metadata) -> Change {
    Change::Put {
        path: path.into(),
        metadata,
        content: Content::Empty,
    }
}

fn dir(path: &str) -> Change {
    put(path, metadata(Kind::Dir, 0o755))
}

fn gone(path: &str) -> Change {
    Change::Remove { path: path.into() }
}

/// Layers in files below a directory.
struct Blobs(tempfile::TempDir);

impl Blobs {
    fn layer(&self, changes: Vec<Change>) -> Arc<LayerBlob> {
        let options = WriteOptions {
            compression: Compression::Gzip { level: 1 },
            ..WriteOptions::default()
        };
        let path = self
            .0
            .path()
            .join(format!("{}", std::fs::read_dir(&self.0).unwrap().count()));
        let written = write_layer(changes, std::fs::File::create(&path).unwrap(), &options);
        LayerBlob::new(Arc::new(written.unwrap().toc.unpack()), path, None)
    }

    fn tree<const N: usize>(&self, layers: [Vec<Change>; N]) -> LayerTree {
        LayerTree::of(layers.map(|changes| self.layer(changes))).unwrap()
    }
}

/// A directory for a test: snapshots of one style, and blobs.
fn fixture(style: Style) -> (tempfile::TempDir, Snapshots, Blobs) {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path(), style).unwrap();
    (dir, snapshots, Blobs(tempfile::tempdir().unwrap()))
}

fn base() -> Vec<Change> {
    let mut capable = metadata(Kind::File { size: 2 }, 0o4755);
    capable.uid = 3;
    let capability = b"\x01\0\0\x02\0 \0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    capable
        .xattrs
        .insert(OsString::from("security.capability"), capability);
    let mut owned = metadata(Kind::Dir, 0o1770);
    (owned.uid, owned.gid) = (1000, 1001);
    let mut link = metadata(
        Kind::Symlink {
            target: "../bin/tool".into(),
        },
        0o777,
    );
    link.uid = 12;
    vec![
        dir("bin"),
        Change::Put {
            path: "bin/tool".into(),
            metadata: capable,
            content: Content::bytes(&b"hi"[..]),
        },
        Change::Link {
            path: "bin/also".into(),
            target: "bin/tool".into(),
        },
        put("home", owned),
        put("home/link", link),
        file("home/note", "text"),
        dir("data"),
        file("data/a", "a"),
        file("data/b", "b"),
        dir("data/deep"),
        file("data/deep/c", "c"),
        put("null", metadata(Kind::Char { major: 1, minor: 3 }, 0o666)),
        put("pipe", metadata(Kind::Fifo, 0o600)),
    ]
}

/// A line for each path of a tree, with all that a layer keeps.
fn listing(tree: &LayerTree) -> Vec<String> {
    fn walk(tree: &LayerTree, path: &Path, lines: &mut Vec<String>) {
        for name in tree.names(path).unwrap() {
            let path = path.join(name);
            let node = tree.node(&path).unwrap().unwrap();
            let Metadata {
                kind,
                mode,
                uid,
                gid,
                xattrs,
                ..
            } = &node.metadata;
            let digest = match kind {
                Kind::File { .. } => tree.digest(&path).unwrap().short(),
                _ => String::new(),
            };
            let linked = if node.inode.is_some() { " linked" } else { "" };
            lines.push(format!(
                "{} {kind:?} {mode:o} {uid}:{gid} {digest} {:?}{linked}",
                path.display(),
                xattrs.keys()
            ));
            if *kind == Kind::Dir {
                walk(tree, &path, lines);
            }
        }
    }
    let mut lines = Vec::new();
    walk(tree, Path::new(""), &mut lines);
    lines
}

fn paths(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .map(|change| match change {
            Change::Put { path, metadata, .. } if metadata.is_dir() => {
                format!("{}/", path.display())
            }
            Change::Put { path, .. } => path.display().to_string(),
            Change::Link { path, target } => format!("{} = {}", path.display(), target.display()),
            Change::Remove { path } => format!("-{}", path.display()),
            Change::Opaque { path } => format!("!{}", path.display()),
        })
        .collect()
}

/// Runs a script in the overlay's merged directory; `None` with the reason where overlayfs cannot be mounted.
fn run(overlay: &Overlay, script: &str) -> Option<()> {
    let mut lower: Vec<String> = overlay
        .lower()
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    if lower.is_empty() {
        lower.push("/var/empty".to_owned());
    }
    let marks = if overlay.style().marks == Marks::User {
        ",userxattr"
    } else {
        ""
    };
    let mount = format!(
        "mount -t tmpfs none /mnt && mkdir /mnt/root && mount -t overlay none /mnt/root -o \
         lowerdir={},upperdir={},workdir={},index=off,metacopy=off,redirect_dir=nofollow{marks} || exit 77\n\
         cd /mnt/root && set -e\n{script}",
        lower.join(":"),
        overlay.upper().display(),
        overlay.work().display(),
    );
    let status = Command::new("unshare")
        .args(["-m", "sh", "-c", &mount])
        .stdin(Stdio::null())
        .status()
        .unwrap();
    if status.code() == Some(77) {
        skipped("overlayfs cannot be mounted here");
        return None;
    }
    assert!(status.success(), "{script}");
    Some(())
}

/// The tree after a step, by way of a layer.
fn after(blobs: &Blobs, tree: &LayerTree, changes: Vec<Change>) -> LayerTree {
    tree.push(blobs.layer(changes)).unwrap()
}

#[test]
fn a_layer_unpacked_is_what_the_layer_says() {
    if !is_root() {
        return;
    }
    let (_dir, snapshots, blobs) = fixture(REAL);
    let tree = blobs.tree([base()]);
    let mut checkout = snapshots.checkout(&tree).unwrap();
    assert_eq!(paths(&checkout.diff(&tree).unwrap()), [""; 0]);
    // Reading the directory back, as if all of it had been made by a step, gives the same tree.
    let again = diff_upper(
        &checkout.root(),
        &checkout.owners(),
        &LayerTree::empty(),
        REAL,
    )
    .unwrap();
    let again = after(&blobs, &LayerTree::empty(), again.changes);
    assert_eq!(listing(&again), listing(&tree));
    let stat = std::fs::symlink_metadata(checkout.root().join("home/link")).unwrap();
    assert_eq!(
        stat.modified().unwrap(),
        std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000)
    );
    let stat = std::fs::metadata(checkout.root().join("data")).unwrap();
    assert_eq!(
        stat.modified().unwrap(),
        std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000)
    );
}

#[test]
fn snapshots_are_made_once_and_stack() {
    if !is_root() {
        return;
    }
    let (at, snapshots, blobs) = fixture(REAL);
    let tree = blobs.tree([
        base(),
        vec![
            dir("data"),
            gone("data/a"),
            file("data/b", "2"),
            gone("null"),
            file("bin", "now a file"),
        ],
    ]);
    let stack = snapshots.stack(&tree).unwrap();
    assert_eq!(stack.len(), 2);
    assert_eq!(snapshots.list().unwrap().len(), 2);
    let made = std::fs::metadata(stack[0].fs()).unwrap().created().unwrap();
    let again = snapshots.stack(&tree).unwrap();
    assert_eq!(
        std::fs::metadata(again[0].fs()).unwrap().created().unwrap(),
        made
    );
    let mut overlay = snapshots.prepare(stack).unwrap();
    let script = "test ! -e data/a; test \"$(cat data/b)\" = 2; test -f bin; test ! -e null; test -e data/deep/c
        test \"$(stat -c %a:%u:%g home)\" = 1770:1000:1001";
    if run(&overlay, script).is_none() {
        return;
    }
    assert_eq!(paths(&overlay.diff(&tree).unwrap()), [""; 0]);
    drop(overlay);
    let left = std::fs::read_dir(at.path().join("trusted/tmp"))
        .unwrap()
        .count();
    assert_eq!(left, 0, "a step's directories go with it");
}

#[test]
fn what_a_process_of_the_same_number_has_left_is_in_nobodys_way() {
    if !is_root() {
        return;
    }
    let (at, snapshots, blobs) = fixture(REAL);
    drop(snapshots.stack(&blobs.tree([base()])).unwrap());
    let [made] = snapshots.list().unwrap()[..] else {
        panic!("one was made");
    };
    // Killed, or of another pid namespace.
    for n in 0..5000 {
        let other = format!("trusted/tmp/{}-{n}/fs", std::process::id());
        std::fs::create_dir_all(at.path().join(other)).unwrap();
    }
    assert!(snapshots.remove(made).unwrap());
    assert_eq!(snapshots.list().unwrap(), []);
}

#[test]
fn directories_made_ahead_serve_the_state_that_they_were_made_for() {
    if !is_root() {
        return;
    }
    let (_dir, snapshots, blobs) = fixture(REAL);
    let tree = blobs.tree([base()]);
    let stack = || snapshots.stack(&tree).unwrap();
    let id = |text: &str| ChainId(crate::oci::sha256(text.as_bytes()));
    let on = |adopted: Snapshot| [adopted].into_iter().chain(stack()).collect::<Vec<_>>();
    let step = |name: &str| {
        let overlay = snapshots.prepare(stack()).unwrap();
        std::fs::write(overlay.upper().join(name), name).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(overlay.upper(), mode).unwrap();
        let ahead = overlay.ahead(snapshots.blank().unwrap()).unwrap();
        assert_eq!(ahead.first(), overlay.upper());
        (overlay, ahead)
    };

    let (overlay, mut ahead) = step("a");
    let (adopted, _remains) = overlay.adopt(id("a"), Some(&mut ahead)).unwrap();
    let (upper, lower) = (ahead.upper(), ahead.lower());
    let next = snapshots.prepare_ahead(ahead, on(adopted.clone())).unwrap();
    let next = next.expect("they lie on this");
    assert_eq!(next.upper(), upper);
    assert_eq!(next.lower()[1..], lower);
    assert!(next.lower()[0].join("a").is_file());
    let mode = std::fs::metadata(&upper).unwrap().permissions();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777,
        0o711
    );

    // Somebody was faster: the state is in another directory.
    let (overlay, mut ahead) = step("b");
    let (adopted, _remains) = overlay.adopt(id("a"), Some(&mut ahead)).unwrap();
    let other = snapshots.prepare_ahead(ahead, on(adopted)).unwrap();
    assert_eq!(other.expect_err("another directory").len(), 2);

    // The step is not the next one after all.
    let (overlay, mut ahead) = step("c");
    let _adopted = overlay.adopt(id("c"), Some(&mut ahead)).unwrap();
    assert!(snapshots.prepare_ahead(ahead, stack()).unwrap().is_err());
}

#[test]
fn directories_without_rights_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("a/b/c")).unwrap();
    std::fs::write(tree.join("a/b/file"), "").unwrap();
    std::os::unix::fs::symlink("/", tree.join("a/root")).unwrap();
    for name in ["a/b/c", "a/b", "a"] {
        rustix::fs::chmod(tree.join(name), Mode::empty()).unwrap();
    }
    remove_tree(&tree).unwrap();
    assert!(!tree.try_exists().unwrap());
    remove_tree(&tree).unwrap();
    std::fs::write(&tree, "").unwrap();
    remove_tree(&tree).unwrap();
    assert!(!tree.try_exists().unwrap());
}

#[test]
fn directories_beyond_any_path_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut here = rustix::fs::open(dir.path(), flags, Mode::empty()).unwrap();
    let name = "d".repeat(20);
    for _ in 0..300 {
        rustix::fs::mkdirat(&here, &name, Mode::RWXU).unwrap();
        here = rustix::fs::openat(&here, &name, flags, Mode::empty()).unwrap();
    }
    let changes = diff_upper(dir.path(), Path::new("none"), &LayerTree::empty(), REAL);
    assert!(changes.is_err(), "no layer can say this");
    remove_tree(&dir.path().join(name)).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
