//! A stage while it is planned.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
};

use super::{
    Base, ImageSource, NamedContext, Step,
    env::{ConfigEnv, Env},
    label::Prefix,
    paths,
    report::Capture,
    scan::Scanned,
};
use crate::{
    dockerfile::{Instruction, InstructionKind},
    oci::{Config, ConfigFile, Platform},
    source::Span,
};

/// The name of the empty base.
pub(super) const SCRATCH: &str = "scratch";

/// A named context that stands in for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContextRef {
    /// Its key in the options.
    pub(super) key: String,
    /// What it is.
    pub(super) kind: NamedContext,
}

/// An instruction of a stage, or a trigger that its base has.
#[derive(Debug, Clone)]
pub(super) struct Command<'a> {
    pub(super) instruction: Cow<'a, Instruction>,
    /// Where to point; for a trigger, the `FROM` line.
    pub(super) span: Span,
    /// The states it reads: that of `COPY --from`, and one for each mount of a `RUN`.
    pub(super) sources: Vec<usize>,
    /// Whether it is a trigger.
    pub(super) is_trigger: bool,
}

/// A stage of the file, or an image that `COPY --from` or a mount names without a stage of its own.
#[derive(Debug)]
pub(super) struct State<'a> {
    /// The base as written.
    pub(super) written: String,
    /// The base, expanded.
    pub(super) base_name: String,
    /// `AS name`, in lower case.
    pub(super) alias: Option<String>,
    /// Its name in progress.
    pub(super) title: String,
    /// Its description in the comments.
    pub(super) description: Option<String>,
    /// The `FROM` line, or the line that names the image.
    pub(super) span: Span,
    /// The `FROM` instruction; none for a bare image.
    pub(super) from: Option<&'a Instruction>,
    /// `--platform`, later the platform in effect.
    pub(super) platform: Option<Platform>,
    /// The named context that replaces the whole stage.
    pub(super) replaced_by: Option<ContextRef>,
    /// The stage it starts from.
    pub(super) base: Option<usize>,
    /// The states its instructions read, each with the last line that does.
    pub(super) deps: Vec<(usize, Span)>,
    pub(super) commands: Vec<Command<'a>>,
    /// Steps that progress counts, and how many have been numbered.
    pub(super) n_steps: usize,
    pub(super) n_numbered: usize,
    /// What it starts from, once known.
    pub(super) origin: Option<Base>,
    /// Whether the triggers of its base have been read.
    pub(super) has_triggers: bool,
    /// Whether its result can be read by later instructions.
    pub(super) is_done: bool,

    /// The image as it grows.
    pub(super) image: ImageState,
    /// What is in effect for the next instruction.
    pub(super) env: Env,
    /// `ARG`s in effect, in order, inherited ones in front.
    pub(super) args: Vec<(String, Option<String>)>,
    /// How many stages have still to take over what this one has come to.
    pub(super) n_heirs: usize,
    /// What its arguments say of its being looked at, once it is done.
    pub(super) scanned: Option<Scanned>,
    /// Whether the file, and not just a base image, has set a working directory.
    pub(super) has_workdir: bool,
    /// The lines of the last `CMD`, `ENTRYPOINT` and `HEALTHCHECK` of this stage.
    pub(super) seen: BTreeMap<&'static str, Span>,
    pub(super) steps: Vec<Step>,
    pub(super) from_label: Option<String>,
    pub(super) capture: Capture,
}

/// The parts of an image's config document that instructions change.
#[derive(Debug, Clone, Default)]
pub(super) struct ImageState {
    pub(super) config: Config,
    /// Where variables are in the config's `Env`.
    pub(super) config_env: ConfigEnv,
    pub(super) author: Option<String>,
    pub(super) platform: Platform,
    /// Whether it is known to have no layers, so that progress does not show a base.
    pub(super) is_empty: bool,
}

impl ImageState {
    /// `FROM scratch`.
    pub(super) fn scratch(platform: &Platform) -> Self {
        let mut image = Self {
            platform: platform.clone(),
            is_empty: true,
            ..Self::default()
        };
        "/".clone_into(&mut image.config.working_dir);
        image.add_default_path();
        image
    }

    pub(super) fn from_base(base: &ConfigFile) -> Self {
        Self {
            config: base.config.clone(),
            config_env: ConfigEnv::default(),
            author: base.author.clone().filter(|a| !a.is_empty()),
            platform: base.platform.clone(),
            is_empty: base.rootfs.diff_ids.is_empty()
                && base.history.iter().all(|entry| entry.empty_layer),
        }
    }

