//! A context that has not changed is not read again.

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
fn an_unchanged_context_is_not_read_and_what_changed_is() {
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
    assert!(first.len() >= count(), "{} files were read", first.len());
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
