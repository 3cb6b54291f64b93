//! The cache service of GitHub Actions, version 2, written from its protocol: entries that never change, by key and
//! version, looked up exactly or by the beginning of the key; bytes by signed URLs of a store that knows no token.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};

const SERVICE: &str = "/twirp/github.actions.results.api.v1.CacheService/";
const TOKEN: &str = "job-token";

/// A running service. Its threads end with the process.
pub(crate) struct ActionsCache {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By version and key, in the order of their creation; bytes when an upload was finished.
    entries: Vec<Entry>,
    log: Vec<String>,
}

struct Entry {
    version: String,
    key: String,
    bytes: Vec<u8>,
    is_finished: bool,
}

impl ActionsCache {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback is free");
        let address = listener.local_addr().expect("it has an address");
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(&stream, address, &state));
            }
        });
        Self { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub(crate) fn token() -> &'static str {
        TOKEN
    }

    /// `METHOD path` of every request, the store's without their signatures.
    pub(crate) fn log(&self) -> Vec<String> {
        lock(&self.state).log.clone()
    }

    pub(crate) fn clear_log(&self) {
        lock(&self.state).log.clear();
    }

    /// The keys of finished entries.
    pub(crate) fn keys(&self) -> Vec<String> {
        let state = lock(&self.state);
        let finished = state.entries.iter().filter(|entry| entry.is_finished);
        finished.map(|entry| entry.key.clone()).collect()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers the requests of one connection.
fn serve(stream: &TcpStream, address: SocketAddr, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut words = line.split_whitespace().map(ToOwned::to_owned);
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return;
        };
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").and_then(|n| n.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let (status, bytes) = answer(&method, &target, &headers, body, address, &mut lock(state));
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n",
            bytes.len()
        );
        if writer.write_all(head.as_bytes()).is_err() || writer.write_all(&bytes).is_err() {
            return;
        }
    }
}

fn answer(
    method: &str,
    target: &str,
    headers: &BTreeMap<String, String>,
    body: Vec<u8>,
    address: SocketAddr,
    state: &mut State,
) -> (u16, Vec<u8>) {
    let path = target.split('?').next().unwrap_or_default();
    state.log.push(format!("{method} {path}"));
    let header = |name: &str| headers.get(name).map_or("", String::as_str);
    if let Some(call) = path.strip_prefix(SERVICE) {
        if header("authorization") != format!("Bearer {TOKEN}") {
            return (401, br#"{"code":"unauthenticated","msg":"who?"}"#.to_vec());
        }
        let Ok(message) = serde_json::from_slice::<Value>(&body) else {
            return (400, br#"{"code":"malformed"}"#.to_vec());
        };
        let (status, reply) = called(call, &message, address, state);
        return (status, reply.to_string().into_bytes());
    }
    // The store: whoever has the URL may use it, and nobody shows it the job's token.
    let index = path
        .strip_prefix("/store/")
        .and_then(|n| n.parse::<usize>().ok());
    let Some(entry) = index.and_then(|index| state.entries.get_mut(index)) else {
        return (404, Vec::new());
    };
    if !target.ends_with("?sig=secret") || headers.contains_key("authorization") {
        return (403, Vec::new());
    }
    match method {
        "GET" => (200, entry.bytes.clone()),
        "PUT" if header("x-ms-blob-type") == "BlockBlob" => {
            entry.bytes = body;
            (201, Vec::new())
        }
        _ => (400, Vec::new()),
    }
}

fn called(call: &str, message: &Value, address: SocketAddr, state: &mut State) -> (u16, Value) {
    let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
    let (key, version) = (text("key"), text("version"));
    let url = |index: usize| format!("http://{address}/store/{index}?sig=secret");
    let found = |entries: &[Entry], wanted: &dyn Fn(&str) -> bool, finished: bool| {
        let is_wanted = |entry: &Entry| {
            entry.version == version && wanted(&entry.key) && entry.is_finished == finished
        };
        entries.iter().rposition(is_wanted)
    };
    match call {
        "CreateCacheEntry" => {
            let entries = &mut state.entries;
            if entries.iter().any(|e| e.version == version && e.key == key) {
                return (
                    409,
                    json!({"code": "already_exists", "msg": "there is one"}),
                );
            }
            entries.push(Entry {
                version,
                key,
                bytes: Vec::new(),
                is_finished: false,
            });
            let url = url(entries.len() - 1);
            (200, json!({"ok": true, "signed_upload_url": url}))
        }
        "FinalizeCacheEntryUpload" => {
            let index = found(&state.entries, &|other| other == key, false);
            let Some(index) = index else {
                return (404, json!({"code": "not_found", "msg": "no upload"}));
            };
            let entry = &mut state.entries[index];
            let is_whole = entry.bytes.len().to_string() == text("size_bytes");
            entry.is_finished = is_whole;
            (200, json!({"ok": is_whole, "entry_id": index.to_string()}))
        }
        "GetCacheEntryDownloadURL" => {
            let exact = found(&state.entries, &|other| other == key, true);
            let prefixes: Vec<String> = message["restore_keys"]
                .as_array()
                .map(|keys| {
                    let keys = keys.iter().filter_map(Value::as_str);
                    keys.map(ToOwned::to_owned).collect()
                })
                .unwrap_or_default();
            let by_prefix = || {
                prefixes.iter().find_map(|prefix| {
                    found(&state.entries, &|other| other.starts_with(prefix), true)
                })
            };
            match exact.or_else(by_prefix) {
                Some(index) => {
                    let matched = &state.entries[index].key;
                    let url = url(index);
                    (
                        200,
                        json!({"ok": true, "signed_download_url": url, "matched_key": matched}),
                    )
                }
                None => (
                    200,
                    json!({"ok": false, "signed_download_url": "", "matched_key": ""}),
                ),
            }
        }
        _ => (404, json!({"code": "bad_route", "msg": "no such call"})),
    }
}
