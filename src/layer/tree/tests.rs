use std::{io::Read as _, path::PathBuf};

use super::*;
use crate::{
    layer::{
        BlobSource, Change, Compression, Content, FileDigests, Toc, WriteOptions, write_layer,
    },
    oci::sha256,
};

fn file(path: &str, bytes: &str) -> Change {
    Change::Put {
        path: path.into(),
        metadata: Metadata::file(bytes.len() as u64, Timestamp::from_seconds(3)),
        content: Content::bytes(bytes.as_bytes()),
    }
}

fn dir(path: &str) -> Change {
    Change::dir(path, Metadata::dir(Timestamp::from_seconds(1)))
}

fn symlink(path: &str, target: &str) -> Change {
    let kind = Kind::Symlink {
        target: target.into(),
    };
    let metadata = Metadata {
        kind,
        ..Metadata::file(0, Timestamp::default())
    };
    Change::Put {
        path: path.into(),
        metadata,
        content: Content::Empty,
    }
}

fn link(path: &str, target: &str) -> Change {
    Change::Link {
        path: path.into(),
        target: target.into(),
    }
}

fn gone(path: &str) -> Change {
    Change::Remove { path: path.into() }
}

fn opaque(path: &str) -> Change {
    Change::Opaque { path: path.into() }
}

/// A blob in a file that lives as long as its layer.
struct InFile(tempfile::NamedTempFile);

impl BlobSource for InFile {
    fn open(&self) -> io::Result<std::fs::File> {
        self.0.reopen()
    }
}

fn stored(bytes: &[u8]) -> InFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    InFile(file)
}

fn layer_with(changes: Vec<Change>, compression: Compression) -> Arc<LayerBlob> {
    let mut blob = Vec::new();
    let options = WriteOptions {
        compression,
        ..WriteOptions::default()
    };
    let written = write_layer(changes, &mut blob, &options).unwrap();
    // Only the writer can know what serves making the next blob.
    let mut noted = written.toc.unpack();
    (noted.recipe, noted.checkpoints) = (None, Vec::new());
    for member in &mut noted.members {
        member.made = None;
    }
    let toc = Toc::read(&*blob).unwrap();
    assert!(toc == noted, "the reader finds what the writer noted");
    LayerBlob::new(Arc::new(toc), stored(&blob), None)
}

fn layer(changes: Vec<Change>) -> Arc<LayerBlob> {
    layer_with(changes, Compression::default())
}

/// Every path, directories with a slash, files with their content, links with their target.
fn listing(tree: &LayerTree) -> Vec<String> {
    fn walk(tree: &LayerTree, path: &Path, lines: &mut Vec<String>) {
        for name in tree.names(path).unwrap() {
            let path = path.join(name);
            let node = tree.node(&path).unwrap().unwrap();
            let shown = path.display();
            match &node.metadata.kind {
                Kind::Dir => {
                    lines.push(format!("{shown}/"));
                    walk(tree, &path, lines);
                }
                Kind::Symlink { target } => lines.push(format!("{shown} -> {}", target.display())),
                _ => {
                    let mut text = String::new();
                    tree.open(&path).unwrap().read_to_string(&mut text).unwrap();
                    assert_eq!(tree.digest(&path).unwrap(), sha256(text.as_bytes()));
                    lines.push(format!("{shown} = {text}"));
                }
            }
        }
    }
    let mut lines = Vec::new();
    walk(tree, Path::new(""), &mut lines);
    lines
}

fn stack<const N: usize>(layers: [Vec<Change>; N]) -> LayerTree {
    LayerTree::of(layers.map(layer)).unwrap()
}

#[test]
fn upper_layers_win_and_directories_merge() {
    let tree = stack([
        vec![
            dir("a"),
            file("a/x", "1"),
            file("a/y", "1"),
            file("b", "1"),
            dir("c"),
            file("c/z", "1"),
        ],
        vec![
            dir("a"),
            file("a/x", "2"),
            dir("b"),
            file("b/in", "2"),
            file("c", "2"),
        ],
    ]);
    assert_eq!(
        listing(&tree),
        ["a/", "a/x = 2", "a/y = 1", "b/", "b/in = 2", "c = 2"]
    );
}

#[test]
fn whiteouts_take_from_below_only() {
    let tree = stack([
        vec![
            dir("a"),
            file("a/x", "1"),
            file("a/y", "1"),
            dir("o"),
            file("o/1", "1"),
            file("o/2", "1"),
        ],
        vec![
            dir("a"),
            gone("a/x"),
            gone("never/was"),
            dir("o"),
            opaque("o"),
            file("o/2", "2"),
        ],
    ]);
    assert_eq!(listing(&tree), ["a/", "a/y = 1", "o/", "o/2 = 2"]);
    let tree = stack([vec![dir("a"), file("a/x", "1")], vec![gone("a")]]);
    assert_eq!(listing(&tree), [""; 0]);
}

