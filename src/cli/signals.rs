//! Ctrl-C, `kill`, and a terminal that goes away: the first asks the build to stop in good order, the second ends the program.
//! So does time: what hangs in a disk, a terminal or a pipe that nobody reads cannot be asked. With `rbuild run`, signals are passed
//! on to its program.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rbuild::sandbox::{Cancel, Signals};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    diagnostics::{Failure, Kind, Signal},
    sys,
};

/// Which signal came, if one did.
#[derive(Clone, Default)]
pub(crate) struct Received(Arc<Mutex<Option<Signal>>>);

impl Received {
    pub(crate) fn get(&self) -> Option<Signal> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, signal: Signal) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(signal);
    }
}

/// How long a build may take to stop in good order: longer than a step may take to go away.
const ORDERLY: Duration = Duration::from_secs(12);

/// Watches for signals on a thread of its own, from now to the end of the program.
pub(crate) fn watch(cancel: Cancel) -> Result<Received, Failure> {
    let received = Received::default();
    let theirs = received.clone();
    let runtime = runtime()?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _inside = runtime.enter();
        // What `nohup` has started is to go on.
        let hangup = (!sys::hangup_is_ignored()).then(|| signal(SignalKind::hangup()));
        (
            signal(SignalKind::interrupt()).map_err(failed)?,
            signal(SignalKind::terminate()).map_err(failed)?,
            hangup.transpose().map_err(failed)?,
        )
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let first = tokio::select! {
                    _ = interrupt.recv() => Signal::Interrupt,
                    _ = terminate.recv() => Signal::Terminate,
                    Some(()) = hung_up(&mut hangup) => Signal::Hangup,
                };
                theirs.set(first);
                cancel.cancel();
                // Both a shell and the kernel tell that a terminal has gone: that is nobody's impatience.
                end(tokio::select! {
                    _ = interrupt.recv() => Signal::Interrupt,
                    _ = terminate.recv() => Signal::Terminate,
                    () = tokio::time::sleep(ORDERLY) => first,
                });
            });
        })
        .map_err(failed)?;
    Ok(received)
}

/// Waits until the terminal goes away; `None` at once when nobody wants to know.
async fn hung_up(hangup: &mut Option<tokio::signal::unix::Signal>) -> Option<()> {
    hangup.as_mut()?.recv().await
}

/// How long a program may take to end after it was told to, as with `docker stop`.
const GRACE: Duration = Duration::from_secs(10);
/// So many requests to end are taken for impatience.
const IMPATIENT: usize = 3;

/// Passes signals on to the program of a container, on a thread of its own. It is killed when it does not end after
/// SIGTERM, or at the third SIGTERM or SIGINT.
pub(crate) fn pass_on(to: Arc<Signals>, cancel: Cancel) -> Result<(), Failure> {
    let runtime = runtime()?;
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
        SignalKind::quit(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
        SignalKind::window_change(),
    ];
    let watched = {
        let _inside = runtime.enter();
        kinds
            .into_iter()
            .map(|kind| Ok((kind, signal(kind)?)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let (send, mut received) = tokio::sync::mpsc::unbounded_channel();
            runtime.block_on(async {
                for (kind, mut signal) in watched {
                    let send = send.clone();
                    tokio::spawn(async move {
                        while signal.recv().await.is_some() && send.send(kind).is_ok() {}
                    });
                }
                let mut requests = 0;
                while let Some(kind) = received.recv().await {
                    to.send(kind.as_raw_value());
                    if kind == SignalKind::terminate() {
                        let cancel = cancel.clone();
                        tokio::spawn(async move {
                            tokio::time::sleep(GRACE).await;
                            cancel.cancel();
                        });
                    }
                    if kind == SignalKind::terminate() || kind == SignalKind::interrupt() {
                        requests += 1;
                    }
                    if requests >= IMPATIENT {
                        cancel.cancel();
                    }
                }
            });
        })
        .map_err(failed)?;
    Ok(())
}

/// Signals are received on the one thread that runs this.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature that map_err wants"
)]
fn failed(error: std::io::Error) -> Failure {
    Failure::new(Kind::Machine, format!("cannot watch for signals: {error}"))
}

/// Ends the program at once. Steps die with it, and what it leaves in the store is swept up by the next one.
#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "who asks twice does not want to wait for destructors"
)]
fn end(signal: Signal) -> ! {
    std::process::exit(i32::from(Kind::Interrupted(signal).exit_code()))
}