    /// Makes sure that there is a `PATH`, as each image made here has one.
    pub(super) fn add_default_path(&mut self) {
        let env = &mut self.config.env;
        if self.platform.os != "windows" && !env.iter().any(|v| super::env::split(v).0 == "PATH") {
            env.push(format!("PATH={DEFAULT_PATH}"));
        }
    }
}

/// Where programs are looked for when the image does not say.
pub(super) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl State<'_> {
    /// A stage before anything is known but its base.
    pub(super) fn new(written: String, base_name: String, span: Span) -> Self {
        Self {
            written,
            base_name,
            alias: None,
            title: String::new(),
            description: None,
            span,
            from: None,
            platform: None,
            replaced_by: None,
            base: None,
            deps: Vec::new(),
            commands: Vec::new(),
            n_steps: 0,
            n_numbered: 0,
            origin: None,
            has_triggers: false,
            is_done: false,
            image: ImageState::default(),
            env: Env::default(),
            args: Vec::new(),
            n_heirs: 0,
            scanned: None,
            has_workdir: false,
            seen: BTreeMap::new(),
            steps: Vec::new(),
            from_label: None,
            capture: Capture::default(),
        }
    }

    /// Whether it is an image that only instructions name.
    pub(super) fn is_bare(&self) -> bool {
        self.from.is_none()
    }

    /// The image it starts from, if it is one.
    pub(super) fn image_source(&self) -> Option<&ImageSource> {
        match &self.origin {
            Some(Base::Image(source)) => Some(source),
            _ => None,
        }
    }

    /// The working directory in effect, with slashes.
    pub(super) fn workdir(&self) -> String {
        let workdir = &self.image.config.working_dir;
        if self.is_windows() {
            workdir.replace('\\', "/")
        } else {
            workdir.clone()
        }
    }

    pub(super) fn set_workdir(&mut self, workdir: &str) {
        self.image.config.working_dir = if self.is_windows() {
            workdir.replace('/', "\\")
        } else {
            workdir.to_owned()
        };
    }

    /// Whether the stage is for Windows, so that paths are written that way.
    pub(super) fn is_windows(&self) -> bool {
        self.platform.as_ref().is_some_and(paths::is_windows)
    }

    /// A path of an instruction with slashes.
    pub(super) fn path(&self, written: String) -> Result<String, String> {
        if self.is_windows() {
            paths::with_slashes(&written)
        } else {
            Ok(written)
        }
    }

    /// Adds a state that this one reads.
    pub(super) fn depend(&mut self, on: usize, span: Span) {
        match self.deps.iter_mut().find(|(dep, _)| *dep == on) {
            Some((_, last)) => *last = span,
            None => self.deps.push((on, span)),
        }
    }

    /// The variables in effect that an `ARG` has set and no `ENV`.
    pub(super) fn names_of_args(&self) -> Vec<String> {
        let env = &self.image.config.env;
        let in_config: HashSet<&str> = env.iter().map(|it| super::env::split(it).0).collect();
        self.env
            .names()
            .filter(|name| !in_config.contains(name))
            .map(ToOwned::to_owned)
            .collect()
    }

    /// Numbers a step and names it.
    pub(super) fn label(&mut self, text: &str, multi_platform: bool) -> Numbered {
        if self.n_steps == 0 {
            return Numbered {
                number: None,
                label: text.to_owned(),
            };
        }
        self.n_numbered += 1;
        let number = (self.n_numbered, self.n_steps);
        let prefix = Prefix {
            stage: &self.title,
            platform: self.platform.as_ref().filter(|_| multi_platform),
            env: &self.env,
            number,
        };
        Numbered {
            number: Some(number),
            label: prefix.label(text),
        }
    }
}

/// A step's number and name.
#[derive(Debug)]
pub(super) struct Numbered {
    pub(super) number: Option<(usize, usize)>,
    pub(super) label: String,
}

/// Whether progress counts an instruction.
pub(super) fn is_counted(kind: &InstructionKind) -> bool {
    matches!(
        kind,
        InstructionKind::Add(_)
            | InstructionKind::Copy(_)
            | InstructionKind::Run(_)
            | InstructionKind::Workdir(_)
    )
}
