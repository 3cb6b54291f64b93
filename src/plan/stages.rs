//! The graph of stages: what each starts from and reads, and which ones the target needs.

use std::{borrow::Cow, collections::BTreeSet};

use super::{
    planner::{Planner, StageText, alias, did_you_mean},
    state::{Command, SCRATCH, State, is_counted},
};
use crate::{
    dockerfile::{
        From, Instruction, InstructionKind, Word,
        expand::{Expander, Expansion},
        lint::Warning,
        mount, parse_trigger,
    },
    oci::Platform,
    reference::Reference,
    source::{Diagnostic, MOST_SUGGESTIONS, Span, suggest_in_case},
};

impl<'a> Planner<'a> {
    /// Reports bases that do not work when every `ARG` has its default.
    pub(super) fn check_default_args(
        &mut self,
        predefined: &super::args::Globals,
        head: &[Instruction],
        stages: &[StageText<'_>],
    ) {
        let none = std::collections::BTreeMap::new();
        let escape = self.file.escape();
        // What is wrong with an ARG itself comes up with the real values, too.
        let Ok(defaults) = predefined.clone().with_args(head, &none, escape) else {
            return;
        };
        for stage in stages {
            let InstructionKind::From(from) = &stage.from.kind else {
                continue;
            };
            let Ok(name) = Expander::new(escape).expand(&from.image.value, &defaults.lookup())
            else {
                return;
            };
            if Reference::parse(&name.text).is_err() {
                let warning =
                    Warning::invalid_default_arg_in_from(&from.image.value, stage.from.span);
                self.linter.report(None, warning);
            }
        }
    }

    /// Adds the stages of the file.
    pub(super) fn add_stages(&mut self, stages: &[StageText<'a>]) -> Result<(), Diagnostic> {
        for (at, stage) in stages.iter().enumerate() {
            let InstructionKind::From(from) = &stage.from.kind else {
                continue;
            };
            self.add_stage(at, stage, from)?;
        }
        Ok(())
    }

    fn add_stage(
        &mut self,
        at: usize,
        stage: &StageText<'a>,
        from: &From,
    ) -> Result<(), Diagnostic> {
        let span = stage.from.span;
        let mut name = match self.expand_from(&from.image.value, span) {
            Ok(name) => name,
            Err(error) => {
                self.excuse(error)?;
                Expansion {
                    text: from.image.value.clone(),
                    ..Expansion::default()
                }
            }
        };
        self.report_undeclared(stage.from, &name);
        if name.text.is_empty() {
            let message = format!("base name ({}) should not be blank", from.image.value);
            let error = Diagnostic::error(message, span);
            self.excuse(match name.unset.iter().next() {
                Some(arg) => error.with_hint(format!(
                    "declare `ARG {arg}` with a value in front of the first FROM, or pass --build-arg {arg}=…"
                )),
                None => error,
            })?;
            name.text.clone_from(&from.image.value);
        }
        let mut used = name.used;
        let mut state = State::new(from.image.value.clone(), name.text, span);
        state.from = Some(stage.from);
        state.alias = alias(stage.from);
        state.description = state
            .alias
            .as_deref()
            .and_then(|alias| stage.from.description(alias))
            .map(ToOwned::to_owned);
        state.title = state.alias.clone().unwrap_or_default();
        if let Some(platform) = &from.platform {
            match self.stage_platform(stage.from, platform, &mut used) {
                Ok(platform) => state.platform = Some(platform),
                Err(error) => self.excuse(error)?,
            }
        }
        if let Some(alias) = &state.alias {
            state.replaced_by = self.find_context(alias, state.platform.as_ref(), span)?;
        }
        let is_replaced = state.replaced_by.is_some();
        if !is_replaced {
            if state.alias.is_none() {
                state.title = format!("stage-{at}");
            }
            state.base = self.by_name.get(&state.base_name).copied();
            if let Some(base) = state.base {
                state.capture = self.states[base].capture.clone();
            }
            state.capture.used.extend(used);
            let starts_from_image = state.base_name != SCRATCH && state.base.is_none();
            let counted = stage.commands.iter().filter(|i| is_counted(&i.kind));
            state.n_steps = usize::from(starts_from_image) + counted.count();
        }
        self.add_state(state);
        Ok(())
    }

    fn stage_platform(
        &mut self,
        from: &Instruction,
        platform: &Word,
        used: &mut BTreeSet<String>,
    ) -> Result<Platform, Diagnostic> {
        let span = from.span;
        let written = &platform.value;
        let expansion = self.expand_from(written, span).map_err(|mut error| {
            error.message = format!(
                "failed to process arguments for platform : {}",
                error.message
            );
            error
        })?;
        self.report_undeclared(from, &expansion);
        self.report_platform_flag(from, written, &expansion);
        let with_suggestion = |message: String| {
            let near = expansion
                .unset
                .iter()
                .find_map(|name| suggest_in_case(name, self.globals.env.names()));
            Diagnostic::error(did_you_mean(message, near), span)
        };
        if expansion.text.is_empty() {
            return Err(with_suggestion(format!(
                "empty platform value from expression {written}"
            )));
        }
        // A word of the command line alone: a Dockerfile says $BUILDPLATFORM.
        if expansion.text == "local" {
            let message = "failed to parse platform local: it is a word of the command line";
            return Err(Diagnostic::error(message, span).with_hint("did you mean $BUILDPLATFORM?"));
        }
        let platform = expansion.text.parse().map_err(|error| {
            with_suggestion(format!("failed to parse platform {written}: {error}"))
        })?;
        used.extend(expansion.used);
        Ok(platform)
    }

    fn expand_from(&self, text: &str, span: Span) -> Result<Expansion, Diagnostic> {
        Expander::new(self.file.escape())
            .expand(text, &self.globals.lookup())
            .map_err(|error| Diagnostic::error(error.to_string(), span))
    }

    fn report_undeclared(&mut self, from: &Instruction, expansion: &Expansion) {
        for name in &expansion.unset {
            // Declared without a value is declared.
            if self.globals.infos.contains_key(name) {
                continue;
            }
            let declared = self.globals.infos.keys().map(String::as_str);
            self.n_unset += 1;
            let near = (self.n_unset <= MOST_SUGGESTIONS)
                .then(|| suggest_in_case(name, declared.chain(self.globals.env.names())))
                .flatten();
            let warning = Warning::undefined_arg_in_from(name, near, from.span);
            self.linter.report(Some(from), warning);
        }
    }

    fn report_platform_flag(&mut self, from: &Instruction, written: &str, expansion: &Expansion) {
        if expansion.used.is_empty() && expansion.unset.is_empty() {
            let name = alias(from).unwrap_or_default();
            let Ok(platform) = expansion.text.parse::<Platform>() else {
                return;
            };
            if !name.contains(&platform.os) && !name.contains(&platform.architecture) {
                let warning =
                    Warning::from_platform_flag_const_disallowed(&expansion.text, from.span);
                self.linter.report(Some(from), warning);
            }
        } else if expansion.unset.is_empty()
            && expansion.used.iter().eq(["TARGETPLATFORM"])
            && self.globals.env.get("TARGETPLATFORM") == Some(&expansion.text)
        {
            let warning = Warning::redundant_target_platform(written, from.span);
            self.linter.report(Some(from), warning);
        }
    }

    /// Adds a state and gives its name to it, even if another has it already.
    fn add_state(&mut self, state: State<'a>) -> usize {
        let at = self.states.len();
        if let Some(name) = &state.alias {
            self.by_name.insert(name.clone(), at);
        }
        self.states.push(state);
        at
    }

    /// Adds an image that only an instruction names.
    fn add_bare(&mut self, name: &str, span: Span) -> usize {
        self.add_state(State::new(name.to_owned(), name.to_owned(), span))
    }

    /// Adds the instructions of all stages, with the states they read.
    pub(super) fn add_commands(&mut self, stages: &[StageText<'a>]) -> Result<(), Diagnostic> {
        for (at, stage) in stages.iter().enumerate() {
            for instruction in stage.commands {
                self.declare(instruction);
                let span = instruction.span;
                let sources = self.sources(at, instruction, span)?;
                self.states[at].commands.push(Command {
                    instruction: Cow::Borrowed(instruction),
                    span,
                    sources,
                    is_trigger: false,
                });
            }
            if self.states[at].replaced_by.is_some() {
                self.states[at].deps.clear();
            }
        }
        Ok(())
    }

    /// Notes the arguments that an instruction declares.
    pub(super) fn declare(&mut self, instruction: &Instruction) {
        if let InstructionKind::Arg(arg) = &instruction.kind {
            let names = arg.args.iter().map(|arg| arg.name.value.clone());
            self.declared.extend(names);
        }
    }

    /// The states that an instruction reads.
    fn sources(
        &mut self,
        at: usize,
        instruction: &Instruction,
        span: Span,
    ) -> Result<Vec<usize>, Diagnostic> {
        let mut sources = Vec::new();
        match &instruction.kind {
            InstructionKind::Copy(copy) => {
                if let Some(from) = &copy.from {
                    let source = match self.copy_source(&from.value, span) {
                        Ok(source) => source,
                        Err(error) => {
                            self.excuse(error)?;
                            self.add_bare(&from.value, span)
                        }
                    };
                    sources.push(source);
                }
            }
            InstructionKind::Run(run) => {
                for mount in &run.mounts {
                    // BuildKit counts an empty image for each mount without one, which numbers the stages in
                    // progress even if there is but one.
                    let from = mount::source(&mount.value).unwrap_or_else(|| SCRATCH.to_owned());
                    let known = self.find(&from).filter(|_| from != SCRATCH);
                    sources.push(known.unwrap_or_else(|| self.add_bare(&from, span)));
                }
            }
            _ => {}
        }
        for &source in &sources {
            self.states[at].depend(source, span);
        }
        Ok(sources)
    }

    fn copy_source(&mut self, from: &str, span: Span) -> Result<usize, Diagnostic> {
        let expansion = Expander::new(self.file.escape())
            .expand(from, &|_| None)
            .map_err(|error| Diagnostic::error(error.to_string(), span))?;
        if expansion.text != from {
            return Err(Diagnostic::error(
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
                span,
            )
            .with_hint("write `FROM image-or-stage AS name` with the variable there, and `--from=name` here"));
        }
        if let Ok(index) = from.parse::<i64>() {
            return usize::try_from(index)
                .ok()
                .filter(|index| *index < self.states.len())
                .ok_or_else(|| {
                    Diagnostic::error(format!("invalid stage index {index}"), span)
                        .with_hint("stages count from 0; `FROM … AS name` lets --from name one")
                });
        }
        Ok(self.find(from).unwrap_or_else(|| self.add_bare(from, span)))
    }

    /// Refuses stages that read each other.
    pub(super) fn check_cycles(&self) -> Result<(), Diagnostic> {
        let mut visited = BTreeSet::new();
        for at in 0..self.states.len() {
            let Some((span, chain)) = self.find_cycle(at, &mut visited) else {
                continue;
            };
            let message = format!(
                "circular dependency detected on stage: {}",
                self.states[at].title
            );
            let names: Vec<&str> = chain
                .iter()
                .map(|at| self.states[*at].title.as_str())
                .collect();
            return Err(Diagnostic::error(message, span)
                .with_hint(format!("each needs the next: {}", names.join(" → "))));
        }
        Ok(())
    }

    /// The first cycle among what a state reads, and the line that closes it.
    fn find_cycle(
        &self,
        start: usize,
        visited: &mut BTreeSet<usize>,
    ) -> Option<(Span, Vec<usize>)> {
        if !visited.insert(start) {
            return None;
        }
        // A state on the way and how many of its dependencies have been followed. Not recursive: a file may have
        // thousands of stages.
        let mut path = vec![(start, 0)];
        let mut on_path = BTreeSet::from([start]);
        while let Some((at, n_followed)) = path.last_mut() {
            let Some(&(dep, span)) = self.states[*at].deps.get(*n_followed) else {
                on_path.remove(at);
                path.pop();
                continue;
            };
            *n_followed += 1;
            if on_path.contains(&dep) {
                let path = path.iter().map(|(at, _)| *at);
                let chain = path.skip_while(|at| *at != dep).chain([dep]);
                return Some((span, chain.collect()));
            }
            if visited.insert(dep) {
                on_path.insert(dep);
                path.push((dep, 0));
            }
        }
        None
    }

    /// All states that a state needs, itself included.
    pub(super) fn reachable_from(&self, target: usize) -> BTreeSet<usize> {
        let mut reachable = BTreeSet::new();
        let mut todo = vec![target];
        while let Some(at) = todo.pop() {
            if reachable.insert(at) {
                let state = &self.states[at];
                todo.extend(state.base);
                todo.extend(state.deps.iter().map(|(dep, _)| *dep));
            }
        }
        reachable
    }

    /// Puts the triggers of bases in front of the stages that start from them. Whether any of them reads a stage or
    /// image, so that more may be needed.
    pub(super) fn add_triggers(&mut self, reachable: &BTreeSet<usize>) -> Result<bool, Diagnostic> {
        let mut reads_more = false;
        for &at in reachable {
            if self.states[at].has_triggers || self.states[at].is_bare() {
                continue;
            }
            self.states[at].has_triggers = true;
            let triggers = match self.states[at].base {
                None => std::mem::take(&mut self.states[at].image.config.on_build),
                Some(base) => own_triggers(&self.states[base]),
            };
            if self.states[at].is_done || triggers.is_empty() {
                continue;
            }
            reads_more |= self.prepend(at, &triggers)?;
        }
        Ok(reads_more)
    }

    fn prepend(&mut self, at: usize, triggers: &[String]) -> Result<bool, Diagnostic> {
        let span = self.states[at].span;
        let mut commands = Vec::with_capacity(triggers.len());
        for trigger in triggers {
            let instruction = parse_trigger(trigger).map_err(|error| {
                Diagnostic::error(error.message, span)
                    .with_hint(format!("the base brings `ONBUILD {trigger}`"))
            })?;
            self.declare(&instruction);
            let sources = self.sources(at, &instruction, span)?;
            commands.push(Command {
                instruction: Cow::Owned(instruction),
                span,
                sources,
                is_trigger: true,
            });
        }
        let reads_more = commands.iter().any(|command| !command.sources.is_empty());
        let state = &mut self.states[at];
        state.n_steps += commands.len();
        commands.append(&mut state.commands);
        state.commands = commands;
        Ok(reads_more)
    }
}

/// The `ONBUILD`s of a stage.
fn own_triggers(state: &State<'_>) -> Vec<String> {
    state
        .commands
        .iter()
        .filter_map(|command| match &command.instruction.kind {
            InstructionKind::Onbuild(onbuild) => Some(onbuild.trigger.value.clone()),
            _ => None,
        })
        .collect()
}
