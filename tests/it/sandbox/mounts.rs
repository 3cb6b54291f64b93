//! Mounts of a step.

use std::fs;

use rbuild::sandbox::{MountKind, MountSpec};

use super::Stage;

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
         echo x >> /copy/f && cat /copy/f; echo y > /copies/h && ls /copies
         touch /sealed/no 2>/dev/null || echo read-only; touch /sealed/open/f && ls /sealed",
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
        MountSpec::new(
            "/a",
            MountKind::Tmpfs {
                size: None,
                readonly: true,
            },
        ),
        MountSpec::new(
            "/a",
            MountKind::Tmpfs {
                size: Some(1 << 20),
                readonly: false,
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
        MountSpec::new(
            "/sealed",
            MountKind::Tmpfs {
                size: None,
                readonly: true,
            },
        ),
        MountSpec::new("/sealed/open", scratch("below")),
        MountSpec::new("/copy/f", scratch("tree/sub/f")),
        MountSpec::new("/copies", scratch("below")),
        MountSpec::new("/run/secrets/s", bytes("s3", 0o400, 5, 6)),
        MountSpec::new("/dev/pipes/EOF", bytes("echo script", 0o755, 0, 0)),
    ];
    let ran = stage.run(&spec);
    assert_eq!(
        ran.stdout,
        "treetreebelow400 5 6 2\nd\nread-only\nread-only\n1777\n1024\nscript\ntreex\ng\nh\nread-only\nopen\n",
        "{ran:?}"
    );
    assert_eq!(fs::read_to_string(stage.path("below/g")).unwrap(), "below");
    assert_eq!(fs::read_to_string(stage.path("cache/kept")).unwrap(), "c\n");
    assert_eq!(
        stage.changes(),
        ["proc", "sys"],
        "/dev goes with the script below it"
    );
}

#[test]
fn a_tmpfs_has_the_mode_of_what_it_covers() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(stage) = Stage::new() else { return };
    let covered = stage.path("lower/covered");
    fs::create_dir(&covered).unwrap();
    fs::set_permissions(&covered, fs::Permissions::from_mode(0o2750)).unwrap();
    let mut spec = stage.spec("stat -c %a /covered /covered/new /new /dev/shm");
    let tmpfs = || MountKind::Tmpfs {
        size: None,
        readonly: false,
    };
    spec.mounts = ["/covered", "/covered/new", "/dev/shm", "/new"]
        .map(|target| MountSpec::new(target, tmpfs()))
        .to_vec();
    let ran = stage.run(&spec);
    assert_eq!(ran.stdout, "2750\n1777\n1777\n1777\n", "{ran:?}");
    assert_eq!(
        stage.changes(),
        ["proc", "sys"],
        "what a mount needs goes with it"
    );
}

#[test]
fn a_file_can_take_the_place_of_a_file_system_in_dev() {
    let Some(stage) = Stage::new() else { return };
    let mut spec = stage.spec("cat /dev/shm");
    let content = MountKind::Bytes {
        content: b"file".to_vec(),
        mode: 0o400,
        uid: 0,
        gid: 0,
    };
    spec.mounts = vec![MountSpec::new("/dev/shm", content)];
    let ran = stage.run(&spec);
    assert_eq!(ran.stdout, "file", "{ran:?}");
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
        MountSpec::new(
            "/out/deep",
            MountKind::Tmpfs {
                size: None,
                readonly: false,
            },
        ),
        MountSpec::new(
            "/up/deep",
            MountKind::Tmpfs {
                size: None,
                readonly: false,
            },
        ),
    ];
    let ran = stage.run(&spec);
    assert!(ran.stdout.starts_with("2\n"), "{ran:?}");
    assert!(ran.stdout.contains("deep"), "{ran:?}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
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
