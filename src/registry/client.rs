//! The client: settings, connections and what was learnt, shared by all threads.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode, Url, header::HeaderMap};

use super::{
    ahead::{Pending, Reading, Spare},
    answer::Answer,
    auth::{Auth, Need},
    body::Meter,
    challenge::{Scope, challenges},
    document::Document,
    error::{Error, Failure},
    growing::Turn,
    mirrors::Endpoint,
    redact::redacted,
    retry::Attempts,
    settings::{Canceled, Settings, Warn},
    transport::{Follow, MakeBody, Request, Transport, forbidden},
};
use crate::{
    oci::{Descriptor, Digest},
    reference::{DOCKER_IO, Reference},
};

/// How often it is asked whether the work was called off.
const CANCEL_CHECK: Duration = Duration::from_millis(100);
/// How long it is waited until uploads are given up,
const GIVE_UP_TIME: Duration = Duration::from_secs(5);
/// and how long when the user waits for the program to end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Talks to registries and other HTTP servers.
///
/// One client serves all threads; what it learns about servers (tokens, schemes, digests of tags) it keeps for its
/// lifetime. Its methods block, so they must not be called from asynchronous code. Dropping it ends its connections.
pub struct Client {
    /// `Some` until dropped.
    runtime: Option<tokio::runtime::Runtime>,
    pub(super) core: Arc<Core>,
}

/// What the asynchronous halves of the methods work with.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) transport: Transport,
    auth: Auth,
    known: Mutex<Known>,
}

/// The host of a registry and a repository there.
pub(super) type Repository = (String, String);

/// What was found out.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Tags that were resolved; a build must see one image under one name.
    pub(super) tags: HashMap<Reference, Descriptor>,
    /// Manifests and indexes.
    pub(super) documents: HashMap<Digest, Arc<Document>>,
    /// Blobs that a repository has.
    pub(super) blobs: HashSet<(Repository, Digest)>,
    /// Those of them that were not asked for: a manifest names them.
    pub(super) concluded: HashMap<Repository, HashSet<Digest>>,
    /// Repositories that turned out to lack such blobs.
    pub(super) doubted: HashSet<Repository>,
    /// What tags that will be pushed stood for.
    pub(super) looks: HashMap<Repository, Pending>,
    /// Repositories in which what the tag stood for is read, or was.
    pub(super) reading: HashMap<Repository, Reading>,
    /// Uploads that were begun in advance.
    pub(super) spares: HashMap<Repository, VecDeque<Spare>>,
    /// Who sends which blob.
    pub(super) turns: HashMap<(Repository, Digest), Arc<Turn>>,
    /// Registries that have refused pieces of blobs.
    pub(super) whole_only: HashSet<String>,
    /// Mirrors that could not be reached.
    pub(super) down: HashSet<String>,
}

/// One request to a registry.
pub(super) struct Call<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) method: Method,
    pub(super) target: Target<'a>,
    pub(super) headers: HeaderMap,
    pub(super) need: Need,
    /// The time limit for the head of the answer, where it is not the usual one.
    pub(super) limit: Option<Duration>,
    /// Watches an upload's body instead.
    pub(super) meter: Option<&'a Arc<Meter>>,
}

/// What a request is sent to.
pub(super) enum Target<'a> {
    /// A path below the repository: `manifests/latest`.
    Repository(String),
    /// The root of the API.
    Root,
    /// An address that the registry named.
    Url(&'a Url),
}

impl Client {
    /// A client with these settings. Nothing is read or sent yet.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("network")
            .enable_all()
            .build()
            .map_err(|source| Error::Io {
                action: "start",
                what: "the network threads".to_owned(),
                source,
            })?;
        Ok(Self {
            runtime: Some(runtime),
            core: Arc::new(Core {
                transport: Transport::new(Arc::new(settings)),
                auth: Auth::default(),
                known: Mutex::default(),
            }),
        })
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &Settings {
        &self.core.transport.settings
    }

    /// What its settings ask whether to stop.
    pub fn canceled(&self) -> Option<Arc<dyn Fn() -> bool + Send + Sync>> {
        let canceled = self.settings().canceled.as_ref()?;
        Some(Arc::clone(&canceled.0))
    }

