//! The first reading of a logical line: keyword, flags, and arguments split the way the keyword asks for.
//!
//! BuildKit reads a whole file this way before it looks at what the arguments say, so an error found here hides all
//! others, wherever they are: [`Node::parse`] makes those errors and nothing else does, except for heredocs and
//! directives.

use super::{
    Flag, Pair, Word,
    flags::{did_you_mean, from_words},
    lines::Logical,
    quote::quoted,
    words::{Json, json_strings, split_blanks, split_first, split_flags, split_quoted},
};
use crate::source::{Diagnostic, Span, suggest};

/// A line, split.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) keyword: Word,
    pub(super) flags: Vec<Flag>,
    pub(super) args: Args,
    /// Where the arguments are, or would be.
    pub(super) args_span: Span,
}

/// The arguments.
#[derive(Debug)]
pub(super) enum Args {
    /// Words.
    Words(Vec<Word>),
    /// The strings of a JSON array.
    Json(Vec<Word>),
    /// `key=value` pairs.
    Pairs { pairs: Vec<Pair>, legacy: bool },
    /// Another instruction.
    Instruction(Box<Node>),
}

impl Args {
    pub(super) fn words(&self) -> &[Word] {
        match self {
            Self::Words(words) | Self::Json(words) => words,
            Self::Pairs { .. } | Self::Instruction(_) => &[],
        }
    }

    pub(super) const fn is_json(&self) -> bool {
        matches!(self, Self::Json(_))
    }
}

impl Node {
    /// Splits the part of a logical line from `start` on.
    pub(super) fn parse(logical: &Logical, start: usize, escape: char) -> Result<Self, Diagnostic> {
        let text = logical.text[start..].trim_end();
        let trimmed = text.trim_start();
        let start = start + text.len() - trimmed.len();
        let (keyword, rest) = split_first(trimmed);
        let keyword = logical.slice(start, start + keyword.len());
        let (rest_at, rest) = rest.map_or((start + trimmed.len(), ""), |(at, r)| (start + at, r));
        let (flags, args_at) = split_flags(rest, escape);
        let flags = from_words(logical, rest_at, flags);
        let text = &rest[args_at..];
        let args = text.trim_start();
        let at = rest_at + args_at + (text.len() - args.len());
        let line = Line {
            logical,
            at,
            text: args,
            escape,
        };
        let args = match keyword.value.to_ascii_uppercase().as_str() {
            "ADD" | "COPY" | "VOLUME" => line.json_or(Line::blanks)?,
            "ARG" => Args::Words(line.quoted()),
            "CMD" | "ENTRYPOINT" | "RUN" | "SHELL" => line.json_or(Line::whole)?,
            "ENV" => line.pairs("ENV")?,
            "LABEL" => line.pairs("LABEL")?,
            "EXPOSE" | "FROM" => Args::Words(line.blanks()),
            "HEALTHCHECK" => line.health()?,
            "ONBUILD" => line.instruction()?,
            _ => Args::Words(line.whole()),
        };
        Ok(Self {
            keyword,
            flags,
            args,
            args_span: logical.span_of(at, at + line.text.len()),
        })
    }

    /// Whether `<<` on this line announces a heredoc.
    pub(super) fn takes_heredocs(&self) -> bool {
        let node = match &self.args {
            Args::Instruction(inner) => inner,
            _ => self,
        };
        let keyword = node.keyword.value.to_ascii_uppercase();
        matches!(keyword.as_str(), "ADD" | "COPY" | "RUN") && !node.args.is_json()
    }
}

/// The arguments before they are split.
#[derive(Clone, Copy)]
struct Line<'a> {
    logical: &'a Logical,
    at: usize,
    text: &'a str,
    escape: char,
}

