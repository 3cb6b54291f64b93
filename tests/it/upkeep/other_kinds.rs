//! Pipes in the place of a store's files: nobody waits for them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::super::support::{Outcome, TestEnv};

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Runs a command that may hang.
fn ended(env: &TestEnv, args: &[&str]) -> Outcome {
    let mut child = env
        .command(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let begun = Instant::now();
    while child.try_wait().expect("a status").is_none() {
        if begun.elapsed() > Duration::from_mins(1) {
            child.kill().expect("killed");
            panic!("{args:?} hangs: {}", env.ended(child));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    env.ended(child)
}

#[test]
fn pipes_in_the_place_of_a_stores_files_are_no_files() {
    let made = TestEnv::new();
    made.file("a", "A").dockerfile(
        "FROM base AS one\nCOPY a /a\nFROM scratch\nCOPY --from=one /a /etc/passwd /\n",
    );
    let base = TestEnv::base_context();
    let build = ["build", "--build-context", &base, "-t", "app", "context"];
    ended(&made, &build).success();
    let mut files = Vec::new();
    files_below(&made.path("root"), &mut files);
    let is_asked = |path: &PathBuf| !path.starts_with(made.path("root/locks"));
    for file in files.into_iter().filter(is_asked) {
        let bytes = fs::read(&file).expect("a file");
        let pipe = || {
            fs::remove_file(&file).expect("removed");
            mknodat(CWD, &file, FileType::Fifo, Mode::RUSR, 0).expect("a pipe");
        };
        pipe();
        let built = ended(&made, &build);
        assert!(
            matches!(built.code, Some(0 | 3)),
            "{}: {built}",
            file.display()
        );
        if built.code == Some(3) {
            let name = file.file_name().expect("a name").to_str().expect("text");
            assert!(built.stderr.contains(name), "{built}");
        } else {
            ended(&made, &["cache", "verify"]);
            ended(&made, &build).success();
            ended(&made, &["cache", "verify"]).success();
        }
        fs::remove_file(&file).ok();
        fs::write(&file, bytes).expect("written");
    }
    ended(&made, &build).success();
    ended(&made, &["cache", "verify"]).success();
}
