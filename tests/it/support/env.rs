//! A directory of its own for each test, and the program run in it with nothing of the host's environment.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::Outcome;

/// A home, a store and a build context that vanish with the test.
pub(crate) struct TestEnv {
    dir: tempfile::TempDir,
    vars: Vec<(String, String)>,
}

impl TestEnv {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("rbuild-it-")
            .tempdir()
            .expect("a temporary directory");
        for name in ["home", "context", "tmp"] {
            fs::create_dir(dir.path().join(name)).expect("a directory in the temporary one");
        }
        fs::write(dir.path().join("home/registries.conf"), "").expect("an empty configuration");
        Self {
            dir,
            vars: Vec::new(),
        }
    }

    /// The base image of the project: busybox, as an OCI layout.
    pub(crate) fn base() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/base")
    }

    /// The value of `--build-context` that makes it `base`.
    pub(crate) fn base_context() -> String {
        format!("base=oci-layout://{}", Self::base().display())
    }

    /// A path in the test's directory.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// The build context.
    pub(crate) fn context(&self) -> PathBuf {
        self.path("context")
    }

    /// Writes `context/Dockerfile`.
    pub(crate) fn dockerfile(&self, text: &str) -> &Self {
        self.file("Dockerfile", text)
    }

    /// Writes a file of the context, with the directories above it.
    pub(crate) fn file(&self, relative: &str, text: &str) -> &Self {
        let path = self.context().join(relative);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).expect("a directory of the context");
        }
        fs::write(&path, text).expect("a file of the context");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("its mode");
        self
    }

    /// Sets a variable for all later calls.
    pub(crate) fn var(&mut self, name: &str, value: &str) -> &Self {
        self.vars.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The program with the environment of this test and these arguments.
    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rbuild"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .env("RBUILD_ROOT", self.path("root"))
            .env("DOCKER_CONFIG", self.path("home"))
            .env(
                "CONTAINERS_REGISTRIES_CONF",
                self.path("home/registries.conf"),
            )
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .env("COLUMNS", "100")
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .envs(self.vars.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null());
        command
    }

    /// Lets other users in, who may not reach the place of the project: the directory gets copies of the program and of
    /// [`TestEnv::base`], as `rbuild` and `base`.
    pub(crate) fn open_to_others(&self) -> &Self {
        copy(
            Path::new(env!("CARGO_BIN_EXE_rbuild")),
            &self.path("rbuild"),
        );
        copy(&Self::base(), &self.path("base"));
        fs::set_permissions(self.path(""), fs::Permissions::from_mode(0o777)).expect("a mode");
        self
    }

    /// As [`TestEnv::command`], started by another program: the last of `starter` takes a command to start. What is
    /// started is the copy of [`TestEnv::open_to_others`].
    pub(crate) fn started_by<S: AsRef<std::ffi::OsStr>>(
        &self,
        starter: &[&str],
        args: &[S],
    ) -> Command {
        let variables = self.command(args);
        let variables = variables.get_envs();
        let mut command = Command::new(starter[0]);
        command
            .args(&starter[1..])
            .arg(self.path("rbuild"))
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .envs(variables.filter_map(|(name, value)| Some((name, value?))))
            .stdin(Stdio::null());
        command
    }

    /// As [`TestEnv::started_by`], as another user.
    pub(crate) fn as_user<S: AsRef<std::ffi::OsStr>>(
        &self,
        (uid, gid): (u32, u32),
        args: &[S],
    ) -> Command {
        let ids = [format!("--reuid={uid}"), format!("--regid={gid}")];
        self.started_by(&["setpriv", &ids[0], &ids[1], "--clear-groups"], args)
    }

    /// Runs the program.
    #[must_use = "an outcome that nobody looks at tests nothing"]
    pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Outcome {
        Outcome::of(&mut self.command(args), self.dir.path())
    }

    /// Runs a command made by [`TestEnv::command`].
    #[must_use = "an outcome that nobody looks at tests nothing"]
    pub(crate) fn outcome(&self, command: &mut Command) -> Outcome {
        Outcome::of(command, self.dir.path())
    }

    /// Waits for the end of a program that was started with [`TestEnv::command`].
    #[must_use = "an outcome that nobody looks at tests nothing"]
    pub(crate) fn ended(&self, child: std::process::Child) -> Outcome {
        let output = child.wait_with_output().expect("its output can be read");
        Outcome::new(&output, String::new(), self.dir.path())
    }

    /// Builds the context: `rbuild build --progress=plain ARGS CONTEXT`.
    #[must_use = "an outcome that nobody looks at tests nothing"]
    pub(crate) fn build(&self, args: &[&str]) -> Outcome {
        let context = self.context();
        let mut all = vec!["build", "--progress=plain"];
        all.extend(args);
        all.push(context.to_str().expect("a temporary path is text"));
        self.run(&all)
    }

    /// The same, with [`TestEnv::base`] as `base`.
    #[must_use = "an outcome that nobody looks at tests nothing"]
    pub(crate) fn build_on_base(&self, args: &[&str]) -> Outcome {
        self.build(&[&["--build-context", &Self::base_context()], args].concat())
    }
}

/// Copies a file or a directory. This process has no copy open meanwhile: a program cannot be started while a child that
/// another test has just forked could still write to it.
pub(crate) fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").args([from, to]).status();
    assert!(copied.expect("cp starts").success());
}
