//! What `--call outline` and `--call targets` tell, in BuildKit's JSON and its tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Serialize, Serializer};

use super::{
    StageId,
    args::{ArgInfo, Globals},
    planner::Planner,
};
use crate::{
    dockerfile::{Dockerfile, InstructionKind},
    source::{Lines, Span},
};

/// What can be given to a build of one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outline {
    /// The target's name; empty when it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The comment above the target.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The arguments that matter for it, in the order of the file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<OutlineArg>,
    /// The secrets that its steps want.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<OutlineNeed>,
    /// The SSH agents that its steps want.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<OutlineNeed>,
    /// The Dockerfile.
    pub sources: Vec<SourceText>,
}

/// One argument of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// The comment above it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Its value in this build.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Where it is declared.
    pub location: Location,
}

/// One secret or SSH agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutlineNeed {
    /// Its id.
    pub name: String,
    /// Whether a step fails without it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// Where it is asked for.
    pub location: Location,
}

/// The stages of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Targets {
    /// The stages, in order.
    pub targets: Vec<Target>,
    /// The Dockerfile.
    pub sources: Vec<SourceText>,
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Its name; empty when it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Whether it is built when no target is named: the last one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// The comment above it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What it starts from, as written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub base: String,
    /// `FROM --platform`, as written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    /// Where its `FROM` is.
    pub location: Location,
}

/// A text, in base 64 in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceText(pub String);

impl Serialize for SourceText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

/// Lines of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Location {
    /// One range, in BuildKit's form.
    pub ranges: [LineRange; 1],
}

/// From one line to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LineRange {
    /// The first.
    pub start: Line,
    /// The last.
    pub end: Line,
}

/// One line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Line {
    /// Its number, from 1.
    pub line: usize,
}

impl Location {
    fn new(span: Span, lines: &Lines) -> Self {
        let (start, end) = lines.touched(span);
        Self {
            ranges: [LineRange {
                start: Line { line: start },
                end: Line { line: end },
            }],
        }
    }

    fn first(&self) -> usize {
        self.ranges[0].start.line
    }
}

/// What a stage asks from the command line.
#[derive(Debug, Clone, Default)]
pub(super) struct Capture {
    /// The arguments it may see besides those that all stages do.
    pub(super) all: BTreeMap<String, ArgInfo>,
    /// The names of those it does see.
    pub(super) used: BTreeSet<String>,
    pub(super) secrets: BTreeMap<String, Need>,
    pub(super) ssh: BTreeMap<String, Need>,
}

/// A secret or SSH agent that a step asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    pub(super) is_required: bool,
    pub(super) span: Span,
}

impl Capture {
    /// The arguments in use and those that their defaults use.
    fn all_used<'a>(&'a self, globals: &'a Globals) -> BTreeMap<&'a str, Option<&'a ArgInfo>> {
        let mut used = BTreeMap::new();
        let mut todo: Vec<&str> = self.used.iter().map(String::as_str).collect();
        while let Some(name) = todo.pop() {
            if used.contains_key(name) {
                continue;
            }
            let info = self.all.get(name).or_else(|| globals.infos.get(name));
            used.insert(name, info);
            todo.extend(info.iter().flat_map(|info| &info.deps).map(String::as_str));
        }
        used
    }
}

/// Lists the stages of a Dockerfile, which has been read without errors.
pub fn targets(file: &Dockerfile) -> Targets {
    let lines = Lines::of(&file.text);
    let mut targets: Vec<Target> = file
        .instructions
        .iter()
        .filter_map(|instruction| match &instruction.kind {
            InstructionKind::From(from) => Some((instruction, from)),
            _ => None,
        })
        .map(|(instruction, from)| {
            let name = from.stage_name().unwrap_or_default();
            let description = instruction.description(&name);
            Target {
                default: false,
                description: description.unwrap_or_default().to_owned(),
                base: from.image.value.clone(),
                platform: from
                    .platform
                    .as_ref()
                    .map(|platform| platform.value.clone())
                    .unwrap_or_default(),
                location: Location::new(instruction.span, &lines),
                name,
            }
        })
        .collect();
    if let Some(last) = targets.last_mut() {
        last.default = true;
    }
    Targets {
        targets,
        sources: vec![SourceText(file.text.clone())],
    }
}

