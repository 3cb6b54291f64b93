//! Remote caches: two machines that share nothing but a place for the cache.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use rbuild::oci::{Descriptor, Manifest, MediaType, sha256, to_json};

use super::support::{FakeRegistry, Fault, Outcome, TestEnv};

mod hostile;
mod moto;
mod network;
mod places;
mod second_runner;

/// Seven steps with layers in three stages, of which each makes something that no other execution makes.
const DOCKERFILE: &str = "\
FROM base AS deps
RUN head -c 300000 /dev/urandom >/deps
WORKDIR /work
FROM base AS build
COPY --from=deps /deps /deps
RUN cat /src /deps >/out; head -c 300000 /dev/urandom >/big
FROM base
COPY --from=build /out /out
RUN head -c 1000 /dev/urandom >/final; wc -c /out >>/final
";

/// What only one of the machines has: a store.
pub(crate) struct Runner<'a> {
    pub(crate) env: &'a TestEnv,
    pub(crate) root: PathBuf,
}

impl Runner<'_> {
    pub(crate) fn build(&self, args: &[&str]) -> Outcome {
        let base = TestEnv::base_context();
        let root = self.root.to_str().expect("a temporary path is text");
        let mut all = vec!["--root", root, "build", "--progress=plain"];
        all.extend(["--build-context", &base, "--registry-retries=0"]);
        all.extend(args);
        all.push("context");
        self.env.run(&all)
    }

    fn has(&self, digest: &str) -> bool {
        let hex = digest.trim_start_matches("sha256:");
        self.root.join("blobs/sha256").join(hex).is_file()
    }
}

pub(crate) fn runner<'a>(env: &'a TestEnv, name: &str) -> Runner<'a> {
    Runner {
        env,
        root: env.path(name),
    }
}

/// An environment with the Dockerfile; `None` where no step can be run.
pub(crate) fn prepared(dockerfile: &str) -> Option<TestEnv> {
    let env = TestEnv::new();
    env.dockerfile("FROM base\nRUN true\n");
    let tried = runner(&env, "tried").build(&["-o", "type=cacheonly"]);
    if tried.code == Some(3) && tried.stderr.contains("RUN needs namespaces") {
        eprintln!("skipped: no step can be run here:\n{tried}");
        return None;
    }
    env.dockerfile(dockerfile);
    env.file("src", "source\n");
    Some(env)
}

/// How many steps were executed: lines `#N DONE` of vertices that are steps.
pub(crate) fn n_executed(outcome: &Outcome) -> usize {
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    let is_step = |line: &str, number: &str| {
        line.strip_prefix(number)
            .is_some_and(|rest| rest.starts_with(" [") && !rest.starts_with(" [internal]"))
    };
    lines
        .iter()
        .filter_map(|line| line.split_once(" DONE "))
        .filter(|(number, _)| lines.iter().any(|line| is_step(line, number)))
        .filter(|(number, _)| {
            !lines
                .iter()
                .any(|line| is_step(line, number) && line.contains("FROM "))
        })
        .count()
}

/// The digest of the image's manifest, from the metadata file.
fn built(env: &TestEnv, name: &str) -> String {
    let text = fs::read_to_string(env.path(name)).expect("a metadata file");
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    value["containerimage.digest"]
        .as_str()
        .expect("a digest")
        .to_owned()
}

fn dockerfile() -> String {
    DOCKERFILE.replace("COPY --from=deps", "COPY src /src\nCOPY --from=deps")
}

