//! Shell patterns of `${v#pattern}` and `${v/pattern/…}`: `*`, `?` and characters, as regular expressions.

use regex::Regex;

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
                        let other = other.map(String::from).unwrap_or_default();
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

    /// The pattern that matches what this one matches, read backwards.
    pub(super) fn reversed(mut self) -> Self {
        self.tokens.reverse();
        self
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
