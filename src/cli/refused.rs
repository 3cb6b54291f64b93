//! Options of Docker, kaniko and buildah that rbuild does not have, or not yet. Each is refused by name, and with what stands for
//! it here: an option that is silently dropped gives another result than the one asked for.
//!
//! Options that ask for what is so anyway (`--rm`, `--squash=false`) are taken and do nothing.

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::other_builders;

/// An option, when it is fine all the same, and what to say when it is not.
pub(super) struct Refusal {
    /// What it is among the options of a build; it differs from the name where a positional argument has that.
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    pub(super) short: Option<char>,
    /// A switch may stand alone and is then `true`.
    pub(super) switch: bool,
    /// The values that ask for what is so anyway.
    pub(super) fine: fn(&str) -> bool,
    pub(super) reason: &'static str,
}

pub(super) const fn valued(name: &'static str, reason: &'static str) -> Refusal {
    Refusal {
        id: name,
        name,
        short: None,
        switch: false,
        fine: |_| false,
        reason,
    }
}

pub(super) const fn switch(
    name: &'static str,
    fine: fn(&str) -> bool,
    reason: &'static str,
) -> Refusal {
    Refusal {
        id: name,
        name,
        short: None,
        switch: true,
        fine,
        reason,
    }
}

pub(super) fn off(value: &str) -> bool {
    matches!(value, "false" | "0")
}

pub(super) fn on(value: &str) -> bool {
    matches!(value, "true" | "1")
}

pub(super) fn any(_: &str) -> bool {
    true
}

const LIMITS: &str =
    "limits of memory and CPU are not supported; set them on the process that runs rbuild";
const NO_BUILDER: &str = "there is no builder to choose; rbuild builds by itself";

const OPTIONS: &[Refusal] = &[
    valued("builder", NO_BUILDER),
    valued("policy", "source policies are not supported"),
    valued(
        "cgroup-parent",
        "steps run in the control group of rbuild itself",
    ),
    valued("resource", LIMITS),
    Refusal {
        short: Some('m'),
        ..valued("memory", LIMITS)
    },
    valued("memory-swap", LIMITS),
    Refusal {
        short: Some('c'),
        ..valued("cpu-shares", LIMITS)
    },
    valued("cpu-period", LIMITS),
    valued("cpu-quota", LIMITS),
    valued("cpuset-cpus", LIMITS),
    valued("cpuset-mems", LIMITS),
    valued(
        "security-opt",
        "steps run with Docker's default profile; `RUN --security` and `--allow` change that",
    ),
    switch(
        "squash",
        off,
        "layers are not squashed; build in one stage and `COPY --from` it into another",
    ),
    valued("print", "use `--call outline` or `--call targets`"),
    Refusal {
        short: Some('D'),
        ..switch(
            "debug",
            off,
            "there is no debug mode; `--progress plain` shows everything",
        )
    },
    valued(
        "invoke",
        "a failed step cannot be entered; `rbuild run` starts a program of an image",
    ),
    valued("on", "a failed step cannot be entered"),
    switch("detach", off, "a build ends with the program"),
    valued("server-config", NO_BUILDER),
    switch("stream", any, ""),
    switch("rm", on, "nothing of a step is ever kept"),
    switch("force-rm", any, ""),
    switch("compress", any, ""),
    switch(
        "disable-content-trust",
        on,
        "signatures of images are not looked at",
    ),
];

fn all() -> impl Iterator<Item = &'static Refusal> {
    OPTIONS.iter().chain(other_builders::OPTIONS)
}

/// Takes tips that help nobody out of an error about an unknown option: to give one of those instead, or to name the context so.
pub(super) fn drop_tips(error: &mut clap::Error) {
    if error.kind() != ErrorKind::UnknownArgument {
        return;
    }
    error.remove(ContextKind::Suggested);
    if let Some(ContextValue::String(near)) = error.get(ContextKind::SuggestedArg)
        && all().any(|option| option.name == near.trim_start_matches('-'))
    {
        error.remove(ContextKind::SuggestedArg);
    }
}

/// Stands for all of them among the options of a build; reading it refuses what was given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused;

impl Args for Refused {
    fn augment_args(command: Command) -> Command {
        all().fold(command, |command, option| {
            let mut arg = Arg::new(option.id)
                .long(option.name)
                .action(ArgAction::Append)
                .value_name("VALUE")
                .hide(true);
            if let Some(short) = option.short {
                arg = arg.short(short);
            }
            if option.switch {
                arg = arg
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true");
            }
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Refused {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let refused: Vec<String> = all()
            .filter_map(|option| {
                let mut values = matches.get_many::<String>(option.id)?;
                let value = values.find(|value| !(option.fine)(value))?;
                let shown = match (option.switch, value.as_str()) {
                    (true, "true") => String::new(),
                    _ => format!("={value}"),
                };
                let (name, reason) = (option.name, option.reason);
                Some(format!("--{name}{shown} is refused: {reason}"))
            })
            .collect();
        if !refused.is_empty() {
            return Err(clap::Error::raw(
                ErrorKind::InvalidValue,
                refused.join("\n"),
            ));
        }
        Ok(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        Self::from_arg_matches(matches).map(|_| ())
    }
}
