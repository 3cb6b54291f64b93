//! The live view on a terminal: a line for each step that runs with the last lines of its output below, and what is
//! finished scrolling away above, with what it has said of itself: digests, names, places.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use rbuild::progress::{Event, Vertex};

use super::{View, lines::Lines, plain::bytes};
use crate::cli::{
    explain,
    terminal::{self, Colour},
};

/// How many lines of output a running step shows.
const SHOWN_LINES: usize = 4;

/// How many of its statuses a step leaves on the screen.
const KEPT_STATUSES: usize = 12;

struct Step {
    name: String,
    begun: Duration,
    bar: ProgressBar,
    partial: Lines,
    tail: VecDeque<String>,
    /// What is said of it, the last of that.
    statuses: VecDeque<String>,
    transfers: BTreeMap<String, (u64, Option<u64>)>,
}

pub(crate) struct Live {
    screen: MultiProgress,
    summary: ProgressBar,
    steps: BTreeMap<Vertex, Step>,
    finished: usize,
    started: usize,
}

impl Live {
    pub(crate) fn new() -> Self {
        let screen = MultiProgress::new();
        let summary = screen.add(bar());
        Self {
            screen,
            summary,
            steps: BTreeMap::new(),
            finished: 0,
            started: 0,
        }
    }

    fn end(&mut self, vertex: Vertex, mark: &str, after: &str) {
        let Some(step) = self.steps.remove(&vertex) else {
            return;
        };
        step.bar.finish_and_clear();
        self.screen.remove(&step.bar);
        self.finished += 1;
        let text = ended(
            &format!(" => {mark}{}", step.name),
            after,
            &step.statuses,
            width(),
        );
        // A terminal that is gone must not stop a build.
        self.screen.println(text).ok();
    }

    /// Lines that stay: the step's name, and what is to be said of it.
    fn explain(&self, vertex: Vertex, lines: &[String]) {
        let Some(step) = self.steps.get(&vertex) else {
            return;
        };
        let mut text = format!(" => {}", step.name);
        for line in lines {
            text.push_str("\n => => ");
            text.push_str(explain::MARK);
            text.push_str(line);
        }
        // A terminal that is gone must not stop a build.
        self.screen.println(text).ok();
    }

    fn refresh(&mut self, now: Duration) {
        let width = width();
        for step in self.steps.values() {
            let elapsed = now.saturating_sub(step.begun).as_secs_f64();
            let mut text = fit(
                &format!(" => {}", step.name),
                width,
                &format!("{elapsed:.1}s"),
            );
            let mut moved = (0_u64, 0_u64);
            for (current, total) in step.transfers.values() {
                moved.0 = moved.0.saturating_add(*current);
                moved.1 = moved.1.saturating_add(total.unwrap_or(*current));
            }
            if moved.1 > 0 {
                text.push('\n');
                let line = format!(" => => {} / {}", bytes(moved.0), bytes(moved.1));
                text.push_str(&fit(&line, width, ""));
            }
            for line in &step.tail {
                text.push('\n');
                text.push_str(&fit(&format!(" => => # {line}"), width, ""));
            }
            step.bar.set_message(text);
        }
        self.summary.set_message(format!(
            "[+] Building {:.1}s ({}/{})",
            now.as_secs_f64(),
            self.finished,
            self.started
        ));
    }
}

