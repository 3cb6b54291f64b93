//! A step that tries to get out: each way is tried from inside a `RUN`, as root and as an ordinary user.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::{fs, os::unix::fs::MetadataExt as _};

use super::support::{Outcome, TestEnv, compile};

/// Each line is printed only if something got out.
const ATTEMPTS: &str = r#"FROM base
ARG OUTSIDE
ARG STORE
ARG DISK
RUN --mount=type=secret,id=token test "$(cat /run/secrets/token)" = s3cr3t-of-a-step
RUN <<SCRIPT
exec 2>/dev/null
tell() { echo "ESCAPED: $*"; }
id -u
# Paths.
ln -s / /up; ln -s ../../../../../../../.. /dots; ln -s $OUTSIDE /direct
for way in "" /up /dots /direct/.. /proc/self/root /proc/1/root /proc/self/cwd /proc/self/root/../../.. /proc/1/cwd/../../..; do
  cat "$way$OUTSIDE/marker" && tell "path $way"
  ls "$way$STORE" && tell "store $way"
done
for process in /proc/[0-9]*; do
  cat "$process/root$OUTSIDE/marker" && tell "$process/root"
  tr '\0' '\n' <"$process/environ" | grep s3cr3t && tell "environ of $process"
  ls -l "$process/fd" | grep "$STORE" && tell "descriptor of $process"
done
find / -xdev -name marker -o -xdev -name rbuild.json | grep . && tell "found"
# Secrets of another step.
ls /run/secrets && tell "directory of secrets"
env | grep s3cr3t && tell "variable"
grep -rl s3cr3t-of /run /tmp /etc /dev/shm && tell "file with a secret"
# Mounts.
mkdir -p /m
for kind in tmpfs proc sysfs cgroup2 devtmpfs; do mount -t $kind x /m && tell "mount $kind"; done
mount --bind / /m && tell "bind"; mount -o remount,rw /proc/sys && tell "remount"; mount --make-rshared / && tell "propagation"
umount /proc/keys && tell "umount mask"; umount /etc/hosts && tell "umount"; umount -l /proc && tell "umount /proc"
unshare -m true && tell "unshare mounts"; unshare -r true && tell "unshare users"
# The kernel.
echo x >/proc/sys/kernel/core_pattern && tell "core_pattern"; echo h >/proc/sysrq-trigger && tell "sysrq"
echo 1 >/proc/sys/vm/drop_caches && tell "drop_caches"; head -c 1 /proc/kcore | grep -q . && tell "kcore"
touch /sys/kernel/x && tell "sys"; find /sys/fs/cgroup -maxdepth 1 -name cgroup.procs -writable | grep -q . && echo 0 >/sys/fs/cgroup/cgroup.procs && tell "cgroup"
find /sys/firmware -mindepth 1 | grep -q . && tell "firmware"
date -s 2000-01-01; test "$(date +%Y)" = 2000 && tell "clock"; swapoff -a && tell "swap"; insmod /m/x.ko && tell "module"
# Devices. With a single id a file takes their place, which is empty and can be opened.
ids=$(awk '{ n += $3 } END { print n }' /proc/self/uid_map)
for dir in / /tmp /dev /dev/shm /m; do
  mknod $dir/disk b $DISK; head -c 1 $dir/disk | wc -c | grep -q 1 && tell "disk in $dir"
  mknod $dir/kmsg c 1 11; timeout 1 dd if=$dir/kmsg bs=8192 count=1 | grep -q . && tell "kmsg in $dir"
  test "$ids" = 1 || for device in disk kmsg; do (: <$dir/$device) && tell "$device opens in $dir"; done
  rm -f $dir/disk $dir/kmsg
done
# Devices that are to work.
echo x >/dev/null || tell "no null"; head -c 4 /dev/zero | wc -c | grep -q 4 || tell "no zero"
(: <>/dev/ptmx) || tell "no terminals"
true
SCRIPT
"#;

/// Builds it with a file outside and a store that it is to keep away from.
fn attempt(user: Option<u32>) -> Option<(TestEnv, Outcome)> {
    let env = TestEnv::new();
    env.dockerfile(ATTEMPTS);
    fs::create_dir(env.path("outside")).expect("a directory");
    fs::write(env.path("outside/marker"), "outside\n").expect("a file");
    fs::write(env.path("token"), "s3cr3t-of-a-step").expect("a file");
    env.open_to_others();
    let disk = fs::metadata(env.path("")).expect("a directory").dev();
    let (major, minor) = (rustix::fs::major(disk), rustix::fs::minor(disk));
    let args = [
        "build".to_owned(),
        "--progress=plain".to_owned(),
        "--build-context=base=oci-layout://base".to_owned(),
        "--secret=id=token,src=token".to_owned(),
        format!("--build-arg=OUTSIDE={}", env.path("outside").display()),
        format!("--build-arg=STORE={}", env.path("root").display()),
        format!("--build-arg=DISK={major} {minor}"),
        "context".to_owned(),
    ];
    let outcome = match user {
        None => env.run(&args),
        Some(id) => env.outcome(&mut env.as_user((id, id), &args)),
    };
    if outcome.code == Some(3) {
        eprintln!("skipped: no step can be run here:\n{outcome}");
        return None;
    }
    Some((env, outcome))
}

