//! What a content digest tells apart.

use super::*;
use crate::copy::{memory::MemoryTree, tests::op};

/// The digest of what `COPY src /` would take.
fn digest_of(source: &str, edit: impl FnOnce(&mut CopyOp)) -> Digest {
    let mut copy = op(&["src"], "/");
    edit(&mut copy);
    let tree: Arc<dyn Tree> = Arc::new(MemoryTree::parse(source));
    let trees: Vec<_> = copy.sources.iter().map(|_| Arc::clone(&tree)).collect();
    content_digest(&copy, &trees, &mut |_| {}, &mut |_| {}).unwrap()
}

#[test]
fn the_content_digest_covers_what_is_copied_and_nothing_else() {
    let base = "dir src 0755 0 0\nfile src/a 0644 0 0 a\ndir src/d 0755 0 0\nsymlink src/l 0777 0 0 a\nfile other 0644 0 0 o";
    let same = digest_of(base, |_| {});
    let equal = [
        base.replace("src/a 0644 0 0 a", "src/a 0644 0 0 @77 a"),
        base.replace("other 0644 0 0 o", "other 0600 1 1 changed"),
        base.replace("dir src 0755", "dir src 0700"),
    ];
    for source in equal {
        assert_eq!(digest_of(&source, |_| {}), same, "{source}");
    }
    let different = [
        base.replace("src/a 0644 0 0 a", "src/a 0644 0 0 b"),
        base.replace("src/a 0644", "src/a 0755"),
        base.replace("src/a 0644 0 0", "src/a 0644 1 0"),
        base.replace(
            "src/a 0644 0 0 a",
            "src/a 0644 0 0 +security.capability=x a",
        ),
        base.replace("file src/a", "file src/b"),
        base.replace("dir src/d 0755", "dir src/d 0711"),
        base.replace("src/l 0777 0 0 a", "src/l 0777 0 0 b"),
        format!("{base}\ndir src/new 0755 0 0"),
        format!("{base}\nhardlink src/z src/a"),
        format!("{base}\nfile src/z 0644 0 0 a"),
    ];
    let mut digests: Vec<Digest> = different.iter().map(|s| digest_of(s, |_| {})).collect();
    digests.push(same);
    let n = digests.len();
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), n);
}

#[test]
fn the_content_digest_heeds_excludes_parents_and_wildcards() {
    let a = "file src/a 0644 0 0 a\nfile src/b 0644 0 0 b";
    let b = "file src/a 0644 0 0 a\nfile src/b 0644 0 0 changed";
    let exclude = |op: &mut CopyOp| op.exclude = vec!["b".to_owned()];
    assert_eq!(digest_of(a, exclude), digest_of(b, exclude));
    let one = |op: &mut CopyOp| {
        op.parents = true;
        op.sources = vec![CopySource::Path("src/a".to_owned())];
    };
    assert_eq!(digest_of(a, one), digest_of(b, one));
    assert_ne!(
        digest_of(a, one),
        digest_of(&format!("dir src 0700 0 0\n{a}"), one)
    );
    let wild = |op: &mut CopyOp| op.sources = vec![CopySource::Path("src/*".to_owned())];
    assert_ne!(digest_of(a, wild), digest_of("file src/a 0644 0 0 a", wild));
    assert_ne!(
        digest_of("file src/a 0644 0 0 a", wild),
        digest_of("file src/c 0644 0 0 a", wild)
    );
}

#[test]
fn many_files_give_the_same_digest_on_any_number_of_threads() {
    let lines: Vec<String> = (0..200)
        .map(|i| format!("file src/f{i} 0644 0 0 content{i}"))
        .collect();
    let text = lines.join("\n");
    assert_eq!(digest_of(&text, |_| {}), digest_of(&text, |_| {}));
    let changed = text.replace("content150", "other");
    assert_ne!(digest_of(&text, |_| {}), digest_of(&changed, |_| {}));
}

#[test]
fn what_comes_before_the_first_file_to_be_read_is_told_once() {
    let source = "dir src 0755 0 0 @9\ndir src/a 0755 0 0 @5\ndir src/b 0755 0 0 @50\nfile src/b/empty 0644 0 0 @60\n\
                  file src/c 0644 0 0 @90 text\nfile src/d 0644 0 0 @99 text";
    let tree: Arc<dyn Tree> = Arc::new(MemoryTree::parse(source));
    let mut told = Vec::new();
    let mut on_unread = |before: &Before| {
        let since = |time| before.unchanged_since(Timestamp::from_seconds(time));
        told.push([1, 5, 6, 50, 51, 61, 90, 91].map(since));
    };
    content_digest(&op(&["src"], "/"), &[tree], &mut |_| {}, &mut on_unread).unwrap();
    // Four headers, and none of the file's own.
    assert_eq!(told, [[512, 512, 1024, 1024, 1536, 2048, 2048, 2048]]);
}
