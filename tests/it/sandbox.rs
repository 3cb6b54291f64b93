//! Steps in real namespaces, with a static busybox as the root: as root, and once more as an ordinary user with and
//! without subordinate ids, by starting this very binary again in a user namespace.

#![expect(
    clippy::unwrap_used,
    reason = "a step of a test that fails unexpectedly may panic anywhere"
)]
#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rbuild::{
    progress::Stream,
    sandbox::{
        Ability, Cancel, Exit, IdMap, MountKind, MountSpec, Network, ProcessSpec, Rootfs, Sandbox,
        SandboxError, Ulimit, etc_hosts,
    },
    snapshot::owner,
};

const BUSYBOX: &str = "/bin/busybox";

/// A root of busybox as the lower directory of an overlay.
struct Stage {
    dir: tempfile::TempDir,
}

/// What became of a step.
#[derive(Debug, PartialEq)]
struct Ran {
    exit: Exit,
    stdout: String,
    stderr: String,
}

impl Stage {
    /// `None`, with the reason printed, where steps cannot run.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        if !Path::new(BUSYBOX).try_exists().unwrap() {
            eprintln!("skipped: needs {BUSYBOX} (Debian: busybox-static)");
            return None;
        }
        let stage = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for dir in ["lower/bin", "lower/etc", "lower/tmp", "upper", "work"] {
            fs::create_dir_all(stage.path(dir)).unwrap();
        }
        fs::copy(BUSYBOX, stage.path("lower/bin/busybox")).unwrap();
        let applets = std::process::Command::new(BUSYBOX)
            .arg("--list")
            .output()
            .unwrap();
        for name in String::from_utf8(applets.stdout).unwrap().lines() {
            if name != "busybox" {
                let link = stage.path("lower/bin").join(name);
                std::os::unix::fs::symlink("busybox", link).unwrap();
            }
        }
        fs::write(
            stage.path("lower/etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\n",
        )
        .unwrap();
        Some(stage)
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    fn spec(&self, script: &str) -> ProcessSpec {
        let argv = ["/bin/sh", "-c", script].map(OsString::from).to_vec();
        let rootfs = Rootfs::Overlay {
            lower: vec![self.path("lower")],
            upper: self.path("upper"),
            work: self.path("work"),
            userxattr: IdMap::current().unwrap().needs_userxattr(),
        };
        let mut spec = ProcessSpec::new(rootfs, argv);
        spec.env.push(("PATH".into(), "/usr/bin:/bin".into()));
        spec.etc_hosts = Some(etc_hosts(&spec.hostname, &[]));
        spec.resolv_conf = Some(b"nameserver 192.0.2.1\n".to_vec());
        spec
    }

    fn try_run(&self, spec: &ProcessSpec) -> Result<Ran, SandboxError> {
        self.run_in(&sandbox(), spec, &Cancel::new().unwrap())
    }

    fn run_in(
        &self,
        sandbox: &Sandbox,
        spec: &ProcessSpec,
        cancel: &Cancel,
    ) -> Result<Ran, SandboxError> {
        for dir in ["upper", "work"] {
            fs::remove_dir_all(self.path(dir)).unwrap();
            fs::create_dir(self.path(dir)).unwrap();
        }
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let exit = sandbox.run(spec, cancel, &mut |stream, bytes| {
            match stream {
                Stream::Stdout => stdout.extend_from_slice(bytes),
                Stream::Stderr => stderr.extend_from_slice(bytes),
            }
            if stdout.ends_with(b"cancel me\n") {
                cancel.cancel();
            }
        })?;
        Ok(Ran {
            exit,
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        })
    }

    fn run(&self, spec: &ProcessSpec) -> Ran {
        self.try_run(spec).unwrap()
    }

    /// Runs a script that must succeed; gives its output.
    fn script(&self, script: &str) -> String {
        let ran = self.run(&self.spec(script));
        assert_eq!(ran.exit, Exit::Code(0), "{ran:?}");
        ran.stdout
    }

    /// The owner of a file that the step has changed, recorded or real.
    fn owner(&self, path: &str) -> (u32, u32) {
        let host = self.path("upper").join(path);
        let metadata = fs::symlink_metadata(&host).unwrap();
        let recorded = if metadata.is_file() || metadata.is_dir() {
            owner::Owner::read(&host).unwrap()
        } else {
            let records = owner::load(&self.path("owners")).unwrap();
            records.get(Path::new(path)).copied()
        };
        recorded.map_or((metadata.uid(), metadata.gid()), |o| (o.uid, o.gid))
    }

    /// Everything in the upper directory, relative and sorted.
    fn changes(&self) -> Vec<String> {
        fn walk(dir: &Path, base: &Path, into: &mut Vec<String>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                into.push(path.strip_prefix(base).unwrap().display().to_string());
                if path.is_dir() && !path.is_symlink() {
                    walk(&path, base, into);
                }
            }
        }
        let mut all = Vec::new();
        let upper = self.path("upper");
        walk(&upper, &upper, &mut all);
        all.sort();
        all
    }
}

