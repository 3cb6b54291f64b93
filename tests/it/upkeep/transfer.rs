//! `rbuild cache export` and `import`: the cache of one store in another.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rbuild::oci::{Descriptor, Index, Manifest, MediaType, sha256, to_json};

use super::{
    super::support::{Outcome, TestEnv},
    files, hits,
    storm::{kill_after, start},
};

/// Builds with the store `root` of the environment.
fn build_in(env: &TestEnv, root: &str, args: &[&str]) -> Outcome {
    let base = TestEnv::base_context();
    let mut all = vec!["--root", root, "build", "--progress=plain"];
    all.extend(["--build-context", &base, "-t", "app"]);
    all.extend(args);
    all.push("context");
    env.run(&all)
}

fn cache_in(env: &TestEnv, root: &str, args: &[&str]) -> Outcome {
    env.run(&[&["--root", root, "cache"], args].concat())
}

fn digest(env: &TestEnv, root: &str) -> String {
    let shown = env.run(&["--root", root, "inspect", "app", "--format=json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown.success().stdout).expect("JSON");
    shown["descriptor"]["digest"]
        .as_str()
        .expect("a digest")
        .to_owned()
}

/// That a store's build executes nothing, gives the image of store `a`, and leaves a store that is whole.
fn executes_nothing(env: &TestEnv, root: &str, args: &[&str]) {
    let built = build_in(env, root, args).success();
    assert_eq!(hits(&built), 3, "in {root}: {built}");
    assert_eq!(digest(env, root), digest(env, "a"), "in {root}");
    let _whole = cache_in(env, root, &["verify"]).success();
}

#[test]
fn an_exported_cache_works_in_another_store_and_as_cache_from() {
    let env = files();
    let _built = build_in(&env, "a", &[]).success();
    let exported = cache_in(&env, "a", &["export", "dir"]).success();
    assert!(exported.stdout.starts_with("3 steps and "), "{exported}");
    let imported = cache_in(&env, "b", &["import", "dir"]).success();
    assert!(imported.stdout.starts_with("3 steps and "), "{imported}");
    executes_nothing(&env, "b", &[]);
    let list = cache_in(&env, "b", &["ls", "--filter=type=step", "--no-trunc"]).success();
    assert!(list.stdout.contains("COPY b /b"), "{list}");
    // Once more, there is nothing new.
    let again = cache_in(&env, "b", &["import", "dir", "--format=json"]).success();
    let again: serde_json::Value = serde_json::from_str(&again.stdout).expect("JSON");
    assert_eq!((&again["steps"], &again["layers"]), (&0.into(), &0.into()));

    executes_nothing(&env, "c", &["--cache-from=type=local,src=dir"]);

    let to = "--cache-to=type=local,dest=of-build,mode=max";
    let _built = build_in(&env, "a", &[to]).success();
    let _imported = cache_in(&env, "d", &["import", "of-build"]).success();
    executes_nothing(&env, "d", &[]);
}

#[test]
fn an_archive_goes_through_a_file_or_a_pipe() {
    let env = files();
    let _built = build_in(&env, "a", &[]).success();
    for file in ["cache.tar", "again.tar"] {
        let exported = cache_in(&env, "a", &["export", file]).success();
        assert!(
            exported.stdout.ends_with(&format!("written to {file}\n")),
            "{exported}"
        );
    }
    let archive = fs::read(env.path("cache.tar")).expect("an archive");
    assert_eq!(
        archive,
        fs::read(env.path("again.tar")).expect("one"),
        "not reproducible"
    );
    let mut piped = env
        .command(&["--root", "a", "cache", "export", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let pipe = piped.stdout.take().expect("a pipe");
    let mut import = env.command(&["--root", "b", "cache", "import", "-"]);
    let _imported = env.outcome(import.stdin(pipe)).success();
    assert!(piped.wait().expect("a status").success());
    executes_nothing(&env, "b", &[]);

    let packed = Command::new("gzip")
        .arg("-k")
        .arg(env.path("cache.tar"))
        .status();
    if packed.is_ok_and(|status| status.success()) {
        let _imported = cache_in(&env, "c", &["import", "cache.tar.gz"]).success();
        executes_nothing(&env, "c", &[]);
    }
}

#[test]
fn only_what_was_used_lately_is_exported_when_asked() {
    let env = files();
    let _built = build_in(&env, "a", &[]).success();
    let all = cache_in(&env, "a", &["export", "all", "--used-within=1h"]).success();
    assert!(all.stdout.starts_with("3 steps"), "{all}");
    std::thread::sleep(Duration::from_millis(1100));
    let none = cache_in(&env, "a", &["export", "none", "--used-within=1s"]).success();
    assert!(none.stdout.starts_with("0 steps"), "{none}");
    // Looking is no use: the time of last use is that of the build.
    let still = cache_in(&env, "a", &["export", "none", "--used-within=1s"]).success();
    assert!(still.stdout.starts_with("0 steps"), "{still}");
}

/// The blobs of a cache directory with what they hold.
fn blobs(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(dir.join("blobs/sha256")).expect("a layout");
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths
        .map(|path| {
            let bytes = fs::read(&path).expect("readable");
            (path, bytes)
        })
        .collect()
}

#[test]
fn a_damaged_layer_is_left_out_and_made_again() {
    let env = files();
    let _built = build_in(&env, "a", &[]).success();
    let _exported = cache_in(&env, "a", &["export", "dir"]).success();
    let layers: Vec<_> = blobs(&env.path("dir"))
        .into_iter()
        .filter(|(_, bytes)| bytes.starts_with(&[0x1f, 0x8b]))
        .collect();
    assert!(layers.len() >= 2, "two layers at least");
    let (path, bytes) = &layers[0];
    let mut other = bytes.clone();
    let middle = other.len() / 2;
    other[middle] ^= 1;
    fs::write(path, &other).expect("writable");
    fs::remove_file(&layers[1].0).expect("removable");
    let imported = cache_in(&env, "b", &["import", "dir"]).success();
    assert!(
        imported.stderr.matches("is left out").count() == 2,
        "{imported}"
    );
    assert!(
        imported.stdout.contains("without their layers"),
        "{imported}"
    );
    let _whole = cache_in(&env, "b", &["verify"]).success();
    let built = build_in(&env, "b", &[]).success();
    assert!(hits(&built) < 3, "{built}");
    assert_eq!(digest(&env, "b"), digest(&env, "a"));
}

#[test]
fn what_is_no_cache_is_refused_and_nothing_of_it_comes() {
    let env = files();
    let _built = build_in(&env, "a", &[]).success();
    let _exported = cache_in(&env, "a", &["export", "cache.tar"]).success();
    let archive = fs::read(env.path("cache.tar")).expect("an archive");
    for length in [archive.len() / 3, archive.len() - 2300] {
        fs::write(env.path("short.tar"), &archive[..length]).expect("written");
        let refused = cache_in(&env, "b", &["import", "short.tar"]).exits(1);
        assert_eq!(refused.stdout, "", "{refused}");
    }
    fs::write(env.path("text"), "no archive").expect("written");
    cache_in(&env, "b", &["import", "text"])
        .exits(1)
        .says("is no archive");
    cache_in(&env, "b", &["import", "nothing"])
        .exits(2)
        .says("cannot read");
    fs::create_dir(env.path("empty")).expect("made");
    cache_in(&env, "b", &["import", "empty"])
        .exits(1)
        .says("there is no cache in it");
    cache_in(&env, "a", &["export", "--tag=other", "dir"])
        .success()
        .prints("3 steps");
    cache_in(&env, "b", &["import", "dir"])
        .exits(1)
        .says("there is no cache in it");

    // Records that no store believes, in a layout that is right in all else.
    let config = to_json(&serde_json::json!({
        "rootfs": {"diff_ids": [sha256(b"l")]},
        "rbuild.cache.v1": {"steps": [{
            "key": sha256(b"k"), "definition": sha256(b"d"), "diff_id": sha256(b"l"),
            "created": "2026-01-01T00:00:00Z",
        }]},
    }));
    let layer = Descriptor::new(MediaType::new("text/html"), sha256(b"l"), 1);
    let manifest = to_json(&Manifest::new(
        Descriptor::of(MediaType::OCI_CONFIG, &config),
        vec![layer],
    ));
    let mut entry = Descriptor::of(MediaType::OCI_MANIFEST, &manifest);
    let name = "org.opencontainers.image.ref.name".to_owned();
    entry.annotations.insert(name, "latest".to_owned());
    let hostile = env.path("hostile");
    fs::create_dir_all(hostile.join("blobs/sha256")).expect("made");
    for bytes in [&config, &manifest] {
        let name = format!("blobs/sha256/{}", sha256(bytes).hex());
        fs::write(hostile.join(name), bytes).expect("written");
    }
    let index = to_json(&Index::new(vec![entry]));
    fs::write(hostile.join("index.json"), index).expect("written");
    cache_in(&env, "b", &["import", "hostile"])
        .exits(1)
        .says("text/html");

    let list = cache_in(&env, "b", &["ls", "--format=json"]).success();
    assert_eq!(list.stdout.trim(), "[]", "something came");
}

#[test]
fn interrupted_at_any_instant_it_leaves_whole_stores_and_caches() {
    let env = files();
    let noise: String = (0..60_000u32)
        .map(|n| char::from(b'!' + (n * n % 89) as u8))
        .collect();
    for n in 0..8 {
        env.file(&format!("a{n}"), &format!("{n}{noise}"));
    }
    let copies: Vec<String> = (0..8).map(|n| format!("COPY a{n} /")).collect();
    env.dockerfile(&format!("FROM scratch\n{}\n", copies.join("\n")));
    let _built = build_in(&env, "a", &[]).success();
    let _exported = cache_in(&env, "a", &["export", "dir"]).success();
    for round in 0..6 {
        let delay = Duration::from_millis(4 + 9 * round);
        kill_after(
            start(&env, &["--root", "b", "cache", "import", "dir"]),
            delay,
        );
        let _whole = cache_in(&env, "b", &["verify"]).success();
        kill_after(
            start(&env, &["--root", "a", "cache", "export", "dir"]),
            delay,
        );
        kill_after(
            start(&env, &["--root", "a", "cache", "export", "new"]),
            delay,
        );
        kill_after(
            start(&env, &["--root", "a", "cache", "export", "new.tar"]),
            delay,
        );
        // The earlier export is there, or the new one; a file has its name when it is complete.
        let root = format!("c{round}");
        let _imported = cache_in(&env, &root, &["import", "dir"]).success();
        if env.path("new.tar").is_file() {
            let _imported = cache_in(&env, &root, &["import", "new.tar"]).success();
        }
    }
    let _imported = cache_in(&env, "b", &["import", "dir"]).success();
    let built = build_in(&env, "b", &[]).success();
    assert_eq!(hits(&built), 8, "{built}");
    assert_eq!(digest(&env, "b"), digest(&env, "a"));
    let _exported = cache_in(&env, "a", &["export", "new"]).success();
    let left = fs::read_dir(env.path("new/blobs/sha256")).expect("a layout");
    assert_eq!(left.count(), 8 + 2, "what was interrupted is swept up");
}
