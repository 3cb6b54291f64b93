//! Steps in real namespaces, with a static busybox as the root: as root, and once more as an ordinary user with and
//! without subordinate ids, by starting this very binary again in a user namespace.

#![expect(
    clippy::unwrap_used,
    reason = "a step of a test that fails unexpectedly may panic anywhere"
)]
#![expect(clippy::print_stderr, reason = "a skipped test says why")]

mod again;
mod ahead;
mod ending;
mod mounts;
mod process;
mod root;

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rbuild::{
    progress::Stream,
    sandbox::{Cancel, Exit, IdMap, ProcessSpec, Rootfs, Sandbox, SandboxError, etc_hosts},
    snapshot::owner,
};

use crate::support::copy;

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
        copy(Path::new(BUSYBOX), &stage.path("lower/bin/busybox"));
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
