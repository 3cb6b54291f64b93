//! Splitting the rest of an instruction into words: at blanks, at blanks outside quotes, as a JSON array, or into
//! flags. Quotes and `$` stay in words (flags excepted); expansion takes them out later.

use std::ops::Range;

/// A word and its place in the text it was split from.
pub(super) type Piece = (Range<usize>, String);

/// The blanks that separate words: those of one line.
pub(super) const BLANKS: [char; 5] = ['\t', '\u{b}', '\u{c}', '\r', ' '];

/// Splits at blanks, whatever is quoted. The text is trimmed and not empty.
pub(super) fn split_blanks(text: &str) -> Vec<Piece> {
    let mut words = Vec::new();
    let mut start = 0;
    for word in text.split(BLANKS) {
        if !word.is_empty() {
            words.push((start..start + word.len(), word.to_owned()));
        }
        start += word.len() + 1;
    }
    words
}

/// The first word and the text after the blanks that follow it.
pub(super) fn split_first(text: &str) -> (&str, Option<(usize, &str)>) {
    let Some(end) = text.find(BLANKS) else {
        return (text, None);
    };
    let rest = text[end..].trim_start_matches(BLANKS);
    (&text[..end], Some((text.len() - rest.len(), rest)))
}

/// Splits at blanks outside quotes. A trailing lone escape character is dropped; all else stays as written.
pub(super) fn split_quoted(text: &str, escape: char) -> Vec<Piece> {
    let mut words: Vec<Piece> = Vec::new();
    let mut word: Option<Piece> = None;
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            words.extend(word.take());
            continue;
        }
        let (range, value) = word.get_or_insert_with(|| (at..at, String::new()));
        range.end = at + c.len_utf8();
        if c == escape && quote != Some('\'') {
            let Some((at, next)) = chars.next() else {
                break;
            };
            value.push(c);
            value.push(next);
            range.end = at + next.len_utf8();
            continue;
        }
        value.push(c);
        match quote {
            Some(open) if open == c => quote = None,
            None if matches!(c, '\'' | '"') => quote = Some(c),
            _ => {}
        }
    }
    words.extend(word.take().filter(|(_, value)| !value.is_empty()));
    words
}

/// The leading words that start with `--`, unquoted, and where the rest starts. A lone `--` ends them and is dropped.
pub(super) fn split_flags(text: &str, escape: char) -> (Vec<Piece>, usize) {
    let mut flags = Vec::new();
    let mut at = 0;
    loop {
        let blanks = text.bytes().skip(at).map(char::from);
        let start = at + blanks.take_while(|c| c.is_whitespace()).count();
        let rest = text.as_bytes().get(start..).unwrap_or_default();
        if !rest.starts_with(b"--") {
            return (flags, text.ceil_char_boundary(start));
        }
        let (length, word) = flag_word(rest, escape);
        at = start + length;
        if word == "--" {
            return (flags, text.ceil_char_boundary(at));
        }
        let end = text.ceil_char_boundary(at);
        flags.push((start..end, word));
    }
}

/// The first word of a text without its quotes and escapes, and its length as written.
///
/// BuildKit reads flags byte by byte: those of `ü` become two characters, and the second one of `à` is a blank. What it
/// makes of `--exclude=*.ü` decides what is in images, so it is made here, too.
fn flag_word(text: &[u8], escape: char) -> (usize, String) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.iter().copied().map(char::from).enumerate();
    while let Some((at, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            return (at, word);
        }
        if Some(c) == quote {
            quote = None;
        } else if quote.is_none() && matches!(c, '\'' | '"') {
            quote = Some(c);
        } else if c == escape {
            word.extend(chars.next().map(|(_, escaped)| escaped));
        } else {
            word.push(c);
        }
    }
    (text.len(), word)
}

/// What a text is as JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Json {
    /// An array of strings.
    Strings(Vec<Piece>),
    /// An array with something else in it.
    Mixed,
    /// No array.
    None,
}

