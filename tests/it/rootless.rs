//! One Dockerfile, three kinds of users, the same layers: root, a user with subordinate ids, a user with none.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::Command,
};

use serde_json::Value;

use super::support::{Outcome, TestEnv};

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

/// Builds as a user; gives the diffIDs of the layers and the last lines of what was said.
fn build_as(ids: (u32, u32)) -> Result<Vec<Value>, Outcome> {
    let env = TestEnv::new();
    env.dockerfile(DOCKERFILE).file("file", "content\n");
    fs::copy(env!("CARGO_BIN_EXE_rbuild"), env.path("rbuild")).expect("a copy");
    let base = env.path("base");
    let copied = Command::new("cp")
        .arg("-r")
        .args([TestEnv::base(), base.clone()])
        .status();
    assert!(copied.expect("cp starts").success());
    fs::set_permissions(env.path(""), fs::Permissions::from_mode(0o755)).expect("a mode");
    give(&env.path(""), ids.0, ids.1);
    let as_user = |args: &[&str]| {
        let inner = env.command(args);
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--reuid={}", ids.0))
            .arg(format!("--regid={}", ids.1))
            .arg("--clear-groups")
            .arg(env.path("rbuild"))
            .args(args)
            .current_dir(env.path(""))
            .env_clear();
        for (key, value) in inner.get_envs() {
            if let Some(value) = value {
                command.env(key, value);
            }
        }
        env.outcome(&mut command)
    };
    let context = format!("base=oci-layout://{}", base.display());
    let built = as_user(&[
        "build",
        "--progress=plain",
        "-t",
        "app",
        "-o",
        "type=image,rewrite-timestamp=true",
        "--build-context",
        &context,
        "context",
    ]);
    if built.code != Some(0) {
        return Err(built);
    }
    let inspect = as_user(&["inspect", "app"]).success();
    let image: Value = serde_json::from_str(&inspect.stdout).expect("JSON");
    let diff_ids = image["images"][0]["config"]["rootfs"]["diff_ids"].clone();
    Ok(diff_ids.as_array().expect("a list").clone())
}

/// Whether the machine is to blame: nothing else counts as a reason to skip.
fn needs_namespaces(outcome: &Outcome) -> bool {
    outcome.code == Some(3) && outcome.stderr.contains("RUN needs namespaces")
}

#[test]
fn layers_are_the_same_whoever_builds() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become the other users");
        return;
    }
    let as_root = match build_as((0, 0)) {
        Ok(layers) => layers,
        Err(outcome) if needs_namespaces(&outcome) => {
            eprintln!("skipped: no step can be run here:\n{outcome}");
            return;
        }
        Err(outcome) => panic!("{outcome}"),
    };
    assert_eq!(as_root.len(), 4);
    let mut others = vec![("a user without subordinate ids", (54321, 54321))];
    match user_with_subordinate_ids() {
        Some(ids) => others.push(("a user with subordinate ids", ids)),
        None => eprintln!("skipped: nobody has subordinate ids in /etc/subuid and /etc/subgid"),
    }
    for (who, ids) in others {
        match build_as(ids) {
            Ok(layers) => assert_eq!(layers, as_root, "{who}"),
            Err(outcome) if needs_namespaces(&outcome) => {
                eprintln!("skipped: {who} cannot run steps here:\n{outcome}");
            }
            Err(outcome) => panic!("{who}: {outcome}"),
        }
    }
}
