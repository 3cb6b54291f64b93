//! Lint: what is allowed but unwise. The rules, names and words are BuildKit's.
//!
//! A [`Rule`] is a value; a [`Warning`] is a rule broken at a place, made by the constructor of its rule. What the
//! text alone shows is found by this module. Some rules need more, and whoever knows it makes the warning: the
//! planner (variables, base images) and the copier (ignored files). A [`Linter`] gathers them and drops those that a
//! `# check=` directive, or a `# check=` comment right above the instruction, does not want.

mod rule;
mod text;

use std::collections::BTreeSet;

use serde_json::json;

pub use rule::Rule;
pub use text::lint;

use super::{Instruction, Word, quote::quoted, scalar::parse_bool};
use crate::source::{Lines, Span};

/// A rule broken at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The rule.
    pub rule: Rule,
    /// What is wrong here, in BuildKit's words.
    pub detail: String,
    /// Where: warnings report the lines of it.
    pub span: Span,
}

impl Warning {
    /// `FROM … AS NAME` with capitals in the name.
    pub fn stage_name_casing(name: &str, span: Span) -> Self {
        Self::new(
            Rule::StageNameCasing,
            span,
            format!("Stage name '{name}' should be lowercase"),
        )
    }

    /// `FROM` and `AS` written differently.
    pub fn from_as_casing(from: &str, as_keyword: &str, span: Span) -> Self {
        Self::new(
            Rule::FromAsCasing,
            span,
            format!("'{as_keyword}' and '{from}' keywords' casing do not match"),
        )
    }

    /// A blank line between continuation lines.
    pub fn no_empty_continuation(span: Span) -> Self {
        Self::new(
            Rule::NoEmptyContinuation,
            span,
            "Empty continuation line".to_owned(),
        )
    }

    /// An instruction written unlike most; `majority` is `uppercase` or `lowercase`.
    pub fn consistent_instruction_casing(keyword: &str, majority: &str, span: Span) -> Self {
        Self::new(
            Rule::ConsistentInstructionCasing,
            span,
            format!(
                "Command '{keyword}' should match the case of the command majority ({majority})"
            ),
        )
    }

    /// A second stage of the name.
    pub fn duplicate_stage_name(name: &str, span: Span) -> Self {
        Self::new(
            Rule::DuplicateStageName,
            span,
            format!(
                "Duplicate stage name {}, stage names should be unique",
                quoted(name)
            ),
        )
    }

    /// A stage called `scratch` or `context`.
    pub fn reserved_stage_name(name: &str, span: Span) -> Self {
        Self::new(
            Rule::ReservedStageName,
            span,
            format!(
                "Stage name should not use the same name as reserved stage {}",
                quoted(name)
            ),
        )
    }

    /// `CMD` or `ENTRYPOINT` in shell form, in a stage whose `SHELL` is not set.
    pub fn json_args_recommended(instruction: &str, span: Span) -> Self {
        Self::new(
            Rule::JsonArgsRecommended,
            span,
            format!(
                "JSON arguments recommended for {instruction} to prevent unintended behavior related to OS signals"
            ),
        )
    }

    /// A `MAINTAINER`.
    pub fn maintainer_deprecated(span: Span) -> Self {
        Self::new(
            Rule::MaintainerDeprecated,
            span,
            "Maintainer instruction is deprecated in favor of using label".to_owned(),
        )
    }

    /// A variable of a `FROM` that no global `ARG` declares, and the one that may be meant.
    pub fn undefined_arg_in_from(name: &str, suggestion: Option<&str>, span: Span) -> Self {
        let hint = suggestion.map_or_else(String::new, |s| format!(" (did you mean {s}?)"));
        let detail = format!("FROM argument '{name}' is not declared{hint}");
        Self::new(Rule::UndefinedArgInFrom, span, detail)
    }

    /// A relative `WORKDIR` in a stage that has set no absolute one.
    pub fn workdir_relative_path(path: &str, span: Span) -> Self {
        Self::new(
            Rule::WorkdirRelativePath,
            span,
            format!(
                "Relative workdir {} can have unexpected results if the base image changes",
                quoted(path)
            ),
        )
    }

    /// A variable that nothing sets, and the one that may be meant.
    pub fn undefined_var(name: &str, suggestion: Option<&str>, span: Span) -> Self {
        let hint = suggestion.map_or_else(String::new, |s| format!(" (did you mean ${s}?)"));
        let detail = format!("Usage of undefined variable '${name}'{hint}");
        Self::new(Rule::UndefinedVar, span, detail)
    }

