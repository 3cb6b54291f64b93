//! The Dockerfile language: text to tree, and tree to text.
//!
//! ```text
//! text ─lines→ logical lines (directives, comments, continuations, heredocs) ─instructions→ Dockerfile
//! ```
//! Parsing is pure and never fails: [`parse`] gives the instructions that could be read and a [`Diagnostic`] for each
//! that could not. Its judgement is BuildKit's: what the `docker/dockerfile:1` frontend accepts is accepted with the
//! same meaning, and what it rejects is rejected with its words. Nothing is expanded; [`expand`] does that, later.
//!
//! Invariants: every [`Span`] lies within the text; printing a Dockerfile without errors and parsing the print gives
//! the same instructions, spans aside.

mod directive;
pub mod expand;
mod flags;
mod heredoc;
mod instruction;
mod kind;
mod lines;
pub mod lint;
pub mod mount;
mod node;
mod parse;
mod pattern;
mod print;
pub mod quote;
pub mod scalar;
mod words;

use serde::Serialize;

pub use instruction::*;
pub use parse::{parse, parse_trigger};

use self::lint::Checks;
use crate::source::{Diagnostic, Severity, Span};

/// A value and where it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it is written. Within an image's `ONBUILD` trigger: within the trigger's text.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// A value and its place.
    pub const fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

/// A piece of text and where it is written.
pub type Word = Spanned<String>;

/// A parsed Dockerfile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Dockerfile {
    /// The text, as given; all spans point into it.
    #[serde(skip)]
    pub text: String,
    /// The parser directives.
    pub directives: Directives,
    /// The instructions that could be read, in order.
    pub instructions: Vec<Instruction>,
    /// What is wrong, in order: of the lines first, which is what BuildKit stops at. Warnings are [`lint`]'s business.
    pub diagnostics: Vec<Diagnostic>,
    /// How far BuildKit's linter would have come.
    #[serde(skip)]
    failure: Failure,
    /// The instructions that are wrong, as far as lines are concerned all is well with.
    #[serde(skip)]
    rejected: Vec<Rejected>,
}

/// What is known of an instruction that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rejected {
    span: Span,
    keyword: Word,
    words: Vec<Word>,
    comments: Vec<Word>,
    empty_continuation: Option<Span>,
}

/// Where the first error stops whoever reads the file as BuildKit does: line by line, and then instruction by
/// instruction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Failure {
    /// Nowhere.
    #[default]
    None,
    /// While splitting lines: no instruction has been looked at.
    Lines,
    /// At the instruction that holds this byte.
    Instruction(usize),
}

impl Dockerfile {
    /// The escape character: `\`, or a backtick by directive.
    pub fn escape(&self) -> char {
        self.directives.escape.as_ref().map_or('\\', |e| e.value)
    }

    /// Which lint rules are wanted: by the `BUILDKIT_DOCKERFILE_CHECK` build argument if there is one, else by
    /// `# check=`.
    pub fn checks(&self, build_arg: Option<&str>) -> Result<Checks, Diagnostic> {
        let (value, span) = match (build_arg, &self.directives.check) {
            (Some(value), _) => (value, Span::default()),
            (None, Some(word)) => (word.value.as_str(), word.span),
            (None, None) => return Ok(Checks::default()),
        };
        Checks::parse(value).map_err(|error| Diagnostic::error(error.to_string(), span))
    }

    /// Refuses a file that asks for another language, by the `BUILDKIT_SYNTAX` build argument or by `# syntax=`.
    ///
    /// Every version of `docker/dockerfile` and `docker/dockerfile-upstream`, from whatever registry, is the one
    /// language that this module reads.
    pub fn check_syntax(&self, build_arg: Option<&str>) -> Result<(), Diagnostic> {
        let (value, span) = match (build_arg, &self.directives.syntax) {
            (Some(value), _) => (value, Span::default()),
            (None, Some(word)) => (word.value.as_str(), word.span),
            (None, None) => return Ok(()),
        };
        let image = value.split(' ').next().unwrap_or_default();
        let name = image.split('@').next().unwrap_or_default();
        let name = name.rsplit('/').next().unwrap_or_default();
        let name = name.split(':').next().unwrap_or_default();
        if matches!(
            name,
            "" | "dockerfile" | "dockerfile-upstream" | "dockerfile.v0"
        ) {
            return Ok(());
        }
        Err(Diagnostic::error(
            format!(
                "`{image}` is another language than docker/dockerfile, the one that is built in"
            ),
            span,
        )
        .with_hint("remove the `# syntax=` line, or set it to docker/dockerfile:1"))
    }

