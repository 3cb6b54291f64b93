//! The rules of copying, each as source tree, state below, instruction, and resulting tree.

mod sources;

use super::{memory::MemoryTree, *};
use crate::{layer::Change, plan::Chmod};

const NOW: i64 = 5000;

pub(super) fn op(sources: &[&str], dest: &str) -> CopyOp {
    CopyOp::of_paths(CopyVerb::Copy, sources, dest)
}

fn run(op: &CopyOp, source: &str, parent: &str) -> Result<MemoryTree, CopyError> {
    let parent = MemoryTree::parse(parent);
    let tree: Arc<dyn Tree> = Arc::new(MemoryTree::parse(source));
    let trees: Vec<_> = op.sources.iter().map(|_| Arc::clone(&tree)).collect();
    let below: Arc<dyn Tree> = Arc::new(parent.clone());
    let copied = changes(&CopyRequest {
        op,
        trees: &trees,
        parent: &below,
        now: Timestamp::from_seconds(NOW),
        scratch: Path::new("/nonexistent"),
    })?;
    Ok(parent.with(&copied.changes.into_vec()))
}

/// Checks what a copy makes of an empty root or of `parent`; lines are trimmed, parents of entries need not be said.
fn check(op: &CopyOp, source: &str, parent: &str, expected: &str) {
    let result = run(op, source, parent).unwrap();
    assert_eq!(result.text(), MemoryTree::parse(expected).text());
}

fn fails(op: &CopyOp, source: &str, parent: &str) -> String {
    run(op, source, parent).unwrap_err().to_string()
}

#[test]
fn a_file_becomes_the_destination_or_goes_inside() {
    let f = "file f 0644 0 0 x";
    for (dest, expected) in [
        ("/g", "file g 0644 0 0 x"),
        ("/g/", "file g/f 0644 0 0 x"),
        ("/g/.", "file g/f 0644 0 0 x"),
        ("/a/b/c", "file a/b/c 0644 0 0 x"),
        ("/a/b/../c", "file a/c 0644 0 0 x"),
        ("/", "file f 0644 0 0 x"),
        ("//a//b", "file a/b 0644 0 0 x"),
    ] {
        check(&op(&["f"], dest), f, "", expected);
    }
    check(
        &op(&["f"], "/d"),
        f,
        "dir d 0700 5 6",
        "dir d 0700 5 6\nfile d/f 0644 0 0 x",
    );
    check(
        &op(&["f"], "/old"),
        f,
        "file old 0755 5 6 was",
        "file old 0644 0 0 x",
    );
}

#[test]
fn sources_stay_inside_their_tree() {
    for source in ["../f", "/f", "./f", "d/../f", "d/../../f"] {
        check(
            &op(&[source], "/g"),
            "file f 0644 0 0 x\ndir d 0755 0 0",
            "",
            "file g 0644 0 0 x",
        );
    }
}

#[test]
fn a_directory_is_copied_by_its_contents() {
    let source =
        "dir d 0700 3 4\nfile d/f 0640 5 6 x\ndir d/sub 0711 7 8\nsymlink d/l 0777 0 0 ../gone";
    check(
        &op(&["d"], "/x"),
        source,
        "",
        "dir x 0755 0 0\nfile x/f 0640 5 6 x\ndir x/sub 0711 7 8\nsymlink x/l 0777 0 0 ../gone",
    );
    check(
        &op(&["d/."], "/"),
        source,
        "",
        "file f 0640 5 6 x\ndir sub 0711 7 8\nsymlink l 0777 0 0 ../gone",
    );
    check(&op(&["e"], "/e"), "dir e 0700 0 0", "", "dir e 0755 0 0");
}

#[test]
fn a_merge_keeps_the_top_and_overwrites_below() {
    let source = "dir src 0775 0 0 @7\ndir src/sub 0775 0 0 @8\ndir src/new 0711 0 0 @9";
    let base = "dir d 0700 5 5\ndir d/sub 0711 6 6\ndir d/other 0701 6 6";
    let mut copy = op(&["src"], "/d");
    let result = run(&copy, source, base).unwrap();
    assert_eq!(
        result.text(),
        "dir d 0700 5 5\ndir d/new 0711 0 0\ndir d/other 0701 6 6\ndir d/sub 0775 0 0\n"
    );
    let mtimes = ["d", "d/sub", "d/new", "d/other"].map(|p| result.mtime(p));
    assert_eq!(mtimes, [7, 8, 9, 1000]);

    copy.chown = Some("9:9".to_owned());
    check(
        &copy,
        source,
        base,
        "dir d 0700 5 5\ndir d/new 0711 9 9\ndir d/other 0701 6 6\ndir d/sub 0775 9 9",
    );
    copy.chown = None;
    copy.chmod = Some(Chmod::parse("750").unwrap());
    check(
        &copy,
        source,
        base,
        "dir d 0700 5 5\ndir d/new 0750 0 0\ndir d/other 0701 6 6\ndir d/sub 0750 0 0",
    );
    copy.chmod = None;
    copy.link = true;
    check(
        &copy,
        source,
        base,
        "dir d 0755 0 0\ndir d/new 0711 0 0\ndir d/other 0701 6 6\ndir d/sub 0775 0 0",
    );
}

