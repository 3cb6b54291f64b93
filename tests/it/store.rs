//! One store, many processes: names and steps, kills at any instant, a full disk, and readers that are not ours.

#![expect(
    clippy::unwrap_used,
    reason = "what fails in a helper of a test fails the test"
)]
#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rbuild::{
    cache::{CacheUse, KeyBuilder, Lookup, StepRecord},
    oci::{Descriptor, DiffId, Manifest, MediaType, sha256, to_json},
    reference::Reference,
    store::{CacheMountId, CacheSharing, LayerRecord, Store, StoreError},
};

/// Which part a child process plays, and on which store.
const ROLE: &str = "RBUILD_TEST_STORE_ROLE";
const ROOT: &str = "RBUILD_TEST_STORE_ROOT";

/// A process of its own that plays a part in [`child`].
fn spawn(role: &str, root: &Path) -> Child {
    command(role, root).spawn().expect("the test binary runs")
}

fn command(role: &str, root: &Path) -> Command {
    let exe = std::env::current_exe().expect("the test binary has a path");
    let mut command = Command::new(exe);
    command
        .args(["store::child", "--exact", "--nocapture"])
        .env(ROLE, role)
        .env(ROOT, root)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn succeeds(child: Child) {
    let output = child
        .wait_with_output()
        .expect("the child can be waited for");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "a child failed: {text}");
}

/// Not a test: what the children do. Does nothing in a normal run.
#[test]
fn child() {
    let (Ok(role), Ok(root)) = (std::env::var(ROLE), std::env::var(ROOT)) else {
        return;
    };
    let root = PathBuf::from(root);
    match role.split_once(' ') {
        Some(("tags", n)) => tag_images(&root, n),
        Some(("step", _)) => run_steps(&root),
        None if role == "forever" => write_forever(&root),
        None if role == "full" => fill_the_disk(&root),
        _ => panic!("no such role: {role}"),
    }
}

fn image(store: &Store, note: &str) -> Descriptor {
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","author":"{note}","rootfs":{{"type":"layers","diff_ids":[]}}}}"#
    );
    store.put_bytes(config.as_bytes()).unwrap();
    let config = Descriptor::of(MediaType::OCI_CONFIG, config.as_bytes());
    let manifest = to_json(&Manifest::new(config, Vec::new()));
    store.put_bytes(&manifest).unwrap();
    Descriptor::of(MediaType::OCI_MANIFEST, &manifest)
}

fn reference(text: &str) -> Reference {
    Reference::parse(text).expect("the reference is valid")
}

fn tag_images(root: &Path, child: &str) {
    for i in 0..10 {
        let store = Store::open(root).unwrap();
        let image = image(&store, &format!("{child}-{i}"));
        store
            .set_tags(&[reference(&format!("child{child}:v{i}"))], &image)
            .unwrap();
        store.set_tags(&[reference("contested")], &image).unwrap();
    }
}

#[test]
fn many_processes_tag_at_once_and_no_name_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let children: Vec<_> = (0..8).map(|n| spawn(&format!("tags {n}"), &root)).collect();
    children.into_iter().for_each(succeeds);
    let store = Store::open(&root).unwrap();
    let tags = store.tags().unwrap();
    assert_eq!(tags.len(), 81);
    for tag in tags {
        assert_eq!(
            rbuild::output::validate(&store, &tag.descriptor).unwrap(),
            [],
            "{}",
            tag.reference
        );
    }
}

fn run_steps(root: &Path) {
    let store = Store::open(root).unwrap();
    for n in 0..5 {
        let key = KeyBuilder::new("test").number("n", n).finish();
        let _turn = store.wait_for_step(key.digest(), &mut || true).unwrap();
        if let Lookup::Hit(_) = key.lookup(&store, CacheUse::On).unwrap() {
            continue;
        }
        let log = root.join("stat").join(format!("executed-{n}"));
        let mut line = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        std::io::Write::write_all(&mut line, b"x").unwrap();
        let layer = format!("layer {n}");
        store.put_bytes(layer.as_bytes()).unwrap();
        let record = StepRecord {
            diff_id: DiffId(sha256(layer.as_bytes())),
            descriptor: Descriptor::of(MediaType::OCI_LAYER, layer.as_bytes()),
            created: "1970-01-01T00:00:00Z".to_owned(),
            content: None,
            began: None,
            label: String::new(),
        };
        let known = LayerRecord {
            diff_id: record.diff_id,
            descriptor: record.descriptor.clone(),
            toc: Vec::new(),
        };
        store.put_layer(&known).unwrap();
        key.record(&store, &record).unwrap();
    }
}

#[test]
fn equal_steps_of_many_processes_run_once() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let children: Vec<_> = (0..8).map(|n| spawn(&format!("step {n}"), &root)).collect();
    children.into_iter().for_each(succeeds);
    for n in 0..5 {
        let log = fs::read_to_string(root.join("stat").join(format!("executed-{n}"))).unwrap();
        assert_eq!(log, "x", "step {n}");
    }
}