#[test]
fn missing_parents_are_made() {
    let tree = stack([vec![file("a/b/c", "1")]]);
    assert_eq!(listing(&tree), ["a/", "a/b/", "a/b/c = 1"]);
    let node = tree.node(Path::new("a")).unwrap().unwrap();
    assert_eq!(node.metadata, Metadata::dir(Timestamp::default()));
}

#[test]
fn links_to_directories_are_followed_inside_the_root() {
    let tree = stack([
        vec![
            dir("usr"),
            dir("usr/lib"),
            symlink("lib", "/usr/lib"),
            symlink("out", "../../../usr"),
        ],
        vec![
            file("lib/a", "1"),
            file("out/lib/b", "2"),
            symlink("new", "usr/later"),
        ],
        vec![file("new/c", "3"), gone("lib/a")],
    ]);
    assert_eq!(
        listing(&tree),
        [
            "lib -> /usr/lib",
            "new -> usr/later",
            "out -> ../../../usr",
            "usr/",
            "usr/later/",
            "usr/later/c = 3",
            "usr/lib/",
            "usr/lib/b = 2"
        ]
    );
}

#[test]
fn impossible_paths_are_refused() {
    let push = |changes| {
        let base = vec![file("file", ""), symlink("loop", "loop"), dir("dir")];
        stack([base]).push(layer(changes)).unwrap_err()
    };
    assert!(matches!(
        push(vec![file("file/x", "")]),
        StackError::NotADirectory { .. }
    ));
    assert!(matches!(
        push(vec![file("loop/x", "")]),
        StackError::Loop { .. }
    ));
}

#[test]
fn depth_is_limited_also_through_links() {
    let deep = "d/".repeat(200);
    let tree = stack([vec![file(&format!("{deep}f"), ""), symlink("s", &deep)]]);
    let error = tree
        .push(layer(vec![file(&format!("s/{deep}f"), "")]))
        .unwrap_err();
    assert!(matches!(error, StackError::TooDeep { .. }));
    let error = LayerTree::of([layer(vec![file(&format!("{deep}{deep}f"), "")])]).unwrap_err();
    assert!(matches!(error, StackError::TooDeep { .. }));
}

/// A layer from a table that no writer of ours would make.
fn forged(entries: Vec<(&str, TocItem)>) -> Arc<LayerBlob> {
    let empty = layer(Vec::new());
    let entries = entries
        .into_iter()
        .map(|(path, item)| TocEntry {
            path: path.into(),
            item,
        })
        .collect();
    let toc = Toc {
        entries,
        ..Toc::clone(empty.toc())
    };
    LayerBlob::new(Arc::new(toc), PathBuf::new(), None)
}

#[test]
fn hard_links_share_an_inode_across_layers() {
    let base = stack([vec![
        file("a", "1"),
        link("b", "a"),
        file("c", "1"),
        dir("d"),
    ]]);
    let inode = |tree: &LayerTree, path: &str| tree.node(Path::new(path)).unwrap().unwrap().inode;
    assert_eq!(inode(&base, "a"), inode(&base, "b"));
    assert!(inode(&base, "a").is_some());
    assert_eq!(inode(&base, "c"), None);
    let once = base.push(layer(vec![gone("b")])).unwrap();
    assert_eq!(inode(&once, "a"), None, "its other name is gone");
    let replaced = base.push(layer(vec![file("a", "2")])).unwrap();
    assert_eq!(inode(&replaced, "b"), None);
    let target = |target: &str| TocItem::Link {
        target: target.into(),
    };
    let tree = base.push(forged(vec![("e", target("c"))])).unwrap();
    assert_eq!(inode(&tree, "c"), inode(&tree, "e"));
    assert!(inode(&tree, "c").is_some());
    assert_eq!(inode(&base, "c"), None, "the lower tree is untouched");
    let itself = base.push(forged(vec![("c", target("c"))])).unwrap();
    assert_eq!(listing(&itself), listing(&base));
    for nothing in ["nothing", "d"] {
        let error = base.push(forged(vec![("e", target(nothing))])).unwrap_err();
        assert!(matches!(error, StackError::LinkTarget { .. }));
    }
}

fn differences(upper: &LayerTree, lower: &LayerTree) -> Vec<String> {
    upper
        .differences(lower)
        .into_iter()
        .map(|difference| {
            let path = difference.path.display();
            match difference.what {
                Different::Gone => format!("-{path}"),
                Different::Dir { merged: true, .. } => format!("{path}/"),
                Different::Dir { merged: false, .. } => format!("+{path}/"),
                Different::Leaf { inode: None, .. } => format!("+{path}"),
                Different::Leaf { inode: Some(_), .. } => format!("+{path} linked"),
            }
        })
        .collect()
}

