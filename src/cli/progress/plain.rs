//! The plain form of progress, as `docker buildx build --progress=plain` prints it.
//!
//! ```text
//! #5 [build 2/4] RUN make
//! #5 0.312 cc -o app app.c
//! #5 DONE 0.4s
//!
//! #6 [build 3/4] COPY . .
//! #6 CACHED
//! ```
//! A step gets the floor when it says something or has run for a moment, and keeps it: lines of others wait, until it
//! ends, falls silent or has had the floor for long. A step that has ended is shown whole at once. When the floor passes from a step that still runs, a line
//! `#5 ...` says so, and its name is printed again when it goes on.

use std::{collections::BTreeMap, fmt::Write as _, io::Write, time::Duration};

use rbuild::progress::{Event, Vertex};

use super::{View, lines::Lines};
use crate::cli::{
    explain,
    terminal::{self, Colour},
};

/// A step that has said nothing for so long gives up the floor to one that has something to say.
const SILENCE: Duration = Duration::from_secs(1);

/// A step that has nothing to say yet but its name waits so long with it: most are over by then, and are shown whole.
const BRIEF: Duration = Duration::from_millis(300);

/// A step has the floor no longer than this while others wait.
const TURN: Duration = Duration::from_secs(5);

/// Lines held back beyond this are shown at once, so that memory stays bounded.
const MOST_WAITING_BYTES: usize = 256 << 10;

/// How often the progress of a transfer is told.
const TRANSFER_PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Step {
    name: String,
    begun: Duration,
    partial: Lines,
    /// Whole lines that wait, with their `#N ` in front.
    waiting: String,
    waiting_since: Option<Duration>,
    transfers: BTreeMap<String, Transfer>,
    over: bool,
}

#[derive(Debug, Clone, Copy)]
struct Transfer {
    begun: Duration,
    told: Duration,
    done: bool,
}

pub(crate) struct Plain {
    out: Box<dyn Write + Send>,
    colour: Colour,
    steps: BTreeMap<Vertex, Step>,
    /// Who has the floor, since when, and when it last spoke.
    floor: Option<(Vertex, Duration, Duration)>,
    anything_shown: bool,
    unfinished: bool,
}

impl Plain {
    pub(crate) fn new(out: Box<dyn Write + Send>, colour: Colour) -> Self {
        Self {
            out,
            colour,
            steps: BTreeMap::new(),
            floor: None,
            anything_shown: false,
            unfinished: false,
        }
    }

    /// Adds a line to what a step has to say.
    fn say(&mut self, vertex: Vertex, text: &str, now: Duration) {
        let step = self.steps.entry(vertex).or_default();
        step.waiting_since.get_or_insert(now);
        // Writing to a String cannot fail.
        let _ = writeln!(step.waiting, "#{} {text}", vertex.0);
    }

    /// Shows what a step has to say, with its name when the floor passes to it.
    fn show(&mut self, vertex: Vertex, now: Duration) {
        let Some(step) = self.steps.get_mut(&vertex) else {
            return;
        };
        let mut text = String::new();
        let since = match self.floor {
            Some((current, since, _)) if current == vertex => since,
            before => {
                if let Some((other, ..)) = before
                    && self.unfinished
                {
                    let _ = writeln!(text, "#{} ...", other.0);
                }
                if self.anything_shown {
                    text.push('\n');
                }
                let _ = writeln!(text, "#{} {}", vertex.0, step.name);
                now
            }
        };
        text.push_str(&step.waiting);
        step.waiting.clear();
        step.waiting_since = None;
        self.floor = Some((vertex, since, now));
        self.anything_shown = true;
        self.unfinished = !step.over;
        if step.over {
            self.steps.remove(&vertex);
            self.floor = Some((vertex, since, now));
        }
        // A closed standard error must not stop a build.
        self.out.write_all(text.as_bytes()).ok();
        self.out.flush().ok();
    }

    /// A line of its own, wherever the floor is.
    fn remark(&mut self, text: &str) {
        let line = format!("WARNING: {}\n", terminal::one_line(text));
        // A closed standard error must not stop a build.
        self.out.write_all(line.as_bytes()).ok();
        self.out.flush().ok();
        self.anything_shown = true;
    }

    /// Decides who may speak now.
    fn pass_the_floor(&mut self, now: Duration) {
        if let Some((current, since, spoke)) = self.floor
            && let Some(step) = self.steps.get(&current)
        {
            if step.waiting_since.is_some() {
                self.show(current, now);
            }
            if self.unfinished {
                let others_wait = self
                    .steps
                    .iter()
                    .any(|(v, s)| *v != current && s.waiting_since.is_some());
                if others_wait {
                    self.show_finished(now);
                }
                let keeps = now.saturating_sub(spoke) < SILENCE && now.saturating_sub(since) < TURN;
                let too_much: usize = self.steps.values().map(|s| s.waiting.len()).sum();
                if keeps && too_much < MOST_WAITING_BYTES {
                    return;
                }
            }
        }
        self.show_finished(now);
        let longest_waiting = self
            .steps
            .iter()
            .filter(|(_, step)| !step.waiting.is_empty() || now.saturating_sub(step.begun) >= BRIEF)
            .filter_map(|(vertex, step)| Some((step.waiting_since?, *vertex)))
            .min();
        if let Some((_, vertex)) = longest_waiting {
            self.show(vertex, now);
        }
    }

