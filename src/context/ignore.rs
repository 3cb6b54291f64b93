//! Ignore files: which paths of a directory do not belong to the build context.
//!
//! The file is `<Dockerfile>.dockerignore` beside the Dockerfile, else `.dockerignore` in the context's root. One
//! pattern a line, cleaned, a leading `/` dropped; `#` in the first column starts a comment. Patterns are anchored at
//! the root and the last one that matches decides; `!` brings back.
//!
//! ```text
//! *  ?  [a-z]  \x     as in `super::glob`, a set excepted: it is one of a regular expression
//! **                  any number of directories, none included; at the end, everything below
//! ```
//! The same patterns are the words of `COPY --exclude`. The reference for all of it is the pattern matcher of Docker,
//! down to this: a directory that matches takes all below it along, and whether an exception below it counts is
//! decided path by path on the way down, never looking up again.

mod rule;

use std::{
    collections::HashMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

pub use self::rule::Rule;
use self::rule::{clean, rule};
use super::glob::BadPattern;

/// A list of patterns that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// `!` without a pattern.
    #[error("illegal exclusion pattern: \"!\"")]
    LoneException,
    /// Unbalanced brackets, or an escape of nothing.
    #[error("{BadPattern}: {0:?}")]
    Syntax(String),
}

/// An ordered list of patterns. Empty, it matches nothing.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    /// The name of the file that they are from.
    pub(super) file: Option<OsString>,
    rules: Vec<Rule>,
    /// The rules that match only below one name of the root, by it, in order: generated files have thousands.
    by_first_name: HashMap<String, Vec<usize>>,
    /// The other ones, in order.
    others: Vec<usize>,
}

/// How a path fared, and all that has to be known to go on below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Which patterns matched, as far as they were tried, in order.
    hits: Vec<usize>,
    decided_by: Option<usize>,
    is_match: bool,
}

impl Verdict {
    /// The verdict on the root, which no pattern matches.
    pub fn root() -> Self {
        Self::default()
    }

    /// Whether the path is one that the patterns name.
    pub fn is_match(&self) -> bool {
        self.is_match
    }
}

impl Patterns {
    /// The patterns of an ignore file.
    pub fn parse(file: &[u8]) -> Result<Self, PatternError> {
        let text = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
        let text = String::from_utf8_lossy(text);
        let lines = (1..)
            .zip(text.split('\n'))
            .filter(|(_, line)| !line.starts_with('#'))
            .map(|(number, line)| (number, line.trim()))
            .filter(|(_, line)| !line.is_empty());
        let mut rules = Vec::new();
        for (number, line) in lines {
            let (mark, pattern) = match line.strip_prefix('!') {
                Some(rest) => ("!", rest.trim()),
                None => ("", line),
            };
            let mut pattern = if pattern.is_empty() {
                String::new()
            } else {
                clean(pattern)
            };
            if pattern.len() > 1 && pattern.starts_with('/') {
                pattern.remove(0);
            }
            rules.extend(rule(&format!("{mark}{pattern}"), line, number)?);
        }
        Ok(Self::of(rules))
    }

    /// Patterns given one by one, as `--exclude` does.
    pub fn from_words<S: AsRef<str>>(
        words: impl IntoIterator<Item = S>,
    ) -> Result<Self, PatternError> {
        let mut rules = Vec::new();
        for word in words {
            let word = word.as_ref();
            rules.extend(rule(word, word, 0)?);
        }
        Ok(Self::of(rules))
    }

    fn of(rules: Vec<Rule>) -> Self {
        let mut patterns = Self::default();
        for (i, rule) in rules.iter().enumerate() {
            match rule.first_name() {
                Some(name) => match patterns.by_first_name.get_mut(name) {
                    Some(same) => same.push(i),
                    None => drop(patterns.by_first_name.insert(name.to_owned(), vec![i])),
                },
                None => patterns.others.push(i),
            }
        }
        patterns.rules = rules;
        patterns
    }

