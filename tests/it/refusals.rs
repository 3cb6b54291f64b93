//! Instructions that look right and are refused as BuildKit refuses them, and what only a spelling asks for.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use super::support::TestEnv;

#[test]
fn steps_that_buildkit_refuses_are_refused() {
    for (syntax, instruction, error) in [
        (
            "",
            "RUN --device=vendor.test/class=x true",
            "device feature is only supported in Dockerfile frontend 1.14.0-labs or later",
        ),
        (
            "# syntax=docker/dockerfile:1-labs\n",
            "RUN --device=vendor.test/class=x,required true",
            "device vendor.test/class=x is not available: this machine has no CDI devices",
        ),
        (
            "",
            "RUN --mount=type=tmpfs,target=/t,source=/x true",
            "tmpfs mount has no source \"/x\"",
        ),
        (
            "",
            "COPY <<a/b /x/\ntext\na/b",
            "heredoc name \"a/b\" is a path into a directory that does not exist",
        ),
        (
            "",
            "COPY <<.. /x/\ntext\n..",
            "heredoc name \"..\" is a directory",
        ),
        (
            "",
            "RUN <<a/b\n#!/bin/sh\ntrue\na/b",
            "heredoc name \"a/b\" is a path into a directory that does not exist",
        ),
    ] {
        let env = TestEnv::new();
        env.dockerfile(&format!("{syntax}FROM scratch\n{instruction}\n"));
        let built = env.build(&[]).says(error).says(" --> Dockerfile:");
        assert!(matches!(built.code, Some(1 | 3)), "{built}");
    }
    // Names that lead nowhere else are fine.
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY <<./a/ <</b <<../c /x/\n1\n./a/\n2\n/b\n3\n../c\n");
    let out = env.path("out").display().to_string();
    env.build(&["-o", &out]).success();
    for (name, text) in [("a", "1\n"), ("b", "2\n"), ("c", "3\n")] {
        let got = std::fs::read_to_string(env.path("out/x").join(name)).expect("it is there");
        assert_eq!(got, text);
    }
}

#[test]
fn texts_that_would_fill_any_memory_are_refused() {
    let env = TestEnv::new();
    let doubled = "ENV A=$A$A\n".repeat(60);
    env.dockerfile(&format!("FROM scratch\nENV A=x\n{doubled}"));
    env.build(&[])
        .exits(1)
        .says("its variables add more than 1048576 bytes")
        .says(" --> Dockerfile:");
    let replaced = "ENV A=${A//x/$A}\n".repeat(60);
    env.dockerfile(&format!("FROM scratch\nENV A=xx\n{replaced}"));
    env.build(&[]).exits(1).says("its variables add more than");
    env.build(&["-f", "/dev/zero"])
        .exits(2)
        .says("has more than 16777216 bytes");
    let mut piped = env.command(&["build", "-f", "-", "context"]);
    piped.stdin(std::fs::File::open("/dev/zero").expect("it is there"));
    env.outcome(&mut piped)
        .exits(2)
        .says("has more than 16777216 bytes");
}

#[test]
fn a_working_directory_is_made_as_it_is_written_when_a_step_runs_in_it() {
    let base = TestEnv::base_context();
    let env = TestEnv::new();
    let listed = |text: &str| {
        env.dockerfile(text);
        let out = env.path("out.tar").display().to_string();
        let built = env.build(&[
            "--build-context",
            &base,
            "-o",
            &format!("type=tar,dest={out}"),
        ]);
        if built.code == Some(3) {
            eprintln!("skipped: no step can be run here:\n{built}");
            return None;
        }
        drop(built.success());
        let listed = std::process::Command::new("tar")
            .args(["tvf", &out, "--numeric-owner"])
            .output()
            .expect("tar runs");
        let text = String::from_utf8(listed.stdout).expect("text");
        let line = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            format!("{} {} {}", words[0], words[1], words[words.len() - 1])
        };
        let is_asked = |line: &String| line.ends_with(" a/") || line.ends_with(" b/");
        Some(text.lines().map(line).filter(is_asked).collect::<Vec<_>>())
    };
    // By itself `WORKDIR` makes what the path means.
    let without = listed("FROM base\nWORKDIR /a/../b\n");
    assert_eq!(without, Some(vec!["drwxr-xr-x 0/0 b/".to_owned()]));
    let Some(with) = listed("FROM base\nUSER 7:8\nWORKDIR /a/../b\nRUN true\n") else {
        return;
    };
    assert_eq!(with, ["drwxr-xr-x 0/0 a/", "drwxr-xr-x 7/8 b/"]);
}
