//! A layer whose files are staged while it is read gives the snapshots that unpacking it gives.

use super::*;
use crate::layer::{FileDigests, Toc};

/// All that can be told of what lies below a directory.
fn listing(dir: &Path) -> String {
    // Whiteouts have the time at which they were made.
    let script = r#"cd "$1" && find . -type c -printf '%p %y\n' | sort
        find . ! -type c -printf '%p %y %m %U %G %T@ %n %l\n' | sort
        find . -type f -print0 | sort -z | xargs -0 sha256sum"#;
    let out = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(dir)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn staged_layers_give_the_same_snapshots() {
    if !is_root() {
        return;
    }
    let (_plain_dir, plain, blobs) = fixture(REAL);
    let (staged_dir, snapshots, _) = fixture(REAL);
    let large = "some text ".repeat(100_000);
    let tree = blobs.tree([
        base(),
        vec![
            dir("data"),
            gone("data/a"),
            file("data/b", "2"),
            file("data/empty", ""),
            file("data/large", &large),
            Change::Link {
                path: "data/other".into(),
                target: "data/large".into(),
            },
            file("bin", "now a file"),
        ],
    ]);
    let shelf = Shelf::default();
    for layer in tree.layers() {
        let mut stage = snapshots.stage().unwrap();
        let toc = Toc::read_into(
            layer.tar().unwrap(),
            FileDigests::OnDemand,
            Some(&mut stage),
        )
        .unwrap();
        assert_eq!(toc.diff_id, layer.toc().diff_id);
        shelf.put_staged(toc.diff_id, stage.finish().unwrap());
    }
    let unpacked = plain.stack(&tree).unwrap();
    let staged = snapshots.stack_with(&shelf, &tree).unwrap();
    assert_eq!(staged.len(), 2);
    for (unpacked, staged) in unpacked.iter().zip(&staged) {
        assert_eq!(listing(&unpacked.fs()), listing(&staged.fs()));
        let tool = "bin/tool";
        let capability =
            |snapshot: &Snapshot| xattr::get(&snapshot.fs().join(tool), "security.capability").ok();
        assert_eq!(capability(unpacked), capability(staged));
    }
    for layer in tree.layers() {
        assert!(
            shelf.take_staged(layer.toc().diff_id).is_none(),
            "it was used"
        );
    }
    let tmp = staged_dir.path().join("trusted/tmp");
    assert_eq!(std::fs::read_dir(tmp).unwrap().count(), 0);
}

#[test]
fn a_stage_that_is_given_up_leaves_nothing() {
    if !is_root() {
        return;
    }
    let (at, snapshots, blobs) = fixture(REAL);
    let tree = blobs.tree([base()]);
    let mut stage = snapshots.stage().unwrap();
    Toc::read_into(
        tree.layers()[0].tar().unwrap(),
        FileDigests::Now,
        Some(&mut stage),
    )
    .unwrap();
    drop(stage);
    let tmp = at.path().join("trusted/tmp");
    assert_eq!(std::fs::read_dir(tmp).unwrap().count(), 0);
}