    /// The rules that may match `path`, in order.
    fn candidates(&self, path: &str) -> impl Iterator<Item = (usize, &Rule)> {
        let first = path.split_once('/').map_or(path, |(first, _)| first);
        let (mut own, mut others) = (
            self.by_first_name.get(first).map_or(&[][..], Vec::as_slice),
            &self.others[..],
        );
        std::iter::from_fn(move || {
            let from = match (own.first(), others.first()) {
                (Some(a), Some(b)) if a < b => &mut own,
                (Some(_), None) => &mut own,
                _ => &mut others,
            };
            let (i, rest) = from.split_first()?;
            *from = rest;
            Some((*i, &self.rules[*i]))
        })
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether some pattern starts with `!`.
    pub fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.is_exception)
    }

    /// Whether some pattern, by its looks, takes out everything in the root.
    pub fn takes_all(&self) -> bool {
        self.rules.iter().any(Rule::takes_all)
    }

    /// The verdict on `path`, given that on the directory it is in.
    pub fn judge(&self, path: &Path, parent: &Verdict) -> Verdict {
        let path = path.to_string_lossy();
        let mut verdict = Verdict::default();
        let mut inherited = parent.hits.iter().peekable();
        // What matched above is a candidate here as well, since the first name is the same.
        for (i, rule) in self.candidates(&path) {
            let inherited = inherited.next_if_eq(&&i).is_some();
            // A pattern that could not change the outcome is not tried, and is not known to have matched further
            // down either: this makes `a/c`, `!a` leave out what is in a/c.
            if !inherited && (rule.is_exception != verdict.is_match || !rule.matches(&path)) {
                continue;
            }
            verdict.hits.push(i);
            if verdict.is_match == rule.is_exception {
                verdict.decided_by = Some(i);
            }
            verdict.is_match = !rule.is_exception;
        }
        verdict
    }

    /// The verdict on `path`, from the root down.
    pub fn judge_path(&self, path: &Path) -> Verdict {
        let mut verdict = Verdict::root();
        let mut done = PathBuf::new();
        for component in path.components() {
            done.push(component);
            verdict = self.judge(&done, &verdict);
        }
        verdict
    }

    /// The pattern that brought a verdict about; `None` when none matched.
    pub fn decisive(&self, verdict: &Verdict) -> Option<&Rule> {
        self.rules.get(verdict.decided_by?)
    }

    /// Whether an exception may bring back something below the directory `dir`. False is certain, true is not.
    pub fn may_bring_back_below(&self, dir: &Path) -> bool {
        let dir = format!("{}/", dir.to_string_lossy());
        self.rules
            .iter()
            .any(|rule| rule.is_exception && rule.may_match_below(&dir))
    }

    /// Whether a pattern other than an exception may match something below the directory `dir`, the root if empty.
    /// False is certain, true is not.
    pub fn may_match_below(&self, dir: &Path) -> bool {
        let dir = format!("{}/", dir.to_string_lossy());
        let dir = dir.trim_start_matches('/');
        self.rules
            .iter()
            .any(|rule| !rule.is_exception && rule.may_match_below(dir))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ignored(file: &str, path: &str) -> bool {
        Patterns::parse(file.as_bytes())
            .unwrap()
            .judge_path(Path::new(path))
            .is_match()
    }

    #[test]
    fn patterns_match_as_in_docker() {
        let table = [
            ("**", "file", true),
            ("**", "dir/file", true),
            ("**/", "file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir", false),
            ("**/dir", "dir/file", true),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/*", "dir/dir2/dir2/file", true),
            ("**/dir2/**", "dir/dir2/dir2/file", true),
            ("**file", "dir/dir/file", true),
            ("**/file", "dir/file", true),
            ("**file", "dir/file.txt", false),
            ("**/file*txt", "dir/file.txt", true),
            ("**/**/*.txt", "dir/dir/file.txt", true),
            ("a**/*.txt", "a/file.txt", true),
            ("a**/*.txt", "a/dir/dir/file.txt", true),
            ("a*.txt", "a/dir/dir/file.txt", false),
            ("a*.txt", "abc.txt", true),
            ("a[b-d]e", "ae", false),
            ("a[b-d]e", "ace", true),
            ("a[^b-d]e", "aze", true),
            (".*", ".foo", true),
            (".*", "foo", false),
            ("abc.def", "abcdef", false),
            ("abc.def", "abc.def", true),
            ("abc?def", "abcZdef", true),
            ("a\\\\", "a\\", true),
            ("**/foo/bar", "dir/foo/bar", true),
            ("**/foo/bar", "foo/bar", true),
            ("abc/**", "abc/def/ghi", true),
            ("**/.foo", "bar/.foo", true),
            ("**/.foo", "bar.foo", false),
            ("a(b)c/def", "a(b)c/def", true),
            ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
            (
                "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
                "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
                true,
            ),
            ("foo", "a/foo", false),
            ("foo/", "foo", true),
            ("/foo", "foo/x", true),
            ("./a/../foo", "foo", true),
            ("/", "a", false),
            ("[!a]", "b", false),
            ("[!a]", "!", true),
            ("{a,b}", "a", false),
            ("[[]x", "[x", true),
            ("[a&&b]", "&", true),
            ("# a", "# a", false),
            (" # a", "# a", true),
            ("v\\d", "v1", true),
            ("v\\d", "v\u{661}", false),
            ("v\\D", "v\u{661}", true),
            ("[\\d.]", ".", true),
            ("[\\d.]", "7", true),
            ("[^\\w]", "é", true),
            ("a\\sb", "a b", true),
            ("*\\bb", "a-b", true),
            ("[[:alpha:]]?", "bé", true),
        ];
        for (pattern, path, expected) in table {
            assert_eq!(ignored(pattern, path), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn the_last_match_decides() {
        assert!(!ignored("*.md\n!README.md", "README.md"));
        assert!(ignored("*.md\n!README.md\nR*", "README.md"));
        assert!(!ignored("*\n!a/b", "a/b/c"));
        assert!(ignored("*\n!a/b", "a/d"));
        assert!(ignored("*\n!a/b\na/b/c", "a/b/c"));
        assert!(ignored("!x\nx", "x"));
        assert!(ignored("a/c\n!a", "a/c"));
        assert!(!ignored("a\n! a/b", "a/b"));
    }

    #[test]
    fn carriage_returns_and_a_byte_order_mark_are_no_part_of_patterns() {
        let patterns = Patterns::parse(b"\xef\xbb\xbf# c\r\nfoo\r\n\r\n  bar  \r\n").unwrap();
        assert!(patterns.judge_path(Path::new("foo")).is_match());
        let verdict = patterns.judge_path(Path::new("bar"));
        let rule = patterns.decisive(&verdict).unwrap();
        assert_eq!((rule.line, rule.text.as_str()), (4, "bar"));
    }

    #[test]
    fn bad_patterns_are_refused() {
        let lone = Patterns::parse(b"a\n!\n").unwrap_err();
        assert_eq!(lone.to_string(), "illegal exclusion pattern: \"!\"");
        let syntax = Patterns::parse(b"a[\n").unwrap_err();
        assert_eq!(syntax.to_string(), "syntax error in pattern: \"a[\"");
        assert!(Patterns::parse(b"a\\\n").is_err());
        assert!(Patterns::parse(b"\\pL\n").is_err());
    }

    #[test]
    fn a_directory_is_pruned_when_no_exception_reaches_below() {
        let patterns = Patterns::parse(b"*\n!a/b\n!**/keep\n").unwrap();
        assert!(patterns.may_bring_back_below(Path::new("z")));
        let patterns = Patterns::parse(b"*\n!a/b\n!c/x*\n").unwrap();
        assert!(patterns.may_bring_back_below(Path::new("a")));
        assert!(!patterns.may_bring_back_below(Path::new("a/c")));
        assert!(!patterns.may_bring_back_below(Path::new("d")));
        assert!(patterns.may_bring_back_below(Path::new("c")));
        assert!(patterns.may_bring_back_below(Path::new("c/xy")));
    }

    proptest! {
        #[test]
        fn no_file_panics(file in any::<Vec<u8>>(), path in "[a-z/.*]{0,10}") {
            if let Ok(patterns) = Patterns::parse(&file) {
                patterns.judge_path(Path::new(&path));
            }
        }

        #[test]
        fn without_stars_in_a_row_a_pattern_is_a_glob(
            pattern in "[ab?]{1,3}(/[ab*]{1,2}){0,2}".prop_filter("two stars", |p| !p.contains("**")),
            path in "[ab]{1,3}(/[ab]{1,2}){0,2}",
        ) {
            let glob = crate::context::glob::Glob::parse(pattern.as_bytes()).unwrap();
            let by_glob = Path::new(&path).ancestors().any(|p| glob.matches(p.to_str().unwrap().as_bytes()));
            prop_assert_eq!(ignored(&pattern, &path), by_glob);
        }

        #[test]
        fn rules_that_are_no_candidates_do_not_match(
            file in r"(!?/?[ab*?\[\]\\^.]{1,3}(/[ab*]{1,2}){0,2}\n){1,4}",
            path in "[ab]{1,2}(/[ab]){0,2}",
        ) {
            if let Ok(patterns) = Patterns::parse(file.as_bytes()) {
                let candidates: Vec<usize> = patterns.candidates(&path).map(|(i, _)| i).collect();
                prop_assert!(candidates.is_sorted());
                for (i, rule) in patterns.rules.iter().enumerate() {
                    prop_assert!(candidates.contains(&i) || !rule.matches(&path));
                }
            }
        }

        #[test]
        fn what_is_pruned_holds_nothing_wanted(
            file in "(!?[ab*]{1,2}(/[ab*]{1,2}){0,2}\n){1,4}",
            dir in "[ab](/[ab]){0,1}",
            below in "[ab](/[ab]){0,1}",
        ) {
            let patterns = Patterns::parse(file.as_bytes()).unwrap();
            let verdict = patterns.judge_path(Path::new(&dir));
            if verdict.is_match() && !patterns.may_bring_back_below(Path::new(&dir)) {
                let path = format!("{dir}/{below}");
                prop_assert!(ignored(&file, &path));
            }
        }
    }
}
