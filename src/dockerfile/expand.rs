//! Word expansion: `$name`, `${name…}` and quotes, as the builder (not a shell) reads them.
//!
//! | form | is |
//! |---|---|
//! | `$v`, `${v}` | the value, or nothing |
//! | `${v-w}`, `${v:-w}` | the value, or `w` if unset (`:`: or empty) |
//! | `${v+w}`, `${v:+w}` | `w`, or nothing if unset (`:`: or empty) |
//! | `${v?m}`, `${v:?m}` | the value, or an error if unset (`:`: or empty) |
//! | `${v#p}`, `${v##p}` | the value without its shortest, longest prefix that matches `p` |
//! | `${v%p}`, `${v%%p}` | the same with a suffix |
//! | `${v/p/r}`, `${v//p/r}` | the value with the first, with every match of `p` replaced |
//!
//! `w`, `m`, `p` and `r` are expanded themselves. In `p`, `*` is any text, `?` any character, and a backslash takes
//! the meaning from `*`, `?`, `/`, `}` and itself. Positional and special parameters (`$1`, `$@`) are looked up like
//! names, so they are empty. Single quotes keep all; double quotes keep all but `$` and the escape character in front
//! of `"`, `$` and itself; elsewhere the escape character keeps the next one.
//!
//! Where images depend on it, what BuildKit does by accident is done here, too: a byte order mark in front of a text is
//! dropped, and what stands in front of `${v:-w}` in the same word (`8000-${END:-8010}`) is lost when the text is split
//! into words.

mod modifier;

use std::{collections::BTreeSet, iter::Peekable, str::Chars};

pub(super) use self::modifier::NO_CHARACTER;
use self::modifier::{UNCLOSED, unsupported};
use super::quote::quoted;

/// What quotes are in a text to be expanded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Quotes {
    /// Syntax; they are gone afterwards.
    #[default]
    Remove,
    /// Syntax; they stay.
    Keep,
    /// Characters like any other, as in the body of a heredoc.
    Literal,
}

/// How to expand. [`Expander::new`] is the way of instruction words; the fields are for other texts.
#[derive(Debug, Clone, Copy)]
pub struct Expander {
    /// The Dockerfile's escape character.
    pub escape: char,
    /// What becomes of quotes.
    pub quotes: Quotes,
    /// Whether escape characters stay in the result.
    pub keep_escapes: bool,
    /// Whether a reference to an unset variable stays as it is instead of vanishing.
    pub keep_unset: bool,
}

/// An expanded text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expansion {
    /// The text as one word.
    pub text: String,
    /// The text split at blanks that are neither quoted nor escaped, those within values included.
    pub words: Vec<String>,
    /// The variables that it uses and that are set.
    pub used: BTreeSet<String>,
    /// The variables that it uses and that are not set, also those for which it has a default.
    pub unset: BTreeSet<String>,
}

/// Why a text cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {}: {reason}", quoted(.text))]
pub struct ExpandError {
    /// The text.
    pub text: String,
    /// What is wrong in it.
    pub reason: String,
    /// The variables that it uses up to there and that are not set.
    pub unset: BTreeSet<String>,
}

impl ExpandError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        (self.reason == unsupported(NO_CHARACTER)).then_some("`${` ends with `}`")
    }
}

impl Expander {
    /// Expands words of instructions: quotes and escapes are removed, unset variables are empty.
    pub const fn new(escape: char) -> Self {
        Self {
            escape,
            quotes: Quotes::Remove,
            keep_escapes: false,
            keep_unset: false,
        }
    }

    /// Expands bodies of heredocs: quotes are text, and the escape character is a backslash in every Dockerfile.
    pub const fn heredoc() -> Self {
        Self {
            quotes: Quotes::Literal,
            ..Self::new('\\')
        }
    }