fn sandbox() -> Sandbox {
    Sandbox::with_program(env!("CARGO_BIN_EXE_rbuild").into())
}

/// What a root without them gets in every step.
const KERNEL_DIRS: [&str; 3] = ["dev", "proc", "sys"];

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
fn kernel_file_systems_are_there_and_masked() {
    let Some(stage) = Stage::new() else { return };
    let out = stage.script(
        "ls /dev | tr '\\n' ' '; echo; cat /proc/kcore /proc/keys /proc/timer_list | wc -c; ls /sys/firmware | wc -l
         echo 1 2>/dev/null > /proc/sys/kernel/hostname || echo read-only
         touch /sys/x 2>/dev/null || echo read-only
         echo > /dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c
         stat -c %a /dev/shm /dev/null /dev; df -k /dev /dev/shm | awk '{print $2}'
         test -c /dev/ptmx && echo ptmx; readlink /dev/fd; hostname; pwd; ls /proc/self/fd | wc -l",
    );
    let expected = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero \n0\n0\n\
                    read-only\nread-only\n4\n4\n1777\n666\n755\n1K-blocks\n65536\n65536\nptmx\n/proc/self/fd\nbuildkitsandbox\n/\n4\n";
    assert_eq!(out, expected);
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

#[test]
fn a_step_runs_in_what_was_set_up_on_the_one_before() {
    let Some(stage) = Stage::new() else { return };
    let (sandbox, cancel) = (sandbox(), Cancel::new().unwrap());
    for (turn, is_taken) in [(0, true), (1, false), (2, true)] {
        // The helper that has run this step sets up the next one.
        let first = stage.spec("echo first >/first; touch /dev/shm/x");
        let first = stage.run_in(&sandbox, &first, &cancel).unwrap();
        assert_eq!(first.exit, Exit::Code(0), "{first:?}");
        let place = |name: &str| stage.path(&format!("{name}-{turn}"));
        let (upper, work) = (place("next-upper"), place("next-work"));
        for dir in [&upper, &work] {
            fs::create_dir(dir).unwrap();
        }
        let mut spec = stage.spec("cat /first /in; ls /dev/shm; stat -c %a /made; echo next >/out");
        let userxattr = IdMap::current().unwrap().needs_userxattr();
        let on = |lower: Vec<PathBuf>| Rootfs::Overlay {
            lower,
            upper: upper.clone(),
            work: work.clone(),
            userxattr,
        };
        spec.rootfs = on(vec![stage.path("lower")]);
        let set_up = sandbox.set_up(&spec, &stage.path("upper"));
        assert!(set_up.is_some(), "a helper waits");
        // The state of the first step gets its name.
        fs::rename(stage.path("upper"), place("state")).unwrap();
        fs::create_dir(stage.path("upper")).unwrap();
        let set_up = set_up.filter(|_| is_taken);
        spec.rootfs = on(if is_taken {
            // Nothing is set up anew.
            vec![PathBuf::from("/nowhere/at/all")]
        } else {
            vec![place("state"), stage.path("lower")]
        });
        // Of the step's own mounts nothing was known then.
        let bytes = |mode, content: &str| MountKind::Bytes {
            content: content.as_bytes().to_vec(),
            mode,
            uid: 0,
            gid: 0,
        };
        spec.mounts = vec![
            MountSpec::new("/in", bytes(0o644, "mounted\n")),
            MountSpec::new("/made", bytes(0o400, "")),
        ];
        let mut stdout = Vec::new();
        let mut sink = |_, bytes: &[u8]| stdout.extend_from_slice(bytes);
        let exit = sandbox.run_in(set_up, &spec, &cancel, &mut sink, &mut || {});
        assert_eq!(exit.unwrap(), Exit::Code(0));
        let stdout = String::from_utf8(stdout).unwrap();
        assert_eq!(stdout, "first\nmounted\n400\n", "turn {turn}");
        assert_eq!(fs::read(upper.join("out")).unwrap(), b"next\n");
        for absent in ["in", "made", "first"] {
            assert!(!upper.join(absent).try_exists().unwrap(), "{absent}");
        }
    }
}

#[test]
fn sandbox_files_leave_no_trace() {
    let Some(stage) = Stage::new() else { return };
    let out = stage.script(
        "cat /etc/resolv.conf /etc/hosts; echo x 2>/dev/null >> /etc/hosts || echo read-only",
    );
    assert!(out.starts_with("nameserver 192.0.2.1\n127.0.0.1\tlocalhost buildkitsandbox\n"));
    assert!(out.ends_with("read-only\n"));
    assert_eq!(stage.changes(), KERNEL_DIRS);
    // The same through a link that leads to nothing yet.
    std::os::unix::fs::symlink("../run/x/resolv.conf", stage.path("lower/etc/resolv.conf"))
        .unwrap();
    assert_eq!(
        stage.script("cat /run/x/resolv.conf"),
        "nameserver 192.0.2.1\n"
    );
    assert_eq!(stage.changes(), KERNEL_DIRS);
}

#[test]
fn mounts_nest_shadow_and_vanish() {
    let Some(stage) = Stage::new() else { return };
    for dir in ["tree/sub", "below", "cache"] {
        fs::create_dir_all(stage.path(dir)).unwrap();
    }
    fs::write(stage.path("tree/sub/f"), "tree").unwrap();
    fs::write(stage.path("below/g"), "below").unwrap();
    std::os::unix::fs::symlink("/sub/f", stage.path("tree/link")).unwrap();
    let mut spec = stage.spec(
        "cat /a/l/f /a/ctx /a/both/g; stat -c '%a %u %g %s' /run/secrets/s
         echo w > /a/w && echo c > /cache/kept && echo d > /a/both/g && cat /a/both/g
         touch /a/l/no 2>/dev/null || echo read-only; touch /run/secrets/s 2>/dev/null || echo read-only
         stat -c %a /a; df -k /a | tail -n 1 | awk '{print $2}'; sh /dev/pipes/EOF
         echo x >> /copy/f && cat /copy/f; echo y > /copies/h && ls /copies",
    );
    let bytes = |content: &str, mode, uid, gid| MountKind::Bytes {
        content: content.into(),
        mode,
        uid,
        gid,
    };
    let scratch = |source: &str| MountKind::ScratchBind {
        source: stage.path(source),
    };
    let tree = |lower: &[&str], source: &str, writable| MountKind::Tree {
        lower: lower.iter().map(|l| stage.path(l)).collect(),
        source: source.into(),
        writable,
    };
    spec.mounts = vec![
        MountSpec::new("/a", MountKind::Tmpfs { size: None }),
        MountSpec::new(
            "/a",
            MountKind::Tmpfs {
                size: Some(1 << 20),
            },
        ),
        MountSpec::new("/a/l", tree(&["tree"], "/sub", false)),
        MountSpec::new("/a/ctx", tree(&["tree"], "link", false)),
        MountSpec::new("/a/both", tree(&["below", "tree"], "/", true)),
        MountSpec::new(
            "/cache",
            MountKind::Bind {
                source: stage.path("cache"),
                readonly: false,
            },
        ),
        MountSpec::new("/copy/f", scratch("tree/sub/f")),
        MountSpec::new("/copies", scratch("below")),
        MountSpec::new("/run/secrets/s", bytes("s3", 0o400, 5, 6)),
        MountSpec::new("/dev/pipes/EOF", bytes("echo script", 0o755, 0, 0)),
    ];
    let ran = stage.run(&spec);
    assert_eq!(
        ran.stdout,
        "treetreebelow400 5 6 2\nd\nread-only\nread-only\n1777\n1024\nscript\ntreex\ng\nh\n",
        "{ran:?}"
    );
    assert_eq!(fs::read_to_string(stage.path("below/g")).unwrap(), "below");
    assert_eq!(fs::read_to_string(stage.path("cache/kept")).unwrap(), "c\n");
    assert_eq!(stage.changes(), KERNEL_DIRS);
}

#[test]
fn a_mount_cannot_leave_the_root() {
    let Some(stage) = Stage::new() else { return };
    let outside = stage.path("outside");
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, stage.path("lower/out")).unwrap();
    std::os::unix::fs::symlink("../../../../../../..", stage.path("lower/up")).unwrap();
    let mut spec = stage.spec("mount | grep -c deep; ls /up");
    spec.mounts = vec![
        MountSpec::new("/out/deep", MountKind::Tmpfs { size: None }),
        MountSpec::new("/up/deep", MountKind::Tmpfs { size: None }),
    ];
    let ran = stage.run(&spec);
    assert!(ran.stdout.starts_with("2\n"), "{ran:?}");
    assert!(ran.stdout.contains("deep"), "{ran:?}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
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
        },
    )];
    let out = stage.run(&replaced).stdout;
    assert_eq!(out, "tmpfs /dev/shm tmpfs rw,nosuid,relatime\n");
    spec.ulimits[0].name = "files".into();
    let error = stage.try_run(&spec).unwrap_err();
    assert_eq!(error.to_string(), "`files` is not a resource limit");
}

