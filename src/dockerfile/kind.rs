//! The second reading: from split lines to typed instructions, one function per instruction.

mod healthcheck;
mod run;
mod transfer;

use super::{
    Alias, Arg, ArgDefinition, Cmd, CommandLine, Entrypoint, Env, Expose, From, Heredoc,
    InstructionKind, Label, Maintainer, Onbuild, Shell, Stopsignal, User, Volume, Word, Workdir,
    flags::{Flags, Takes},
    lines::Logical,
    node::{Args, Node, split_pair, unknown_instruction},
    quote::quoted,
};
use crate::source::{Diagnostic, Span};

type Parsed = Result<InstructionKind, Diagnostic>;

/// A split line that is to become an instruction.
struct Request<'a> {
    node: &'a Node,
    heredocs: &'a [Heredoc],
    logical: &'a Logical,
}

/// Types a split line.
pub(super) fn parse(node: &Node, heredocs: &[Heredoc], logical: &Logical) -> Parsed {
    let request = Request {
        node,
        heredocs,
        logical,
    };
    match node.keyword.value.to_ascii_uppercase().as_str() {
        "ADD" => request.add(),
        "ARG" => request.arg(),
        "CMD" => request.cmd(),
        "COPY" => request.copy(),
        "ENTRYPOINT" => request.entrypoint(),
        "ENV" => request.env(),
        "EXPOSE" => request.expose(),
        "FROM" => request.from(),
        "HEALTHCHECK" => request.healthcheck(),
        "LABEL" => request.label(),
        "MAINTAINER" => request.maintainer(),
        "ONBUILD" => request.onbuild(),
        "RUN" => request.run(),
        "SHELL" => request.shell(),
        "STOPSIGNAL" => request.stopsignal(),
        "USER" => request.user(),
        "VOLUME" => request.volume(),
        "WORKDIR" => request.workdir(),
        _ => Err(unknown_instruction(&node.keyword)),
    }
}

