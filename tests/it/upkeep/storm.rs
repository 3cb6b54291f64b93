//! Many processes on one store, and processes that are killed.
//!
//! `RBUILD_TEST_KILLS` and `RBUILD_TEST_PROCESSES` say how many; few by default, since the time of all tests counts.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

use super::TestEnv;

fn number(variable: &str, otherwise: usize) -> usize {
    let value = std::env::var(variable).ok();
    value.map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Numbers without pattern; the same for each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}

/// Starts the program in a process group of its own.
pub(super) fn start(env: &TestEnv, args: &[&str]) -> Child {
    env.command(args)
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts")
}

/// Kills the whole group after a while; whether it was still at work.
pub(super) fn kill_after(mut child: Child, delay: Duration) -> bool {
    std::thread::sleep(delay);
    let working = child.try_wait().expect("a status").is_none();
    if working {
        let group = Pid::from_child(&child);
        kill_process_group(group, Signal::KILL).expect("killed");
        child.wait().expect("a status");
    }
    working
}

/// Processes of this test, found by its directory in what they were started with.
fn processes(env: &TestEnv) -> Vec<String> {
    let dir = env.path("");
    let dir = dir
        .to_str()
        .expect("text")
        .trim_end_matches('/')
        .as_bytes()
        .to_vec();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("processes").flatten() {
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
            if bytes.windows(dir.len()).any(|window| window == dir) {
                let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                found.push(String::from_utf8_lossy(&line).replace('\0', " "));
                break;
            }
        }
    }
    found
}

fn assert_nothing_left(env: &TestEnv) {
    // The kernel takes a moment to end a namespace.
    let begun = Instant::now();
    while !processes(env).is_empty() && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(processes(env), [""; 0], "processes live on");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let dir = env.path("root");
    assert!(!mounts.contains(dir.to_str().expect("text")), "{mounts}");
}

#[test]
fn killed_at_any_instant_the_store_stays_whole() {
    let kills = number("RBUILD_TEST_KILLS", 8);
    let env = TestEnv::new();
    env.dockerfile(
        "FROM base AS one\n\
         WORKDIR /src\n\
         COPY . .\n\
         RUN --mount=type=cache,target=/cache cp -r /src /out && cp nonce /cache/$$ && ls /cache >/dev/null\n\
         RUN mv /out /moved && dd if=/dev/zero of=/zeros bs=64k count=8 2>/dev/null\n\
         FROM base\n\
         COPY --from=one /moved /moved\n\
         RUN cat /moved/nonce > /seen\n",
    );
    for n in 0..20 {
        env.file(&format!("files/{n}"), &"x".repeat(n * 1000));
    }
    env.file("nonce", "first");
    let begun = Instant::now();
    let first = env.build_on_base(&["-t", "app"]);
    if first.code == Some(3) {
        eprintln!("skipped: no step can be run here");
        return;
    }
    let _first = first.success();
    let mut whole = u64::try_from(begun.elapsed().as_millis()).expect("short") * 11 / 10;
    let base = TestEnv::base_context();
    let args = [
        "build",
        "-q",
        "-t",
        "app",
        "--build-context",
        &base,
        "context",
    ];
    let mut random = Random(0x5eed);
    let (mut killed, mut pruned) = (0, 0);
    for round in 0..kills {
        env.file("nonce", &round.to_string());
        let child = start(&env, &args);
        if round % 4 == 3 {
            let prune = start(&env, &["cache", "prune", "--all"]);
            pruned += usize::from(kill_after(prune, Duration::from_millis(random.below(40))));
        }
        let is_hit = kill_after(child, Duration::from_millis(random.below(whole)));
        killed += usize::from(is_hit);
        if !is_hit {
            // It was over before: the machine is less busy than when the first one ran.
            whole = whole / 2 + 1;
        }
        // Each fourth time the next one starts on what several have left.
        if round % 4 != 2 || round + 1 == kills {
            let verified = env.run(&["cache", "verify"]).success();
            assert!(
                verified.stdout.starts_with("checked: "),
                "round {round}: {verified}"
            );
        }
        if round % 4 == 0 || round + 1 == kills {
            env.build_on_base(&["-t", "app"]).success();
            assert_nothing_left(&env);
        }
    }
    env.run(&["cache", "verify"]).success();
    env.run(&["save", "app", "-o", "app.tar"]).success();
    let tmp = fs::read_dir(env.path("root/tmp")).expect("a directory");
    assert_eq!(tmp.count(), 0, "temporary files are left");
    eprintln!("killed {killed} builds and {pruned} times prune, of {kills} rounds");
    assert!(killed > 0 || kills < 8, "no build was ever hit");
}

#[test]
fn many_processes_share_a_store_and_run_equal_steps_once() {
    let processes = number("RBUILD_TEST_PROCESSES", 8);
    let env = TestEnv::new();
    let count = "--mount=type=cache,id=count,target=/count,sharing=locked";
    let dockerfile = |name: &str| {
        format!(
            "FROM base\n\
             RUN {count} echo run >> /count/shared && echo shared > /shared\n\
             COPY file /file\n\
             RUN {count} echo run >> /count/{name} && echo {name} > /name\n"
        )
    };
    env.file("file", "content").dockerfile(&dockerfile("probe"));
    if env.build_on_base(&[]).code == Some(3) {
        eprintln!("skipped: no step can be run here");
        return;
    }
    let _emptied = env.run(&["cache", "prune", "--all"]).success();
    // Half of them build the same.
    let name = |n: usize| {
        if n.is_multiple_of(2) {
            "equal".to_owned()
        } else {
            format!("own-{n}")
        }
    };
    for n in 0..processes {
        env.file(&format!("Dockerfile.{}", name(n)), &dockerfile(&name(n)));
    }
    let base = TestEnv::base_context();
    let begun = Instant::now();
    let children: Vec<Child> = (0..processes)
        .map(|n| {
            let (file, tag) = (
                format!("context/Dockerfile.{}", name(n)),
                format!("app:{n}"),
            );
            let args = [
                "build",
                "-q",
                "-t",
                &tag,
                "-f",
                &file,
                "--build-context",
                &base,
                "context",
            ];
            env.command(&args)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("the program starts")
        })
        .collect();
    for _ in 0..6 {
        let kinds = ["step", "blob", "snapshot", "stat", "temporary"];
        let filters: Vec<String> = kinds.map(|kind| format!("--filter=type={kind}")).to_vec();
        let mut args = vec!["cache", "prune"];
        args.extend(filters.iter().map(String::as_str));
        env.run(&args).success();
    }
    let mut digests = Vec::new();
    for child in children {
        digests.push(env.ended(child).success().stdout);
    }
    eprintln!(
        "{processes} builds and 6 times prune in {:?}",
        begun.elapsed()
    );
    let equal: Vec<_> = digests.iter().step_by(2).collect();
    assert!(equal.windows(2).all(|two| two[0] == two[1]), "{equal:?}");
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), 1 + processes / 2);

    let counters = fs::read_dir(env.path("root/mounts"))
        .expect("mounts")
        .map(|mount| mount.expect("an entry").path().join("0"))
        .find(|dir| dir.join("shared").is_file())
        .expect("the counters");
    for entry in fs::read_dir(&counters).expect("counters") {
        let entry = entry.expect("an entry");
        let runs = fs::read_to_string(entry.path()).expect("text");
        assert_eq!(runs, "run\n", "{:?} ran more than once", entry.file_name());
    }
    env.run(&["cache", "verify"]).success();
    for n in 0..processes {
        env.run(&["inspect", &format!("app:{n}")]).success();
    }
    assert_nothing_left(&env);
}
