//! Contexts that are not directories of this machine: git repositories, archives on the web or on standard input.
//!
//! They are fetched into the store's temporary space before the build begins, and stay for as long as it lasts. No ignore
//! file applies to them, as in BuildKit.

use std::{
    cell::RefCell,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use rbuild::{
    build::SecretSource,
    context::{
        MAX_TEXT_BYTES, SingleFile,
        git::{self, GitSettings, GitSource},
        read_dockerfile,
    },
    layer::archive,
    progress::{Event, Reporter as _, Vertex},
    registry::{
        Client, Watched,
        http::{Download, Get},
        redact::redacted_text,
    },
    store::{Store, TempDir},
    tree::Tree,
    used::UsedSource,
};

use super::{
    build_args::BuildArgs,
    classify,
    diagnostics::{Failure, Kind, Source},
    environment::Environment,
    inputs::{self, text_of},
    progress::Renderer,
    request, settings,
};

/// The build argument that keeps `.git` in a build context that is a repository.
const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";
/// The one that sets the time of the image.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Files, with their time in seconds since 1970: that of the commit, what the server says, or that of the newest in an archive.
type Dated = (Arc<dyn Tree>, Option<i64>);

/// What was fetched.
pub(crate) enum Fetched {
    /// Files.
    Files(Arc<dyn Tree>, Option<i64>),
    /// A single file, which is a Dockerfile, and the context that it is if it comes from the web: one with this file.
    Dockerfile(Vec<u8>, Option<Dated>),
}

/// What the work is called in progress.
const LOAD: &str = "[internal] load remote build context";

/// The name of a file of the web in the context that it is, as in BuildKit.
const FILE_NAME: &str = "context";

/// Fetches contexts, and keeps what was fetched.
pub(crate) struct Fetcher<'a> {
    store: &'a Store,
    registry: &'a Client,
    args: &'a BuildArgs,
    env: &'a Environment,
    renderer: &'a Renderer,
    kept: RefCell<Vec<TempDir>>,
    /// What was fetched, with the URL that the command line gives.
    used: RefCell<Vec<(String, UsedSource)>>,
}

impl<'a> Fetcher<'a> {
    /// Shows what it fetches as lines of work of their own.
    pub(crate) fn new(
        store: &'a Store,
        registry: &'a Client,
        args: &'a BuildArgs,
        env: &'a Environment,
        renderer: &'a Renderer,
    ) -> Self {
        Self {
            store,
            registry,
            args,
            env,
            renderer,
            kept: RefCell::default(),
            used: RefCell::default(),
        }
    }

    /// Fetches the build context: a repository, an archive or a Dockerfile.
    pub(crate) fn main(&self, url: &str) -> Result<Fetched, Failure> {
        if let Some(mut source) = git_source(url)? {
            self.as_main(&mut source);
            let (tree, time) = self.repository(url, &source)?;
            return Ok(Fetched::Files(tree, time));
        }
        self.shown(LOAD.to_owned(), |vertex| {
            let dir = self.dir()?;
            let path = dir.join("download");
            let (tree, time) = self.file(url, &path, vertex)?;
            match archive_or_dockerfile(&path, &dir)? {
                Fetched::Files(tree, newest) => Ok(Fetched::Files(tree, time.or(newest))),
                Fetched::Dockerfile(bytes, _) => {
                    Ok(Fetched::Dockerfile(bytes, Some((Arc::new(tree), time))))
                }
            }
        })
    }

    /// Fetches a named context: a repository, or a file, which is not unpacked.
    pub(crate) fn named(&self, url: &str) -> Result<Dated, Failure> {
        if let Some(source) = git_source(url)? {
            return self.repository(url, &source);
        }
        self.shown(LOAD.to_owned(), |vertex| {
            let dir = self.dir()?;
            let path = dir.join("download");
            let (tree, time) = self.file(url, &path, vertex)?;
            let newest = || {
                let tree = archive::open(path, Some(dir)).ok()??;
                archive::newest_file(&tree).ok()?
            };
            Ok((Arc::new(tree) as Arc<dyn Tree>, time.or_else(newest)))
        })
    }

    /// What was fetched so far: the URL as given, and what it stood for.
    pub(crate) fn used(&self) -> Vec<(String, UsedSource)> {
        self.used.borrow().clone()
    }

    /// Does work that users see.
    fn shown<T>(
        &self,
        name: String,
        work: impl FnOnce(Vertex) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let vertex = self.renderer.next_vertex();
        let begun = Instant::now();
        self.renderer.event(Event::Started { vertex, name });
        let result = work(vertex);
        self.renderer.event(match &result {
            Ok(_) => Event::Done {
                vertex,
                elapsed: begun.elapsed(),
            },
            Err(failure) => Event::Failed {
                vertex,
                message: failure.message().to_owned(),
            },
        });
        result
    }

    /// The text of a Dockerfile on the web.
    pub(crate) fn dockerfile(&self, url: &str) -> Result<Source, Failure> {
        let path = self.dir()?.join("Dockerfile");
        let name = "[internal] load remote Dockerfile".to_owned();
        self.shown(name, |vertex| self.get(url, &path, vertex))?;
        let bytes = text(&path)?;
        let shown = redacted_text(url);
        inputs::refuse_too_large(&bytes, &shown)?;
        Ok(Source::new(shown, text_of(&bytes)))
    }

    /// What build arguments say of the build context: that `.git` stays, and, by asking for an image that is the same each
    /// time, that the time of the commit counts. Values that say nothing are ignored, as in BuildKit.
    fn as_main(&self, source: &mut GitSource) {
        let args = settings::build_args(&self.args.build_arg, self.env);
        let keeps = args.get(KEEP_GIT_DIR).map(String::as_str);
        if let Some("1" | "t" | "T" | "true" | "TRUE" | "True") = keeps {
            source.keep_git_dir = Some(true);
        }
        if args.get(EPOCH).is_some_and(|epoch| !epoch.is_empty()) {
            source.commit_time.get_or_insert(true);
        }
    }