impl<'a> Request<'a> {
    fn words(&self) -> &'a [Word] {
        self.node.args.words()
    }

    fn flags(&self, known: &[(&'static str, Takes)]) -> Result<Flags<'a>, Diagnostic> {
        Flags::check(&self.node.flags, known)
    }

    /// Checks that there are no flags.
    fn no_flags(&self) -> Result<(), Diagnostic> {
        self.flags(&[]).map(drop)
    }

    /// An error about the arguments; about the whole line if there are none.
    fn error(&self, message: impl Into<String>) -> Diagnostic {
        let args = self.node.args_span;
        let span = if args.start == args.end {
            self.node.keyword.span
        } else {
            args
        };
        Diagnostic::error(message, span)
    }

    fn at_least_one(&self, name: &str) -> Result<&'a [Word], Diagnostic> {
        match self.words() {
            [] => Err(self.error(format!("{name} requires at least one argument"))),
            words => Ok(words),
        }
    }

    fn exactly_one(&self, name: &str) -> Result<Word, Diagnostic> {
        match self.words() {
            [word] => Ok(word.clone()),
            _ => Err(self.error(format!("{name} requires exactly one argument"))),
        }
    }

    fn command(&self, words: &[Word]) -> CommandLine {
        if self.node.args.is_json() {
            return CommandLine::Exec(words.iter().map(|w| w.value.clone()).collect());
        }
        CommandLine::Shell(match words {
            [line] => line.clone(),
            _ => Word::new(String::new(), self.node.args_span),
        })
    }

    fn arg(&self) -> Parsed {
        let mut args = Vec::new();
        for word in self.at_least_one("ARG")? {
            let Some((name, value)) = word.value.split_once('=') else {
                args.push(ArgDefinition {
                    name: word.clone(),
                    value: None,
                });
                continue;
            };
            if name.is_empty() {
                return Err(blank_name("ARG", word.span));
            }
            let pair = split_pair(word, name, value);
            args.push(ArgDefinition {
                name: pair.key,
                value: Some(pair.value),
            });
        }
        Ok(InstructionKind::Arg(Arg { args }))
    }

    fn cmd(&self) -> Parsed {
        self.no_flags()?;
        let command = self.command(self.words());
        Ok(InstructionKind::Cmd(Cmd { command }))
    }

    fn entrypoint(&self) -> Parsed {
        self.no_flags()?;
        let command = self.command(self.words());
        Ok(InstructionKind::Entrypoint(Entrypoint { command }))
    }

    fn pairs(&self, name: &str) -> Result<(Vec<super::Pair>, bool), Diagnostic> {
        self.no_flags()?;
        let Args::Pairs { pairs, legacy } = &self.node.args else {
            return Err(self.error(format!("{name} requires at least one argument")));
        };
        match pairs.iter().find(|p| p.key.value.is_empty()) {
            Some(pair) => Err(blank_name(name, pair.key.span.to(pair.value.span))),
            None => Ok((pairs.clone(), *legacy)),
        }
    }

    fn env(&self) -> Parsed {
        let (pairs, legacy) = self.pairs("ENV")?;
        Ok(InstructionKind::Env(Env { pairs, legacy }))
    }

    fn label(&self) -> Parsed {
        let (pairs, legacy) = self.pairs("LABEL")?;
        Ok(InstructionKind::Label(Label { pairs, legacy }))
    }

    fn expose(&self) -> Parsed {
        let ports = self.at_least_one("EXPOSE")?.to_vec();
        self.no_flags()?;
        Ok(InstructionKind::Expose(Expose { ports }))
    }

    fn from(&self) -> Parsed {
        let alias = match self.words() {
            [_] => None,
            [_, keyword, name] if keyword.value.eq_ignore_ascii_case("as") => {
                if !is_stage_name(&name.value.to_lowercase()) {
                    return Err(Diagnostic::error(
                        format!(
                            "invalid name for build stage: {}, name can't start with a number or contain symbols",
                            quoted(&name.value)
                        ),
                        name.span,
                    ));
                }
                Some(Alias {
                    keyword: keyword.clone(),
                    name: name.clone(),
                })
            }
            _ => return Err(self.error("FROM requires either one or three arguments")),
        };
        let flags = self.flags(&[("platform", Takes::Value)])?;
        Ok(InstructionKind::From(From {
            platform: flags.value_not_empty("platform"),
            image: self.words()[0].clone(),
            alias,
        }))
    }

    fn maintainer(&self) -> Parsed {
        let name = self.exactly_one("MAINTAINER")?;
        self.no_flags()?;
        Ok(InstructionKind::Maintainer(Maintainer { name }))
    }

    fn onbuild(&self) -> Parsed {
        let Args::Instruction(inner) = &self.node.args else {
            return Err(self.error("ONBUILD requires at least one argument"));
        };
        self.no_flags()?;
        let name = inner.keyword.value.to_uppercase();
        match name.as_str() {
            "ONBUILD" => {
                return Err(Diagnostic::error(
                    "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
                    inner.keyword.span,
                ));
            }
            "MAINTAINER" | "FROM" => {
                return Err(Diagnostic::error(
                    format!("{name} isn't allowed as an ONBUILD trigger"),
                    inner.keyword.span,
                ));
            }
            _ => {}
        }
        let text = self.logical.text.trim_start();
        let trigger = text[self.node.keyword.value.len()..].trim_start();
        let start = self.logical.text.len() - trigger.len();
        let mut trigger = self.logical.slice(start, self.logical.text.len());
        for heredoc in self.heredocs {
            trigger.value += "\n";
            trigger.value += &heredoc.content;
            trigger.value += &heredoc.name;
            trigger.span = trigger.span.to(heredoc.span);
        }
        Ok(InstructionKind::Onbuild(Onbuild { trigger }))
    }

    fn shell(&self) -> Parsed {
        self.no_flags()?;
        let words = self.at_least_one("SHELL")?;
        match self.command(words) {
            CommandLine::Exec(argv) => Ok(InstructionKind::Shell(Shell { argv })),
            CommandLine::Shell(_) => {
                Err(self.error("SHELL requires the arguments to be in JSON form"))
            }
        }
    }

    fn stopsignal(&self) -> Parsed {
        let signal = self.exactly_one("STOPSIGNAL")?;
        Ok(InstructionKind::Stopsignal(Stopsignal { signal }))
    }

    fn user(&self) -> Parsed {
        let user = self.exactly_one("USER")?;
        self.no_flags()?;
        Ok(InstructionKind::User(User { user }))
    }

    fn volume(&self) -> Parsed {
        let words = self.at_least_one("VOLUME")?;
        self.no_flags()?;
        let mut paths = Vec::with_capacity(words.len());
        for word in words {
            let path = word.value.trim();
            if path.is_empty() {
                return Err(Diagnostic::error(
                    "VOLUME specified can not be an empty string",
                    word.span,
                ));
            }
            paths.push(Word::new(path.to_owned(), word.span));
        }
        let json = self.node.args.is_json();
        Ok(InstructionKind::Volume(Volume { paths, json }))
    }

    fn workdir(&self) -> Parsed {
        let path = self.exactly_one("WORKDIR")?;
        self.no_flags()?;
        Ok(InstructionKind::Workdir(Workdir { path }))
    }
}

fn blank_name(instruction: &str, span: Span) -> Diagnostic {
    Diagnostic::error(format!("{instruction} names can not be blank"), span)
}

fn is_stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.')
        })
}
