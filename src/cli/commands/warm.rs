//! `rbuild warm`: fetches ahead what builds will need, so that they ask no registry.
//!
//! **Images** come with all that `pull` fetches: manifests, configs and layers, under the names that Dockerfiles use; a build takes
//! them from the store until `--pull` or another `warm`. Names are found in two turns: first those that a Dockerfile itself
//! has, then, with the configs of these at hand, those that `ONBUILD` triggers of its bases have. Of an image for several
//! platforms the name leads to an index of those that were wanted, so one `warm` for all is not the same as one for each.
//! Layers are not unpacked; the first `RUN` on a base does that.
//!
//! **Caches** are taken in as a whole: records, and the layers that the cache has, each verified. A build finds them without
//! `--cache-from` then.
//!
//! Any number of these may run on one store, beside builds. What has come stays when something else fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use rbuild::{
    cache::remote::{self, PlaceError},
    dockerfile::{self, Dockerfile},
    oci::{ConfigFile, Descriptor, Digest, Manifest, Platform},
    plan::{self, ImageSource, Options, Planned},
    progress::{Event, Reporter as _, Vertex},
    reference::Reference,
    registry::Settings,
    store::Store,
};

use super::{images, registry};
use crate::cli::{
    args::WarmArgs,
    cache,
    cache_spec::CacheFrom,
    classify,
    count::counted,
    diagnostics::{Failure, Kind, Source},
    environment::Environment,
    inputs, settings, stdout,
    transfer::Transfer,
};

/// How many images are fetched at a time; each fetches several layers at a time.
const AT_ONCE: usize = 4;
/// As often triggers are looked through for names of images that have triggers themselves.
const MAX_TURNS: usize = 16;

/// Fetches images and caches, and prints what each name leads to.
pub(crate) fn run(store: &Store, args: &WarmArgs, env: &Environment) -> Result<(), Failure> {
    let platforms = settings::platforms(&args.platform, env)?;
    let explicit = settings::platform_is_explicit(&args.platform, env);
    let mut wanted = BTreeSet::new();
    for image in &args.images {
        let reference = images::reference(image)?.with_default_tag();
        for platform in &platforms {
            wanted.insert((reference.to_string(), platform.clone()));
        }
    }
    let mut builds = Vec::new();
    for file in &args.file {
        let source = inputs::dockerfile(Path::new("."), Some(file))?;
        let file = dockerfile::parse(&source.text);
        for platform in &platforms {
            let options = Options {
                build_args: settings::build_args(&args.build_arg, env),
                platform: platform.clone(),
                platform_explicit: explicit,
                all_stages: true,
                epoch: Some(None),
                ..Options::default()
            };
            wanted.extend(names(&source, &file, &options)?);
            builds.push((file.clone(), options));
        }
    }
    let renderer = registry::renderer(&args.talk, env)?;
    let client = registry::client(&args.registries, &renderer, env)?;
    let mut warmer = Warmer {
        transfer: Transfer {
            store,
            registry: &client,
            reporter: &renderer,
        },
        next: 0,
        images: BTreeMap::new(),
        names: BTreeMap::new(),
    };
    let mut outcome = warmer.fetch(wanted);
    for (file, options) in &builds {
        if outcome.is_ok() {
            outcome = warmer.follow_triggers(file, options);
        }
    }
    // Caches are no less wanted because an image cannot be had.
    for from in &args.cache_from {
        let mut settings = args.registries.settings(env)?;
        settings.warn = Some(renderer.takes_remarks());
        outcome = outcome.and(warmer.take_in(from, settings, &platforms, env));
    }
    renderer.finish();
    for (name, digest) in &warmer.names {
        stdout::print(&format!("{name}@{digest}\n"))?;
    }
    outcome
}

/// A name, and the platform that it is wanted for.
type Wanted = (String, Platform);

fn wanted(image: &ImageSource) -> Wanted {
    (image.name.clone(), image.platform.clone())
}

/// The images that any stage of a Dockerfile names. Those that triggers of an image name are not known yet.
fn names(source: &Source, file: &Dockerfile, options: &Options) -> Result<Vec<Wanted>, Failure> {
    let options = Options {
        assume_bases: true,
        ..options.clone()
    };
    match plan::plan(file, &options, &BTreeMap::new()) {
        Ok(Planned::Plan(plan)) => Ok(plan.images.iter().map(|(image, _)| wanted(image)).collect()),
        Ok(Planned::NeedsEpoch(..) | Planned::NeedsImages(_)) => Err(Failure::new(
            Kind::Bug,
            "the plan asks for what it was told to do without",
        )),
        Err(errors) => Err(Failure::from_diagnostics(source.clone(), &errors)),
    }
}

/// What is fetched, and what has been.
struct Warmer<'a> {
    transfer: Transfer<'a>,
    /// The number of the last line of work.
    next: u64,
    /// The manifest of each image.
    images: BTreeMap<Wanted, Descriptor>,
    /// What each name leads to.
    names: BTreeMap<String, Digest>,
}

