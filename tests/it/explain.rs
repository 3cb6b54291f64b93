//! Why steps run: whole builds, each change with the reason that is told for it.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use serde_json::{Value, json};

use super::support::{Outcome, TestEnv};

/// A context whose first stage takes every file below `src` and whose second one builds on what comes out.
const DOCKERFILE: &str = "\
FROM base AS build
ARG USED=1
ARG UNUSED=1
COPY src /src
RUN --mount=type=bind,source=tool,target=/tool cat /src/a /tool/t > /out
FROM base
COPY --from=build /out /out
RUN echo done > /done
";

const STEPS: [&str; 4] = [
    "[build 1/3] COPY src /src",
    "[build 2/3] RUN --mount=type=bind,source=tool,target=/tool cat /src/a /tool/t > /out",
    "[stage-1 1/3] COPY --from=build /out /out",
    "[stage-1 2/3] RUN echo done > /done",
];

struct Setup {
    env: TestEnv,
}

impl Setup {
    /// The context, built once; `None` where steps cannot run.
    fn built() -> Option<Self> {
        let env = TestEnv::new();
        env.dockerfile(DOCKERFILE)
            .file("src/a", "a\n")
            .file("src/b", "b\n")
            .file("tool/t", "t\n");
        std::os::unix::fs::symlink("a", env.context().join("src/link")).expect("a link");
        let setup = Self { env };
        let first = setup.run("build", &["--explain=json"]);
        if first.code == Some(3) && first.stderr.contains("RUN needs namespaces") {
            eprintln!("skipped: RUN steps are not possible here:\n{first}");
            return None;
        }
        let steps = told(&first.success());
        assert_eq!(results(&steps), ["executed"; 4]);
        assert!(steps.iter().all(|step| step["reason"] == "first"));
        assert_eq!(labels(&steps), STEPS);
        Some(setup)
    }

    fn run(&self, command: &str, args: &[&str]) -> Outcome {
        self.run_on(&TestEnv::base(), command, args)
    }

    fn run_on(&self, base: &Path, command: &str, args: &[&str]) -> Outcome {
        let context = self.env.context();
        let base = format!("base=oci-layout://{}", base.display());
        let mut all = vec![command, "--build-context", &base];
        all.extend(args);
        all.push(context.to_str().expect("a temporary path is text"));
        self.env.run(&all)
    }

    /// What a prediction says of each step, and then a build of the same.
    fn both(&self, args: &[&str]) -> (Vec<Value>, Vec<Value>) {
        let mut all = vec!["--format", "json"];
        all.extend(args);
        let predicted = told(&self.run("explain", &all).success());
        let mut all = vec!["--explain=json"];
        all.extend(args);
        (predicted, told(&self.run("build", &all).success()))
    }

    /// Every step is cached, as predicted.
    #[track_caller]
    fn hits(&self, args: &[&str], change: &str) {
        let (predicted, built) = self.both(args);
        assert_eq!(results(&predicted), ["cached"; 4], "predicted: {change}");
        assert_eq!(results(&built), ["cached"; 4], "{change}");
    }

    /// The step at `index` runs first, because of this cause, as predicted.
    #[track_caller]
    fn misses(&self, args: &[&str], index: usize, cause: &Value, change: &str) {
        let (predicted, built) = self.both(args);
        // Whoever runs may make what was there before.
        for (steps, wanted) in [
            (&predicted, &["will-run"][..]),
            (&built, &["executed", "unchanged"]),
        ] {
            assert_eq!(steps[index]["causes"], json!([cause]), "{change}");
            let results = results(steps);
            assert_eq!(results[..index], vec!["cached"; index], "{change}");
            assert!(wanted.contains(&results[index]), "{change}: {steps:?}");
        }
    }
}

fn told(outcome: &Outcome) -> Vec<Value> {
    let all: Value = serde_json::from_str(&outcome.stdout).expect("an explanation is JSON");
    assert_eq!(all["version"], 1);
    all["steps"].as_array().expect("steps").clone()
}

fn texts<'a>(steps: &'a [Value], field: &str) -> Vec<&'a str> {
    let text = |step: &'a Value| step[field].as_str().expect("a text");
    steps.iter().map(text).collect()
}

fn results(steps: &[Value]) -> Vec<&str> {
    texts(steps, "result")
}

fn labels(steps: &[Value]) -> Vec<&str> {
    texts(steps, "step")
}

fn files(added: &[&str], removed: &[&str], modified: &Value) -> Value {
    json!({
        "kind": "files", "from": "build context",
        "added": added, "removed": removed, "modified": modified, "omitted": 0,
    })
}

