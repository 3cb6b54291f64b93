//! The files of a commit, fetched by the `git` program into a directory that the caller gives, and removes when the build is over. What is
//! left of a kill in between is temporary space of the store like any other.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{GitSource, program::Git};
use crate::{
    context::{ContextError, LocalTree, Patterns},
    tree::{Timestamp, Tree as _},
};

/// How to reach repositories.
#[derive(Clone, Default)]
pub struct GitSettings {
    /// The environment of the program: `PATH`, proxies, certificates, `SSH_AUTH_SOCK`. Nothing else is passed on.
    pub env: Vec<(OsString, OsString)>,
    /// A token for the repository's server (`GIT_AUTH_TOKEN`).
    pub token: Option<String>,
    /// The value of an `Authorization` header for it (`GIT_AUTH_HEADER`); preferred to a token.
    pub header: Option<String>,
    /// Keys of SSH servers; `None` trusts any.
    pub known_hosts: Option<PathBuf>,
    /// How long a server of the web, or of SSH before it knows us, may send nothing at all, in seconds; 300 where nothing is said.
    pub silence: Option<u32>,
    /// Asked now and then whether to stop; what runs is killed then.
    pub canceled: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
}

impl std::fmt::Debug for GitSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GitSettings")
            .field("known_hosts", &self.known_hosts)
            .finish_non_exhaustive()
    }
}

/// A commit's files.
#[derive(Debug)]
pub struct Checkout {
    /// The commit's name.
    pub commit: String,
    /// When it was made, in seconds since 1970.
    pub commit_time: i64,
    /// Its files, or those of the subdirectory. They lie in the directory given.
    pub tree: LocalTree,
}

/// A repository could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GitError {
    /// The program is not there.
    #[error("`git` is not installed, but `{remote}` is a git repository")]
    NoGit {
        /// The repository.
        remote: String,
    },
    /// The program could not be run, or a file could not be changed.
    #[error("cannot {action} for `{remote}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The repository.
        remote: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The program failed.
    #[error("cannot {action} `{remote}`: {message}")]
    Failed {
        /// What was tried.
        action: &'static str,
        /// The repository.
        remote: String,
        /// The end of what the program said.
        message: String,
    },
    /// There is no such branch or tag.
    #[error("repository `{remote}` does not contain ref {reference}")]
    NoReference {
        /// The repository.
        remote: String,
        /// What was asked for.
        reference: String,
    },
    /// A checksum is no beginning of a commit's name.
    #[error("invalid checksum {0} for Git URL, expected hex commit hash")]
    InvalidChecksum(String),
    /// What is to be fetched by the name of the commit has none.
    #[error("fetch-by-commit requires the full name of a commit as checksum or ref")]
    NoCommit,
    /// The commit is another one.
    #[error("expected checksum to match {expected}, got {actual}")]
    Checksum {
        /// What was asked for.
        expected: String,
        /// The commit, and the annotated tag that names it.
        actual: String,
    },
    /// The subdirectory is not in the repository. Symbolic links are none, as in BuildKit: what they lead to need not be a
    /// part of the commit.
    #[error("repository `{remote}` has no directory `{}`", subdir.display())]
    NoSubdir {
        /// The repository.
        remote: String,
        /// The directory.
        subdir: PathBuf,
    },
    /// The work was called off.
    #[error("fetching `{remote}` was called off")]
    Canceled {
        /// The repository.
        remote: String,
    },
    /// The result cannot be read.
    #[error(transparent)]
    Tree(#[from] ContextError),
}

