//! Builds on a disk that is full.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    process::{Command, ExitStatus, Output},
};

use super::super::support::{Outcome, TestEnv};

/// A store on a small disk of its own, beside a file that takes up nearly all the rest of it. `step` keeps what a command says.
const SCRIPT: &str = r#"
mkdir -p disk said
mount -t tmpfs -o size=40m none disk || exit 99
step() {
    n=$1; shift
    "$@" >said/$n.out 2>said/$n.err
    echo $? >said/$n.code
}
rbuild() { command "$RBUILD" --root disk/root "$@"; }
build() { n=$1; file=$2; shift 2; step $n rbuild build --progress=plain --build-context "base=$BASE" -f context/$file "$@" context; }
fill() {
    free=$(df -k disk | awk 'END { print $4 }')
    dd if=/dev/zero of=disk/filler bs=1024 count=$((free - $1)) 2>/dev/null
}
build kept Dockerfile -t kept
fill 600
build copy Dockerfile.copy -t copy
build run Dockerfile.run -t run
build layer Dockerfile.layer -t layer
step verify rbuild cache verify
step save rbuild save kept -o kept.tar
step tag rbuild tag kept other
step import rbuild cache import cache.tar
dd if=/dev/zero of=disk/filler2 bs=1024 2>/dev/null
step full rbuild cache verify
build none Dockerfile.copy -t copy
rm disk/filler disk/filler2
step after rbuild cache verify
step imported rbuild cache import cache.tar
step whole rbuild cache verify
build copied Dockerfile.copy -t copy
build ran Dockerfile.run -t run
build layered Dockerfile.layer -t layer
step last rbuild cache verify
step left ls disk/root/tmp
"#;

/// What a step of the script said.
fn said(env: &TestEnv, name: &str) -> Outcome {
    let read = |end: &str| fs::read(env.path(&format!("said/{name}.{end}"))).expect("it ran");
    let code = String::from_utf8(read("code")).expect("a number");
    let code: i32 = code.trim().parse().expect("a number");
    let output = Output {
        status: ExitStatus::from_raw(code << 8),
        stdout: read("out"),
        stderr: read("err"),
    };
    Outcome::new(&output, name.to_owned(), &env.path("said"))
}

#[test]
fn privileged_on_a_full_disk_a_step_fails_and_the_store_stays_whole() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    }
    let env = TestEnv::new();
    let mut number = 1u64;
    let noise: String = (0..2_000_000)
        .map(|_| {
            number ^= number << 13;
            number ^= number >> 7;
            number ^= number << 17;
            char::from(b' ' + u8::try_from(number % 64).expect("small"))
        })
        .collect();
    env.file("large", &noise).file("small", "small");
    env.dockerfile("FROM base\nRUN echo kept >/kept\n");
    env.file(
        "Dockerfile.copy",
        "FROM base\nCOPY small /small\nCOPY large /large\n",
    );
    env.file(
        "Dockerfile.run",
        "FROM base\nRUN dd if=/dev/urandom of=/out bs=64k count=32\n",
    );
    // What it writes fits once, as a file; its layer does not fit beside it.
    env.file(
        "Dockerfile.layer",
        "FROM base\nRUN dd if=/dev/urandom of=/out bs=64k count=7\n",
    );
    // What another machine has made of it.
    let _made = env
        .build_on_base(&["-f", "context/Dockerfile.copy"])
        .success();
    let _exported = env.run(&["cache", "export", "cache.tar"]).success();
    let template = env.command::<&str>(&[]);
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", SCRIPT])
        .current_dir(env.path(""))
        .env_clear()
        .envs(template.get_envs().filter_map(|(k, v)| Some((k, v?))))
        .env("RBUILD", env!("CARGO_BIN_EXE_rbuild"))
        .env(
            "BASE",
            format!("oci-layout://{}", TestEnv::base().display()),
        )
        .output();
    if !env.path("said/kept.code").is_file() {
        eprintln!("skipped: a tmpfs cannot be mounted in a namespace here: {output:?}");
        return;
    }
    let kept = said(&env, "kept");
    if kept.code == Some(3) {
        eprintln!("skipped: no step can be run here: {kept}");
        return;
    }
    let _kept = kept.success();

    for (name, step) in [("copy", "COPY large"), ("layer", "RUN dd")] {
        let failed = said(&env, name).exits(3);
        let failed = failed.says("No space left on device").says("make room");
        assert!(failed.stderr.contains(step), "{failed}");
    }
    // Here it is the process of the step that finds no room.
    let ran = said(&env, "run").exits(1).says("No space left on device");
    assert!(ran.stderr.contains("RUN dd"), "{ran}");
    for name in [
        "verify", "save", "full", "after", "imported", "whole", "last",
    ] {
        let _fine = said(&env, name).success();
    }
    let tag = said(&env, "tag");
    assert!(
        tag.code == Some(0) || tag.stderr.contains("No space left"),
        "{tag}"
    );
    let _none = said(&env, "none").exits(3).says("No space left on device");

    let import = said(&env, "import")
        .exits(3)
        .says("No space left on device");
    assert_eq!(import.stdout, "");
    let copied = said(&env, "copied").success();
    assert_eq!(super::hits(&copied), 2, "{copied}");
    for name in ["ran", "layered"] {
        let _built = said(&env, name).success();
    }
    assert_eq!(said(&env, "left").stdout, "", "temporary files are left");
}