/// Reads an array of strings.
pub(super) fn json_strings(text: &str) -> Json {
    let Some(inner) = text.trim_start().strip_prefix('[') else {
        return Json::None;
    };
    let mut at = text.len() - inner.len();
    let mut words = Vec::new();
    let blanks = |at: usize| {
        let rest = &text[at..];
        at + rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len()
    };
    at = blanks(at);
    if !text[at..].starts_with(']') {
        loop {
            at = blanks(at);
            match json_string(&text[at..]) {
                Some((length, value)) => {
                    words.push((at..at + length, value));
                    at = blanks(at + length);
                }
                None if serde_json::from_str::<Vec<serde_json::Value>>(text.trim()).is_ok() => {
                    return Json::Mixed;
                }
                None => return Json::None,
            }
            match text.as_bytes().get(at) {
                Some(b',') => at += 1,
                Some(b']') => break,
                _ => return Json::None,
            }
        }
    }
    if blanks(at + 1) < text.len() {
        return Json::None;
    }
    Json::Strings(words)
}

/// A JSON string at the start of a text: its length as written and its value. Lone surrogates become U+FFFD.
fn json_string(text: &str) -> Option<(usize, String)> {
    let mut chars = text.char_indices();
    if chars.next()?.1 != '"' {
        return None;
    }
    let mut units: Vec<u16> = Vec::new();
    loop {
        let (at, c) = chars.next()?;
        match c {
            '"' => return Some((at + 1, String::from_utf16_lossy(&units))),
            '\0'..='\u{1f}' => return None,
            '\\' => {
                let unit = match chars.next()?.1 {
                    'b' => 8,
                    't' => 9,
                    'n' => 10,
                    'f' => 12,
                    'r' => 13,
                    'u' => {
                        let mut unit = 0;
                        for _ in 0..4 {
                            let digit = chars.next()?.1.to_digit(16)?;
                            unit = unit << 4 | u16::try_from(digit).ok()?;
                        }
                        unit
                    }
                    c @ ('"' | '\\' | '/') => c as u16,
                    _ => return None,
                };
                units.push(unit);
            }
            _ => units.extend_from_slice(c.encode_utf16(&mut [0; 2])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pieces: Vec<Piece>) -> Vec<String> {
        pieces.into_iter().map(|(_, value)| value).collect()
    }

    #[test]
    fn quoted_blanks_do_not_split() {
        let words = |text| values(split_quoted(text, '\\'));
        assert_eq!(
            words(r#"a="b c" d='e\' f=g\ h "" \"#),
            [r#"a="b c""#, r"d='e\'", r"f=g\ h", r#""""#]
        );
        assert_eq!(words(r#"a="b c"#), [r#"a="b c"#]);
        assert_eq!(words(""), [""; 0]);
    }

    #[test]
    fn flags_are_unquoted() {
        let (flags, rest) = split_flags(r#"--a="b c" --d\=e  --f x --g"#, '\\');
        assert_eq!(values(flags), ["--a=b c", "--d=e", "--f"]);
        assert_eq!(rest, 22);
        assert_eq!(split_flags("--x -- --y", '\\').1, 6);
        assert_eq!(split_flags("-x", '\\').1, 0);
    }

    #[test]
    fn only_arrays_of_strings_are_json() {
        let json = |text| match json_strings(text) {
            Json::Strings(words) => values(words),
            other => vec![format!("{other:?}")],
        };
        assert_eq!(
            json(r#" [ "a" , "b\"\u00e9\ud83d\ude00\ud800" ] "#),
            ["a", "b\"é😀\u{fffd}"]
        );
        assert_eq!(json("[]"), [""; 0]);
        assert_eq!(json(r#"["a", 1]"#), ["Mixed"]);
        assert_eq!(json(r#"["a", ["b"]]"#), ["Mixed"]);
        for text in [
            "",
            "a",
            "['a']",
            r#"["a""#,
            r#"["a"] b"#,
            r#"["a",]"#,
            r#"["\x"]"#,
            "[,]",
            "[",
        ] {
            assert_eq!(json(text), ["None"], "{text}");
        }
    }
}
