use super::{
    super::owner::{OwnedKind, Owner, append},
    *,
};

/// Runs the named test of this program again as an ordinary user with one mapped id; `None` where that cannot be.
fn with_one_id(test: &str) -> Option<()> {
    let program = std::env::current_exe().unwrap();
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "unshare",
        ]);
        command
    } else {
        Command::new("unshare")
    };
    command.args(["--user", "--mount", "--map-root-user"]);
    let mut probe = Command::new(command.get_program());
    let runs = probe.args(command.get_args()).arg(&program).arg("--list");
    if !runs
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        skipped("no user namespace for an ordinary user");
        return None;
    }
    let status = command
        .arg(&program)
        .args(["--exact", test, "--nocapture"])
        .env("RBUILD_TEST_ONE_ID", "1")
        .status()
        .unwrap();
    assert!(status.success());
    Some(())
}

#[test]
fn owners_survive_where_one_id_is_mapped() {
    let test = "snapshot::tests::one_id::owners_survive_where_one_id_is_mapped";
    if std::env::var_os("RBUILD_TEST_ONE_ID").is_none() {
        with_one_id(test);
        return;
    }
    let style = Style {
        marks: Marks::User,
        owners: Owners::Recorded,
    };
    let (_dir, snapshots, blobs) = fixture(style);
    let tree = blobs.tree([base(), vec![dir("data"), gone("data/a"), gone("data/deep")]]);
    let checkout = snapshots.checkout(&tree).unwrap();
    let again = diff_upper(
        &checkout.root(),
        &checkout.owners(),
        &LayerTree::empty(),
        style,
    )
    .unwrap();
    let again = after(&blobs, &LayerTree::empty(), again.changes);
    assert_eq!(listing(&again), listing(&tree));
    let mut overlay = snapshots.prepare(snapshots.stack(&tree).unwrap()).unwrap();
    // What is copied up keeps its owner, also under another name; a new file is root's.
    let script = "test ! -e data/a; test ! -e data/deep; touch bin/tool; mv home/note home/moved; chmod 700 home
        mv home/link link; rm -r data; mkdir data; touch data/new; rm null";
    if run(&overlay, script).is_none() {
        return;
    }
    let owner = Owner {
        uid: 5,
        gid: 6,
        mode: 0o777,
        kind: OwnedKind::Symlink,
    };
    append(&overlay.owners(), Path::new("link"), owner).unwrap();
    let changes = overlay.diff(&tree).unwrap();
    let expected = [
        "bin/",
        "bin/tool",
        "data/",
        "-data/b",
        "data/new",
        "home/",
        "-home/link",
        "home/moved",
        "-home/note",
        "link",
        "-null",
    ];
    assert_eq!(paths(&changes), expected);
    let led_to = after(&blobs, &tree, changes);
    let owners: Vec<String> = listing(&led_to)
        .iter()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let path = words.next()?;
            let owner =
                words.find(|word| word.contains(':') && word.as_bytes()[0].is_ascii_digit())?;
            Some(format!("{path} {owner}"))
        })
        .collect();
    for line in [
        "bin/tool 3:0",
        "home 1000:1001",
        "home/moved 0:0",
        "data/new 0:0",
        "link 5:6",
    ] {
        assert!(
            owners.iter().any(|owner| owner == line),
            "no {line} in {owners:?}"
        );
    }
    assert!(
        listing(&led_to)
            .iter()
            .any(|line| line.starts_with("bin/tool ")
                && line.contains("security.capability")
                && line.contains(" 4755 "))
    );
}
