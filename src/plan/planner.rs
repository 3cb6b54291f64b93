//! The way from a Dockerfile to a plan.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Base, ImageSource, Options, Outline, Plan, Planned, Stage, StageId,
    args::{self, Globals},
    epoch,
    state::State,
};
use crate::{
    dockerfile::{
        Dockerfile, Instruction, InstructionKind,
        lint::{self, Linter, Warning},
        quote::quoted,
        scalar::parse_bool,
    },
    oci::ConfigFile,
    source::{Diagnostic, Severity, Span, suggest_in_case},
};

/// A plan and what was found on the way.
#[derive(Debug, Clone)]
pub struct Analysis {
    /// Lint findings, in order, those of the text first. When planning stops early, those up to there.
    pub warnings: Vec<Warning>,
    /// The plan, what it needs, or why there is none: all problems of the text, else the first of the build.
    pub outcome: Result<Planned, Vec<Diagnostic>>,
    /// What `--call outline` tells of the target; only with a plan.
    pub outline: Option<Outline>,
}

/// Plans a build.
///
/// `bases` holds the config documents that former calls asked for with [`Planned::NeedsImages`]; start with none.
/// The errors are BuildKit's where it has some.
pub fn plan(
    file: &Dockerfile,
    options: &Options,
    bases: &BTreeMap<ImageSource, ConfigFile>,
) -> Result<Planned, Vec<Diagnostic>> {
    analyse(file, options, bases).outcome
}

/// Plans a build as [`plan`] does, and keeps what else there is to tell: for `--check` and `--call`.
pub fn analyse(
    file: &Dockerfile,
    options: &Options,
    bases: &BTreeMap<ImageSource, ConfigFile>,
) -> Analysis {
    let checks = match file.checks(
        options
            .build_args
            .get("BUILDKIT_DOCKERFILE_CHECK")
            .map(String::as_str),
    ) {
        Ok(checks) => checks,
        Err(error) => {
            return Analysis {
                warnings: Vec::new(),
                outcome: Err(vec![error]),
                outline: None,
            };
        }
    };
    let mut linter = Linter::new(checks);
    lint::lint(file, &mut linter);
    let mut planner = Planner::new(file, options, bases, linter);
    let outcome = if file.has_errors() {
        let errors = file.diagnostics.iter();
        Err(errors
            .filter(|d| d.severity == Severity::Error)
            .cloned()
            .collect())
    } else {
        planner.run().map_err(|error| vec![error])
    };
    let outline = match &outcome {
        Ok(Planned::Plan(plan)) => Some(planner.outline(plan.target)),
        _ => None,
    };
    Analysis {
        warnings: planner.linter.warnings().to_vec(),
        outcome,
        outline,
    }
}

/// A plan in the making.
#[derive(Debug)]
pub(super) struct Planner<'a> {
    pub(super) file: &'a Dockerfile,
    pub(super) options: &'a Options,
    pub(super) bases: &'a BTreeMap<ImageSource, ConfigFile>,
    pub(super) linter: Linter,
    /// How many variables that nothing sets were met: behind [`MOST_SUGGESTIONS`](crate::source::MOST_SUGGESTIONS), none is
    /// looked for that may be meant.
    pub(super) n_unset: usize,
    /// `--build-arg`, with `SOURCE_DATE_EPOCH` as a number.
    pub(super) build_args: BTreeMap<String, String>,
    /// What `FROM` lines see.
    pub(super) globals: Globals,
    /// The stages of the file, then the images that instructions name.
    pub(super) states: Vec<State<'a>>,
    pub(super) by_name: BTreeMap<String, usize>,
    /// The state that is the result, once it is found.
    target: Option<usize>,
    pub(super) epoch: Option<i64>,
    /// Whether progress shows the platform of each step.
    pub(super) shows_platform: bool,
    /// The names of all arguments that are declared anywhere.
    pub(super) declared: BTreeSet<String>,
    /// Errors that have become warnings.
    excused: Vec<Diagnostic>,
}

/// The instructions of a stage: its `FROM` and what follows.
pub(super) struct StageText<'a> {
    pub(super) from: &'a Instruction,
    pub(super) commands: &'a [Instruction],
}

