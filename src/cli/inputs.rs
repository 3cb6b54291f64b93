//! The Dockerfile and the context that a command line names.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use rbuild::context::{IgnoreFile, Patterns};

use super::diagnostics::{Failure, Kind, Source};

/// The name that a Dockerfile from standard input has in messages.
const FROM_STDIN: &str = "Dockerfile";

/// A context and the Dockerfile in or beside it.
pub(crate) struct Inputs {
    pub(crate) dockerfile: Source,
    /// The context's directory; `None` when there are no files.
    pub(crate) context: Option<Directory>,
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

/// Finds the Dockerfile and the context that a command line names, and reads the former.
pub(crate) fn find(context: &str, file: Option<&str>) -> Result<Inputs, Failure> {
    match (context, file) {
        ("-", Some("-")) => Err(Failure::usage(
            "standard input cannot be both the context and the Dockerfile",
        )),
        ("-", _) => context_from_stdin(file),
        (url, _) if is_url(url) => Err(Failure::usage(format!(
            "the context `{url}` is remote, which is not supported yet"
        ))
        .with_hint("clone or download it, and name the directory")),
        (directory, file) => context_directory(Path::new(directory), file),
    }
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

fn context_from_stdin(file: Option<&str>) -> Result<Inputs, Failure> {
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::usage(format!("cannot read standard input: {e}")))?;
    if is_archive(&bytes) {
        return Err(Failure::usage(
            "standard input is an archive, which is not supported as a context yet",
        )
        .with_hint("unpack it, and name the directory"));
    }
    if file.is_some() {
        return Err(Failure::usage(
            "standard input is a Dockerfile, and --file names another one",
        ));
    }
    Ok(Inputs {
        dockerfile: Source {
            name: FROM_STDIN.to_owned(),
            text: text_of(&bytes),
        },
        context: None,
    })
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
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::usage(format!("cannot read standard input: {e}")))?;
    Ok(Source {
        name: FROM_STDIN.to_owned(),
        text: text_of(&bytes),
    })
}

/// Whether bytes begin like a tar or a compressed file.
fn is_archive(bytes: &[u8]) -> bool {
    const COMPRESSED: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    COMPRESSED.iter().any(|magic| bytes.starts_with(magic))
        || bytes.get(257..262).is_some_and(|magic| magic == b"ustar")
}

fn context_directory(directory: &Path, file: Option<&str>) -> Result<Inputs, Failure> {
    let what = "the context";
    check_directory(what, directory)?;
    let (dockerfile, path) = match file {
        Some("-") => (dockerfile_from_stdin()?, None),
        Some(url) if is_url(url) => {
            return Err(Failure::usage(format!(
                "the Dockerfile `{url}` is remote, which is not supported; download it, or pass it with `--file -`"
            )));
        }
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
        context: Some(context),
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
    let bytes = fs::read(path).map_err(|e| {
        let failure = Failure::usage(format!(
            "cannot read the Dockerfile {}: {e}",
            path.display()
        ));
        let inside = context.join(path);
        let is_inside = path.is_relative()
            && e.kind() == io::ErrorKind::NotFound
            && inside.try_exists().unwrap_or(false);
        if is_inside {
            failure.with_hint(format!(
                "--file is relative to the current directory; did you mean {}?",
                inside.display()
            ))
        } else {
            failure
        }
    })?;
    Ok(Source {
        name: path.display().to_string(),
        text: text_of(&bytes),
    })
}

/// Bytes that are no UTF-8 become replacement characters: the places of everything else stay meaningful.
fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
