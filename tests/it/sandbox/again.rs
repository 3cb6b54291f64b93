//! The other tests once more as an ordinary user, and what a probe says of this machine.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use rbuild::sandbox::{Ability, IdMap};

use super::{Stage, sandbox};

/// Runs the tests of this directory whose names contain one of `only` again as user 1234 in a user namespace. `files` are
/// bound over files of the host first, in a mount namespace of their own.
fn run_again_as_user(files: &[(&str, &Path)], only: &[&str]) {
    let bind = |(target, source): &(&str, &Path)| {
        format!("mount --bind '{}' {target} && ", source.display())
    };
    let binds = files.iter().map(bind).collect::<Vec<_>>().concat();
    let arguments = only.iter().chain(&["--skip", "again_as"]);
    let script = format!(
        "{binds}exec setpriv --reuid 1234 --regid 1234 --clear-groups \
         bash -c 'exec -a rbuild-unshare \"$@\"' - \"$@\""
    );
    let output = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", &script, "sh"])
        .arg(env!("CARGO_BIN_EXE_rbuild"))
        .arg(std::env::current_exe().unwrap())
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("owners_are_as_the_step_made_them ... ok"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Whether the tools for that are here, and we are the first to run.
fn can_run_again() -> bool {
    let Some(_) = Stage::new() else { return false };
    if IdMap::current().unwrap() != IdMap::Full {
        return false;
    }
    let missing = ["unshare", "setpriv", "bash", "newuidmap"]
        .into_iter()
        .find(|tool| {
            let path = Path::new("/usr/bin").join(tool);
            !path.try_exists().unwrap()
        });
    if let Some(tool) = missing {
        eprintln!("skipped: needs {tool}");
    }
    missing.is_none()
}

#[test]
fn again_as_a_user_with_subordinate_ids() {
    if !can_run_again() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (passwd, ids) = (dir.path().join("passwd"), dir.path().join("ids"));
    // newuidmap wants to know its caller's name.
    let mut users = fs::read_to_string("/etc/passwd").unwrap();
    users += "rbuild-test:x:1234:1234::/:/bin/sh\n";
    fs::write(&passwd, users).unwrap();
    fs::write(&ids, "1234:200000:65536\n").unwrap();
    run_again_as_user(
        &[
            ("/etc/passwd", &passwd),
            ("/etc/subuid", &ids),
            ("/etc/subgid", &ids),
        ],
        &["sandbox::"],
    );
}

#[test]
fn again_as_a_user_with_a_single_id() {
    if can_run_again() {
        run_again_as_user(&[], &["sandbox::"]);
    }
}

#[test]
fn again_as_a_user_where_proc_is_masked() {
    if can_run_again() {
        // As in a container: the kernel then refuses a /proc that would show what is hidden.
        run_again_as_user(
            &[("/proc/version", Path::new("/dev/null"))],
            &[
                "output_exit_status",
                "orphans_die_where",
                "owners_are",
                "sandbox_files",
                "mounts_nest",
                "canceling",
                "a_killed_program",
                "hangs_when_asked",
            ],
        );
    }
}

#[test]
fn a_probe_finds_what_steps_can_do() {
    let Some(stage) = Stage::new() else { return };
    let probe = sandbox().probe(&stage.path("work")).unwrap();
    assert!(probe.can(Ability::Proc) && probe.can(Ability::Notification));
    assert_eq!(probe.identity.uid, 0);
    assert_eq!(probe.ids, Some(IdMap::current().unwrap()));
    assert_eq!(fs::read_dir(stage.path("work")).unwrap().count(), 0);
    let missing = sandbox().probe(Path::new("/no/such/directory")).unwrap();
    assert!(!missing.can(Ability::Overlay) && missing.can(Ability::Mount));
}
