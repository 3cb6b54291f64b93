//! What is found to have changed: by a step, in an overlay or in a checkout.

use super::*;

#[test]
fn what_a_step_changed_is_found() {
    if !is_root() {
        return;
    }
    let (_dir, snapshots, blobs) = fixture(REAL);
    let tree = blobs.tree([base()]);
    let cases: &[(&str, &[&str])] = &[
        ("true", &[]),
        ("mkdir data/x && rmdir data/x", &[]),
        ("cat data/a > /dev/null; ls -lR . > /dev/null", &[]),
        (
            "echo new > data/deep/new",
            &["data/", "data/deep/", "data/deep/new"],
        ),
        ("chmod 600 data/a", &["data/", "data/a"]),
        ("touch data/a", &["data/", "data/a"]),
        ("chmod 700 data", &["data/"]),
        ("touch -d @5 data", &[]),
        ("rm data/a", &["data/", "-data/a"]),
        ("rm -r data", &["-data"]),
        (
            "rm -r data && mkdir data",
            &["data/", "-data/a", "-data/b", "-data/deep"],
        ),
        (
            "rm -r data && mkdir -p data/deep && echo > data/deep/d",
            &[
                "data/",
                "-data/a",
                "-data/b",
                "data/deep/",
                "-data/deep/c",
                "data/deep/d",
            ],
        ),
        ("rm -r data && echo > data", &["data"]),
        ("rm bin/tool && mkdir bin/tool", &["bin/", "bin/tool/"]),
        (
            "mv data other",
            &[
                "-data",
                "other/",
                "other/a",
                "other/b",
                "other/deep/",
                "other/deep/c",
            ],
        ),
        (
            "ln data/a data/z; ln data/a b",
            &["b", "data/", "data/z = b"],
        ),
        (
            "echo 1 > t; mv t data/a; echo 2 > u; rm u",
            &["data/", "data/a"],
        ),
        ("setcap cap_net_raw+ep data/a", &["data/", "data/a"]),
        ("mkfifo p; mknod c c 1 3; ln -s nowhere s", &["c", "p", "s"]),
        (
            "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'",
            &[],
        ),
        ("setfattr -n user.x -v y . 2>/dev/null || true", &[]),
    ];
    for (script, expected) in cases {
        let mut overlay = snapshots.prepare(snapshots.stack(&tree).unwrap()).unwrap();
        if run(&overlay, script).is_none() {
            return;
        }
        let changes = overlay.diff(&tree).unwrap();
        assert_eq!(paths(&changes), *expected, "{script}");
        let led_to = after(&blobs, &tree, changes);
        // Unpacking the layer and adopting the directory are the same state.
        let id = ChainId(crate::oci::sha256(script.as_bytes()));
        let (adopted, remains) = overlay.adopt(id, None).unwrap();
        remains.remove().unwrap();
        let mut stack = vec![adopted];
        stack.extend(snapshots.stack(&tree).unwrap());
        let on_adopted = snapshots.prepare(stack).unwrap();
        let on_unpacked = snapshots
            .prepare(snapshots.stack(&led_to).unwrap())
            .unwrap();
        let show = |overlay: &Overlay| {
            let out = tempfile::NamedTempFile::new().unwrap();
            let script = format!(
                "{{ find . ! -type s ! -path . -printf '%p %y %#m %U:%G %l %D\\n' | sed 's/ [0-9]*$//' | sort
                 find . -type f -exec sha256sum {{}} + | sort; find . -type f -links +1 | sort; getcap -r . | sort; }} > {}",
                out.path().display()
            );
            run(overlay, &script).map(|()| std::fs::read_to_string(out.path()).unwrap())
        };
        assert_eq!(show(&on_adopted), show(&on_unpacked), "{script}");
    }
}

#[test]
fn stubs_show_where_a_state_has_none_and_are_no_changes() {
    if !is_root() {
        return;
    }
    let (_dir, snapshots, blobs) = fixture(REAL);
    let tree = blobs.tree([base()]);
    let step = |script: &str| {
        let stack = snapshots.stack(&tree).unwrap();
        let mut overlay = snapshots.prepare(stack).unwrap();
        run(&overlay, script)?;
        let changes = overlay.diff(&tree).unwrap();
        let mut paths = paths(&changes);
        paths.retain(|path| path != "/");
        Some(paths)
    };
    let Some(nothing) = step("test -f etc/hosts && test -f etc/resolv.conf && ! test -s etc/hosts")
    else {
        return;
    };
    assert_eq!(nothing, [""; 0]);
    assert_eq!(step("touch etc/new").unwrap(), ["etc/", "etc/new"]);
    assert_eq!(step("rm -r etc && touch etc").unwrap(), ["etc"]);
}

#[test]
fn a_small_file_is_looked_at_where_it_lies() {
    if !is_root() {
        return;
    }
    let (_dir, snapshots, blobs) = fixture(REAL);
    let link = |path: &str, target: &str| {
        let kind = Kind::Symlink {
            target: target.into(),
        };
        put(path, metadata(kind, 0o777))
    };
    let tree = blobs.tree([
        vec![dir("etc"), file("etc/a", "below"), file("etc/b", "b")],
        vec![dir("etc"), file("etc/a", "above"), link("lib", "etc")],
    ]);
    let overlay = snapshots.prepare(snapshots.stack(&tree).unwrap()).unwrap();
    let peek = |path: &str| overlay.peek(Path::new(path), 5);
    assert_eq!(peek("etc/a").unwrap(), b"above");
    assert_eq!(peek("etc/b").unwrap(), b"b");
    for nothing in ["etc", "etc/c", "lib", "lib/a", "../a"] {
        assert_eq!(peek(nothing), None, "{nothing}");
    }
    assert_eq!(overlay.peek(Path::new("etc/a"), 4), None);
}

#[test]
fn checkouts_find_the_same_changes() {
    if !is_root() {
        return;
    }
    let (_dir, snapshots, blobs) = fixture(REAL);
    let tree = blobs.tree([base()]);
    for (script, expected) in [
        ("true", &[][..]),
        ("mkdir data/x && rmdir data/x", &[]),
        (
            "echo new > data/deep/new",
            &["data/", "data/deep/", "data/deep/new"],
        ),
        ("chmod 600 data/a", &["data/", "data/a"]),
        ("chmod 700 data", &["data/"]),
        ("rm data/a", &["data/", "-data/a"]),
        ("rm -r data", &["-data"]),
        ("rm -r data && echo > data", &["data"]),
        (
            "rm -r data && mkdir data",
            &["data/", "-data/a", "-data/b", "-data/deep"],
        ),
        ("ln data/a b", &["b"]),
        ("cp -p data/a new && mv new data/a", &[]),
    ] {
        let mut checkout = snapshots.checkout(&tree).unwrap();
        // The clock by which inodes are marked ticks every few milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(12));
        let status = Command::new("sh")
            .args(["-ec", script])
            .current_dir(checkout.root())
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(paths(&checkout.diff(&tree).unwrap()), expected, "{script}");
    }
}