#[test]
fn an_agent_s_socket_is_passed_on() {
    let Some(stage) = Stage::new() else { return };
    let host = stage.path("agent");
    let listener = std::os::unix::net::UnixListener::bind(&host).unwrap();
    let server = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = listener.accept().unwrap();
        let mut question = [0; 5];
        stream.read_exact(&mut question).unwrap();
        stream.write_all(b"answer").unwrap();
        question
    });
    let mut spec = stage.spec("stat -c '%a %u %g %F' /run/agent; echo ping | nc local:/run/agent");
    spec.mounts = vec![MountSpec::new(
        "/run/agent",
        MountKind::Socket {
            host,
            mode: 0o600,
            uid: 3,
            gid: 4,
        },
    )];
    let ran = stage.run(&spec);
    assert!(ran.stdout.starts_with("600 3 4 socket\n"), "{ran:?}");
    if ran.stdout.ends_with("answer") {
        assert_eq!(&server.join().unwrap(), b"ping\n");
    } else {
        eprintln!("not checked: this busybox cannot speak to sockets: {ran:?}");
    }
}

#[test]
fn a_missing_source_is_named() {
    let Some(stage) = Stage::new() else { return };
    let mut spec = stage.spec("true");
    spec.mounts = vec![MountSpec::new(
        "/m",
        MountKind::Bind {
            source: "/no/such/place".into(),
            readonly: true,
        },
    )];
    let error = stage.try_run(&spec).unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot open `/no/such/place`: No such file or directory (os error 2)"
    );
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

