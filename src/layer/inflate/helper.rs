//! The second thread: decodes pieces that the first one has not come to.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use super::{
    Fault, Piece,
    blocks::{Blocks, FIRST_UNKNOWN, Room, SLACK, Stop, Symbol, WINDOW},
    find::Finder,
};

/// How many symbols a piece may become. What is compressed better goes fast anyway.
const MOST: usize = 4 << 20;
/// How many places are tried as the beginning of a block.
const ATTEMPTS: usize = 4;

/// Decoded blocks. Offsets are in bits, in the piece in which the first one begins.
pub(super) struct Run {
    pub(super) start: usize,
    pub(super) end: usize,
    /// The first symbols, behind a window of unknown bytes.
    symbols: Vec<u16>,
    n_symbols: usize,
    /// The bytes after that, behind a window that nobody needs.
    bytes: Vec<u8>,
    n_bytes: usize,
}

impl Run {
    pub(super) fn new() -> Self {
        Self {
            start: 0,
            end: 0,
            symbols: Vec::new(),
            n_symbols: 0,
            bytes: Vec::new(),
            n_bytes: 0,
        }
    }

    /// The bytes, given the window before them.
    pub(super) fn resolve(&self, window: &[u8], to: &mut Vec<u8>) {
        let mut meaning = vec![0; 1 << 16];
        for (byte, meaning) in (0..=u8::MAX).zip(&mut meaning[..usize::from(FIRST_UNKNOWN)]) {
            *meaning = byte;
        }
        // The window ends where the run begins, and may be shorter than it can be; symbols before that do not occur then.
        let first = usize::from(FIRST_UNKNOWN) + WINDOW - window.len();
        meaning[first..first + window.len()].copy_from_slice(window);
        let symbols = &self.symbols[WINDOW..WINDOW + self.n_symbols];
        to.reserve(self.n_symbols + self.n_bytes);
        to.extend(symbols.iter().map(|&symbol| meaning[usize::from(symbol)]));
        if self.n_bytes > 0 {
            to.extend_from_slice(&self.bytes[WINDOW..WINDOW + self.n_bytes]);
        }
    }