impl Warmer<'_> {
    fn vertex(&mut self) -> Vertex {
        self.next += 1;
        Vertex(self.next)
    }

    /// Fetches what has not been yet, some at a time; the first failure in the order of names is the one told.
    fn fetch(&mut self, wanted: BTreeSet<Wanted>) -> Result<(), Failure> {
        // By name: all platforms of one together, those of an earlier turn too, since one index leads to them.
        let mut by_name: BTreeMap<String, BTreeSet<Platform>> = BTreeMap::new();
        for (name, platform) in wanted {
            if !self.images.contains_key(&(name.clone(), platform.clone())) {
                by_name.entry(name).or_default().insert(platform);
            }
        }
        for (name, platform) in self.images.keys() {
            if let Some(platforms) = by_name.get_mut(name) {
                platforms.insert(platform.clone());
            }
        }
        let jobs: Vec<(Vertex, String, Vec<Platform>)> = by_name
            .into_iter()
            .map(|(name, platforms)| (self.vertex(), name, platforms.into_iter().collect()))
            .collect();
        let work = Mutex::new(jobs.iter());
        let done = Mutex::new(BTreeMap::new());
        let transfer = &self.transfer;
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(jobs.len()) {
                scope.spawn(|| {
                    loop {
                        let next = work.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some((vertex, name, platforms)) = next else {
                            break;
                        };
                        let outcome = pull(transfer, *vertex, name, platforms);
                        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                        done.insert(name.clone(), (platforms, outcome));
                    }
                });
            }
        });
        let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut first = Ok(());
        for (name, (platforms, outcome)) in done {
            match outcome {
                Ok((named, manifests)) => {
                    for (platform, manifest) in platforms.iter().zip(manifests) {
                        let image = (name.clone(), platform.clone());
                        self.images.insert(image, manifest);
                    }
                    self.names.insert(name, named.digest);
                }
                Err(failure) => first = first.and(Err(failure)),
            }
        }
        first
    }

    /// Fetches the images that triggers of the bases name, and so on with the triggers of these.
    fn follow_triggers(&mut self, file: &Dockerfile, options: &Options) -> Result<(), Failure> {
        let mut bases: BTreeMap<ImageSource, ConfigFile> = BTreeMap::new();
        for _ in 0..MAX_TURNS {
            let images: Vec<ImageSource> = match plan::plan(file, options, &bases) {
                Ok(Planned::NeedsImages(images)) => {
                    images.into_iter().map(|(image, _)| image).collect()
                }
                Ok(Planned::Plan(plan)) => {
                    let images = plan.images.iter().map(|(image, _)| wanted(image));
                    return self.fetch(images.collect());
                }
                // What is wrong in a stage that nobody builds is wrong for nobody; a build tells.
                Ok(Planned::NeedsEpoch(..)) | Err(_) => return Ok(()),
            };
            self.fetch(images.iter().map(wanted).collect())?;
            for image in images {
                if let Some(manifest) = self.images.get(&wanted(&image)) {
                    bases.insert(image, config(self.transfer.store, manifest)?);
                }
            }
        }
        Ok(())
    }

    /// Takes in a cache. That there is none yet is fine; one that cannot be read is not: it is what was asked for.
    fn take_in(
        &mut self,
        from: &CacheFrom,
        settings: Settings,
        platforms: &[Platform],
        env: &Environment,
    ) -> Result<(), Failure> {
        let place = cache::open(&from.0, settings, env)?;
        let (vertex, begun) = (self.vertex(), Instant::now());
        let reporter = self.transfer.reporter;
        reporter.event(Event::Started {
            vertex,
            name: format!("import cache of {}", place.name()),
        });
        let lost = |blob: &Descriptor, error: &PlaceError| {
            let text = format!(
                "the layer {} of the cache is left out: {error}",
                blob.digest
            );
            reporter.event(Event::Warning { text });
        };
        let imported = remote::import_steps(self.transfer.store, &*place, platforms, &lost);
        let text = match imported {
            Ok(imported) => format!(
                "{} and {} are new",
                counted(imported.steps, "step"),
                counted(imported.layers, "layer")
            ),
            Err(error @ PlaceError::Absent) => error.to_string(),
            Err(error) => {
                reporter.event(Event::Failed {
                    vertex,
                    message: error.to_string(),
                });
                return Err(classify::failure(&error));
            }
        };
        reporter.event(Event::Status { vertex, text });
        reporter.event(Event::Done {
            vertex,
            elapsed: begun.elapsed(),
        });
        Ok(())
    }
}

fn pull(
    transfer: &Transfer<'_>,
    vertex: Vertex,
    name: &str,
    platforms: &[Platform],
) -> Result<(Descriptor, Vec<Descriptor>), Failure> {
    let reference = Reference::parse(name)
        .map_err(|e| Failure::new(Kind::Build, format!("image `{name}`: {e}")))?;
    let pulled = transfer.pull_all(vertex, &reference.with_default_tag(), platforms);
    pulled.map_err(|e| classify::failure(&e).during(format!("cannot pull `{name}`")))
}

/// The config of an image that was fetched.
fn config(store: &Store, manifest: &Descriptor) -> Result<ConfigFile, Failure> {
    let read = |descriptor: &Descriptor| {
        let bytes = store.read_blob(descriptor);
        bytes.map_err(|e| classify::failure(&e))
    };
    let malformed = |error: serde_json::Error| {
        Failure::new(Kind::Remote, format!("{}: {error}", manifest.digest))
    };
    let document: Manifest = serde_json::from_slice(&read(manifest)?).map_err(malformed)?;
    serde_json::from_slice(&read(&document.config)?).map_err(malformed)
}
