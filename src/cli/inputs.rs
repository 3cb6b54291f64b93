//! The Dockerfile and the context that a command line names.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rbuild::{
    context::{IgnoreFile, MAX_TEXT_BYTES, Patterns},
    registry::redact::redacted_text,
    source::suggest,
    tree::Tree,
};

use super::{
    args,
    diagnostics::{Failure, Kind, Source},
    environment::Environment,
    remote::{self, Fetched, Fetcher},
};

/// The name that a Dockerfile from standard input has in messages.
const FROM_STDIN: &str = "Dockerfile";

/// A context and the Dockerfile in or beside it.
pub(crate) struct Inputs {
    pub(crate) dockerfile: Source,
    pub(crate) context: Context,
}

/// Where a build's files are.
pub(crate) enum Context {
    Directory(Directory),
    /// Fetched, with its time.
    Fetched(Arc<dyn Tree>, Option<i64>),
    /// There are none.
    Empty,
}

/// A directory of files, and what its ignore file takes out of it.
pub(crate) struct Directory {
    /// Absolute, since what is remembered of its files goes by their paths.
    pub(crate) path: PathBuf,
    pub(crate) patterns: Patterns,
}

impl Directory {
    /// The directory `path`, which `what` calls it in messages.
    pub(crate) fn open(
        what: &str,
        path: &Path,
        dockerfile: Option<&Path>,
    ) -> Result<Self, Failure> {
        check_directory(what, path)?;
        let path = std::path::absolute(path)
            .map_err(|e| Failure::usage(format!("cannot use {what} `{}`: {e}", path.display())))?;
        let ignore = IgnoreFile::find(&path, dockerfile)
            .map_err(|e| Failure::from_error(Kind::Build, &e))?;
        let patterns = ignore.map(|file| file.patterns).unwrap_or_default();
        Ok(Self { path, patterns })
    }
}

fn check_directory(what: &str, path: &Path) -> Result<(), Failure> {
    let shown = path.display();
    let metadata = fs::metadata(path)
        .map_err(|e| Failure::usage(format!("cannot use {what} `{shown}`: {e}")))?;
    if !metadata.is_dir() {
        return Err(Failure::usage(format!(
            "{what} `{shown}` is not a directory"
        )));
    }
    Ok(())
}

/// Finds the Dockerfile and the context that a command line names, and reads the former. What [`is_remote`] says of
/// needs a fetcher.
pub(crate) fn find(
    context: &str,
    file: Option<&str>,
    fetcher: Option<&Fetcher<'_>>,
) -> Result<Inputs, Failure> {
    let fetched = match (context, fetcher) {
        ("-", _) if file == Some("-") => {
            return Err(Failure::usage(
                "standard input cannot be both the context and the Dockerfile",
            ));
        }
        ("-", Some(fetcher)) => fetcher.stdin()?,
        (url, Some(fetcher)) if is_url(url) => fetcher.main(url)?,
        (directory, _) => return context_directory(Path::new(directory), file, fetcher),
    };
    // A file of this machine is named by its whole path; any other name is one in the context.
    let elsewhere = match file {
        Some("-") => Some(dockerfile_from_stdin()?),
        Some(url) if is_url(url) => Some(remote_dockerfile(url, fetcher)?),
        Some(file) if Path::new(file).is_absolute() && context != "-" => {
            Some(read_dockerfile(Path::new(file), Path::new("/"))?)
        }
        _ => None,
    };
    match fetched {
        Fetched::Files(tree, time) => Ok(Inputs {
            dockerfile: match elsewhere {
                Some(dockerfile) => dockerfile,
                None => remote::dockerfile_in(&*tree, file)?,
            },
            context: Context::Fetched(tree, time),
        }),
        Fetched::Dockerfile(_, None) if file.is_some() => Err(Failure::usage(
            "the context is a Dockerfile, and --file names another one",
        )),
        Fetched::Dockerfile(bytes, beside) => Ok(Inputs {
            dockerfile: elsewhere
                .unwrap_or_else(|| Source::new(FROM_STDIN.to_owned(), text_of(&bytes))),
            context: match beside {
                Some((tree, time)) => Context::Fetched(tree, time),
                None => Context::Empty,
            },
        }),
    }
}

/// Whether a context has to be fetched first.
pub(crate) fn is_remote(context: &str) -> bool {
    context == "-" || is_url(context)
}

/// Whether a context is a git repository or an archive on the web, by Docker's rules.
pub(crate) fn is_url(text: &str) -> bool {
    [
        "http://",
        "https://",
        "git://",
        "ssh://",
        "git@",
        "github.com/",
    ]
    .iter()
    .any(|prefix| text.starts_with(prefix))
}

/// Reads the Dockerfile alone; of the context, nothing else is looked at.
pub(crate) fn dockerfile(directory: &Path, file: Option<&Path>) -> Result<Source, Failure> {
    match file {
        Some(file) if file == Path::new("-") => dockerfile_from_stdin(),
        Some(file) => read_dockerfile(file, directory),
        None => read_dockerfile(&default_dockerfile(directory), directory),
    }
}

fn dockerfile_from_stdin() -> Result<Source, Failure> {
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(MAX_TEXT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::usage(format!("cannot read standard input: {e}")))?;
    refuse_too_large(&bytes, "from standard input")?;
    Ok(Source::new(FROM_STDIN.to_owned(), text_of(&bytes)))
}

