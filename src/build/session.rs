//! What all parts of one build share.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{
    Services,
    blobs::{Blobs, Fetch},
    contexts::Contexts,
    explain::Explained,
    ground::Left,
    image_source::Images,
    remote::Remotes,
    request::BuildRequest,
    users::Users,
};
use crate::{
    explain::MissReason,
    layer::FileDigests,
    progress::{Event, Reporter, Vertex},
};

/// One build while it runs.
pub(super) struct Session<'a> {
    pub(super) request: &'a BuildRequest,
    pub(super) services: &'a Services<'a>,
    pub(super) blobs: Arc<Blobs>,
    pub(super) images: Images,
    pub(super) contexts: Contexts,
    pub(super) remotes: Remotes,
    /// Nothing is executed; see `explain`.
    pub(super) predicts: bool,
    pub(super) explained: Explained,
    /// No step was ever recorded when the build began, and there is no cache elsewhere: none can be taken from one.
    pub(super) is_first: bool,
    /// Directories that steps have left for the next ones.
    pub(super) left: Left,
    pub(super) users: Users,
    vertices: AtomicU64,
    failed: AtomicBool,
    lost: AtomicBool,
}

impl<'a> Session<'a> {
    pub(super) fn new(request: &'a BuildRequest, services: &'a Services<'a>) -> Self {
        let has_cache = !services.remote_cache.imports.is_empty();
        Self {
            request,
            services,
            is_first: !has_cache && matches!(services.store.has_steps(), Ok(false)),
            blobs: Arc::default(),
            images: Images::default(),
            contexts: Contexts::default(),
            remotes: Remotes::default(),
            left: Left::default(),
            users: Users::default(),
            predicts: false,
            explained: Explained::default(),
            vertices: AtomicU64::new(services.first_vertex.0),
            failed: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        }
    }

    /// Begins a line of work that users see.
    pub(super) fn task(&self, name: impl Into<String>) -> Task<'_> {
        let vertex = Vertex(self.vertices.fetch_add(1, Ordering::Relaxed));
        let reporter = self.services.reporter;
        reporter.event(Event::Started {
            vertex,
            name: name.into(),
        });
        Task {
            reporter,
            vertex,
            start: Instant::now(),
            reason: OnceLock::new(),
            over: false,
        }
    }

    /// Stops what runs, because something failed.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
        self.services.cancel.cancel();
    }

    /// Whether there is no point in going on.
    pub(super) fn is_over(&self) -> bool {
        self.services.cancel.is_canceled()
    }

    /// Whether something failed, as opposed to having been given up.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Notes that a layer which a remote cache promised cannot be had: the step has to be executed after all.
    pub(super) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Whether a layer was lost.
    pub(super) fn has_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Whether a layer was lost since this was last asked.
    pub(super) fn take_lost(&self) -> bool {
        self.lost.swap(false, Ordering::Relaxed)
    }

    /// Tells users of something odd.
    pub(super) fn warn(&self, text: String) {
        self.services.reporter.event(Event::Warning { text });
    }

    /// How bytes are come by for a line of work.
    pub(super) fn fetch(&self, vertex: Vertex) -> Fetch<'_> {
        Fetch {
            services: self.services,
            blobs: &self.blobs,
            vertex,
            staging: None,
            digests: FileDigests::OnDemand,
        }
    }
}

/// A line of work that users see. Dropped without a word on how it ended, it counts as canceled.
pub(super) struct Task<'a> {
    reporter: &'a dyn Reporter,
    pub(super) vertex: Vertex,
    start: Instant,
    reason: OnceLock<MissReason>,
    over: bool,
}

impl Task<'_> {
    pub(super) fn cached(mut self) {
        self.end(Event::Cached {
            vertex: self.vertex,
        });
    }

    pub(super) fn done(mut self) {
        self.end(Event::Done {
            vertex: self.vertex,
            elapsed: self.start.elapsed(),
        });
    }

    pub(super) fn failed(mut self, error: &dyn std::error::Error) {
        self.end(Event::Failed {
            vertex: self.vertex,
            message: error.to_string(),
        });
    }

    /// Tells why the step is executed.
    pub(super) fn missed(&self, reason: MissReason) {
        self.reporter.event(Event::Missed {
            vertex: self.vertex,
            reason: Box::new(reason.clone()),
        });
        // A step misses once.
        self.reason.set(reason).ok();
    }

    /// What [`Task::missed`] told.
    pub(super) fn reason(&self) -> Option<MissReason> {
        self.reason.get().cloned()
    }

    pub(super) fn unchanged(&self) {
        self.reporter.event(Event::Unchanged {
            vertex: self.vertex,
        });
    }

    pub(super) fn status(&self, text: impl Into<String>) {
        self.reporter.event(Event::Status {
            vertex: self.vertex,
            text: text.into(),
        });
    }

    /// Tells how many bytes of something have come; `total` where that is known.
    pub(super) fn transfer(&self, item: &str, current: u64, total: Option<u64>) {
        self.reporter.event(Event::Transfer {
            vertex: self.vertex,
            item: item.to_owned(),
            current,
            total,
        });
    }

    fn end(&mut self, event: Event) {
        self.over = true;
        self.reporter.event(event);
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.reporter.event(Event::Canceled {
                vertex: self.vertex,
            });
        }
    }
}
