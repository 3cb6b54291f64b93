//! An in-memory registry on loopback that can be told to lie, refuse and break off.

mod answers;
mod connection;

use std::{
    collections::{BTreeMap, HashMap},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rbuild::oci::{Descriptor, Digest, MediaType};

use connection::Connection;

/// A request as it came in, its body aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// By lower-case name.
    pub(crate) headers: BTreeMap<String, String>,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// `GET /v2/…`
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }
}

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// This answer, before the body of the request is read.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// The connection ends without an answer.
    Drop,
    /// All is done as asked, but the connection ends before the answer.
    DropAnswer,
    /// The connection ends after that many bytes of the answer's body.
    CutAnswer(usize),
    /// The connection ends after that many bytes of the request's body, which are kept.
    CutRequest(usize),
    /// Another body in place of the answer's own; headers stay, but for the length.
    Body(Vec<u8>),
    /// More or other headers in an otherwise right answer.
    Headers(Vec<(&'static str, String)>),
    /// A body that goes on until the other side has had enough, of no declared length.
    Endless,
    /// The right answer, but `Range` is not understood.
    NoRanges,
    /// The right answer after this time.
    Late(Duration),
    /// The right answer, a byte of its body at a time and 50 in a second.
    Drip,
    /// The right answer, but for uploads that are forgotten.
    ForgetUploads,
}

/// How the registry wants to be asked.
#[derive(Clone, Debug, Default)]
pub(crate) enum Wants {
    #[default]
    Nothing,
    /// `user:password`
    Basic(&'static str),
    /// Tokens of its own, for anybody or for `user:password`. Each serves that many requests.
    Bearer {
        login: Option<&'static str>,
        n_uses: usize,
    },
}

#[derive(Default)]
struct State {
    blobs: HashMap<(String, Digest), Vec<u8>>,
    manifests: HashMap<(String, String), (String, Vec<u8>)>,
    uploads: HashMap<String, Vec<u8>>,
    wants: Wants,
    /// Token to its scopes and remaining uses.
    tokens: HashMap<String, (String, usize)>,
    log: Vec<Received>,
    /// How often each line is in the log; counting there takes longer with each request.
    n_asked: HashMap<String, usize>,
    n_made: usize,
    max_body: Option<usize>,
    can_mount: bool,
    is_relative: bool,
}

impl State {
    /// Counts a request; gives how many before it had the same line.
    fn count(&mut self, received: &Received) -> usize {
        let n = self.n_asked.entry(received.line()).or_default();
        *n += 1;
        *n - 1
    }
}

type Plan = dyn Fn(&Received, usize) -> Option<Fault> + Send + Sync;

/// The registry; ends with the value.
pub(crate) struct FakeRegistry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    plan: Arc<Mutex<Arc<Plan>>>,
    is_over: Arc<AtomicBool>,
}

impl FakeRegistry {
    pub(crate) fn start() -> Self {
        Self::start_at("127.0.0.1:0").expect("a port on loopback is free")
    }

    pub(crate) fn start_at(address: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let fake = Self {
            address: listener.local_addr()?,
            state: Arc::default(),
            plan: Arc::new(Mutex::new(Arc::new(|_: &Received, _| None))),
            is_over: Arc::default(),
        };
        fake.state().can_mount = true;
        let (state, plan, is_over) = (
            Arc::clone(&fake.state),
            Arc::clone(&fake.plan),
            Arc::clone(&fake.is_over),
        );
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let (state, plan) = (Arc::clone(&state), Arc::clone(&plan));
                std::thread::spawn(move || {
                    Connection {
                        stream,
                        state,
                        plan,
                    }
                    .serve()
                    .ok();
                });
            }
        });
        Ok(fake)
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with the state")
    }

    /// What goes wrong: asked for each request, with the number of requests before it that had the same line.
    pub(crate) fn faults(
        &self,
        plan: impl Fn(&Received, usize) -> Option<Fault> + Send + Sync + 'static,
    ) {
        *self.plan.lock().expect("no panic") = Arc::new(plan);
    }

    pub(crate) fn wants(&self, wants: Wants) {
        self.state().wants = wants;
    }

    /// Refuses larger bodies with 413.
    pub(crate) fn max_body(&self, n_bytes: usize) {
        self.state().max_body = Some(n_bytes);
    }

    pub(crate) fn cannot_mount(&self) {
        self.state().can_mount = false;
    }

    /// Writes `Location` without the host.
    pub(crate) fn relative_locations(&self) {
        self.state().is_relative = true;
    }

    pub(crate) fn put_blob(&self, repository: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(MediaType::OCI_LAYER, bytes);
        self.state()
            .blobs
            .insert((repository.to_owned(), descriptor.digest), bytes.to_vec());
        descriptor
    }

    pub(crate) fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &MediaType,
        bytes: &[u8],
    ) -> Descriptor {
        let descriptor = Descriptor::of(media_type.clone(), bytes);
        let mut state = self.state();
        for name in [tag.to_owned(), descriptor.digest.to_string()] {
            state.manifests.insert(
                (repository.to_owned(), name),
                (media_type.to_string(), bytes.to_vec()),
            );
        }
        descriptor
    }

    pub(crate) fn blob(&self, repository: &str, digest: Digest) -> Option<Vec<u8>> {
        self.state()
            .blobs
            .get(&(repository.to_owned(), digest))
            .cloned()
    }

    pub(crate) fn manifest(&self, repository: &str, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let (_, bytes) = state
            .manifests
            .get(&(repository.to_owned(), name.to_owned()))?;
        Some(bytes.clone())
    }

    pub(crate) fn log(&self) -> Vec<Received> {
        self.state().log.clone()
    }

    /// The lines of the requests so far, without the probing of the scheme.
    pub(crate) fn lines(&self) -> Vec<String> {
        let log = self.log();
        log.iter()
            .map(Received::line)
            .filter(|l| l != "GET /v2/")
            .collect()
    }

    pub(crate) fn clear_log(&self) {
        let mut state = self.state();
        state.log.clear();
        state.n_asked.clear();
    }

    pub(crate) fn n_uploads(&self) -> usize {
        self.state().uploads.len()
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for connections.
        TcpStream::connect(self.address).ok();
    }
}
