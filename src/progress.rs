//! What a build tells while it runs. The library never prints: it hands [`Event`]s to a [`Reporter`].
//!
//! A vertex is one line of work that users see: a step, the resolution of a base image, an export. Its events
//! come in the order `Started`, any number of `Output`, `Status`, `Transfer`, `Missed` and `Unchanged`, then one of `Cached`, `Done`,
//! `Failed`, `Canceled`. Events of different vertices interleave.

use std::time::Duration;

use crate::explain::MissReason;

/// Names a vertex within one run of the program; counted from 1 in the order of their start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vertex(pub u64);

/// Where a process wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Something happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// Work on a vertex begins. The name is what follows `#5 `: `[build 2/4] RUN make`.
    Started {
        /// Which.
        vertex: Vertex,
        /// Its name.
        name: String,
    },
    /// The process of a step wrote these bytes; not necessarily whole lines or valid UTF-8.
    Output {
        /// Which.
        vertex: Vertex,
        /// Where to.
        stream: Stream,
        /// What.
        bytes: Vec<u8>,
    },
    /// A remark of the program itself: `resolve docker.io/library/alpine:3.20@sha256:… done`.
    Status {
        /// Which.
        vertex: Vertex,
        /// The remark, one line.
        text: String,
    },
    /// Bytes moved so far.
    Transfer {
        /// Which.
        vertex: Vertex,
        /// The blob, as `sha256:…`, or another short name.
        item: String,
        /// Moved so far.
        current: u64,
        /// In all; `None` when not known.
        total: Option<u64>,
    },
    /// The step will be executed. Told only when explanations are asked for.
    Missed {
        /// Which.
        vertex: Vertex,
        /// Why.
        reason: Box<MissReason>,
    },
    /// What the step made is equal to an earlier result, which stays. Told only when explanations are asked for.
    Unchanged {
        /// Which.
        vertex: Vertex,
    },
    /// The result was there already.
    Cached {
        /// Which.
        vertex: Vertex,
    },
    /// The work is done.
    Done {
        /// Which.
        vertex: Vertex,
        /// How long it took.
        elapsed: Duration,
    },
    /// The work failed.
    Failed {
        /// Which.
        vertex: Vertex,
        /// Why, one line.
        message: String,
    },
    /// The work was given up because something else failed or the user interrupted.
    Canceled {
        /// Which.
        vertex: Vertex,
    },
    /// A finding that belongs to no vertex.
    Warning {
        /// One line.
        text: String,
    },
}

/// Takes events. Cannot fail and must not block the build for long.
pub trait Reporter: Send + Sync {
    /// Takes one event.
    fn event(&self, event: Event);
}

/// Drops all events.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn event(&self, _: Event) {}
}
