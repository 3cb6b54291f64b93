//! One Dockerfile, three kinds of users, the same layers: root, a user with subordinate ids, a user with none.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::{fs, os::unix::fs::chown, path::Path};

use serde_json::Value;

use super::support::{Outcome, TestEnv, compile};

/// What a build is expected to get right with any ids: owners, modes, capabilities of files, links, deletions, and what
/// a process sees of itself.
const DOCKERFILE: &str = r#"FROM base AS made
RUN echo "app:x:1234:1234::/app:/bin/sh" >>/etc/passwd && echo "app:x:1234:" >>/etc/group
RUN mkdir -p /app/data && echo x >/app/data/x && ln /app/data/x /app/data/y && ln -s data /app/link \
 && chown -R app:app /app && chmod 4755 /app/data/x && rm /etc/os-release && mkfifo /app/pipe
USER app
RUN id -u >/app/id && id -g >>/app/id && touch /tmp/mine
USER root
COPY --chown=1234:99 --chmod=640 file /app/
FROM base
COPY --from=made /app /app
COPY --from=made /etc/passwd /etc/passwd
RUN stat -c '%u %g %a' /app/file /app/id >/owners
"#;

/// A user that `/etc/subuid` and `/etc/subgid` give ids to, as uid and gid.
fn user_with_subordinate_ids() -> Option<(u32, u32)> {
    let names = |path: &str| -> Vec<String> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .filter_map(|line| Some(line.split_once(':')?.0.to_owned()))
            .collect()
    };
    let (users, groups) = (names("/etc/subuid"), names("/etc/subgid"));
    fs::read_to_string("/etc/passwd")
        .ok()?
        .lines()
        .find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, ..] = fields.as_slice() else {
                return None;
            };
            let has = |list: &[String]| list.iter().any(|n| n == name);
            let ids = (uid.parse().ok()?, gid.parse().ok()?);
            (ids.0 != 0 && has(&users) && has(&groups)).then_some(ids)
        })
}

fn give(path: &Path, uid: u32, gid: u32) {
    chown(path, Some(uid), Some(gid)).expect("root may give files away");
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a directory") {
            give(&entry.expect("an entry").path(), uid, gid);
        }
    }
}

/// What a step does with users and owners, with a program that prints what came of it.
const WITH_PROGRAM: &str = r#"FROM base
RUN echo "app:x:1000:1000::/app:/bin/sh" >>/etc/passwd
COPY users /users
RUN /users >/result 2>&1
USER app
WORKDIR /app
RUN /users again >>/app/result && id >>/app/result
WORKDIR /app/made/by/run
USER 4321:99
RUN id -u >/tmp/id && id -g >>/tmp/id; stat -c %u:%g . >>/tmp/id
USER root
RUN su app -c 'cat /t/secret; echo $?; touch /t/x; echo $?; id -u' >>/result 2>&1; \
    mkdir /tree && cp -a /t /tree && tar c -C /t . | tar x -C /tree; find /tree -exec stat -c '%n %u:%g %a %F' {} + | sort >>/result
"#;

/// Builds as a user; gives the diffIDs of the layers and the environment, in which the files are in `files`.
fn build_as(
    ids: (u32, u32),
    dockerfile: &str,
    program: Option<&Path>,
    isolation: &str,
) -> Result<(Vec<Value>, TestEnv), Outcome> {
    let env = TestEnv::new();
    env.dockerfile(dockerfile).file("file", "content\n");
    if let Some(program) = program {
        fs::copy(program, env.path("context/users")).expect("a copy");
    }
    env.open_to_others();
    give(&env.path(""), ids.0, ids.1);
    let as_user = |args: &[&str]| env.outcome(&mut env.as_user(ids, args));
    let built = as_user(&[
        "build",
        "--progress=plain",
        "-t",
        "app",
        "-o",
        "type=image,rewrite-timestamp=true",
        "-o",
        "type=local,dest=files",
        "--isolation",
        isolation,
        "--build-context=base=oci-layout://base",
        "context",
    ]);
    if built.code != Some(0) {
        return Err(built);
    }
    let inspect = as_user(&["inspect", "app"]).success();
    let image: Value = serde_json::from_str(&inspect.stdout).expect("JSON");
    let diff_ids = image["images"][0]["config"]["rootfs"]["diff_ids"].clone();
    Ok((diff_ids.as_array().expect("a list").clone(), env))
}

/// Whether the machine is to blame: nothing else counts as a reason to skip.
fn needs_namespaces(outcome: &Outcome) -> bool {
    outcome.code == Some(3)
        && (outcome.stderr.contains("RUN needs namespaces")
            || outcome
                .stderr
                .contains("with emulate isolation is not possible"))
}

const WITH_IDS: &str = "a user with subordinate ids";