#[test]
fn times_are_those_of_the_source_and_of_the_build() {
    let source = "dir d 0755 0 0 @20\nfile d/f 0644 0 0 @21 x\nfile g 0644 0 0 @22 x";
    let result = run(&op(&["d"], "/a/b"), source, "dir etc 0755 0 0").unwrap();
    let mtimes = ["a", "a/b", "a/b/f", "etc"].map(|p| result.mtime(p));
    assert_eq!(mtimes, [NOW, 20, 21, 1000]);
    let result = run(&op(&["g"], "/etc/"), source, "dir etc 0755 0 0").unwrap();
    let mtimes = ["etc", "etc/g"].map(|p| result.mtime(p));
    assert_eq!(mtimes, [NOW, 22]);
}

#[test]
fn made_parents_take_chown_and_an_octal_chmod() {
    let f = "file f 0644 0 0 x";
    let mut copy = op(&["f"], "/a/b/f");
    copy.chown = Some("7:8".to_owned());
    check(
        &copy,
        f,
        "",
        "dir a 0755 7 8\ndir a/b 0755 7 8\nfile a/b/f 0644 7 8 x",
    );
    copy.chmod = Some(Chmod::parse("1640").unwrap());
    check(
        &copy,
        f,
        "",
        "dir a 0640 7 8\ndir a/b 0640 7 8\nfile a/b/f 1640 7 8 x",
    );
    copy.chmod = Some(Chmod::parse("u+x").unwrap());
    check(
        &copy,
        f,
        "dir a 0700 1 1",
        "dir a 0700 1 1\ndir a/b 0755 7 8\nfile a/b/f 0744 7 8 x",
    );
}

#[test]
fn directories_made_in_a_setgid_directory_inherit_it() {
    let f = "file f 0644 0 0 x";
    let mut copy = op(&["f"], "/g/a/b/f");
    check(
        &copy,
        f,
        "dir g 2775 5 6",
        "dir g 2775 5 6\ndir g/a 2755 0 6\ndir g/a/b 2755 0 6\nfile g/a/b/f 0644 0 0 x",
    );
    copy.chown = Some("7:8".to_owned());
    check(
        &copy,
        f,
        "dir g 2775 5 6",
        "dir g 2775 5 6\ndir g/a 2755 7 8\ndir g/a/b 2755 7 8\nfile g/a/b/f 0644 7 8 x",
    );
    check(
        &op(&["d"], "/g/"),
        "dir d/sub 0711 0 0",
        "dir g 2775 5 6",
        "dir g 2775 5 6\ndir g/sub 0711 0 0",
    );
}

#[test]
fn links_on_the_way_to_the_destination_are_followed() {
    let base = "dir real 0755 0 0\nsymlink lnk 0777 0 0 /real\nsymlink dang 0777 0 0 /nonexist\n\
                symlink data/rl 0777 0 0 ../real\nfile t 0644 0 0 old\nsymlink tl 0777 0 0 t\n\
                symlink out 0777 0 0 ../../../real";
    let unchanged = "dir real 0755 0 0\nsymlink lnk 0777 0 0 /real\nsymlink dang 0777 0 0 /nonexist\n\
                     symlink data/rl 0777 0 0 ../real\nsymlink tl 0777 0 0 t\n\
                     symlink out 0777 0 0 ../../../real\n";
    for (dest, target) in [
        ("/lnk/", "real/f"),
        ("/lnk", "real/f"),
        ("/lnk/new", "real/new"),
        ("/dang/", "nonexist/f"),
        ("/dang", "nonexist"),
        ("/data/rl/", "real/f"),
        ("/out/x", "real/x"),
    ] {
        let expected = format!("{unchanged}file t 0644 0 0 old\nfile {target} 0644 0 0 x");
        check(&op(&["f"], dest), "file f 0644 0 0 x", base, &expected);
    }
    let expected = format!("{unchanged}file t 0644 0 0 x");
    check(&op(&["f"], "/tl"), "file f 0644 0 0 x", base, &expected);
}

#[test]
fn a_link_layer_knows_nothing_of_the_state_below() {
    let mut copy = op(&["f"], "/lnk/");
    copy.link = true;
    let base = "dir real 0755 0 0\nsymlink lnk 0777 0 0 /real";
    check(
        &copy,
        "file f 0644 0 0 x",
        base,
        "dir real 0755 0 0\ndir lnk 0755 0 0\nfile lnk/f 0644 0 0 x",
    );
    copy.chmod = Some(Chmod::parse("600").unwrap());
    check(
        &copy,
        "file f 0644 0 0 x",
        base,
        "dir real 0755 0 0\nsymlink lnk 0777 0 0 /real\nfile real/f 0600 0 0 x",
    );
}

