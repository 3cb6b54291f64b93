//! What README says is what the program does.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::{fs, path::Path};

use super::support::TestEnv;

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    fs::read_to_string(path).expect("README is text")
}

/// The command in the code block after a marker.
fn command(marker: &str) -> String {
    let readme = readme();
    let (_, rest) = readme.split_once(marker).expect("the marker");
    let (_, rest) = rest.split_once("```sh\n").expect("a code block");
    rest.lines().next().expect("a line").to_owned()
}

#[test]
fn the_first_command_builds_the_example() {
    let command = command("<!-- first command -->");
    let args = command
        .strip_prefix("cargo run --release -- ")
        .expect("it runs the program");
    let env = TestEnv::new();
    let args: Vec<&str> = args.split(' ').collect();
    let mut call = env.command(&args);
    call.current_dir(env!("CARGO_MANIFEST_DIR"));
    let built = env.outcome(&mut call);
    if built.code == Some(3) && built.stderr.contains("RUN needs namespaces") {
        eprintln!("skipped: RUN steps are not possible here:\n{built}");
        return;
    }
    built
        .success()
        .says("[page 3/4] RUN sed")
        .says("COPY --from=page");
    env.run(&["inspect", "hello:v1", "--format", "text"])
        .success()
        .prints("user: web")
        .prints("port: 8080/tcp");
}

#[test]
fn the_second_command_is_this() {
    assert_eq!(command("<!-- second command -->"), "cargo test");
}

#[test]
fn every_exit_status_and_command_is_listed() {
    let readme = readme();
    let env = TestEnv::new();
    let help = env.run(&["--help"]).success().stdout;
    let commands = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty());
    for line in commands {
        let name = line.split_whitespace().next().expect("a name");
        assert!(readme.contains(name), "README lacks the command `{name}`");
    }
    for status in ["0", "1", "2", "3", "4", "70", "129, 130, 143"] {
        assert!(
            readme.contains(&format!("\n| {status} | ")),
            "README lacks the exit status {status}"
        );
    }
}
