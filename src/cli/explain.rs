//! Explanations in words.

use std::fmt::Write as _;

use rbuild::explain::{
    Cause, Explanation, FileChanges, FilePart, MissReason, ModifiedFile, StepExplanation,
    StepResult, VariableOrigin,
};

use super::{count::counted, terminal};

/// What stands in front of an explanation among other lines of a step.
pub(crate) const MARK: &str = "EXPLAIN ";

/// What is said of a step that made what it had made before.
pub(crate) const UNCHANGED: &str =
    "it made what it had made before: that layer stays, and what builds on it stays cached";

/// How many files of a kind are named.
const NAMED_FILES: usize = 5;

/// The longest text of an instruction, a value or a setting that is shown, in characters.
const SHOWN_CHARS: usize = 200;

/// Why a step runs, one line for each cause.
pub(crate) fn lines(reason: &MissReason) -> Vec<String> {
    let line = match reason {
        MissReason::Changed { causes } => return causes.iter().flat_map(cause).collect(),
        MissReason::First => "no earlier result of this step is known".to_owned(),
        MissReason::Evicted { blob: Some(blob) } => {
            format!("its layer {} was removed from the store", blob.short())
        }
        MissReason::Evicted { blob: None } => {
            "its earlier result was removed from the store".to_owned()
        }
        MissReason::Corrupt => "the record of its earlier result cannot be read".to_owned(),
        MissReason::Disabled => "earlier results are not wanted (--no-cache)".to_owned(),
        _ => "the reason is not known: nothing that is kept for explanations differs".to_owned(),
    };
    vec![line]
}

fn cause(cause: &Cause) -> Vec<String> {
    let line = match cause {
        Cause::BaseMoved {
            image,
            before,
            after,
        } => format!("base image {} moved: {before} → {after}", shown(image)),
        Cause::BaseReplaced { before, after } => {
            format!(
                "the stage starts from something else: {} → {}",
                shown(before),
                shown(after)
            )
        }
        Cause::EarlierStep { step: Some(step) } => {
            format!("an earlier step made another layer: {}", shown(step))
        }
        Cause::EarlierStep { step: None } => "a step before it is gone".to_owned(),
        Cause::Instruction { before, after } => {
            format!(
                "the instruction changed: {} → {}",
                shown(before),
                shown(after)
            )
        }
        Cause::Variable {
            name,
            origin,
            before,
            after,
        } => {
            let origin = match origin {
                VariableOrigin::Arg => "ARG",
                VariableOrigin::Env => "ENV",
            };
            let change = change(before.as_deref(), after.as_deref());
            format!("{origin} {} {change}", shown(name))
        }
        Cause::Setting {
            name,
            before,
            after,
        } => {
            let change = change(before.as_deref(), after.as_deref());
            format!("{} {change}", shown(name))
        }
        Cause::Files { from, changes } => return files(from, changes.as_ref()),
        _ => "something changed that this version has no words for".to_owned(),
    };
    vec![line]
}

fn change(before: Option<&str>, after: Option<&str>) -> String {
    match (before, after) {
        (Some(before), Some(after)) => format!("changed: {} → {}", quoted(before), quoted(after)),
        (None, Some(after)) => format!("is new: {}", quoted(after)),
        (Some(before), None) => format!("is gone: {}", quoted(before)),
        (None, None) => "changed".to_owned(),
    }
}

fn files(from: &str, changes: Option<&FileChanges>) -> Vec<String> {
    let from = shown(from);
    let Some(changes) = changes else {
        return vec![format!(
            "files of {from} changed; which ones is not known, no list of them was kept"
        )];
    };
    if changes.count() == 0 {
        return vec![format!(
            "files of {from} are the same, under other names or in another order"
        )];
    }
    let mut lines = Vec::new();
    let mut tell = |what: &str, paths: Vec<String>| {
        if paths.is_empty() {
            return;
        }
        let mut line = format!("{what} in {from}: ");
        let named: Vec<_> = paths.iter().take(NAMED_FILES).cloned().collect();
        line.push_str(&named.join(", "));
        if paths.len() > named.len() {
            let _ = write!(line, " and {} more", paths.len() - named.len());
        }
        lines.push(line);
    };
    let plain = |paths: &[String]| paths.iter().map(|path| shown(path)).collect();
    tell("modified", changes.modified.iter().map(modified).collect());
    tell("added", plain(&changes.added));
    tell("removed", plain(&changes.removed));
    if changes.omitted > 0 {
        lines.push(format!(
            "{} in {from}",
            counted(changes.omitted, "more change")
        ));
    }
    lines
}

fn modified(file: &ModifiedFile) -> String {
    let parts: Vec<String> = file
        .what
        .iter()
        .filter_map(|part| match part {
            FilePart::Bytes => None,
            FilePart::Mode => file
                .mode
                .as_ref()
                .map(|[before, after]| format!("mode {before} → {after}")),
            FilePart::Other => Some("owner, link target or attributes".to_owned()),
        })
        .collect();
    if parts.is_empty() {
        shown(&file.path)
    } else {
        format!("{} ({})", shown(&file.path), parts.join(", "))
    }
}

/// A text on one line, nothing in it that moves a cursor, cut where it gets long.
fn shown(text: &str) -> String {
    let line = terminal::one_line(text);
    if line.chars().count() <= SHOWN_CHARS {
        return line;
    }
    let cut: String = line.chars().take(SHOWN_CHARS - 1).collect();
    format!("{cut}…")
}

fn quoted(text: &str) -> String {
    format!("`{}`", shown(text))
}

/// All that is told of a build, as `rbuild explain` prints it.
pub(crate) fn text(explanation: &Explanation) -> String {
    let mut out = String::new();
    let platforms: Vec<&str> = explanation
        .steps
        .iter()
        .map(|step| step.platform.as_str())
        .collect();
    let several = platforms.windows(2).any(|pair| pair[0] != pair[1]);
    for step in &explanation.steps {
        if several {
            let _ = write!(out, "{} ", shown(&step.platform));
        }
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}", shown(&step.step));
        let _ = writeln!(out, "  {}", result(step));
        for line in step.reason.as_ref().map(lines).unwrap_or_default() {
            let _ = writeln!(out, "  - {line}");
        }
    }
    let count = |wanted: fn(&StepResult) -> bool| {
        let steps = explanation.steps.iter();
        steps.filter(|step| wanted(&step.result)).count()
    };
    let counts = [
        (count(|result| *result == StepResult::Cached), "cached"),
        (count(has_run), "ran"),
        (count(|result| *result == StepResult::WillRun), "will run"),
        (
            count(|result| matches!(result, StepResult::MayRun { .. })),
            "may run",
        ),
    ];
    let parts: Vec<_> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let _ = match parts.as_slice() {
        [] => writeln!(out, "no step makes a layer"),
        parts => writeln!(out, "{}", parts.join(", ")),
    };
    out
}

fn has_run(result: &StepResult) -> bool {
    matches!(
        result,
        StepResult::Executed | StepResult::Unchanged | StepResult::Failed
    )
}

fn result(step: &StepExplanation) -> String {
    match &step.result {
        StepResult::Cached => "cached".to_owned(),
        StepResult::WillRun => "will run".to_owned(),
        StepResult::MayRun { after } => format!(
            "runs unless what it needs comes out as before, from {}",
            shown(after)
        ),
        StepResult::Unchanged => "ran, and made what it had made before".to_owned(),
        StepResult::Failed => "failed".to_owned(),
        _ => "ran".to_owned(),
    }
}

#[cfg(test)]
mod tests;
