//! `--cache-mounts`: directories of `RUN --mount=type=cache` on their way between machines.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use super::{
    registry::servers::{Server, have},
    remote_cache::{Runner, n_executed, prepared, runner},
    support::{ActionsCache, FakeRegistry, Fault, Outcome, TestEnv},
};

/// A step that tells what it finds in its mount, and leaves what it was built with.
const DOCKERFILE: &str = "\
FROM base
COPY src /src
RUN --mount=type=cache,id=words,target=/c,uid=7,gid=8,mode=0750 \
 { stat -c 'root %u:%g %a' /c; cat /c/log && stat -c '%n %u:%g %a' /c/* && readlink /c/link; } >&2; \
 cat /src >>/c/log; mkdir -p /c/dir; chown 5:6 /c/dir; chmod 2711 /c/dir; ln -sf log /c/link; : >/c/dir/empty
";

/// Builds for the cache alone.
fn build(runner: &Runner<'_>, args: &[&str]) -> Outcome {
    runner.build(&[&["-o", "type=cacheonly"], args].concat())
}

/// That a step found what a build of `src` left, with its owners.
fn found(outcome: &Outcome, src: &str) {
    for line in ["root 7:8 750", src, "/c/dir 5:6 2711", "log"] {
        let is_there = outcome.stderr.lines().any(|l| l.ends_with(line.trim_end()));
        assert!(is_there, "{line}: {outcome}");
    }
}

fn found_nothing(outcome: &Outcome) {
    assert!(!outcome.stderr.contains("/c/dir 5:6"), "{outcome}");
}

/// Two machines, a third without the option, and a place.
fn travels(env: &TestEnv, to: &str, from: &str) {
    env.file("src", "first\n");
    let mounts = "--cache-mounts=other,words";
    let one = runner(env, "one");
    let first = build(&one, &["--cache-to", to, mounts])
        .success()
        .says("1 cache mount written");
    found_nothing(&first);

    env.file("src", "second\n");
    let two = runner(env, "two");
    let second = build(&two, &["--cache-from", from, mounts])
        .success()
        .says("the cache mount words is restored");
    found(&second, "first");

    // Both have it now, and the second machine's is newer.
    let again = build(
        &two,
        &["--cache-from", from, "--cache-to", to, mounts, "--no-cache"],
    );
    let again = again.success();
    assert!(!again.stderr.contains("is restored"), "{again}");
    env.file("src", "third\n");
    let third = build(&one, &["--cache-from", from, "--cache-mounts=all"])
        .success()
        .says("the cache mount words is restored");
    found(&third, "second");

    for (name, args) in [("three", &[][..]), ("four", &["--cache-mounts=other"])] {
        env.file("src", name);
        let without = build(
            &runner(env, name),
            &[&["--cache-from", from], args].concat(),
        );
        found_nothing(&without.success());
    }
}

#[test]
fn mounts_travel_through_a_directory() {
    let Some(env) = prepared(DOCKERFILE) else {
        return;
    };
    travels(
        &env,
        "type=local,dest=cache,mode=max",
        "type=local,src=cache",
    );
}

#[test]
fn mounts_travel_through_a_registry() {
    let Some(env) = prepared(DOCKERFILE) else {
        return;
    };
    let fake = FakeRegistry::start();
    let name = format!("{}/app:cache", fake.host());
    travels(&env, &format!("type=registry,ref={name}"), &name);
}

#[test]
fn a_real_registry_takes_mounts() {
    if !have(&["docker-registry"]) {
        return;
    }
    let Some(env) = prepared(DOCKERFILE) else {
        return;
    };
    let server = Server::plain();
    let name = format!("{}/app:cache", server.host);
    travels(&env, &format!("type=registry,ref={name},mode=max"), &name);
}

#[test]
fn mounts_travel_through_the_actions_cache() {
    let Some(mut env) = prepared(DOCKERFILE) else {
        return;
    };
    let service = ActionsCache::start();
    env.var("ACTIONS_RESULTS_URL", &service.url());
    env.var("ACTIONS_RUNTIME_TOKEN", ActionsCache::token());
    travels(&env, "type=gha,mode=max", "type=gha");
}

#[test]
fn a_build_that_finds_all_steps_keeps_the_mounts_of_the_place() {
    let Some(env) = prepared(DOCKERFILE) else {
        return;
    };
    let args = [
        "--cache-from=type=local,src=cache",
        "--cache-to=type=local,dest=cache,mode=max",
        "--cache-mounts=all",
    ];
    env.file("src", "first\n");
    let _first = build(&runner(&env, "one"), &args).success();
    let cached = build(&runner(&env, "two"), &args).success();
    assert_eq!(n_executed(&cached), 0, "{cached}");
    cached.says("1 cache mount written");
    env.file("src", "second\n");
    let third = build(&runner(&env, "three"), &args).success();
    found(&third, "first");
    // Of a mount that nobody used since, not even the layer is made again.
    let layers = fs::read_dir(env.path("cache/blobs/sha256"))
        .expect("a layout")
        .count();
    let same = build(&runner(&env, "three"), &args).success();
    assert_eq!(n_executed(&same), 0, "{same}");
    let now = fs::read_dir(env.path("cache/blobs/sha256"))
        .expect("a layout")
        .count();
    assert_eq!(layers, now);
}

/// The layers in a cache directory.
fn layers(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("blobs/sha256")).expect("a layout");
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths
        .filter(|path| fs::read(path).is_ok_and(|bytes| bytes.starts_with(&[0x1f, 0x8b])))
        .collect()
}

#[test]
fn mounts_of_a_place_that_cannot_be_read_just_now_are_not_written_over() {
    let Some(env) = prepared(DOCKERFILE) else {
        return;
    };
    let fake = FakeRegistry::start();
    let to = format!("--cache-to=type=registry,ref={}/app:cache", fake.host());
    let args = [to.as_str(), "--cache-mounts=all"];
    env.file("src", "first\n");
    let _first = build(&runner(&env, "one"), &args).success();
    let before = fake.manifest("app", "cache").expect("a cache");
    fake.faults(|request, _| {
        let is_read = request.line() == "GET /v2/app/manifests/cache";
        is_read.then(|| Fault::Answer(501, Vec::new(), Vec::new()))
    });
    env.file("src", "second\n");
    drop(build(&runner(&env, "two"), &args).exits(4));
    assert_eq!(fake.manifest("app", "cache"), Some(before));
}

#[test]
fn a_mount_that_cannot_be_had_or_sent_is_a_warning() {
    let Some(env) = prepared(DOCKERFILE) else {
        return;
    };
    env.file("src", "first\n");
    let to = "--cache-to=type=local,dest=cache";
    let _first = build(&runner(&env, "one"), &[to, "--cache-mounts=all"]).success();
    let from = ["--cache-from=type=local,src=cache", "--cache-mounts=all"];
    for (name, bytes) in [("two", "damaged"), ("three", "")] {
        for path in layers(&env.path("cache")) {
            fs::write(&path, bytes).expect("writable");
        }
        env.file("src", name);
        let built = build(&runner(&env, name), &from)
            .success()
            .says("the cache mount words is not restored");
        found_nothing(&built);
    }
    env.dockerfile("FROM base\nRUN --mount=type=cache,id=words,target=/c touch /c/.wh.x\n");
    build(&runner(&env, "four"), &[to, "--cache-mounts=all"])
        .success()
        .says("the cache mount words is not exported: `.wh.x` cannot be in a layer")
        .says("1 step and");
}

#[test]
fn the_cache_commands_take_mounts_along_and_leave_those_in_use() {
    let Some(env) = prepared(DOCKERFILE) else {
        return;
    };
    env.file("src", "first\n");
    let (one, two) = (runner(&env, "one"), runner(&env, "two"));
    let _first = build(&one, &[]).success();
    let cache = |root: &str, args: &[&str]| env.run(&[&["--root", root, "cache"], args].concat());
    cache("one", &["export", "plain.tar"]).success();
    cache("one", &["export", "cache.tar", "--cache-mounts=words"])
        .success()
        .prints(", 1 cache mount written");
    cache("two", &["import", "plain.tar", "--cache-mounts=all"]).success();
    let imported = cache("two", &["import", "cache.tar", "--cache-mounts=all"]).success();
    imported.prints(", 1 cache mount are new");
    let again = cache("two", &["import", "cache.tar", "--cache-mounts=all"]).success();
    assert!(!again.stdout.contains("mounts"), "{again}");
    cache("two", &["verify"]).success();
    env.file("src", "second\n");
    found(&build(&two, &[]).success(), "first");

    env.dockerfile(
        "FROM base\nRUN --mount=type=cache,id=gate,target=/g touch /g/begun; until [ -e /g/go ]; do sleep 0.02; done\n",
    );
    let base = TestEnv::base_context();
    let mut child = env
        .command(&[
            "--root",
            "two",
            "build",
            "--build-context",
            &base,
            "context",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let begun = Instant::now();
    let gate = loop {
        let mounts = fs::read_dir(env.path("two/mounts")).expect("a store");
        let mut dirs = mounts.map(|mount| mount.expect("an entry").path().join("0"));
        if let Some(dir) = dirs.find(|dir| dir.join("begun").is_file()) {
            break dir;
        }
        if begun.elapsed() > Duration::from_mins(1) {
            eprintln!("skipped: the mount of a running step is not seen");
            child.kill().ok();
            child.wait().ok();
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let exported = cache("two", &["export", "busy", "--cache-mounts=all"]).success();
    exported
        .says("the cache mount gate is not exported: a build uses it")
        .prints(", 1 cache mount written");
    fs::write(gate.join("go"), "").expect("written");
    assert!(child.wait().expect("a status").success());
    cache("two", &["export", "free", "--cache-mounts=all"])
        .success()
        .prints(", 2 cache mounts written");
}

#[test]
fn mounts_without_a_place_are_refused() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\n");
    for args in [
        &["--cache-mounts=all"][..],
        &["--cache-mounts=all", "--cache-to=type=inline"],
    ] {
        env.build(args).exits(2).says("--cache-mounts needs");
    }
    env.build(&["--cache-mounts=a,,b"])
        .exits(2)
        .says("an id is empty");
}
