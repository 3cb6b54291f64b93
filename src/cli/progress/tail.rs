//! The last lines of each step, for the report of a failure.

use std::collections::{BTreeMap, VecDeque};

use rbuild::progress::{Event, Vertex};

use super::lines::Lines;

/// How many lines a report shows.
const KEPT_LINES: usize = 40;

/// A line is cut to this in the report; progress shows it whole.
const KEPT_BYTES: usize = 4096;

/// A step that failed, and the last it said.
#[derive(Debug, Clone)]
pub(crate) struct FailedStep {
    pub(crate) name: String,
    /// Raw lines, the last ones.
    pub(crate) lines: Vec<Vec<u8>>,
    /// How many came before them.
    pub(crate) omitted: usize,
}

#[derive(Debug, Default)]
struct Step {
    name: String,
    partial: Lines,
    kept: VecDeque<Vec<u8>>,
    omitted: usize,
    failed: bool,
}

impl Step {
    fn keep(kept: &mut VecDeque<Vec<u8>>, omitted: &mut usize, line: &[u8]) {
        if kept.len() == KEPT_LINES {
            kept.pop_front();
            *omitted += 1;
        }
        kept.push_back(line[..line.len().min(KEPT_BYTES)].to_owned());
    }
}

/// The steps that run or failed.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    steps: BTreeMap<Vertex, Step>,
}

impl Tails {
    pub(crate) fn event(&mut self, event: &Event) {
        match event {
            Event::Started { vertex, name } => {
                self.steps.entry(*vertex).or_default().name.clone_from(name);
            }
            Event::Output {
                vertex,
                stream,
                bytes,
            } => {
                let step = self.steps.entry(*vertex).or_default();
                step.partial.push(*stream, bytes, |line| {
                    Step::keep(&mut step.kept, &mut step.omitted, line);
                });
            }
            Event::Failed { vertex, .. } => {
                let step = self.steps.entry(*vertex).or_default();
                step.failed = true;
                step.partial
                    .finish(|line| Step::keep(&mut step.kept, &mut step.omitted, line));
            }
            Event::Cached { vertex } | Event::Done { vertex, .. } | Event::Canceled { vertex } => {
                self.steps.remove(vertex);
            }
            Event::Status { .. }
            | Event::Transfer { .. }
            | Event::Missed { .. }
            | Event::Unchanged { .. }
            | Event::Warning { .. } => {}
        }
    }

    /// The steps that failed, in the order of their start.
    pub(crate) fn failed(self) -> Vec<FailedStep> {
        self.steps
            .into_values()
            .filter(|step| step.failed)
            .map(|step| FailedStep {
                name: step.name,
                lines: step.kept.into(),
                omitted: step.omitted,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use rbuild::progress::Stream;

    use super::*;

    #[test]
    fn the_last_lines_of_failed_steps_are_kept() {
        let mut tails = Tails::default();
        for n in [1, 2] {
            tails.event(&Event::Started {
                vertex: Vertex(n),
                name: format!("step {n}"),
            });
            for line in 0..50 {
                tails.event(&Event::Output {
                    vertex: Vertex(n),
                    stream: Stream::Stdout,
                    bytes: format!("line {line}\n").into_bytes(),
                });
            }
        }
        tails.event(&Event::Done {
            vertex: Vertex(1),
            elapsed: std::time::Duration::ZERO,
        });
        tails.event(&Event::Failed {
            vertex: Vertex(2),
            message: String::new(),
        });
        let failed = tails.failed();
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].name, "step 2");
        assert_eq!((failed[0].lines.len(), failed[0].omitted), (40, 10));
        assert_eq!(failed[0].lines[0], b"line 10");
    }
}