#[test]
fn a_second_machine_executes_nothing_and_downloads_no_layer_for_a_push() {
    let Some(env) = prepared(&dockerfile()) else {
        return;
    };
    let fake = FakeRegistry::start();
    let cache = format!("type=registry,ref={}/app:cache,mode=max", fake.host());
    let name = format!("{}/app:v1", fake.host());
    let first = runner(&env, "one").build(&[
        "--cache-to",
        &cache,
        "--push",
        "-t",
        &name,
        "--metadata-file",
        "m1",
    ]);
    let first = first.success().says("exporting cache to registry");
    assert_eq!(n_executed(&first), 7, "{first}");

    fake.clear_log();
    let from = format!("{}/app:cache", fake.host());
    let two = runner(&env, "two");
    let second = two
        .build(&[
            "--cache-from",
            &from,
            "--push",
            "-t",
            &name,
            "--metadata-file",
            "m2",
        ])
        .success();
    assert_eq!(n_executed(&second), 0, "{second}");
    assert_eq!(built(&env, "m1"), built(&env, "m2"), "{second}");
    let gets: Vec<String> = fake
        .lines()
        .into_iter()
        .filter(|line| line.starts_with("GET /v2/app/"))
        .collect();
    // The manifest and the records.
    assert_eq!(gets.len(), 2, "{gets:?}");
    assert!(
        !fake
            .lines()
            .iter()
            .any(|line| line.starts_with("PATCH ") || line.contains("/uploads/")),
        "{:?}",
        fake.lines()
    );

    // Into the store, it is the layers of the image alone that come.
    fake.clear_log();
    let three = runner(&env, "three");
    let third = three
        .build(&["--cache-from", &from, "-t", "app", "--metadata-file", "m3"])
        .success();
    assert_eq!(n_executed(&third), 0, "{third}");
    assert_eq!(built(&env, "m1"), built(&env, "m3"), "{third}");
    let blobs = fake
        .lines()
        .into_iter()
        .filter(|line| line.starts_with("GET /v2/app/blobs/"));
    assert_eq!(blobs.count(), 1 + 2, "the records and two layers");
}

#[test]
fn what_has_changed_is_executed_and_only_what_it_needs_is_fetched() {
    let Some(env) = prepared(&dockerfile()) else {
        return;
    };
    let fake = FakeRegistry::start();
    let cache = format!("type=registry,ref={}/app:cache,mode=max", fake.host());
    let from = format!("type=registry,ref={}/app:cache", fake.host());
    runner(&env, "one")
        .build(&["--cache-to", &cache, "-o", "type=cacheonly"])
        .success();
    env.file("src", "changed\n");
    fake.clear_log();
    let second = runner(&env, "two")
        .build(&["--cache-from", &from, "-o", "type=cacheonly"])
        .success();
    // In `build`: both copies and the step after them; then what copies its result.
    assert_eq!(n_executed(&second), 5, "{second}");
    let blobs = fake
        .lines()
        .into_iter()
        .filter(|line| line.starts_with("GET /v2/app/blobs/"));
    assert_eq!(
        blobs.count(),
        1 + 2,
        "the records, and what was made of `deps`: {second}"
    );
}

#[test]
fn with_mode_min_a_step_without_bytes_is_executed_when_they_are_needed() {
    let Some(env) = prepared(&dockerfile()) else {
        return;
    };
    runner(&env, "one")
        .build(&[
            "--cache-to",
            "type=local,dest=cache",
            "-t",
            "app",
            "--metadata-file",
            "m1",
        ])
        .success()
        .says("exporting cache to client directory");
    let from = "type=local,src=cache";
    let second = runner(&env, "two")
        .build(&["--cache-from", from, "-t", "app", "--metadata-file", "m2"])
        .success();
    assert_eq!(n_executed(&second), 0, "{second}");
    assert_eq!(built(&env, "m1"), built(&env, "m2"));

    env.file("src", "changed\n");
    let third = runner(&env, "three")
        .build(&["--cache-from", from, "-t", "app", "--metadata-file", "m3"])
        .success()
        .says("its step is executed");
    assert_ne!(built(&env, "m1"), built(&env, "m3"), "{third}");
    assert!(!third.stderr.contains("WARN"), "{third}");
}

