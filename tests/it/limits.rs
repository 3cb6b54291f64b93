//! More than most builds have, and less than most machines give.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::fmt::Write as _;

use rustix::process::geteuid;

use super::support::TestEnv;

#[test]
fn a_step_runs_on_more_layers_than_the_kernel_stacks() {
    let env = TestEnv::new();
    let mut text = "FROM base\n".to_owned();
    for n in 0..600 {
        writeln!(text, "COPY file /d/f{n}").expect("a string grows");
    }
    text.push_str("RUN ls /d | wc -l >/count; rm /d/f3\nRUN ls /d | wc -l >>/count\n");
    env.file("file", "text").dockerfile(&text);
    let outcome = env.build(&["--build-context", &TestEnv::base_context(), "-o", "out"]);
    if outcome.code == Some(3) {
        eprintln!("skipped: no step can be run here:\n{outcome}");
        return;
    }
    drop(outcome.success());
    let count = std::fs::read_to_string(env.path("out/count")).expect("the steps have run");
    assert_eq!(count, "600\n599\n");
}

#[test]
fn more_stages_than_threads_are_built_and_no_threads_at_all_are_the_machines_fault() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root becomes a user of whom nothing else runs");
        return;
    }
    let env = TestEnv::new();
    let mut text = String::new();
    for n in 0..80 {
        let from = if n > 0 {
            format!("COPY --from=s{} /file /file\n", n - 1)
        } else {
            String::new()
        };
        writeln!(text, "FROM scratch AS s{n}\n{from}COPY file /file").expect("a string grows");
    }
    env.file("file", "text").dockerfile(&text);
    env.open_to_others();
    let context = env.context().display().to_string();
    let build = |limit: &str, uid: &str, root: &str| {
        let (uid, gid) = (format!("--reuid={uid}"), format!("--regid={uid}"));
        let starter = ["setpriv", &uid, &gid, "--clear-groups", "prlimit", limit];
        let args = [
            "build",
            "--progress=plain",
            "-o",
            "type=cacheonly",
            "--root",
            root,
            &context,
        ];
        env.outcome(&mut env.started_by(&starter, &args))
    };
    drop(build("--nproc=100", "54321", "one").success());
    build("--nproc=3", "54322", "two")
        .exits(3)
        .says("the system gives no more threads")
        .says("hint: allow more of them");
}

#[test]
fn the_variables_of_a_chain_of_stages_are_not_kept_for_each_of_them() {
    let env = TestEnv::new();
    let mut text = "FROM scratch AS s0\n".to_owned();
    let filler = "x".repeat(500);
    for n in 1..1000 {
        writeln!(text, "FROM s{} AS s{n}\nENV V{n}={filler}", n - 1).expect("a string grows");
    }
    env.dockerfile(&text);
    env.open_to_others();
    let root = env.path("store").display().to_string();
    let context = env.context().display().to_string();
    // What each stage has in its config, and in its environment, would be half a GB by itself.
    let starter = ["prlimit", "--data=400000000"];
    let args = ["build", "--progress=plain", "--root", &root, "-t", "it"];
    let args = [&args[..], &[&context]].concat();
    drop(env.outcome(&mut env.started_by(&starter, &args)).success());
    let image = env.run(&["inspect", "--root", &root, "it"]).success();
    drop(image.prints("V999=").prints("V1="));
}

#[test]
fn a_limit_on_the_size_of_files_is_told() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY large /\n");
    let bytes: Vec<u8> = (0..300_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes())
        .collect();
    std::fs::write(env.context().join("large"), bytes).expect("a file of the context");
    env.open_to_others();
    let context = env.context().display().to_string();
    let args = ["build", "--progress=plain", &context];
    env.outcome(&mut env.started_by(&["prlimit", "--fsize=100000"], &args))
        .exits(3)
        .says("File too large")
        .says("hint: allow larger files (`ulimit -f`)");
}

/// How many things of a kind a storm has; `RBUILD_TEST_STORM=50000` shows what takes time with their square.
fn storm() -> usize {
    let size = std::env::var("RBUILD_TEST_STORM").ok();
    size.and_then(|size| size.parse().ok()).unwrap_or(700)
}

#[test]
fn thousands_of_findings_are_told_and_errors_up_to_a_number() {
    let n = storm();
    let env = TestEnv::new();
    let mut text = "FROM scratch\n".to_owned();
    for i in 0..n {
        writeln!(text, "ARG VARIABLE{i}=1\nENV NAME{i}=$VARIABEL{i}").expect("a string grows");
    }
    env.dockerfile(&text);
    let checked = env.build(&["--check"]).exits(1);
    let warnings = checked.stdout.matches("warning: UndefinedVar").count();
    let helped = checked.stdout.matches("(did you mean $VARIABLE").count();
    assert_eq!((warnings, helped), (n, n.min(500)));

    env.dockerfile(&"RUNN x\n".repeat(n));
    let refused = env.build(&[]).exits(1);
    assert_eq!(refused.stderr.matches("did you mean RUN?").count(), 100);
    drop(refused.says(&format!("note: {} more errors are not shown", n - 100)));
}

#[test]
fn thousands_of_ignore_patterns_decide_as_one_by_one() {
    let n = storm();
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY . /\n");
    let mut patterns = String::from("*.dockerignore\n");
    for i in 0..n {
        let kind = ["f{}", "sub/f{}", "dir{}/sub*/x?", "!dir{}/**/keep"][i % 4];
        patterns.push_str(&kind.replace("{}", &i.to_string()));
        patterns.push('\n');
        env.file(&format!("f{i}"), "")
            .file(&format!("sub/f{i}"), "");
    }
    env.file("Dockerfile.dockerignore", &patterns);
    for file in ["dir2/sub1/x1", "dir2/sub1/x12", "dir3/a/keep"] {
        env.file(file, "");
    }
    drop(env.build(&["-o", "out"]).success());
    let there = |file: &str| env.path("out").join(file).try_exists().expect("a look");
    for i in 0..n {
        for (kind, file) in [(0, format!("f{i}")), (1, format!("sub/f{i}"))] {
            let wanted = i % 4 != kind;
            assert_eq!(there(&file), wanted, "{file}");
        }
    }
    assert!(!there("dir2/sub1/x1") && there("dir2/sub1/x12") && there("dir3/a/keep"));
}
