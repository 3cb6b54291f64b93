//! Ctrl-C and `kill`: the steps' processes die, nothing stays mounted, the store goes on working.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::{
        net::{UnixListener, UnixStream},
        process::ExitStatusExt as _,
    },
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::support::{FakeRegistry, TestEnv};

/// How long the step would sleep: a number that no other process on the machine uses.
fn seconds() -> u32 {
    1_000_000 + std::process::id()
}

fn env_with_sleeper() -> TestEnv {
    let env = TestEnv::new();
    let step = format!("echo step is running; exec sleep {}", seconds());
    env.dockerfile(&format!("FROM base\nRUN {step}\n"));
    env
}

/// Starts a build and waits until its step runs; `None` where no step can be run.
fn start(env: &TestEnv, more: &[&str]) -> Option<(Child, BufReader<std::process::ChildStderr>)> {
    let base = TestEnv::base_context();
    let args = ["build", "--progress=plain", "--build-context", &base];
    let mut child = env
        .command(&[&args[..], more, &["context"]].concat())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped"));
    let mut seen = String::new();
    while !seen.contains(" step is running") {
        if lines.read_line(&mut seen).expect("text") == 0 {
            let status = child.wait().expect("a status");
            assert_eq!(status.code(), Some(3), "{seen}");
            assert!(seen.contains("RUN needs namespaces"), "{seen}");
            eprintln!("skipped: no step can be run here:\n{seen}");
            return None;
        }
    }
    Some((child, lines))
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Waits for the end, for a while.
fn end(mut child: Child) -> std::process::ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a status") {
            return status;
        }
        if begun.elapsed() > Duration::from_secs(20) {
            child.kill().expect("killed");
            panic!("the program does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processes of the step that still live.
fn sleepers() -> usize {
    let wanted = format!("sleep\0{}\0", seconds());
    let processes = fs::read_dir("/proc").expect("processes");
    processes
        .flatten()
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| line == wanted.as_bytes())
        .count()
}

fn assert_clean(env: &TestEnv) {
    // The kernel takes a moment to kill a namespace.
    let begun = Instant::now();
    while sleepers() > 0 && begun.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(sleepers(), 0, "processes of the step live on");
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    let root = env.path("root");
    let root = root.to_str().expect("text");
    assert!(!mounts.contains(root), "something stays mounted: {mounts}");
    env.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    env.build(&["-t", "after"]).success();
    env.run(&["inspect", "after"]).success();
}

/// One after the other: they look for the same processes.
#[test]
fn signals_end_a_build_in_good_order() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let env = env_with_sleeper();
        let Some((child, mut lines)) = start(&env, &[]) else {
            return;
        };
        kill_process(pid(&child), signal).expect("sent");
        let status = end(child);
        let mut said = String::new();
        lines.read_to_string(&mut said).expect("text");
        assert_eq!(status.code(), Some(code), "{said}");
        assert!(
            said.contains("#3 CANCELED") || said.contains("#3 ERROR"),
            "{said}"
        );
        assert!(said.ends_with("error: interrupted\n"), "{said}");
        assert_clean(&env);
    }

    let env = env_with_sleeper();
    let Some((child, _lines)) = start(&env, &[]) else {
        return;
    };
    kill_process(pid(&child), Signal::KILL).expect("sent");
    assert_eq!(end(child).signal(), Some(9));
    assert_clean(&env);
}

#[test]
fn uploads_that_a_signal_ends_are_taken_back() {
    let env = TestEnv::new();
    let registry = FakeRegistry::start();
    let step = "echo step is running; exec sleep 1000000";
    env.dockerfile(&format!(
        "FROM base\nRUN head -c 9 /dev/zero >/x\nRUN {step}\n"
    ));
    let name = format!("{}/app:1", registry.host());
    let Some((child, _stderr)) = start(&env, &["--push", "-t", &name]) else {
        return;
    };
    // One is begun for the layer that the step will make.
    let begun = Instant::now();
    while registry.n_uploads() == 0 && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_ne!(registry.n_uploads(), 0, "{:?}", registry.lines());
    kill_process(pid(&child), Signal::TERM).expect("sent");
    assert_eq!(end(child).code(), Some(143));
    assert_eq!(registry.n_uploads(), 0, "{:?}", registry.lines());
}