fn stays_inside(user: Option<u32>) {
    let Some((env, outcome)) = attempt(user) else {
        return;
    };
    let outcome = outcome.success();
    assert!(!outcome.stderr.contains("ESCAPED"), "{outcome}");
    let marker = fs::read_to_string(env.path("outside/marker")).expect("it is still there");
    assert_eq!(marker, "outside\n");
    let mounts = fs::read_to_string("/proc/self/mounts").expect("a list");
    let place = env.path("root");
    assert!(!mounts.contains(place.to_str().expect("text")), "{mounts}");
}

#[test]
fn a_step_of_root_stays_inside() {
    stays_inside(None);
}

#[test]
fn a_step_of_an_ordinary_user_stays_inside() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    stays_inside(Some(54321));
}

/// Each line is printed only if a device file works that is not to. `/dev/zero` is what every control group allows, so nothing but
/// the mounts keeps it shut. Where a file takes the place of a device, it is empty.
const DEVICE_FILES: &str = r#"FROM base AS other
RUN mknod /z c 1 5 && mkdir /in && mknod /in/z c 1 5
FROM base
COPY --from=other /z /copied/z
RUN --mount=type=cache,target=/cache --mount=type=cache,target=/dev/cache \
    --mount=type=bind,target=/context,rw --mount=type=bind,target=/context-ro \
    --mount=type=bind,from=other,target=/other,rw --mount=type=bind,from=other,target=/other-ro \
    --mount=type=bind,from=other,source=/in,target=/in --mount=type=bind,from=other,source=/z,target=/file/z <<SCRIPT
umask 0
tell() { echo "ESCAPED: $*"; }
for dir in / /tmp /dev /dev/shm /dev/pts /proc /sys /cache /dev/cache /context /context-ro /other /other-ro \
    /copied /in /file; do
  mknod $dir/z c 1 5 2>/dev/null
  head -c 1 $dir/z 2>/dev/null | wc -c | grep -q 1 && tell "device in $dir"
done
# Elsewhere the kernel sees to it.
if grep -q 4294967295 /proc/self/uid_map; then
  test -c /z -a -c /dev/z -a -c /dev/shm/z -a -c /cache/z -a -c /other-ro/z -a -c /file/z || tell "nothing tried"
  while read -r _ _ _ _ point options rest; do
    case ",$options," in *,nodev,*) continue ;; esac
    case $rest in *"- devpts "*) continue ;; esac
    test -d "$point" && tell "mount on $point: $options"
  done </proc/self/mountinfo
fi
echo x >/dev/null || tell "no null"
for device in zero full random urandom; do head -c 4 /dev/$device | wc -c | grep -q 4 || tell "no $device"; done
(: <>/dev/ptmx) || tell "no terminals"
true
SCRIPT
RUN --mount=type=tmpfs,target=/t --mount=type=tmpfs,target=/dev/shm,size=1m --mount=type=cache,target=/cache <<SCRIPT
umask 0
for dir in / /dev /t /dev/shm; do
  mknod $dir/in-tmpfs c 1 5; cp -a /copied/z $dir/in-tmpfs; mv /cache/z $dir/in-tmpfs
  head -c 1 $dir/in-tmpfs | wc -c | grep -q 1 && echo "ESCAPED: device in $dir beside a tmpfs"
done 2>/dev/null
true
SCRIPT
RUN --security=insecure --mount=type=tmpfs,target=/t --mount=type=cache,target=/cache <<SCRIPT
umask 0
grep -q 4294967295 /proc/self/uid_map || exit 0
for dir in / /dev /t /cache; do
  mknod $dir/open c 1 5; head -c 1 $dir/open | wc -c | grep -q 1 || echo "SHUT: $dir"; rm $dir/open
done
SCRIPT
"#;

