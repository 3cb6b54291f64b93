//! `rbuild cache`: what it says, what it removes, what it never removes, and what it repairs.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

mod damage;
mod full_disk;
mod other_kinds;
mod storm;
mod transfer;

use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use super::support::{Outcome, TestEnv};

/// Longer than two steps of the clock that files get their times from.
const TICKS: Duration = Duration::from_millis(30);

/// Runs a command once all earlier uses are in the past.
fn later(env: &TestEnv, args: &[&str]) -> Outcome {
    std::thread::sleep(TICKS);
    env.run(args)
}

fn files() -> TestEnv {
    let env = TestEnv::new();
    env.dockerfile("FROM base AS one\nCOPY a /a\nCOPY b /b\nFROM scratch\nCOPY --from=one /a /\nLABEL mark=unmistakable\n");
    env.file("a", "A").file("b", "B");
    env
}

fn hits(outcome: &Outcome) -> usize {
    outcome
        .stderr
        .lines()
        .filter(|line| line.ends_with(" CACHED"))
        .count()
}

#[test]
fn a_dry_run_says_what_the_run_does() {
    let env = files();
    env.build_on_base(&["-t", "app"]).success();
    let said = later(&env, &["cache", "prune", "--dry-run"]).success();
    assert!(said.stdout.contains("COPY b /b"), "{said}");
    assert!(!said.stdout.contains("COPY --from=one"), "{said}");
    let again = env.run(&["cache", "prune", "-n"]).success();
    assert_eq!(again.stdout, said.stdout, "a dry run removed something");
    let done = env.run(&["cache", "prune"]).success();
    assert_eq!(done.stdout, said.stdout);
    let empty = env.run(&["cache", "prune"]).success();
    assert_eq!(empty.stdout, "total: 0B\n");
    env.run(&["cache", "verify"]).success();
    env.build_on_base(&["-t", "app"]).success();
}

#[test]
fn what_a_named_image_needs_stays() {
    let env = files();
    env.build_on_base(&["-t", "app"]).success();
    later(&env, &["cache", "prune", "--all"]).success();
    let list = env.run(&["cache", "ls", "--format=json"]).success();
    let list: serde_json::Value = serde_json::from_str(&list.stdout).expect("JSON");
    let left = list.as_array().expect("a list");
    assert!(!left.is_empty());
    assert!(
        left.iter()
            .all(|item| item["shared"] == true && item["type"] == "blob"),
        "{left:#?}"
    );
    env.run(&["save", "app", "-o", "app.tar"]).success();
    env.run(&["rmi", "app"]).success();
    later(&env, &["cache", "prune"]).success();
    let list = env.run(&["cache", "ls", "--format=json"]).success();
    assert_eq!(list.stdout.trim(), "[]");
}

#[test]
fn lists_and_sums_name_the_steps() {
    let env = files();
    env.build_on_base(&["-t", "app"]).success();
    let list = later(
        &env,
        &["cache", "ls", "--no-trunc", "--filter", "type=step"],
    )
    .success();
    for step in ["COPY a /a", "COPY b /b", "COPY --from=one /a /"] {
        assert!(list.stdout.contains(step), "{list}");
    }
    let sums = env.run(&["cache", "du", "--format", "json"]).success();
    let sums: serde_json::Value = serde_json::from_str(&sums.stdout).expect("JSON");
    let kinds = &sums["kinds"];
    assert!(kinds["blobs"]["images"].as_u64() > Some(0), "{sums}");
    assert!(kinds["records"]["reclaimable"].as_u64() > Some(0), "{sums}");
    env.run(&["cache", "du"]).success().prints("RECLAIMABLE");
}