#[test]
fn differences_are_what_the_top_layers_changed() {
    let base = stack([vec![
        dir("a"),
        file("a/x", "1"),
        file("a/y", "1"),
        dir("b"),
        file("b/x", "1"),
        dir("same"),
        file("same/x", "1"),
        file("l", "1"),
    ]]);
    let chmodded = Metadata {
        mode: 0o700,
        ..Metadata::dir(Timestamp::from_seconds(1))
    };
    let top = base
        .push(layer(vec![
            gone("a/x"),
            gone("b"),
            Change::dir("same", chmodded),
            file("new/deep/f", "2"),
        ]))
        .unwrap();
    let expected = [
        "/",
        "a/",
        "-a/x",
        "-b",
        "+new/",
        "+new/deep/",
        "+new/deep/f",
        "same/",
    ];
    assert_eq!(differences(&top, &base), expected);
    let replaced = base
        .push(layer(vec![file("b", "2"), dir("l"), file("l/in", "2")]))
        .unwrap();
    assert_eq!(differences(&replaced, &base), ["/", "+b", "+l/", "+l/in"]);
    let unchanged = base.push(layer(vec![dir("a"), gone("never")])).unwrap();
    assert_eq!(differences(&unchanged, &base), [""; 0]);
    let linked = base
        .push(forged(vec![("z", TocItem::Link { target: "l".into() })]))
        .unwrap();
    assert_eq!(differences(&linked, &base), ["/", "+l linked", "+z linked"]);
}

#[test]
fn files_are_read_from_every_kind_of_blob() {
    let text = |i: usize| format!("{i} ").repeat(40_000 + i);
    let changes = || {
        (0..30)
            .map(|i| file(&format!("f{i}"), &text(i)))
            .collect::<Vec<_>>()
    };
    let check = |blob: Arc<LayerBlob>| {
        let tree = LayerTree::of([blob]).unwrap();
        for i in [29, 0, 15, 16, 1] {
            let mut found = String::new();
            let path = format!("f{i}");
            tree.open(Path::new(&path))
                .unwrap()
                .read_to_string(&mut found)
                .unwrap();
            assert!(found == text(i), "{path}");
        }
    };
    for compression in [
        Compression::Uncompressed,
        Compression::default(),
        Compression::Zstd { level: 1 },
    ] {
        check(layer_with(changes(), compression));
    }
    // A blob that others made: one member, so it is decompressed to a scratch file, or every time.
    let mut tar = Vec::new();
    let plain = WriteOptions {
        compression: Compression::Uncompressed,
        ..WriteOptions::default()
    };
    let big = file("big", &"x".repeat(9 << 20));
    write_layer(
        changes().into_iter().chain([big]).collect::<Vec<_>>(),
        &mut tar,
        &plain,
    )
    .unwrap();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &tar).unwrap();
    let blob = encoder.finish().unwrap();
    let toc = Arc::new(Toc::read(&*blob).unwrap());
    assert_eq!(toc.members.len(), 1);
    let scratch = tempfile::tempdir().unwrap();
    for scratch in [None, Some(scratch.path().join("new"))] {
        check(LayerBlob::new(Arc::clone(&toc), stored(&blob), scratch));
    }
    let left = std::fs::read_dir(scratch.path().join("new"))
        .unwrap()
        .count();
    assert_eq!(left, 0, "the decompressed copy has no name");
}

#[test]
fn a_damaged_blob_is_an_error_when_it_is_read() {
    let whole = layer(vec![file("a", "text")]);
    let tree = LayerTree::of([LayerBlob::new(
        Arc::clone(whole.toc()),
        stored(b"junk"),
        None,
    )])
    .unwrap();
    let mut reader = tree.open(Path::new("a")).unwrap();
    assert!(reader.read_to_end(&mut Vec::new()).is_err());
    let missing = LayerBlob::new(Arc::clone(whole.toc()), PathBuf::from("/nonexistent"), None);
    let tree = LayerTree::of([missing]).unwrap();
    let failed = match tree.open(Path::new("a")) {
        Ok(mut reader) => reader.read_to_end(&mut Vec::new()).is_err(),
        Err(_) => true,
    };
    assert!(failed);
}

#[test]
fn digests_that_were_not_asked_for_are_found_on_demand() {
    let mut blob = Vec::new();
    let changes = vec![dir("etc"), file("etc/a", "one"), file("etc/b", "")];
    write_layer(changes, &mut blob, &WriteOptions::default()).unwrap();
    let full = Toc::read(&*blob).unwrap();
    let bare = Toc::read_into(&*blob, FileDigests::OnDemand, None).unwrap();
    assert!(full.has_digests() && !bare.has_digests());
    assert!(bare == full.clone().without_digests());
    let layer = LayerBlob::new(Arc::new(bare), stored(&blob), None);
    let tree = LayerTree::of([Arc::clone(&layer)]).unwrap();
    assert!(layer.completed().is_none());
    let digest = |path: &str| tree.digest(Path::new(path)).unwrap();
    assert_eq!(digest("etc/a"), sha256(b"one"));
    assert_eq!(digest("etc/b"), sha256(b""));
    assert!(tree.digest(Path::new("etc")).is_err());
    // Whoever keeps the table is told once.
    assert!(layer.completed().is_some_and(|toc| toc == full));
    assert!(layer.completed().is_none());
}
