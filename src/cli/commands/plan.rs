//! `rbuild plan`: what a build would do, from the Dockerfile alone.

use std::collections::BTreeMap;

use rbuild::{
    dockerfile,
    plan::{self, NamedContext, Options, Plan, Planned},
    source::Severity,
};

use crate::cli::{
    args::{DataFormat, PlanArgs},
    diagnostics::{self, Failure, Kind, Source},
    environment::Environment,
    inputs, settings, stdout,
    terminal::Colour,
};

/// Prints the plan.
pub(crate) fn run(args: &PlanArgs, env: &Environment) -> Result<(), Failure> {
    let source = inputs::dockerfile(&args.context, args.file.as_deref())?;
    let given: Vec<String> = args.platform.iter().cloned().collect();
    let platform_explicit = settings::platform_is_explicit(&given, env);
    let mut platforms = settings::platforms(&given, env)?;
    if platforms.len() > 1 {
        return Err(Failure::usage("a plan is for one platform"));
    }
    let mut options = Options {
        target: args.target.clone().filter(|target| !target.is_empty()),
        build_args: settings::build_args(&args.build_arg, env),
        platform_explicit,
        contexts: contexts(args),
        assume_bases: true,
        all_configs: true,
        ..Options::default()
    };
    if let Some(platform) = platforms.pop() {
        options.platform = platform;
    }
    let colour = settings::colour(env);
    let plan = plan(&source, options, colour)?;
    for warning in plan.warnings.iter().chain(&plan.unused_args) {
        diagnostics::warn(&diagnostics::render_warning(&source, warning, colour));
    }
    match args.format {
        DataFormat::Text => stdout::print(&plan.to_string()),
        DataFormat::Json => stdout::print_json(&plan),
    }
}

fn plan(source: &Source, mut options: Options, colour: Colour) -> Result<Plan, Failure> {
    let file = dockerfile::parse(&source.text);
    let syntax = options.build_args.get("BUILDKIT_SYNTAX");
    // A build refuses another language; a plan shows how the file reads in the one that is known.
    if let Err(mut other) = file.check_syntax(syntax.map(String::as_str)) {
        other.severity = Severity::Warning;
        diagnostics::warn(&diagnostics::render_warning(source, &other, colour));
    }
    let bases = BTreeMap::new();
    loop {
        match plan::plan(&file, &options, &bases) {
            Ok(Planned::Plan(plan)) => return Ok(*plan),
            // The time of a source takes looking at it, which a plan does not.
            Ok(Planned::NeedsEpoch(..)) if options.epoch.is_none() => options.epoch = Some(None),
            Ok(Planned::NeedsEpoch(..) | Planned::NeedsImages(_)) => {
                return Err(Failure::new(
                    Kind::Bug,
                    "the plan asks for what it was told to do without",
                ));
            }
            Err(errors) => return Err(Failure::from_diagnostics(source.clone(), &errors)),
        }
    }
}

/// What the named contexts are, as far as their spelling tells.
fn contexts(args: &PlanArgs) -> BTreeMap<String, NamedContext> {
    args.build_context
        .iter()
        .map(|pair| {
            let value = pair.value.as_deref().unwrap_or_default();
            let kind = match value.strip_prefix("docker-image://") {
                Some("scratch") => NamedContext::Scratch,
                Some(_) => NamedContext::Image,
                None if value.starts_with("oci-layout://") => NamedContext::Image,
                None => NamedContext::Directory,
            };
            (pair.key.clone(), kind)
        })
        .collect()
}
