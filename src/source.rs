//! Places in a text, and what is to be said of them. Shared by parsing, planning and printing.

use std::ops::Range;

use serde::Serialize;

/// A range of bytes in a Dockerfile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

impl Span {
    /// The span from `start` up to, not including, `end`.
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// The smallest span that holds both.
    #[must_use]
    pub fn to(self, other: Self) -> Self {
        Self {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
        }
    }

    /// The span as a range, for slicing.
    pub fn range(self) -> Range<usize> {
        self.start..self.end
    }

    /// The first and last line it touches, counted from 1. For many places in one text there is [`Lines`].
    pub fn lines(self, text: &str) -> (usize, usize) {
        let line = |at: usize| {
            1 + text.as_bytes()[..at.min(text.len())]
                .iter()
                .filter(|b| **b == b'\n')
                .count()
        };
        (line(self.start), line(self.last()))
    }

    /// Its last byte; the first of an empty one.
    fn last(self) -> usize {
        if self.end > self.start {
            self.end - 1
        } else {
            self.start
        }
    }

    /// The line and column of its first character, both counted from 1; columns count characters.
    pub fn line_column(self, text: &str) -> (usize, usize) {
        let before = text.get(..self.start.min(text.len())).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        (
            1 + before.bytes().filter(|b| *b == b'\n').count(),
            1 + before[line_start..].chars().count(),
        )
    }
}

/// Where the lines of a text end, so that looking up a place does not take reading all that is before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lines {
    breaks: Vec<usize>,
}

impl Lines {
    /// The lines of a text.
    pub fn of(text: &str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, b)| *b == b'\n');
        Self {
            breaks: breaks.map(|(at, _)| at).collect(),
        }
    }

    /// How many bytes lie before a line; all of them before one that is not there.
    pub fn start_of(&self, line: usize, text: &str) -> usize {
        match line.checked_sub(2) {
            None => 0,
            Some(before) => self.breaks.get(before).map_or(text.len(), |at| at + 1),
        }
    }

    /// What [`Span::lines`] gives.
    pub fn touched(&self, span: Span) -> (usize, usize) {
        let line = |at: usize| 1 + self.breaks.partition_point(|end| *end < at);
        (line(span.start), line(span.last()))
    }
}

/// Whether a finding stops the build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The build cannot go on.
    Error,
    /// The build goes on.
    Warning,
}

/// A finding about a place in a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Whether it stops the build.
    pub severity: Severity,
    /// What is wrong: one clause, lower case, no full stop. BuildKit's words where it has some.
    pub message: String,
    /// Where.
    pub span: Span,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// A finding that stops the build.
    pub fn error(message: impl Into<String>, span: Span) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            span,
            hint: None,
        }
    }

    /// The same finding with advice.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The candidate nearest to a misspelt word, in any case: less than three edits away (BuildKit's `util/suggest`). Nothing is
/// suggested where the nearest is the empty word.
pub fn suggest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let candidates = candidates.into_iter();
    nearest(
        candidates.map(|candidate| (edit_distance(&word, &candidate.to_lowercase()), candidate)),
    )
}

/// The same where another case is an edit, too, as it is for variables, flags, keys and targets. A word that is among the
/// candidates has another problem.
pub fn suggest_in_case<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let candidates = candidates.into_iter();
    let near = nearest(candidates.map(|candidate| (edit_distance(word, candidate), candidate)));
    near.filter(|near| *near != word)
}

/// To compare each of many misspelt words with each of many others takes long, and helps nobody: behind so many of one kind, they
/// are reported without what may be meant.
pub const MOST_SUGGESTIONS: usize = 500;

/// Words that are so many edits from each other are not near.
const FAR: usize = 3;

fn nearest<'a>(candidates: impl Iterator<Item = (usize, &'a str)>) -> Option<&'a str> {
    candidates
        .filter(|(distance, _)| *distance < FAR)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
        .filter(|candidate| !candidate.is_empty())
}

