//! What `ADD` fetches: files from the web and git repositories, each once in a build.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use sha2::{Sha384, Sha512};

use super::{
    error::StepError,
    session::{Session, Task},
};
use crate::{
    context::{
        SingleFile,
        git::{self, GitError, GitSettings, GitSource},
    },
    copy,
    layer::archive,
    plan::CopySource,
    registry::{Watched, http::Get},
    store::TempDir,
    tree::Tree,
    used::UsedSource,
};

/// Something fetched.
#[derive(Clone)]
pub(super) struct Fetched {
    /// A file under the name that `ADD` gives it, or a checkout.
    pub(super) tree: Arc<dyn Tree>,
    /// `Last-Modified` or the time of the commit, in seconds since 1970.
    pub(super) time: Option<i64>,
    /// A file, which may be an archive, and the directory that it lies in.
    archive: Option<(PathBuf, PathBuf)>,
}

impl Fetched {
    /// When the newest file in an archive changed, in seconds since 1970; `None` where it is no archive.
    pub(super) fn newest_file(&self) -> Option<i64> {
        let (dir, file) = self.archive.as_ref()?;
        let tree = archive::open(file.clone(), Some(dir.clone())).ok()??;
        archive::newest_file(&tree).ok()?
    }
}

type Cell = Arc<Mutex<Option<Fetched>>>;

/// What was fetched so far.
#[derive(Default)]
pub(super) struct Remotes {
    cells: Mutex<HashMap<String, Cell>>,
    used: Mutex<BTreeSet<UsedSource>>,
    /// Where it lies, for as long as the build lasts.
    dirs: Mutex<Vec<TempDir>>,
}

impl Remotes {
    /// Fetches a [`CopySource::Url`] or [`CopySource::Git`], unless that was done before.
    pub(super) fn get(
        &self,
        session: &Session<'_>,
        task: &Task<'_>,
        source: &CopySource,
        checksum: Option<&str>,
        keep_git_dir: Option<bool>,
    ) -> Result<Fetched, StepError> {
        let key = format!("{source:?} {checksum:?} {keep_git_dir:?}");
        let cell = {
            let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(cells.entry(key).or_default())
        };
        let mut cell = cell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fetched) = &*cell {
            return Ok(fetched.clone());
        }
        let dir = session.services.store.temp_dir()?;
        let (fetched, used) = match source {
            CopySource::Git(text) => clone(session, text, checksum, keep_git_dir, dir.path())?,
            CopySource::Url(url) => download(session, task, url, checksum, dir.path())?,
            CopySource::Path(_) | CopySource::Inline { .. } => {
                unreachable!("only remote sources are fetched")
            }
        };
        self.dirs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(dir);
        self.used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(used);
        *cell = Some(fetched.clone());
        Ok(fetched)
    }

    /// What was fetched so far.
    pub(super) fn used(&self) -> Vec<UsedSource> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.iter().cloned().collect()
    }
}

fn clone(
    session: &Session<'_>,
    text: &str,
    checksum: Option<&str>,
    keep_git_dir: Option<bool>,
    dir: &Path,
) -> Result<(Fetched, UsedSource), StepError> {
    let parsed = GitSource::parse(text).map_err(|source| StepError::GitSource {
        text: text.to_owned(),
        source,
    })?;
    let Some(mut source) = parsed else {
        return Err(StepError::Unsupported(format!(
            "`{text}` is not a git source"
        )));
    };
    if let Some(checksum) = checksum {
        source.checksum = Some(checksum.to_owned());
    }
    if keep_git_dir.is_some() {
        source.keep_git_dir = keep_git_dir;
    }
    let settings = GitSettings {
        env: session.request.git_env.clone(),
        ..GitSettings::default()
    };
    let secret = |name: &str| super::secrets::text(session, &source.secret_ids(name));
    let settings = GitSettings {
        token: secret("GIT_AUTH_TOKEN")?,
        header: secret("GIT_AUTH_HEADER")?,
        canceled: session.services.registry.canceled(),
        ..settings
    };
    let checkout = git::checkout(&source, &settings, dir).map_err(|error| match error {
        GitError::Canceled { .. } => StepError::Canceled,
        error => error.into(),
    })?;
    let used = UsedSource::commit(&source, &checkout.commit);
    let fetched = Fetched {
        time: Some(checkout.commit_time),
        tree: Arc::new(checkout.tree),
        archive: None,
    };
    Ok((fetched, used))
}

/// Downloads a file: 0600, root's, with the server's time of last change or 1970.
fn download(
    session: &Session<'_>,
    task: &Task<'_>,
    url: &str,
    checksum: Option<&str>,
    dir: &Path,
) -> Result<(Fetched, UsedSource), StepError> {
    let path = dir.join("download");
    let failed = |source| StepError::Download {
        url: url.to_owned(),
        source,
    };
    let mut file = File::create_new(&path).map_err(failed)?;
    let get = Get {
        url: url.to_owned(),
        ..Get::default()
    };
    // The name alone: an address may have a password in it.
    let item = copy::url_file_name(url);
    let mut tell = |current| task.transfer(&item, current, None);
    let got = session
        .services
        .registry
        .download(&get, &mut Watched::new(&mut file, &mut tell))?;
    task.transfer(&item, got.size, Some(got.size));
    task.status(format!("{} {} bytes done", got.url, got.size));
    if let Some(expected) = checksum {
        let actual = match expected.split_once(':').map(|(algorithm, _)| algorithm) {
            Some("sha384") => format!("sha384:{}", hash::<Sha384>(&path).map_err(failed)?),
            Some("sha512") => format!("sha512:{}", hash::<Sha512>(&path).map_err(failed)?),
            _ => got.digest.to_string(),
        };
        if actual != expected {
            return Err(StepError::Checksum {
                url: got.url,
                expected: expected.to_owned(),
                actual,
            });
        }
    }
    let time = got.modified();
    let name = copy::url_file_name(url);
    let archive = Some((dir.to_owned(), path.clone()));
    let tree = Arc::new(SingleFile::fetched(&name, path, got.size, got.digest, time));
    let used = UsedSource::file(url, got.digest);
    let fetched = Fetched {
        tree,
        time,
        archive,
    };
    Ok((fetched, used))
}

fn hash<D: sha2::Digest>(path: &Path) -> io::Result<String> {
    use std::fmt::Write as _;
    let mut hasher = D::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    let mut text = String::new();
    for byte in hasher.finalize() {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    Ok(text)
}
