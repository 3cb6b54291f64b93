//! The Dockerfile language, by the files in `testdata/`: trees, diagnostics, lint and expansion.
//!
//! `UPDATE_EXPECT=1` writes the expected files anew; what they say then is to be read before it is committed.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use rbuild::{
    dockerfile::{
        self, Dockerfile,
        expand::{ExpandError, Expander, Expansion, Quotes},
        lint::{self, Linter},
        mount::Mount,
        quote::{quoted, quoted_list},
    },
    source::{Diagnostic, Severity},
};

fn testdata(dir: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata")
        .join(dir)
}

/// The files of a directory with an extension, sorted; there is at least one.
fn files(dir: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(testdata(dir)).expect("a directory of testdata can be listed");
    let paths = entries.map(|entry| entry.expect("an entry can be read").path());
    let mut paths: Vec<PathBuf> = paths
        .filter(|p| p.extension().is_some_and(|e| e == extension))
        .collect();
    paths.sort();
    assert!(
        !paths.is_empty(),
        "testdata/{dir} has no .{extension} files"
    );
    paths
}

fn update() -> bool {
    env::var_os("UPDATE_EXPECT").is_some()
}

/// Compares a text with a file, or writes the file; what differs is told by name.
fn expect(path: &Path, actual: &str, differences: &mut Vec<String>) {
    if update() {
        fs::write(path, actual).expect("testdata can be written");
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    if expected != actual {
        let path = path.display();
        differences.push(format!("{path}\nexpected:\n{expected}\nactual:\n{actual}"));
    }
}

fn assert_none(differences: &[String]) {
    assert!(
        differences.is_empty(),
        "UPDATE_EXPECT=1 accepts these differences:\n{}",
        differences.join("\n")
    );
}

fn read(path: &Path) -> Dockerfile {
    dockerfile::parse(&fs::read_to_string(path).expect("testdata is UTF-8"))
}

fn position(text: &str, at: usize) -> String {
    let (line, column) = dockerfile::Word::new(String::new(), rbuild::source::Span::new(at, at))
        .span
        .line_column(text);
    format!("{line}:{column}")
}

fn diagnostics(file: &Dockerfile) -> String {
    let line = |d: &Diagnostic| {
        let severity = match d.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let (start, end) = (
            position(&file.text, d.span.start),
            position(&file.text, d.span.end),
        );
        let hint = d.hint.iter().map(|hint| format!("  hint: {hint}\n"));
        format!("{start}-{end} {severity}: {}\n", d.message) + &hint.collect::<String>()
    };
    file.diagnostics.iter().map(line).collect()
}

#[test]
fn accepted_files_have_their_trees() {
    let mut differences = Vec::new();
    for path in files("dockerfile/ok", "dockerfile") {
        let file = read(&path);
        assert_eq!(diagnostics(&file), "", "{}", path.display());
        expect(&path.with_extension("tree"), &file.tree(), &mut differences);
    }
    assert_none(&differences);
}

#[test]
fn rejected_files_have_their_diagnostics() {
    let mut differences = Vec::new();
    for path in files("dockerfile/err", "dockerfile") {
        let file = read(&path);
        assert!(file.has_errors(), "{}", path.display());
        let syntax = file.check_syntax(None).err();
        assert!(syntax.is_none(), "{}", path.display());
        expect(
            &path.with_extension("stderr"),
            &diagnostics(&file),
            &mut differences,
        );
    }
    assert_none(&differences);
}

#[test]
fn printed_files_have_the_same_trees() {
    for path in files("dockerfile/ok", "dockerfile") {
        let file = read(&path);
        let printed = file.to_string();
        let again = dockerfile::parse(&printed);
        assert_eq!(
            without_lines(&again.tree()),
            without_lines(&file.tree()),
            "{}:\n{printed}",
            path.display()
        );
    }
}

/// A tree without what printing changes: line numbers, and blank lines that were joined away.
fn without_lines(tree: &str) -> String {
    let facts = tree
        .lines()
        .filter(|line| !line.contains("has an empty continuation line"))
        .map(|line| line.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-'));
    facts.map(str::trim_start).collect::<Vec<_>>().join("\n")
}

#[test]
fn lint_finds_what_it_should() {
    let mut differences = Vec::new();
    for path in files("lint", "dockerfile") {
        let file = read(&path);
        let found = match file.checks(None) {
            Err(error) => format!("error: {}\n", error.message),
            Ok(checks) => {
                let mut linter = Linter::new(checks);
                lint::lint(&file, &mut linter);
                let lines = linter.warnings().iter().map(|w| {
                    let (first, last) = w.span.lines(&file.text);
                    format!("{first}-{last} {}: {}\n", w.rule.name(), w.detail)
                });
                let error = linter.error().map(|error| format!("error: {error}\n"));
                lines.chain(error).collect()
            }
        };
        expect(&path.with_extension("txt"), &found, &mut differences);
    }
    assert_none(&differences);
}

/// What a row of `testdata/expand` asks for.
#[derive(Clone, Copy)]
enum Mode {
    Word,
    Words,
    Heredoc,
    Keep,
    Vars,
}

struct Expansions {
    escape: char,
    mode: Mode,
    variables: BTreeMap<String, String>,
}

impl Expansions {
    /// Takes a line that sets something; `false` for a row.
    fn set(&mut self, line: &str) -> bool {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "let" => {
                let (name, value) = rest.split_once('=').expect("`let` has a =");
                self.variables.insert(name.to_owned(), value.to_owned());
            }
            "unset" => {
                self.variables.remove(rest);
            }
            "escape" => self.escape = rest.chars().next().expect("`escape` has a character"),
            "as" => {
                self.mode = match rest {
                    "word" => Mode::Word,
                    "words" => Mode::Words,
                    "heredoc" => Mode::Heredoc,
                    "keep" => Mode::Keep,
                    "vars" => Mode::Vars,
                    other => panic!("no such mode: {other}"),
                };
            }
            _ => return false,
        }
        true
    }

    fn expand(&self, word: &str) -> Result<Expansion, ExpandError> {
        let expander = match self.mode {
            Mode::Heredoc => Expander::heredoc(),
            Mode::Keep => Expander {
                quotes: Quotes::Keep,
                keep_unset: true,
                ..Expander::new(self.escape)
            },
            Mode::Word | Mode::Words | Mode::Vars => Expander::new(self.escape),
        };
        expander.expand(word, &|name| self.variables.get(name).cloned())
    }

    fn result(&self, word: &str) -> String {
        match self.expand(word) {
            Err(error) => format!("error: {error}"),
            Ok(expansion) => match self.mode {
                Mode::Words => quoted_list(&expansion.words),
                Mode::Vars => {
                    let unset = expansion.unset.iter().map(|name| format!("!{name}"));
                    let all: Vec<String> = expansion.used.iter().cloned().chain(unset).collect();
                    all.join(" ")
                }
                Mode::Word | Mode::Heredoc | Mode::Keep => quoted(&expansion.text),
            },
        }
    }
}

/// The lines of a file, with the results of its rows `WORD -> RESULT` computed anew.
fn rows(path: &Path, mut result: impl FnMut(&str, Option<&str>) -> String) -> String {
    let text = fs::read_to_string(path).expect("testdata is UTF-8");
    let row = |line: &str| match line.rsplit_once(" ->") {
        Some((word, _)) => format!("{word} -> {}", result(line, Some(word)))
            .trim_end()
            .to_owned(),
        None => line.to_owned() + &result(line, None),
    };
    let rows: Vec<String> = text.lines().map(row).collect();
    rows.join("\n") + "\n"
}

#[test]
fn words_expand_as_listed() {
    let mut differences = Vec::new();
    for path in files("expand", "txt") {
        let mut state = Expansions {
            escape: '\\',
            mode: Mode::Word,
            variables: BTreeMap::new(),
        };
        let actual = rows(&path, |line, word| {
            if let Some(word) = word {
                return state.result(word);
            }
            assert!(
                line.is_empty() || state.set(line),
                "{}: {line}",
                path.display()
            );
            String::new()
        });
        expect(&path, &actual, &mut differences);
    }
    assert_none(&differences);
}

#[test]
fn mounts_are_read_as_listed() {
    let mut differences = Vec::new();
    for path in files("mount", "txt") {
        let actual = rows(&path, |_, value| value.map(mount).unwrap_or_default());
        expect(&path, &actual, &mut differences);
    }
    assert_none(&differences);
}

/// The fields of a mount that are set; `$X` in it is `x`.
fn mount(value: &str) -> String {
    let lookup = |name: &str| (name == "X").then(|| "x".to_owned());
    let mut expand = |text: &str| Ok(Expander::new('\\').expand(text, &lookup)?.text);
    match Mount::parse(value, &mut expand) {
        Err(error) => format!("error: {error}"),
        Ok(mount) => {
            let fields = serde_json::to_value(mount).expect("a mount can be JSON");
            let fields = fields.as_object().expect("a mount is an object").iter();
            let set = fields.filter(|(_, value)| !value.is_null() && **value != false);
            let set: Vec<String> = set.map(|(key, value)| format!("{key}={value}")).collect();
            set.join(" ")
        }
    }
}