#[test]
fn clashes_of_type_are_errors() {
    let source = "dir d 0755 0 0\nfile d/f 0644 0 0 x\ndir d/sub 0755 0 0\nfile f 0644 0 0 x";
    assert_eq!(
        fails(&op(&["d"], "/thing"), source, "file thing 0644 0 0 t"),
        "cannot copy to non-directory: /thing"
    );
    assert_eq!(
        fails(&op(&["d"], "/t"), source, "dir t/f 0755 0 0"),
        "cannot replace to directory /t/f with file"
    );
    assert_eq!(
        fails(&op(&["d"], "/t"), source, "symlink t/sub 0777 0 0 /t"),
        "cannot copy to non-directory: /t/sub"
    );
    assert_eq!(
        fails(&op(&["f"], "/t/x"), source, "file t 0644 0 0 t"),
        "mkdir /t: not a directory"
    );
    assert_eq!(
        fails(&op(&["f"], "/t/"), source, "file t 0644 0 0 t"),
        "mkdir /t: not a directory"
    );
    check(
        &op(&["d"], "/t"),
        "file d/f 0644 0 0 x",
        "symlink t/f 0777 0 0 /etc/passwd",
        "file t/f 0644 0 0 x",
    );
}

#[test]
fn an_unchanged_parent_comes_along_as_it_is() {
    let parent: Arc<dyn Tree> = Arc::new(MemoryTree::parse("dir a 0700 1 2\ndir a/b 0711 3 4"));
    let tree: Arc<dyn Tree> = Arc::new(MemoryTree::parse("file f 0644 0 0 x"));
    let copied = changes(&CopyRequest {
        op: &op(&["f"], "/a/b/c/f"),
        trees: &[tree],
        parent: &parent,
        now: Timestamp::from_seconds(NOW),
        scratch: Path::new("/nonexistent"),
    })
    .unwrap();
    let changes = copied.changes.into_vec();
    let dirs: Vec<_> = changes
        .iter()
        .map(|change| match change {
            Change::Put { path, metadata, .. } => (
                path.to_str().unwrap(),
                metadata.mode,
                metadata.mtime.seconds,
            ),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        dirs,
        [
            ("a", 0o700, 1000),
            ("a/b", 0o711, NOW),
            ("a/b/c", 0o755, NOW),
            ("a/b/c/f", 0o644, 1000)
        ]
    );
}

#[test]
fn copying_nothing_changes_nothing() {
    let tree: Arc<dyn Tree> = Arc::new(MemoryTree::parse(""));
    let copied = changes(&CopyRequest {
        op: &op(&["no*"], "/x/"),
        trees: &[tree],
        parent: &(Arc::new(EmptyTree) as Arc<dyn Tree>),
        now: Timestamp::from_seconds(NOW),
        scratch: Path::new("/nonexistent"),
    })
    .unwrap();
    assert!(copied.changes.into_vec().is_empty());
}

#[test]
fn unknown_owners_are_warned_about() {
    let mut copy = op(&["f"], "/x");
    copy.chown = Some("ghost".to_owned());
    let copied = changes(&CopyRequest {
        op: &copy,
        trees: &[Arc::new(MemoryTree::parse("file f 0644 3 3 x")) as Arc<dyn Tree>],
        parent: &(Arc::new(EmptyTree) as Arc<dyn Tree>),
        now: Timestamp::from_seconds(NOW),
        scratch: Path::new("/nonexistent"),
    })
    .unwrap();
    assert!(
        copied.warnings[0].contains("`ghost`"),
        "{:?}",
        copied.warnings
    );
}

#[test]
fn a_directory_that_only_takes_another_time_is_no_change() {
    let parent = "dir to 0755 0 0\ndir to/there 0700 1 2\nfile to/f 0644 0 0 x";
    let below: Arc<dyn Tree> = Arc::new(MemoryTree::parse(parent));
    let changes = |source: &str| -> Vec<PathBuf> {
        let copied = changes(&CopyRequest {
            op: &op(&["d"], "/to/"),
            trees: &[Arc::new(MemoryTree::parse(source))],
            parent: &below,
            now: Timestamp::from_seconds(NOW),
            scratch: Path::new("/nonexistent"),
        });
        let changes = copied.unwrap().changes.into_vec();
        changes
            .iter()
            .map(|change| change.path().to_owned())
            .collect()
    };
    assert!(changes("dir d 0711 3 4").is_empty());
    assert!(changes("dir d 0755 0 0\ndir d/there 0700 1 2").is_empty());
    let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
    assert_eq!(
        changes("dir d 0755 0 0\ndir d/there 0701 1 2"),
        paths(&["to", "to/there"])
    );
    assert_eq!(
        changes("dir d 0755 0 0\ndir d/new 0755 0 0"),
        paths(&["to", "to/new"])
    );
}

fn make_workdir(path: &str, user: &str, parent: &str) -> String {
    make_workdir_at(path, user, parent, None).text()
}

fn make_workdir_at(path: &str, user: &str, parent: &str, time: Option<i64>) -> MemoryTree {
    let parent = MemoryTree::parse(parent);
    let below: Arc<dyn Tree> = Arc::new(parent.clone());
    let op = WorkdirOp {
        path: path.to_owned(),
        user: user.to_owned(),
        time,
    };
    let changes = workdir(&op, &below, Timestamp::from_seconds(NOW)).unwrap();
    parent.with(&changes.into_vec())
}

#[test]
fn workdir_makes_a_directory_of_the_source_date_epoch() {
    let made = make_workdir_at("/a/b", "", "dir a 0755 0 0", Some(0));
    assert_eq!(["a", "a/b"].map(|path| made.mtime(path)), [NOW, 0]);
    let made = make_workdir_at("/a/b", "", "", None);
    assert_eq!(["a", "a/b"].map(|path| made.mtime(path)), [NOW, NOW]);
}

#[test]
fn workdir_makes_what_is_missing_for_its_user() {
    let passwd = "file etc/passwd 0644 0 0 nobody:x:65534:65533::/:\n";
    let text = |lines: &str| MemoryTree::parse(&format!("{passwd}{lines}")).text();
    assert_eq!(
        make_workdir("/a/b", "nobody", passwd),
        text("dir a 0755 65534 65533\ndir a/b 0755 65534 65533")
    );
    assert_eq!(
        make_workdir("/a/b", "7:8", &format!("{passwd}dir a 0700 1 1")),
        text("dir a 0700 1 1\ndir a/b 0755 7 8")
    );
    assert_eq!(make_workdir("/a", "ghost", passwd), text("dir a 0755 0 0"));
    assert_eq!(
        make_workdir("/l/x", "", &format!("{passwd}symlink l 0777 0 0 /real")),
        text("symlink l 0777 0 0 /real\ndir real/x 0755 0 0")
    );
    assert_eq!(make_workdir("/etc", "7", passwd), text(""));
}

#[test]
fn a_name_that_no_file_system_takes_is_refused() {
    let f = "file f 0644 0 0 x";
    let long = "a".repeat(256);
    let kept = "a".repeat(59);
    let message = format!("file name too long: \"/{kept}…\", 256 bytes; file systems take 255");
    for dest in [
        format!("/{long}"),
        format!("/{long}/"),
        format!("/{long}/g"),
    ] {
        assert_eq!(fails(&op(&["f"], &dest), f, ""), message, "{dest}");
    }
    let fits = &long[1..];
    check(
        &op(&["f"], &format!("/{fits}")),
        f,
        "",
        &format!("file {fits} 0644 0 0 x"),
    );
    // A link names what does not fit either.
    let linked = format!("symlink l 0777 0 0 {long}");
    assert_eq!(fails(&op(&["f"], "/l"), f, &linked), message);
    // Once a fault: the length was kept in 16 bits.
    let name = "a".repeat(1 << 17);
    let error = fails(&op(&["f"], &format!("/{name}")), f, "");
    assert!(error.contains("131072 bytes"), "{error}");
    let umlauts = fails(&op(&["f"], &format!("/{}", "ä".repeat(200))), f, "");
    assert!(umlauts.contains("400 bytes"), "{umlauts}");
}

#[test]
fn a_path_that_linux_does_not_take_is_refused() {
    let f = "file f 0644 0 0 x";
    // Twenty directories of 199 bytes, and a file that fills what is left.
    let dirs = format!("/{}", "d".repeat(199)).repeat(20);
    let dest = |length: usize| format!("{dirs}/{}", "e".repeat(length - dirs.len() - 1));
    assert!(run(&op(&["f"], &dest(4095)), f, "").is_ok());
    let error = fails(&op(&["f"], &dest(4096)), f, "");
    assert!(error.starts_with("path too long: \"/ddddd"), "{error}");
    assert!(
        error.ends_with("…\", 4096 bytes; Linux takes 4095"),
        "{error}"
    );
}

#[test]
fn a_path_that_no_layer_may_have_is_refused() {
    let f = "file f 0644 0 0 x";
    assert!(run(&op(&["f"], &"/d".repeat(256)), f, "").is_ok());
    let error = fails(&op(&["f"], &"/d".repeat(257)), f, "");
    assert!(error.ends_with(", 257 names; layers take 256"), "{error}");
}