impl Planner<'_> {
    /// What can be given to the build that has been planned.
    pub(super) fn outline(&self, target: StageId) -> Outline {
        let text = &self.file.text;
        let lines = Lines::of(text);
        let (mut args, mut secrets, mut ssh) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut visited = BTreeSet::new();
        let mut todo = vec![target.0];
        while let Some(at) = todo.pop() {
            if !visited.insert(at) {
                continue;
            }
            let state = &self.states[at];
            let capture = &state.capture;
            for (name, info) in capture.all_used(&self.globals) {
                if let Some(info) = info {
                    args.entry(name.to_owned()).or_insert_with(|| info.clone());
                }
            }
            for (all, own) in [(&mut secrets, &capture.secrets), (&mut ssh, &capture.ssh)] {
                for (name, need) in own {
                    all.entry(name.clone()).or_insert(*need);
                }
            }
            todo.extend(state.deps.iter().rev().map(|(dep, _)| *dep));
            todo.extend(state.base);
        }
        let mut args: Vec<OutlineArg> = args
            .into_iter()
            .map(|(name, info)| OutlineArg {
                name,
                description: info.description.unwrap_or_default(),
                value: info.value,
                location: Location::new(info.span, &lines),
            })
            .collect();
        args.sort_by_key(|arg| arg.location.first());
        let state = &self.states[target.0];
        Outline {
            name: state.alias.clone().unwrap_or_default(),
            description: state.description.clone().unwrap_or_default(),
            args,
            secrets: needs(secrets, &lines),
            ssh: needs(ssh, &lines),
            sources: vec![SourceText(text.clone())],
        }
    }
}

fn needs(needs: BTreeMap<String, Need>, lines: &Lines) -> Vec<OutlineNeed> {
    let mut needs: Vec<OutlineNeed> = needs
        .into_iter()
        .map(|(name, need)| OutlineNeed {
            name,
            required: need.is_required,
            location: Location::new(need.span, lines),
        })
        .collect();
    needs.sort_by_key(|need| need.location.first());
    needs
}

impl fmt::Display for Outline {
    /// Writes BuildKit's tables.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.name.is_empty() || !self.description.is_empty() {
            let name = if self.name.is_empty() {
                "(default)"
            } else {
                &self.name
            };
            let mut rows = vec![["TARGET:", name]];
            if !self.description.is_empty() {
                rows.push(["DESCRIPTION:", &self.description]);
            }
            table(f, &rows, 1)?;
            writeln!(f)?;
        }
        if !self.args.is_empty() {
            let mut rows = vec![["BUILD ARG", "VALUE", "DESCRIPTION"]];
            rows.extend(
                self.args
                    .iter()
                    .map(|arg| [arg.name.as_str(), &arg.value, &arg.description]),
            );
            table(f, &rows, 3)?;
            writeln!(f)?;
        }
        for (title, needs) in [("SECRET", &self.secrets), ("SSH", &self.ssh)] {
            if needs.is_empty() {
                continue;
            }
            let mut rows = vec![[title, "REQUIRED"]];
            rows.extend(
                needs
                    .iter()
                    .map(|need| [need.name.as_str(), if need.required { "true" } else { "" }]),
            );
            table(f, &rows, 3)?;
            writeln!(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Targets {
    /// Writes BuildKit's table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self
            .targets
            .iter()
            .map(|target| match (target.name.as_str(), target.default) {
                ("", true) => "(default)".to_owned(),
                (name, true) => format!("{name} (default)"),
                (name, false) => name.to_owned(),
            })
            .collect();
        let mut rows = vec![["TARGET", "DESCRIPTION"]];
        rows.extend(
            names
                .iter()
                .zip(&self.targets)
                .map(|(name, target)| [name.as_str(), &target.description]),
        );
        table(f, &rows, 1)
    }
}

/// Writes rows with all columns but the last padded to equal width and `gap` blanks between.
fn table<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    rows: &[[&str; N]],
    gap: usize,
) -> fmt::Result {
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == N {
                writeln!(f, "{cell}")?;
            } else {
                let widths = rows.iter().map(|row| row[column].chars().count());
                let width = widths.max().unwrap_or(0) + gap;
                write!(f, "{cell:width$}")?;
            }
        }
    }
    Ok(())
}
