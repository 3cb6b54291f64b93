//! `-p`: whether a program listens on the ports that it was said to.
//!
//! The program is on this machine's network, so there is nothing to forward; what can go wrong is that the port is taken,
//! or that the program listens on another one.

use std::{
    fs,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    diagnostics::{self, Failure, Kind},
    run_args::Port,
};

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(50);

/// Looks after ports while a program runs.
pub(crate) struct Watch {
    /// Those that nobody has listened on so far.
    waiting: Arc<Mutex<Vec<Port>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Fails when somebody else listens on one of them already.
    pub(crate) fn start(ports: &[Port]) -> Result<Self, Failure> {
        let taken = listening();
        if let Some(port) = ports.iter().find(|port| taken.contains(port)) {
            return Err(Failure::new(
                Kind::Machine,
                format!("port {port} of this machine is in use"),
            )
            .with_hint("stop what listens there, or have the program listen on another port"));
        }
        let waiting = Arc::new(Mutex::new(ports.to_vec()));
        let ended = Arc::new(AtomicBool::new(false));
        let (theirs, stop) = (Arc::clone(&waiting), Arc::clone(&ended));
        let thread = (!ports.is_empty()).then(|| {
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) && look(&theirs) {
                    thread::park_timeout(PERIOD);
                }
            })
        });
        Ok(Self {
            waiting,
            ended,
            thread,
        })
    }

    /// To be called when the program has ended: says on which ports nobody has listened.
    pub(crate) fn finish(mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It prints and looks at files; if it panicked, that has been said.
            let _said = thread.join();
        }
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for port in &*waiting {
            diagnostics::warn(&format!(
                "warning: the program has not listened on port {port}\n"
            ));
        }
    }
}

/// Tells of ports that are listened on now; gives whether there are others.
fn look(waiting: &Mutex<Vec<Port>>) -> bool {
    let open = listening();
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.retain(|port| {
        let found = open.contains(port);
        if found {
            diagnostics::warn(&format!("port {port}: listening\n"));
        }
        !found
    });
    !waiting.is_empty()
}

/// The ports that somebody listens on here.
fn listening() -> Vec<Port> {
    let tables = [
        ("/proc/net/tcp", false),
        ("/proc/net/tcp6", false),
        ("/proc/net/udp", true),
        ("/proc/net/udp6", true),
    ];
    let mut ports = Vec::new();
    for (path, udp) in tables {
        // Without IPv6 there is no such table.
        let table = fs::read_to_string(path).unwrap_or_default();
        let numbers = table.lines().skip(1).filter_map(|line| open(line, udp));
        ports.extend(numbers.map(|number| Port { number, udp }));
    }
    ports
}

/// The local port of a socket that listens, or of one without connections.
fn open(line: &str, udp: bool) -> Option<u16> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (_, port) = words.next()?.rsplit_once(':')?;
    // TCP_LISTEN, and TCP_CLOSE, which is where sockets without connections are.
    let wanted = if udp { "07" } else { "0A" };
    let state = words.nth(1)?;
    (state == wanted)
        .then(|| u16::from_str_radix(port, 16).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_table_is_understood() {
        let listens = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000";
        let connected =
            "   1: 0100007F:1F90 0100007F:A000 01 00000000:00000000 00:00000000 00000000";
        assert_eq!(open(listens, false), Some(8080));
        assert_eq!(open(connected, false), None);
        assert_eq!(open("", false), None);
    }

    #[test]
    fn a_port_in_use_is_refused() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let number = socket.local_addr().unwrap().port();
        let port = Port { number, udp: false };
        assert_eq!(Watch::start(&[port]).err().unwrap().kind, Kind::Machine);
        drop(socket);
    }
}
