//! From the Dockerfile to a plan: parsing, and looking up the images that planning asks for.

use std::collections::BTreeMap;

use super::{
    Checked,
    error::{BuildError, FailedImage},
    request::{ContextSource, NamedSource},
    schedule::side_by_side,
    session::Session,
};
use crate::{
    context::Patterns,
    dockerfile::{self, Dockerfile, lint::Warning},
    oci::{ConfigFile, Platform},
    plan::{self, Analysis, EpochSource, ImageSource, NamedContext, Options, Plan, Planned},
    source::Span,
};

/// Parses the Dockerfile.
pub(super) fn load(session: &Session<'_>) -> Result<Dockerfile, BuildError> {
    let request = session.request;
    let name = &request.dockerfile_name;
    let task = session.task(format!("[internal] load build definition from {name}"));
    let file = dockerfile::parse(&request.dockerfile);
    let syntax = request
        .build_args
        .get("BUILDKIT_SYNTAX")
        .map(String::as_str);
    if let Err(error) = file.check_syntax(syntax) {
        task.failed(&Failed(error.message.clone()));
        return Err(BuildError::Invalid(vec![error]));
    }
    task.done();
    Ok(file)
}

/// Plans the build for one platform. `warnings` are what was found in the Dockerfile, also where planning fails.
pub(super) fn plan(
    session: &Session<'_>,
    file: &Dockerfile,
    platform: &Platform,
    warnings: &mut Vec<Warning>,
) -> Result<Plan, BuildError> {
    let mut options = options(session, platform);
    let mut bases: BTreeMap<ImageSource, ConfigFile> = BTreeMap::new();
    loop {
        let analysis = plan::analyse(file, &options, &bases);
        // What an analysis finds, the next one finds again.
        *warnings = analysis.warnings;
        match analysis.outcome.map_err(BuildError::Invalid)? {
            Planned::Plan(plan) => return Ok(*plan),
            Planned::NeedsImages(wanted) => look_up(session, file, &wanted, &mut bases)?,
            Planned::NeedsEpoch(source, span) => {
                options.epoch = Some(epoch(session, &source, span)?);
            }
        }
    }
}

/// Analyses all of the file, or what the target needs of it: for this machine, as in BuildKit, whatever platform the request
/// names.
pub(super) fn analyse(session: &Session<'_>, file: &Dockerfile, all_stages: bool) -> Checked {
    let mut options = options(session, &Platform::host().normalized());
    options.platform_explicit = false;
    options.all_stages = all_stages;
    let mut bases = BTreeMap::new();
    loop {
        let Analysis {
            warnings,
            outcome,
            outline,
        } = plan::analyse(file, &options, &bases);
        let needs = match outcome {
            Ok(Planned::NeedsImages(wanted)) => look_up(session, file, &wanted, &mut bases),
            Ok(Planned::NeedsEpoch(source, span)) => {
                epoch(session, &source, span).map(|time| options.epoch = Some(time))
            }
            Ok(Planned::Plan(_)) => {
                let outline = outline.expect("a plan comes with its outline");
                return Checked {
                    warnings,
                    outcome: Ok(outline),
                };
            }
            Err(errors) => Err(BuildError::Invalid(errors)),
        };
        if let Err(error) = needs {
            return Checked {
                warnings,
                outcome: Err(error),
            };
        }
    }
}

fn options(session: &Session<'_>, platform: &Platform) -> Options {
    let request = session.request;
    let contexts = request.named_contexts.iter().map(|(name, source)| {
        let kind = match source {
            NamedSource::Directory { .. } | NamedSource::Tree(..) => NamedContext::Directory,
            NamedSource::Image(image) if image == "scratch" => NamedContext::Scratch,
            NamedSource::Image(_) | NamedSource::Layout { .. } => NamedContext::Image,
        };
        (name.clone(), kind)
    });
    Options {
        target: request.target.clone(),
        build_args: request.build_args.clone(),
        platform: platform.clone(),
        platform_explicit: request.platform_explicit,
        contexts: contexts.collect(),
        multi_platform: request.multi_platform,
        hostname: request.hostname.clone(),
        ignore: match &request.context {
            ContextSource::Directory { patterns, .. } => patterns.clone(),
            ContextSource::Tree(_) | ContextSource::Empty => Patterns::default(),
        },
        ..Options::default()
    }
}

/// How many images are looked up at the same time.
const MAX_LOOKUPS: usize = 32;

/// Looks up images side by side.
fn look_up(
    session: &Session<'_>,
    file: &Dockerfile,
    wanted: &[(ImageSource, Span)],
    bases: &mut BTreeMap<ImageSource, ConfigFile>,
) -> Result<(), BuildError> {
    let found = side_by_side(wanted.len(), MAX_LOOKUPS, |n| {
        let (source, span) = &wanted[n];
        (source, metadata(session, file, source, *span))
    });
    for (source, config) in found {
        bases.insert(source.clone(), config?);
    }
    Ok(())
}

fn metadata(
    session: &Session<'_>,
    file: &Dockerfile,
    source: &ImageSource,
    span: Span,
) -> Result<ConfigFile, BuildError> {
    let platform = if session.request.multi_platform {
        format!("{} ", source.platform)
    } else {
        String::new()
    };
    let name = &source.name;
    let task = session.task(format!("[{platform}internal] load metadata for {name}"));
    match session.images.get(session, source) {
        Ok(image) => {
            task.done();
            Ok(image.config.clone())
        }
        Err(error) => {
            task.failed(&error);
            Err(BuildError::Image(Box::new(FailedImage {
                name: source.name.clone(),
                span,
                suggestion: source.suggest(file).map(ToOwned::to_owned),
                source: error,
            })))
        }
    }
}

/// The moment that a source stands for; none for files without a history.
fn epoch(
    session: &Session<'_>,
    source: &EpochSource,
    span: Span,
) -> Result<Option<i64>, BuildError> {
    match source {
        EpochSource::Context => Ok(session.request.context_time),
        EpochSource::Named(name) => Ok(match session.request.named_contexts.get(name) {
            Some(NamedSource::Tree(_, time)) => *time,
            _ => None,
        }),
        EpochSource::Remote {
            source: remote,
            checksum,
        } => {
            let task = session.task("[internal] load the time of SOURCE_DATE_EPOCH");
            match session
                .remotes
                .get(session, &task, remote, checksum.as_deref(), None)
            {
                Ok(fetched) => {
                    task.done();
                    Ok(fetched.time.or_else(|| fetched.newest_file()))
                }
                Err(error) => {
                    task.failed(&error);
                    Err(BuildError::Epoch {
                        span,
                        source: Box::new(error),
                    })
                }
            }
        }
    }
}

/// A message as an error, for progress.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String);
