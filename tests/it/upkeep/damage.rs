//! Stores whose files are not what was written.

use super::*;

/// The file of the store whose name begins so.
fn find(env: &TestEnv, dir: &str, holds: &[u8]) -> PathBuf {
    let files = fs::read_dir(env.path("root").join(dir)).expect("a directory of the store");
    files
        .map(|file| file.expect("an entry").path())
        .find(|file| {
            fs::read(file).is_ok_and(|bytes| bytes.windows(holds.len()).any(|w| w == holds))
        })
        .expect("a file with these bytes")
}

#[test]
fn verify_finds_and_drops_damage() {
    let env = files();
    env.build_on_base(&["-t", "app"]).success();
    env.run(&["cache", "verify"]).success().prints("checked: ");
    let config = find(&env, "blobs/sha256", b"unmistakable");
    let mut bytes = fs::read(&config).expect("a config");
    bytes[10] ^= 1;
    fs::write(&config, bytes).expect("written");
    fs::write(env.path("root/blobs/sha256/stray"), "x").expect("written");
    let layer = fs::read_dir(env.path("root/layers"))
        .expect("layers")
        .map(|dir| dir.expect("an entry").path())
        .next()
        .expect("a layer");
    let record = fs::read_dir(&layer).expect("records").next().expect("one");
    fs::write(record.expect("an entry").path(), "rbuild 1 torn").expect("written");

    let seen = env.run(&["cache", "verify", "--dry-run"]).exits(3);
    for place in ["blobs/sha256/stray", "layers/", "app:latest: "] {
        assert!(seen.stdout.contains(place), "{seen}");
    }
    env.run(&["cache", "verify"]).exits(3).says("dropped");
    env.run(&["cache", "verify"]).success();
    let images = env.run(&["images", "-q"]).success();
    assert_eq!(images.stdout, "");
    env.build_on_base(&["-t", "app"]).success();
    env.run(&["inspect", "app"]).success();
    env.run(&["cache", "verify"]).success();
}

#[test]
fn verify_drops_what_is_no_file_where_a_file_should_be() {
    let env = files();
    env.build_on_base(&["-t", "app"]).success();
    let layers = fs::read_dir(env.path("root/layers")).expect("layers");
    let records = layers.map(|dir| dir.expect("an entry").path());
    for place in records.chain([env.path("root/blobs/sha256"), env.path("root/steps/key")]) {
        let file = fs::read_dir(&place).expect("files").next().expect("one");
        let file = file.expect("an entry").path();
        fs::remove_file(&file).expect("removed");
        fs::create_dir_all(file.join("inside")).expect("created");
    }
    env.run(&["cache", "verify"]).exits(3).says("dropped");
    env.run(&["cache", "verify"]).success();
    env.build_on_base(&["-t", "app"]).success();
}

#[test]
fn a_layer_that_was_damaged_in_the_store_is_said_to_be_so() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY --from=base /etc /e\n");
    env.build_on_base(&[]).success();
    let blobs = fs::read_dir(env.path("root/blobs/sha256")).expect("blobs");
    let blobs = blobs.map(|entry| entry.expect("an entry").path());
    let largest = blobs.max_by_key(|path| fs::metadata(path).map_or(0, |metadata| metadata.len()));
    let largest = largest.expect("the layer of the base");
    let mut bytes = fs::read(&largest).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x41;
    fs::write(&largest, bytes).expect("written");
    env.dockerfile("FROM scratch\nCOPY --from=base /bin /c\n");
    env.build_on_base(&[]).exits(3).says("rbuild cache verify");
}

#[test]
fn a_run_on_a_layer_that_was_damaged_in_the_store_says_so() {
    // In the middle of a file, and in the checksum at the very end.
    for from_end in [None, Some(6)] {
        let env = TestEnv::new();
        env.dockerfile("FROM scratch\nCOPY --from=base /etc /e\n");
        env.build_on_base(&[]).success();
        let blobs = fs::read_dir(env.path("root/blobs/sha256")).expect("blobs");
        let blobs = blobs.map(|entry| entry.expect("an entry").path());
        let largest = blobs.max_by_key(|path| fs::metadata(path).map_or(0, |m| m.len()));
        let largest = largest.expect("the layer of the base");
        let mut bytes = fs::read(&largest).expect("readable");
        let at = from_end.map_or(bytes.len() / 2, |n| bytes.len() - n);
        bytes[at] ^= 0x41;
        fs::write(&largest, bytes).expect("written");
        env.dockerfile("FROM base\nRUN echo ran >&2\n");
        let built = env.build_on_base(&[]);
        if built.stderr.contains("RUN needs namespaces") {
            eprintln!("skipped: no step can be run here");
            return;
        }
        let built = built
            .exits(3)
            .says("rbuild cache verify")
            .says("cannot read");
        assert!(!built.stderr.contains("``"), "{built}");
        assert!(!built.stderr.contains("cannot write"), "{built}");
        env.run(&["cache", "verify"]).exits(3).says("dropped");
        env.build_on_base(&[]).success().says("ran");
    }
}

#[test]
fn verify_compares_unpacked_states_with_their_layers() {
    let env = TestEnv::new();
    env.dockerfile("FROM base\nRUN echo one > /file\nRUN echo two > /other\n");
    let built = env.build_on_base(&[]);
    if built.code == Some(3) {
        eprintln!("skipped: no step can be run here");
        return;
    }
    let _built = built.success();
    env.run(&["cache", "verify"]).success();
    let states: Vec<PathBuf> = fs::read_dir(env.path("root/snapshots"))
        .expect("styles")
        .flat_map(|style| fs::read_dir(style.expect("an entry").path()).expect("states"))
        .map(|state| state.expect("an entry").path().join("fs/file"))
        .filter(|file| file.is_file())
        .collect();
    let [file] = states.as_slice() else {
        eprintln!("skipped: steps leave no states here: {states:?}");
        return;
    };
    fs::write(file, "ONE\n").expect("written");
    env.run(&["cache", "verify"])
        .exits(3)
        .prints("`file` has other content");
    env.run(&["cache", "verify"]).success();
    env.file(
        "Dockerfile",
        "FROM base\nRUN echo one > /file\nRUN cat /file >&2\n",
    );
    env.build_on_base(&[]).success().says("one");
}

#[test]
fn an_index_that_is_cut_short_is_named_and_put_aside() {
    let env = files();
    env.build_on_base(&["-t", "app"]).success();
    let index = env.path("root/index.json");
    let whole = fs::read(&index).expect("an index");
    fs::write(&index, &whole[..whole.len() / 2]).expect("written");
    env.run(&["images"])
        .exits(3)
        .says("index.json` is damaged")
        .says("rbuild cache verify");
    assert_eq!(fs::read(&index).expect("untouched").len(), whole.len() / 2);
    env.run(&["cache", "verify"]).exits(3);
    assert!(env.path("root/index.json.damaged").is_file());
    env.run(&["cache", "verify"]).success();
    env.build_on_base(&["-t", "app"]).success();
}
