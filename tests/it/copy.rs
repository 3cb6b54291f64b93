//! A directory of this machine, copied into a layer, read back from the layer.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail, too")]

use std::{fs, io::Read as _, os::unix::fs::symlink, path::Path, sync::Arc};

use rbuild::{
    context::{IgnoreFile, LocalTree, Patterns, StatCache},
    copy::{self, CopyRequest},
    layer::{LayerBlob, LayerTree, WriteOptions, write_layer},
    plan::{CopyOp, CopyVerb},
    tree::{EmptyTree, Kind, Timestamp, Tree},
};

fn op(source: &str, dest: &str) -> CopyOp {
    CopyOp::of_paths(CopyVerb::Add, &[source], dest)
}

/// The tree of an image with this one instruction.
fn image(op: &CopyOp, context: &Arc<dyn Tree>, scratch: &Path) -> LayerTree {
    let parent: Arc<dyn Tree> = Arc::new(EmptyTree);
    let work = tempfile::tempdir_in(scratch).unwrap();
    let copied = copy::changes(&CopyRequest {
        op,
        trees: &[Arc::clone(context)],
        parent: &parent,
        now: Timestamp::from_seconds(1_700_000_000),
        scratch: work.path(),
    })
    .unwrap();
    let blob = scratch.join("blob");
    let file = fs::File::create(&blob).unwrap();
    let written = write_layer(copied.changes, file, &WriteOptions::default()).unwrap();
    LayerTree::of([LayerBlob::new(Arc::new(written.toc.unpack()), blob, None)]).unwrap()
}

fn paths(tree: &dyn Tree, dir: &Path, out: &mut Vec<String>) {
    for name in tree.names(dir).unwrap() {
        let path = dir.join(name);
        out.push(path.display().to_string());
        paths(tree, &path, out);
    }
}

fn listing(tree: &dyn Tree) -> Vec<String> {
    let mut out = Vec::new();
    paths(tree, Path::new(""), &mut out);
    out
}

fn text(tree: &dyn Tree, path: &str) -> String {
    let mut text = String::new();
    let mut reader = tree.open(Path::new(path)).unwrap();
    reader.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_context_comes_back_from_its_layer_less_what_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let context = dir.path().join("context");
    fs::create_dir_all(context.join("src/deep")).unwrap();
    fs::write(context.join("src/a.txt"), "a").unwrap();
    fs::write(context.join("src/deep/notes.md"), "m").unwrap();
    fs::write(context.join("src/deep/keep.md"), "k").unwrap();
    fs::hard_link(context.join("src/a.txt"), context.join("src/b.txt")).unwrap();
    symlink("a.txt", context.join("src/link")).unwrap();
    fs::write(context.join(".dockerignore"), "**/*.md\n!**/keep.md\n").unwrap();

    let ignore = IgnoreFile::find(&context, None).unwrap().unwrap();
    let local = LocalTree::open(&context, ignore.patterns, None).unwrap();
    let context: Arc<dyn Tree> = Arc::new(local);
    let tree = image(&op("src", "/app"), &context, dir.path());
    assert_eq!(
        listing(&tree),
        [
            "app",
            "app/a.txt",
            "app/b.txt",
            "app/deep",
            "app/deep/keep.md",
            "app/link"
        ]
    );
    assert_eq!(text(&tree, "app/deep/keep.md"), "k");
    let node = |path: &str| tree.node(Path::new(path)).unwrap().unwrap();
    assert_eq!(
        node("app/link").metadata.kind,
        Kind::Symlink {
            target: "a.txt".into()
        }
    );
    assert!(node("app/a.txt").inode.is_some());
    assert_eq!(node("app/a.txt").inode, node("app/b.txt").inode);
}

#[test]
fn an_added_archive_comes_back_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let context = dir.path().join("context");
    fs::create_dir(&context).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(
        fs::File::create(context.join("x.tgz")).unwrap(),
        flate2::Compression::fast(),
    );
    let mut builder = tar::Builder::new(&mut encoder);
    for (name, content) in [("deep/z", "first"), ("a", "second"), ("deep/z", "third")] {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o640);
        header.set_uid(7);
        header.set_gid(8);
        builder
            .append_data(&mut header, name, content.as_bytes())
            .unwrap();
    }
    builder.finish().unwrap();
    drop(builder);
    encoder.finish().unwrap();

    let local = LocalTree::open(&context, Patterns::default(), None).unwrap();
    let context: Arc<dyn Tree> = Arc::new(local);
    let tree = image(&op("x.tgz", "/opt/"), &context, dir.path());
    assert_eq!(listing(&tree), ["opt", "opt/a", "opt/deep", "opt/deep/z"]);
    assert_eq!(text(&tree, "opt/deep/z"), "third");
    let metadata = tree.node(Path::new("opt/a")).unwrap().unwrap().metadata;
    assert_eq!((metadata.mode, metadata.uid, metadata.gid), (0o640, 7, 8));
}

#[test]
fn a_remembered_digest_gives_the_same_key() {
    let dir = tempfile::tempdir().unwrap();
    let context = dir.path().join("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("f"), "f").unwrap();
    // Far ahead of the clock, so that no file counts as changed just now.
    let now = Timestamp::from_seconds(1 << 40);
    let file = dir.path().join("cache/stat");
    let key = |now| {
        let cache = Arc::new(StatCache::load(&file, now));
        let local = LocalTree::open(&context, Patterns::default(), Some(Arc::clone(&cache)));
        let tree: Arc<dyn Tree> = Arc::new(local.unwrap());
        let content =
            copy::content_digest(&op(".", "/"), &[tree], &mut |_| {}, &mut |_| {}).unwrap();
        cache.save().unwrap();
        content
    };
    let first = key(now);
    assert!(file.try_exists().unwrap());
    assert_eq!(key(now), first);
    fs::write(context.join("f"), "g").unwrap();
    assert_ne!(key(now), first);
}
