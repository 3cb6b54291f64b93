//! `SOURCE_DATE_EPOCH`: a number, or the name of a source that knows a time.

use super::{
    CopySource, EpochSource, Planned,
    env::Env,
    planner::{Planner, StageText, alias},
    remote,
    state::SCRATCH,
};
use crate::{
    dockerfile::{Add, Instruction, InstructionKind, Source, expand::Expander},
    source::{Diagnostic, Span},
};

const NAME: &str = "SOURCE_DATE_EPOCH";

/// Finds out the moment and puts it in place of the source's name, where arguments have that; or says what to ask.
pub(super) fn resolve(
    planner: &mut Planner<'_>,
    stages: &[StageText<'_>],
) -> Result<Option<Planned>, Diagnostic> {
    let given = planner.build_args.get(NAME);
    let declared = planner.globals.env.get(NAME).filter(|v| !v.is_empty());
    let Some(value) = given.map(String::as_str).or(declared) else {
        return Ok(None);
    };
    let moment = if value.is_empty() {
        None
    } else if let Ok(seconds) = value.parse::<i64>() {
        Some(seconds)
    } else {
        let span = planner
            .globals
            .infos
            .get(NAME)
            .map_or(Span::default(), |info| info.span);
        let source = source(planner, value, stages, span)?;
        match planner.options.epoch {
            Some(moment) => moment,
            None if planner.options.assume_bases => None,
            None => return Ok(Some(Planned::NeedsEpoch(source, span))),
        }
    };
    if let Some(seconds) = moment {
        let text = seconds.to_string();
        if planner.globals.env.get(NAME).is_some() {
            planner.globals.env.set(NAME, &text);
        }
        if let Some(given) = planner.build_args.get_mut(NAME) {
            *given = text;
        }
    } else {
        planner.build_args.remove(NAME);
        planner.globals.env.remove(NAME);
    }
    planner.epoch = moment;
    Ok(None)
}

/// What the value names.
fn source(
    planner: &Planner<'_>,
    value: &str,
    stages: &[StageText<'_>],
    span: Span,
) -> Result<EpochSource, Diagnostic> {
    if value == "context" {
        return Ok(EpochSource::Context);
    }
    if let Some(context) = planner.find_context(value, None, span)? {
        return Ok(EpochSource::Named(context.key));
    }
    let stage = stages
        .iter()
        .find(|stage| alias(stage.from).is_some_and(|name| name.eq_ignore_ascii_case(value)));
    let Some(stage) = stage else {
        return Err(Diagnostic::error(format!("invalid {NAME}: {value}"), span)
            .with_hint("give seconds since 1970, `context`, or the name of a named context or of a stage that only adds one remote source"));
    };
    let mut env = planner.globals.env.clone();
    env.remove(NAME);
    let reader = StageReader {
        planner,
        env,
        span: stage.from.span,
    };
    reader.read(stage)
}

/// Reads a stage that stands for its only source.
struct StageReader<'a> {
    planner: &'a Planner<'a>,
    env: Env,
    span: Span,
}

impl StageReader<'_> {
    fn read(mut self, stage: &StageText<'_>) -> Result<EpochSource, Diagnostic> {
        if let InstructionKind::From(from) = &stage.from.kind
            && self.expand(&from.image.value)? != SCRATCH
        {
            return Err(self.error("SOURCE_DATE_EPOCH stage must use FROM scratch"));
        }
        let mut source = None;
        for instruction in stage.commands {
            match &instruction.kind {
                InstructionKind::Arg(_) => self.declare(instruction)?,
                InstructionKind::Add(add) if source.is_none() => source = Some(self.added(add)?),
                InstructionKind::Add(_) => return Err(self.not_one()),
                _ => {
                    return Err(self.error(&format!(
                        "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported {} instruction",
                        instruction.keyword.value
                    )));
                }
            }
        }
        source.ok_or_else(|| self.not_one())
    }

    fn declare(&mut self, instruction: &Instruction) -> Result<(), Diagnostic> {
        let InstructionKind::Arg(arg) = &instruction.kind else {
            return Ok(());
        };
        for definition in &arg.args {
            let name = &definition.name.value;
            if let Some(given) = self.planner.build_args.get(name) {
                self.env.set(name, given);
            } else if let Some(default) = &definition.value {
                let value = self.expand(&default.value)?;
                self.env.set(name, value);
            }
        }
        Ok(())
    }

    fn added(&self, add: &Add) -> Result<EpochSource, Diagnostic> {
        let [Source::Path(path)] = add.transfer.sources.as_slice() else {
            return Err(
                self.error("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source")
            );
        };
        let (source, _) = remote::classify(&self.expand(&path.value)?)
            .map_err(|error| self.error(&error.to_string()))?;
        if matches!(source, CopySource::Path(_)) {
            return Err(
                self.error("SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD")
            );
        }
        let checksum = match &add.checksum {
            Some(checksum) => Some(self.expand(&checksum.value)?),
            None => None,
        };
        Ok(EpochSource::Remote {
            source,
            checksum: checksum.filter(|c| !c.is_empty()),
        })
    }

    fn expand(&self, text: &str) -> Result<String, Diagnostic> {
        Expander::new(self.planner.file.escape())
            .expand(text, &|name| self.env.get(name).map(ToOwned::to_owned))
            .map(|expansion| expansion.text)
            .map_err(|error| self.error(&error.to_string()))
    }

    fn not_one(&self) -> Diagnostic {
        self.error("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD")
    }

    fn error(&self, message: &str) -> Diagnostic {
        Diagnostic::error(message, self.span)
    }
}
