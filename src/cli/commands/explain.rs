//! `rbuild explain`, and the end of `rbuild build --explain`.

use rbuild::{build, explain::Explanation};

use super::build::Session;
use crate::cli::{
    args::{DataFormat, ProgressForm},
    build_args::BuildArgs,
    call::Method,
    diagnostics::{self, Failure},
    explain, stdout,
};

/// Refuses options that ask for something else than a build.
pub(crate) fn check_options(args: &BuildArgs) -> Result<(), Failure> {
    if args.check || args.call.method != Method::Build {
        return Err(Failure::usage(
            "`rbuild explain` explains builds; --check and --call ask for none",
        ));
    }
    if args.explain.is_some() {
        return Err(
            Failure::usage("--explain is for `rbuild build`").with_hint("use --format json here")
        );
    }
    Ok(())
}

/// Predicts the build and prints what is found.
pub(crate) fn run(format: DataFormat, session: &Session<'_>) -> Result<(), Failure> {
    let predicted = build::predict(session.request, session.services);
    let steps = session.renderer.finish();
    let explanation = predicted.map_err(|error| session.failure(&error).with_steps(steps))?;
    print(format, &explanation)
}

fn print(format: DataFormat, explanation: &Explanation) -> Result<(), Failure> {
    match format {
        DataFormat::Json => stdout::print_json(explanation),
        DataFormat::Text => stdout::print(&explain::text(explanation)),
    }
}

/// What is said at the end of a build: everything as JSON, or in words where progress says nothing.
pub(crate) fn report(
    asked: Option<DataFormat>,
    form: ProgressForm,
    explanation: &Explanation,
) -> Result<(), Failure> {
    match asked {
        Some(DataFormat::Json) => print(DataFormat::Json, explanation),
        Some(DataFormat::Text) if form == ProgressForm::Quiet => {
            diagnostics::warn(&explain::text(explanation));
            Ok(())
        }
        Some(DataFormat::Text) | None => Ok(()),
    }
}