impl<'a> Planner<'a> {
    fn new(
        file: &'a Dockerfile,
        options: &'a Options,
        bases: &'a BTreeMap<ImageSource, ConfigFile>,
        linter: Linter,
    ) -> Self {
        Self {
            file,
            options,
            bases,
            linter,
            n_unset: 0,
            build_args: options.build_args.clone(),
            globals: Globals::default(),
            states: Vec::new(),
            by_name: BTreeMap::new(),
            target: None,
            epoch: None,
            shows_platform: options
                .build_args
                .get("BUILDKIT_MULTI_PLATFORM")
                .and_then(|value| parse_bool(value))
                .unwrap_or(options.multi_platform),
            declared: BTreeSet::new(),
            excused: Vec::new(),
        }
    }

    fn run(&mut self) -> Result<Planned, Diagnostic> {
        let (head, stages) = self.split()?;
        for instruction in head {
            self.declare(instruction);
        }
        let last = stages
            .last()
            .and_then(|stage| alias(stage.from))
            .unwrap_or_default();
        let target_name = self.options.target.clone().unwrap_or(last);
        let predefined = Globals::predefined(self.options, &target_name);
        self.check_default_args(&predefined, head, &stages);
        self.globals = predefined.clone();
        match predefined.with_args(head, &self.options.build_args, self.file.escape()) {
            Ok(globals) => self.globals = globals,
            Err(error) => self.excuse(error)?,
        }
        if let Some(needs) = epoch::resolve(self, &stages)? {
            return Ok(needs);
        }
        self.add_stages(&stages)?;
        let target = self.find_target()?;
        self.target = Some(target);
        self.add_commands(&stages)?;
        self.check_cycles()?;
        if let [state] = self.states.as_mut_slice() {
            state.title.clear();
        }
        let reachable = loop {
            let reachable = self.reachable_from(target);
            let needed = self.resolve(&reachable)?;
            if !needed.is_empty() {
                return Ok(Planned::NeedsImages(needed));
            }
            if !self.add_triggers(&reachable)? {
                break reachable;
            }
        };
        let wanted: Vec<usize> = (0..self.states.len())
            .filter(|at| self.options.all_stages || reachable.contains(at))
            .filter(|at| !self.states[*at].is_done)
            .collect();
        for &at in &wanted {
            if let Some(base) = self.states[at].base {
                self.states[base].n_heirs += 1;
            }
        }
        for at in wanted {
            self.lower(at)?;
            self.forget(at);
        }
        if let Some(message) = self.linter.error() {
            return Err(Diagnostic::error(message, Span::default()));
        }
        Ok(Planned::Plan(Box::new(self.finish(target, &reachable))))
    }

    /// The `ARG`s in front of the first `FROM`, and the stages.
    fn split(&self) -> Result<(&'a [Instruction], Vec<StageText<'a>>), Diagnostic> {
        let instructions = &self.file.instructions;
        let is_from = |i: &Instruction| matches!(i.kind, InstructionKind::From(_));
        let first = instructions
            .iter()
            .position(is_from)
            .unwrap_or(instructions.len());
        let (head, rest) = instructions.split_at(first);
        if let Some(stray) = head
            .iter()
            .find(|i| !matches!(i.kind, InstructionKind::Arg(_)))
        {
            return Err(Diagnostic::error(
                "no build stage in current context",
                stray.span,
            ));
        }
        let mut stages = Vec::new();
        let mut rest = rest;
        while let Some((from, after)) = rest.split_first() {
            let end = after.iter().position(is_from).unwrap_or(after.len());
            let (commands, next) = after.split_at(end);
            stages.push(StageText { from, commands });
            rest = next;
        }
        if stages.is_empty() {
            return Err(Diagnostic::error(
                "dockerfile contains no stages to build",
                Span::default(),
            ));
        }
        Ok((head, stages))
    }

    /// Turns an error about a stage into a warning where bases are assumed: what is missing may come from the base,
    /// and the rest of the plan is worth having.
    pub(super) fn excuse(&mut self, error: Diagnostic) -> Result<(), Diagnostic> {
        if !self.options.assume_bases {
            return Err(error);
        }
        let mut warning = match error.hint {
            Some(_) => error,
            None => error.with_hint("a build stops here unless the base brings what is missing"),
        };
        warning.severity = Severity::Warning;
        if !self.excused.contains(&warning) {
            self.excused.push(warning);
        }
        Ok(())
    }

    fn find_target(&self) -> Result<usize, Diagnostic> {
        let Some(target) = &self.options.target else {
            return Ok(self.states.len() - 1);
        };
        self.find(target).ok_or_else(|| {
            let message = format!("target stage {} could not be found", quoted(target));
            let near = suggest_in_case(target, self.titles());
            Diagnostic::error(did_you_mean(message, near), Span::default())
        })
    }