fn device_files(user: Option<u32>, isolation: &str) {
    let env = TestEnv::new();
    env.dockerfile(DEVICE_FILES);
    env.open_to_others();
    for shm in [&[][..], &["--shm-size=1m"]] {
        let mut args = vec![
            "build",
            "--progress=plain",
            "--allow=security.insecure",
            "--build-context=base=oci-layout://base",
            "--isolation",
            isolation,
            "--no-cache",
            "context",
        ];
        args.extend(shm);
        let outcome = match user {
            None => env.run(&args),
            Some(id) => env.outcome(&mut env.as_user((id, id), &args)),
        };
        if outcome.code == Some(3) {
            eprintln!("skipped: no step can be run so here:\n{outcome}");
            return;
        }
        let outcome = outcome.success();
        assert!(!outcome.stderr.contains("ESCAPED: "), "{outcome}");
        if user.is_none() && isolation == "native" {
            assert!(!outcome.stderr.contains("SHUT: "), "{outcome}");
        }
    }
}

#[test]
fn no_device_file_works_but_those_of_dev() {
    device_files(None, "auto");
    if rustix::process::geteuid().is_root() {
        device_files(None, "native");
        device_files(Some(54321), "auto");
    } else {
        eprintln!("not checked: only root can become another user");
    }
}

/// With the numbers of the processes that run the build, as far as they mean anything to a step.
const REACHING_OUT: &str = "FROM base
ARG OUTSIDE
COPY escape /escape
RUN echo started && /escape $OUTSIDE
USER 1234
RUN /escape $OUTSIDE && echo ended
";

/// Builds as `user`, in a mount namespace where part of `/proc` is hidden if `masked`, as in a container.
fn reach_out(program: &std::path::Path, user: Option<u32>, isolation: &str, masked: bool) {
    let env = TestEnv::new();
    env.dockerfile(REACHING_OUT);
    fs::copy(program, env.path("context/escape")).expect("a copy");
    env.open_to_others();
    let mask = if masked {
        "mount --bind /dev/null /proc/version && "
    } else {
        ""
    };
    let become_user = user.map_or(String::new(), |id| {
        format!("setpriv --reuid={id} --regid={id} --clear-groups ")
    });
    let script =
        format!("{mask}exec {become_user}\"$@\" --build-arg=OUTSIDE=\"$$ 1 $PPID\" context");
    let args = [
        "build",
        "--progress=plain",
        "--build-context=base=oci-layout://base",
        "--isolation",
        isolation,
    ];
    let starter = ["unshare", "--mount", "sh", "-c", &script, "sh"];
    let outcome = env.outcome(&mut env.started_by(&starter, &args));
    if outcome.code == Some(3) {
        eprintln!("skipped: no step can be run so here:\n{outcome}");
        return;
    }
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert!(outcome.stderr.contains("ended"), "{outcome}");
    assert!(!outcome.stderr.contains("ESCAPED"), "{outcome}");
}

#[test]
fn a_step_reaches_no_process_beside_it() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become the other users");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let program = match compile("escape", dir.path()) {
        Ok(program) => program,
        Err(reason) => {
            eprintln!("skipped: no static C program can be made here: {reason}");
            return;
        }
    };
    reach_out(&program, None, "auto", false);
    reach_out(&program, None, "chroot", false);
    reach_out(&program, None, "emulate", false);
    reach_out(&program, Some(54321), "auto", false);
    // Then a step shares the process numbers of the machine.
    reach_out(&program, Some(54321), "auto", true);
}

#[test]
fn root_with_fewer_capabilities_builds_all_the_same() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let env = TestEnv::new();
    env.dockerfile(
        "FROM base
RUN --mount=type=tmpfs,target=/t --mount=type=cache,target=/c touch /c/x /t/y && chown -R 5:6 /usr/share && test -c /dev/null
RUN --network=none test -e /proc/net/dev
USER 77
RUN test \"$(id -u)\" = 77
",
    );
    env.open_to_others();
    let args = [
        "build",
        "--no-cache",
        "--build-context=base=oci-layout://base",
        "context",
    ];
    for dropped in [
        "",
        "-sys_resource,-mknod,-net_admin,-sys_ptrace,-sys_nice,-audit_write,-net_raw",
    ] {
        let outcome = if dropped.is_empty() {
            env.run(&args)
        } else {
            let sets = ["inh-caps", "bounding-set"].map(|set| format!("--{set}={dropped}"));
            let starter = ["setpriv", &sets[0], &sets[1]];
            env.outcome(&mut env.started_by(&starter, &args))
        };
        if dropped.is_empty() && outcome.code == Some(3) {
            eprintln!("skipped: no step can be run here:\n{outcome}");
            return;
        }
        assert_eq!(outcome.code, Some(0), "{dropped}: {outcome}");
    }
}
