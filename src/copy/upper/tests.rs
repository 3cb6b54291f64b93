//! Any sequence of operations shows the same tree by looking and by laying the changes over what was below.

use proptest::prelude::*;

use super::*;
use crate::{copy::memory::MemoryTree, layer::Change};

#[derive(Debug, Clone)]
enum Step {
    File(PathBuf),
    Dir(PathBuf),
    Link(PathBuf, PathBuf),
    Remove(PathBuf),
    Chmod(PathBuf),
}

fn path() -> impl Strategy<Value = PathBuf> {
    "[ab](/[ab]){0,2}".prop_map(PathBuf::from)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        path().prop_map(Step::File),
        path().prop_map(Step::Dir),
        (path(), path()).prop_map(|(from, to)| Step::Link(from, to)),
        path().prop_map(Step::Remove),
        path().prop_map(Step::Chmod),
    ]
}

/// Does a step where a system would.
fn take(upper: &mut Upper, step: &Step, n: usize) {
    let get = |upper: &Upper, path: &Path| upper.get(path).unwrap();
    let is_free = |upper: &Upper, path: &Path| {
        get(upper, path).is_none()
            && get(upper, path.parent().unwrap()).is_some_and(|there| there.is_dir())
    };
    match step {
        Step::File(path) if is_free(upper, path) => {
            let content = format!("{n}");
            let metadata = Metadata::file(content.len() as u64, Timestamp::from_seconds(1));
            upper
                .create(path, metadata, Content::bytes(content.into_bytes()))
                .unwrap();
        }
        Step::Dir(path) if is_free(upper, path) => {
            let metadata = Metadata::dir(Timestamp::from_seconds(1));
            upper.create(path, metadata, Content::Empty).unwrap();
        }
        Step::Link(from, to)
            if is_free(upper, to) && get(upper, from).is_some_and(|there| !there.is_dir()) =>
        {
            upper.link(from, to).unwrap();
        }
        Step::Remove(path) if get(upper, path).is_some() => upper.remove(path).unwrap(),
        Step::Chmod(path) => {
            let mode = u32::try_from(n).unwrap();
            upper.edit(path, |there| there.mode = mode).unwrap();
        }
        _ => {}
    }
}

/// A tree as text, as looking shows it: links apart, as looking cannot tell, and the times of directories, which alone are no
/// change.
fn look(tree: &dyn Tree, dir: &Path, out: &mut Vec<String>) {
    for name in tree.names(dir).unwrap() {
        let path = dir.join(name);
        let mut metadata = tree.node(&path).unwrap().unwrap().metadata;
        if metadata.is_dir() {
            metadata.mtime = Timestamp::from_seconds(0);
        }
        let mut content = String::new();
        if matches!(metadata.kind, Kind::File { .. }) {
            tree.open(&path)
                .unwrap()
                .read_to_string(&mut content)
                .unwrap();
        }
        out.push(format!("{} {metadata:?} {content}", path.display()));
        if metadata.is_dir() {
            look(tree, &path, out);
        }
    }
}

use std::io::Read as _;

#[test]
fn a_directory_made_anew_hides_what_was_in_its_directories() {
    let now = Timestamp::from_seconds(9);
    let below = MemoryTree::parse("");
    let paths = ["a", "a/b", "a/b/a"].map(PathBuf::from);
    let [a, b, file] = paths;
    let mut first = Upper::new(Arc::new(below.clone()), now);
    for (n, step) in [Step::Dir(a.clone()), Step::Dir(b.clone()), Step::File(file)]
        .iter()
        .enumerate()
    {
        take(&mut first, step, n);
    }
    let below = below.with(&first.into_changes().unwrap().into_vec());
    let mut upper = Upper::new(Arc::new(below.clone()), now);
    for (n, step) in [Step::Remove(a.clone()), Step::Dir(a), Step::Dir(b)]
        .iter()
        .enumerate()
    {
        take(&mut upper, step, n);
    }
    let changes = upper.into_changes().unwrap().into_vec();
    let laid = below.with(&changes);
    assert_eq!(
        laid.names(Path::new("a/b")).unwrap().len(),
        0,
        "{changes:?}"
    );
}

proptest! {
    #[test]
    fn changes_say_what_looking_shows(
        below in proptest::collection::vec(step(), 0..12),
        steps in proptest::collection::vec(step(), 0..12),
    ) {
        let now = Timestamp::from_seconds(9);
        let empty: Arc<dyn Tree> = Arc::new(MemoryTree::parse(""));
        let mut first = Upper::new(empty, now);
        for (n, step) in below.iter().enumerate() {
            take(&mut first, step, n);
        }
        let below = MemoryTree::parse("").with(&first.into_changes().unwrap().into_vec());

        let mut upper = Upper::new(Arc::new(below.clone()), now);
        for (n, step) in steps.iter().enumerate() {
            take(&mut upper, step, 100 + n);
        }
        let mut shown = Vec::new();
        look(&upper, Path::new(""), &mut shown);
        let changes = upper.into_changes().unwrap().into_vec();
        let mut laid = Vec::new();
        look(&below.with(&changes), Path::new(""), &mut laid);
        prop_assert_eq!(shown, laid);
        let paths: Vec<_> = changes.iter().map(Change::path).collect();
        prop_assert!(paths.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", paths);
    }
}
