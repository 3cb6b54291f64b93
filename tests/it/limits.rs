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
