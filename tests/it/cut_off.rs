//! A step that runs again and makes what it made before keeps its earlier layer, and what builds on it stays cached.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::{fs, os::unix::fs::MetadataExt as _};

use super::support::{FakeRegistry, Outcome, TestEnv};

/// Builds as a user without `SOURCE_DATE_EPOCH` does: files have the time of writing.
fn build(env: &TestEnv, more: &[&str]) -> Outcome {
    let base = TestEnv::base_context();
    let mut args = vec![
        "build",
        "--progress=plain",
        "--explain",
        "--build-context",
        &base,
    ];
    args.extend(more);
    args.push("context");
    env.outcome(env.command(&args).env_remove("SOURCE_DATE_EPOCH"))
}

/// The outcome of a first build; `None` where no step can be run.
fn first(env: &TestEnv, more: &[&str]) -> Option<Outcome> {
    let first = build(env, more);
    if first.code == Some(3) && first.stderr.contains("RUN needs namespaces") {
        eprintln!("skipped: no step can be run here:\n{first}");
        return None;
    }
    Some(first.success())
}

/// The diffIDs of the image `app`.
fn layers(env: &TestEnv) -> Vec<String> {
    let inspected = env.run(&["inspect", "app"]).success();
    let ids = inspected
        .stdout
        .split("\"diff_ids\"")
        .nth(1)
        .expect("a config");
    let ids = ids.split(']').next().expect("a list");
    ids.split('"')
        .filter(|text| text.starts_with("sha256:"))
        .map(ToOwned::to_owned)
        .collect()
}

#[test]
fn another_instruction_with_an_equal_result_keeps_the_layer() {
    let env = TestEnv::new();
    let text = |argument: &str, run: &str| {
        format!("FROM base\nARG A=1\nENV {argument}\nRUN {run}\nRUN cat /f /f >/g\nCOPY a /a\n")
    };
    env.file("a", "a").dockerfile(&text("B=1", "echo same >/f"));
    if first(&env, &["-t", "app"]).is_none() {
        return;
    }
    let before = layers(&env);
    // Each from the one before; what follows has the same environment but for `B`.
    for (what, dockerfile, more) in [
        ("an argument", text("B=1", "echo same >/f"), "A=2"),
        ("the instruction", text("B=1", "echo 'same' > /f"), "A=2"),
        ("a heredoc", text("B=1", "<<E\necho same >/f\nE"), "A=2"),
    ] {
        env.dockerfile(&dockerfile);
        let again = build(&env, &["-t", "app", "--build-arg", more]).success();
        let again = again.says("it made what it had made before");
        assert_eq!(layers(&env), before, "{what}: {again}");
    }
    // `B` is seen by the next step as well: both run, both keep.
    env.dockerfile(&text("B=2", "<<E\necho same >/f\nE"));
    let again = build(&env, &["-t", "app", "--build-arg", "A=2"]).success();
    assert_eq!(layers(&env), before, "{again}");
    assert!(again.stderr.contains("CACHED"), "the copy: {again}");
    // Something else is something else.
    env.dockerfile(&text("B=2", "echo other >/f"));
    let again = build(&env, &["-t", "app", "--build-arg", "A=2"]).success();
    assert_ne!(layers(&env), before, "{again}");
}

#[test]
fn times_that_an_instruction_sets_count() {
    let env = TestEnv::new();
    let text = |day: u32| {
        format!("FROM base\nRUN echo x >/f; touch -d '2001-01-0{day} 00:00:00' /f; echo y >/h\n")
    };
    env.dockerfile(&text(1));
    if first(&env, &["-o", "one"]).is_none() {
        return;
    }
    env.dockerfile(&text(2));
    build(&env, &["-o", "two"]).success();
    let time = |path: &str| fs::metadata(env.path(path)).expect("a file").mtime();
    assert_eq!(time("two/f") - time("one/f"), 24 * 60 * 60);
}

