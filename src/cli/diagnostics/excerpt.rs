//! Places of a Dockerfile as they are shown.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use rbuild::{context::without_users, source::Span};

use super::Source;
use crate::cli::terminal::{self, Colour};

/// How many lines around the marked ones are shown.
const CONTEXT_LINES: usize = 3;

/// An instruction of more lines is shown in part.
const MOST_MARKED_LINES: usize = 24;

/// A message with the place of the Dockerfile that it is about, and the lines around that.
pub(super) fn excerpt(
    level: Level<'_>,
    message: &str,
    source: &Source,
    place: Span,
    colour: Colour,
) -> String {
    let (first, last) = source.lines.touched(place);
    let shown_first = first.saturating_sub(CONTEXT_LINES).max(1);
    let start_of = |line| source.lines.start_of(line, &source.text);
    let start = start_of(shown_first);
    let written = &source.text[start..start_of(last + CONTEXT_LINES + 1)];
    // Passwords in addresses are shown nowhere else either.
    let shown = without_users(written);
    let within = |at: usize| {
        let at = written.floor_char_boundary(at.saturating_sub(start));
        shown.floor_char_boundary(without_users(&written[..at]).len())
    };
    let (from, mut to) = (within(place.start), within(place.end));
    // A mark that takes in the line break would point at the line below.
    while to > from && shown[..to].ends_with(['\n', '\r']) {
        to -= 1;
    }
    let fold = last - first > MOST_MARKED_LINES;
    let snippet = Snippet::source(&*shown)
        .line_start(shown_first)
        .path(terminal::one_line(&source.name))
        .fold(fold)
        .annotation(AnnotationKind::Primary.span(from..to));
    let report = &[Group::with_title(level.primary_title(message)).element(snippet)];
    let mut text = renderer(colour).render(report);
    text.push('\n');
    text
}

fn renderer(colour: Colour) -> Renderer {
    match colour {
        Colour::On => Renderer::styled(),
        Colour::Off => Renderer::plain(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_addresses_are_not_shown() {
        let text = "FROM a\nADD http://me:secret@host/a /a\nRUN b\n";
        let line = "ADD http://xxxxx:xxxxx@host/a /a";
        for (marked, before, length) in [
            ("ADD http://me:secret@host/a /a", 0, line.len()),
            ("http://me:secret@host/a", 4, line.len() - 7),
        ] {
            let at = text.find(marked).expect("there");
            let source = Source::new("Dockerfile".to_owned(), text.to_owned());
            let place = Span::new(at, at + marked.len());
            let report = excerpt(Level::ERROR, "no", &source, place, Colour::Off);
            let (before, mark) = (" ".repeat(before), "^".repeat(length));
            let shown = format!("2 | {line}\n  | {before}{mark}\n");
            assert!(report.contains(&shown), "{report}");
            assert!(!report.contains("secret"), "{report}");
        }
    }
}
