//! Showing what a build tells: the forms of `--progress`.
//!
//! All forms write to standard error. Whatever the form, the last lines of every step that runs are kept, so that
//! the report of a failure can show them.

mod json;
mod lines;
mod live;
mod plain;
mod tail;

use std::{
    io::Write,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use rbuild::{
    progress::{Event, Reporter, Vertex},
    registry::settings::Warn,
};

use super::{args::ProgressForm, terminal::Colour};

pub(crate) use plain::bytes;
pub(crate) use tail::FailedStep;

/// How often views that show time or hold lines back look at the clock.
const TICK: Duration = Duration::from_millis(200);

/// One form of showing events. `now` is the time since the program began.
trait View: Send {
    fn event(&mut self, event: &Event, now: Duration);
    fn tick(&mut self, now: Duration);
    /// Nothing more will come: leaves the terminal as text that can be scrolled.
    fn finish(&mut self, now: Duration);
}

/// Shows events in the form that was chosen.
pub(crate) struct Renderer {
    shared: Arc<Shared>,
    ticker: Mutex<Option<Ticker>>,
}

/// A thread that looks at the clock until the sender goes.
struct Ticker {
    until_gone: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

struct Shared {
    state: Mutex<State>,
    begun: Instant,
}

struct State {
    view: Option<Box<dyn View>>,
    tails: tail::Tails,
    /// The highest number so far.
    last: u64,
}

impl Renderer {
    /// Shows events on standard error.
    pub(crate) fn new(form: ProgressForm, on_terminal: bool, colour: Colour) -> Self {
        let form = match form {
            ProgressForm::Auto if on_terminal => ProgressForm::Tty,
            // A live view needs a terminal; without one its plain form says the same.
            ProgressForm::Auto | ProgressForm::Tty if !on_terminal => ProgressForm::Plain,
            form => form,
        };
        let err: Box<dyn Write + Send> = Box::new(std::io::stderr());
        let view: Option<Box<dyn View>> = match form {
            ProgressForm::Quiet => None,
            ProgressForm::Auto | ProgressForm::Plain => {
                Some(Box::new(plain::Plain::new(err, colour)))
            }
            ProgressForm::Tty => Some(Box::new(live::Live::new())),
            ProgressForm::Rawjson => Some(Box::new(json::Json::new(err, SystemTime::now()))),
        };
        let ticking = view.is_some();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                view,
                tails: tail::Tails::default(),
                last: 0,
            }),
            begun: Instant::now(),
        });
        let ticker = ticking
            .then(|| {
                let shared = Arc::clone(&shared);
                let (until_gone, gone) = mpsc::channel();
                let thread = std::thread::Builder::new()
                    .name("progress".to_owned())
                    .spawn(move || shared.tick_until(&gone));
                let thread = thread.ok()?;
                Some(Ticker { until_gone, thread })
            })
            .flatten();
        Self {
            shared,
            ticker: Mutex::new(ticker),
        }
    }

    /// A number for a vertex that comes after all there were.
    pub(crate) fn next_vertex(&self) -> Vertex {
        let mut state = self.shared.state();
        state.last += 1;
        Vertex(state.last)
    }

    /// Shows what is left, and gives the steps that failed.
    pub(crate) fn finish(&self) -> Vec<FailedStep> {
        self.stop();
        let mut state = self.shared.state();
        std::mem::take(&mut state.tails).failed()
    }

    /// Where the remarks of a registry client go: who waits for a registry sees why at once.
    pub(crate) fn takes_remarks(self: &Arc<Self>) -> Warn {
        let renderer = Arc::clone(self);
        Warn(Arc::new(move |text| {
            let text = text.to_owned();
            renderer.event(Event::Warning { text });
        }))
    }

    fn stop(&self) {
        let ticker = self
            .ticker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(Ticker { until_gone, thread }) = ticker {
            drop(until_gone);
            // A ticker that panicked has nothing more to show.
            drop(thread.join());
        }
        let mut state = self.shared.state();
        if let Some(mut view) = state.view.take() {
            view.finish(self.shared.begun.elapsed());
        }
    }
}

impl Drop for Renderer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Reporter for Renderer {
    fn event(&self, event: Event) {
        let now = self.shared.begun.elapsed();
        let mut state = self.shared.state();
        state.tails.event(&event);
        if let Event::Started { vertex, .. } = &event {
            state.last = state.last.max(vertex.0);
        }
        if let Some(view) = &mut state.view {
            view.event(&event, now);
        }
    }
}

impl Shared {
    /// What a panic of another thread left is still worth showing.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick_until(&self, gone: &mpsc::Receiver<()>) {
        while gone.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            let now = self.begun.elapsed();
            if let Some(view) = &mut self.state().view {
                view.tick(now);
            }
        }
    }
}
