//! The instructions of a Dockerfile, typed, with every word as written: nothing is expanded here.
//!
//! A [`Word`] is the text after JSON decoding or word splitting, quotes and `$` still in it, with its place.
//! What BuildKit checks while parsing has been checked; what it checks after expansion (ports, signals, users,
//! mount options) is the planner's part, with [`super::mount`] for `RUN --mount`.

mod run;
mod transfer;

use std::time::Duration;

use serde::Serialize;

pub use self::{
    run::{Device, Network, Run, Script, Security},
    transfer::{Add, Copy, Source, Transfer},
};
use super::{Word, heredoc::announced};
use crate::source::Span;

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Instruction {
    /// From its first character to the end of its last physical line, bodies of heredocs included, without the line
    /// end. [`Span::lines`] of it are the lines that errors and warnings report.
    pub span: Span,
    /// The instruction's name as written: `RUN`, `run`.
    pub keyword: Word,
    /// The logical line: continuations joined without a line end, comments between them dropped, blanks trimmed at
    /// both ends. Heredoc bodies are not in it.
    pub text: String,
    /// The flags as written, in order, decoded; [`InstructionKind`] has them typed.
    pub flags: Vec<Flag>,
    /// The heredocs, in order, also those of an `ONBUILD RUN`.
    pub heredocs: Vec<Heredoc>,
    /// The comment lines right above, without `#` and blanks; an empty comment starts anew.
    pub comments: Vec<Word>,
    /// The last blank line within its continuation lines, which will be an error one day.
    pub empty_continuation: Option<Span>,
    /// What it says.
    pub kind: InstructionKind,
}

impl Instruction {
    /// The instruction's name in capitals.
    pub fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// The description of a stage or argument in the comments above: the first comment `NAME text`.
    pub fn description(&self, name: &str) -> Option<&str> {
        if name.is_empty() {
            return None;
        }
        self.comments
            .iter()
            .find_map(|c| c.value.strip_prefix(name)?.strip_prefix(' '))
    }

    /// What a `RUN` in shell form gives to its shell, heredocs considered. `None` for every other instruction.
    pub fn script(&self) -> Option<Script<'_>> {
        let InstructionKind::Run(Run {
            command: CommandLine::Shell(line),
            ..
        }) = &self.kind
        else {
            return None;
        };
        Some(match self.heredocs.first() {
            None => Script::Text(line.value.clone()),
            Some(_) if announced(&line.value).is_none() => {
                let mut text = line.value.clone();
                for heredoc in &self.heredocs {
                    text += "\n";
                    text += &heredoc.content;
                    text += &heredoc.name;
                }
                Script::Text(text)
            }
            Some(lone) if lone.body().starts_with("#!") => Script::File {
                name: &lone.name,
                content: lone.body(),
            },
            Some(lone) => Script::Text(lone.body()),
        })
    }
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "instruction", rename_all = "UPPERCASE")]
pub enum InstructionKind {
    /// `ADD`
    Add(Add),
    /// `ARG`
    Arg(Arg),
    /// `CMD`
    Cmd(Cmd),
    /// `COPY`
    Copy(Copy),
    /// `ENTRYPOINT`
    Entrypoint(Entrypoint),
    /// `ENV`
    Env(Env),
    /// `EXPOSE`
    Expose(Expose),
    /// `FROM`
    From(From),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `LABEL`
    Label(Label),
    /// `MAINTAINER`
    Maintainer(Maintainer),
    /// `ONBUILD`
    Onbuild(Onbuild),
    /// `RUN`
    Run(Run),
    /// `SHELL`
    Shell(Shell),
    /// `STOPSIGNAL`
    Stopsignal(Stopsignal),
    /// `USER`
    User(User),
    /// `VOLUME`
    Volume(Volume),
    /// `WORKDIR`
    Workdir(Workdir),
}

/// The names of all instructions.
pub const INSTRUCTION_NAMES: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

impl InstructionKind {
    /// The instruction's name in capitals.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::From(_) => "FROM",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::Stopsignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// A flag: `--name` or `--name=value`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flag {
    /// The name, without `--`.
    pub name: Word,
    /// What follows `=`; `None` without `=`.
    pub value: Option<Word>,
}

/// A heredoc of `RUN`, `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Heredoc {
    /// The word after `<<`, unquoted: the terminator and, in `COPY`, the file's name.
    pub name: String,
    /// The file descriptor in front of `<<`, 0 if none.
    pub fd: u32,
    /// Whether `COPY` and `ADD` expand variables in the body: no part of the word is quoted.
    pub expand: bool,
    /// Whether it is `<<-`: leading tabs do not count.
    pub chomp: bool,
    /// The lines up to the terminator as written, line ends included; not chomped.
    pub content: String,
    /// Where the body is, its terminator line included.
    pub span: Span,
}

impl Heredoc {
    /// The body as its reader gets it: leading tabs removed if it is `<<-`.
    pub fn body(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content
            .split_inclusive('\n')
            .map(|line| line.trim_start_matches('\t'))
            .collect()
    }
}

/// A command to run, of `RUN`, `CMD`, `ENTRYPOINT` and `HEALTHCHECK`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandLine {
    /// A line for the shell in effect. Empty for an instruction without arguments, which BuildKit accepts.
    Shell(Word),
    /// A program and its arguments: a JSON array, maybe empty.
    Exec(Vec<String>),
}