/// Layers in a cache directory, largest first.
fn blobs(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<(u64, PathBuf)> = fs::read_dir(dir.join("blobs/sha256"))
        .expect("a layout")
        .map(|entry| {
            let entry = entry.expect("readable");
            (entry.metadata().expect("readable").len(), entry.path())
        })
        .collect();
    paths.sort();
    paths.into_iter().rev().map(|(_, path)| path).collect()
}

#[test]
fn a_layer_that_has_gone_or_is_damaged_is_a_miss_at_any_moment() {
    let Some(env) = prepared(&dockerfile()) else {
        return;
    };
    let to = "type=local,dest=cache,mode=max";
    runner(&env, "one")
        .build(&["--cache-to", to, "-o", "type=cacheonly"])
        .success();
    let from = "type=local,src=cache";
    let layers = blobs(&env.path("cache"));
    // The largest is that of `build`, whose result the image has in another layer; the next that of `deps`.
    for path in &layers[..3] {
        fs::write(path, "damaged").expect("writable");
    }
    let second = runner(&env, "two")
        .build(&["--cache-from", from, "-t", "app"])
        .success()
        .says("is not used");
    assert!(n_executed(&second) > 0, "{second}");
    // Everything that can go has gone; records of layers are there still.
    for path in &layers[..3] {
        fs::remove_file(path).expect("removable");
    }
    env.file("src", "changed\n");
    runner(&env, "three")
        .build(&["--cache-from", from, "-t", "app"])
        .success();
}

#[test]
fn a_registry_that_is_down_or_lies_is_a_warning() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY a /\n").file("a", "a");
    // Nothing listens on port 1.
    runner(&env, "one")
        .build(&["--cache-from", "127.0.0.1:1/app:cache", "-t", "app"])
        .success()
        .says("cache of 127.0.0.1:1/app:cache is not used");
    let fake = FakeRegistry::start();
    let from = format!("{}/app:cache", fake.host());
    // The first build of all.
    let none = runner(&env, "two")
        .build(&["--cache-from", &from, "-t", "app"])
        .success()
        .says("there is no cache yet");
    assert!(!none.stderr.contains("is not used"), "{none}");

    let cases: [(&str, Vec<u8>); 4] = [
        (
            "holds no records",
            br#"{"rootfs":{"diff_ids":[]}}"#.to_vec(),
        ),
        ("cannot be read", b"{\"rootfs\":[".to_vec()),
        (
            "text/html",
            to_json(&serde_json::json!({
                "rootfs": {"diff_ids": []},
                "rbuild.cache.v1": {"steps": [{
                    "key": sha256(b"k"), "definition": sha256(b"d"), "diff_id": sha256(b"l"),
                    "created": "2026-01-01T00:00:00Z",
                    "blob": {"mediaType": "text/html", "digest": sha256(b"l"), "size": 1},
                }]},
            })),
        ),
        ("more than", vec![b' '; 17 << 20]),
    ];
    for (reason, config) in cases {
        fake.put_blob("app", &config);
        let descriptor = Descriptor::of(MediaType::OCI_CONFIG, &config);
        let manifest = Manifest::new(descriptor, Vec::new());
        fake.put_manifest(
            "app",
            "cache",
            &MediaType::OCI_MANIFEST,
            &to_json(&manifest),
        );
        runner(&env, "three")
            .build(&[
                "--cache-from",
                &from,
                "--no-cache-filter=x",
                "-t",
                "app",
                "--label",
                reason,
            ])
            .success();
        fs::remove_dir_all(env.path("three")).expect("removable");
        runner(&env, "three")
            .build(&["--cache-from", &from, "-t", "app"])
            .success()
            .says("is not used")
            .says(reason);
        fs::remove_dir_all(env.path("three")).expect("removable");
    }
}

