//! What `RUN` steps find: variables, mounts, other stages, programs of other platforms.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::fs;

use super::support::TestEnv;

#[test]
fn proxies_of_the_command_line_are_stronger_than_env() {
    let env = TestEnv::new();
    env.dockerfile("FROM base\nENV HTTP_PROXY=mine no_proxy=kept\nRUN echo got $HTTP_PROXY $http_proxy $no_proxy\n");
    let outcome = env.build_on_base(&["--build-arg", "http_proxy=given"]);
    if outcome.stderr.contains("RUN needs namespaces") {
        eprintln!("skipped: no namespaces here");
        return;
    }
    outcome.success().says("got given given kept");
}

/// For users a step begins when it can: not while it waits for another stage.
#[test]
fn a_step_begins_after_the_stages_that_it_needs() {
    let env = TestEnv::new();
    env.dockerfile(
        "FROM scratch AS first\nCOPY Dockerfile /one\nCOPY Dockerfile /two\nFROM scratch\nCOPY --from=first / /\n",
    );
    let outcome = env.run(&["build", "--progress=rawjson", "context"]);
    let outcome = outcome.success();
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    let line = |name: &str, key: &str| {
        lines
            .iter()
            .position(|line| line.contains(name) && line.contains(key))
            .unwrap_or_else(|| panic!("{name} {key}: {lines:#?}"))
    };
    let last_needed = line("Dockerfile /two", "\"completed\"");
    let begin = line("COPY --from=first", "\"started\"");
    assert!(last_needed < begin, "{lines:#?}");
}

#[test]
fn a_step_for_another_platform_runs_what_this_machine_can() {
    let env = TestEnv::new();
    // An image for one platform may well have programs for another.
    env.dockerfile(
        "FROM --platform=$BUILDPLATFORM base AS native\nFROM scratch\nCOPY --from=native / /\n\
         RUN echo it ran\nCOPY --chmod=755 garbage /\nRUN [\"/garbage\"]\n",
    )
    .file("garbage", "\u{7f}ELF, and nothing more");
    let outcome = env.build_on_base(&["--platform=linux/s390x"]);
    if outcome.stderr.contains("RUN needs namespaces") {
        eprintln!("skipped: no namespaces here");
        return;
    }
    let outcome = outcome.says("it ran");
    // With an interpreter, it is a program of the other kind that is broken.
    if !fs::exists("/proc/sys/fs/binfmt_misc/qemu-s390x").unwrap_or(false) {
        outcome
            .exits(3)
            .says("error: RUN for linux/s390x needs an interpreter")
            .says(" --> Dockerfile:6:1");
    }
}

#[test]
fn a_mount_below_another_is_not_hidden_by_it() {
    let env = TestEnv::new();
    env.dockerfile("FROM base\nRUN --mount=source=a,target=/dir/f --mount=type=tmpfs,target=/dir echo got $(cat /dir/f)\n")
        .file("a", "it");
    let outcome = env.build_on_base(&[]);
    if outcome.stderr.contains("RUN needs namespaces") {
        eprintln!("skipped: no namespaces here");
        return;
    }
    outcome.success().says("got it");
}

#[test]
fn a_cache_mount_that_starts_from_a_tree_is_the_directory_there() {
    let env = TestEnv::new();
    env.dockerfile(
        "FROM base AS seed\nRUN mkdir /q && touch /q/f && chown 5:6 /q && chmod 0711 /q\n\
         FROM base\nRUN --mount=type=cache,id=a,target=/c,from=seed,source=/q stat -c '%u %g %a' /c >/1 && touch /c/g\n\
         RUN --mount=type=cache,id=a,target=/c,from=seed,source=/q,uid=9,mode=0700 stat -c '%u %g %a' /c >/2 && ls /c >>/2\n\
         RUN cat /1 /2 >&2\n",
    );
    let log = env.build_on_base(&[]);
    if log.stderr.contains("RUN needs namespaces") {
        eprintln!("skipped: no namespaces here");
        return;
    }
    let log = log.success();
    for line in ["5 6 711", "f", "g"] {
        assert!(
            log.stderr.lines().any(|l| l.ends_with(line)),
            "{line}: {log}"
        );
    }
    assert!(!log.stderr.contains(" 700"), "{log}");
    env.dockerfile("FROM base\nRUN --mount=type=cache,target=/c,source=/q true\n");
    env.build_on_base(&[]).exits(1).says("\"/q\": not found");
}

