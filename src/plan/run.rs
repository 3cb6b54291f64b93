//! `RUN` and its mounts.

use std::path::PathBuf;

use super::{
    Mount, MountKind, Op, Origin, RunOp, Script, args, copy::check_inline_name, label,
    lower::error, paths, planner::Planner, report::Need, state::Command,
};
use crate::{
    dockerfile::{
        self, CommandLine, Instruction, Network, Run, Security,
        expand::Expander,
        mount::{self, MountType, Sharing},
        quote::quoted,
    },
    source::Diagnostic,
};

/// Where scripts of heredocs are.
const PIPES: &str = "/dev/pipes";

impl Planner<'_> {
    pub(super) fn lower_run(
        &mut self,
        at: usize,
        command: &Command<'_>,
        run: &Run,
    ) -> Result<(), Diagnostic> {
        if !run.devices.is_empty() {
            let syntax = self.options.build_args.get("BUILDKIT_SYNTAX");
            if !self.file.has_labs(syntax.map(String::as_str)) {
                return Err(error(
                    command,
                    "device feature is only supported in Dockerfile frontend 1.14.0-labs or later"
                        .to_owned(),
                )
                .with_hint("begin the file with `# syntax=docker/dockerfile:1-labs`"));
            }
        }
        let read = self.read_mounts(at, command, run)?;
        let mut scripts = Vec::new();
        let argv = match (&run.command, command.instruction.script()) {
            (CommandLine::Exec(argv), _) => argv.clone(),
            (CommandLine::Shell(line), None) => self.with_shell(at, &line.value),
            (CommandLine::Shell(_), Some(dockerfile::Script::Text(text))) => {
                self.with_shell(at, &text)
            }
            (CommandLine::Shell(_), Some(dockerfile::Script::File { content, .. }))
                if self.states[at].is_windows() =>
            {
                self.with_shell(at, &content)
            }
            (CommandLine::Shell(_), Some(dockerfile::Script::File { name, content })) => {
                check_inline_name(name).map_err(|message| error(command, message))?;
                scripts.push(Script {
                    name: name.to_owned(),
                    content,
                });
                self.with_shell(at, &format!("{PIPES}/{name}"))
            }
        };
        let mut mounts = Vec::with_capacity(read.len());
        let mut masked = Vec::new();
        for (index, mount) in read.iter().enumerate() {
            if mount.kind == MountType::Secret {
                masked.extend(mount.env.clone());
            }
            let agents = read[..index]
                .iter()
                .filter(|mount| mount.kind == MountType::Ssh)
                .count();
            mounts.push(self.mount(at, command, mount, command.sources.get(index), agents)?);
        }
        let text = self.progress_text(at, &written(&command.instruction), true, &masked);
        let state = &self.states[at];
        let created_by = format!("RUN {} # buildkit", self.run_history(at, &argv));
        // Not cleaned: what is missing of it is made as it is written.
        let workdir = paths::absolute(&state.workdir());
        let op = RunOp {
            argv,
            scripts,
            env: state.env.to_vec(),
            args: state.names_of_args(),
            proxy_env: args::proxies(&self.build_args),
            user: state.image.config.user.clone(),
            workdir: PathBuf::from(workdir),
            mounts,
            network: run
                .network
                .as_ref()
                .map(|network| network.value)
                .filter(|network| *network != Network::Default),
            insecure: run
                .security
                .as_ref()
                .is_some_and(|s| s.value == Security::Insecure),
            devices: run
                .devices
                .iter()
                .map(|device| device.value.clone())
                .collect(),
        };
        self.step(at, command, &text, created_by, Op::Run(Box::new(op)));
        Ok(())
    }

    /// `|2 A=1 B= /bin/sh -c make`: the arguments in effect and what is run.
    fn run_history(&self, at: usize, argv: &[String]) -> String {
        let state = &self.states[at];
        let mut words: Vec<(&str, String)> = Vec::new();
        for (name, value) in &state.args {
            let value = state.env.get(name).or(value.as_deref()).unwrap_or_default();
            let word = format!("{name}={value}");
            match words.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => *known = word,
                None => words.push((name, word)),
            }
        }
        let mut all = Vec::with_capacity(words.len() + argv.len() + 1);
        if !words.is_empty() {
            all.push(format!("|{}", words.len()));
        }
        all.extend(words.into_iter().map(|(_, word)| word));
        all.extend_from_slice(argv);
        all.join(" ")
    }

    fn read_mounts(
        &mut self,
        at: usize,
        command: &Command<'_>,
        run: &Run,
    ) -> Result<Vec<mount::Mount>, Diagnostic> {
        let mut mounts = Vec::with_capacity(run.mounts.len());
        for value in &run.mounts {
            let expander = Expander::new(self.file.escape());
            let mut expand = |text: &str| self.expand_reporting(at, command, text, expander);
            let mount = mount::Mount::parse(&value.value, &mut expand)
                .map_err(|e| error(command, e.to_string()))?;
            mounts.push(mount);
        }
        Ok(mounts)
    }

    fn mount(
        &mut self,
        at: usize,
        command: &Command<'_>,
        mount: &mount::Mount,
        source: Option<&usize>,
        agents: usize,
    ) -> Result<Mount, Diagnostic> {
        let from = match (&mount.from, source) {
            (Some(from), Some(&source)) => {
                if !self.states[source].is_done || source == at {
                    return Err(error(
                        command,
                        format!(
                            "cannot mount from stage {} to {}, stage needs to be defined before current command",
                            quoted(from),
                            quoted(mount.target.as_deref().unwrap_or_default())
                        ),
                    ));
                }
                Some(self.origin(source))
            }
            _ => None,
        };
        let (target, kind) = match mount.kind {
            MountType::Secret => self.secret(at, command, mount),
            MountType::Ssh => self.ssh(at, command, agents, mount)?,
            MountType::Bind => (
                Some(self.mount_target(at, command, mount)?),
                MountKind::Bind {
                    from: from.unwrap_or(Origin::Context),
                    source: mount.source.clone().unwrap_or_default(),
                    writable: !mount.readonly,
                },
            ),
            MountType::Tmpfs => (
                Some(self.mount_target(at, command, mount)?),
                MountKind::Tmpfs {
                    size: mount.size,
                    writable: !mount.readonly,
                },
            ),
            MountType::Cache => (
                Some(self.mount_target(at, command, mount)?),
                self.cache(mount, from),
            ),
        };
        Ok(Mount {
            target,
            kind,
            span: command.span,
        })
    }

    /// Where a mount goes: joined to the working directory.
    fn mount_target(
        &self,
        at: usize,
        command: &Command<'_>,
        mount: &mount::Mount,
    ) -> Result<PathBuf, Diagnostic> {
        let written = mount.target.as_deref().unwrap_or_default();
        let workdir = &self.states[at].workdir();
        let target = paths::clean(&paths::join_workdir(workdir, written));
        if target == "/" {
            let error = error(command, format!("invalid mount target {}", quoted(&target)));
            return Err(match mount.target {
                Some(_) => error,
                None => error.with_hint("target= says where the step finds it"),
            });
        }
        Ok(target.into())
    }

    fn cache(&self, mount: &mount::Mount, from: Option<Origin>) -> MountKind {
        let written = mount.target.as_deref().unwrap_or_default();
        let id = mount
            .id
            .clone()
            .unwrap_or_else(|| paths::clean_relative(written));
        let id = match self.build_args.get("BUILDKIT_CACHE_MOUNT_NS") {
            Some(namespace) => format!("{namespace}/{id}"),
            None => id,
        };
        let source = paths::clean(mount.source.as_deref().unwrap_or_default());
        // A directory of another tree has an owner and a mode already. Whoever wants others gets a new, empty one, unless the
        // directory was named.
        let is_new = source == "/";
        let is_owned = mount.mode.is_some() || mount.uid.is_some() || mount.gid.is_some();
        let from = from.filter(|_| !(is_new && is_owned));
        MountKind::Cache {
            id,
            sharing: mount.sharing.unwrap_or(Sharing::Shared),
            from,
            source: mount.source.clone().unwrap_or_default(),
            mode: if is_new {
                permissions(mount, 0o755)
            } else {
                0o755
            },
            uid: mount.uid.filter(|_| is_new).unwrap_or(0),
            gid: mount.gid.filter(|_| is_new).unwrap_or(0),
            writable: !mount.readonly,
        }
    }

    fn secret(
        &mut self,
        at: usize,
        command: &Command<'_>,
        mount: &mount::Mount,
    ) -> (Option<PathBuf>, MountKind) {
        let target = mount.target.as_deref();
        // Reading the mount has made sure that there is one of the three.
        let id = mount
            .source
            .as_deref()
            .or(mount.id.as_deref())
            .unwrap_or_else(|| paths::base_name(target.unwrap_or_default()))
            .to_owned();
        let need = Need {
            is_required: mount.required,
            span: command.span,
        };
        let secrets = &mut self.states[at].capture.secrets;
        secrets.entry(id.clone()).or_insert(need);
        let target = match (target, &mount.env) {
            (Some(target), _) => Some(target.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(format!("/run/secrets/{}", paths::base_name(&id))),
        };
        let workdir = &self.states[at].workdir();
        let target = target.map(|t| paths::clean(&paths::join_workdir(workdir, &t)));
        let env = mount.env.as_ref().map(|name| {
            if name.is_empty() {
                id.clone()
            } else {
                name.clone()
            }
        });
        let kind = MountKind::Secret {
            id,
            env,
            required: mount.required,
            mode: permissions(mount, 0o400),
            uid: mount.uid.unwrap_or(0),
            gid: mount.gid.unwrap_or(0),
        };
        (target.map(PathBuf::from), kind)
    }

    fn ssh(
        &mut self,
        at: usize,
        command: &Command<'_>,
        agents: usize,
        mount: &mount::Mount,
    ) -> Result<(Option<PathBuf>, MountKind), Diagnostic> {
        if mount.source.is_some() {
            return Err(error(command, "ssh does not support source"));
        }
        let id = mount.id.clone().unwrap_or_else(|| "default".to_owned());
        let need = Need {
            is_required: mount.required,
            span: command.span,
        };
        let ssh = &mut self.states[at].capture.ssh;
        ssh.entry(id.clone()).or_insert(need);
        let workdir = &self.states[at].workdir();
        let target = mount.target.as_ref().map_or_else(
            || PathBuf::from(format!("/run/buildkit/ssh_agent.{agents}")),
            |t| paths::clean(&paths::join_workdir(workdir, t)).into(),
        );
        let target = Some(target);
        let kind = MountKind::Ssh {
            id,
            required: mount.required,
            mode: permissions(mount, 0o600),
            uid: mount.uid.unwrap_or(0),
            gid: mount.gid.unwrap_or(0),
        };
        Ok((target, kind))
    }
}

/// The mode of a mount. Like BuildKit, it drops the bits above the permissions.
fn permissions(mount: &mount::Mount, default: u32) -> u32 {
    mount.mode.map_or(default, |mode| mode & 0o777)
}

/// The line as progress shows it, with the beginning of a lone heredoc.
fn written(instruction: &Instruction) -> String {
    let text = &instruction.text;
    let Some(heredoc) = instruction.heredocs.first() else {
        return text.clone();
    };
    let is_lone = match instruction.script() {
        Some(dockerfile::Script::Text(text)) => text == heredoc.body(),
        Some(dockerfile::Script::File { .. }) => true,
        None => false,
    };
    if is_lone {
        format!("{text} ({})", label::summary(&heredoc.content))
    } else {
        text.clone()
    }
}