/// How many edits make one word of the other, or some number that is not below [`FAR`] if so many do not.
fn edit_distance(a: &str, b: &str) -> usize {
    // Most words are far from each other, which their ends often tell. What both begin or end with takes no edit.
    let same = |pairs: &mut dyn Iterator<Item = (char, char)>| -> usize {
        let same = pairs.take_while(|(x, y)| x == y);
        same.map(|(x, _)| x.len_utf8()).sum()
    };
    let begin = same(&mut a.chars().zip(b.chars()));
    let (a, b) = (&a[begin..], &b[begin..]);
    let end = same(&mut a.chars().rev().zip(b.chars().rev()));
    let (a, b) = (&a[..a.len() - end], &b[..b.len() - end]);
    if a.len().abs_diff(b.len()) >= 4 * FAR {
        return FAR;
    }
    let b: Vec<char> = b.chars().collect();
    if a.chars().count().abs_diff(b.len()) >= FAR {
        return FAR;
    }
    // Only what lies near the diagonal can be below FAR, so a row is as short as that, whatever the words are.
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let (from, to) = (i.saturating_sub(FAR), (i + FAR).min(b.len()));
        let mut diagonal = row[from];
        row[from] = if from == 0 { i + 1 } else { FAR };
        let mut least = row[from];
        for j in from..to {
            let above = if j + 1 < i + FAR { row[j + 1] } else { FAR };
            let cost = if x == b[j] {
                diagonal
            } else {
                1 + diagonal.min(row[j]).min(above)
            };
            diagonal = row[j + 1];
            row[j + 1] = cost;
            least = least.min(cost);
        }
        if least >= FAR {
            return FAR;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_know_their_lines() {
        let text = "FROM a\nRUN b \\\n c\n";
        assert_eq!(Span::new(7, 17).lines(text), (2, 3));
        let lines = Lines::of(text);
        for (start, end) in (0..=text.len() + 2).flat_map(|end| (0..=end).map(move |n| (n, end))) {
            let span = Span::new(start, end);
            assert_eq!(lines.touched(span), span.lines(text), "{span:?}");
        }
        let starts = [1, 2, 3, 4, 9].map(|line| lines.start_of(line, text));
        assert_eq!(starts, [0, 7, 15, 18, 18]);
        assert_eq!(Span::new(11, 12).line_column(text), (2, 5));
    }

    #[test]
    fn near_words_are_suggested() {
        assert_eq!(suggest("RUM", ["FROM", "RUN", "ADD"]), Some("RUN"));
        assert_eq!(suggest("zzzzz", ["FROM", "RUN"]), None);
        assert_eq!(suggest("path", ["PATH"]), Some("PATH"));
        assert_eq!(suggest_in_case("path", ["PATH"]), None);
        assert_eq!(suggest_in_case("Path", ["PASS", "PatH"]), Some("PatH"));
        assert_eq!(suggest_in_case("PATH", ["PATHS", "PATH"]), None);
        assert_eq!(suggest_in_case("A", ["", "B"]), None);
    }

    #[test]
    fn distances_below_the_limit_are_exact() {
        fn exact(a: &[char], b: &[char]) -> usize {
            match (a, b) {
                ([], rest) | (rest, []) => rest.len(),
                ([x, a @ ..], [y, b @ ..]) if x == y => exact(a, b),
                ([_, a_rest @ ..], [_, b_rest @ ..]) => {
                    1 + exact(a_rest, b)
                        .min(exact(a, b_rest))
                        .min(exact(a_rest, b_rest))
                }
            }
        }
        // All words of up to five of these letters.
        let mut words = vec![String::new()];
        let mut from = 0;
        for _ in 0..5 {
            let to = words.len();
            for at in from..to {
                words.extend(["a", "é"].map(|letter| format!("{}{letter}", words[at])));
            }
            from = to;
        }
        for (a, b) in words.iter().flat_map(|a| words.iter().map(move |b| (a, b))) {
            let letters = |word: &str| word.chars().collect::<Vec<_>>();
            let want = exact(&letters(a), &letters(b)).min(FAR);
            assert_eq!(edit_distance(a, b).min(FAR), want, "{a} {b}");
        }
    }
}