    pub(super) fn runtime(&self) -> &tokio::runtime::Runtime {
        self.runtime
            .as_ref()
            .expect("the runtime is taken only when the client is dropped")
    }

    /// Runs the asynchronous half of a method, until it is done or the work is called off.
    pub(super) fn block_on<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let runtime = self.runtime();
        let Some(Canceled(is_canceled)) = &self.settings().canceled else {
            return runtime.block_on(work);
        };
        runtime.block_on(async {
            tokio::pin!(work);
            loop {
                if is_canceled() {
                    return Err(Error::Canceled);
                }
                if let Ok(result) = tokio::time::timeout(CANCEL_CHECK, &mut work).await {
                    return result;
                }
            }
        })
    }
}

impl Client {
    /// Tidies up after other work, also when that was called off; then only as long as nobody minds.
    pub(super) fn tidy_up(&self, work: impl Future<Output = ()>) {
        let is_called_off = match &self.settings().canceled {
            Some(Canceled(is_canceled)) => is_canceled(),
            None => false,
        };
        let limit = if is_called_off {
            LAST_WORDS
        } else {
            GIVE_UP_TIME
        };
        let work = async { tokio::time::timeout(limit, work).await.is_ok() };
        // What is left at a registry expires anyway.
        let _best_effort = self.runtime().block_on(work);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A thread that still reads a file for a transfer that was given up must not hold up the program.
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client")
            .field(&self.core.transport.settings)
            .finish()
    }
}

impl Core {
    pub(super) fn settings(&self) -> &Settings {
        &self.transport.settings
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn warn(&self, text: &str) {
        if let Some(Warn(warn)) = &self.settings().warn {
            warn(text);
        }
    }

    pub(super) fn attempts(&self) -> Attempts<'_> {
        Attempts::new(&self.settings().retry, self.settings().warn.as_ref())
    }

    pub(super) fn describe(&self, endpoint: &Endpoint) -> String {
        self.auth.describe(endpoint)
    }

    /// Where to pull from, in order; at least one.
    pub(super) fn pull_endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, Error> {
        self.refuse_blocked(reference)?;
        let mut endpoints = self.settings().registries.pull_endpoints(reference);
        if reference.registry() == DOCKER_IO {
            let mirrors: Vec<Endpoint> = self
                .settings()
                .mirrors
                .iter()
                .filter_map(|mirror| Endpoint::at_mirror(mirror, reference.repository()))
                .collect();
            endpoints.splice(0..0, mirrors);
        }
        let known = self.known();
        let n_endpoints = endpoints.len();
        let mut i = 0;
        endpoints.retain(|endpoint| {
            i += 1;
            i == n_endpoints || !known.down.contains(&endpoint.host)
        });
        Ok(endpoints)
    }

    /// Where to push to: what the reference says, mirrors and rewrites aside.
    pub(super) fn push_endpoint(&self, reference: &Reference) -> Result<Endpoint, Error> {
        self.refuse_blocked(reference)?;
        let entry = self.settings().registries.entry(reference);
        Ok(Endpoint {
            insecure: entry.is_some_and(|entry| entry.insecure),
            ..Endpoint::of(reference)
        })
    }

