//! The rules that the text alone can break.

use std::collections::BTreeSet;

use super::{Linter, Warning};
use crate::{
    dockerfile::{Alias, Dockerfile, Failure, Instruction, InstructionKind, Rejected, Word},
    source::Span,
};

/// Reports what the text alone shows, in BuildKit's order.
///
/// If the file has errors, these are the warnings that BuildKit gives before it stops at the first of them.
pub fn lint(file: &Dockerfile, linter: &mut Linter) {
    let end = match file.failure {
        Failure::None => usize::MAX,
        Failure::Lines => return,
        Failure::Instruction(at) => at,
    };
    for instruction in &file.instructions {
        if let Some(span) = instruction.empty_continuation {
            linter.report(None, Warning::no_empty_continuation(span));
        }
    }
    for rejected in &file.rejected {
        if let Some(span) = rejected.empty_continuation {
            linter.report(None, Warning::no_empty_continuation(span));
        }
    }
    for instruction in &file.instructions {
        if instruction.span.start <= end {
            check_instruction(instruction, linter);
        }
    }
    if let Some(rejected) = file.rejected.first().filter(|r| r.span.start <= end) {
        check_rejected(rejected, linter);
    }
    if file.failure == Failure::None {
        check_stage_names(file, linter);
        check_casing(file, linter);
    }
}

fn check_instruction(instruction: &Instruction, linter: &mut Linter) {
    let mut report = |warning| linter.report(Some(instruction), warning);
    let span = instruction.span;
    match &instruction.kind {
        InstructionKind::Maintainer(_) => report(Warning::maintainer_deprecated(span)),
        InstructionKind::From(from) => {
            let Some(Alias { keyword, name }) = &from.alias else {
                return;
            };
            report_all(
                [
                    stage_name_casing(&name.value, span),
                    from_as_casing(&instruction.keyword.value, &keyword.value, span),
                ],
                &mut report,
            );
            let lower = name.value.to_lowercase();
            if !describes(&instruction.comments, &[&lower]) {
                report(Warning::invalid_definition_description(
                    "FROM", &lower, span,
                ));
            }
        }
        InstructionKind::Arg(arg) => {
            let names: Vec<&str> = arg.args.iter().map(|a| a.name.value.as_str()).collect();
            if !describes(&instruction.comments, &names) {
                let name = match names.as_slice() {
                    [name] => name,
                    _ => "<arg_key>",
                };
                report(Warning::invalid_definition_description("ARG", name, span));
            }
        }
        _ => {}
    }
}

/// Some rules are for words whose instruction need not be right.
fn check_rejected(rejected: &Rejected, linter: &mut Linter) {
    let (keyword, span) = (&rejected.keyword.value, rejected.span);
    let mut report = |warning| linter.report_below(&rejected.comments, warning);
    if keyword.eq_ignore_ascii_case("MAINTAINER") {
        report(Warning::maintainer_deprecated(span));
    } else if keyword.eq_ignore_ascii_case("FROM")
        && let [_, as_keyword, name, more @ ..] = rejected.words.as_slice()
    {
        let name = Some(name).filter(|_| more.is_empty());
        report_all(
            [
                name.and_then(|name| stage_name_casing(&name.value, span)),
                from_as_casing(keyword, &as_keyword.value, span),
            ],
            &mut report,
        );
    }
}

fn report_all<const N: usize>(warnings: [Option<Warning>; N], report: &mut impl FnMut(Warning)) {
    warnings.into_iter().flatten().for_each(report);
}

fn stage_name_casing(name: &str, span: Span) -> Option<Warning> {
    (name != name.to_lowercase()).then(|| Warning::stage_name_casing(name, span))
}

fn from_as_casing(from: &str, as_keyword: &str, span: Span) -> Option<Warning> {
    let differs = match Casing::of(from) {
        Casing::Lower => as_keyword != as_keyword.to_lowercase(),
        Casing::Upper => as_keyword != as_keyword.to_uppercase(),
        // `From` is a matter of another rule.
        Casing::Mixed => false,
    };
    differs.then(|| Warning::from_as_casing(from, as_keyword, span))
}

/// Whether the last comment, if any, starts with one of the names.
fn describes(comments: &[Word], names: &[&str]) -> bool {
    comments.last().is_none_or(|comment| {
        let word = comment.value.split(' ').next().unwrap_or_default();
        names.contains(&word)
    })
}

fn check_stage_names(file: &Dockerfile, linter: &mut Linter) {
    let mut seen = BTreeSet::new();
    for instruction in &file.instructions {
        let InstructionKind::From(from) = &instruction.kind else {
            continue;
        };
        let Some(name) = from.stage_name() else {
            continue;
        };
        if matches!(name.as_str(), "scratch" | "context") {
            linter.report(None, Warning::reserved_stage_name(&name, instruction.span));
        }
        if seen.contains(&name) {
            linter.report(None, Warning::duplicate_stage_name(&name, instruction.span));
        }
        seen.insert(name);
    }
}

/// How a keyword is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Casing {
    Lower,
    Upper,
    Mixed,
}

impl Casing {
    fn of(keyword: &str) -> Self {
        if keyword == keyword.to_lowercase() {
            Self::Lower
        } else if keyword == keyword.to_uppercase() {
            Self::Upper
        } else {
            Self::Mixed
        }
    }
}

/// Counts and checks the keywords of stages; the `ARG`s in front of the first one are left out.
fn check_casing(file: &Dockerfile, linter: &mut Linter) {
    let in_stages = || {
        file.instructions
            .iter()
            .skip_while(|i| !matches!(i.kind, InstructionKind::From(_)))
    };
    let count = |casing| {
        in_stages()
            .filter(|i| Casing::of(&i.keyword.value) == casing)
            .count()
    };
    let (wanted, majority) = if count(Casing::Lower) > count(Casing::Upper) {
        (Casing::Lower, "lowercase")
    } else {
        (Casing::Upper, "uppercase")
    };
    for instruction in in_stages() {
        let keyword = &instruction.keyword.value;
        if Casing::of(keyword) != wanted {
            let warning =
                Warning::consistent_instruction_casing(keyword, majority, instruction.span);
            linter.report(None, warning);
        }
    }
}