    /// Expands the text with the values that `lookup` gives.
    pub fn expand(
        &self,
        text: &str,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Expansion, ExpandError> {
        let mut run = Run {
            options: *self,
            rest: text
                .strip_prefix('\u{feff}')
                .unwrap_or(text)
                .chars()
                .peekable(),
            lookup,
            depth: 0,
            inserted: 0,
            word_is_lost: false,
            used: BTreeSet::new(),
            unset: BTreeSet::new(),
        };
        match run.until(None, self.keep_escapes) {
            Ok((text, words)) => Ok(Expansion {
                text,
                words: words.finish(),
                used: run.used,
                unset: run.unset,
            }),
            Err(reason) => Err(ExpandError {
                text: text.to_owned(),
                reason,
                unset: run.unset,
            }),
        }
    }
}

/// Words in the making.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    word: String,
}

impl Words {
    fn push(&mut self, c: char) {
        if !c.is_whitespace() {
            self.word.push(c);
        } else if !self.word.is_empty() {
            self.done.push(std::mem::take(&mut self.word));
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.done.push(self.word);
        }
        self.done
    }
}

struct Run<'a> {
    options: Expander,
    rest: Peekable<Chars<'a>>,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    depth: usize,
    /// How many bytes variables have put into the text.
    inserted: usize,
    /// Whether an operand has been read since the current word was looked at: BuildKit has one buffer for the words of
    /// all depths.
    word_is_lost: bool,
    used: BTreeSet<String>,
    unset: BTreeSet<String>,
}

