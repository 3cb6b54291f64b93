//! Steps without namespaces and mounts, by `chroot` and by emulation: the same layers, and no way out.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process;
use serde_json::Value;

use super::support::{Outcome, TestEnv};

/// The ways without namespaces.
const RUNGS: [&str; 2] = ["chroot", "emulate"];

/// Builds on a rung; `None`, with the reason printed, where that is not possible.
fn build_on(env: &TestEnv, isolation: &str, more: &[&str]) -> Option<Outcome> {
    if !process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return None;
    }
    let context = TestEnv::base_context();
    let mut args = vec![
        "build",
        "--progress=plain",
        "--isolation",
        isolation,
        "-t",
        isolation,
        "-o",
        "type=image,rewrite-timestamp=true",
        "--no-cache",
        "--build-context",
        &context,
    ];
    args.extend(more);
    args.push("context");
    let built = env.run(&args);
    if built.code == Some(3) {
        eprintln!("skipped: {isolation} is not possible here:\n{built}");
        return None;
    }
    Some(built)
}

fn layers(env: &TestEnv, image: &str) -> Vec<Value> {
    let inspect = env.run(&["inspect", image]).success();
    let image: Value = serde_json::from_str(&inspect.stdout).expect("JSON");
    let diff_ids = image["images"][0]["config"]["rootfs"]["diff_ids"].clone();
    diff_ids.as_array().expect("a list").clone()
}

