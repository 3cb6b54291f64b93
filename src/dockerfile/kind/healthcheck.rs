//! `HEALTHCHECK`.

use std::time::Duration;

use super::{Parsed, Request};
use crate::{
    dockerfile::{
        HealthCommand, Healthcheck, InstructionKind,
        flags::{Flags, Takes, flag_span},
        quote::quoted,
        scalar::parse_duration,
    },
    source::{Diagnostic, Span},
};

impl Request<'_> {
    pub(super) fn healthcheck(&self) -> Parsed {
        let [kind, args @ ..] = self.at_least_one("HEALTHCHECK")? else {
            return Err(self.error("HEALTHCHECK requires at least one argument"));
        };
        let name = kind.value.to_uppercase();
        if name == "NONE" {
            return match args {
                [] => Ok(InstructionKind::Healthcheck(Healthcheck::None)),
                _ => Err(self.error("HEALTHCHECK NONE takes no arguments")),
            };
        }
        let flags = self.flags(&[
            ("interval", Takes::Value),
            ("timeout", Takes::Value),
            ("start-period", Takes::Value),
            ("start-interval", Takes::Value),
            ("retries", Takes::Value),
        ])?;
        if name != "CMD" {
            return Err(Diagnostic::error(
                format!("Unknown type {} in HEALTHCHECK (try CMD)", quoted(&name)),
                kind.span,
            ));
        }
        if args.is_empty() {
            return Err(self.error("Missing command after HEALTHCHECK CMD"));
        }
        let duration = |name: &str| self.duration(&flags, name);
        Ok(InstructionKind::Healthcheck(Healthcheck::Check(
            HealthCommand {
                command: self.command(args),
                interval: duration("interval")?,
                timeout: duration("timeout")?,
                start_period: duration("start-period")?,
                start_interval: duration("start-interval")?,
                retries: retries(&flags)?,
            },
        )))
    }

    fn duration(&self, flags: &Flags<'_>, name: &str) -> Result<Duration, Diagnostic> {
        let Some(value) = flags.value_not_empty(name) else {
            return Ok(Duration::ZERO);
        };
        let span = self.flag_span(name, value.span);
        let duration = parse_duration(&value.value).map_err(|m| Diagnostic::error(m, span))?;
        match duration {
            Some(d) if d.is_zero() || d >= Duration::from_millis(1) => Ok(d),
            _ => Err(Diagnostic::error(
                format!("Interval {} cannot be less than 1ms", quoted(name)),
                span,
            )),
        }
    }

    fn flag_span(&self, name: &str, otherwise: Span) -> Span {
        let flag = self.node.flags.iter().find(|f| f.name.value == name);
        flag.map_or(otherwise, flag_span)
    }
}

/// The value of a `HEALTHCHECK --retries`.
fn retries(flags: &Flags<'_>) -> Result<u32, Diagnostic> {
    let Some(value) = flags.value_not_empty("retries") else {
        return Ok(0);
    };
    let text = value.value.as_str();
    match text.parse::<i32>() {
        Ok(retries) => u32::try_from(retries).map_err(|_negative| {
            Diagnostic::error(
                format!("--retries cannot be negative ({retries})"),
                value.span,
            )
        }),
        Err(error) => {
            let reason = match error.kind() {
                std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
                    "value out of range"
                }
                _ => "invalid syntax",
            };
            Err(Diagnostic::error(
                format!("strconv.ParseInt: parsing {}: {reason}", quoted(text)),
                value.span,
            ))
        }
    }
}
