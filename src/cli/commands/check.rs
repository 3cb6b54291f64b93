//! `--check` and `--call`: what there is to say of a Dockerfile, without building it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rbuild::{
    build::{self, BuildError, Checked},
    dockerfile::lint::Warning,
    plan,
    source::{Diagnostic, Lines, Severity, Span},
};
use serde_json::{Value, json};

use super::build::Session;
use crate::cli::{
    args::DataFormat,
    build_args::BuildArgs,
    call::{self, Call, Method},
    diagnostics::{self, Failure, Kind, Source},
    stdout,
    terminal::Colour,
};

/// Does what `--call` says.
pub(crate) fn run(args: &BuildArgs, session: &Session<'_>, colour: Colour) -> Result<(), Failure> {
    let call = args.call;
    let method = if args.check {
        Method::Check
    } else {
        call.method
    };
    match method {
        Method::Targets => targets(session, call.format),
        Method::Outline => outline(session, call.format),
        Method::Describe => match call.format {
            DataFormat::Json => stdout::print_json(&call::described_json()),
            DataFormat::Text => stdout::print(&call::described()),
        },
        Method::Check | Method::Build => check(session, call, colour),
    }
}

fn source(session: &Session<'_>) -> Source {
    Source::new(
        session.request.dockerfile_name.clone(),
        session.request.dockerfile.clone(),
    )
}

fn targets(session: &Session<'_>, format: DataFormat) -> Result<(), Failure> {
    let file = rbuild::dockerfile::parse(&session.request.dockerfile);
    if file.has_errors() {
        return Err(Failure::from_diagnostics(
            source(session),
            &file.diagnostics,
        ));
    }
    let found = plan::targets(&file);
    match format {
        DataFormat::Json => stdout::print_json(&found),
        DataFormat::Text => stdout::print(&found.to_string()),
    }
}

fn outline(session: &Session<'_>, format: DataFormat) -> Result<(), Failure> {
    let outline = build::check(session.request, session.services, false)
        .outcome
        .map_err(|error| session.failure(&error))?;
    match format {
        DataFormat::Json => stdout::print_json(&outline),
        DataFormat::Text => stdout::print(&outline.to_string()),
    }
}

/// Reports findings; with any, the exit status is 1, unless `ignorestatus=true`.
fn check(session: &Session<'_>, call: Call, colour: Colour) -> Result<(), Failure> {
    let source = source(session);
    let all_stages = session.request.target.is_none();
    let Checked { warnings, outcome } = build::check(session.request, session.services, all_stages);
    let error = outcome.err();
    match call.format {
        DataFormat::Json => stdout::print_json(&report(&source, &warnings, error.as_ref()))?,
        // What is wrong tells that the check is not complete.
        DataFormat::Text if warnings.is_empty() && error.is_some() => {}
        DataFormat::Text => stdout::print(&report_text(&source, &warnings, colour))?,
    }
    match error {
        Some(error) => Err(session.failure(&error)),
        None if warnings.is_empty() || call.ignore_status => Ok(()),
        None => Err(Failure::silent(Kind::Build)),
    }
}

/// The findings in BuildKit's shape.
fn report(source: &Source, warnings: &[Warning], error: Option<&BuildError>) -> Value {
    let lines = Lines::of(&source.text);
    let mut report = json!({
        "warnings": warnings.iter().map(|w| w.to_json(&lines)).collect::<Vec<_>>(),
        "sources": [{
            "filename": source.name,
            "language": "Dockerfile",
            "data": STANDARD.encode(&source.text),
        }],
    });
    if let Some(error) = error {
        let mut message = error.to_string();
        for cause in diagnostics::causes(error) {
            message.push_str(": ");
            message.push_str(&cause);
        }
        report["buildError"] = json!({"message": message});
        if let Some(span) = span(error) {
            let (start, end) = span.lines(&source.text);
            let range = json!({"start": {"line": start}, "end": {"line": end}});
            report["buildError"]["location"] = json!({"ranges": [range]});
        }
    }
    report
}

/// Where in the Dockerfile an error is.
fn span(error: &BuildError) -> Option<Span> {
    match error {
        BuildError::Invalid(errors) => errors.first().map(|first| first.span),
        BuildError::Image(image) => Some(image.span),
        BuildError::Epoch { span, .. } => Some(*span),
        _ => None,
    }
}

fn report_text(source: &Source, warnings: &[Warning], colour: Colour) -> String {
    let mut out = match warnings.len() {
        0 => "Check complete, no warnings found.\n".to_owned(),
        1 => "Check complete, 1 warning has been found!\n\n".to_owned(),
        n => format!("Check complete, {n} warnings have been found!\n\n"),
    };
    for warning in warnings {
        let finding = Diagnostic {
            severity: Severity::Warning,
            message: format!("{}: {}", warning.rule.name(), warning.detail),
            span: warning.span,
            hint: Some(format!("see {}", warning.rule.url())),
        };
        out.push_str(&diagnostics::render_warning(source, &finding, colour));
    }
    out
}