/// Fetches what `source` names into the empty directory `dir`, which the caller removes when the files are not needed any more.
pub fn checkout(
    source: &GitSource,
    settings: &GitSettings,
    dir: &Path,
) -> Result<Checkout, GitError> {
    if let Some(checksum) = &source.checksum
        && (checksum.is_empty() || !checksum.bytes().all(|b| b.is_ascii_hexdigit()))
    {
        return Err(GitError::InvalidChecksum(checksum.clone()));
    }
    let names_a_commit = |name: &Option<String>| name.as_deref().is_some_and(is_commit);
    if source.fetch_by_commit
        && !names_a_commit(&source.reference)
        && !names_a_commit(&source.checksum)
    {
        return Err(GitError::NoCommit);
    }
    let git = Git {
        source,
        settings,
        dir,
    };
    let (fetched, annotated) = git.fetch()?;
    let commit = git.line("read", ["rev-parse", &format!("{fetched}^{{commit}}")])?;
    if let Some(expected) = &source.checksum {
        let names: Vec<&str> = [Some(commit.as_str()), annotated.as_deref()]
            .into_iter()
            .flatten()
            .collect();
        if !names.iter().any(|name| name.starts_with(expected)) {
            return Err(GitError::Checksum {
                expected: expected.clone(),
                actual: names.join(" or "),
            });
        }
    }
    git.run(
        "check out",
        ["checkout", "--quiet", "--force", "--detach", &commit],
    )?;
    if source.submodules && dir.join(".gitmodules").is_file() {
        git.run(
            "fetch submodules of",
            [
                "submodule",
                "--quiet",
                "update",
                "--init",
                "--recursive",
                "--depth=1",
            ],
        )?;
    }
    if git.keeps_git_dir() {
        fs::remove_file(dir.join(".git/FETCH_HEAD")).ok();
    }
    let time = git.line("read", ["show", "--no-patch", "--format=%ct", &commit])?;
    let commit_time: i64 = time.parse().unwrap_or(0);
    let io = |action| {
        move |source_error| GitError::Io {
            action,
            remote: source.display_remote(),
            source: source_error,
        }
    };
    if source.keep_git_dir != Some(true) {
        remove_git_dirs(dir).map_err(io("remove the git directory"))?;
    }
    let mtime = (source.commit_time == Some(true)).then_some(commit_time);
    normalise(dir, mtime).map_err(io("set modes of files"))?;

    let whole = LocalTree::open(dir, Patterns::default(), None)?;
    let no_subdir = || GitError::NoSubdir {
        remote: source.display_remote(),
        subdir: source.subdir.clone(),
    };
    let mut way = PathBuf::new();
    for name in &source.subdir {
        way.push(name);
        let node = whole.node(&way).map_err(ContextError::from)?;
        if !node.is_some_and(|node| node.metadata.is_dir()) {
            return Err(no_subdir());
        }
    }
    let tree = if way.as_os_str().is_empty() {
        whole
    } else {
        LocalTree::open(dir.join(way), Patterns::default(), None)?
    };
    let tree = match source.commit_time {
        Some(true) => tree.with_root_time(Timestamp::from_seconds(commit_time)),
        _ => tree,
    };
    Ok(Checkout {
        commit,
        commit_time,
        tree,
    })
}

impl Git<'_> {
    /// Fetches the commit; gives a name for it, and that of the annotated tag that stands for it.
    fn fetch(&self) -> Result<(String, Option<String>), GitError> {
        let reference = self.source.reference.as_deref();
        let by_name = reference.filter(|name| is_commit(name)).or_else(|| {
            let checksum = self.source.checksum.as_deref();
            checksum.filter(|_| self.source.fetch_by_commit)
        });
        let advertised = match (reference, by_name) {
            (_, Some(_)) => None,
            (None, None) if self.keeps_git_dir() => Some((self.default_branch()?, None)),
            (None, None) => Some(("HEAD".to_owned(), None)),
            (Some(name), None) => Some(self.find(name)?),
        };
        self.init(by_name.map_or(40, str::len))?;
        let fetched = match (advertised, by_name) {
            (None, Some(commit)) => self.fetch_commit(commit)?,
            (advertised, _) => {
                let (name, annotated) = advertised.unwrap_or_else(|| ("HEAD".to_owned(), None));
                match self.fetch_reference(&name) {
                    // The server tells of what kind its names are when it is too late.
                    Err(GitError::Failed { message, .. }) if message.contains(OTHER_HASH) => {
                        fs::remove_dir_all(self.dir.join(".git")).map_err(|source| {
                            GitError::Io {
                                action: "remove the git directory",
                                remote: self.source.display_remote(),
                                source,
                            }
                        })?;
                        self.init(64)?;
                        return Ok((self.fetch_reference(&name)?, annotated));
                    }
                    kept => return Ok((kept?, annotated)),
                }
            }
        };
        if let Some(name) = reference.filter(|name| self.keeps_git_dir() && !is_commit(name)) {
            self.run(
                "name the commit of",
                ["update-ref", &branch(name), &fetched],
            )?;
        }
        Ok((fetched, None))
    }

    /// Fetches a branch or tag; gives its name in the copy.
    fn fetch_reference(&self, name: &str) -> Result<String, GitError> {
        let remote = self.source.remote.as_str();
        // Where the repository stays, its programs look for branches and tags by their names.
        let kept = if self.keeps_git_dir() && name.starts_with("refs/") {
            name.to_owned()
        } else {
            "refs/rbuild/fetched".to_owned()
        };
        let refspec = format!("+{name}:{kept}");
        let fetched = self.run(
            "fetch",
            [
                "fetch",
                "--quiet",
                "--update-head-ok",
                "--depth=1",
                "--no-tags",
                "--",
                remote,
                &refspec,
            ],
        );
        match fetched {
            Ok(_) => {}
            // Repositories served as plain files have no shallow copies.
            Err(GitError::Failed { message, .. }) if message.contains("shallow") => {
                self.run(
                    "fetch",
                    [
                        "fetch",
                        "--quiet",
                        "--update-head-ok",
                        "--no-tags",
                        "--",
                        remote,
                        &refspec,
                    ],
                )?;
            }
            Err(error) => return Err(error),
        }
        Ok(kept)
    }

    /// Fetches a commit; gives its name.
    fn fetch_commit(&self, commit: &str) -> Result<String, GitError> {
        let remote = self.source.remote.as_str();
        let direct = self.run(
            "fetch",
            [
                "fetch",
                "--quiet",
                "--depth=1",
                "--no-tags",
                "--",
                remote,
                commit,
            ],
        );
        if let Err(GitError::Canceled { remote }) = direct {
            return Err(GitError::Canceled { remote });
        }
        if direct.is_err() {
            // Servers may refuse to give a commit by its name; it is in the history of some branch or tag then.
            self.run(
                "fetch",
                [
                    "fetch",
                    "--quiet",
                    "--tags",
                    "--",
                    remote,
                    "+refs/heads/*:refs/rbuild/heads/*",
                ],
            )?;
        }
        Ok(commit.to_owned())
    }

    fn keeps_git_dir(&self) -> bool {
        self.source.keep_git_dir == Some(true)
    }

    /// The branch that the repository's `HEAD` names; `HEAD` itself when it names none.
    fn default_branch(&self) -> Result<String, GitError> {
        let remote = self.source.remote.as_str();
        let list = self.run_in(
            None,
            "list the references of",
            ["ls-remote", "--symref", "--", remote, "HEAD"],
        )?;
        let list = String::from_utf8_lossy(&list);
        let branch = list
            .lines()
            .find_map(|line| line.strip_prefix("ref: ")?.strip_suffix("\tHEAD"));
        Ok(branch.unwrap_or("HEAD").to_owned())
    }

    /// The full name of a branch or tag, branches first, and the object of an annotated tag.
    fn find(&self, name: &str) -> Result<(String, Option<String>), GitError> {
        let remote = self.source.remote.as_str();
        let list = self.run_in(
            None,
            "list the references of",
            ["ls-remote", "--", remote, name, &format!("{name}^{{}}")],
        )?;
        let list = String::from_utf8_lossy(&list).into_owned();
        let of = |wanted: &str| {
            list.lines()
                .filter_map(|line| line.split_once('\t'))
                .find(|(_, name)| *name == wanted)
                .map(|(object, _)| object.to_owned())
        };
        let bare = |prefix: &str| format!("{prefix}{}", name.strip_prefix(prefix).unwrap_or(name));
        let candidates = [bare("refs/"), bare("refs/heads/"), bare("refs/tags/")];
        for candidate in candidates {
            if let Some(object) = of(&candidate) {
                let annotated = of(&format!("{candidate}^{{}}")).map(|_| object);
                // What an annotated tag stands for is listed, too, but cannot be asked for.
                let fetched = candidate.trim_end_matches("^{}").to_owned();
                return Ok((fetched, annotated));
            }
        }
        Err(GitError::NoReference {
            remote: self.source.display_remote(),
            reference: name.to_owned(),
        })
    }

    fn init(&self, name_length: usize) -> Result<(), GitError> {
        let format = if name_length == 64 {
            "--object-format=sha256"
        } else {
            "--object-format=sha1"
        };
        // A default template could bring hooks.
        self.run(
            "prepare a copy of",
            ["init", "--quiet", "--template=", format],
        )?;
        self.run(
            "prepare a copy of",
            ["remote", "add", "origin", &self.source.display_remote()],
        )?;
        Ok(())
    }
}