#[test]
fn finished_steps_are_exported_though_the_build_fails_and_earlier_ones_stay() {
    let Some(env) = prepared(
        "FROM base\nRUN echo one >/one\nCOPY src /src\nRUN test ! -e /src/no\nRUN exit 3\n",
    ) else {
        return;
    };
    let to = "type=local,dest=cache,mode=max";
    runner(&env, "one")
        .build(&["--cache-to", to, "-o", "type=cacheonly"])
        .exits(1)
        .says("exporting cache to client directory")
        .says("3 steps and 3 layers");
    let second = runner(&env, "two")
        .build(&[
            "--cache-from",
            "type=local,src=cache",
            "-o",
            "type=cacheonly",
        ])
        .exits(1);
    assert!(second.stderr.contains("RUN exit 3"), "{second}");
    assert_eq!(second.stderr.matches(" CACHED").count(), 3, "{second}");

    // Another build that fails early does not take away what is there.
    env.dockerfile("FROM base\nRUN echo other >/other\nRUN exit 4\n");
    runner(&env, "three")
        .build(&["--cache-to", to, "-o", "type=cacheonly"])
        .exits(1)
        .says("1 step and 1 layer written");
    env.dockerfile("FROM base\nRUN echo one >/one\nCOPY src /src\nRUN test ! -e /src/no\n");
    let fourth = runner(&env, "four")
        .build(&["--cache-from", "type=local,src=cache", "-t", "app"])
        .success();
    assert_eq!(n_executed(&fourth), 0, "{fourth}");
}

#[test]
fn an_export_that_fails_fails_the_build_unless_errors_are_ignored() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY a /\n").file("a", "a");
    let fake = FakeRegistry::start();
    fake.faults(|request, _| {
        let is_write = matches!(request.method.as_str(), "POST" | "PUT" | "PATCH");
        is_write.then(|| Fault::Answer(403, Vec::new(), b"no".to_vec()))
    });
    let to = format!("type=registry,ref={}/app:cache", fake.host());
    let one = runner(&env, "one");
    one.build(&["--cache-to", &to, "-t", "app"])
        .exits(4)
        .says("exporting cache to registry");
    // The image is there all the same.
    let root = one.root.to_str().expect("text");
    env.run(&["--root", root, "inspect", "app"]).success();
    one.build(&[
        "--cache-to",
        &format!("{to},ignore-error=true"),
        "-t",
        "app",
    ])
    .success()
    .says("cache not exported");
    // What a file lies in the way of says so, too.
    let to = "type=local,dest=context/a/cache,ignore-error=true";
    one.build(&["--cache-to", to, "-t", "app"])
        .success()
        .says("WARNING: cache not exported to context/a/cache: cannot create")
        .says("Not a directory");
}

#[test]
fn an_image_carries_its_own_cache() {
    let Some(env) = prepared(&dockerfile()) else {
        return;
    };
    let fake = FakeRegistry::start();
    let name = format!("{}/app:v1", fake.host());
    let inline = ["--cache-to", "type=inline", "--push", "-t", &name];
    runner(&env, "one")
        .build(&[&inline[..], &["--metadata-file", "m1"]].concat())
        .success();
    let second = runner(&env, "two")
        .build(
            &[
                &inline[..],
                &["--cache-from", &name, "--metadata-file", "m2"],
            ]
            .concat(),
        )
        .success();
    assert_eq!(n_executed(&second), 0, "{second}");
    assert_eq!(built(&env, "m1"), built(&env, "m2"), "{second}");
    // The files of an image can be written, though its config has more in it.
    runner(&env, "two")
        .build(&["--cache-to=type=inline", "-o", "files"])
        .success();
    assert!(env.path("files/out").is_file());
    // An image that starts from it does not take the records over.
    env.dockerfile(&format!("FROM {name}\nLABEL a=b\n"));
    let three = runner(&env, "three");
    three.build(&["-t", "app"]).success();
    let root = three.root.to_str().expect("text");
    let inspected = env.run(&["--root", root, "inspect", "app"]).success();
    assert!(!inspected.stdout.contains("rbuild.cache"), "{inspected}");
}
