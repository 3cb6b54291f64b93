//! Shell patterns of `${v#pattern}` and `${v/pattern/…}`: `*`, `?` and characters, as regular expressions.

use regex::Regex;

use super::expand::NO_CHARACTER;

/// A shell pattern.
pub(super) struct Pattern<'a> {
    source: &'a str,
    tokens: Vec<Token>,
}

#[derive(Clone, Copy)]
enum Token {
    Any,
    One,
    Char(char),
}

impl<'a> Pattern<'a> {
    /// Reads a pattern; the error says what is wrong in it.
    pub(super) fn parse(source: &'a str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut rest = source.chars();
        while let Some(c) = rest.next() {
            tokens.push(match c {
                '*' => Token::Any,
                '?' => Token::One,
                '\\' => match rest.next() {
                    Some(c @ ('}' | '/' | '*' | '?' | '\\')) => Token::Char(c),
                    other => {
                        let other = other.map_or(NO_CHARACTER.to_owned(), String::from);
                        return Err(format!(
                            "invalid pattern ({source}) in substitution: invalid escape '\\{other}'"
                        ));
                    }
                },
                _ => Token::Char(c),
            });
        }
        Ok(Self { source, tokens })
    }

    /// The pattern as an expression behind `anchor`, whose `*` is the longest or the shortest text.
    pub(super) fn regex(&self, anchor: &str, longest: bool) -> Result<Regex, String> {
        let mut text = anchor.to_owned();
        for token in &self.tokens {
            match token {
                Token::Any if longest => text += ".*",
                Token::Any => text += ".*?",
                Token::One => text.push('.'),
                Token::Char(c) => text += &regex::escape(c.encode_utf8(&mut [0; 4])),
            }
        }
        Regex::new(&text)
            .map_err(|error| format!("invalid pattern ({}) in substitution: {error}", self.source))
    }
}

/// The pattern that matches what this one matches, read backwards. A lone backslash at its end becomes one at the start,
/// as with BuildKit.
pub(super) fn reversed(pattern: &str) -> String {
    let mut tokens = Vec::new();
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        let escaped = if c == '\\' { rest.next() } else { None };
        tokens.push((c, escaped));
    }
    let reversed = tokens.into_iter().rev();
    reversed
        .flat_map(|(c, escaped)| [Some(c), escaped])
        .flatten()
        .collect()
}

/// A replacement of `${v//pattern/replacement}` for one match. Go's `ReplaceAllString` sees a template in it: `$0` and
/// `${0}` are the match, `$$` is a dollar sign, and other names are empty.
pub(super) fn filled_in(replacement: &str, found: &str) -> String {
    let mut out = String::with_capacity(replacement.len());
    let mut rest = replacement;
    while let Some((before, after)) = rest.split_once('$') {
        out += before;
        let braced = after.strip_prefix('{');
        let text = braced.unwrap_or(after);
        let is_name = |c: char| c == '_' || c.is_alphanumeric();
        let (name, behind) = text.split_at(text.find(|c| !is_name(c)).unwrap_or(text.len()));
        let behind = if braced.is_some() {
            behind.strip_prefix('}')
        } else {
            Some(behind)
        };
        rest = match behind {
            _ if after.starts_with('$') => {
                out.push('$');
                &after[1..]
            }
            Some(behind) if !name.is_empty() => {
                if name == "0" {
                    out += found;
                }
                behind
            }
            _ => {
                out.push('$');
                after
            }
        };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacements_are_templates() {
        for (replacement, want) in [
            ("<$0>", "<b>"),
            ("${0}y", "by"),
            ("$$", "$"),
            ("$", "$"),
            ("a$1z", "a"),
            ("$00-$0x-$é", "--"),
            ("${", "${"),
            ("${0", "${0"),
            ("${}$-", "${}$-"),
        ] {
            assert_eq!(filled_in(replacement, "b"), want, "{replacement}");
        }
    }

    #[test]
    fn escapes_stay_in_front_when_reversed() {
        assert_eq!(reversed(r"a\*c\?"), [r"\?", "c", r"\*", "a"].concat());
        assert_eq!(reversed("*\\"), "\\*");
    }
}
