//! What stands behind the name in `${name…}`; the table is in the header of [`expand`](super).

use regex::{Captures, NoExpand};

use super::{MAX_INSERTED, Run, too_long};
use crate::dockerfile::pattern::{self, Pattern};

impl Run<'_> {
    /// `${name-word}` and its kin; with `or_empty`, an empty value counts as none.
    pub(super) fn alternative(
        &mut self,
        name: &str,
        modifier: char,
        or_empty: bool,
    ) -> Result<String, String> {
        let word = self.operand('}', false)?;
        let colon = if or_empty { ":" } else { "" };
        let value = match self.get(name) {
            None if self.options.keep_unset => {
                return Ok(format!("${{{name}{colon}{modifier}{word}}}"));
            }
            value => value,
        };
        let present = value.clone().filter(|v| !(or_empty && v.is_empty()));
        match (modifier, present) {
            ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            ('-', None) => Ok(word),
            (_, None) if word.is_empty() => Err(format!(
                "{name}: is not allowed to be {}",
                if value.is_none() { "unset" } else { "empty" }
            )),
            (_, None) => Err(format!("{name}: {word}")),
        }
    }

    /// `${name#pattern}` and its kin.
    pub(super) fn trim(&mut self, name: &str, end: char) -> Result<String, String> {
        let word = self.operand('}', true)?;
        let value = match self.get(name) {
            None if self.options.keep_unset => return Ok(format!("${{{name}{end}{word}}}")),
            value => value.unwrap_or_default(),
        };
        let (pattern, longest) = match word.strip_prefix(end) {
            Some(pattern) => (pattern, true),
            None => (word.as_str(), false),
        };
        Ok(if end == '#' {
            let regex = Pattern::parse(pattern)?.regex("^", longest)?;
            match regex.find(&value) {
                Some(found) => value[found.end()..].to_owned(),
                None => value,
            }
        } else {
            // The shortest suffix is the shortest prefix of the reversed text: a search finds leftmost matches only.
            let backwards: String = value.chars().rev().collect();
            let pattern = pattern::reversed(pattern);
            let regex = Pattern::parse(&pattern)?.regex("^", longest)?;
            match regex.find(&backwards) {
                Some(found) => backwards[found.end()..].chars().rev().collect(),
                None => value,
            }
        })
    }

    /// `${name/pattern/replacement}` and `${name//pattern/replacement}`.
    pub(super) fn replace(&mut self, name: &str) -> Result<String, String> {
        let all = self.rest.next_if_eq(&'/').is_some();
        let pattern = self.operand('/', true)?;
        let replacement = self.operand('}', true)?;
        let value = match self.get(name) {
            None if self.options.keep_unset => {
                let slashes = if all { "//" } else { "/" };
                return Ok(format!("${{{name}{slashes}{pattern}/{replacement}}}"));
            }
            value => value.unwrap_or_default(),
        };
        let regex = Pattern::parse(&pattern)?.regex("", true)?;
        Ok(if all {
            let mut inserted = 0usize;
            let replace = |found: &Captures<'_>| {
                if inserted > MAX_INSERTED {
                    return String::new();
                }
                let filled = pattern::filled_in(&replacement, &found[0]);
                inserted = inserted.saturating_add(filled.len());
                filled
            };
            let replaced = regex.replace_all(&value, replace).into_owned();
            if inserted > MAX_INSERTED {
                return Err(too_long());
            }
            replaced
        } else {
            regex.replace(&value, NoExpand(&replacement)).into_owned()
        })
    }

    /// The text up to `stop` within braces.
    pub(super) fn operand(&mut self, stop: char, keep_escapes: bool) -> Result<String, String> {
        match self.until(Some(stop), keep_escapes) {
            Ok((text, _)) => Ok(text),
            Err(_) if self.rest.peek().is_none() && stop == '/' => {
                Err("syntax error: missing '/' in ${}".to_owned())
            }
            Err(_) if self.rest.peek().is_none() => Err(UNCLOSED.to_owned()),
            Err(reason) => Err(reason),
        }
    }
}

/// What Go shows for the character behind the end of a text.
pub(in crate::dockerfile) const NO_CHARACTER: &str = "\u{fffd}";

pub(super) const UNCLOSED: &str = "syntax error: missing '}'";

pub(super) fn unsupported(modifier: &str) -> String {
    format!("unsupported modifier ({modifier}) in substitution")
}