#[test]
fn a_hundred_layers_are_one_root() {
    let Some(stage) = Stage::new() else { return };
    let mut lower = Vec::new();
    for n in 0..126 {
        // Long names, so that their paths would not fit in the page that mount(2) takes.
        let dir = stage.path(&format!("{n:0100}"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(format!("f{n}")), "").unwrap();
        fs::write(dir.join("top"), format!("{n}\n")).unwrap();
        lower.push(dir);
    }
    lower.push(stage.path("lower"));
    let mut spec = stage.spec("ls /f* | wc -l; cat /top");
    spec.rootfs = Rootfs::Overlay {
        lower,
        upper: stage.path("upper"),
        work: stage.path("work"),
        userxattr: IdMap::current().unwrap().needs_userxattr(),
    };
    assert_eq!(stage.run(&spec).stdout, "126\n0\n");
}

#[test]
fn a_directory_can_be_the_root_itself() {
    let Some(stage) = Stage::new() else { return };
    let mut spec = stage.spec("echo kept > /kept; cat /etc/hosts | wc -l");
    spec.cwd = "/made/on/the/way".into();
    spec.rootfs = Rootfs::Dir {
        path: stage.path("lower"),
        work: stage.path("work"),
    };
    assert_eq!(stage.run(&spec).stdout, "2\n");
    assert!(stage.path("lower/kept").is_file());
    assert!(stage.path("lower/made/on/the/way").is_dir());
    assert!(!stage.path("lower/etc/hosts").try_exists().unwrap());
}

/// Runs the tests of this file whose names contain one of `only` again as user 1234 in a user namespace. `files` are
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
        .args(["--exact", "sandbox::hangs_when_asked"])
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
fn a_probe_finds_what_steps_can_do() {
    let Some(stage) = Stage::new() else { return };
    let probe = sandbox().probe(&stage.path("work")).unwrap();
    assert!(probe.can_run(), "{probe:?}");
    assert!(probe.can(Ability::Proc) && probe.can(Ability::Notification));
    assert_eq!(probe.identity.uid, 0);
    assert_eq!(probe.ids, Some(IdMap::current().unwrap()));
    assert_eq!(fs::read_dir(stage.path("work")).unwrap().count(), 0);
    let missing = sandbox().probe(Path::new("/no/such/directory")).unwrap();
    assert!(!missing.can(Ability::Overlay) && missing.can(Ability::Mount));
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
