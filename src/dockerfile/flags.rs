//! Flags of an instruction: which exist, and their values.

use super::{Flag, Word, lines::Logical, words::Piece};
use crate::source::{Diagnostic, Span, suggest_in_case};

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing, `true` or `false`.
    Switch,
    /// A value, once.
    Value,
    /// A value, any number of times.
    Values,
}

/// A flag that an instruction knows.
pub(super) type Known = (&'static str, Takes);

/// Splits decoded flag words at `=`.
pub(super) fn from_words(logical: &Logical, offset: usize, words: Vec<Piece>) -> Vec<Flag> {
    words
        .into_iter()
        .map(|(range, word)| {
            let (start, end) = (offset + range.start, offset + range.end);
            let equals = logical.text[start..end].find('=').map(|at| start + at);
            match word.split_once('=') {
                Some((name, value)) => {
                    // A quoted or escaped `=` is one as well; then the whole word is the place of both.
                    let (name_end, value_start) = equals.map_or((end, start), |at| (at, at + 1));
                    Flag {
                        name: logical.word(start, name_end, name.get(2..).unwrap_or_default()),
                        value: Some(logical.word(value_start, end, value)),
                    }
                }
                None => Flag {
                    name: logical.word(start, end, word.get(2..).unwrap_or_default()),
                    value: None,
                },
            }
        })
        .collect()
}

/// Flags that have been checked.
#[derive(Debug)]
pub(super) struct Flags<'a>(&'a [Flag]);

impl<'a> Flags<'a> {
    /// Checks that all flags are known, have values of their type, and are not repeated.
    pub(super) fn check(flags: &'a [Flag], known: &[Known]) -> Result<Self, Diagnostic> {
        for (i, flag) in flags.iter().enumerate() {
            let name = flag.name.value.as_str();
            let span = flag_span(flag);
            let Some((_, takes)) = known.iter().find(|(k, _)| *k == name) else {
                return Err(Diagnostic::error(
                    did_you_mean(
                        format!("unknown flag: --{name}"),
                        suggest_in_case(name, known.iter().map(|(k, _)| *k)),
                    ),
                    span,
                ));
            };
            if *takes != Takes::Values && flags[..i].iter().any(|f| f.name.value == name) {
                return Err(Diagnostic::error(
                    format!("duplicate flag specified: --{name}"),
                    span,
                ));
            }
            let value = flag.value.as_ref().map(|v| v.value.as_str());
            match (takes, value) {
                (Takes::Switch, Some("")) | (Takes::Value | Takes::Values, None) => {
                    return Err(Diagnostic::error(
                        format!("missing a value on flag: --{name}"),
                        span,
                    ));
                }
                (Takes::Switch, Some(value)) if switch(value).is_none() => {
                    return Err(Diagnostic::error(
                        format!("expecting boolean value for flag --{name}, not: {value}"),
                        span,
                    ));
                }
                _ => {}
            }
        }
        Ok(Self(flags))
    }

    /// The value of a flag that takes one.
    pub(super) fn value(&self, name: &str) -> Option<Word> {
        self.values(name).pop()
    }

    /// The value, unless it is absent or empty.
    pub(super) fn value_not_empty(&self, name: &str) -> Option<Word> {
        self.value(name).filter(|v| !v.value.is_empty())
    }

    /// The values of a flag that takes many.
    pub(super) fn values(&self, name: &str) -> Vec<Word> {
        self.named(name).filter_map(|f| f.value.clone()).collect()
    }

    /// The state of a switch, if it is given.
    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        let flag = self.named(name).next()?;
        flag.value.as_ref().map_or(Some(true), |v| switch(&v.value))
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &'a Flag> {
        self.0.iter().filter(move |f| f.name.value == name)
    }
}

fn switch(value: &str) -> Option<bool> {
    if value.eq_ignore_ascii_case("true") {
        Some(true)
    } else if value.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// Where a flag is.
pub(super) fn flag_span(flag: &Flag) -> Span {
    match &flag.value {
        Some(value) => flag.name.span.to(value.span),
        None => flag.name.span,
    }
}

/// The message with the word that may be meant appended, if there is one.
pub(super) fn did_you_mean(message: String, near: Option<&str>) -> String {
    match near {
        Some(near) => format!("{message} (did you mean {near}?)"),
        None => message,
    }
}