    fn show_finished(&mut self, now: Duration) {
        let finished: Vec<Vertex> = self
            .steps
            .iter()
            .filter(|(_, step)| step.over)
            .map(|(vertex, _)| *vertex)
            .collect();
        for vertex in finished {
            self.show(vertex, now);
        }
    }

    fn end(&mut self, vertex: Vertex, last: &str, now: Duration) {
        let step = self.steps.entry(vertex).or_default();
        let mut lines = Vec::new();
        step.partial.finish(|line| lines.push(line.to_vec()));
        let begun = step.begun;
        for line in lines {
            self.say_output(vertex, &line, begun, now);
        }
        self.say(vertex, last, now);
        if let Some(step) = self.steps.get_mut(&vertex) {
            step.over = true;
        }
    }

    fn say_output(&mut self, vertex: Vertex, line: &[u8], begun: Duration, now: Duration) {
        let seconds = now.saturating_sub(begun).as_secs_f64();
        let text = terminal::line(line, self.colour);
        self.say(vertex, &format!("{seconds:.3} {text}"), now);
    }

    fn transfer(
        &mut self,
        vertex: Vertex,
        item: &str,
        current: u64,
        total: Option<u64>,
        now: Duration,
    ) {
        let step = self.steps.entry(vertex).or_default();
        let done = total.is_some_and(|total| current >= total);
        let new = !step.transfers.contains_key(item);
        let transfer = step.transfers.entry(item.to_owned()).or_insert(Transfer {
            begun: now,
            told: now,
            done: false,
        });
        let due = new || done || now.saturating_sub(transfer.told) >= TRANSFER_PAUSE;
        if !due || transfer.done {
            return;
        }
        transfer.told = now;
        transfer.done = done;
        let elapsed = now.saturating_sub(transfer.begun).as_secs_f64();
        let mut text = format!("{} {}", terminal::one_line(item), bytes(current));
        if let Some(total) = total {
            let _ = write!(text, " / {}", bytes(total));
        }
        let _ = write!(text, " {elapsed:.1}s");
        if done {
            text.push_str(" done");
        }
        self.say(vertex, &text, now);
    }
}

impl View for Plain {
    fn event(&mut self, event: &Event, now: Duration) {
        match event {
            Event::Started { vertex, name } => {
                let step = self.steps.entry(*vertex).or_default();
                step.name = terminal::one_line(name);
                step.begun = now;
                step.waiting_since = Some(now);
            }
            Event::Output {
                vertex,
                stream,
                bytes,
            } => {
                let step = self.steps.entry(*vertex).or_default();
                let mut lines = Vec::new();
                step.partial
                    .push(*stream, bytes, |line| lines.push(line.to_vec()));
                let begun = step.begun;
                for line in lines {
                    self.say_output(*vertex, &line, begun, now);
                }
            }
            Event::Status { vertex, text } => self.say(*vertex, &terminal::one_line(text), now),
            Event::Transfer {
                vertex,
                item,
                current,
                total,
            } => self.transfer(*vertex, item, *current, *total, now),
            Event::Missed { vertex, reason } => {
                for line in explain::lines(reason) {
                    self.say(*vertex, &format!("{}{line}", explain::MARK), now);
                }
            }
            Event::Unchanged { vertex } => {
                self.say(
                    *vertex,
                    &format!("{}{}", explain::MARK, explain::UNCHANGED),
                    now,
                );
            }
            Event::Cached { vertex } => self.end(*vertex, "CACHED", now),
            Event::Done { vertex, elapsed } => {
                self.end(*vertex, &format!("DONE {:.1}s", elapsed.as_secs_f64()), now);
            }
            Event::Failed { vertex, message } => {
                let message = terminal::one_line(message);
                self.end(*vertex, &format!("ERROR: {message}"), now);
            }
            Event::Canceled { vertex } => self.end(*vertex, "CANCELED", now),
            Event::Warning { text } => self.remark(text),
        }
        self.pass_the_floor(now);
    }

    fn tick(&mut self, now: Duration) {
        self.pass_the_floor(now);
    }

    fn finish(&mut self, now: Duration) {
        let left: Vec<Vertex> = self.steps.keys().copied().collect();
        for vertex in left {
            if self
                .steps
                .get(&vertex)
                .is_some_and(|s| s.waiting_since.is_some())
            {
                self.show(vertex, now);
            }
        }
    }
}

/// A number of bytes as Docker prints it: powers of 1000, two decimals.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    #[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count}B")
    } else {
        format!("{value:.2}{}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests;
