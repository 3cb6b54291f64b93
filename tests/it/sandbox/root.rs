//! What a step finds at its root, and what the sandbox leaves there.

use std::fs;

use rbuild::sandbox::{IdMap, Rootfs};

use super::{KERNEL_DIRS, Stage};

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