impl View for Live {
    fn event(&mut self, event: &Event, now: Duration) {
        match event {
            Event::Started { vertex, name } => {
                let step = Step {
                    name: terminal::one_line(name),
                    begun: now,
                    bar: self.screen.add(bar()),
                    partial: Lines::default(),
                    tail: VecDeque::new(),
                    statuses: VecDeque::new(),
                    transfers: BTreeMap::new(),
                };
                self.started += 1;
                self.steps.insert(*vertex, step);
                self.refresh(now);
            }
            Event::Output {
                vertex,
                stream,
                bytes,
            } => {
                if let Some(step) = self.steps.get_mut(vertex) {
                    let tail = &mut step.tail;
                    step.partial.push(*stream, bytes, |line| {
                        if tail.len() == SHOWN_LINES {
                            tail.pop_front();
                        }
                        tail.push_back(terminal::line(line, Colour::Off));
                    });
                }
            }
            Event::Status { vertex, text } => {
                if let Some(step) = self.steps.get_mut(vertex) {
                    if step.tail.len() == SHOWN_LINES {
                        step.tail.pop_front();
                    }
                    if step.statuses.len() == KEPT_STATUSES {
                        step.statuses.pop_front();
                    }
                    let text = terminal::one_line(text);
                    step.tail.push_back(text.clone());
                    step.statuses.push_back(text);
                }
            }
            Event::Transfer {
                vertex,
                item,
                current,
                total,
            } => {
                if let Some(step) = self.steps.get_mut(vertex) {
                    step.transfers.insert(item.clone(), (*current, *total));
                }
            }
            Event::Missed { vertex, reason } => self.explain(*vertex, &explain::lines(reason)),
            Event::Unchanged { vertex } => {
                self.explain(*vertex, &[explain::UNCHANGED.to_owned()]);
            }
            Event::Cached { vertex } => self.end(*vertex, "CACHED ", ""),
            Event::Done { vertex, elapsed } => {
                self.end(*vertex, "", &format!("{:.1}s", elapsed.as_secs_f64()));
            }
            Event::Failed { vertex, .. } => self.end(*vertex, "ERROR ", ""),
            Event::Canceled { vertex } => self.end(*vertex, "CANCELED ", ""),
            Event::Warning { text } => {
                let line = format!("WARNING: {}", terminal::one_line(text));
                self.screen.println(line).ok();
            }
        }
    }

    fn tick(&mut self, now: Duration) {
        self.refresh(now);
    }

    fn finish(&mut self, now: Duration) {
        for step in self.steps.values() {
            step.bar.finish_and_clear();
        }
        self.summary.finish_and_clear();
        let summary = format!(
            "[+] Building {:.1}s ({}/{})",
            now.as_secs_f64(),
            self.finished,
            self.started
        );
        self.screen.println(summary).ok();
        self.screen.clear().ok();
    }
}

fn bar() -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new_spinner().with_style(style)
}

/// What stays of a step.
fn ended(line: &str, after: &str, statuses: &VecDeque<String>, width: usize) -> String {
    let mut text = fit(line, width, after);
    for status in statuses {
        // Whole: a digest is there to be copied.
        text.push_str("\n => => ");
        text.push_str(status);
    }
    text
}

/// Columns of the terminal on standard error.
fn width() -> usize {
    rustix::termios::tcgetwinsize(std::io::stderr())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns >= 20)
        .unwrap_or(80)
}

/// The text cut or filled to the width, with something at the right end.
fn fit(text: &str, width: usize, right: &str) -> String {
    let right_length = right.chars().count();
    let room = width.saturating_sub(right_length + usize::from(right_length > 0) + 1);
    let length = text.chars().count();
    let mut line: String = if length > room {
        text.chars()
            .take(room.saturating_sub(3))
            .chain("...".chars())
            .collect()
    } else {
        text.to_owned()
    };
    if right_length > 0 {
        let used = line.chars().count();
        line.extend(std::iter::repeat_n(' ', room.saturating_sub(used) + 1));
        line.push_str(right);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_of_a_step_stays_below_it() {
        let statuses = [
            "exporting manifest sha256:0123456789abcdef done",
            "naming to app done",
        ];
        let statuses = statuses.map(ToOwned::to_owned).into();
        assert_eq!(
            ended(" => exporting to image", "0.1s", &statuses, 40),
            [
                " => exporting to image             0.1s",
                " => => exporting manifest sha256:0123456789abcdef done",
                " => => naming to app done",
            ]
            .join("\n")
        );
    }
}