#[test]
fn a_cache_mount_with_an_owner_is_new_whatever_the_tree_has() {
    let env = TestEnv::new();
    env.dockerfile(
        "FROM base\nRUN --mount=type=cache,target=/c,from=base,gid=9 stat -c '%u %g %a' /c >/1 && ls -A /c >>/1\nRUN cat /1 >&2 && wc -l </1 >&2\n",
    );
    let log = env.build_on_base(&[]);
    if log.stderr.contains("RUN needs namespaces") {
        eprintln!("skipped: no namespaces here");
        return;
    }
    let log = log.success();
    for line in ["0 9 755", " 1"] {
        assert!(
            log.stderr.lines().any(|l| l.ends_with(line)),
            "{line}: {log}"
        );
    }
}

#[test]
fn directories_of_mounts_have_the_modes_that_buildkit_gives_them() {
    let env = TestEnv::new();
    env.dockerfile(
        "FROM base\nRUN mkdir -m 2750 /d && mkdir -m 700 /e && ln -s e /l\n\
         RUN --mount=type=tmpfs,target=/d --mount=type=tmpfs,target=/l,size=1m --mount=type=tmpfs,target=/n \
         --mount=type=cache,target=/c,mode=2775 echo $(stat -c '%a' /d /l/. /n /c) >&2\n",
    );
    let log = env.build_on_base(&[]);
    if log.stderr.contains("RUN needs namespaces") {
        eprintln!("skipped: no namespaces here");
        return;
    }
    log.success().says("2750 700 1777 775");
}

#[test]
fn what_a_step_writes_again_is_no_longer_a_name_of_another_file() {
    use std::os::unix::fs::MetadataExt as _;
    let env = TestEnv::new();
    env.dockerfile(
        "FROM base\nRUN echo a >/f && ln /f /g && echo a >/h && ln /h /i\nRUN echo a >/f\n",
    );
    let log = env.build_on_base(&["-o", "out"]);
    if log.stderr.contains("RUN needs namespaces") {
        eprintln!("skipped: no namespaces here");
        return;
    }
    log.success();
    let links = |name: &str| {
        env.path("out")
            .join(name)
            .symlink_metadata()
            .unwrap()
            .nlink()
    };
    assert_eq!(["f", "g", "h", "i"].map(links), [1, 1, 2, 2]);
}

#[test]
fn a_step_that_fails_is_told_with_what_its_status_stands_for() {
    let env = TestEnv::new();
    env.dockerfile("FROM base\nRUN true\n");
    if env
        .build_on_base(&[])
        .stderr
        .contains("RUN needs namespaces")
    {
        eprintln!("skipped: no namespaces here");
        return;
    }
    for (instructions, hint) in [
        (
            "RUN no-such-program\n",
            "127 is a shell's for a program that is not there; ",
        ),
        (
            "RUN /etc/passwd\n",
            "126 is a shell's for a file that it may not execute: ",
        ),
        (
            "RUN exit 137\n",
            "137 is that of a process that was killed, ",
        ),
        (
            "RUN --mount=type=secret,id=token --mount=type=ssh cat /run/secrets/token\n",
            "the step can have what was not given: --secret id=token, --ssh default\n",
        ),
        ("USER rot\nRUN id\n", "did you mean `root`?\n"),
        (
            "USER somebody\nRUN id\n",
            "names of USER are looked up in the image, ",
        ),
        (
            "FROM scratch\nRUN true\n",
            "there is no shell in the image, ",
        ),
    ] {
        env.dockerfile(&format!("FROM base\n{instructions}"));
        env.build_on_base(&[])
            .exits(1)
            .says(&format!("hint: {hint}"));
    }
    env.dockerfile("FROM base\nRUN exit 3\n");
    let outcome = env.build_on_base(&[]).exits(1);
    assert!(!outcome.stderr.contains("hint:"), "{outcome}");
}
