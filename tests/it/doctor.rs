//! What `rbuild doctor` says holds: a build does as it says.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::fs;

use serde_json::Value;

use super::support::{Outcome, TestEnv};

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
    env.open_to_others();
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
    let said = agree(|args| env.outcome(&mut env.as_user((54321, 54321), args)));
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