impl Run<'_> {
    /// Reads up to and including `stop`, or to the end.
    fn until(&mut self, stop: Option<char>, keep_escapes: bool) -> Result<(String, Words), String> {
        if self.depth == MAX_DEPTH {
            return Err("substitutions are nested too deeply".to_owned());
        }
        let outer = std::mem::replace(&mut self.options.keep_escapes, keep_escapes);
        self.depth += 1;
        let result = self.until_stop(stop);
        self.depth -= 1;
        self.options.keep_escapes = outer;
        self.word_is_lost = true;
        result
    }

    fn until_stop(&mut self, stop: Option<char>) -> Result<(String, Words), String> {
        let mut text = String::new();
        let mut words = Words::default();
        let quotes = self.options.quotes != Quotes::Literal;
        while let Some(c) = self.rest.next() {
            match c {
                _ if Some(c) == stop => return Ok((text, words)),
                '$' => {
                    self.word_is_lost = false;
                    let value = self.dollar()?;
                    self.forget_lost(&mut words);
                    value.chars().for_each(|c| words.push(c));
                    text += &value;
                }
                '\'' | '"' if quotes => {
                    self.word_is_lost = false;
                    let value = if c == '"' {
                        self.double_quotes()?
                    } else {
                        self.single_quotes()?
                    };
                    self.forget_lost(&mut words);
                    words.word += &value;
                    text += &value;
                }
                '<' if self.rest.peek() == Some(&'<') => {
                    // Blanks between `<<` and its word do not end the word.
                    self.rest.next();
                    let mut start = String::from("<<");
                    while let Some(blank) = self.rest.next_if(|c| matches!(c, '\t' | '\r' | ' ')) {
                        start.push(blank);
                    }
                    words.word += &start;
                    text += &start;
                }
                _ if c == self.options.escape => {
                    if self.options.keep_escapes {
                        words.word.push(c);
                        text.push(c);
                    }
                    let Some(escaped) = self.rest.next() else {
                        break;
                    };
                    words.word.push(escaped);
                    text.push(escaped);
                }
                _ => {
                    words.push(c);
                    text.push(c);
                }
            }
        }
        match stop {
            None => Ok((text, words)),
            Some(stop) => Err(format!(
                "unexpected end of statement while looking for matching {stop}"
            )),
        }
    }

    fn forget_lost(&self, words: &mut Words) {
        if self.word_is_lost {
            words.word.clear();
        }
    }

    fn single_quotes(&mut self) -> Result<String, String> {
        let mut out = String::new();
        loop {
            match self.rest.next() {
                None => {
                    return Err(
                        "unexpected end of statement while looking for matching single-quote"
                            .to_owned(),
                    );
                }
                Some('\'') => return Ok(self.with_quotes('\'', out)),
                Some(c) => out.push(c),
            }
        }
    }

    fn double_quotes(&mut self) -> Result<String, String> {
        let mut out = String::new();
        loop {
            match self.rest.next() {
                None => {
                    return Err(
                        "unexpected end of statement while looking for matching double-quote"
                            .to_owned(),
                    );
                }
                Some('"') => return Ok(self.with_quotes('"', out)),
                Some('$') => out += &self.dollar()?,
                Some(c) if c == self.options.escape => {
                    if self.options.keep_escapes {
                        out.push(c);
                    }
                    let escape = self.options.escape;
                    match self
                        .rest
                        .next_if(|next| matches!(next, '"' | '$') || *next == escape)
                    {
                        Some(next) => out.push(next),
                        None if self.rest.peek().is_some() => out.push(c),
                        None => {}
                    }
                }
                Some(c) => out.push(c),
            }
        }
    }

    fn with_quotes(&self, quote: char, inner: String) -> String {
        if self.options.quotes == Quotes::Keep {
            format!("{quote}{inner}{quote}")
        } else {
            inner
        }
    }

    /// The value of what follows a `$`.
    fn dollar(&mut self) -> Result<String, String> {
        let value = self.value()?;
        self.inserted = self.inserted.saturating_add(value.len());
        if self.inserted > MAX_INSERTED {
            return Err(too_long());
        }
        Ok(value)
    }

    fn value(&mut self) -> Result<String, String> {
        if self.rest.next_if_eq(&'{').is_none() {
            let name = self.name();
            return Ok(if name.is_empty() {
                "$".to_owned()
            } else {
                match self.get(&name) {
                    Some(value) => value,
                    None if self.options.keep_unset => format!("${name}"),
                    None => String::new(),
                }
            });
        }
        match self.rest.peek() {
            None => return Err(UNCLOSED.to_owned()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".to_owned()),
            Some(_) => {}
        }
        let name = self.name();
        let Some(modifier) = self.rest.next() else {
            return Err(unsupported(NO_CHARACTER));
        };
        match modifier {
            '}' => Ok(match self.get(&name) {
                Some(value) => value,
                None if self.options.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            ':' => match self.rest.next() {
                Some(c @ ('-' | '+' | '?')) => self.alternative(&name, c, true),
                Some(c @ ('#' | '%')) => Err(unsupported(&format!(":{c}"))),
                Some(c) => {
                    self.operand('}', false)?;
                    self.get(&name);
                    Err(unsupported(&format!(":{c}")))
                }
                None => Err(UNCLOSED.to_owned()),
            },
            '-' | '+' | '?' => self.alternative(&name, modifier, false),
            '#' | '%' => self.trim(&name, modifier),
            '/' => self.replace(&name),
            _ => Err(unsupported(&modifier.to_string())),
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.rest.peek() {
            Some(c) if c.is_numeric() => {
                while let Some(c) = self.rest.next_if(|c| c.is_numeric()) {
                    name.push(c);
                }
                return name;
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => {
                name.extend(self.rest.next());
                return name;
            }
            _ => {}
        }
        while let Some(c) = self
            .rest
            .next_if(|c| c.is_alphabetic() || c.is_numeric() || *c == '_')
        {
            name.push(c);
        }
        name
    }

    fn get(&mut self, name: &str) -> Option<String> {
        let value = (self.lookup)(name);
        if value.is_some() {
            self.used.insert(name.to_owned());
        } else {
            self.unset.insert(name.to_owned());
        }
        value
    }
}

/// How deep `${a:-${b:-…}}` may go: far beyond use, far below what a thread's stack holds.
const MAX_DEPTH: usize = 100;

/// How many bytes the variables of one text may add to it: eight times what Linux takes as a variable or argument of a process.
/// A few dozen lines of `ENV A=$A$A` would fill any memory.
const MAX_INSERTED: usize = 1 << 20;

fn too_long() -> String {
    format!("its variables add more than {MAX_INSERTED} bytes")
}