#[test]
fn what_does_not_matter_does_not_miss() {
    let Some(setup) = Setup::built() else { return };
    setup.hits(&[], "nothing");
    setup.hits(&["--build-arg", "UNDECLARED=1"], "an undeclared argument");
    setup.env.file("unrelated", "x");
    setup.hits(&[], "a file that no step reads");
    for (change, old, new) in [
        ("a comment", "COPY src", "# why\nCOPY src"),
        ("formatting", "ARG USED=1\n", "\n\narg   USED=1\n\n"),
        ("a label", "FROM base\n", "FROM base\nLABEL a=b\n"),
    ] {
        setup.env.dockerfile(&DOCKERFILE.replacen(old, new, 1));
        setup.hits(&[], change);
    }
    setup.env.dockerfile(DOCKERFILE);
    for path in ["src/a", "tool/t"] {
        let file = fs::File::options()
            .write(true)
            .open(setup.env.context().join(path))
            .expect("a file");
        file.set_modified(std::time::UNIX_EPOCH).expect("its time");
    }
    setup.hits(&[], "file times");
    let copy = setup.env.context().join("copy");
    fs::copy(setup.env.context().join("src/a"), &copy).expect("a copy");
    fs::rename(copy, setup.env.context().join("src/a")).expect("another inode");
    setup.hits(&[], "inode numbers");
}

#[test]
fn each_change_of_a_file_misses_and_is_named() {
    let Some(setup) = Setup::built() else { return };
    let path = |name: &str| setup.env.context().join(name);
    let modified = |name: &str, what: &str| json!([{"path": name, "what": [what]}]);

    setup.env.file("src/a", "A\n");
    let cause = files(&[], &[], &modified("src/a", "bytes"));
    setup.misses(&[], 0, &cause, "a byte");

    fs::set_permissions(path("src/b"), fs::Permissions::from_mode(0o755)).expect("a mode");
    let cause = files(
        &[],
        &[],
        &json!([{"path": "src/b", "what": ["mode"], "mode": ["0644", "0755"]}]),
    );
    setup.misses(&[], 0, &cause, "a mode");

    fs::remove_file(path("src/link")).expect("no link");
    std::os::unix::fs::symlink("b", path("src/link")).expect("a link");
    let cause = files(&[], &[], &modified("src/link", "other"));
    setup.misses(&[], 0, &cause, "a link's target");

    fs::rename(path("src/b"), path("src/c")).expect("another name");
    let cause = files(&["src/c"], &["src/b"], &json!([]));
    setup.misses(&[], 0, &cause, "a name");

    setup.env.file("tool/t", "T\n");
    let cause = files(&[], &[], &modified("tool/t", "bytes"));
    setup.misses(&[], 1, &cause, "a file of a mount");
}

#[test]
fn each_change_of_an_instruction_misses_and_is_named() {
    let Some(setup) = Setup::built() else { return };
    let with = |old: &str, new: &str| {
        setup.env.dockerfile(&DOCKERFILE.replacen(old, new, 1));
    };
    let instruction = |before: &str, after: &str| json!({"kind": "instruction", "before": before, "after": after});

    with("COPY src /src", "COPY --chmod=700 src /src");
    let cause = instruction("COPY src /src", "COPY --chmod=700 src /src");
    setup.misses(&[], 0, &cause, "--chmod");
    with("COPY src /src", "COPY --chown=1:2 src /src");
    let (_, built) = setup.both(&[]);
    let causes = built[0]["causes"].as_array().expect("causes");
    let owner = json!({"kind": "setting", "name": "owner", "after": "1:2"});
    assert!(causes.contains(&owner), "an owner: {causes:?}");
    with("echo done", "echo ready");
    setup.misses(
        &[],
        3,
        &instruction("RUN echo done > /done", "RUN echo ready > /done"),
        "a command",
    );
    let variable = |name: &str, origin: &str, before: Option<&str>, after: &str| {
        let mut cause = json!({"kind": "variable", "name": name, "origin": origin});
        if let Some(before) = before {
            cause["before"] = before.into();
        }
        cause["after"] = after.into();
        cause
    };
    setup.env.dockerfile(DOCKERFILE);
    setup.misses(
        &["--build-arg", "USED=2"],
        1,
        &variable("USED", "arg", Some("1"), "2"),
        "an argument in effect",
    );
    with("FROM base\n", "FROM base\nENV E=1\n");
    setup.misses(&[], 3, &variable("E", "env", None, "1"), "a variable");
    with("FROM base\n", "FROM base\nUSER 0\n");
    let user = json!({"kind": "setting", "name": "user", "before": "", "after": "0"});
    let (_, built) = setup.both(&[]);
    let causes = built[3]["causes"].as_array().expect("causes");
    assert!(causes.contains(&user), "the user: {causes:?}");
    with("RUN echo done", "RUN true\nRUN echo done");
    let (_, built) = setup.both(&[]);
    assert_eq!(results(&built)[4], "unchanged");
    assert_eq!(
        built[4]["causes"][0],
        json!({"kind": "earlier-step", "step": "[stage-1 2/4] RUN true"}),
        "a step put in between"
    );
}

