//! Base images that no builder makes, but that somebody may offer: what is in them counts, or the build says what is wrong.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::fs;

use rbuild::oci::{Descriptor, Index, Manifest, MediaType, sha256, to_json};

use super::support::{Outcome, TestEnv};

/// A layer as bytes of a tar. A name that ends in `/` is a directory, and `name -> target` a symbolic link.
fn layer(entries: &[&str]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mtime(1);
        header.set_mode(0o755);
        header.set_size(0);
        if let Some((name, target)) = entry.split_once(" -> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, name, target).expect("written");
            continue;
        }
        header.set_entry_type(match entry.strip_suffix('/') {
            Some(_) => tar::EntryType::Directory,
            None => tar::EntryType::Regular,
        });
        tar.append_data(&mut header, entry, &[][..])
            .expect("written");
    }
    tar.into_inner().expect("written")
}

/// Writes `layout` with an image of these layers. `change` may make its manifest another one.
fn write_layout(env: &TestEnv, layers: &[Vec<u8>], change: impl FnOnce(&mut Manifest)) {
    let blobs = env.path("layout/blobs/sha256");
    fs::create_dir_all(&blobs).expect("created");
    let put = |media_type, bytes: &[u8]| {
        fs::write(blobs.join(sha256(bytes).hex()), bytes).expect("written");
        Descriptor::of(media_type, bytes)
    };
    let diff_ids: Vec<String> = layers.iter().map(|tar| sha256(tar).to_string()).collect();
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let layers = layers.iter().map(|tar| put(MediaType::OCI_LAYER, tar));
    let layers = layers.collect();
    let mut manifest = Manifest::new(
        put(MediaType::OCI_CONFIG, config.to_string().as_bytes()),
        layers,
    );
    change(&mut manifest);
    let image = put(MediaType::OCI_MANIFEST, &to_json(&manifest));
    let index = to_json(&Index::new(vec![image]));
    fs::write(env.path("layout/index.json"), index).expect("written");
    let version = r#"{"imageLayoutVersion":"1.0.0"}"#;
    fs::write(env.path("layout/oci-layout"), version).expect("written");
}

/// Builds upon the image in `layout`, which is `odd` to the Dockerfile.
fn build(env: &TestEnv, dockerfile: &str) -> Outcome {
    env.dockerfile(dockerfile);
    env.build(&["--build-context", "odd=oci-layout://layout"])
}

#[test]
fn states_of_layers_that_say_a_thing_twice_are_whole() {
    let base = layer(&["d/", "d/e/", "f"]);
    let moved = layer(&["x/y", "x", "s -> /d", "s/z"]);
    let env = TestEnv::new();
    write_layout(&env, &[base.clone(), base.clone(), moved, base], |_| ());
    let built = build(&env, "FROM odd\nRUN [\"/none\"]\n");
    if built.code == Some(3) {
        eprintln!("skipped: no step can be run here:\n{built}");
        return;
    }
    built.exits(1).says("\"/none\"");
    env.run(&["cache", "verify"])
        .success()
        .prints("4 snapshots");
}

#[test]
fn a_blob_of_another_size_than_its_descriptor_says_is_no_fault_of_the_store() {
    let env = TestEnv::new();
    let small = |manifest: &mut Manifest| manifest.layers[0].size = 7;
    write_layout(&env, &[layer(&["f"])], small);
    let says = "has more than the 7 bytes that its descriptor says";
    let built = build(&env, "FROM odd\nRUN true\nCOPY --from=odd /f /g\n");
    if built.code == Some(3) && !built.stderr.contains(says) {
        eprintln!("skipped: no step can be run here:\n{built}");
        return;
    }
    let outcomes = [built, env.run(&["load", "-i", "layout"])];
    for outcome in outcomes {
        let outcome = outcome.exits(1).says("is damaged: ").says(says);
        assert!(!outcome.stderr.contains("cache verify"), "{outcome}");
    }
}

#[test]
fn what_a_dockerfile_mounts_on_a_file_is_its_own_fault() {
    let env = TestEnv::new();
    write_layout(&env, &[layer(&["bin/", "bin/sh"])], |_| ());
    let run = |target: &str| {
        let text = format!("FROM odd\nRUN --mount=type=tmpfs,target={target} [\"/none\"]\n");
        build(&env, &text)
    };
    let elsewhere = run("/m");
    if elsewhere.code == Some(3) {
        eprintln!("skipped: no step can be run here:\n{elsewhere}");
        return;
    }
    elsewhere.exits(1).says("\"/none\"");
    for target in ["/bin/sh", "/bin/sh/m"] {
        run(target)
            .exits(1)
            .says("Not a directory")
            .says("Dockerfile:2");
    }
}