impl Line<'_> {
    fn words(self, pieces: Vec<(std::ops::Range<usize>, String)>) -> Vec<Word> {
        pieces
            .into_iter()
            .map(|(range, value)| {
                self.logical
                    .word(self.at + range.start, self.at + range.end, value)
            })
            .collect()
    }

    fn blanks(self) -> Vec<Word> {
        self.words(split_blanks(self.text))
    }

    fn quoted(self) -> Vec<Word> {
        self.words(split_quoted(self.text, self.escape))
    }

    fn whole(self) -> Vec<Word> {
        if self.text.is_empty() {
            return Vec::new();
        }
        vec![self.logical.slice(self.at, self.at + self.text.len())]
    }

    fn span(self) -> Span {
        self.logical.span_of(self.at, self.at + self.text.len())
    }

    fn json_or(self, otherwise: impl FnOnce(Self) -> Vec<Word>) -> Result<Args, Diagnostic> {
        match json_strings(self.text) {
            Json::Strings(pieces) => Ok(Args::Json(self.words(pieces))),
            Json::Mixed => Err(Diagnostic::error(
                "when using JSON array syntax, arrays must be comprised of strings only",
                self.span(),
            )),
            Json::None => Ok(Args::Words(otherwise(self))),
        }
    }

    /// `key=value …`, or `key rest of line`, which the first word decides.
    fn pairs(self, keyword: &str) -> Result<Args, Diagnostic> {
        let words = self.quoted();
        let Some(first) = words.first() else {
            return Ok(Args::Words(Vec::new()));
        };
        if !first.value.contains('=') {
            let (key, rest) = split_first(self.text);
            let Some((at, value)) = rest else {
                return Err(Diagnostic::error(
                    format!("{keyword} must have two arguments"),
                    self.span(),
                ));
            };
            let pair = Pair {
                key: self.logical.slice(self.at, self.at + key.len()),
                value: self.logical.slice(self.at + at, self.at + at + value.len()),
            };
            return Ok(Args::Pairs {
                pairs: vec![pair],
                legacy: true,
            });
        }
        let mut pairs = Vec::with_capacity(words.len());
        for word in words {
            let Some((key, value)) = word.value.split_once('=') else {
                return Err(Diagnostic::error(
                    format!(
                        "Syntax error - can't find = in {}. Must be of the form: name=value",
                        quoted(&word.value)
                    ),
                    word.span,
                ));
            };
            pairs.push(split_pair(&word, key, value));
        }
        Ok(Args::Pairs {
            pairs,
            legacy: false,
        })
    }

    fn health(self) -> Result<Args, Diagnostic> {
        let end = self
            .text
            .find(char::is_whitespace)
            .unwrap_or(self.text.len());
        if end == 0 {
            return Ok(Args::Words(Vec::new()));
        }
        let kind = self.logical.slice(self.at, self.at + end);
        let rest = self.text[end..].trim_start();
        let rest = Line {
            at: self.at + self.text.len() - rest.len(),
            text: rest,
            ..self
        };
        Ok(match rest.json_or(Self::whole)? {
            Args::Json(mut words) => {
                words.insert(0, kind);
                Args::Json(words)
            }
            other => Args::Words([&[kind], other.words()].concat()),
        })
    }

    fn instruction(self) -> Result<Args, Diagnostic> {
        if self.text.is_empty() {
            return Ok(Args::Words(Vec::new()));
        }
        let (keyword, _) = split_first(self.text);
        if keyword.eq_ignore_ascii_case("ONBUILD") {
            // An error in any case, and a chain of them is not to be followed to its end.
            return Ok(Args::Instruction(Box::new(Node {
                keyword: self.logical.slice(self.at, self.at + keyword.len()),
                flags: Vec::new(),
                args: Args::Words(Vec::new()),
                args_span: self.span(),
            })));
        }
        let node = Node::parse(self.logical, self.at, self.escape)?;
        Ok(Args::Instruction(Box::new(node)))
    }
}

/// A word `key=value` as a pair. Quotes and escapes are still in it, so places follow from lengths, unless the word
/// goes over several lines: then both have the place of the whole.
pub(super) fn split_pair(word: &Word, key: &str, value: &str) -> Pair {
    let whole = word.span.end - word.span.start == word.value.len();
    let place = |start: usize, end: usize| {
        if whole {
            Span::new(word.span.start + start, word.span.start + end)
        } else {
            word.span
        }
    };
    Pair {
        key: Word::new(key.to_owned(), place(0, key.len())),
        value: Word::new(value.to_owned(), place(key.len() + 1, word.value.len())),
    }
}

/// The error about an instruction that does not exist.
pub(super) fn unknown_instruction(keyword: &Word) -> Diagnostic {
    let names = super::INSTRUCTION_NAMES;
    let lower = names.map(str::to_lowercase);
    let word = keyword.value.as_str();
    let message = format!("unknown instruction: {word}");
    // The suggestion is in the case of the word, and in lower case for one of both.
    let near = if word != word.to_lowercase() && word == word.to_uppercase() {
        suggest(word, names)
    } else {
        suggest(word, lower.iter().map(String::as_str))
    };
    let error = Diagnostic::error(did_you_mean(message, near), keyword.span);
    if word.contains(char::is_whitespace) {
        error.with_hint("there is a space in it that is not the usual one; write that instead")
    } else if near.is_none() {
        error.with_hint(
            "if it goes on with the instruction above, the last line of that one has to end with `\\`",
        )
    } else {
        error
    }
}