#[test]
fn a_base_that_moved_is_named_with_both_digests() {
    let Some(setup) = Setup::built() else { return };
    let old = setup.env.path("moved");
    let dest = format!("type=oci,tar=false,dest={}", old.display());
    let other = TestEnv::new();
    other.dockerfile("FROM base\nCOPY f /f\n").file("f", "f");
    let base = TestEnv::base_context();
    other
        .build(&["--build-context", &base, "-t", "moved", "-o", &dest])
        .success();
    let built = told(&setup.run_on(&old, "build", &["--explain=json"]).success());
    for step in [0, 1, 3] {
        let cause = &built[step]["causes"][0];
        if step == 3 && built[step]["result"] == "cached" {
            continue;
        }
        assert_eq!(cause["kind"], "base-moved", "{built:?}");
        assert_eq!(cause["image"], "base");
        for digest in ["before", "after"] {
            let digest = cause[digest].as_str().expect("a digest");
            assert!(digest.starts_with("sha256:"), "{digest}");
        }
        assert_ne!(cause["before"], cause["after"]);
    }
}

#[test]
fn options_that_disable_the_cache_are_told() {
    let Some(setup) = Setup::built() else { return };
    let (predicted, built) = setup.both(&["--no-cache-filter", "build"]);
    assert_eq!(results(&predicted)[..2], ["will-run", "will-run"]);
    assert_eq!(texts(&predicted[..2], "reason"), ["disabled"; 2]);
    assert_eq!(texts(&built[..2], "reason"), ["disabled"; 2]);
    assert_eq!(
        results(&built)[2..],
        ["cached", "cached"],
        "the other stage gets equal files"
    );
    let (predicted, built) = setup.both(&["--no-cache"]);
    assert_eq!(results(&predicted), ["will-run"; 4]);
    assert_eq!(texts(&predicted, "reason"), ["disabled"; 4]);
    assert_eq!(texts(&built, "reason"), ["disabled"; 4]);
}

#[test]
fn a_result_that_was_removed_is_told() {
    let Some(setup) = Setup::built() else { return };
    let steps = setup.env.path("root/steps");
    for shard in fs::read_dir(&steps).expect("records") {
        let shard = shard.expect("an entry").path();
        if !shard.ends_with("at") && !shard.ends_with("files") {
            fs::remove_dir_all(shard).expect("records can be removed");
        }
    }
    let predicted = told(&setup.run("explain", &["--format=json"]).success());
    assert_eq!(results(&predicted)[0], "will-run");
    assert_eq!(predicted[0]["reason"], "evicted");
}

#[test]
fn an_equal_result_keeps_the_layer_and_all_that_follows() {
    let Some(setup) = Setup::built() else { return };
    let image = setup.run("build", &["-t", "app:1", "-q"]).success().stdout;
    setup.env.file("src/new", "read by nobody\n");
    let (predicted, built) = setup.both(&["-t", "app:2"]);
    assert_eq!(
        results(&predicted),
        ["will-run", "may-run", "may-run", "may-run"]
    );
    assert_eq!(predicted[1]["after"], STEPS[0]);
    assert_eq!(
        results(&built),
        ["executed", "unchanged", "cached", "cached"]
    );
    let again = setup.run("build", &["-q"]).success().stdout;
    assert_eq!(image, again, "the image is the same");
}

#[test]
fn every_form_of_progress_tells() {
    let Some(setup) = Setup::built() else { return };
    let mut n = 0;
    let mut build = |args: &[&str]| {
        n += 1;
        setup.env.file("tool/t", &format!("{n}\n"));
        setup.run("build", args).success()
    };
    build(&["--explain", "--progress=plain"])
        .says("] RUN --mount=type=bind,source=tool,target=/tool cat /src/a /tool/t > /out\n")
        .says(" EXPLAIN modified in build context: tool/t\n");
    build(&["--explain", "--progress=quiet"]).says("  - modified in build context: tool/t\n");
    let raw = build(&["--explain", "--progress=rawjson"]);
    let reasons: Vec<Value> = raw
        .stderr
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"))
        .filter_map(|line| line["explanations"][0]["reason"].as_object().cloned())
        .map(Value::Object)
        .collect();
    assert_eq!(reasons[0]["causes"][0]["modified"][0]["path"], "tool/t");
    let silent = build(&["--progress=plain"]);
    assert!(!silent.stderr.contains("EXPLAIN"), "{silent}");
}

#[test]
fn explaining_runs_nothing_and_tells_of_a_failed_build_too() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY a /a\nCOPY --chown=nobody a /b\nRUN [\"/missing\"]\n")
        .file("a", "a");
    let context = env.context();
    let context = context.to_str().expect("text");
    for _ in 0..2 {
        env.run(&["explain", context])
            .success()
            .prints("[1/3] COPY a /a\n  will run\n  - no earlier result of this step is known\n")
            .prints("[3/3] RUN [\"/missing\"]\n  will run\n")
            .prints("2 will run, 1 may run\n");
    }
    let failed = env.build(&["--explain=json"]);
    assert_ne!(failed.code, Some(0), "{failed}");
    let steps = told(&failed);
    assert_eq!(
        results(&steps),
        ["executed", "executed", "failed"],
        "{failed}"
    );
    env.run(&["explain", "--check", context])
        .exits(2)
        .says("`rbuild explain` explains builds");
    env.build(&["-q", "--explain=json"])
        .exits(2)
        .says("--explain=json prints on standard output");
}