    fn repository(&self, url: &str, source: &GitSource) -> Result<Dated, Failure> {
        let name = format!("[internal] load git source {}", source.display_remote());
        self.shown(name, |_| self.checkout(url, source))
    }

    fn checkout(&self, url: &str, source: &GitSource) -> Result<Dated, Failure> {
        let secrets = request::secrets(&self.args.secret, self.env)?;
        let secret = |name: &str| -> Result<Option<String>, Failure> {
            let ids = source.secret_ids(name);
            let Some((id, secret)) = ids.iter().find_map(|id| secrets.get_key_value(id)) else {
                return Ok(None);
            };
            let bytes = match secret {
                SecretSource::Value(bytes) => bytes.clone(),
                SecretSource::File(path) => fs::read(path).map_err(|e| {
                    Failure::usage(format!("cannot read the file of secret {id}: {e}"))
                })?,
            };
            Ok(Some(text_of(&bytes).trim_end().to_owned()))
        };
        let settings = GitSettings {
            env: inputs::git_env(self.env),
            token: secret("GIT_AUTH_TOKEN")?,
            header: secret("GIT_AUTH_HEADER")?,
            canceled: self.registry.canceled(),
            ..GitSettings::default()
        };
        let dir = self.dir()?;
        let checkout = git::checkout(source, &settings, &dir)
            .map_err(|e| classify::failure_or(Kind::Usage, &e))?;
        let used = UsedSource::commit(source, &checkout.commit);
        self.used.borrow_mut().push((url.to_owned(), used));
        let time = Some(checkout.commit_time);
        Ok((Arc::new(checkout.tree), time))
    }

    /// A file of the web as a context, and its time if the server tells.
    fn file(
        &self,
        url: &str,
        path: &Path,
        vertex: Vertex,
    ) -> Result<(SingleFile, Option<i64>), Failure> {
        let got = self.get(url, path, vertex)?;
        let time = got.modified();
        let tree = SingleFile::fetched(FILE_NAME, path.to_owned(), got.size, got.digest, time);
        Ok((tree, time))
    }

    fn get(&self, url: &str, path: &Path, vertex: Vertex) -> Result<Download, Failure> {
        let mut file = File::create_new(path).map_err(|e| cannot_keep(&e))?;
        let get = Get {
            url: url.to_owned(),
            ..Get::default()
        };
        let tell = |current, total| {
            self.renderer.event(Event::Transfer {
                vertex,
                // Not the address, which may have a password in it.
                item: "context".to_owned(),
                current,
                total,
            });
        };
        let got = self
            .registry
            .download(
                &get,
                &mut Watched::new(&mut file, &mut |current| tell(current, None)),
            )
            .map_err(|e| classify::failure(&e))?;
        tell(got.size, Some(got.size));
        let used = UsedSource::file(url, got.digest);
        self.used.borrow_mut().push((url.to_owned(), used));
        Ok(got)
    }

    /// Takes what comes on standard input.
    pub(crate) fn stdin(&self) -> Result<Fetched, Failure> {
        let dir = self.dir()?;
        let path = dir.join("stdin");
        let mut file = File::create_new(&path).map_err(|e| cannot_keep(&e))?;
        io::copy(&mut io::stdin().lock(), &mut file)
            .map_err(|e| Failure::new(Kind::Machine, format!("cannot keep standard input: {e}")))?;
        archive_or_dockerfile(&path, &dir)
    }

    fn dir(&self) -> Result<PathBuf, Failure> {
        let dir = self.store.temp_dir().map_err(|e| classify::failure(&e))?;
        let path = dir.path().to_owned();
        self.kept.borrow_mut().push(dir);
        Ok(path)
    }
}

/// What a URL names, if that is a repository.
fn git_source(url: &str) -> Result<Option<GitSource>, Failure> {
    GitSource::parse_context(url).map_err(|e| {
        let url = redacted_text(url);
        Failure::usage(format!("cannot use the repository `{url}`: {e}"))
    })
}

fn archive_or_dockerfile(path: &Path, dir: &Path) -> Result<Fetched, Failure> {
    let opened = archive::open(path.to_owned(), Some(dir.to_owned()))
        .map_err(|e| classify::failure_or(Kind::Build, &e))?;
    if let Some(tree) = opened {
        let newest = archive::newest_file(&tree).map_err(|e| classify::failure(&e))?;
        return Ok(Fetched::Files(Arc::new(tree), newest));
    }
    let bytes = text(path)?;
    // Nobody writes larger ones.
    if bytes.contains(&0) || bytes.len() as u64 > MAX_TEXT_BYTES {
        return Err(Failure::usage(
            "the context is neither an archive nor a Dockerfile",
        ));
    }
    Ok(Fetched::Dockerfile(bytes, None))
}

/// A file that is taken for a Dockerfile, or its beginning and one byte more than that may have.
fn text(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|e| cannot_keep(&e))?;
    Ok(bytes)
}

fn cannot_keep(e: &io::Error) -> Failure {
    Failure::new(Kind::Machine, format!("cannot keep the context: {e}"))
}

/// The Dockerfile of a fetched context.
pub(crate) fn dockerfile_in(tree: &dyn Tree, file: Option<&str>) -> Result<Source, Failure> {
    let name = file.unwrap_or("Dockerfile");
    let found =
        read_dockerfile(tree, Path::new(name)).map_err(|e| Failure::from_error(Kind::Usage, &e))?;
    Ok(Source::new(
        found.name.display().to_string(),
        text_of(&found.bytes),
    ))
}
