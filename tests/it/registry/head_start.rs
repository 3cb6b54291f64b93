//! Layers that begin to leave before they are made, since they will probably begin as the ones of last time.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use rbuild::oci::Manifest;

use super::noise;
use crate::support::{FakeRegistry, TestEnv};

const FILES: usize = 30;

/// A context with 30 MiB in files of 1 MiB, in two directories, all of them old enough to be remembered.
fn context() -> TestEnv {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY files /files\n");
    let bytes = noise(FILES << 20);
    for (n, bytes) in bytes.chunks(1 << 20).enumerate() {
        let dir = if n < FILES - 2 { "a" } else { "z" };
        let path = env.context().join(format!("files/{dir}/{n:02}"));
        fs::create_dir_all(path.parent().expect("it has one")).expect("made");
        fs::write(path, bytes).expect("written");
    }
    // What was changed less than three seconds before it is read is read again.
    std::thread::sleep(Duration::from_secs(4));
    env
}

/// Builds and pushes; the digest of the one layer, which the registry must have.
fn push(env: &TestEnv, fake: &FakeRegistry, tag: &str) -> String {
    let name = format!("{}/app:{tag}", fake.host());
    env.build(&["--push", "-t", &name]).success();
    let manifest = fake.manifest("app", tag).expect("pushed");
    let manifest: Manifest = serde_json::from_slice(&manifest).expect("a manifest");
    let [layer] = &*manifest.layers else {
        panic!("{} layers", manifest.layers.len())
    };
    let bytes = fake.blob("app", layer.digest).expect("pushed");
    assert_eq!(bytes.len() as u64, layer.size);
    assert_eq!(fake.n_uploads(), 0, "{:?}", fake.lines());
    layer.digest.to_string()
}

/// What another store makes of the same context.
fn afresh(env: &TestEnv) -> String {
    let root = tempfile::tempdir().expect("a temporary directory");
    let root = root.path().to_str().expect("text");
    let fake = FakeRegistry::start();
    let name = format!("{}/app:1", fake.host());
    env.build(&["--root", root, "--push", "-t", &name])
        .success();
    let manifest = fake.manifest("app", "1").expect("pushed");
    let manifest: Manifest = serde_json::from_slice(&manifest).expect("a manifest");
    manifest.layers[0].digest.to_string()
}

#[test]
fn a_layer_that_begins_as_the_last_one_is_sent_whole_whatever_is_sent_ahead() {
    let env = context();
    let fake = FakeRegistry::start();
    let first = push(&env, &fake, "1");
    let last = env.context().join("files/z/29");
    let original = fs::read(&last).expect("there");

    // It begins as the last one.
    fake.clear_log();
    fs::write(&last, noise(1000)).expect("written");
    let changed = push(&env, &fake, "2");
    assert_ne!(changed, first);
    assert_eq!(changed, afresh(&env));
    let requests = fake.lines();
    assert!(requests.iter().any(|line| line.starts_with("PATCH")));

    // It is the first one, which the cache has.
    fs::write(&last, &original).expect("written");
    assert_eq!(push(&env, &fake, "3"), first);

    // A directory has another mode, which nobody knows when the first file that is to be read is found.
    let dir = env.context().join("files/a");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o711)).expect("set");
    fs::write(&last, noise(2000)).expect("written");
    let changed = push(&env, &fake, "4");
    assert_eq!(changed, afresh(&env));

    // A file is gone from the beginning, and the first to be read comes late: nothing of it leaves.
    fs::remove_file(env.context().join("files/a/03")).expect("removed");
    fs::write(&last, noise(3000)).expect("written");
    let changed = push(&env, &fake, "5");
    assert_eq!(changed, afresh(&env));
}