/// Everything that changes a store, over and over.
fn write_forever(root: &Path) {
    for i in 0u64.. {
        let store = Store::open(root).unwrap();
        let mut writer = store.blob_writer().unwrap();
        for _ in 0..64 {
            std::io::Write::write_all(&mut writer, &[(i % 251) as u8; 4096]).unwrap();
        }
        let (digest, size) = writer.commit(None).unwrap();
        let key = KeyBuilder::new("test").number("n", i).finish();
        let record = StepRecord {
            diff_id: DiffId(digest),
            descriptor: Descriptor::new(MediaType::OCI_LAYER, digest, size),
            created: String::new(),
            content: None,
            began: None,
            label: String::new(),
        };
        let _turn = store.wait_for_step(key.digest(), &mut || true).unwrap();
        key.record(&store, &record).unwrap();
        let image = image(&store, &i.to_string());
        store
            .set_tags(&[reference(&format!("forever:v{}", i % 5))], &image)
            .unwrap();
        let id = CacheMountId {
            id: (i % 3).to_string(),
            seed: None,
            mode: 0o755,
            uid: 0,
            gid: 0,
        };
        let mut fill = |path: &Path| {
            for name in ["a", "b"] {
                fs::write(path.join(name), "seed").unwrap();
            }
            Ok::<(), StoreError>(())
        };
        store
            .try_cache_mount(&id, CacheSharing::Shared, &mut fill)
            .unwrap();
        let temp = store.temp_dir().unwrap();
        fs::write(temp.path().join("work"), "x").unwrap();
    }
}

#[test]
fn a_store_survives_being_killed_at_any_instant() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    for round in 0u64..25 {
        let mut children: Vec<_> = (0..2).map(|_| spawn("forever", &root)).collect();
        // Different instants, the first ones while the store is being made.
        std::thread::sleep(Duration::from_millis(3 + round * 7));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let store = Store::open(&root).unwrap();
        check(&store);
    }
}

/// Whatever is in its place is whole, and nothing is left of those who died.
fn check(store: &Store) {
    let root = store.root();
    for entry in fs::read_dir(root.join("blobs/sha256")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        assert_eq!(sha256(&fs::read(entry.path()).unwrap()).hex(), name);
    }
    for tag in store.tags().unwrap() {
        assert_eq!(
            rbuild::output::validate(store, &tag.descriptor).unwrap(),
            []
        );
    }
    for entry in fs::read_dir(root.join("mounts")).unwrap() {
        for instance in fs::read_dir(entry.unwrap().path()).unwrap() {
            let path = instance.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.parse::<u32>().is_ok() {
                assert_eq!(
                    fs::read_dir(&path).unwrap().count(),
                    2,
                    "{name} is half filled"
                );
            }
        }
    }
    let workspaces: BTreeSet<_> = fs::read_dir(root.join("tmp"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    let locks = fs::read_dir(root.join("locks"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("step-") || name.starts_with("tmp-"));
    assert_eq!(locks.count(), 1);
    assert_eq!(
        workspaces.len(),
        1,
        "only this process has one: {workspaces:?}"
    );
}

fn fill_the_disk(root: &Path) {
    let store = Store::open(root).unwrap();
    let kept = image(&store, "kept");
    store.set_tags(&[reference("kept")], &kept).unwrap();
    let mut writer = store.blob_writer().unwrap();
    let error = (0..)
        .find_map(|_| std::io::Write::write_all(&mut writer, &vec![1; 65536]).err())
        .unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    let error = error
        .downcast::<StoreError>()
        .expect("the error has a path");
    assert!(error.is_no_space());
    assert!(error.to_string().starts_with("cannot write `"), "{error}");
    // While the disk is full, nothing can be stored, and nothing is lost.
    let error = store.put_bytes(&vec![2; 65536]).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    let name = reference("n".repeat(200).as_str());
    let many: Vec<_> = (0..100)
        .map(|n| name.with_tag(&format!("{}{n}", "t".repeat(100))).unwrap())
        .collect();
    let error = store.set_tags(&many, &kept).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert_eq!(store.tags().unwrap().len(), 1);
    drop(writer);
    store.put_bytes(&vec![2; 65536]).unwrap();
    assert_eq!(rbuild::output::validate(&store, &kept).unwrap(), []);
}

#[test]
fn privileged_a_full_disk_is_named_and_loses_nothing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let exe = std::env::current_exe().unwrap();
    let script = r#"mount -t tmpfs -o size=1m none "$1" || exit 99; shift; exec "$@""#;
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(exe)
        .args(["store::child", "--exact", "--nocapture"])
        .env(ROLE, "full")
        .env(ROOT, dir.path().join("root"))
        .output();
    match output {
        Ok(output) if output.status.code() == Some(99) => {
            eprintln!("skipped: a tmpfs cannot be mounted here");
        }
        Err(error) => eprintln!("skipped: unshare cannot be run: {error}"),
        Ok(output) => assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

#[test]
fn an_unwritable_store_is_named() {
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root writes everywhere");
        return;
    }
    let error = Store::open(Path::new("/proc/rbuild/store")).unwrap_err();
    assert!(error.to_string().contains("/proc/rbuild"), "{error}");
}

#[test]
fn a_store_cannot_be_made_where_a_file_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    let error = Store::open(&file.join("root")).unwrap_err();
    assert!(error.to_string().contains("file"), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "x");
}

#[test]
fn oracle_skopeo_finds_images_by_short_and_full_names() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("root")).unwrap();
    let (one, two) = (image(&store, "one"), image(&store, "two"));
    store
        .set_tags(&[reference("app:v1"), reference("ghcr.io/x/app:v1")], &one)
        .unwrap();
    store
        .set_tags(&[reference("localhost:5000/app")], &two)
        .unwrap();
    for (name, image) in [
        ("app:v1", &one),
        ("ghcr.io/x/app:v1", &one),
        ("localhost:5000/app:latest", &two),
    ] {
        let source = format!("oci:{}:{name}", store.root().display());
        let output = match Command::new("skopeo")
            .args(["inspect", "--format", "{{.Digest}}", &source])
            .output()
        {
            Ok(output) => output,
            Err(error) => {
                eprintln!("skipped: skopeo cannot be run: {error}");
                return;
            }
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(text.trim(), image.digest.to_string(), "{source}: {errors}");
    }
}
