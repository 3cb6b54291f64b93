//! One instruction after the other: what each does to the image and which step it makes.

use super::{
    Op, Step, WorkdirOp,
    args::{self, ArgInfo, NOT_IN_ENV},
    env, history, paths,
    planner::Planner,
    ports, signal,
    state::{Command, Numbered},
};
use crate::{
    dockerfile::{
        Arg, CommandLine, Healthcheck, InstructionKind, Pair, Word, expand::Expander,
        lint::Warning, quote::quoted_list,
    },
    oci,
    source::Diagnostic,
};

/// What shell-form instructions run in unless `SHELL` says otherwise.
const DEFAULT_SHELL: &[&str] = &["/bin/sh", "-c"];
const WINDOWS_SHELL: &[&str] = &["cmd", "/S", "/C"];

impl Planner<'_> {
    /// Works off the instructions of a stage. What it starts from has been worked off.
    pub(super) fn lower(&mut self, at: usize) -> Result<(), Diagnostic> {
        self.inherit(at);
        let state = &mut self.states[at];
        state.is_done = true;
        if state.platform.is_none() {
            state.platform = Some(self.options.platform.clone());
        }
        state.image.add_default_path();
        if !state.env.ends_with(&state.image.config.env) {
            for variable in &state.image.config.env {
                let (name, value) = env::split(variable);
                state.env.set(name, value);
            }
        }
        let workdir = state.workdir();
        if !workdir.is_empty() {
            state.set_workdir(&paths::join_workdir(&workdir, &workdir));
        }
        let commands = std::mem::take(&mut self.states[at].commands);
        let result = commands.iter().try_for_each(|command| {
            let Err(error) = self.lower_command(at, command) else {
                return Ok(());
            };
            self.excuse(error)?;
            let created_by = command.instruction.text.clone();
            self.note(at, command, created_by);
            Ok(())
        });
        self.states[at].commands = commands;
        result
    }

    fn lower_command(&mut self, at: usize, command: &Command<'_>) -> Result<(), Diagnostic> {
        match &command.instruction.kind {
            InstructionKind::Maintainer(maintainer) => {
                let name = &maintainer.name.value;
                self.states[at].image.author = Some(name.clone()).filter(|name| !name.is_empty());
                self.note(at, command, format!("MAINTAINER {name}"));
            }
            InstructionKind::Env(env) => {
                self.report_legacy(command, env.legacy);
                self.lower_env(at, command, &env.pairs)?;
            }
            InstructionKind::Label(label) => {
                self.report_legacy(command, label.legacy);
                self.lower_label(at, command, &label.pairs)?;
            }
            InstructionKind::Arg(arg) => self.lower_arg(at, command, arg)?,
            InstructionKind::Run(run) => self.lower_run(at, command, run)?,
            InstructionKind::Copy(copy) => self.lower_copy(at, command, copy)?,
            InstructionKind::Add(add) => self.lower_add(at, command, add)?,
            InstructionKind::Workdir(w) => self.lower_workdir(at, command, &w.path)?,
            InstructionKind::Onbuild(onbuild) => {
                let config = &mut self.states[at].image.config;
                config.on_build.push(onbuild.trigger.value.clone());
            }
            InstructionKind::Cmd(cmd) => {
                self.see_once(at, command);
                let argv = self.command_argv(at, command, &cmd.command);
                self.note(at, command, format!("CMD {}", quoted_list(&argv)));
                let config = &mut self.states[at].image.config;
                config.cmd = Some(argv).filter(|argv| !argv.is_empty());
                config.args_escaped = true;
            }
            InstructionKind::Entrypoint(entrypoint) => {
                self.see_once(at, command);
                let argv = self.command_argv(at, command, &entrypoint.command);
                self.note(at, command, format!("ENTRYPOINT {}", quoted_list(&argv)));
                let state = &mut self.states[at];
                state.image.config.entrypoint = Some(argv).filter(|argv| !argv.is_empty());
                // A CMD of the base is meant for the base's entrypoint.
                if !state.seen.contains_key("CMD") {
                    state.image.config.cmd = None;
                }
            }
            InstructionKind::Healthcheck(check) => {
                self.see_once(at, command);
                let check = healthcheck(check);
                self.note(
                    at,
                    command,
                    format!("HEALTHCHECK {}", history::healthcheck(&check)),
                );
                self.states[at].image.config.healthcheck = Some(check);
            }
            InstructionKind::Expose(expose) => self.lower_expose(at, command, &expose.ports)?,
            InstructionKind::User(user) => {
                let user = self.expand(at, command, &user.user)?;
                self.note(at, command, format!("USER {user}"));
                self.states[at].image.config.user = user;
            }
            InstructionKind::Volume(volume) => {
                let mut paths = Vec::with_capacity(volume.paths.len());
                for path in &volume.paths {
                    let path = self.expand(at, command, path)?;
                    if path.is_empty() {
                        return Err(error(
                            command,
                            "VOLUME specified can not be an empty string",
                        ));
                    }
                    paths.push(path);
                }
                self.note(
                    at,
                    command,
                    format!("VOLUME {}", history::plain_list(&paths)),
                );
                let volumes = &mut self.states[at].image.config.volumes;
                for path in paths {
                    volumes.entry(path).or_default();
                }
            }
            InstructionKind::Stopsignal(stop) => {
                let signal = self.expand(at, command, &stop.signal)?;
                if !signal::is_signal(&signal) {
                    return Err(error(command, format!("invalid signal: {signal}")));
                }
                self.note(at, command, format!("STOPSIGNAL {signal}"));
                self.states[at].image.config.stop_signal = signal;
            }
            InstructionKind::Shell(shell) => {
                self.note(
                    at,
                    command,
                    format!("SHELL {}", history::plain_list(&shell.argv)),
                );
                self.states[at].image.config.shell.clone_from(&shell.argv);
            }
            // Stages have been cut at each FROM.
            InstructionKind::From(_) => {}
        }
        Ok(())
    }

    /// Reports `ENV KEY VALUE`, a form that has one pair.
    fn report_legacy(&mut self, command: &Command<'_>, is_legacy: bool) {
        if is_legacy {
            let keyword = &command.instruction.keyword.value;
            let warning = Warning::legacy_key_value_format(keyword, command.span);
            self.report(command, warning);
        }
    }

    fn lower_env(
        &mut self,
        at: usize,
        command: &Command<'_>,
        pairs: &[Pair],
    ) -> Result<(), Diagnostic> {
        // All of them see the variables as they were before this line.
        let pairs = self.expand_pairs(at, command, pairs)?;
        let mut created_by = vec!["ENV".to_owned()];
        for (name, value) in &pairs {
            self.report_secret("ENV", name, command);
            created_by.push(format!("{name}={value}"));
            let state = &mut self.states[at];
            state.env.set(name, value);
            let image = &mut state.image;
            image.config_env.set(&mut image.config.env, name, value);
        }
        self.note(at, command, created_by.join(" "));
        Ok(())
    }

    fn lower_label(
        &mut self,
        at: usize,
        command: &Command<'_>,
        pairs: &[Pair],
    ) -> Result<(), Diagnostic> {
        let pairs = self.expand_pairs(at, command, pairs)?;
        let mut created_by = vec!["LABEL".to_owned()];
        for (key, value) in pairs {
            created_by.push(format!("{key}={value}"));
            self.states[at].image.config.labels.insert(key, value);
        }
        self.note(at, command, created_by.join(" "));
        Ok(())
    }

    fn lower_arg(&mut self, at: usize, command: &Command<'_>, arg: &Arg) -> Result<(), Diagnostic> {
        let mut created_by = vec!["ARG".to_owned()];
        for definition in &arg.args {
            let name = &definition.name.value;
            self.report_secret("ARG", name, command);
            let mut is_inherited = false;
            let value = if let Some(given) = self.build_args.get(name) {
                Some(given.clone())
            } else if let Some(default) = &definition.value {
                Some(self.expand(at, command, default)?)
            } else {
                let global = self.globals.env.get(name).map(ToOwned::to_owned);
                is_inherited = global.is_some();
                global
            };
            created_by.push(match &value {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            });
            let state = &mut self.states[at];
            if let Some(value) = &value
                && !NOT_IN_ENV.contains(&name.as_str())
            {
                state.env.set(name, value);
            }
            if !is_inherited {
                let description = command.instruction.description(name);
                let info = ArgInfo {
                    value: value.clone().unwrap_or_default(),
                    description: description.map(ToOwned::to_owned),
                    span: command.span,
                    ..ArgInfo::default()
                };
                state.capture.all.insert(name.clone(), info);
            }
            state.capture.used.insert(name.clone());
            state.args.push((name.clone(), value));
        }
        self.note(at, command, created_by.join(" "));
        Ok(())
    }

    fn lower_workdir(
        &mut self,
        at: usize,
        command: &Command<'_>,
        path: &Word,
    ) -> Result<(), Diagnostic> {
        let written = self.expand(at, command, path)?;
        let path = self.states[at]
            .path(written.clone())
            .map_err(|message| error(command, message))?;
        if !self.states[at].has_workdir && !path.starts_with('/') {
            self.report(
                command,
                Warning::workdir_relative_path(&written, command.span),
            );
        }
        let state = &mut self.states[at];
        state.has_workdir = true;
        let path = paths::join_workdir(&state.workdir(), &path);
        state.set_workdir(&path);
        let created_by = format!("WORKDIR {path}");
        if path == "/" {
            self.note(at, command, created_by);
            return Ok(());
        }
        let user = state.image.config.user.clone();
        let time = self.epoch;
        let text = self.progress_text(at, &command.instruction.text, false, &[]);
        self.step(
            at,
            command,
            &text,
            created_by,
            Op::Workdir(WorkdirOp { path, user, time }),
        );
        Ok(())
    }

    fn lower_expose(
        &mut self,
        at: usize,
        command: &Command<'_>,
        words: &[Word],
    ) -> Result<(), Diagnostic> {
        let mut written: Vec<&str> = words.iter().map(|word| word.value.as_str()).collect();
        written.sort_unstable();
        let mut words = Vec::new();
        for word in written {
            // BuildKit does not look for undefined variables here.
            let expansion = self
                .expand_with(at, word, Expander::new(self.file.escape()))
                .map_err(|e| error(command, e.to_string()))?;
            words.extend(expansion.words);
        }
        let mut exposed = Vec::new();
        for word in &words {
            let ports = ports::split(word).map_err(|message| error(command, message))?;
            if ports.has_odd_casing() {
                self.report(command, Warning::expose_proto_casing(word, command.span));
            }
            if ports.has_host() {
                self.report(command, Warning::expose_invalid_format(word, command.span));
            }
            exposed.extend(ports.names().map_err(|message| error(command, message))?);
        }
        self.note(
            at,
            command,
            format!("EXPOSE {}", history::plain_list(&exposed)),
        );
        let ports = &mut self.states[at].image.config.exposed_ports;
        for port in exposed {
            ports.entry(port).or_default();
        }
        Ok(())
    }

    /// The argv of a command; a shell line goes to the shell in effect.
    fn command_argv(
        &mut self,
        at: usize,
        command: &Command<'_>,
        line: &CommandLine,
    ) -> Vec<String> {
        match line {
            CommandLine::Exec(argv) => argv.clone(),
            CommandLine::Shell(line) => {
                if self.states[at].image.config.shell.is_empty() {
                    let keyword = &command.instruction.keyword.value;
                    self.report(
                        command,
                        Warning::json_args_recommended(keyword, command.span),
                    );
                }
                self.with_shell(at, &line.value)
            }
        }
    }

    /// The shell in effect and a line for it.
    pub(super) fn with_shell(&self, at: usize, line: &str) -> Vec<String> {
        let image = &self.states[at].image;
        let default = if paths::is_windows(&image.platform) {
            WINDOWS_SHELL
        } else {
            DEFAULT_SHELL
        };
        let mut argv = image.config.shell.clone();
        if argv.is_empty() {
            argv.extend(default.iter().map(|&word| word.to_owned()));
        }
        argv.push(line.to_owned());
        argv
    }

    /// Reports the former one of two instructions of which a stage should have one.
    fn see_once(&mut self, at: usize, command: &Command<'_>) {
        let name = command.instruction.name();
        if let Some(before) = self.states[at].seen.insert(name, command.span) {
            let keyword = &command.instruction.keyword.value;
            let warning = Warning::multiple_instructions_disallowed(keyword, before);
            self.report(command, warning);
        }
    }

    fn report_secret(&mut self, instruction: &str, name: &str, command: &Command<'_>) {
        if args::sounds_secret(name) {
            let warning = Warning::secrets_used_in_arg_or_env(instruction, name, command.span);
            self.report(command, warning);
        }
    }

    pub(super) fn report(&mut self, command: &Command<'_>, warning: Warning) {
        self.linter.report(Some(&command.instruction), warning);
    }

    /// Adds a step that changes the config alone.
    fn note(&mut self, at: usize, command: &Command<'_>, created_by: String) {
        let text = trigger_text(command, &command.instruction.text);
        self.states[at].steps.push(Step {
            number: None,
            span: command.span,
            label: text.clone(),
            text,
            created_by,
            op: Op::Config,
        });
    }

    /// Adds a step that makes a layer.
    pub(super) fn step(
        &mut self,
        at: usize,
        command: &Command<'_>,
        text: &str,
        created_by: String,
        op: Op,
    ) {
        let text = trigger_text(command, text);
        let state = &mut self.states[at];
        let Numbered { number, label } = state.label(&text, self.shows_platform);
        state.steps.push(Step {
            number,
            span: command.span,
            text,
            label,
            created_by,
            op,
        });
    }
}

fn trigger_text(command: &Command<'_>, text: &str) -> String {
    if command.is_trigger {
        format!("ONBUILD {text}")
    } else {
        text.to_owned()
    }
}

/// An error about an instruction.
pub(super) fn error(command: &Command<'_>, message: impl Into<String>) -> Diagnostic {
    Diagnostic::error(message, command.span)
}

fn healthcheck(check: &Healthcheck) -> oci::Healthcheck {
    let check = match check {
        Healthcheck::None => {
            return oci::Healthcheck {
                test: vec!["NONE".to_owned()],
                ..oci::Healthcheck::default()
            };
        }
        Healthcheck::Check(check) => check,
    };
    let test = match &check.command {
        CommandLine::Shell(line) => vec!["CMD-SHELL".to_owned(), line.value.clone()],
        CommandLine::Exec(argv) => {
            let mut test = vec!["CMD".to_owned()];
            test.extend_from_slice(argv);
            test
        }
    };
    let nanoseconds = |d: std::time::Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    oci::Healthcheck {
        test,
        interval: nanoseconds(check.interval),
        timeout: nanoseconds(check.timeout),
        start_period: nanoseconds(check.start_period),
        start_interval: nanoseconds(check.start_interval),
        retries: i64::from(check.retries),
    }
}