    /// Whether the file, or the `BUILDKIT_SYNTAX` build argument, asks for the language with what is still being tried out:
    /// `docker/dockerfile:1-labs`.
    pub fn has_labs(&self, build_arg: Option<&str>) -> bool {
        let of_file = self
            .directives
            .syntax
            .as_ref()
            .map(|word| word.value.as_str());
        let image = build_arg.or(of_file).unwrap_or_default();
        let image = image.split([' ', '@']).next().unwrap_or_default();
        let tag = image
            .rsplit('/')
            .next()
            .and_then(|name| name.split_once(':'));
        tag.is_some_and(|(_, tag)| tag == "labs" || tag.ends_with("-labs"))
    }

    /// Whether the build cannot go on.
    pub fn has_errors(&self) -> bool {
        self.diagnostics
            .iter()
            .any(|d| d.severity == Severity::Error)
    }
}

/// The parser directives at the top of a Dockerfile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Directives {
    /// `# syntax=`, the entire value.
    pub syntax: Option<Word>,
    /// `# escape=`
    pub escape: Option<Spanned<char>>,
    /// `# check=`, for [`lint::Checks::parse`].
    pub check: Option<Word>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_built_in_language_is_read() {
        let refused = |syntax: &str| {
            parse(&format!("# syntax={syntax}\nFROM scratch\n"))
                .check_syntax(None)
                .err()
        };
        for syntax in [
            "docker/dockerfile:1",
            "docker/dockerfile:1.7-labs",
            "docker.io/docker/dockerfile-upstream:master",
            "docker/dockerfile:1@sha256:9857836c9ee4268391bb5b09f9f157f3c91bb15821bb77969642813b0d00518d",
            "registry.example:5000/mirror/docker/dockerfile",
            "dockerfile.v0",
            "docker/dockerfile:1 and more",
        ] {
            assert_eq!(refused(syntax), None, "{syntax}");
        }
        for syntax in [
            "example/llb:1",
            "docker/dockerfile-x",
            "tonistiigi/xx",
            "x/dockerfiles",
        ] {
            let error = refused(syntax).unwrap();
            assert!(error.message.contains(syntax), "{}", error.message);
            assert_eq!(error.span, Span::new(9, 9 + syntax.len()));
        }
        let file = parse("# syntax=example/llb\nFROM scratch\n");
        assert_eq!(file.check_syntax(Some("docker/dockerfile:1")), Ok(()));
        assert!(
            parse("FROM scratch")
                .check_syntax(Some("example/llb"))
                .is_err()
        );
    }

    #[test]
    fn labs_are_asked_for_by_tag() {
        let has =
            |syntax: &str| parse(&format!("# syntax={syntax}\nFROM scratch\n")).has_labs(None);
        for syntax in [
            "docker/dockerfile:labs",
            "docker/dockerfile:1.7-labs",
            "r:5/dockerfile:1-labs@sha256:00 x",
        ] {
            assert!(has(syntax), "{syntax}");
        }
        for syntax in [
            "docker/dockerfile:1",
            "docker/dockerfile",
            "r:5/labs/dockerfile",
        ] {
            assert!(!has(syntax), "{syntax}");
        }
        let file = parse("FROM scratch\n");
        assert!(!file.has_labs(None));
        assert!(file.has_labs(Some("docker/dockerfile:1-labs")));
    }

    #[test]
    fn checks_of_the_command_line_replace_those_of_the_file() {
        let file = parse("# check=skip=all\nFROM scratch\n");
        assert!(file.checks(None).unwrap().skip_all);
        assert!(!file.checks(Some("error=true")).unwrap().skip_all);
        let wrong = parse("# check=foo\nFROM scratch\n");
        let error = wrong.checks(None).unwrap_err();
        assert_eq!(
            (error.message.as_str(), error.span),
            (
                "failed to parse check options: invalid check option \"foo\"",
                Span::new(8, 11)
            )
        );
        assert!(wrong.checks(Some("")).is_ok());
    }
}