    /// A `CMD`, `ENTRYPOINT` or `HEALTHCHECK` that a later one of the stage replaces.
    pub fn multiple_instructions_disallowed(instruction: &str, span: Span) -> Self {
        Self::new(
            Rule::MultipleInstructionsDisallowed,
            span,
            format!(
                "Multiple {instruction} instructions should not be used in the same stage because only the last one will be used"
            ),
        )
    }

    /// `ENV KEY value` or `LABEL key value`.
    pub fn legacy_key_value_format(instruction: &str, span: Span) -> Self {
        Self::new(
            Rule::LegacyKeyValueFormat,
            span,
            format!(
                "\"{instruction} key=value\" should be used instead of legacy \"{instruction} key value\" format"
            ),
        )
    }

    /// A base image of another platform than wanted.
    pub fn invalid_base_image_platform(
        image: &str,
        expected: &str,
        actual: &str,
        span: Span,
    ) -> Self {
        Self::new(
            Rule::InvalidBaseImagePlatform,
            span,
            format!(
                "Base image {image} was pulled with platform {}, expected {} for current build",
                quoted(actual),
                quoted(expected)
            ),
        )
    }

    /// `--platform=$TARGETPLATFORM`; `variable` is the flag's value as written.
    pub fn redundant_target_platform(variable: &str, span: Span) -> Self {
        Self::new(
            Rule::RedundantTargetPlatform,
            span,
            format!(
                "Setting platform to predefined {variable} in FROM is redundant as this is the default behavior"
            ),
        )
    }

    /// An `ARG` or `ENV` whose name sounds secret.
    pub fn secrets_used_in_arg_or_env(instruction: &str, name: &str, span: Span) -> Self {
        Self::new(
            Rule::SecretsUsedInArgOrEnv,
            span,
            format!(
                "Do not use ARG or ENV instructions for sensitive data ({instruction} {})",
                quoted(name)
            ),
        )
    }

    /// A `FROM` that is empty or no reference if all `ARG`s have their defaults.
    pub fn invalid_default_arg_in_from(image: &str, span: Span) -> Self {
        Self::new(
            Rule::InvalidDefaultArgInFrom,
            span,
            format!("Default value for ARG {image} results in empty or invalid base image name"),
        )
    }

    /// `FROM --platform` without a variable.
    pub fn from_platform_flag_const_disallowed(platform: &str, span: Span) -> Self {
        Self::new(
            Rule::FromPlatformFlagConstDisallowed,
            span,
            format!(
                "FROM --platform flag should not use constant value {}",
                quoted(platform)
            ),
        )
    }

    /// A source that `.dockerignore` excludes; `verb` is `Copy` or `Add`.
    pub fn copy_ignored_file(verb: &str, path: &str, span: Span) -> Self {
        Self::new(
            Rule::CopyIgnoredFile,
            span,
            format!(
                "Attempting to {verb} file {} that is excluded by .dockerignore",
                quoted(path)
            ),
        )
    }

    /// A comment above a named `FROM` or an `ARG` that does not describe it.
    pub fn invalid_definition_description(instruction: &str, name: &str, span: Span) -> Self {
        Self::new(
            Rule::InvalidDefinitionDescription,
            span,
            format!("Comment for {instruction} should follow the format: `# {name} <description>`"),
        )
    }

    /// A port's protocol with capitals; `port` is the word of `EXPOSE`.
    pub fn expose_proto_casing(port: &str, span: Span) -> Self {
        Self::new(
            Rule::ExposeProtoCasing,
            span,
            format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase"),
        )
    }

    /// A port with an address or a host port.
    pub fn expose_invalid_format(port: &str, span: Span) -> Self {
        Self::new(
            Rule::ExposeInvalidFormat,
            span,
            format!(
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
            ),
        )
    }

    fn new(rule: Rule, span: Span, detail: String) -> Self {
        Self { rule, detail, span }
    }

    /// One line for people: `Rule: detail (line 3)`.
    pub fn line(&self, lines: &Lines) -> String {
        let (line, _) = lines.touched(self.span);
        format!("{}: {} (line {line})", self.rule.name(), self.detail)
    }

    /// The warning as BuildKit's `--call check,format=json` has it; `lines` are the Dockerfile's.
    pub fn to_json(&self, lines: &Lines) -> serde_json::Value {
        let (start, end) = lines.touched(self.span);
        json!({
            "ruleName": self.rule.name(),
            "description": self.rule.description(),
            "url": self.rule.url(),
            "detail": self.detail,
            "location": {
                "ranges": [{ "start": { "line": start }, "end": { "line": end } }],
            },
        })
    }
}