    /// The first symbol of the window that it refers to.
    pub(super) fn reaches_back(&self) -> usize {
        let symbols = self.symbols[WINDOW..WINDOW + self.n_symbols].iter();
        let first = symbols.filter(|&&symbol| symbol >= FIRST_UNKNOWN).min();
        first.map_or(0, |&first| WINDOW - usize::from(first - FIRST_UNKNOWN))
    }
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(u64, [Arc<Piece>; 2])>,
    running: Option<u64>,
    done: Vec<(u64, Option<Run>)>,
    spare: Vec<Run>,
    is_over: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread; it ends when this is dropped.
pub(super) struct Helper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Helper {
    /// Starts it; `None` where there can be no more threads.
    pub(super) fn start() -> Option<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().spawn(move || work(&theirs)).ok()?;
        Some(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Has the piece of this number decoded, given with the one after it.
    pub(super) fn ask(&self, number: u64, pieces: [Arc<Piece>; 2]) {
        self.shared.lock().waiting.push_back((number, pieces));
        self.shared.changed.notify_all();
    }

    /// What became of it. Waits if it is being worked on; if it is not, nobody will.
    pub(super) fn take(&self, number: u64) -> Option<Run> {
        let mut state = self.shared.lock();
        state.waiting.retain(|(waiting, _)| *waiting != number);
        loop {
            if let Some(place) = state.done.iter().position(|(done, _)| *done == number) {
                return state.done.swap_remove(place).1;
            }
            if state.running != Some(number) {
                return None;
            }
            let woken = self.shared.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes back a run for its memory.
    pub(super) fn give_back(&self, run: Run) {
        self.shared.lock().spare.push(run);
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_over = true;
        state.waiting.clear();
        drop(state);
        self.shared.changed.notify_all();
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Lets go whoever waits, should the thread panic.
struct Unwinding<'a>(&'a Shared);

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.lock().running = None;
            self.0.changed.notify_all();
        }
    }
}

fn work(shared: &Shared) {
    let mut finder = Finder::new();
    let mut blocks = Blocks::new();
    let mut state = shared.lock();
    loop {
        if state.is_over {
            return;
        }
        let Some((number, pieces)) = state.waiting.pop_front() else {
            let woken = shared.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        state.running = Some(number);
        let mut run = state.spare.pop().unwrap_or_else(Run::new);
        drop(state);
        let is_wanted = || !shared.lock().is_over;
        let unwinding = Unwinding(shared);
        let found = decode(&pieces, &mut finder, &mut blocks, &mut run, &is_wanted);
        drop((pieces, unwinding));
        state = shared.lock();
        state.running = None;
        let run = if found {
            Some(run)
        } else {
            state.spare.push(run);
            None
        };
        state.done.push((number, run));
        shared.changed.notify_all();
    }
}

/// Decodes from a block of the first piece up to one of the second; whether it could.
pub(super) fn decode(
    pieces: &[Arc<Piece>; 2],
    finder: &mut Finder,
    blocks: &mut Blocks,
    run: &mut Run,
    is_wanted: &dyn Fn() -> bool,
) -> bool {
    let first = &pieces[0];
    let mut from = 0;
    for _ in 0..ATTEMPTS {
        let Some(start) = finder.next(first, from, first.length * 8) else {
            return false;
        };
        blocks.seek(first, start);
        run.start = start;
        match decode_from(pieces, blocks, run, is_wanted) {
            Outcome::Decoded => return true,
            Outcome::NoBlock => from = start + 1,
            Outcome::GivenUp => return false,
        }
    }
    false
}

enum Outcome {
    Decoded,
    /// It was none where the run began.
    NoBlock,
    GivenUp,
}

fn decode_from(
    pieces: &[Arc<Piece>; 2],
    blocks: &mut Blocks,
    run: &mut Run,
    is_wanted: &dyn Fn() -> bool,
) -> Outcome {
    let mut current = 0;
    let (mut n_symbols, mut n_bytes) = (0, 0);
    let mut is_known = false;
    if run.symbols.is_empty() {
        run.symbols.resize(WINDOW + (1 << 20) + SLACK, 0);
    }
    for (unknown, symbol) in (FIRST_UNKNOWN..).zip(&mut run.symbols[..WINDOW]) {
        *symbol = unknown;
    }
    run.end = run.start;
    (run.n_symbols, run.n_bytes) = (0, 0);
    loop {
        let piece = &*pieces[current];
        let stop = if is_known {
            append(blocks, piece, &mut run.bytes, &mut n_bytes)
        } else {
            append(blocks, piece, &mut run.symbols, &mut n_symbols)
        };
        match stop {
            Ok(Stop::Block) => {
                (run.n_symbols, run.n_bytes) = (n_symbols, n_bytes);
                run.end = blocks.position()
                    + if current == 0 {
                        0
                    } else {
                        pieces[0].length * 8
                    };
                if run.end >= pieces[0].length * 8 {
                    return Outcome::Decoded;
                }
                if !is_wanted() {
                    return Outcome::GivenUp;
                }
                let window = &run.symbols[n_symbols..WINDOW + n_symbols];
                if !is_known && window.iter().all(|&symbol| symbol < FIRST_UNKNOWN) {
                    if run.bytes.is_empty() {
                        run.bytes.resize(WINDOW + (3 << 20) + SLACK, 0);
                    }
                    for (byte, symbol) in run.bytes.iter_mut().zip(window) {
                        *byte = *symbol as u8;
                    }
                    is_known = true;
                }
            }
            // The last block is left to the one who knows what comes after it.
            Ok(Stop::Stream) if piece.is_last && run.end > run.start => return Outcome::Decoded,
            Ok(Stop::Stream) | Err(_) => return Outcome::NoBlock,
            Ok(Stop::Input) if current == 0 => {
                blocks.next_piece(piece.length);
                current = 1;
            }
            Ok(Stop::Room) if n_symbols + n_bytes < MOST => {
                if is_known {
                    run.bytes.resize(2 * run.bytes.len(), 0);
                } else {
                    run.symbols.resize(2 * run.symbols.len(), 0);
                }
            }
            Ok(Stop::Input | Stop::Room) => return Outcome::GivenUp,
        }
    }
}

/// Decodes until something ends; `symbols` holds a window and `n` of them.
fn append<T: Symbol>(
    blocks: &mut Blocks,
    piece: &Piece,
    symbols: &mut [T],
    n: &mut usize,
) -> Result<Stop, Fault> {
    let mut room = Room {
        symbols,
        at: WINDOW + *n,
        oldest: 0,
    };
    let stop = blocks.run(piece, &mut room);
    *n = room.at - WINDOW;
    stop
}
