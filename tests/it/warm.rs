//! `rbuild warm`: what it has fetched is all that a build needs, though the registry is down by then.

use std::{fs, process::Child};

use super::support::{FakeRegistry, Outcome, TestEnv};

/// Builds the Dockerfile and pushes it.
fn publish(env: &TestEnv, dockerfile: &str, name: &str, more: &[&str]) {
    env.dockerfile(dockerfile);
    let base = TestEnv::base_context();
    let mut args = vec!["--root", "publisher", "build", "--build-context", &base];
    args.extend(["--push", "-t", name]);
    args.extend(more);
    args.push("context");
    env.run(&args).success();
}

fn on(env: &TestEnv, root: &str, args: &[&str]) -> Outcome {
    env.run(&[&["--root", root], args].concat())
}

fn build(env: &TestEnv, root: &str, more: &[&str]) -> Outcome {
    let mut args = vec!["build", "--progress=plain", "--registry-retries=0"];
    args.extend(more);
    args.push("context");
    on(env, root, &args)
}

#[test]
fn a_build_after_it_needs_no_registry() {
    let env = TestEnv::new();
    let fake = FakeRegistry::start();
    let name = |name: &str| format!("{}/{name}:1", fake.host());
    env.file("f", "f\n");
    for files in ["files", "triggered"] {
        publish(&env, "FROM scratch\nCOPY f /\n", &name(files), &[]);
    }
    publish(&env, "FROM base\n", &name("base"), &[]);
    let trigger = format!(
        "FROM base\nONBUILD COPY --from={} /f /t\n",
        name("triggered")
    );
    publish(&env, &trigger, &name("trigger"), &[]);
    // Named by an argument, by a copy, by a mount of a step that is not needed, by a trigger.
    env.dockerfile(&format!(
        "ARG BASE=nowhere.invalid/missing\nFROM ${{BASE}} AS a\nCOPY --from={files} /f /f\n\
         FROM scratch AS unused\nRUN --mount=from={files},target=/m true\n\
         FROM {trigger}\nCOPY --from=a /f /g\n",
        files = name("files"),
        trigger = name("trigger"),
    ));
    let arg = format!("BASE={}", name("base"));
    let options = ["-o", "out", "--build-arg", &arg];
    let warmed = on(
        &env,
        "warm",
        &["warm", "-f", "context/Dockerfile", "--build-arg", &arg],
    )
    .success();
    let lines: Vec<&str> = warmed.stdout.lines().collect();
    for image in ["base", "files", "trigger", "triggered"] {
        let beginning = format!("{}@sha256:", name(image));
        assert!(
            lines.iter().any(|line| line.starts_with(&beginning)),
            "{image}: {warmed}"
        );
    }
    assert_eq!(lines.len(), 4, "{warmed}");
    drop(fake);
    build(&env, "cold", &options).exits(4);
    let built = build(&env, "warm", &options).success();
    for file in ["t", "g"] {
        let text = fs::read_to_string(env.path("out").join(file));
        assert_eq!(text.expect("a file"), "f\n", "{built}");
    }
}

#[test]
fn a_name_leads_to_all_platforms_that_were_wanted() {
    let env = TestEnv::new();
    let fake = FakeRegistry::start();
    let name = format!("{}/multi:1", fake.host());
    let platforms = "linux/amd64,linux/arm64,linux/s390x";
    publish(
        &env,
        "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY Dockerfile /d\n",
        &name,
        &["--platform", platforms],
    );
    env.dockerfile(&format!("FROM {name}\nCOPY Dockerfile /e\n"));
    let warm = ["warm", "--platform", "linux/amd64,linux/arm64"];
    on(&env, "by-name", &[&warm[..], &[&name]].concat()).success();
    on(
        &env,
        "by-file",
        &[&warm[..], &["-f", "context/Dockerfile"]].concat(),
    )
    .success();
    drop(fake);
    for root in ["by-name", "by-file"] {
        for platform in ["linux/amd64", "linux/arm64", "linux/amd64,linux/arm64"] {
            build(&env, root, &["--platform", platform, "-t", "app"]).success();
        }
        let inspected = on(&env, root, &["inspect", "app"]).success();
        for arch in ["amd64", "arm64"] {
            assert!(
                inspected.stdout.contains(&format!("\"arch\": \"{arch}\"")),
                "{inspected}"
            );
        }
        build(&env, root, &["--platform", "linux/s390x", "-t", "app"])
            .exits(1)
            .says("has no image for linux/s390x");
        on(&env, root, &["cache", "verify"]).success();
    }
}

#[test]
fn a_cache_is_taken_in_with_its_layers() {
    let env = TestEnv::new();
    let fake = FakeRegistry::start();
    env.file("a", "a").file("b", "b");
    env.dockerfile(
        "FROM scratch AS one\nCOPY a /\nFROM scratch\nCOPY --from=one /a /c\nCOPY b /\n",
    );
    let cache = format!("{}/app:cache", fake.host());
    let to = format!("type=registry,ref={cache},mode=max");
    build(&env, "one", &["--cache-to", &to, "-o", "type=cacheonly"]).success();
    let none = format!("{}/app:none", fake.host());
    on(&env, "two", &["warm", "--cache-from", &none])
        .success()
        .says("there is no cache yet");
    on(&env, "two", &["warm", "--cache-from", &cache])
        .success()
        .says("3 steps and 3 layers are new");
    drop(fake);
    let built = build(&env, "two", &["-o", "out"]).success();
    assert_eq!(built.stderr.matches(" CACHED").count(), 3, "{built}");
    assert_eq!(fs::read_to_string(env.path("out/c")).expect("a file"), "a");
    // What cannot be had is no success.
    let retries = "--registry-retries=0";
    on(&env, "two", &["warm", retries, "--cache-from", &cache]).exits(4);
    on(&env, "two", &["warm"]).exits(2);
}

#[test]
fn many_at_a_time_share_a_store_with_builds() {
    let env = TestEnv::new();
    let fake = FakeRegistry::start();
    let names: Vec<String> = (0..4)
        .map(|n| format!("{}/base-{n}:1", fake.host()))
        .collect();
    for (n, name) in names.iter().enumerate() {
        let text = format!("FROM scratch\nCOPY f{n} /f\n");
        env.file(&format!("f{n}"), &n.to_string());
        publish(&env, &text, name, &[]);
    }
    let stages: Vec<String> = names
        .iter()
        .map(|name| format!("FROM {name}\nCOPY f0 /g\n"))
        .collect();
    env.dockerfile(&stages.concat());
    let start = |args: &[&str]| -> Child {
        let mut command = env.command(&[&["--root", "store"], args].concat());
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        command.spawn().expect("the program starts")
    };
    let mut children = Vec::new();
    for name in &names {
        children.push(start(&["warm", "-f", "context/Dockerfile"]));
        children.push(start(&["warm", name]));
        children.push(start(&[
            "build",
            "--progress=plain",
            "-o",
            "type=cacheonly",
            "context",
        ]));
    }
    for child in children {
        env.ended(child).success();
    }
    drop(fake);
    build(&env, "store", &["-t", "app"]).success();
    on(&env, "store", &["cache", "verify"]).success();
}
