//! What a step is as a process: its output, status, privileges, user, limits and network.

use std::{fs, os::unix::fs::PermissionsExt as _};

use rbuild::sandbox::{Cancel, Exit, IdMap, MountKind, MountSpec, Network, ProcessSpec, Ulimit};

use super::{Stage, sandbox};

#[test]
fn output_exit_status_and_signals_come_through() {
    let Some(stage) = Stage::new() else { return };
    let ran = stage.run(&stage.spec("echo out; echo err >&2; exit 3"));
    assert_eq!(ran.exit, Exit::Code(3));
    assert_eq!((&*ran.stdout, &*ran.stderr), ("out\n", "err\n"));
    let ran = stage.run(&stage.spec("sh -c 'kill -9 $$'; exit $?"));
    assert_eq!(ran.exit, Exit::Code(137));
    assert_eq!(stage.script("seq 1 100000 | tail -n 1; cat"), "100000\n");
}

#[test]
fn what_cannot_be_started_has_a_shell_s_status() {
    let Some(stage) = Stage::new() else { return };
    fs::write(stage.path("lower/plain"), "text").unwrap();
    fs::write(stage.path("lower/garbage"), "text").unwrap();
    fs::set_permissions(
        stage.path("lower/garbage"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    let not_started = |program: &str| {
        let mut spec = stage.spec("");
        spec.argv = vec![program.into()];
        match stage.run(&spec).exit {
            Exit::NotStarted { code, reason } => (code, reason),
            other => panic!("{program}: {other:?}"),
        }
    };
    for (program, code, reason) in [
        (
            "nope",
            127,
            "exec: \"nope\": executable file not found in $PATH",
        ),
        (
            "/bin/nope",
            127,
            "exec: \"/bin/nope\": stat /bin/nope: no such file or directory",
        ),
        ("/plain", 126, "exec: \"/plain\": permission denied"),
        ("/garbage", 126, "exec /garbage: exec format error"),
    ] {
        assert_eq!(not_started(program), (code, reason.to_owned()));
    }
    let mut spec = stage.spec("");
    spec.argv = vec!["echo".into(), "found".into()];
    assert_eq!(stage.run(&spec).stdout, "found\n");
}

#[test]
fn no_signal_is_ignored_or_blocked_at_first() {
    let Some(stage) = Stage::new() else { return };
    let mut spec = stage.spec("");
    spec.argv = ["grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"]
        .map(Into::into)
        .to_vec();
    assert_eq!(
        stage.run(&spec).stdout,
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"
    );
}

#[test]
fn privileges_are_those_of_a_docker_container() {
    let Some(stage) = Stage::new() else { return };
    let status = stage.script("grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status; umask");
    let expected = "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
                    CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n0022\n";
    assert_eq!(status, expected);
    assert_eq!(
        stage.script("mount -t tmpfs x /tmp 2>/dev/null || echo refused; unshare -m true 2>/dev/null || echo refused"),
        "refused\nrefused\n"
    );
    let mut spec =
        stage.spec("grep -E '^(CapEff|CapBnd|Seccomp:)' /proc/self/status; mount -t tmpfs x /tmp");
    spec.insecure = true;
    let ran = stage.run(&spec);
    assert_eq!(ran.exit, Exit::Code(0), "{ran:?}");
    // Where owners are emulated, that takes a filter.
    let emulated = IdMap::current().unwrap() != IdMap::Full;
    assert!(emulated || ran.stdout.contains("Seccomp:\t0"), "{ran:?}");
    assert!(!ran.stdout.contains("a80425fb"), "{ran:?}");
}

#[test]
fn users_and_groups_are_taken_on() {
    let Some(stage) = Stage::new() else { return };
    let mut spec = stage.spec("id -u; id -g; id -G; echo x > /dev/stdout; touch /tmp/f; pwd");
    fs::set_permissions(stage.path("lower/tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    (spec.uid, spec.gid, spec.groups) = (1000, 1001, vec![5, 7]);
    spec.cwd = "/srv/app".into();
    let ran = stage.run(&spec);
    assert_eq!(ran.stdout, "1000\n1001\n1001 5 7\nx\n/srv/app\n", "{ran:?}");
    assert_eq!(stage.owner("tmp/f"), (1000, 1001));
    assert_eq!(stage.owner("srv/app"), (1000, 1001));
}

#[test]
fn owners_are_as_the_step_made_them() {
    let Some(stage) = Stage::new() else { return };
    fs::set_permissions(stage.path("lower/tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(stage.path("lower/etc/group"), "root:x:0:\n").unwrap();
    let out = stage.script(
        "touch /a && chown 33:44 /a && chmod 4755 /a && stat -c '%u %g %a' /a && chown :45 /a && chown 34 /a
         stat -c '%u %g %a' /a
         mkdir -p /d/e && chown -R 1000:1001 /d && stat -c '%u %g' /d/e && cp -a /a /d/e/copy && stat -c '%u %g' /d/e/copy
         ln -s nowhere /l && chown -h 5:6 /l && stat -c '%u %g' /l
         mknod -m 644 /null c 1 3; stat -c '%t %T %F' /null && mkfifo /fifo && chown 7:7 /fifo; touch /far && chown 3000000:7 /far
         echo app:x:1234:1234::/home/app:/bin/sh >> /etc/passwd; echo app:x:1234: >> /etc/group; mkdir -p /home/app; chown app:app /home/app; id app
         su app -c 'id -un; touch /tmp/f; mkdir /tmp/d; echo x > /tmp/d/g; ln -s a /tmp/d/l; (set -C; echo > /tmp/excl)
                    chown 0 /tmp/f 2>/dev/null || echo refused; (sleep 0.1; touch /tmp/late) &'
         stat -c '%n %u %g' /tmp/* /tmp/d/*; mkdir -m 2775 /shared; chgrp 50 /shared; touch /shared/f; mkdir /shared/d
         stat -c '%u %g %a' /shared/f /shared/d; cd /home/app && ls -ldn . | awk '{print $3, $4}'
         sleep 0.3; stat -c '%u %g' /tmp/late; id -u",
    );
    // With many ids, a device is a file with a note, and nobody pretends otherwise.
    let out = out.replace("0 0 regular empty file", "1 3 character special file");
    assert_eq!(
        out,
        "33 44 4755\n34 45 755\n1000 1001\n34 45\n5 6\n1 3 character special file\n\
         uid=1234(app) gid=1234(app) groups=1234(app)\napp\nrefused\n\
         /tmp/d 1234 1234\n/tmp/excl 1234 1234\n/tmp/f 1234 1234\n/tmp/d/g 1234 1234\n/tmp/d/l 1234 1234\n\
         0 50 644\n0 50 2755\n1234 1234\n1234 1234\n0\n"
    );
    for (path, owner) in [
        ("a", (34, 45)),
        ("d", (1000, 1001)),
        ("d/e/copy", (34, 45)),
        ("l", (5, 6)),
        ("fifo", (7, 7)),
        ("null", (0, 0)),
        ("far", (3_000_000, 7)),
        ("tmp/d/g", (1234, 1234)),
        ("tmp/d/l", (1234, 1234)),
        ("tmp/late", (1234, 1234)),
        ("etc/passwd", (0, 0)),
    ] {
        assert_eq!(stage.owner(path), owner, "{path}");
    }
}

#[test]
fn limits_and_shared_memory_are_set() {
    let Some(stage) = Stage::new() else { return };
    let mut spec =
        stage.spec("ulimit -n; ulimit -Hn; df -k /dev/shm | tail -n 1 | awk '{print $2}'");
    spec.ulimits = vec![Ulimit {
        name: "nofile".into(),
        soft: Some(1024),
        hard: Some(2048),
    }];
    spec.shm_size = Some(128 << 20);
    assert_eq!(stage.run(&spec).stdout, "1024\n2048\n131072\n");
    // One of a given size is for programs, too, as in BuildKit. Device files are no matter of this test.
    for (size, options) in [
        (None, "rw,nosuid,noexec,relatime"),
        (Some(1 << 20), "rw,nosuid,relatime"),
    ] {
        let mut sized = stage.spec(
            "sed -n 's,\\,nodev,,; s,.* /dev/shm tmpfs \\(.*\\)\\,size.*,\\1,p' /proc/mounts",
        );
        sized.shm_size = size;
        assert_eq!(stage.run(&sized).stdout, format!("{options}\n"));
    }
    // A mount in its place replaces it.
    let mut replaced = stage.spec(
        "sed -n 's/,nodev//; / \\/dev\\/shm /p' /proc/mounts | grep -v inode64 | cut -d, -f1-3",
    );
    replaced.mounts = vec![MountSpec::new(
        "/dev/shm",
        MountKind::Tmpfs {
            size: Some(64 << 20),
            readonly: false,
        },
    )];
    let out = stage.run(&replaced).stdout;
    assert_eq!(out, "tmpfs /dev/shm tmpfs rw,nosuid,relatime\n");
    spec.ulimits[0].name = "files".into();
    let error = stage.try_run(&spec).unwrap_err();
    assert_eq!(error.to_string(), "`files` is not a resource limit");
}

#[test]
fn network_none_has_a_lone_loopback() {
    let Some(stage) = Stage::new() else { return };
    let mut spec = stage.spec("ls /sys/class/net | grep -vE '^(bond|tunl|sit|ip6|gre|erspan|ip_vti|dummy)'; cat /sys/class/net/lo/flags");
    spec.network = Network::None;
    assert_eq!(stage.run(&spec).stdout, "lo\n0x9\n");
}

#[test]
fn a_step_finds_nothing_of_the_one_before_it() {
    let Some(stage) = Stage::new() else { return };
    let sandbox = sandbox();
    let run = |spec: &ProcessSpec| {
        stage
            .run_in(&sandbox, spec, &Cancel::new().unwrap())
            .unwrap()
    };
    // The numbers of descriptors are among the options of the root: none is left open either.
    let look = "cat /proc/self/mounts; hostname; ls /dev /dev/shm /dev/mqueue; ls -d /proc/[0-9]*; id; umask";
    let first = run(&stage.spec(look));
    assert_eq!(first.exit, Exit::Code(0), "{first:?}");
    let spoil = "(sleep 1000 &); hostname other; umask 0; mount -t tmpfs x /tmp\n\
                 touch /dev/x /dev/shm/x /dev/mqueue/x; echo out; echo err >&2; exit 3";
    let mut spoil = stage.spec(spoil);
    spoil.insecure = true;
    spoil.hostname = "spoiled".to_owned();
    spoil.ulimits = vec![Ulimit {
        name: "nofile".to_owned(),
        soft: Some(100),
        hard: Some(100),
    }];
    let spoiled = run(&spoil);
    assert_eq!(spoiled.exit, Exit::Code(3), "{spoiled:?}");
    assert_eq!(spoiled.stdout, "out\n");
    assert_eq!(run(&stage.spec(look)), first);
    let mut missing = stage.spec("");
    missing.argv = vec!["/bin/missing".into()];
    let refused = run(&missing).exit;
    assert!(
        matches!(refused, Exit::NotStarted { code: 127, .. }),
        "{refused:?}"
    );
    assert_eq!(run(&stage.spec(look)), first);
    let cancel = Cancel::new().unwrap();
    let endless = stage.spec("echo cancel me; sleep 1000");
    let canceled = stage.run_in(&sandbox, &endless, &cancel).unwrap();
    assert_eq!(canceled.exit, Exit::Canceled);
    assert_eq!(run(&stage.spec(look)), first);
    let mut alone = stage.spec("ls /sys/class/net/lo");
    alone.network = Network::None;
    assert_eq!(run(&alone).exit, Exit::Code(0));
    assert_eq!(run(&stage.spec(look)), first);
}