/// `FROM [--platform=P] IMAGE [AS NAME]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct From {
    /// `--platform`; an empty value counts as none.
    pub platform: Option<Word>,
    /// The image or stage.
    pub image: Word,
    /// `AS NAME`.
    pub alias: Option<Alias>,
}

impl From {
    /// The stage's name in lower case, as others refer to it.
    pub fn stage_name(&self) -> Option<String> {
        self.alias.as_ref().map(|a| a.name.value.to_lowercase())
    }
}

/// The `AS NAME` of a `FROM`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alias {
    /// `AS` as written.
    pub keyword: Word,
    /// The name as written; [`From::stage_name`] is the one that counts.
    pub name: Word,
}

/// `CMD`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cmd {
    /// The command.
    pub command: CommandLine,
}

/// `ENTRYPOINT`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entrypoint {
    /// The command.
    pub command: CommandLine,
}

/// `LABEL`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Label {
    /// The pairs, in order.
    pub pairs: Vec<Pair>,
    /// Whether it is written `LABEL key rest of line`.
    pub legacy: bool,
}

/// `ENV`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Env {
    /// The pairs, in order.
    pub pairs: Vec<Pair>,
    /// Whether it is written `ENV KEY rest of line`.
    pub legacy: bool,
}

/// A key and its value, both still quoted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pair {
    /// The key, not empty.
    pub key: Word,
    /// The value.
    pub value: Word,
}

/// `MAINTAINER`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Maintainer {
    /// The rest of the line; not expanded later either.
    pub name: Word,
}

/// `EXPOSE`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expose {
    /// The words, in order of writing. BuildKit sorts them by their bytes before it expands each into words.
    pub ports: Vec<Word>,
}

/// `VOLUME`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// The paths, trimmed and not empty; each is to be expanded and split into words.
    pub paths: Vec<Word>,
    /// Whether they are written as a JSON array.
    pub json: bool,
}

/// `USER`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User {
    /// The rest of the line, to be expanded.
    pub user: Word,
}

/// `WORKDIR`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Workdir {
    /// The rest of the line, to be expanded.
    pub path: Word,
}

/// `ARG`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Arg {
    /// The arguments, in order; each default sees the arguments in front of it.
    pub args: Vec<ArgDefinition>,
}

/// One argument of an `ARG`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArgDefinition {
    /// Its name, not empty; to be expanded, as BuildKit does.
    pub name: Word,
    /// Its default, to be expanded.
    pub value: Option<Word>,
}

/// `ONBUILD`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Onbuild {
    /// The instruction to come, as the image's config stores it: its logical line, and the bodies and terminators of
    /// its heredocs on lines of their own. Read it with [`super::parse_trigger`]; like BuildKit, parsing checks only
    /// its outer form when it is written, and the rest when it is triggered.
    pub trigger: Word,
}

/// `STOPSIGNAL`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stopsignal {
    /// The signal's name or number, to be expanded.
    pub signal: Word,
}

/// `HEALTHCHECK`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Healthcheck {
    /// No check, not even the base image's.
    None,
    /// A command that tells whether the container is well.
    Check(HealthCommand),
}

/// The check of a `HEALTHCHECK CMD`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthCommand {
    /// The command, not empty.
    pub command: CommandLine,
    /// `--interval`; zero is the runtime's default, here and below.
    pub interval: Duration,
    /// `--timeout`.
    pub timeout: Duration,
    /// `--start-period`.
    pub start_period: Duration,
    /// `--start-interval`.
    pub start_interval: Duration,
    /// `--retries`.
    pub retries: u32,
}

/// `SHELL`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shell {
    /// The shell and its arguments, not empty.
    pub argv: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::{super::parse, *};

    fn last(text: &str) -> Instruction {
        let mut file = parse(&format!("FROM scratch\n{text}"));
        assert_eq!(file.diagnostics, []);
        file.instructions.pop().unwrap()
    }

    #[test]
    fn scripts_come_from_heredocs() {
        let text = |script: &str| Some(Script::Text(script.to_owned()));
        assert_eq!(last("RUN a \\\n b").script(), text("a  b"));
        assert_eq!(last("RUN <<-EOF\n\ta\n\tb\n\tEOF").script(), text("a\nb\n"));
        assert_eq!(
            last("RUN sh <<A <<B\na\nA\nB").script(),
            text("sh <<A <<B\na\nA\nB")
        );
        assert_eq!(
            last("RUN --network=none <<\"x y\"\n#!/bin/y\nx y").script(),
            Some(Script::File {
                name: "x y",
                content: "#!/bin/y\n".to_owned()
            })
        );
        assert_eq!(last("RUN [\"a\"]").script(), None);
        assert_eq!(last("CMD a").script(), None);
    }

    #[test]
    fn descriptions_start_with_the_name() {
        let arg = last("# A is it\n# B is not\n# A again\nARG A B C\n");
        assert_eq!(arg.description("A"), Some("is it"));
        assert_eq!(arg.description("B"), Some("is not"));
        assert_eq!(arg.description("C"), None);
        assert_eq!(arg.description(""), None);
    }
}
