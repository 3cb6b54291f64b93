//! `rbuild warm`: fetches ahead what builds will need.
//!
//! What `pull` fetches is fetched: manifests, configs and layers, under the names that Dockerfiles use, so that a build
//! asks no registry until `--pull` or another `warm`. Layers are not unpacked; the first `RUN` on a base does that. Any
//! number of these may run on one store, beside builds.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Mutex, PoisonError},
};

use rbuild::{
    dockerfile,
    oci::{Digest, Platform},
    plan::{self, Options, Planned},
    progress::Vertex,
    reference::Reference,
    store::Store,
};

use super::{images, registry};
use crate::cli::{
    args::WarmArgs,
    classify,
    diagnostics::{Failure, Kind, Source},
    environment::Environment,
    inputs, settings, stdout,
    transfer::Transfer,
};

/// How many images are fetched at a time; each fetches several layers at a time.
const AT_ONCE: usize = 4;

/// Fetches the images and prints what each name leads to.
pub(crate) fn run(store: &Store, args: &WarmArgs, env: &Environment) -> Result<(), Failure> {
    let given: Vec<String> = args.platform.iter().cloned().collect();
    let platforms = settings::platforms(&given, env)?;
    let [platform] = platforms.as_slice() else {
        return Err(Failure::usage("images are fetched for one platform"));
    };
    let options = Options {
        build_args: settings::build_args(&args.build_arg, env),
        platform: platform.clone(),
        platform_explicit: settings::platform_is_explicit(&given, env),
        all_stages: true,
        assume_bases: true,
        ..Options::default()
    };
    let mut wanted = BTreeSet::new();
    for image in &args.images {
        let reference = images::reference(image)?.with_default_tag();
        wanted.insert((reference.to_string(), platform.clone()));
    }
    for file in &args.file {
        let source = inputs::dockerfile(Path::new("."), Some(file))?;
        wanted.extend(bases(&source, options.clone())?);
    }
    if let Some((name, _)) = twice(&wanted) {
        return Err(Failure::usage(format!(
            "`{name}` is wanted for two platforms, and the store has one of a name"
        )));
    }
    let renderer = registry::renderer(&args.talk, env)?;
    let client = registry::client(&args.registries, &renderer, env)?;
    let transfer = Transfer {
        store,
        registry: &client,
        reporter: &renderer,
    };
    let fetched = fetch(&transfer, wanted.into_iter().collect());
    renderer.finish();
    for (name, digest) in fetched? {
        stdout::print(&format!("{name}@{digest}\n"))?;
    }
    Ok(())
}

type Wanted = (String, Platform);

/// The images that any stage of a Dockerfile names. Those that `ONBUILD` triggers of an image name are not known yet.
fn bases(source: &Source, mut options: Options) -> Result<Vec<Wanted>, Failure> {
    let file = dockerfile::parse(&source.text);
    loop {
        match plan::plan(&file, &options, &BTreeMap::new()) {
            Ok(Planned::Plan(plan)) => {
                let images = plan.images.into_iter();
                return Ok(images
                    .map(|(image, _)| (image.name, image.platform))
                    .collect());
            }
            // No image depends on the moment.
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

fn twice(wanted: &BTreeSet<Wanted>) -> Option<&Wanted> {
    let pairs = wanted.iter().zip(wanted.iter().skip(1));
    pairs
        .map(|(a, b)| (a, b.0 == a.0))
        .find(|(_, same)| *same)
        .map(|(a, _)| a)
}

/// Fetches all, some at a time; the first failure in their order is the one told.
fn fetch(transfer: &Transfer<'_>, wanted: Vec<Wanted>) -> Result<Vec<(String, Digest)>, Failure> {
    let work = Mutex::new(
        (1..)
            .zip(wanted)
            .collect::<Vec<(u64, Wanted)>>()
            .into_iter(),
    );
    let done = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = work.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((n, (name, platform))) = next else {
                        break;
                    };
                    let outcome = pull(transfer, Vertex(n), &name, &platform);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.insert(n, outcome.map(|digest| (name, digest)));
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.into_values().collect()
}

fn pull(
    transfer: &Transfer<'_>,
    vertex: Vertex,
    name: &str,
    platform: &Platform,
) -> Result<Digest, Failure> {
    let reference = Reference::parse(name)
        .map_err(|e| Failure::new(Kind::Build, format!("image `{name}`: {e}")))?;
    let pulled = transfer.pull(vertex, &reference.with_default_tag(), platform);
    pulled
        .map(|descriptor| descriptor.digest)
        .map_err(|e| classify::failure(&e))
}
