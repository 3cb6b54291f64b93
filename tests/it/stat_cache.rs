//! A context is read once, and one that has not changed is not read again.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::{fs, process::Command};

use super::support::TestEnv;

/// How many files the context has: `RBUILD_TEST_FILES`, or few.
fn count() -> usize {
    let given = std::env::var("RBUILD_TEST_FILES").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(300)
}

/// The files of `src` that a build opens; `None` where nothing can be traced.
fn opened(env: &TestEnv) -> Option<Vec<String>> {
    let trace = env.path("trace");
    let context = env.context();
    let rbuild = env.command(&["build", "-q", "-o", "type=cacheonly"]);
    let mut traced = Command::new("strace");
    traced
        .args(["-f", "-qq", "-e", "trace=open,openat,openat2", "-o"])
        .arg(&trace)
        .arg(rbuild.get_program())
        .args(rbuild.get_args())
        .arg(&context)
        .env_clear()
        .current_dir(env.path("."));
    for (name, value) in rbuild.get_envs() {
        if let Some(value) = value {
            traced.env(name, value);
        }
    }
    let output = traced.output().ok()?;
    let log = fs::read_to_string(&trace).unwrap_or_default();
    if !output.status.success() || !log.contains("Dockerfile") {
        eprintln!("skipped: strace cannot trace here: {output:?}");
        return None;
    }
    let name = |line: &str| {
        let (_, rest) = line.split_once("/context/src/")?;
        let (path, flags) = rest.split_once('"')?;
        (!flags.contains("O_DIRECTORY")).then(|| path.to_owned())
    };
    Some(log.lines().filter_map(name).collect())
}

#[test]
fn a_context_is_read_once_and_then_what_has_changed() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("skipped: there is no strace");
        return;
    }
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY src /src\n");
    for n in 0..count() {
        env.file(&format!("src/{}/{n}", n / 100), &format!("{n}\n"));
    }
    let Some(first) = opened(&env) else { return };
    assert_eq!(first.len(), count(), "each is read once");
    // Files as young as the cache are read again, as git does; a change time cannot be set back.
    std::thread::sleep(std::time::Duration::from_secs(4));
    opened(&env).expect("traced before");
    let unchanged = opened(&env).expect("traced before");
    assert_eq!(unchanged, [""; 0]);
    env.file("src/0/7", "other\n");
    // Its neighbours in the layer may be read with it.
    let changed = opened(&env).expect("traced before");
    assert!(changed.contains(&"0/7".to_owned()), "{changed:?}");
}

/// On a store without steps a layer is made before its key is known.
#[test]
fn a_layer_and_its_key_are_the_same_on_a_new_store_and_on_an_old_one() {
    let env = TestEnv::new();
    env.file("src/deep/small", "small").file("src/empty", "");
    env.file("src/large", &"0123456789abcdef".repeat(100_000));
    fs::hard_link(env.path("context/src/large"), env.path("context/src/again")).unwrap();
    let build = |root: &str, options: &[&str]| {
        let common = ["build", "--root", root, "--metadata-file", "metadata"];
        let context = env.context();
        let context = context.to_str().expect("a temporary path is text");
        let outcome = env.run(&[&common[..], options, &[context]].concat());
        let metadata = fs::read_to_string(env.path("metadata")).unwrap_or_default();
        (outcome.success(), metadata)
    };
    let (new, old) = (env.path("new"), env.path("old"));
    let (new, old) = (new.to_str().unwrap(), old.to_str().unwrap());
    env.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    build(old, &[]);
    env.dockerfile("FROM scratch\nCOPY --exclude=none src /src\n");
    let (_, first) = build(new, &[]);
    assert!(first.contains("containerimage.digest"), "{first}");
    assert_eq!(build(old, &[]).1, first);
    assert_eq!(build(old, &["--no-cache"]).1, first);
    for root in [new, old] {
        build(root, &["--progress=plain"]).0.says("#2 CACHED");
    }
}

/// What is wrong with the sources is told as when the key is made first.
#[test]
fn a_file_that_cannot_be_read_is_named_by_its_place_in_the_context() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root starts a program as another user");
        return;
    }
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY src /app\n");
    env.file("src/secret", "text");
    env.open_to_others();
    fs::set_permissions(
        env.path("context/src/secret"),
        std::os::unix::fs::PermissionsExt::from_mode(0o0),
    )
    .unwrap();
    let context = env.context();
    let context = context.to_str().expect("a temporary path is text");
    let args = ["build", "--progress=plain", "-o", "type=cacheonly", context];
    let outcome = env.outcome(&mut env.as_user((1234, 1234), &args));
    outcome
        .exits(1)
        .says(&format!(
            "cannot read `{}/src/secret`",
            env.context().display()
        ))
        .says("Permission denied")
        .says("COPY src /app");
}