/// Builds the same as everybody who can be had; hands each one's layers, with those of root, to `compare`.
fn everybody(
    dockerfile: &str,
    program: Option<&Path>,
    compare: impl Fn(&str, &(Vec<Value>, TestEnv), &(Vec<Value>, TestEnv)),
) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become the other users");
        return;
    }
    let build = |ids, isolation| build_as(ids, dockerfile, program, isolation);
    let as_root = match build((0, 0), "auto") {
        Ok(layers) => layers,
        Err(outcome) if needs_namespaces(&outcome) => {
            eprintln!("skipped: no step can be run here:\n{outcome}");
            return;
        }
        Err(outcome) => panic!("{outcome}"),
    };
    let mut others = vec![
        ("a user without subordinate ids", (54321, 54321), "auto"),
        ("root without namespaces", (0, 0), "chroot"),
        ("root without anything", (0, 0), "emulate"),
        ("a user without anything", (54321, 54321), "emulate"),
    ];
    match user_with_subordinate_ids() {
        Some(ids) => others.push((WITH_IDS, ids, "auto")),
        None => eprintln!("skipped: nobody has subordinate ids in /etc/subuid and /etc/subgid"),
    }
    for (who, ids, isolation) in others {
        match build(ids, isolation) {
            Ok(layers) => compare(who, &layers, &as_root),
            Err(outcome) if needs_namespaces(&outcome) => {
                eprintln!("skipped: {who} cannot run steps here:\n{outcome}");
            }
            Err(outcome) => panic!("{who}: {outcome}"),
        }
    }
}

#[test]
fn layers_are_the_same_whoever_builds() {
    everybody(DOCKERFILE, None, |who, (layers, _), (as_root, _)| {
        assert_eq!(as_root.len(), 4);
        assert_eq!(layers, as_root, "{who}");
    });
}

#[test]
fn a_program_finds_the_same_users_and_owners_whoever_builds() {
    let dir = tempfile::tempdir().expect("a directory");
    let program = match compile("users", dir.path()) {
        Ok(program) => program,
        Err(reason) => {
            eprintln!("skipped: no static C program can be made here: {reason}");
            return;
        }
    };
    everybody(WITH_PROGRAM, Some(&program), |who, theirs, of_root| {
        for result in ["result", "app/result", "tmp/id"] {
            let read = |env: &TestEnv| {
                let path = env.path("files").join(result);
                fs::read_to_string(path).expect("a result")
            };
            let (theirs, of_root) = (read(&theirs.1), read(&of_root.1));
            // With many ids no `stat` is answered, so that a device is seen as the file that stands for it.
            let skipped = |line: &str| who == WITH_IDS && line.starts_with("/t/null ");
            // Calls that do not exist where system calls are answered, and what they would have made.
            let emulated = who.ends_with("without anything");
            let absent = ["32: ", "of32", "openat2", "home/opened", "listxattrat"];
            let counts = |line: &&str| !emulated || !absent.iter().any(|what| line.contains(what));
            let other: Vec<_> = theirs
                .lines()
                .filter(counts)
                .zip(of_root.lines().filter(counts))
                .filter(|(theirs, of_root)| theirs != of_root && !skipped(theirs))
                .collect();
            assert!(other.is_empty(), "{who}: {result}: {other:#?}");
            let count = |text: &str| text.lines().filter(counts).count();
            assert_eq!(count(&theirs), count(&of_root), "{who}");
        }
        if who != WITH_IDS && !who.ends_with("without anything") {
            assert_eq!(theirs.0, of_root.0, "{who}");
        }
    });
}

/// A program that prints what calls on files give.
const WITH_CALLS: &str = "FROM base\nCOPY users /users\nRUN exec /users >/result 2>&1\n";

#[test]
fn calls_on_files_give_the_same_where_they_are_answered() {
    let dir = tempfile::tempdir().expect("a directory");
    let program = match compile("files", dir.path()) {
        Ok(program) => program,
        Err(reason) => {
            eprintln!("skipped: no static C program can be made here: {reason}");
            return;
        }
    };
    everybody(WITH_CALLS, Some(&program), |who, theirs, of_root| {
        if !who.ends_with("without anything") {
            return;
        }
        // The number of a descriptor that a script is started by is anybody's.
        let read = |env: &TestEnv| -> Vec<String> {
            let text = fs::read_to_string(env.path("files/result")).expect("a result");
            let lines = text.lines().map(|line| match line.split_once("/dev/fd/") {
                Some((before, after)) => {
                    let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
                    format!("{before}/dev/fd/N{after}")
                }
                None => line.to_owned(),
            });
            lines.collect()
        };
        let (theirs, of_root) = (read(&theirs.1), read(&of_root.1));
        let is_whole = of_root.last().is_some_and(|line| line == "connected: 1000");
        assert!(is_whole, "{of_root:#?}");
        // The step of a builder with capabilities that it gives up may not look at the builder's own descriptors.
        let is_open =
            |line: &str| !who.starts_with("root") || !line.starts_with("chdir without descriptors");
        let other: Vec<_> = theirs
            .iter()
            .zip(&of_root)
            .filter(|(theirs, of_root)| theirs != of_root && is_open(of_root))
            .collect();
        assert!(other.is_empty(), "{who}: {other:#?}");
        assert_eq!(theirs.len(), of_root.len(), "{who}");
    });
}