    /// The state of a name, whatever its case.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(&name.to_lowercase()).copied()
    }

    /// The names of all stages.
    pub(super) fn titles(&self) -> impl Iterator<Item = &str> {
        self.states
            .iter()
            .map(|state| state.title.as_str())
            .filter(|title| !title.is_empty())
    }

    fn finish(&mut self, target: usize, reachable: &BTreeSet<usize>) -> Plan {
        let mut images: Vec<(ImageSource, Span)> = Vec::new();
        let mut stages = Vec::new();
        for &at in reachable {
            let state = &self.states[at];
            if let Some(source) = state.image_source()
                && !images.iter().any(|(known, _)| known == source)
            {
                images.push((source.clone(), state.span));
            }
            if !state.is_bare() {
                stages.push(self.finished_stage(at));
            }
        }
        // Instructions may read a stage that a named context replaces even in front of it.
        stages.sort_by_key(|stage| self.states[stage.id.0].replaced_by.is_none());
        let mut warnings: Vec<Diagnostic> = self.linter.warnings().iter().map(diagnostic).collect();
        warnings.extend_from_slice(&self.excused);
        Plan {
            platform: self.options.platform.clone(),
            stages,
            target: StageId(target),
            images,
            source_date_epoch: self.epoch,
            hostname: self
                .build_args
                .get("BUILDKIT_SANDBOX_HOSTNAME")
                .filter(|name| !name.is_empty())
                .or(self.options.hostname.as_ref())
                .cloned(),
            warnings,
            unused_args: args::unused(&self.build_args, &self.declared),
            extras: self.scan_extras(target, reachable.iter().copied()),
        }
    }

    /// Whether the plan tells the config of a state.
    pub(super) fn is_told(&self, at: usize) -> bool {
        self.options.all_configs || self.target == Some(at)
    }

    fn finished_stage(&mut self, at: usize) -> Stage {
        let image_platform = self.image_platform(at);
        let is_told = self.is_told(at);
        let state = &mut self.states[at];
        Stage {
            id: StageId(at),
            alias: state.alias.clone(),
            name: state.title.clone(),
            platform: state
                .platform
                .clone()
                .unwrap_or_else(|| self.options.platform.clone()),
            base: match state.base {
                Some(base) => Base::Stage(StageId(base)),
                None => state.origin.clone().unwrap_or(Base::Scratch),
            },
            from_label: state.from_label.clone(),
            span: state.span,
            steps: std::mem::take(&mut state.steps),
            config: is_told.then(|| std::mem::take(&mut state.image.config)),
            image_platform,
            author: state.image.author.clone(),
            is_scan: false,
        }
    }

    /// What an image of the stage says about itself: what its base says, unless a platform was asked for.
    fn image_platform(&self, at: usize) -> crate::oci::Platform {
        let mut platform = self.states[at].image.platform.clone();
        if self.options.platform_explicit {
            let wanted = &self.options.platform;
            let same = wanted.os == platform.os && wanted.architecture == platform.architecture;
            platform.os.clone_from(&wanted.os);
            platform.architecture.clone_from(&wanted.architecture);
            if wanted.variant.is_some() || !same {
                platform.variant.clone_from(&wanted.variant);
            }
            if wanted.os_version.is_some() || !same {
                platform.os_version.clone_from(&wanted.os_version);
            }
            if !wanted.os_features.is_empty() {
                platform.os_features.clone_from(&wanted.os_features);
            }
        }
        platform.normalized()
    }
}

/// The name of a stage.
pub(super) fn alias(from: &Instruction) -> Option<String> {
    match &from.kind {
        InstructionKind::From(from) => from.stage_name(),
        _ => None,
    }
}

/// A message with a suggestion, if there is one.
pub(super) fn did_you_mean(message: String, near: Option<&str>) -> String {
    match near {
        Some(near) => format!("{message} (did you mean {near}?)"),
        None => message,
    }
}

fn diagnostic(warning: &Warning) -> Diagnostic {
    let url = warning.rule.url();
    Diagnostic {
        severity: Severity::Warning,
        message: format!("{}: {}", warning.rule.name(), warning.detail),
        span: warning.span,
        hint: Some(url).filter(|url| !url.is_empty()),
    }
}
