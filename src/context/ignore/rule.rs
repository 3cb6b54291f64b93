//! One pattern of an ignore file: the test that it stands for, most of them without a regular expression.

use regex::Regex;

use super::PatternError;
use crate::context::glob::{BadPattern, Glob};

/// One pattern.
#[derive(Debug, Clone)]
pub struct Rule {
    /// As it was written.
    pub text: String,
    /// The line of the ignore file, from 1; 0 for a word of a flag.
    pub line: usize,
    /// Whether it starts with `!`.
    pub is_exception: bool,
    cleaned: String,
    /// So many bytes of `cleaned` are what each path begins with that it matches; all of them, if it is a path itself.
    n_fixed: usize,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Exact,
    /// `dir/**`
    Prefix(String),
    /// `**x`, `**/x`
    Suffix(String),
    Regex(Box<Regex>),
}

impl Rule {
    /// Whether it matches a path.
    pub(super) fn matches(&self, path: &str) -> bool {
        match &self.test {
            Test::Exact => path == self.cleaned,
            Test::Prefix(prefix) => path.starts_with(prefix.as_str()),
            Test::Suffix(suffix) => {
                path.ends_with(suffix.as_str()) || suffix.strip_prefix('/') == Some(path)
            }
            Test::Regex(regex) => path.starts_with(self.fixed()) && regex.is_match(path),
        }
    }

    fn fixed(&self) -> &str {
        &self.cleaned[..self.n_fixed]
    }

    /// The first name of all paths that it may match, if there is just one.
    pub(super) fn first_name(&self) -> Option<&str> {
        match self.fixed().split_once('/') {
            Some((first, _)) => Some(first),
            None => matches!(self.test, Test::Exact).then_some(self.fixed()),
        }
    }

    /// Whether it is one of the usual patterns for everything in the root.
    pub(super) fn takes_all(&self) -> bool {
        !self.is_exception && matches!(self.cleaned.as_str(), "*" | "**" | "**/*")
    }

    /// Whether something in `dir`, which ends with a slash, may match.
    pub(super) fn may_match_below(&self, dir: &str) -> bool {
        let fixed = self.fixed();
        if self.n_fixed < self.cleaned.len() {
            return fixed.starts_with(dir) || dir.starts_with(fixed);
        }
        fixed.starts_with(dir) || dir.strip_suffix('/') == Some(fixed)
    }
}

/// The rule of one pattern; `None` for a blank one.
pub(super) fn rule(pattern: &str, text: &str, line: usize) -> Result<Option<Rule>, PatternError> {
    let pattern = pattern.trim();
    if pattern.is_empty() {
        return Ok(None);
    }
    let mut cleaned = clean(pattern);
    let is_exception = cleaned.starts_with('!');
    if is_exception {
        cleaned.remove(0);
        if cleaned.is_empty() {
            return Err(PatternError::LoneException);
        }
    }
    let bad = |BadPattern| PatternError::Syntax(pattern.to_owned());
    Glob::parse(cleaned.as_bytes()).map_err(bad)?;
    let test = compile(&cleaned).map_err(bad)?;
    let special = cleaned.find(['*', '?', '[', '\\', '^']);
    Ok(Some(Rule {
        text: text.to_owned(),
        line,
        is_exception,
        n_fixed: special.unwrap_or(cleaned.len()),
        cleaned,
        test,
    }))
}

/// The test that a cleaned pattern stands for.
fn compile(pattern: &str) -> Result<Test, BadPattern> {
    #[derive(PartialEq)]
    enum Form {
        Exact,
        Prefix,
        Suffix,
        Regex,
    }
    let mut form = Form::Exact;
    let mut expression = String::from("^");
    let mut chars = pattern.chars().peekable();
    let mut at_start = true;
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                if chars.peek().is_some() {
                    expression.push_str("(.*/)?");
                    form = Form::Regex;
                } else if form == Form::Exact {
                    form = Form::Prefix;
                } else {
                    expression.push_str(".*");
                    form = Form::Regex;
                }
                if at_start {
                    form = Form::Suffix;
                }
            }
            '*' => {
                expression.push_str("[^/]*");
                form = Form::Regex;
            }
            '?' => {
                expression.push_str("[^/]");
                form = Form::Regex;
            }
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => {
                expression.push('\\');
                expression.push(c);
            }
            '\\' => {
                expression.push('\\');
                if let Some(next) = chars.next() {
                    expression.push(next);
                    form = Form::Regex;
                }
            }
            '[' | ']' => {
                expression.push(c);
                form = Form::Regex;
            }
            _ => expression.push(c),
        }
        at_start = false;
    }
    Ok(match form {
        Form::Exact => Test::Exact,
        Form::Prefix => Test::Prefix(pattern[..pattern.len() - 2].to_owned()),
        Form::Suffix => Test::Suffix(pattern[2..].to_owned()),
        Form::Regex => {
            expression.push('$');
            let expression = from_re2(&expression).ok_or(BadPattern)?;
            let regex = Regex::new(&expression).map_err(|_error| BadPattern)?;
            Test::Regex(Box::new(regex))
        }
    })
}

/// An expression of Go's syntax in that of the `regex` crate, which gives more characters a meaning within a set and
/// refuses escapes of characters that have none. Go's short classes are of ASCII. There is none for classes of
/// Unicode (`\p{…}`): their tables are half a megabyte.
fn from_re2(expression: &str) -> Option<String> {
    let mut out = String::with_capacity(expression.len() + 8);
    let mut chars = expression.chars().peekable();
    let mut in_set = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('d') => out.push_str("[0-9]"),
                Some('D') => out.push_str("[^0-9]"),
                Some('w') => out.push_str("[0-9A-Za-z_]"),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('s') => out.push_str("[\\t\\n\\f\\r ]"),
                Some('S') => out.push_str("[^\\t\\n\\f\\r ]"),
                Some(c @ ('b' | 'B')) => out.extend(["(?-u:\\", c.encode_utf8(&mut [0; 4]), ")"]),
                Some('p' | 'P') => return None,
                Some(next) if next.is_ascii_alphanumeric() => out.extend(['\\', next]),
                Some(next) => out.push_str(&regex::escape(next.encode_utf8(&mut [0; 4]))),
                None => out.push_str("\\\\"),
            },
            '[' if !in_set => {
                in_set = true;
                out.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                if chars.next_if_eq(&']').is_some() {
                    out.push_str("\\]");
                }
            }
            // `[:alpha:]` is a class of characters in both.
            '[' if chars.peek() == Some(&':') => {
                let rest: String = chars.clone().collect();
                match rest[1..].find(":]") {
                    Some(end) => {
                        out.push('[');
                        out.extend(chars.by_ref().take(rest[..end + 3].chars().count()));
                    }
                    None => out.push_str("\\["),
                }
            }
            '[' | '&' | '~' if in_set => out.extend(['\\', c]),
            '-' if in_set && chars.peek() == Some(&'-') => out.push_str("\\-"),
            ']' if in_set => {
                in_set = false;
                out.push(']');
            }
            ']' => out.push_str("\\]"),
            _ => out.push(c),
        }
    }
    Some(out)
}

/// The shortest equal path, as Go's `filepath.Clean` gives it: `.` for nothing, `..` kept in front.
pub(super) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&last) if last != ".." => {
                    parts.pop();
                }
                _ if rooted => {}
                _ => parts.push(part),
            },
            _ => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}