/// A server that takes connections and never says anything.
#[test]
fn a_git_repository_that_does_not_come_can_be_given_up() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let env = TestEnv::new();
    let url = format!("http://{address}/repository.git");
    let mut child = env
        .command(&["build", "--progress=plain", &url])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped"));
    // Once somebody calls, git is there and waits.
    listener.set_nonblocking(true).expect("a socket");
    let begun = Instant::now();
    let connection = loop {
        if let Ok((connection, _)) = listener.accept() {
            break connection;
        }
        let is_over = child.try_wait().expect("a status").is_some();
        if is_over || begun.elapsed() > Duration::from_mins(1) {
            child.kill().ok();
            child.wait().expect("a status");
            let mut said = String::new();
            lines.read_to_string(&mut said).expect("text");
            assert!(said.contains("`git` is not installed"), "{said}");
            eprintln!("skipped: `git` is not installed");
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    kill_process(pid(&child), Signal::INT).expect("sent");
    let status = end(child);
    let mut said = String::new();
    lines.read_to_string(&mut said).expect("text");
    assert_eq!(status.code(), Some(130), "{said}");
    let line = format!("#1 [internal] load git source {url}\n");
    assert!(said.contains(&line), "{said}");
    assert!(said.ends_with("error: interrupted\n"), "{said}");
    // The other side has hung up: nothing of git lives on.
    connection.set_nonblocking(false).expect("a socket");
    connection
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a socket");
    std::io::copy(&mut &connection, &mut std::io::sink()).expect("its end");
}

/// The files of an image go to a pipe, or a socket, that nobody reads.
#[test]
fn an_output_that_nobody_reads_can_be_given_up() {
    for is_socket in [false, true] {
        let env = TestEnv::new();
        env.dockerfile("FROM scratch\nCOPY large /\n")
            .file("large", &"x".repeat(2_000_000));
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let stdout = if is_socket {
            Stdio::from(std::os::fd::OwnedFd::from(theirs))
        } else {
            Stdio::piped()
        };
        let mut child = env
            .command(&["build", "--progress=plain", "-o", "-", "context"])
            .stderr(Stdio::piped())
            .stdout(stdout)
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped"));
        let mut said = String::new();
        while !said.contains("exporting to client tarball") {
            assert_ne!(lines.read_line(&mut said).expect("text"), 0, "{said}");
        }
        kill_process(pid(&child), Signal::TERM).expect("sent");
        let unread = child.stdout.take();
        assert_eq!(end(child).code(), Some(143));
        lines.read_to_string(&mut said).expect("text");
        assert!(said.ends_with("error: interrupted\n"), "{said}");
        drop((ours, unread));
    }
}

/// What cannot be asked to stop is ended after a while: here, progress that nobody reads.
#[test]
fn a_build_that_hangs_ends_some_time_after_it_was_told_to() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let size = rustix::pipe::fcntl_getpipe_size(&writer).expect("a size");
    std::io::Write::write_all(&mut writer, &vec![b'x'; size]).expect("it is full now");
    let mut child = env
        .command(&["build", "--progress=plain", "context"])
        .stderr(writer)
        .stdout(Stdio::null())
        .spawn()
        .expect("the program starts");
    // Its store is there once it watches for signals, or nearly so.
    while fs::metadata(env.path("root/snapshots")).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    kill_process(pid(&child), Signal::TERM).expect("sent");
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a status") {
            break status;
        }
        if begun.elapsed() > Duration::from_mins(2) {
            child.kill().expect("killed");
            panic!("the program does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(
        status.code() == Some(143) || status.signal() == Some(15),
        "{status}"
    );
    drop(reader);
}

/// One that takes an image and never answers, and one that takes nobody.
#[test]
fn an_engine_that_does_not_answer_can_be_given_up() {
    for accepts in [true, false] {
        let env = TestEnv::new();
        env.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
        let socket = env.path("docker.sock");
        let engine = UnixListener::bind(&socket).expect("a socket");
        if !accepts {
            // A queue for one, in which one waits.
            rustix::net::listen(&engine, 0).expect("a queue");
        }
        let _queued = (!accepts).then(|| UnixStream::connect(&socket).expect("queued"));
        let mut child = env
            .command(&["build", "--progress=plain", "--load", "context"])
            .env("DOCKER_HOST", format!("unix://{}", socket.display()))
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped"));
        let mut said = String::new();
        while !said.contains("exporting to docker image format") {
            assert_ne!(lines.read_line(&mut said).expect("text"), 0, "{said}");
        }
        let _connection = accepts.then(|| {
            let (mut connection, _) = engine.accept().expect("a connection");
            connection.read_exact(&mut [0]).expect("a request");
            connection
        });
        kill_process(pid(&child), Signal::TERM).expect("sent");
        assert_eq!(end(child).code(), Some(143));
        lines.read_to_string(&mut said).expect("text");
        assert!(said.ends_with("error: interrupted\n"), "{said}");
    }
}
