//! What `rbuild doctor` says holds: a build does as it says.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use serde_json::Value;

use super::support::{Outcome, TestEnv};

/// The program as another user, in an environment that this user may read and write.
fn as_user(env: &TestEnv, id: u32, args: &[&str]) -> Outcome {
    let inner = env.command(args);
    let mut command = Command::new("setpriv");
    command
        .args([format!("--reuid={id}"), format!("--regid={id}")])
        .arg("--clear-groups")
        .arg(env.path("rbuild"))
        .args(args)
        .current_dir(env.path(""))
        .env_clear();
    for (key, value) in inner.get_envs() {
        if let Some(value) = value {
            command.env(key, value);
        }
    }
    env.outcome(&mut command)
}

fn open_to_all(env: &TestEnv) {
    fs::copy(env!("CARGO_BIN_EXE_rbuild"), env.path("rbuild")).expect("a copy");
    fs::set_permissions(env.path(""), fs::Permissions::from_mode(0o777)).expect("a mode");
}

/// Asks what steps can be, and tries one.
fn agree(ask: impl Fn(&[&str]) -> Outcome) -> Value {
    let outcome = ask(&["doctor", "--json"]).success();
    let said: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    let built = ask(&[
        "--progress=plain",
        "--build-context",
        "base=oci-layout://base",
        "context",
    ]);
    if said["isolation"].is_null() {
        assert_eq!(built.code, Some(3), "{built}");
        assert_ne!(said["advice"], Value::Array(Vec::new()), "{said}");
    } else {
        drop(built.success());
    }
    said
}

fn environment() -> TestEnv {
    let env = TestEnv::new();
    env.dockerfile("FROM base\nRUN true\n");
    // Another user may not reach the place of the project.
    let copied = Command::new("cp")
        .arg("-r")
        .args([TestEnv::base(), env.path("base")])
        .status();
    assert!(copied.expect("cp starts").success());
    env
}

#[test]
fn doctor_promises_what_a_build_keeps() {
    let env = environment();
    let said = agree(|args| env.run(args));
    let probes = said["probes"].as_array().expect("a list");
    assert!(probes.iter().any(|probe| probe["works"] == true), "{said}");
}

#[test]
fn doctor_promises_an_ordinary_user_what_a_build_keeps() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let env = environment();
    open_to_all(&env);
    let said = agree(|args| as_user(&env, 54321, args));
    assert_eq!(said["process"]["uid"], 54321);
    if said["isolation"] == "userns" {
        // Nobody gave that user ids.
        assert_eq!(said["ids"], "one");
        let advice = said["advice"][0]["change"].as_str().expect("a text");
        assert!(advice.contains("--add-subuids"), "{advice}");
    }
}

#[test]
fn doctor_leaves_nothing_behind_and_makes_no_store() {
    let env = environment();
    let before = fs::read_dir(env.path("")).expect("a directory").count();
    let text = env.run(&["doctor"]).success().stdout;
    assert!(text.starts_with("isolation   "), "{text}");
    assert!(text.contains("write to the store"), "{text}");
    assert!(!env.path("root").try_exists().expect("an answer"));
    assert_eq!(
        fs::read_dir(env.path("")).expect("a directory").count(),
        before
    );
}