#[test]
fn layers_are_those_of_namespaces() {
    let env = TestEnv::new();
    env.file("file", "content\n").file("secret", "hush");
    env.dockerfile(
        r"FROM base AS made2
RUN mkdir /made && echo of stage >/made/x
FROM base AS made
RUN mkdir -p /app/data && echo x >/app/data/x && ln /app/data/x /app/data/y && ln -s data /app/link \
 && chown -R 1234:99 /app && chmod 4755 /app/data/x && rm /etc/os-release && mkfifo /app/pipe \
 && rm -r /var/* && mkdir -p /var/new && mknod /app/null c 1 3 && chmod 1777 /opt
RUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/etc/none/deep --mount=type=secret,id=s,mode=444 \
    --mount=type=bind,target=/context --mount=type=bind,from=made2,source=/made,target=/of-stage \
    cat /context/file /of-stage/x /run/secrets/s >/seen && echo kept >>/cache/kept && echo lost >/etc/none/deep/lost \
 && ! echo no 2>/dev/null >/context/file && ! echo no 2>/dev/null >/run/secrets/s
RUN --mount=type=cache,target=/cache cp /cache/kept /kept
RUN ln /seen /again && ln /bin/busybox /other
RUN echo over >/seen && stat -c '%n %h' /bin/busybox /other >/links && rm -r /app/link && mkdir /app/link
USER 1234
RUN id -u >/tmp/id && cat /proc/self/status | grep ^Uid: >>/tmp/id && echo out >/dev/stdout
",
    );
    let secret = format!("id=s,src={}", env.path("context/secret").display());
    let more = ["--secret", &secret];
    let Some(native) = build_on(&env, "native", &more) else {
        return;
    };
    native.success();
    let native = layers(&env, "native");
    for rung in RUNGS {
        let Some(built) = build_on(&env, rung, &more) else {
            continue;
        };
        built.success();
        // The cache mount is the same one: a later build has added a line of its own.
        let other = layers(&env, rung);
        assert_eq!(native.len(), other.len());
        for (index, (native, other)) in native.iter().zip(&other).enumerate() {
            if index != 3 {
                assert_eq!(native, other, "layer {index} by {rung}");
            }
        }
        assert_ne!(
            native[3], other[3],
            "what was put into the cache has stayed"
        );
    }
}

#[test]
fn what_is_moved_from_a_mount_is_copied() {
    let env = TestEnv::new();
    env.file("file", "content\n");
    env.dockerfile(
        "FROM base\nRUN --mount=type=bind,target=/context mv /context/file /moved 2>/said; cat /moved && grep -i 'read-only' /said\n",
    );
    for isolation in ["native", "emulate"] {
        if let Some(built) = build_on(&env, isolation, &[]) {
            built.success();
        }
    }
}

#[test]
fn a_machine_has_one_name() {
    let env = TestEnv::new();
    env.dockerfile("FROM base\nRUN test \"$(cat /proc/sys/kernel/hostname)\" = \"$(hostname)\"\n");
    for rung in RUNGS {
        if let Some(built) = build_on(&env, rung, &[]) {
            built.success();
        }
    }
}

#[test]
fn mode_and_owner_are_set_by_the_link_to_a_descriptor() {
    let env = TestEnv::new();
    env.dockerfile(
        "FROM base\nRUN touch /f && exec 5</f && chmod 640 /proc/self/fd/5 && chown 7:8 /proc/self/fd/5 \\\n \
         && test \"$(stat -c '%u:%g %a' /f)\" = '7:8 640'\n",
    );
    for rung in RUNGS {
        if let Some(built) = build_on(&env, rung, &[]) {
            built.success();
        }
    }
}

#[test]
fn a_step_finds_no_way_out() {
    let env = TestEnv::new();
    let outside = env.path("outside");
    fs::write(&outside, "marker of the host").expect("written");
    let own = std::process::id();
    let script = format!(
        r#"set +e
up() {{ echo ../../../../../../../../../../../../../../..; }}
out={outside}
for path in $out /proc/1/root$out /proc/self/root$out /proc/self/cwd/$(up)$out /proc/{own}/root$out /proc/{own}/cwd/x; do
    cat $path && echo "ESCAPED by $path"
done
cd /proc/self && cat $(up)$out && echo "ESCAPED by the working directory"
cd /; for fd in $(ls /proc/self/fd); do cat /proc/self/fd/$fd/$(up)$out && echo "ESCAPED by descriptor $fd"; done
ln -s /proc/self/root/..$out /link; cat /link && echo "ESCAPED by a link"
mkdir /jail; chroot /jail /bin/true && echo "ESCAPED by chroot"; chroot / /bin/true && echo "ESCAPED by chroot"
cat /proc/{own}/environ /proc/{own}/status && echo "ESCAPED to the environment"
kill -0 {own} && echo "ESCAPED by a signal"; kill -STOP -{own} && echo "ESCAPED by a signal to a group"
renice 5 -p {own} && echo "ESCAPED by a priority"
for pid in $(ls /proc | grep '^[0-9]'); do grep -q '^Name:.*rbuild' /proc/$pid/status && echo "ESCAPED: sees $pid"; done
echo 1 >/proc/sysrq-trigger && echo "ESCAPED by sysrq"; echo x >/proc/sys/kernel/hostname && echo "ESCAPED by sysctl"
mount -t tmpfs none /mnt && echo "ESCAPED by a mount"
kill -9 -1; echo "the shell has outlived its kill of all"
"#,
        outside = outside.display()
    );
    env.file("script", &script);
    env.dockerfile("FROM base\nCOPY script /script\nRUN sh /script 2>/dev/null; true\n");
    for rung in RUNGS {
        let Some(built) = build_on(&env, rung, &[]) else {
            continue;
        };
        let built = built.success();
        assert!(!built.stderr.contains("ESCAPED"), "{rung}: {built}");
        assert!(
            !built.stderr.contains("marker of the host"),
            "{rung}: {built}"
        );
        assert!(built.stderr.contains("has outlived"), "{rung}: {built}");
    }
}

#[test]
fn what_a_step_leaves_running_dies_with_it() {
    let env = TestEnv::new();
    let seconds = format!("31{}", std::process::id());
    env.dockerfile(&format!(
        "FROM base\nRUN (setsid sleep {seconds} >/dev/null 2>&1 &) ; sleep {seconds} >/dev/null 2>&1 & true\n\
         RUN (setsid sh -c 'while cat /etc/passwd >/dev/null; do :; done; echo fai\"\"led' &) ; sleep 0.2\n"
    ));
    for rung in RUNGS {
        let Some(built) = build_on(&env, rung, &[]) else {
            continue;
        };
        let built = built.success();
        // Up to its end it is answered.
        assert!(!built.stderr.contains("failed"), "{rung}: {built}");
        let left = fs::read_dir("/proc")
            .expect("/proc")
            .flatten()
            .any(|entry| {
                let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                line.split(|b| *b == 0)
                    .any(|word| word == seconds.as_bytes())
            });
        assert!(!left, "a process was left by {rung}");
    }
}

#[test]
fn an_isolation_that_is_not_possible_says_what_to_change() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nRUN [\"/x\"]\n");
    let mut command = std::process::Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all"]);
    command.arg(env!("CARGO_BIN_EXE_rbuild"));
    let args = ["build", "--isolation", "chroot", "context"];
    let inner = env.command(&args);
    command.args(args).current_dir(env.path(""));
    for (key, value) in inner.get_envs() {
        if let Some(value) = value {
            command.env(key, value);
        }
    }
    if !process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let outcome = env.outcome(&mut command);
    assert_eq!(outcome.code, Some(3), "{outcome}");
    assert!(
        outcome
            .stderr
            .contains("RUN with chroot isolation is not possible"),
        "{outcome}"
    );
    assert!(outcome.stderr.contains("SYS_CHROOT"), "{outcome}");
}

#[test]
fn a_killed_build_leaves_no_process() {
    for rung in RUNGS {
        kill_build(rung, Victim::Build);
    }
}

#[test]
fn an_emulated_step_ends_with_its_helper() {
    kill_build("emulate", Victim::Helper);
}

#[derive(Clone, Copy, PartialEq)]
enum Victim {
    Build,
    /// The process that it has started to set steps up.
    Helper,
}

fn kill_build(rung: &str, victim: Victim) {
    let env = TestEnv::new();
    env.dockerfile("FROM base\nRUN true\n");
    if build_on(&env, rung, &[]).is_none() {
        return;
    }
    // Nothing else has this in its command line.
    let mark = env.path("").display().to_string();
    env.dockerfile(&format!(
        "FROM base\nRUN (setsid sh -c 'sleep 300; : {mark}' &); sh -c 'echo begun; sleep 300; : {mark}'\n"
    ));
    let context = TestEnv::base_context();
    let args = ["build", "--progress=plain", "--isolation", rung];
    let mut build = env
        .command(&args)
        .args(["--build-context", &context, "context"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("rbuild starts");
    let stderr = BufReader::new(build.stderr.take().expect("a pipe"));
    let has_begun = stderr
        .lines()
        .map_while(Result::ok)
        .any(|line| line.ends_with(" begun"));
    let steps = || {
        let processes = fs::read_dir("/proc").expect("a list");
        let command = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).ok();
        let lines = processes.filter_map(Result::ok).filter_map(command);
        let is_step = |line: &Vec<u8>| {
            let text = String::from_utf8_lossy(line);
            text.contains("sleep 300") && text.contains(&mark)
        };
        lines.filter(is_step).count()
    };
    let before = steps();
    if victim == Victim::Helper {
        let threads = fs::read_dir(format!("/proc/{}/task", build.id())).expect("a list");
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).expect("a list");
            for child in children.split_whitespace() {
                let child = process::Pid::from_raw(child.parse().expect("a number"));
                process::kill_process(child.expect("a process"), process::Signal::KILL)
                    .expect("it can be killed");
            }
        }
    } else {
        build.kill().expect("it can be killed");
    }
    build.wait().expect("it ends");
    assert!(has_begun && before > 0, "{before} processes");
    let start = Instant::now();
    while steps() > 0 {
        assert!(start.elapsed() < Duration::from_mins(1), "{}", steps());
        std::thread::sleep(Duration::from_millis(20));
    }
    env.run(&["cache", "verify"]).success();
}