/// The names of steps in progress, `[one 2/4] COPY a /a`.
fn steps_of(outcome: &Outcome) -> Vec<&str> {
    let lines = outcome.stderr.lines();
    let names = lines.filter_map(|line| line.strip_prefix('#')?.split_once(' '));
    let mut names: Vec<&str> = names
        .map(|(_, name)| name)
        .filter(|name| name.starts_with('[') && !name.contains("FROM "))
        .filter(|name| !name.starts_with("[internal]"))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[test]
fn lists_call_steps_what_progress_calls_them_now() {
    let env = files();
    let first = env.build_on_base(&[]).success();
    let list = |env: &TestEnv| {
        let args = ["cache", "ls", "--no-trunc", "--filter=type=step"];
        env.run(&args).success().stdout
    };
    let steps = steps_of(&first);
    assert_eq!(steps.len(), 3, "{first}");
    let listed = list(&env);
    assert!(steps.iter().all(|step| listed.contains(step)), "{listed}");
    // One more step in front of the others: numbers move, layers stay.
    env.dockerfile(
        "FROM base AS one\nCOPY a /a\nCOPY b /b\nCOPY a /c\nFROM scratch\nCOPY --from=one /a /\n",
    );
    let second = env.build_on_base(&[]).success();
    assert_eq!(hits(&second), 3, "{second}");
    let now = steps_of(&second);
    let listed = list(&env);
    assert!(now.iter().all(|step| listed.contains(step)), "{listed}");
    let old = steps.iter().find(|step| !now.contains(step));
    let old = old.expect("the first one has another name now");
    assert!(!listed.contains(old), "{listed}");
}

#[test]
fn what_is_known_of_states_is_listed_as_that_and_records_go_with_their_steps() {
    let env = files();
    env.build_on_base(&["-t", "app"]).success();
    let kinds = |env: &TestEnv| {
        let list = env.run(&["cache", "ls", "--format=json"]).success();
        let list: Vec<serde_json::Value> = serde_json::from_str(&list.stdout).expect("JSON");
        let kinds = list.iter().map(|item| item["type"].to_string());
        kinds.collect::<std::collections::BTreeSet<_>>()
    };
    let all = kinds(&env);
    assert!(all.contains("\"fact\""), "{all:?}");
    assert!(!all.contains("\"position\""), "a step is there: {all:?}");
    assert!(!all.contains("\"temporary\""), "{all:?}");
    let gone = later(&env, &["cache", "prune", "--filter=type=fact"]).success();
    assert!(gone.stdout.starts_with("fact "), "{gone}");
    assert!(!kinds(&env).contains("\"fact\""));
    let again = env.build_on_base(&["-t", "app"]).success();
    assert_eq!(hits(&again), 3, "{again}");
    env.run(&["cache", "verify"]).success();
}

#[test]
fn prune_spares_what_a_running_build_uses() {
    let env = files();
    env.build_on_base(&["-t", "kept"]).success();
    let gate = "--mount=type=cache,id=gate,target=/gate";
    env.file(
        "Dockerfile.slow",
        &format!(
            "FROM base AS one\nCOPY a /used\nRUN {gate} touch /gate/begun; until [ -e /gate/go ]; do sleep 0.02; done; mv /used /moved\nFROM scratch\nCOPY --from=one /moved /moved\n"
        ),
    );
    let base = TestEnv::base_context();
    let args = [
        "build",
        "--build-context",
        &base,
        "-t",
        "slow",
        "-f",
        "context/Dockerfile.slow",
        "context",
    ];
    let mut child = env
        .command(&args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let begun = Instant::now();
    let dir = loop {
        let mounts = fs::read_dir(env.path("root/mounts")).expect("a store");
        let mut dirs = mounts.map(|mount| mount.expect("an entry").path().join("0"));
        if let Some(dir) = dirs.find(|dir| dir.join("begun").is_file()) {
            break dir;
        }
        let ended = child.try_wait().expect("a status").is_some();
        if ended || begun.elapsed() > Duration::from_mins(1) {
            eprintln!("skipped: no step can be run here, or its mount is not seen");
            child.kill().ok();
            child.wait().ok();
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    for args in [
        &["cache", "prune", "--all"][..],
        &["cache", "prune", "--all", "--min-free-space=900000g"],
        &["cache", "prune", "--all", "--max-used-space=0"],
    ] {
        let pruned = later(&env, args).success();
        for used in ["COPY a /used", "cache mount gate"] {
            assert!(!pruned.stdout.contains(used), "{pruned}");
        }
    }
    let list = env.run(&["cache", "ls", "--no-trunc"]).success();
    for used in ["COPY a /used", "cache mount gate"] {
        let line = list.stdout.lines().find(|line| line.contains(used));
        assert!(
            line.is_some_and(|line| line.contains(" build ")),
            "{used}: {list}"
        );
    }
    fs::write(dir.join("go"), "").expect("written");
    assert!(child.wait().expect("a status").success(), "the build");
    env.run(&["cache", "verify"]).success();
    for image in ["kept", "slow"] {
        env.run(&["save", image, "-o", "image.tar"]).success();
    }
    let mut again = args.to_vec();
    again.insert(1, "--progress=plain");
    let again = env.run(&again).success();
    assert_eq!(hits(&again), 3, "{again}");
}

#[test]
fn free_space_that_cannot_be_had_takes_all_that_may_go() {
    let env = files();
    env.build_on_base(&["-t", "app"]).success();
    let said = later(&env, &["cache", "prune", "-n", "--min-free-space=900000g"]).success();
    assert!(said.stdout.contains("COPY b /b"), "{said}");
    let done = env
        .run(&["cache", "prune", "--min-free-space=900000g"])
        .success();
    assert_eq!(done.stdout, said.stdout);
    let rest = env.run(&["cache", "prune"]).success();
    assert_eq!(rest.stdout, "total: 0B\n");
    let kept = env
        .run(&[
            "cache",
            "prune",
            "-a",
            "--min-free-space=900000g",
            "--reserved-space=900000g",
        ])
        .success();
    assert_eq!(kept.stdout, "total: 0B\n");
    env.run(&["save", "app", "-o", "app.tar"]).success();
}

#[test]
fn age_and_size_decide_what_goes() {
    let env = files();
    env.build_on_base(&["-t", "app"]).success();
    let young = later(&env, &["cache", "prune", "--filter", "until=1h"]).success();
    assert_eq!(young.stdout, "total: 0B\n");
    let small = env
        .run(&["cache", "prune", "--max-used-space=1g"])
        .success();
    assert_eq!(small.stdout, "total: 0B\n");
    let free = env.run(&["cache", "prune", "--min-free-space=1"]).success();
    assert_eq!(free.stdout, "total: 0B\n");
    let kept = env.run(&["cache", "prune", "--keep-storage=1g"]).success();
    assert_eq!(kept.stdout, "total: 0B\n");
    let gone = env
        .run(&["cache", "prune", "-a", "--max-used-space=0"])
        .success();
    assert!(gone.stdout.contains("COPY --from=one"), "{gone}");
    env.run(&["cache", "prune", "--filter", "id=x"])
        .exits(2)
        .says("unknown filter `id`");
}

#[test]
fn a_budget_is_kept_after_the_build_and_spares_what_it_used() {
    let mut env = files();
    for content in ["first", "second"] {
        env.file("b", content);
        env.build_on_base(&[]).success();
    }
    env.file("b", "third");
    std::thread::sleep(TICKS);
    env.var("RBUILD_CACHE_BUDGET", "1");
    env.build_on_base(&[]).success();
    let list = env
        .run(&["cache", "ls", "--no-trunc", "--filter=type=step"])
        .success();
    let steps = |text: &str| list.stdout.matches(text).count();
    assert_eq!(steps("COPY a /a"), 1, "{list}");
    // The second one was read, to take over what is the same.
    assert!((1..3).contains(&steps("COPY b /b")), "{list}");
    let again = env.build_on_base(&[]).success();
    assert_eq!(hits(&again), 3, "{again}");
    env.build_on_base(&["--cache-budget=nonsense"]).exits(2);
    env.var("RBUILD_CACHE_BUDGET", "nonsense");
    env.build_on_base(&[]).exits(2).says("$RBUILD_CACHE_BUDGET");
}

#[test]
fn foreign_newer_and_broken_stores_are_left_alone() {
    let env = TestEnv::new();
    let store = env.path("root");
    let dirs = |root: &PathBuf| {
        let mut names: Vec<_> = fs::read_dir(root)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        names
    };
    fs::create_dir(&store).expect("made");
    fs::write(store.join("thesis.txt"), "x").expect("written");
    for command in [&["cache", "prune"][..], &["cache", "verify"], &["images"]] {
        let outcome = env.run(command).exits(3);
        outcome
            .says("is not a store: it holds `thesis.txt`")
            .says("--root");
    }
    env.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    env.build(&["-t", "app"])
        .exits(3)
        .says("is not a store: it holds `thesis.txt`");
    assert_eq!(dirs(&store), ["thesis.txt"]);
    fs::remove_file(store.join("thesis.txt")).expect("removed");
    fs::remove_dir(&store).expect("removed");
    fs::write(&store, "a file").expect("written");
    env.build(&["-t", "app"])
        .exits(3)
        .says("root` is not a directory")
        .says("--root");
    assert_eq!(fs::read_to_string(&store).expect("untouched"), "a file");
    fs::remove_file(&store).expect("removed");

    env.run(&["images"]).success();
    let before = dirs(&store);
    fs::write(store.join("rbuild.json"), r#"{"format":99}"#).expect("written");
    for command in [&["cache", "prune", "--all"][..], &["cache", "import", "."]] {
        env.run(command)
            .exits(3)
            .says("has format 99, newer than 1")
            .says("hint:");
    }
    env.build(&["-t", "app"]).exits(3).says("has format 99");
    fs::write(store.join("rbuild.json"), r#"{"for"#).expect("written");
    env.run(&["cache", "prune"])
        .exits(3)
        .says("rbuild.json` is damaged")
        .says("hint:");
    assert_eq!(dirs(&store), before);
    // What the hint says helps.
    fs::remove_file(store.join("rbuild.json")).expect("removed");
    env.run(&["cache", "verify"]).success();
}

#[test]
fn steps_run_in_a_store_whose_name_is_relative() {
    let env = TestEnv::new();
    env.dockerfile("FROM base\nRUN echo one > /file\n");
    if env.build_on_base(&[]).code == Some(3) {
        eprintln!("skipped: no step can be run here");
        return;
    }
    let base = TestEnv::base_context();
    let args = [
        "--root",
        "other",
        "build",
        "--build-context",
        &base,
        "context",
    ];
    env.run(&args).success();
    env.run(&["--root", "./other/", "cache", "verify"])
        .success();
}

#[test]
fn directories_that_a_copy_of_a_store_has_lost_are_made_again() {
    let env = files();
    env.build_on_base(&["-t", "app"]).success();
    for dir in ["locks", "tmp", "mounts", "snapshots", "stat"] {
        fs::remove_dir_all(env.path("root").join(dir)).expect("removed");
    }
    env.run(&["cache", "ls"]).success();
    env.run(&["cache", "verify"]).success();
    let again = env.build_on_base(&["-t", "app"]).success();
    assert_eq!(hits(&again), 3, "{again}");
    fs::remove_dir_all(env.path("root/blobs")).expect("removed");
    env.run(&["cache", "verify"]).exits(3).prints("app:latest");
    env.build_on_base(&["-t", "app"]).success();
    env.run(&["save", "app", "-o", "app.tar"]).success();
}
