//! Parser directives: `# key=value` on the first lines of a file.

use super::{Spanned, Word, lines::Lines};
use crate::source::Span;

/// A known directive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Syntax,
    Escape,
    Check,
}

impl Key {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::Escape => "escape",
            Self::Check => "check",
        }
    }
}

/// Reads `# key=value`; the value's span is relative to the line. `None` for everything else, which ends the
/// directives of a file.
pub(super) fn parse_line(line: &str, comment: &str) -> Option<(Key, Word)> {
    const BLANKS: [char; 4] = ['\t', '\u{c}', '\r', ' '];
    let content = line.strip_prefix(comment)?.trim_start();
    let (name, rest) = content.split_at(content.find(|c: char| !c.is_ascii_alphanumeric())?);
    let key = [Key::Syntax, Key::Escape, Key::Check]
        .into_iter()
        .find(|k| k.name().eq_ignore_ascii_case(name))?;
    let written = rest.trim_start_matches(BLANKS).strip_prefix('=')?;
    let value = match written.trim_matches(BLANKS) {
        // The expression that BuildKit matches wants a character, and takes the last blank for it.
        "" => &written[written.len().checked_sub(1)?..],
        value => value,
    };
    // The trimmed parts are slices of `line`, so their distance is their place.
    let start = value.as_ptr() as usize - line.as_ptr() as usize;
    let span = Span::new(start, start + value.len());
    Some((key, Spanned::new(value.to_owned(), span)))
}

/// Finds `syntax` and `check`. Unlike `escape`, they may follow a `#!` line, and `syntax` may be written as
/// `// syntax=…` or be a member of a JSON file, for frontends of other languages.
pub(super) fn find(text: &str, start: usize) -> (Option<Word>, Option<Word>) {
    let start = if text[start..].starts_with("#!") {
        text[start..]
            .find('\n')
            .map_or(text.len(), |at| start + at + 1)
    } else {
        start
    };
    let scan = |comment: &str, wanted: Key| {
        for line in Lines::new(text, start) {
            let (key, word) = parse_line(&text[line.start..line.end], comment)?;
            if key == wanted {
                let span = Span::new(line.start + word.span.start, line.start + word.span.end);
                return Some(Spanned::new(word.value, span));
            }
        }
        None
    };
    let syntax = scan("#", Key::Syntax)
        .or_else(|| scan("//", Key::Syntax))
        .or_else(|| json_syntax(text, start));
    (syntax, scan("#", Key::Check))
}

fn json_syntax(text: &str, start: usize) -> Option<Word> {
    let text_of_file = &text[start..];
    // Most files are no JSON; this spares them a JSON parser.
    if !text_of_file.trim_start().starts_with('{') {
        return None;
    }
    let object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text_of_file).ok()?;
    let value = object.get("syntax")?.as_str()?;
    Some(Spanned::new(value.to_owned(), Span::new(start, text.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_and_value(line: &str) -> Option<(Key, String)> {
        parse_line(line, "#").map(|(key, word)| (key, word.value))
    }

    #[test]
    fn directives_have_blanks_and_any_case() {
        let syntax = Some((Key::Syntax, "docker/dockerfile:1 x".to_owned()));
        assert_eq!(key_and_value("# SynTax = docker/dockerfile:1 x \t"), syntax);
        assert_eq!(key_and_value("#syntax=docker/dockerfile:1 x"), syntax);
        assert_eq!(
            key_and_value("# check=\t "),
            Some((Key::Check, " ".to_owned()))
        );
        for other in [
            "# syntax=",
            "# foo=bar",
            "# syntax",
            " # syntax=a",
            "# syn tax=a",
            "#",
        ] {
            assert_eq!(key_and_value(other), None, "{other}");
        }
    }

    #[test]
    fn syntax_is_found_in_all_forms() {
        let syntax = |text: &str| find(text, 0).0.map(|w| (w.value, w.span));
        let at = |start, end| Some(("a/b".to_owned(), Span::new(start, end)));
        assert_eq!(
            syntax("#!/bin/x\n# check=skip=all\n# syntax=a/b\n"),
            at(35, 38)
        );
        assert_eq!(syntax("// syntax=a/b\nx"), at(10, 13));
        assert_eq!(syntax("{\"syntax\": \"a/b\"}"), at(0, 17));
        assert_eq!(syntax("\n# syntax=a/b"), None);
    }
}
