//! `rbuild run`: what was built, started as an engine would start it.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    process::{Child, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use super::support::{Outcome, TestEnv};

const DOCKERFILE: &str = r#"FROM base
RUN echo "app:x:1234:1234::/home/app:/bin/sh" >>/etc/passwd && echo "app:x:1234:" >>/etc/group
ENV A=image B=image
USER app
WORKDIR /work
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["id -u; pwd; echo $A $B $HOME"]
"#;

/// An environment with the image `app`; `None` where no step can be run.
fn built() -> Option<TestEnv> {
    let env = TestEnv::new();
    env.dockerfile(DOCKERFILE);
    let base = TestEnv::base_context();
    let outcome = env.build(&["-t", "app", "--build-context", &base]);
    if outcome.code == Some(3) {
        eprintln!("skipped: no step can be run here:\n{outcome}");
        return None;
    }
    drop(outcome.success());
    Some(env)
}

#[test]
fn mounts_have_permissions_alone_and_places_outside_of_proc() {
    let Some(env) = built() else { return };
    let base = TestEnv::base_context();
    let build = |mount: &str, test: &str| {
        env.dockerfile(&format!("FROM base\nRUN --mount=type={mount} {test}\n"));
        let agent = env.path("agent").display().to_string();
        let agent = format!("default={agent}");
        let given = ["--secret", "id=s,src=context/Dockerfile", "--ssh", &agent];
        env.build(&[&["--build-context", &base], &given[..]].concat())
    };
    let _agent = std::os::unix::net::UnixListener::bind(env.path("agent")).expect("a socket");
    drop(build("secret,id=missing,target=/", "true").success());
    drop(build("ssh,id=missing,target=/", "true").success());
    let is_777 = "test $(stat -c %a /c) = 777";
    drop(build("cache,target=/c,mode=6777", is_777).success());
    for (mount, message) in [
        (
            "tmpfs,target=/proc/c",
            "nothing can be mounted inside of /proc, at `/proc/c`",
        ),
        ("secret,id=s,target=/", "invalid mount type SECRET for /"),
        ("ssh,target=/", "invalid mount type SSH for /"),
    ] {
        let refused = build(mount, "true");
        assert_eq!(refused.code, Some(1), "{refused}");
        assert!(refused.stderr.contains(message), "{refused}");
    }
}

#[test]
fn a_program_finds_what_the_image_says() {
    let Some(env) = built() else { return };
    let outcome = env.run(&["run", "app"]).success();
    assert_eq!(outcome.stdout, "1234\n/work\nimage image /home/app\n");
}

#[test]
fn the_command_line_overrides_the_image() {
    let Some(env) = built() else { return };
    env.file("vars", "# a comment\n\nB=file\nC\n");
    let args = [
        "run",
        "--rm",
        "-e",
        "A=line",
        "--env-file",
        "context/vars",
        "-w",
        "/tmp",
        "-u",
        "0:5",
        "app",
        "id -u; id -g; pwd; echo $A $B [$C]",
    ];
    let outcome = env.run(&args).success();
    assert_eq!(outcome.stdout, "0\n5\n/tmp\nline file []\n");
    let args = ["run", "--entrypoint", "/bin/echo", "app", "-n", "--rm"];
    assert_eq!(env.run(&args).success().stdout, "--rm");
}

#[test]
fn the_exit_status_is_the_program_s() {
    let Some(env) = built() else { return };
    let code = |args: &[&str]| -> Outcome { env.run(&[&["run"], args].concat()) };
    assert_eq!(code(&["app", "exit 42"]).code, Some(42));
    assert_eq!(
        code(&["app", "kill -9 $$; sleep 9 & kill -9 $!; wait $!; exit $?"]).code,
        Some(137)
    );
    let missing = code(&["--entrypoint", "/no/such/program", "app"]);
    assert_eq!(missing.code, Some(127), "{missing}");
    assert!(missing.stderr.contains("/no/such/program"), "{missing}");
    let image = code(&["ap", "true"]);
    assert_eq!(image.code, Some(1));
    assert!(image.stderr.contains("no image `ap:latest`"), "{image}");
    assert_eq!(code(&["--entrypoint", "", "app"]).code, Some(1));
    assert_eq!(code(&["-t", "app"]).code, Some(2));
    assert_eq!(code(&["-u", "nobody-there", "app"]).code, Some(1));
}

#[test]
fn directories_of_this_machine_are_mounted_and_nothing_else_is_kept() {
    let Some(env) = built() else { return };
    env.file("in/file", "content\n");
    let script = "cat /in/file; echo x 2>/dev/null >/in/new && echo written; echo y >/in-the-image";
    let run = |volume: &str| env.run(&["run", "-u", "0", "-v", volume, "app", script]);
    let readonly = run("./context/in:/in:ro").success().stdout;
    assert_eq!(readonly, "content\n");
    assert!(!env.context().join("in/new").is_file());
    let writable = run("./context/in:/in").success().stdout;
    assert_eq!(writable, "content\nwritten\n");
    assert!(env.context().join("in/new").is_file());
    let gone = env.run(&["run", "app", "ls /in-the-image /in"]);
    assert_eq!(gone.code, Some(1), "{gone}");
    let refused = run("./no/such:/in");
    assert_eq!(refused.code, Some(2));
}

#[test]
fn standard_input_is_read_when_asked_for() {
    let Some(env) = built() else { return };
    let run = |args: &[&str]| {
        let mut command = env.command(&[&["run"], args, &["app", "cat"]].concat());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        // Without -i nobody reads it, and the program may have ended.
        let _closed = child.stdin.take().expect("a pipe").write_all(b"hello\n");
        env.ended(child).success().stdout
    };
    assert_eq!(run(&["-i"]), "hello\n");
    assert_eq!(run(&[]), "");
}

/// Starts a program and returns when it has printed `ready`.
fn ready(env: &TestEnv, args: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut command = env.command(&[&["run"], args].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    (child, output)
}

#[test]
fn signals_reach_the_program() {
    let Some(env) = built() else { return };
    let script = "trap 'echo told; exit 7' TERM; echo ready; while :; do sleep 0.1; done";
    let (child, mut output) = ready(&env, &["app", script]);
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::TERM).expect("it is there");
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    assert_eq!(line, "told\n");
    assert_eq!(env.ended(child).code, Some(7));
}

#[test]
fn who_does_not_listen_to_signals_is_killed_when_they_repeat() {
    let Some(env) = built() else { return };
    let script = "trap '' INT; echo ready; while :; do sleep 0.1; done";
    let (child, _output) = ready(&env, &["app", script]);
    for _ in 0..3 {
        kill_process(Pid::from_child(&child), Signal::INT).expect("it is there");
        // Signals that are pending at the same time are one.
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    assert_eq!(env.ended(child).code, Some(137));
}

#[test]
fn ports_are_checked() {
    let Some(env) = built() else { return };
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let script = format!("timeout 2 nc -l -p {port} </dev/null; true");
    let refused = env.run(&["run", "-p", &port, "app", &script]);
    assert_eq!(refused.code, Some(3), "{refused}");
    drop(taken);
    let outcome = env.run(&["run", "-p", &port, "app", &script]).success();
    let said = format!("port {port}/tcp: listening");
    assert!(outcome.stderr.contains(&said), "{outcome}");
    let silent = env.run(&["run", "-p", &port, "app", "true"]).success();
    assert!(silent.stderr.contains("has not listened"), "{silent}");
}