/// Which rules are wanted: the value of a `# check=` directive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checks {
    /// `skip=all`
    pub skip_all: bool,
    /// `skip=A,B`
    pub skip: BTreeSet<String>,
    /// `experimental=all`
    pub experimental_all: bool,
    /// `experimental=A,B`
    pub experimental: BTreeSet<String>,
    /// `error=true`: a warning fails the build.
    pub error: bool,
}

/// Why a `check` value is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChecksError {
    /// A part is no `key=value`, or its key is unknown.
    #[error("failed to parse check options: invalid check option {}", quoted(.0))]
    Option(String),
    /// The value of `error` is neither true nor false.
    #[error("failed to parse check options: failed to parse check option {}: invalid syntax", quoted(.0))]
    Switch(String),
}

impl Checks {
    /// Reads `skip=A,B;experimental=all;error=true`. What follows a blank does not count.
    pub fn parse(value: &str) -> Result<Self, ChecksError> {
        let value = value.split(' ').next().unwrap_or_default().trim();
        let mut checks = Self::default();
        if value.is_empty() {
            return Ok(checks);
        }
        for part in value.splitn(3, ';') {
            let Some((key, value)) = part.split_once('=') else {
                return Err(ChecksError::Option(part.to_owned()));
            };
            let (key, value) = (key.trim(), value.trim());
            let rules = || value.split(',').map(|r| r.trim().to_owned()).collect();
            match key {
                "skip" => match value {
                    "all" => checks.skip_all = true,
                    _ => checks.skip = rules(),
                },
                "experimental" => match value {
                    "all" => checks.experimental_all = true,
                    _ => checks.experimental = rules(),
                },
                "error" => {
                    checks.error =
                        parse_bool(value).ok_or_else(|| ChecksError::Switch(part.to_owned()))?;
                }
                _ => return Err(ChecksError::Option(key.to_owned())),
            }
        }
        Ok(checks)
    }

    /// Whether a breach of the rule is reported.
    pub fn wants(&self, rule: Rule) -> bool {
        if rule.is_experimental() {
            self.experimental_all || self.experimental.contains(rule.name())
        } else {
            !self.skip_all && !self.skip.contains(rule.name())
        }
    }

    /// These checks with those of the first `check=` comment above an instruction; a malformed one does not count.
    #[must_use]
    pub fn with_comments(&self, comments: &[Word]) -> Self {
        let mut merged = self.clone();
        let more = comments.iter().find_map(|comment| {
            let (key, value) = comment.value.split_once('=')?;
            key.trim_end()
                .eq_ignore_ascii_case("check")
                .then(|| value.trim())
                .filter(|value| !value.is_empty())
        });
        if let Some(Ok(more)) = more.map(Self::parse) {
            merged.skip_all |= more.skip_all;
            merged.skip.extend(more.skip);
            merged.experimental_all |= more.experimental_all;
            merged.experimental.extend(more.experimental);
        }
        merged
    }
}

/// Gathers the warnings that are wanted.
#[derive(Debug, Clone, Default)]
pub struct Linter {
    checks: Checks,
    warnings: Vec<Warning>,
}

impl Linter {
    /// A linter that has seen nothing.
    pub const fn new(checks: Checks) -> Self {
        Self {
            checks,
            warnings: Vec::new(),
        }
    }

    /// Takes a warning about an instruction (or about none), unless it is not wanted.
    pub fn report(&mut self, instruction: Option<&Instruction>, warning: Warning) {
        let comments = instruction.map_or(&[][..], |instruction| &instruction.comments);
        self.report_below(comments, warning);
    }

    /// The same about what stands below comments.
    fn report_below(&mut self, comments: &[Word], warning: Warning) {
        let wanted = if comments.is_empty() {
            self.checks.wants(warning.rule)
        } else {
            self.checks.with_comments(comments).wants(warning.rule)
        };
        if wanted {
            self.warnings.push(warning);
        }
    }

    /// What was taken so far, in order of reporting.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The message with which the build fails if `error=true` and something was taken:
    /// `lint violation found for rules: A, B`.
    pub fn error(&self) -> Option<String> {
        if !self.checks.error || self.warnings.is_empty() {
            return None;
        }
        let rules: BTreeSet<&str> = self.warnings.iter().map(|w| w.rule.name()).collect();
        let rules: Vec<&str> = rules.into_iter().collect();
        Some(format!(
            "lint violation found for rules: {}",
            rules.join(", ")
        ))
    }
}
