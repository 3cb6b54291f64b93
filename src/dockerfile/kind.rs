//! The second reading: from split lines to typed instructions, one function per instruction.

use std::time::Duration;

use super::{
    Add, Alias, Arg, ArgDefinition, Cmd, CommandLine, Copy, Entrypoint, Env, Expose, From,
    HealthCommand, Healthcheck, Heredoc, InstructionKind, Label, Maintainer, Network, Onbuild, Run,
    Security, Shell, Source, Spanned, Stopsignal, Transfer, User, Volume, Word, Workdir,
    flags::{Flags, Takes, flag_span},
    heredoc::announced,
    lines::Logical,
    mount::{check_unexpanded, parse_device},
    node::{Args, Node, split_pair, unknown_instruction},
    quote::quoted,
    scalar::parse_duration,
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

    fn transfer(&self, name: &str, flags: &Flags<'_>) -> Result<Transfer, Diagnostic> {
        let [sources @ .., dest] = self.words() else {
            return Err(self.no_destination(name));
        };
        if announced(&dest.value).is_some() {
            return Err(Diagnostic::error(
                format!("{name} cannot accept a heredoc as a destination"),
                dest.span,
            ));
        }
        let source = |word: &Word| match announced(&word.value) {
            None => Source::Path(word.clone()),
            // Of several heredocs of one name, the last one's body counts.
            Some(head) => {
                let read = self.heredocs.iter().rfind(|h| h.name == head.name);
                Source::Heredoc(Heredoc {
                    content: read.map(|h| h.content.clone()).unwrap_or_default(),
                    span: read.map_or(word.span, |h| h.span),
                    ..head
                })
            }
        };
        Ok(Transfer {
            sources: sources.iter().map(source).collect(),
            dest: dest.clone(),
            json: self.node.args.is_json(),
            chown: flags.value_not_empty("chown"),
            chmod: flags.value_not_empty("chmod"),
            link: flags.switch("link") == Some(true),
            exclude: flags.values("exclude"),
        })
    }

    fn no_destination(&self, name: &str) -> Diagnostic {
        self.error(format!(
            "{name} requires at least two arguments, but only one was provided. Destination could not be determined"
        ))
    }

    fn add(&self) -> Parsed {
        if self.words().len() < 2 {
            return Err(self.no_destination("ADD"));
        }
        let flags = self.flags(&[
            ("chown", Takes::Value),
            ("chmod", Takes::Value),
            ("link", Takes::Switch),
            ("keep-git-dir", Takes::Switch),
            ("checksum", Takes::Value),
            ("unpack", Takes::Switch),
            ("exclude", Takes::Values),
        ])?;
        Ok(InstructionKind::Add(Add {
            transfer: self.transfer("ADD", &flags)?,
            checksum: flags.value_not_empty("checksum"),
            keep_git_dir: flags.switch("keep-git-dir"),
            unpack: flags.switch("unpack"),
        }))
    }

    fn copy(&self) -> Parsed {
        if self.words().len() < 2 {
            return Err(self.no_destination("COPY"));
        }
        let flags = self.flags(&[
            ("chown", Takes::Value),
            ("from", Takes::Value),
            ("chmod", Takes::Value),
            ("link", Takes::Switch),
            ("exclude", Takes::Values),
            ("parents", Takes::Switch),
        ])?;
        Ok(InstructionKind::Copy(Copy {
            transfer: self.transfer("COPY", &flags)?,
            from: flags.value_not_empty("from"),
            parents: flags.switch("parents") == Some(true),
        }))
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

    fn healthcheck(&self) -> Parsed {
        let [kind, args @ ..] = self.at_least_one("HEALTHCHECK")? else {
            return Err(self.error("HEALTHCHECK requires at least one argument"));
        };
        let name = kind.value.to_uppercase();
        if name == "NONE" {
            return match args {
                [] => Ok(InstructionKind::Healthcheck(Healthcheck::None)),
                _ => Err(self.error("HEALTHCHECK NONE takes no arguments")),
            };
        }
        let flags = self.flags(&[
            ("interval", Takes::Value),
            ("timeout", Takes::Value),
            ("start-period", Takes::Value),
            ("start-interval", Takes::Value),
            ("retries", Takes::Value),
        ])?;
        if name != "CMD" {
            return Err(Diagnostic::error(
                format!("Unknown type {} in HEALTHCHECK (try CMD)", quoted(&name)),
                kind.span,
            ));
        }
        if args.is_empty() {
            return Err(self.error("Missing command after HEALTHCHECK CMD"));
        }
        let duration = |name: &str| self.duration(&flags, name);
        Ok(InstructionKind::Healthcheck(Healthcheck::Check(
            HealthCommand {
                command: self.command(args),
                interval: duration("interval")?,
                timeout: duration("timeout")?,
                start_period: duration("start-period")?,
                start_interval: duration("start-interval")?,
                retries: retries(&flags)?,
            },
        )))
    }

    fn duration(&self, flags: &Flags<'_>, name: &str) -> Result<Duration, Diagnostic> {
        let Some(value) = flags.value_not_empty(name) else {
            return Ok(Duration::ZERO);
        };
        let span = self.flag_span(name, value.span);
        let duration = parse_duration(&value.value).map_err(|m| Diagnostic::error(m, span))?;
        match duration {
            Some(d) if d.is_zero() || d >= Duration::from_millis(1) => Ok(d),
            _ => Err(Diagnostic::error(
                format!("Interval {} cannot be less than 1ms", quoted(name)),
                span,
            )),
        }
    }

    fn flag_span(&self, name: &str, otherwise: Span) -> Span {
        let flag = self.node.flags.iter().find(|f| f.name.value == name);
        flag.map_or(otherwise, flag_span)
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

    fn run(&self) -> Parsed {
        let flags = self.flags(&[
            ("mount", Takes::Values),
            ("network", Takes::Value),
            ("security", Takes::Value),
            ("device", Takes::Values),
        ])?;
        let mounts = flags.values("mount");
        for mount in &mounts {
            check_unexpanded(&mount.value)
                .map_err(|e| Diagnostic::error(e.to_string(), mount.span))?;
        }
        let network = flags.value("network").map(|value| {
            let network = match value.value.as_str() {
                "default" => Network::Default,
                "none" => Network::None,
                "host" => Network::Host,
                _ => {
                    let message = format!("invalid network mode {}", quoted(&value.value));
                    return Err(Diagnostic::error(message, value.span));
                }
            };
            Ok(Spanned::new(network, value.span))
        });
        let security = flags.value("security").map(|value| {
            let security = match value.value.as_str() {
                "sandbox" => Security::Sandbox,
                "insecure" => Security::Insecure,
                _ => {
                    let message = format!("security {} is not valid", quoted(&value.value));
                    return Err(Diagnostic::error(message, value.span));
                }
            };
            Ok(Spanned::new(security, value.span))
        });
        let devices =
            flags
                .values("device")
                .into_iter()
                .map(|value| match parse_device(&value.value) {
                    Ok(device) => Ok(Spanned::new(device, value.span)),
                    Err(error) => Err(Diagnostic::error(error.to_string(), value.span)),
                });
        Ok(InstructionKind::Run(Run {
            command: self.command(self.words()),
            mounts,
            network: network.transpose()?,
            security: security.transpose()?,
            devices: devices.collect::<Result<_, _>>()?,
        }))
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

/// The value of a `HEALTHCHECK --retries`.
fn retries(flags: &Flags<'_>) -> Result<u32, Diagnostic> {
    let Some(value) = flags.value_not_empty("retries") else {
        return Ok(0);
    };
    let text = value.value.as_str();
    match text.parse::<i32>() {
        Ok(retries) => u32::try_from(retries).map_err(|_negative| {
            Diagnostic::error(
                format!("--retries cannot be negative ({retries})"),
                value.span,
            )
        }),
        Err(error) => {
            let reason = match error.kind() {
                std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
                    "value out of range"
                }
                _ => "invalid syntax",
            };
            Err(Diagnostic::error(
                format!("strconv.ParseInt: parsing {}: {reason}", quoted(text)),
                value.span,
            ))
        }
    }
}