fn remote_dockerfile(url: &str, fetcher: Option<&Fetcher<'_>>) -> Result<Source, Failure> {
    match fetcher {
        Some(fetcher) if url.starts_with("http://") || url.starts_with("https://") => {
            fetcher.dockerfile(url)
        }
        Some(_) => Err(Failure::usage(format!(
            "the Dockerfile `{}` is no file on the web",
            redacted_text(url)
        ))
        .with_hint("a repository is given as the context, and --file names a file in it")),
        None => Err(Failure::usage(format!(
            "the Dockerfile `{}` is remote, which this command does not support",
            redacted_text(url)
        ))),
    }
}

fn context_directory(
    directory: &Path,
    file: Option<&str>,
    fetcher: Option<&Fetcher<'_>>,
) -> Result<Inputs, Failure> {
    let what = "the context";
    check_directory(what, directory).map_err(|failure| {
        let near = directory.to_str().and_then(args::command_near);
        match near.filter(|_| !directory.try_exists().unwrap_or(true)) {
            Some(near) => failure.with_hint(format!("did you mean the command `{near}`?")),
            None => failure,
        }
    })?;
    let (dockerfile, path) = match file {
        Some("-") => (dockerfile_from_stdin()?, None),
        Some(url) if is_url(url) => (remote_dockerfile(url, fetcher)?, None),
        Some(file) => (
            read_dockerfile(Path::new(file), directory)?,
            Some(PathBuf::from(file)),
        ),
        None => {
            let path = default_dockerfile(directory);
            let mut source = read_dockerfile(&path, directory)?;
            source.name = path.file_name().map_or_else(
                || FROM_STDIN.to_owned(),
                |name| name.to_string_lossy().into_owned(),
            );
            (source, Some(path))
        }
    };
    let context = Directory::open(what, directory, path.as_deref())?;
    Ok(Inputs {
        dockerfile,
        context: Context::Directory(context),
    })
}

/// `Dockerfile`, or `dockerfile` where only that is there.
fn default_dockerfile(directory: &Path) -> PathBuf {
    let usual = directory.join("Dockerfile");
    let lower = directory.join("dockerfile");
    if !usual.try_exists().unwrap_or(true) && lower.try_exists().unwrap_or(false) {
        lower
    } else {
        usual
    }
}

fn read_dockerfile(path: &Path, context: &Path) -> Result<Source, Failure> {
    let file = fs::File::open(path);
    let read = file.and_then(|file| {
        let mut bytes = Vec::new();
        file.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let bytes = read.map_err(|e| {
        let failure = Failure::usage(format!(
            "cannot read the Dockerfile {}: {e}",
            path.display()
        ));
        if e.kind() != io::ErrorKind::NotFound {
            return failure;
        }
        let inside = context.join(path);
        if path.is_relative() && inside.try_exists().unwrap_or(false) {
            failure.with_hint(format!(
                "--file is relative to the current directory; did you mean {}?",
                inside.display()
            ))
        } else if let Some(near) = dockerfile_near(path) {
            failure.with_hint(format!("did you mean --file {}?", near.display()))
        } else {
            failure
        }
    })?;
    refuse_too_large(&bytes, &path.display().to_string())?;
    Ok(Source::new(path.display().to_string(), text_of(&bytes)))
}

/// What may be meant by a Dockerfile that is not there: a file beside it of nearly that name, or else the first one that is
/// called like a Dockerfile.
fn dockerfile_near(path: &Path) -> Option<PathBuf> {
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let names = fs::read_dir(dir).ok()?.filter_map(|entry| {
        let entry = entry.ok()?;
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        let name = entry.file_name().into_string().ok()?;
        (is_file && !name.ends_with(".dockerignore")).then_some(name)
    });
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    let wanted = path.file_name()?.to_str()?;
    let near = suggest(wanted, names.iter().map(String::as_str)).or_else(|| {
        let like = |name: &&str| {
            let name = name.to_lowercase();
            name.contains("dockerfile") || name.contains("containerfile")
        };
        names.iter().map(String::as_str).find(like)
    })?;
    Some(path.with_file_name(near))
}

/// Whoever reads it reads one byte more than it may have.
pub(crate) fn refuse_too_large(bytes: &[u8], name: &str) -> Result<(), Failure> {
    if bytes.len() as u64 <= MAX_TEXT_BYTES {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "the Dockerfile {name} has more than {MAX_TEXT_BYTES} bytes"
    )))
}

/// Bytes that are no UTF-8 become replacement characters: the places of everything else stay meaningful.
pub(crate) fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the `git` program gets to see: enough to find its helpers and the way out, nothing of the user's settings.
pub(crate) fn git_env(env: &Environment) -> Vec<(OsString, OsString)> {
    const PASSED: [&str; 13] = [
        "PATH",
        "SSH_AUTH_SOCK",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "no_proxy",
        "NO_PROXY",
        "all_proxy",
        "ALL_PROXY",
        "TMPDIR",
    ];
    PASSED
        .iter()
        .filter_map(|name| Some((OsString::from(name), env.get(name)?.to_owned())))
        .collect()
}
