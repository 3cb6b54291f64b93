//! The one place where errors become text and exit codes.
//!
//! ```text
//! ------
//!  > [build 4/4] RUN make:                  the last output of the step that failed
//! cc: error: no input files
//! ------
//! error: process "/bin/sh -c make" did not complete successfully: exit code: 2
//!  --> Dockerfile:4:1
//!   |
//! 2 | WORKDIR /src
//! 3 | COPY . .
//! 4 | RUN make
//!   | ^^^^^^^^
//! 5 | FROM scratch
//!   |
//! caused by: …
//! hint: …
//! ```
//! Whatever comes from Dockerfiles, processes, archives and registries is made safe for terminals here.

mod excerpt;

use std::{error::Error, fmt::Write as _};

use annotate_snippets::Level;
use rbuild::source::{Diagnostic, Lines, Severity, Span};

use self::excerpt::excerpt;

use super::{
    progress::FailedStep,
    terminal::{self, Colour},
};

/// Who has to act, and with it the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The Dockerfile, the context or a step is wrong.
    Build,
    /// The command line or the configuration is wrong.
    Usage,
    /// This machine cannot do it: no space, no permission, no namespaces.
    Machine,
    /// A registry or another server said no, or could not be reached.
    Remote,
    /// rbuild is wrong.
    Bug,
    /// A signal ended it.
    Interrupted(Signal),
}

/// The signals that end a build in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// `kill`.
    Terminate,
    /// The terminal has gone.
    Hangup,
}

impl Kind {
    /// The exit status; README has the table.
    pub(crate) const fn exit_code(self) -> u8 {
        match self {
            Self::Build => 1,
            Self::Usage => 2,
            Self::Machine => 3,
            Self::Remote => 4,
            Self::Bug => 70,
            Self::Interrupted(Signal::Hangup) => 129,
            Self::Interrupted(Signal::Interrupt) => 130,
            Self::Interrupted(Signal::Terminate) => 143,
        }
    }
}

/// The Dockerfile that findings are about.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
    /// So that a report of thousands of findings does not read the text for each.
    lines: Lines,
}

impl Source {
    pub(crate) fn new(name: String, text: String) -> Self {
        let lines = Lines::of(&text);
        Self { name, text, lines }
    }
}

/// Why a command failed.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// What is wrong, and where in the Dockerfile: the first one decides, the others are shown after it.
    findings: Vec<Finding>,
    source: Option<Source>,
    hints: Vec<String>,
    /// Steps whose last words help.
    steps: Vec<FailedStep>,
}

#[derive(Debug, Clone)]
struct Finding {
    message: String,
    place: Option<Span>,
    causes: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    /// What is wrong, in one line.
    pub(crate) fn message(&self) -> &str {
        self.findings.first().map_or("", |finding| &finding.message)
    }