    fn refuse_blocked(&self, reference: &Reference) -> Result<(), Error> {
        match self.settings().registries.entry(reference) {
            Some(entry) if entry.blocked => Err(Error::Blocked {
                what: reference.to_string(),
                prefix: entry.prefix.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Does pulling work at one endpoint after the other until it succeeds; the last one's error counts.
    pub(super) async fn at_endpoints<T>(
        &self,
        reference: &Reference,
        mut work: impl AsyncFnMut(&Endpoint, Attempts<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let endpoints = self.pull_endpoints(reference)?;
        let n_endpoints = endpoints.len();
        for (i, endpoint) in endpoints.iter().enumerate() {
            let is_last = i + 1 == n_endpoints;
            // Where there is another place to ask, patience is better spent there.
            let attempts = self.attempts();
            let attempts = if is_last {
                attempts
            } else {
                attempts.at_most(2)
            };
            let error = match work(endpoint, attempts).await {
                Ok(value) => return Ok(value),
                // Our own side's failures are the same everywhere.
                Err(error) if is_last || matches!(error, Error::Io { .. }) => return Err(error),
                Err(error) => error,
            };
            let is_down = matches!(
                error,
                Error::Unreachable { .. } | Error::TooSlow { .. } | Error::Tls { .. }
            );
            if is_down {
                self.known().down.insert(endpoint.host.clone());
            }
            if !error.is_not_found() {
                self.warn(&format!("mirror skipped: {error}"));
            }
        }
        // `pull_endpoints` never gives an empty list.
        Err(Error::NotFound {
            host: reference.registry().to_owned(),
            what: reference.to_string(),
            message: String::new(),
        })
    }

    /// Sends one request with the authorization it needs; learns what that is when the server refuses.
    pub(super) async fn call(
        &self,
        call: &Call<'_>,
        body: &mut MakeBody<'_>,
    ) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let home = self.transport.home(call.endpoint).await?;
        let url = match &call.target {
            Target::Repository(path) => {
                let mut url = home.base.clone();
                let (path, query) = path
                    .split_once('?')
                    .map_or((path.as_str(), None), |(p, q)| (p, Some(q)));
                url.set_path(&format!("/v2/{}/{path}", call.endpoint.repository));
                url.set_query(query);
                url
            }
            Target::Root => {
                let mut url = home.base.clone();
                url.set_path("/v2/");
                url
            }
            Target::Url(url) => {
                if let Some(reason) = forbidden(&home, &home.base, url) {
                    return Err(Error::Redirect {
                        host: home.name.clone(),
                        target: redacted(url),
                        reason,
                    }
                    .into());
                }
                (*url).clone()
            }
        };
        let mut need = call.need.clone();
        let mut authorization = self
            .auth
            .header(&self.transport, call.endpoint, &home, &need, begun)
            .await?;
        // A first refusal tells what the server wants, a second that a token had run out or lacked a scope, a third
        // that the new one did so before its turn came, or was not known yet to another of the registry's machines.
        let mut n_refusals = 0;
        loop {
            let request = Request {
                method: call.method.clone(),
                url: url.clone(),
                headers: call.headers.clone(),
                authorization: authorization.clone(),
                home: home.clone(),
                limit: call.limit.unwrap_or(self.settings().timeouts.idle),
                follow: Follow::Guarded,
                meter: call.meter.cloned(),
            };
            let answer = self.transport.send(&request, body).await?;
            let status = answer.status();
            let is_refusal = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            if !is_refusal || n_refusals == 3 {
                return Ok(answer);
            }
            n_refusals += 1;
            let challenges = challenges(answer.headers());
            self.auth
                .refused(
                    &home,
                    status,
                    &challenges,
                    authorization.as_ref(),
                    &mut need,
                )
                .await;
            let next = self
                .auth
                .header(&self.transport, call.endpoint, &home, &need, begun)
                .await?;
            if next == authorization {
                return Ok(answer);
            }
            authorization = next;
        }
    }

    /// [`Core::call`] for a request without a body.
    pub(super) async fn ask(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        self.call(call, &mut || Ok(None)).await
    }
}

impl Known {
    /// Other repositories of the same registry that have a blob, by name.
    pub(super) fn repositories_with(&self, digest: Digest, endpoint: &Endpoint) -> Vec<String> {
        let have_it = self.blobs.iter().filter(|((host, repository), blob)| {
            *blob == digest && *host == endpoint.host && *repository != endpoint.repository
        });
        let mut names: Vec<String> = have_it.map(|((_, name), _)| name.clone()).collect();
        names.sort_unstable();
        names
    }
}

impl Endpoint {
    /// What is known of the repository is filed under this.
    pub(super) fn key(&self) -> Repository {
        (self.host.clone(), self.repository.clone())
    }
}

impl Need {
    /// To read a repository.
    pub(super) fn pull(endpoint: &Endpoint) -> Self {
        Self {
            scopes: vec![Scope::pull(&endpoint.repository)],
            strict: false,
        }
    }

    /// To read and write a repository.
    pub(super) fn push(endpoint: &Endpoint) -> Self {
        Self {
            scopes: vec![Scope::push(&endpoint.repository)],
            strict: true,
        }
    }
}
