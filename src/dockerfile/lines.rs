//! Physical lines to logical lines: continuations joined, comments taken out, and a way back from the joined text to
//! the places where it is written.

use super::{Spanned, Word};
use crate::source::Span;

/// A longer line is an error. BuildKit reads lines through a buffer of 64 KiB that has to hold the line end, too.
const MAX_LINE: usize = 65_535;

/// A line of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    /// Its first byte.
    pub(super) start: usize,
    /// The end of its text, line ends excluded.
    pub(super) end: usize,
    /// The first byte of the next line.
    pub(super) next: usize,
}

impl Line {
    /// Its text and, if there is no text, its line end, so that the span lies on the line.
    pub(super) fn span(self) -> Span {
        Span::new(
            self.start,
            if self.end > self.start {
                self.end
            } else {
                self.next
            },
        )
    }
}

/// The lines of a file, in order.
#[derive(Debug, Clone)]
pub(super) struct Lines<'a> {
    text: &'a str,
    at: usize,
    /// The first line that is too long; there are none after it.
    pub(super) too_long: Option<Line>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str, at: usize) -> Self {
        Self {
            text,
            at,
            too_long: None,
        }
    }
}

impl Iterator for Lines<'_> {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        let rest = &self.text[self.at..];
        if rest.is_empty() || self.too_long.is_some() {
            return None;
        }
        let length = rest.find('\n');
        let next = self.at + length.map_or(rest.len(), |l| l + 1);
        let text = self.text[self.at..next].trim_end_matches(['\r', '\n']);
        let line = Line {
            start: self.at,
            end: self.at + text.len(),
            next,
        };
        if length.unwrap_or(rest.len()) > MAX_LINE {
            self.too_long = Some(line);
            return None;
        }
        self.at = next;
        Some(line)
    }
}

/// The text of the error about [`Lines::too_long`].
pub(super) fn too_long_message() -> String {
    format!("dockerfile line greater than max allowed size of {MAX_LINE}")
}

/// Whether a line holds nothing but a comment.
pub(super) fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// The line without the escape character that continues it, or `None` if it does not go on.
pub(super) fn without_continuation(line: &str, escape: char) -> Option<&str> {
    let before = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    // A doubled escape character is text.
    (!before.ends_with(escape)).then_some(before)
}

/// A logical line.
#[derive(Debug, Clone, Default)]
pub(super) struct Logical {
    /// The joined text.
    pub(super) text: String,
    /// For each physical line in it: where it starts in the joined text and in the file.
    pieces: Vec<(usize, usize)>,
    /// All of its physical lines.
    pub(super) span: Span,
    /// The last of its physical lines, if one of them is blank.
    pub(super) empty_continuation: Option<Span>,
}

impl Logical {
    /// Joins `line`, whose text starts at `start`, with the lines that continue it.
    pub(super) fn read(
        text: &str,
        line: Line,
        start: usize,
        escape: char,
        lines: &mut Lines<'_>,
    ) -> Self {
        let mut logical = Self::default();
        let mut last = line;
        let mut blank = false;
        let mut goes_on = logical.push(text, start, line.end, escape);
        while goes_on {
            let Some(line) = lines.next() else {
                break;
            };
            last = line;
            let content = &text[line.start..line.end];
            if is_comment(content) {
                continue;
            }
            if content.trim_start().is_empty() {
                blank = true;
                continue;
            }
            goes_on = logical.push(text, line.start, line.end, escape);
        }
        logical.span = Span::new(start, last.span().end);
        logical.empty_continuation = blank.then(|| last.span());
        logical
    }

    fn push(&mut self, text: &str, start: usize, end: usize, escape: char) -> bool {
        let content = &text[start..end];
        let continued = without_continuation(content, escape);
        self.pieces.push((self.text.len(), start));
        self.text += continued.unwrap_or(content);
        continued.is_some()
    }

    /// Where a part of the joined text is written.
    pub(super) fn span_of(&self, start: usize, end: usize) -> Span {
        let from = self.place(start);
        if end <= start {
            return Span::new(from, from);
        }
        Span::new(from, self.place(end - 1) + 1)
    }

    fn place(&self, at: usize) -> usize {
        let after = self.pieces.partition_point(|(joined, _)| *joined <= at);
        match after.checked_sub(1).and_then(|i| self.pieces.get(i)) {
            Some((joined, file)) => file + (at - joined),
            None => self.span.start,
        }
    }

    /// A word that stands at a place of the joined text.
    pub(super) fn word(&self, start: usize, end: usize, value: impl Into<String>) -> Word {
        Spanned::new(value.into(), self.span_of(start, end))
    }

    /// A part of the joined text as a word.
    pub(super) fn slice(&self, start: usize, end: usize) -> Word {
        self.word(start, end, &self.text[start..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Logical {
        let mut lines = Lines::new(text, 0);
        let line = lines.next().unwrap();
        Logical::read(text, line, line.start, '\\', &mut lines)
    }

    #[test]
    fn lines_are_joined_and_found_again() {
        let text = "RUN a \\  \n # no\n\n  b\\\r\nc\nENV";
        let logical = read(text);
        assert_eq!(logical.text, "RUN a   bc");
        let at = logical.text.find('b').unwrap();
        assert_eq!(&text[logical.span_of(at, at + 2).range()], "b\\\r\nc");
        assert_eq!(logical.span.lines(text), (1, 5));
        assert_eq!(logical.empty_continuation.unwrap().lines(text), (5, 5));
    }

    #[test]
    fn doubled_escapes_do_not_continue() {
        assert_eq!(without_continuation("a\\\\", '\\'), None);
        assert_eq!(without_continuation("a\\ \t", '\\'), Some("a"));
        assert_eq!(without_continuation("\\", '\\'), Some(""));
        assert_eq!(without_continuation("a\\ b", '\\'), None);
    }

    #[test]
    fn a_file_may_end_in_a_continuation() {
        let logical = read("RUN a \\\n\n");
        assert_eq!(logical.text, "RUN a ");
        assert_eq!(logical.span.lines("RUN a \\\n\n"), (1, 2));
    }

    #[test]
    fn long_lines_end_the_file() {
        let text = format!("{}\nx\n{}\nRUN", "a".repeat(65_535), "b".repeat(65_536));
        let mut lines = Lines::new(&text, 0);
        assert_eq!(lines.by_ref().count(), 2);
        assert!(lines.too_long.is_some());
    }
}