/// What git says of a repository whose objects have names of another kind than those of the copy.
const OTHER_HASH: &str = "mismatched algorithms";

/// Whether a name is the full name of a commit, which has small letters alone.
fn is_commit(name: &str) -> bool {
    let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    matches!(name.len(), 40 | 64) && name.bytes().all(is_digit)
}

/// The full name of a branch.
fn branch(name: &str) -> String {
    if name.starts_with("refs/") {
        name.to_owned()
    } else {
        format!("refs/heads/{name}")
    }
}

/// Removes `.git` here and in submodules, where it is a file.
fn remove_git_dirs(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let is_dir = entry.file_type()?.is_dir();
        match (entry.file_name() == ".git", is_dir) {
            (true, true) => fs::remove_dir_all(entry.path())?,
            (true, false) => fs::remove_file(entry.path())?,
            (false, true) => remove_git_dirs(&entry.path())?,
            (false, false) => {}
        }
    }
    Ok(())
}

/// Gives everything below `dir`, and itself, the modes that a umask of 0022 leaves, and one time if asked.
fn normalise(dir: &Path, mtime: Option<i64>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let file_type = entry.file_type()?;
        let path = entry.path();
        if file_type.is_dir() {
            normalise(&path, mtime)?;
        } else if file_type.is_symlink() {
            set_time(&path, mtime)?;
        } else if file_type.is_file() {
            let is_executable = entry.metadata()?.permissions().mode() & 0o100 != 0;
            let mode = if is_executable { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            set_time(&path, mtime)?;
        }
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    set_time(dir, mtime)
}

fn set_time(path: &Path, mtime: Option<i64>) -> io::Result<()> {
    let Some(seconds) = mtime else {
        return Ok(());
    };
    let times = Timestamp::from_seconds(seconds).into();
    // Of a symbolic link, its own.
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags)?;
    Ok(())
}

#[cfg(test)]
mod tests;