#[test]
fn a_push_after_it_moves_nothing() {
    let env = TestEnv::new();
    let fake = FakeRegistry::start();
    let name = format!("{}/app:v1", fake.host());
    let text = |from: &str| {
        format!(
            "FROM base AS a\nRUN echo {from} >/seed\nRUN rm /seed; echo same >/f\nFROM base\nCOPY --from=a /f /f\nRUN cat /f >/g\n"
        )
    };
    env.dockerfile(&text("one"));
    if first(&env, &["--push", "-t", &name]).is_none() {
        return;
    }
    env.dockerfile(&text("two"));
    fake.clear_log();
    let again = build(&env, &["--push", "-t", &name]).success();
    let uploads: Vec<String> = fake
        .lines()
        .into_iter()
        .filter(|line| {
            ["POST ", "PATCH ", "PUT /v2/app/blobs"]
                .iter()
                .any(|begin| line.starts_with(begin))
        })
        .collect();
    assert!(uploads.is_empty(), "{uploads:?} {again}");
    assert_eq!(
        again.stderr.matches(" CACHED").count(),
        2,
        "the last two steps: {again}"
    );
}

#[test]
fn a_base_that_moved_is_used_with_pull_alone() {
    let env = TestEnv::new();
    let fake = FakeRegistry::start();
    let base = format!("{}/lib/base:1", fake.host());
    let publish = |text: &str| {
        env.file("content", text)
            .dockerfile("FROM scratch\nCOPY content /\n");
        let args = [
            "--root",
            "publisher",
            "build",
            "--push",
            "-t",
            &base,
            "--metadata-file",
            "m",
            "context",
        ];
        env.run(&args).success();
        let text = fs::read_to_string(env.path("m")).expect("a file");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        value["containerimage.digest"]
            .as_str()
            .expect("a digest")
            .to_owned()
    };
    let old = publish("old");
    env.run(&["warm", &base]).success();
    env.file("a", "a");
    let app = format!("FROM {base}\nCOPY a /a\n");
    env.dockerfile(&app);
    build(&env, &["-o", "out"]).success();
    let new = publish("new");
    env.dockerfile(&app);
    let same = build(&env, &["-o", "out"]).success();
    assert_eq!(
        fs::read_to_string(env.path("out/content")).expect("a file"),
        "old"
    );
    assert!(!same.stderr.contains("moved"), "{same}");
    let pulled = build(&env, &["-o", "out", "--pull"]).success();
    assert_eq!(
        fs::read_to_string(env.path("out/content")).expect("a file"),
        "new"
    );
    let short = |digest: &str| digest[7..19].to_owned();
    let said = pulled.stderr.lines().find(|line| line.contains("moved"));
    let said = said.unwrap_or_else(|| panic!("{pulled}"));
    assert!(
        said.contains(&base) && said.contains(&short(&old)) && said.contains(&short(&new)),
        "{said}"
    );
}

#[test]
fn no_cache_filter_runs_the_stages_it_names() {
    let env = TestEnv::new();
    env.file("a", "a").dockerfile(
        "FROM scratch AS one\nCOPY a /1\nFROM scratch AS Two\nCOPY a /2\nFROM scratch\nCOPY --from=one /1 /\nCOPY --from=two /2 /\n",
    );
    build(&env, &["-o", "out"]).success();
    let cached = |args: &[&str]| {
        let outcome = build(&env, &[args, &["-o", "out"]].concat()).success();
        outcome.stderr.matches(" CACHED").count()
    };
    assert_eq!(cached(&[]), 4);
    // What follows is cached still: the content is the same.
    assert_eq!(cached(&["--no-cache-filter", "two"]), 3);
    assert_eq!(cached(&["--no-cache-filter", "one,TWO"]), 2);
    assert_eq!(cached(&["--no-cache-filter", "other"]), 4);
    assert_eq!(cached(&["--no-cache"]), 0);
}
