//! Stands in front of a real server and counts what passes: one request a connection, bytes unchanged.

use std::{
    io::{BufReader, Read, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// A request that passed, and the bytes of its body and of the answer's.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) status: u16,
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// What has passed, and how many connections still are: a client reads the end of its answer before the request is counted.
#[derive(Default)]
struct Log {
    passed: Vec<Passed>,
    n_open: usize,
}

/// Longer than a client that has ended leaves its connections open.
const MAX_WAIT: Duration = Duration::from_mins(1);

/// The proxy. Its threads end with the test's process.
pub(crate) struct CountingProxy {
    address: SocketAddr,
    log: Arc<(Mutex<Log>, Condvar)>,
}

impl CountingProxy {
    /// In front of the server at `host:port`.
    pub(crate) fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback is free");
        let address = listener.local_addr().expect("it is bound");
        let log = Arc::<(Mutex<Log>, Condvar)>::default();
        let (shared, server) = (Arc::clone(&log), server.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                lock(&shared.0).n_open += 1;
                let (shared, server) = (Arc::clone(&shared), server.clone());
                std::thread::spawn(move || {
                    let passed = relay(&client, &server);
                    client.shutdown(Shutdown::Both).ok();
                    let mut log = lock(&shared.0);
                    // A connection that ends early is the client's business.
                    log.passed.extend(passed);
                    log.n_open -= 1;
                    shared.1.notify_all();
                });
            }
        });
        Self { address, log }
    }

    /// `host:port`
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// What has passed since this was last asked. Whoever was a client must have ended: its connections are waited for.
    pub(crate) fn take(&self) -> Vec<Passed> {
        let (log, changed) = &*self.log;
        let (mut log, waited) = changed
            .wait_timeout_while(lock(log), MAX_WAIT, |log| log.n_open > 0)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.timed_out(), "{} connections are open", log.n_open);
        std::mem::take(&mut log.passed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a head, up to and with the empty line.
fn head(reader: &mut impl std::io::BufRead) -> Option<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            return Some(lines);
        }
        lines.push(line);
    }
}

/// The head's bytes, asking the other side to close after the answer.
fn closing(lines: &[String]) -> Vec<u8> {
    let is_kept = |line: &&String| !line.to_lowercase().starts_with("connection:");
    let mut text: String = lines
        .iter()
        .filter(is_kept)
        .fold(String::new(), |text, line| text + line + "\r\n");
    text.push_str("Connection: close\r\n\r\n");
    text.into_bytes()
}

fn relay(client: &TcpStream, server: &str) -> Option<Passed> {
    let mut from_client = BufReader::new(client);
    let request = head(&mut from_client)?;
    let mut words = request.first()?.split(' ').map(ToOwned::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let upstream = TcpStream::connect(server).ok()?;
    (&upstream).write_all(&closing(&request)).ok()?;
    let (sent, answer) = std::thread::scope(|scope| {
        let body = scope.spawn(|| {
            let sent = copy(&mut from_client, &upstream);
            // The client has said all.
            upstream.shutdown(Shutdown::Write).ok();
            sent
        });
        let answer = (|| {
            let mut from_server = BufReader::new(&upstream);
            let answer = head(&mut from_server)?;
            let mut writer = client;
            writer.write_all(&closing(&answer)).ok()?;
            let received = copy(&mut from_server, client);
            let status = answer.first()?.split(' ').nth(1)?.parse().ok()?;
            Some((status, received))
        })();
        client.shutdown(Shutdown::Both).ok();
        (body.join().unwrap_or(0), answer)
    });
    let (status, received) = answer?;
    Some(Passed {
        method,
        target,
        status,
        sent,
        received,
    })
}

/// Copies until the end; gives how many bytes went by.
fn copy(reader: &mut impl Read, mut writer: &TcpStream) -> u64 {
    let mut piece = vec![0; 64 << 10];
    let mut total = 0;
    while let Ok(n @ 1..) = reader.read(&mut piece) {
        if writer.write_all(&piece[..n]).is_err() {
            break;
        }
        total += n as u64;
    }
    total
}