    /// A failure with one message.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            findings: vec![Finding {
                message: message.into(),
                place: None,
                causes: Vec::new(),
                hint: None,
            }],
            source: None,
            hints: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// A failure out of an error and all that caused it.
    pub(crate) fn from_error(kind: Kind, error: &(dyn Error + 'static)) -> Self {
        let mut failure = Self::new(kind, error.to_string());
        failure.findings[0].causes = causes(error);
        failure
    }

    /// A failure of which everything has been said.
    pub(crate) fn silent(kind: Kind) -> Self {
        Self {
            kind,
            findings: Vec::new(),
            source: None,
            hints: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// A wrong command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// Findings about a Dockerfile, in the order of their places.
    pub(crate) fn from_diagnostics(source: Source, diagnostics: &[Diagnostic]) -> Self {
        let mut errors: Vec<&Diagnostic> = diagnostics
            .iter()
            .filter(|d| d.severity == Severity::Error)
            .collect();
        errors.sort_by_key(|d| d.span);
        Self {
            kind: Kind::Build,
            findings: errors
                .into_iter()
                .map(|d| Finding {
                    message: d.message.clone(),
                    place: Some(d.span),
                    causes: Vec::new(),
                    hint: d.hint.clone(),
                })
                .collect(),
            source: Some(source),
            hints: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// Says where in a Dockerfile the failure is.
    #[must_use]
    pub(crate) fn at(mut self, source: Source, place: Span) -> Self {
        self.source = Some(source);
        if let Some(first) = self.findings.first_mut() {
            first.place = Some(place);
        }
        self
    }

    /// Says what could not be done; why, was said before.
    #[must_use]
    pub(crate) fn during(mut self, message: impl Into<String>) -> Self {
        if let Some(first) = self.findings.first_mut() {
            let why = std::mem::replace(&mut first.message, message.into());
            first.causes.insert(0, why);
        }
        self
    }

    /// Adds what else is wrong in the same Dockerfile. Advice belongs to one finding then.
    #[must_use]
    pub(crate) fn and(mut self, other: Self, place: Option<Span>) -> Self {
        let own = std::mem::take(&mut self.hints);
        if let (Some(first), Some(hint)) = (self.findings.first_mut(), own.into_iter().next()) {
            first.hint = Some(hint);
        }
        let hint = other.hints.into_iter().next();
        self.findings
            .extend(other.findings.into_iter().map(|finding| Finding {
                place,
                hint: finding.hint.or_else(|| hint.clone()),
                ..finding
            }));
        self
    }

    /// Adds advice.
    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds what failed steps said last.
    #[must_use]
    pub(crate) fn with_steps(mut self, steps: Vec<FailedStep>) -> Self {
        self.steps = steps;
        self
    }

    /// The whole report: what the failed steps said last, then what is wrong and where.
    pub(crate) fn render(&self, colour: Colour) -> String {
        let mut out = String::new();
        for step in self.steps.iter().filter(|step| !step.lines.is_empty()) {
            render_step(&mut out, step, colour);
        }
        for finding in self.findings.iter().take(MOST_FINDINGS) {
            out.push_str(&self.render_finding(finding, colour));
        }
        if let Some(more @ 1..) = self.findings.len().checked_sub(MOST_FINDINGS) {
            note(
                &mut out,
                "note",
                &format!("{more} more errors are not shown"),
                colour,
            );
        }
        for hint in &self.hints {
            note(&mut out, "hint", hint, colour);
        }
        if self.kind == Kind::Bug {
            note(
                &mut out,
                "note",
                concat!(
                    "this is a fault of rbuild ",
                    env!("CARGO_PKG_VERSION"),
                    "; please report it, with the Dockerfile if you can"
                ),
                colour,
            );
        }
        out
    }

    fn render_finding(&self, finding: &Finding, colour: Colour) -> String {
        let message = terminal::lines(&finding.message);
        let mut out = match (&self.source, finding.place) {
            (Some(source), Some(place)) => excerpt(Level::ERROR, &message, source, place, colour),
            _ => titled("error", &message, colour),
        };
        for cause in &finding.causes {
            note(&mut out, "caused by", cause, colour);
        }
        if let Some(hint) = &finding.hint {
            note(&mut out, "hint", hint, colour);
        }
        out
    }
}

/// Renders a warning about a place of a Dockerfile.
pub(crate) fn render_warning(source: &Source, warning: &Diagnostic, colour: Colour) -> String {
    let mut out = excerpt(
        Level::WARNING,
        &terminal::lines(&warning.message),
        source,
        warning.span,
        colour,
    );
    if let Some(hint) = &warning.hint {
        note(&mut out, "hint", hint, colour);
    }
    out
}

/// Says something on standard error; one that is closed must not stop a build.
pub(crate) fn warn(text: &str) {
    use std::io::Write as _;
    std::io::stderr().write_all(text.as_bytes()).ok();
}

/// The messages below an error, without those that the one above ends with already.
pub(crate) fn causes(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut said = error.to_string();
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !said.ends_with(&text) {
            causes.push(text.clone());
        }
        said = text;
        next = cause.source();
    }
    causes
}

/// An error and what caused it, in one line.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut all = vec![error.to_string()];
    all.extend(causes(error));
    all.join(": ")
}

/// Nobody reads more errors of one file than this.
const MOST_FINDINGS: usize = 100;

fn titled(level: &str, message: &str, colour: Colour) -> String {
    match colour {
        Colour::On => format!("\u{1b}[1m\u{1b}[91m{level}\u{1b}[0m\u{1b}[1m: {message}\u{1b}[0m\n"),
        Colour::Off => format!("{level}: {message}\n"),
    }
}

fn note(out: &mut String, label: &str, text: &str, colour: Colour) {
    let text = terminal::lines(text);
    // Writing to a String cannot fail.
    let _ = match colour {
        Colour::On => writeln!(out, "\u{1b}[1m{label}\u{1b}[0m: {text}"),
        Colour::Off => writeln!(out, "{label}: {text}"),
    };
}

fn render_step(out: &mut String, step: &FailedStep, colour: Colour) {
    const RULE: &str = "------";
    let _ = writeln!(out, "{RULE}\n > {}:", terminal::one_line(&step.name));
    if step.omitted > 0 {
        let _ = writeln!(
            out,
            "({} earlier lines are not repeated here)",
            step.omitted
        );
    }
    for line in &step.lines {
        let _ = writeln!(out, "{}", terminal::line(line, colour));
    }
    let _ = writeln!(out, "{RULE}");
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    const DOCKERFILE: &str =
        "FROM busybox\nWORKDIR /src\nCOPY . .\nENV A=1\nRUN a && \\\n    b\nCMD x\n";

    fn source() -> Source {
        Source::new("Dockerfile".to_owned(), DOCKERFILE.to_owned())
    }

    #[test]
    fn a_place_is_shown_with_the_lines_around_it() {
        let at = DOCKERFILE.find("COPY").expect("there");
        let failure = Failure::new(Kind::Build, "no such file").at(source(), Span::new(at, at + 8));
        let want = "\
error: no such file
 --> Dockerfile:3:1
  |
1 | FROM busybox
2 | WORKDIR /src
3 | COPY . .
  | ^^^^^^^^
4 | ENV A=1
5 | RUN a && \\
6 |     b
  |
hint: look again
";
        let failure = failure.with_hint("look again");
        assert_eq!(failure.render(Colour::Off), want);
    }

    #[test]
    fn all_lines_of_an_instruction_are_marked() {
        let at = DOCKERFILE.find("RUN").expect("there");
        let end = DOCKERFILE.find("CMD").expect("there");
        let failure = Failure::new(Kind::Build, "exit code: 1").at(source(), Span::new(at, end));
        let want = "\
error: exit code: 1
 --> Dockerfile:5:1
  |
2 |   WORKDIR /src
3 |   COPY . .
4 |   ENV A=1
5 | / RUN a && \\
6 | |     b
  | |_____^
7 |   CMD x
  |
";
        assert_eq!(failure.render(Colour::Off), want);
    }

    #[test]
    fn causes_are_not_told_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read x: {source}")]
        struct Outer {
            source: io::Error,
        }
        let error = Outer {
            source: io::Error::other("disk on fire"),
        };
        let text = Failure::from_error(Kind::Machine, &error).render(Colour::Off);
        assert_eq!(text, "error: cannot read x: disk on fire\n");
    }

    #[test]
    fn odd_places_do_no_harm() {
        for (text, span) in [
            ("", Span::new(0, 0)),
            ("FROM a", Span::new(6, 6)),
            ("FROM a\n", Span::new(7, 7)),
            ("FROM a\n", Span::new(90, 99)),
            ("FROM \u{e9}\u{1b}[2J\u{7}\n", Span::new(5, 6)),
            ("\u{feff}FROM a\r\nRUN\tx\r\n", Span::new(8, 15)),
        ] {
            let source = Source::new("Dockerfile".to_owned(), text.to_owned());
            let report = Failure::new(Kind::Build, "wrong\u{1b}[2J").at(source, span);
            let report = report.render(Colour::Off);
            assert!(report.contains("--> Dockerfile:"), "{report}");
            assert!(!report.contains('\u{1b}'), "{report:?}");
        }
    }
}
