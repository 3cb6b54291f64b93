//! Why a lookup missed: what the step has now against what it had last time.

use super::{
    Input, Key, Miss, Sight, files,
    place::{Last, Parting},
};
use crate::{
    explain::{Cause, MissReason, VariableOrigin},
    store::{Store, StoreError},
};

/// The note that names the variables set by `ARG`.
pub(super) const ARGS: &str = "args";

impl Key {
    /// Why the lookup of this key missed. For a step whose state below is not known yet see [`Key::own_causes`].
    pub fn reason(
        &self,
        store: &Store,
        sight: &Sight<'_>,
        miss: Miss,
    ) -> Result<MissReason, StoreError> {
        match miss {
            Miss::Disabled => return Ok(MissReason::Disabled),
            Miss::Corrupt => return Ok(MissReason::Corrupt),
            Miss::Evicted(blob) => return Ok(MissReason::Evicted { blob: Some(blob) }),
            Miss::Absent => {}
        }
        let Some(last) = sight.last(store)? else {
            return Ok(MissReason::First);
        };
        if last.key == *self.digest() {
            return Ok(MissReason::Evicted { blob: None });
        }
        let mut causes = Vec::new();
        if differs(&last, self, "parent") {
            causes.extend(lineage_cause(&last, sight));
        }
        causes.extend(self.causes(store, sight, &last)?);
        Ok(if causes.is_empty() {
            // The order of inputs, or more of a long value than is kept.
            MissReason::Unknown
        } else {
            MissReason::Changed { causes }
        })
    }

    /// What is not as it was of the step itself, whatever it builds on; `None` when nothing is known of it.
    pub fn own_causes(
        &self,
        store: &Store,
        sight: &Sight<'_>,
    ) -> Result<Option<Vec<Cause>>, StoreError> {
        match sight.last(store)? {
            Some(last) => self.causes(store, sight, &last).map(Some),
            None => Ok(None),
        }
    }

    fn causes(
        &self,
        store: &Store,
        sight: &Sight<'_>,
        last: &Last,
    ) -> Result<Vec<Cause>, StoreError> {
        let (before, after) = (&last.inputs, self.inputs());
        let gone = before
            .iter()
            .filter(|input| value(after, &input.name).is_none());
        let mut causes = Vec::new();
        for Input { name, .. } in after.iter().chain(gone) {
            let change = (value(before, name), value(after, name));
            if change.0 == change.1 {
                continue;
            }
            let owned = |text: Option<&str>| text.map(ToOwned::to_owned);
            let (old, new) = (owned(change.0), owned(change.1));
            causes.extend(match subject(name) {
                Subject::Ignored => None,
                Subject::Instruction => {
                    let is_told = causes
                        .iter()
                        .any(|cause| matches!(cause, Cause::Instruction { .. }));
                    (!is_told).then(|| instruction(last, sight, old, new))
                }
                Subject::Variable(variable) => {
                    let of = if new.is_some() { after } else { before };
                    Some(Cause::Variable {
                        name: variable.to_owned(),
                        origin: origin(of, variable),
                        before: old,
                        after: new,
                    })
                }
                Subject::Files => match sight.files.iter().find(|list| list.input == *name) {
                    Some(list) => Some(Cause::Files {
                        from: list.from.clone(),
                        changes: last
                            .files(store, name)?
                            .and_then(|bytes| files::compare(&bytes, &list.files)),
                    }),
                    None => Some(setting(name, old, new)),
                },
                Subject::Setting => Some(setting(name, old, new)),
            });
        }
        Ok(causes)
    }
}

fn differs(last: &Last, key: &Key, name: &str) -> bool {
    value(&last.inputs, name) != value(key.inputs(), name)
}

fn value<'a>(inputs: &'a [Input], name: &str) -> Option<&'a str> {
    inputs
        .iter()
        .find(|input| input.name == name)
        .map(|input| input.value.as_str())
}

/// What an input is, by its name in the key.
enum Subject<'a> {
    /// It says nothing to users, or something else says the same.
    Ignored,
    /// It stands in the instruction.
    Instruction,
    Variable(&'a str),
    Files,
    Setting,
}

fn subject(name: &str) -> Subject<'_> {
    if let Some(variable) = name.strip_prefix("env ") {
        return Subject::Variable(variable);
    }
    if name.starts_with("script ") || name.starts_with("source ") {
        return Subject::Instruction;
    }
    if name == "content" || (name.starts_with("mount ") && name.ends_with(" content")) {
        return Subject::Files;
    }
    match name {
        "parent" | "env" | "scripts" | "mounts" | "ulimits" | "devices" | "sources" | ARGS => {
            Subject::Ignored
        }
        "argv" | "verb" | "destination" | "chmod" | "link" | "parents" | "exclude" | "checksum"
        | "keep git dir" | "unpack" | "path" => Subject::Instruction,
        _ => Subject::Setting,
    }
}

fn setting(name: &str, before: Option<String>, after: Option<String>) -> Cause {
    Cause::Setting {
        name: name.to_owned(),
        before,
        after,
    }
}

/// The texts, or where these are equal (another shell, other text of a heredoc) what differs.
fn instruction(
    last: &Last,
    sight: &Sight<'_>,
    before: Option<String>,
    after: Option<String>,
) -> Cause {
    if last.text == sight.text {
        return Cause::Instruction {
            before: before.unwrap_or_default(),
            after: after.unwrap_or_default(),
        };
    }
    Cause::Instruction {
        before: last.text.clone(),
        after: sight.text.to_owned(),
    }
}

fn origin(inputs: &[Input], variable: &str) -> VariableOrigin {
    let args = value(inputs, ARGS).and_then(|text| serde_json::from_str::<Vec<String>>(text).ok());
    if args.is_some_and(|args| args.iter().any(|name| name == variable)) {
        VariableOrigin::Arg
    } else {
        VariableOrigin::Env
    }
}

/// The first thing that is not as it was on the way from the base to the step.
fn lineage_cause(last: &Last, sight: &Sight<'_>) -> Option<Cause> {
    let (before, after) = (&last.lineage, sight.lineage);
    if before.base != after.base {
        return Some(match (before.base.digest, after.base.digest) {
            (Some(old), Some(new)) if before.base.name == after.base.name => Cause::BaseMoved {
                image: after.base.name.clone(),
                before: old,
                after: new,
            },
            (old, new) => {
                let shown = |name: &str, digest: Option<crate::oci::Digest>| match digest {
                    Some(digest) => format!("{name}@{digest}"),
                    None => name.to_owned(),
                };
                Cause::BaseReplaced {
                    before: shown(&before.base.name, old),
                    after: shown(&after.base.name, new),
                }
            }
        });
    }
    let step = match before.parting(after)? {
        Parting::At(n) => after.steps.get(n).map(|(label, _)| label.clone()),
        // One of these; all of them are as long as many Dockerfiles.
        Parting::Within(first, last) => match (after.steps.get(first), after.steps.get(last)) {
            (Some((first, _)), Some((last, _))) => Some(format!("{first}, or one up to {last}")),
            _ => None,
        },
    };
    Some(Cause::EarlierStep { step })
}

#[cfg(test)]
mod tests;
