//! Bodies of uploads: a file read on a thread of its own, and how far it has got.

use std::{
    io::{self, Read},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::settings::Timeouts;

/// How much is read at once.
const PIECE_BYTES: usize = 128 << 10;
/// How many pieces may wait for the network.
const N_WAITING: usize = 4;

/// Called with the number of bytes of a blob that were sent so far; may go back when an upload begins again.
pub type OnBytes = Arc<dyn Fn(u64) + Send + Sync>;

/// Watches one upload: how far it is, whether it stands still, and whether our own side failed.
pub(super) struct Meter {
    /// Where the present request begins in the blob.
    base: AtomicU64,
    sent: AtomicU64,
    is_all_sent: AtomicBool,
    last: Mutex<Instant>,
    failure: Mutex<Option<io::Error>>,
    on_bytes: Option<OnBytes>,
}

impl Meter {
    pub(super) fn new(on_bytes: Option<OnBytes>) -> Arc<Self> {
        Arc::new(Self {
            base: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            is_all_sent: AtomicBool::new(false),
            last: Mutex::new(Instant::now()),
            failure: Mutex::new(None),
            on_bytes,
        })
    }

    /// The error of our own side, if that is what ended a request.
    pub(super) fn take_failure(&self) -> Option<io::Error> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn fail(&self, error: io::Error) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    fn begin(&self, base: u64) {
        self.base.store(base, Ordering::Relaxed);
        self.sent.store(0, Ordering::Relaxed);
        self.is_all_sent.store(false, Ordering::Relaxed);
        self.touch();
    }

    fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn took(&self, n_bytes: u64, len: u64) {
        let sent = self.sent.fetch_add(n_bytes, Ordering::Relaxed) + n_bytes;
        self.is_all_sent.store(sent >= len, Ordering::Relaxed);
        self.touch();
        if let Some(on_bytes) = &self.on_bytes {
            on_bytes(self.base.load(Ordering::Relaxed) + sent);
        }
    }

    /// Waits for the answer to an upload, as long as bytes flow; the time limit it broke is the error.
    pub(super) async fn watch<T>(
        &self,
        timeouts: &Timeouts,
        answer: impl Future<Output = T>,
    ) -> Result<T, Duration> {
        tokio::pin!(answer);
        self.touch();
        loop {
            let limit = if self.is_all_sent.load(Ordering::Relaxed) {
                timeouts.commit
            } else {
                timeouts.idle
            };
            let idle = self
                .last
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .elapsed();
            let Some(left) = limit.checked_sub(idle).filter(|left| !left.is_zero()) else {
                return Err(limit);
            };
            // The limit changes when the last byte is sent, so look again before long.
            let pause = left.min(Duration::from_secs(1));
            match tokio::time::timeout(pause, &mut answer).await {
                Ok(value) => return Ok(value),
                Err(_elapsed) => {}
            }
        }
    }
}

/// The most bytes that are read at once before they are sent.
pub(super) const SMALL_BYTES: u64 = 64 << 10;

/// A body of `bytes`, which begin at `base` in the blob.
pub(super) fn whole(bytes: Vec<u8>, base: u64, meter: &Meter) -> reqwest::Body {
    meter.begin(base);
    let len = bytes.len() as u64;
    meter.took(len, len);
    bytes.into()
}

/// A body of exactly `len` bytes from `reader`, which begin at `base` in the blob. Must be called on a thread of the
/// runtime, or inside its `block_on`.
pub(super) fn stream(
    mut reader: Box<dyn Read + Send>,
    base: u64,
    len: u64,
    meter: &Arc<Meter>,
) -> reqwest::Body {
    meter.begin(base);
    let (sender, receiver) = tokio::sync::mpsc::channel::<io::Result<Vec<u8>>>(N_WAITING);
    let reading = Arc::clone(meter);
    tokio::task::spawn_blocking(move || {
        let mut left = len;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let mut piece = vec![0; want];
            if let Err(error) = reader.read_exact(&mut piece) {
                let kind = error.kind();
                reading.fail(error);
                // Ends the request; the other side must not take a part for the whole.
                sender.blocking_send(Err(kind.into())).ok();
                return;
            }
            left -= want as u64;
            if sender.blocking_send(Ok(piece)).is_err() {
                // The request has ended early.
                return;
            }
        }
    });
    let meter = Arc::clone(meter);
    let pieces = futures_util::stream::unfold(receiver, move |mut receiver| {
        let meter = Arc::clone(&meter);
        async move {
            let piece = receiver.recv().await?;
            if let Ok(piece) = &piece {
                meter.took(piece.len() as u64, len);
            }
            Some((piece, receiver))
        }
    });
    reqwest::Body::wrap_stream(pieces)
}
