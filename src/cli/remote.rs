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
    context::{
        git::{self, GitSettings, GitSource},
        read_dockerfile,
    },
    layer::archive,
    progress::{Event, Reporter as _, Vertex},
    registry::{Client, Watched, http::Get},
    store::{Store, TempDir},
    tree::Tree,
};

use super::{
    classify,
    diagnostics::{Failure, Kind, Source},
    environment::Environment,
    inputs::{self, text_of},
    progress::Renderer,
};

/// A file that is no archive is taken for a Dockerfile only up to this size; nobody writes larger ones.
const MAX_DOCKERFILE_BYTES: u64 = 16 << 20;

/// What was fetched.
pub(crate) enum Fetched {
    /// Files, with the time of the commit they belong to.
    Files(Arc<dyn Tree>, Option<i64>),
    /// A single file, which is a Dockerfile.
    Dockerfile(Vec<u8>),
}

/// Fetches contexts, and keeps what was fetched.
pub(crate) struct Fetcher<'a> {
    store: &'a Store,
    registry: &'a Client,
    env: &'a Environment,
    renderer: &'a Renderer,
    kept: RefCell<Vec<TempDir>>,
}

impl<'a> Fetcher<'a> {
    /// Shows what it fetches as lines of work of their own.
    pub(crate) fn new(
        store: &'a Store,
        registry: &'a Client,
        env: &'a Environment,
        renderer: &'a Renderer,
    ) -> Self {
        Self {
            store,
            registry,
            env,
            renderer,
            kept: RefCell::default(),
        }
    }

    /// Fetches what a URL names.
    pub(crate) fn url(&self, url: &str) -> Result<Fetched, Failure> {
        let bad = |e: git::GitSourceError| {
            Failure::usage(format!("cannot use the repository `{url}`: {e}"))
        };
        if let Some(source) = GitSource::parse_context(url).map_err(bad)? {
            let name = format!("[internal] load git source {}", source.display_remote());
            return self.shown(name, |_| self.repository(&source));
        }
        let name = "[internal] load remote build context".to_owned();
        self.shown(name, |vertex| self.download(url, vertex))
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

    fn repository(&self, source: &GitSource) -> Result<Fetched, Failure> {
        let settings = GitSettings {
            env: inputs::git_env(self.env),
            canceled: self.registry.canceled(),
            ..GitSettings::default()
        };
        let dir = self.dir()?;
        let checkout = git::checkout(source, &settings, &dir)
            .map_err(|e| Failure::from_error(classify::kind_of(&e, Kind::Usage), &e))?;
        let time = Some(checkout.commit_time);
        Ok(Fetched::Files(Arc::new(checkout.tree), time))
    }

    fn download(&self, url: &str, vertex: Vertex) -> Result<Fetched, Failure> {
        let dir = self.dir()?;
        let path = dir.join("download");
        let mut file = File::create_new(&path).map_err(|e| cannot_keep(&e))?;
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
        archive_or_dockerfile(&path, &dir)
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

fn archive_or_dockerfile(path: &Path, dir: &Path) -> Result<Fetched, Failure> {
    let opened = archive::open(path.to_owned(), Some(dir.to_owned()))
        .map_err(|e| Failure::from_error(classify::kind_of(&e, Kind::Build), &e))?;
    if let Some(tree) = opened {
        return Ok(Fetched::Files(Arc::new(tree), None));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_DOCKERFILE_BYTES).read_to_end(&mut bytes))
        .map_err(|e| cannot_keep(&e))?;
    fs::remove_file(path).ok();
    if bytes.contains(&0) {
        return Err(Failure::usage(
            "the context is neither an archive nor a Dockerfile",
        ));
    }
    Ok(Fetched::Dockerfile(bytes))
}

fn cannot_keep(e: &io::Error) -> Failure {
    Failure::new(Kind::Machine, format!("cannot keep the context: {e}"))
}

/// The Dockerfile of a fetched context.
pub(crate) fn dockerfile_in(tree: &dyn Tree, file: Option<&str>) -> Result<Source, Failure> {
    let name = file.unwrap_or("Dockerfile");
    let found =
        read_dockerfile(tree, Path::new(name)).map_err(|e| Failure::from_error(Kind::Usage, &e))?;
    Ok(Source {
        name: found.name.display().to_string(),
        text: text_of(&found.bytes),
    })
}
