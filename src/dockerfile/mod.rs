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

pub mod expand;
mod instruction;
pub mod lint;
pub mod mount;
pub mod quote;
pub mod scalar;

use serde::Serialize;

pub use instruction::*;

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dockerfile {
    /// The text, as given; all spans point into it.
    #[serde(skip)]
    pub text: String,
    /// The parser directives.
    pub directives: Directives,
    /// The instructions that could be read, in order.
    pub instructions: Vec<Instruction>,
    /// What is wrong, in order. Warnings are [`lint`]'s business.
    pub diagnostics: Vec<Diagnostic>,
}

impl Dockerfile {
    /// The escape character: `\`, or a backtick by directive.
    pub fn escape(&self) -> char {
        self.directives.escape.as_ref().map_or('\\', |e| e.value)
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
