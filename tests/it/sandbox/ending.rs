//! How steps end: by themselves, canceled, with the program, and what is left of them then.

use std::{
    fs,
    time::{Duration, Instant},
};

use rbuild::sandbox::{Ability, Cancel, Exit};

use super::{Stage, sandbox};

#[test]
fn the_step_is_process_1_and_its_orphans_die_with_it() {
    let Some(stage) = Stage::new() else { return };
    // The shell itself counts: a second process would be there at some times only.
    assert_eq!(
        stage.script("echo $$; set -- /proc/[0-9]*; echo $#"),
        "1\n1\n"
    );
    let start = Instant::now();
    stage.script("sleep 1000 & (setsid sleep 1000 &) ; true");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn canceling_kills_and_unmounts() {
    let Some(stage) = Stage::new() else { return };
    let cancel = Cancel::new().unwrap();
    let mut spec = stage.spec("echo ready; trap '' TERM INT; while :; do sleep 1000; done");
    spec.env.push(("MARK".into(), "x".into()));
    let start = Instant::now();
    let exit = sandbox()
        .run(&spec, &cancel.clone(), &mut |_, _| cancel.cancel())
        .unwrap();
    assert_eq!(exit, Exit::Canceled);
    assert!(start.elapsed() < Duration::from_secs(5));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(stage.dir.path().to_str().unwrap()));
}

/// The directory that tells [`hangs_when_asked`] to hang.
const HANG: &str = "RBUILD_TEST_HANG";

/// No test of its own: the program that [`a_killed_program_leaves_nothing`] kills.
#[test]
fn hangs_when_asked() {
    let (Some(mark), Some(stage)) = (std::env::var_os(HANG), Stage::new()) else {
        return;
    };
    let mark = mark.into_string().unwrap();
    stage.run(&stage.spec(&format!(
        "echo {mark} > /dev/null; (setsid sleep 300 &); touch /ready; sleep 300; :"
    )));
}

#[test]
fn a_killed_program_leaves_nothing() {
    let Some(stage) = Stage::new() else { return };
    let mark = stage.dir.path().to_str().unwrap().to_owned();
    let mut program = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sandbox::ending::hangs_when_asked"])
        .env(HANG, &mark)
        .env("TMPDIR", stage.dir.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // The shell of the step has the mark in its command line.
    let running = || {
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| fs::read(entry.unwrap().path().join("cmdline")).ok())
            .filter(|line| {
                let text = String::from_utf8_lossy(line);
                text.contains(&mark) && text.contains("sleep")
            })
            .count()
    };
    let wait_for = |what: &str, condition: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(20), "{what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let ready = || {
        fs::read_dir(stage.dir.path())
            .unwrap()
            .any(|entry| entry.unwrap().path().join("upper/ready").is_file())
    };
    let started = std::panic::catch_unwind(|| {
        wait_for("the step did not start", &ready);
        assert!(running() > 0);
    });
    program.kill().unwrap();
    program.wait().unwrap();
    started.unwrap();
    wait_for("the step is still there", &|| running() == 0);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&mark));
}

#[test]
fn orphans_die_where_process_numbers_are_shared() {
    let Some(stage) = Stage::new() else { return };
    let mark = stage.dir.path().to_str().unwrap().to_owned();
    stage.script(&format!(
        "(setsid sh -c 'sleep 300; echo {mark}' &); (sh -c 'sleep 300; : {mark}' &); true"
    ));
    let left = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read(entry.unwrap().path().join("cmdline")).ok())
        .filter(|line| String::from_utf8_lossy(line).contains(&mark))
        .count();
    assert_eq!(left, 0);
    let probe = sandbox().probe(&stage.path("work")).unwrap();
    let own_pids = stage.script("echo $$") == "1\n";
    assert_eq!(probe.can(Ability::Proc), own_pids);
}
