//! Shell patterns as `COPY` and ignore files use them: those of Go's `filepath.Match`.
//!
//! ```text
//! *        any run of characters but /        [a-z]   one character of a set, / included
//! ?        one character but /                [^a-z]  one character outside it
//! \x       the character x
//! ```
//! `**` is two stars, thus one; a set cannot be empty and `]` or `-` in it has to be escaped. A pattern matches a
//! whole path. Names are bytes; a byte that is no UTF-8 counts as one character.

/// A pattern that does not follow the syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// A parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(u8),
    AnyRun,
    AnyOne,
    Set {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// The first character and its length; a byte that starts none is U+FFFD of length 1.
fn decode(bytes: &[u8]) -> (char, usize) {
    let window = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(window) {
        Ok(text) => text,
        Err(error) => {
            let (good, _) = window.split_at(error.valid_up_to());
            std::str::from_utf8(good).unwrap_or_default()
        }
    };
    valid
        .chars()
        .next()
        .map_or((char::REPLACEMENT_CHARACTER, 1), |c| (c, c.len_utf8()))
}

/// One end of a range within a set, and what follows it.
fn range_end(bytes: &[u8]) -> Result<(char, &[u8]), BadPattern> {
    let bytes = match bytes {
        [] | [b'-' | b']', ..] => return Err(BadPattern),
        [b'\\', rest @ ..] => rest,
        _ => bytes,
    };
    if bytes.is_empty() {
        return Err(BadPattern);
    }
    let (c, length) = decode(bytes);
    if c == char::REPLACEMENT_CHARACTER && length == 1 {
        return Err(BadPattern);
    }
    let rest = &bytes[length..];
    // A set has to be closed, so something must follow.
    if rest.is_empty() {
        return Err(BadPattern);
    }
    Ok((c, rest))
}

impl Glob {
    /// Parses a pattern.
    pub fn parse(pattern: &[u8]) -> Result<Self, BadPattern> {
        let mut parts = Vec::new();
        let mut rest = pattern;
        while let Some((&first, tail)) = rest.split_first() {
            rest = tail;
            match first {
                b'*' => {
                    if parts.last() != Some(&Part::AnyRun) {
                        parts.push(Part::AnyRun);
                    }
                }
                b'?' => parts.push(Part::AnyOne),
                b'\\' => {
                    let (&escaped, tail) = rest.split_first().ok_or(BadPattern)?;
                    parts.push(Part::Literal(escaped));
                    rest = tail;
                }
                b'[' => {
                    let negated = rest.first() == Some(&b'^');
                    if negated {
                        rest = &rest[1..];
                    }
                    let mut ranges = Vec::new();
                    while ranges.is_empty() || rest.first() != Some(&b']') {
                        let (low, tail) = range_end(rest)?;
                        rest = tail;
                        let mut high = low;
                        if rest.first() == Some(&b'-') {
                            (high, rest) = range_end(&rest[1..])?;
                        }
                        ranges.push((low, high));
                    }
                    rest = &rest[1..];
                    parts.push(Part::Set { negated, ranges });
                }
                byte => parts.push(Part::Literal(byte)),
            }
        }
        Ok(Self { parts })
    }

    /// Whether the pattern matches all of `path`.
    pub fn matches(&self, path: &[u8]) -> bool {
        let (mut part, mut at) = (0, 0);
        // Where to go on when the run of the last star has to be one character longer. Going back to the last star
        // alone is enough, as neither it nor the one before can cross a slash.
        let mut star: Option<(usize, usize)> = None;
        loop {
            let step = match self.parts.get(part) {
                Some(Part::AnyRun) => {
                    star = Some((part + 1, at));
                    Some(0)
                }
                Some(Part::Literal(byte)) => (path.get(at) == Some(byte)).then_some(1),
                Some(Part::AnyOne) => match path.get(at) {
                    None | Some(b'/') => None,
                    Some(_) => Some(decode(&path[at..]).1),
                },
                Some(Part::Set { negated, ranges }) => (at < path.len())
                    .then(|| decode(&path[at..]))
                    .filter(|(c, _)| {
                        ranges.iter().any(|(low, high)| (low..=high).contains(&c)) != *negated
                    })
                    .map(|(_, length)| length),
                None if at == path.len() => return true,
                None => None,
            };
            if let Some(length) = step {
                part += 1;
                at += length;
                continue;
            }
            match star {
                Some((after, from)) if path.get(from).is_some_and(|b| *b != b'/') => {
                    star = Some((after, from + 1));
                    part = after;
                    at = from + 1;
                }
                _ => return false,
            }
        }
    }
}

/// Whether a name holds a character that makes it a pattern.
pub fn is_pattern(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `Some(true)` or `Some(false)` as the pattern matches, `None` when it is malformed.
    fn check(pattern: &str, path: &str) -> Option<bool> {
        Glob::parse(pattern.as_bytes())
            .ok()
            .map(|glob| glob.matches(path.as_bytes()))
    }

    #[test]
    fn patterns_match_as_in_go() {
        let table = [
            ("abc", "abc", Some(true)),
            ("*", "abc", Some(true)),
            ("*c", "abc", Some(true)),
            ("a*", "a", Some(true)),
            ("a*", "ab/c", Some(false)),
            ("a*/b", "abc/b", Some(true)),
            ("a*/b", "a/c/b", Some(false)),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", Some(true)),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", Some(true)),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", Some(false)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
            ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
            ("ab[c]", "abc", Some(true)),
            ("ab[b-d]", "abc", Some(true)),
            ("ab[e-g]", "abc", Some(false)),
            ("ab[^c]", "abc", Some(false)),
            ("ab[^e-g]", "abc", Some(true)),
            ("a\\*b", "a*b", Some(true)),
            ("a\\*b", "ab", Some(false)),
            ("a?b", "a☺b", Some(true)),
            ("a[^a]b", "a☺b", Some(true)),
            ("a???b", "a☺b", Some(false)),
            ("[a-ζ]*", "α", Some(true)),
            ("*[a-ζ]", "A", Some(false)),
            ("a?b", "a/b", Some(false)),
            ("a*b", "a/b", Some(false)),
            ("[\\]a]", "]", Some(true)),
            ("[\\-]", "-", Some(true)),
            ("[x\\-]", "z", Some(false)),
            ("[\\-x]", "a", Some(false)),
            ("[]a]", "]", None),
            ("[-]", "-", None),
            ("[x-]", "x", None),
            ("[-x]", "x", None),
            ("\\", "a", None),
            ("[a-b-c]", "a", None),
            ("[", "a", None),
            ("[^", "a", None),
            ("[^bc", "a", None),
            ("a[", "ab", None),
            ("a[", "a", None),
            ("*x", "xxx", Some(true)),
            ("", "", Some(true)),
            ("*/", "a/", Some(true)),
            ("[!a]", "!", Some(true)),
            ("{a,b}", "a", Some(false)),
            ("**/x", "a/b/x", Some(false)),
        ];
        for (pattern, path, expected) in table {
            assert_eq!(check(pattern, path), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn a_byte_outside_utf8_is_one_character() {
        let glob = Glob::parse(b"a?b").unwrap();
        assert!(glob.matches(b"a\xffb"));
        assert!(!glob.matches(b"a\xff\xffb"));
    }

    #[test]
    fn an_escaped_star_makes_no_pattern() {
        assert!(is_pattern(b"a*"));
        assert!(is_pattern(b"[a]"));
        assert!(!is_pattern(b"a\\*"));
        assert!(!is_pattern(b"plain"));
    }

    proptest! {
        #[test]
        fn no_pattern_panics(pattern in any::<Vec<u8>>(), path in any::<Vec<u8>>()) {
            if let Ok(glob) = Glob::parse(&pattern) {
                glob.matches(&path);
            }
        }

        #[test]
        fn an_escaped_name_matches_itself_alone(name in "[a-z*?\\[\\]\\\\^-]{0,8}", other in "[a-z*]{0,8}") {
            let escaped: String = name.chars().flat_map(|c| ['\\', c]).collect();
            prop_assert_eq!(check(&escaped, &name), Some(true));
            prop_assert_eq!(check(&escaped, &other), Some(name == other));
        }

        #[test]
        fn a_star_matches_what_has_no_slash(path in "[ab/]{0,8}") {
            prop_assert_eq!(check("*", &path), Some(!path.contains('/')));
        }
    }
}
