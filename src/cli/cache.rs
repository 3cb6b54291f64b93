//! Remote caches of a build: the places that the command line names, and writing to them when the build is over.

use std::{
    cell::RefCell,
    io::{self, Read},
    sync::Arc,
    time::{Duration, Instant},
};

use rbuild::{
    cache::remote::{
        self, GhaPlace, GhaSettings, Imports, LayerSource, LayoutPlace, Mode, MountChoice,
        MountError, MountPacker, Place, PlaceError, RegistryPlace, RemoteCache, S3Place,
        S3Settings, What,
    },
    oci::{Descriptor, Digest, Platform},
    output::Image,
    progress::{Event, Reporter as _, Vertex},
    reference::Reference,
    registry::{Client, OnBytes, Pushed, Secret, Settings, settings::Canceled},
    snapshot::Style,
    store::{CacheMountId, Store},
};

use super::{
    build_args::BuildArgs,
    cache_spec::{CacheTo, PlaceSpec, S3Spec},
    classify,
    count::counted,
    diagnostics::{Failure, with_causes},
    environment::Environment,
    progress::Renderer,
    signals::Received,
    transfer,
};

/// How often a request to a cache that is read is made: a build waits for it, and can do without.
const IMPORT_ATTEMPTS: u32 = 2;

/// How long such a cache may take to answer, or ask to wait; what does not answer by then is a miss.
const IMPORT_WAIT: Duration = Duration::from_secs(20);

/// The caches that a build reads and writes.
pub(crate) struct Caches {
    /// What the build works with.
    pub(crate) remote: RemoteCache,
    exports: Vec<Export>,
    inline: bool,
    /// The manifest of the last cache that was written, of those that are images.
    manifest: RefCell<Option<Descriptor>>,
}

struct Export {
    place: Box<dyn Place>,
    kind: &'static str,
    mode: Mode,
    ignore_error: bool,
}

impl Caches {
    /// Those of a command line. `settings` are the build's; writing goes on when the build has failed, and ends with a signal.
    pub(crate) fn new(
        args: &BuildArgs,
        settings: &Settings,
        env: &Environment,
        received: &Received,
    ) -> Result<Self, Failure> {
        let mut settings = settings.clone();
        let froms = args.cache_from.iter().map(|from| &from.0);
        let tos = args.cache_to.iter().filter_map(|to| match to {
            CacheTo::Inline => None,
            CacheTo::Place { place, .. } => Some(place),
        });
        settings
            .insecure
            .extend(froms.chain(tos).filter_map(insecure));
        let client = |settings| {
            let client = Client::new(settings).map_err(|e| classify::failure(&e))?;
            Ok::<_, Failure>(Arc::new(client))
        };
        let mut imports: Vec<Arc<dyn Place>> = Vec::new();
        if !args.cache_from.is_empty() {
            let mut settings = settings.clone();
            let (retry, timeouts) = (&mut settings.retry, &mut settings.timeouts);
            retry.attempts = retry.attempts.min(IMPORT_ATTEMPTS);
            retry.max_retry_after = retry.max_retry_after.min(IMPORT_WAIT);
            timeouts.idle = timeouts.idle.min(IMPORT_WAIT);
            let client = client(settings)?;
            for from in &args.cache_from {
                imports.push(place(&from.0, &client, env)?.into());
            }
        }
        let mut exports = Vec::new();
        let signal = received.clone();
        settings.canceled = Some(Canceled(Arc::new(move || signal.get().is_some())));
        if !args.cache_to.is_empty() {
            let client = client(settings)?;
            for to in &args.cache_to {
                if let CacheTo::Place {
                    place: spec,
                    mode,
                    ignore_error,
                } = to
                {
                    exports.push(Export {
                        place: place(spec, &client, env)?,
                        kind: match spec {
                            PlaceSpec::Registry { .. } => "registry",
                            PlaceSpec::Local { .. } => "client directory",
                            PlaceSpec::S3(_) => "Amazon S3",
                            PlaceSpec::Gha { .. } => "GitHub Actions Cache",
                        },
                        mode: *mode,
                        ignore_error: *ignore_error,
                    });
                }
            }
        }
        let mounts = args
            .cache_mounts
            .clone()
            .map_or(MountChoice::None, |ids| ids.0);
        if mounts != MountChoice::None && imports.is_empty() && exports.is_empty() {
            return Err(Failure::usage(
                "--cache-mounts needs a --cache-from or --cache-to that is no image",
            ));
        }
        Ok(Self {
            remote: RemoteCache::new(Imports::new(imports), mounts),
            exports,
            manifest: RefCell::default(),
            inline: args.cache_to.contains(&CacheTo::Inline) || args.asks_for_inline_cache(),
        })
    }

    /// The manifest of the cache that was written, if it is an image.
    pub(crate) fn manifest(&self) -> Option<Descriptor> {
        self.manifest.borrow().clone()
    }

    /// Puts the records of an inline cache into the configs of images, if one is wanted.
    pub(crate) fn mark(&self, images: &mut [Image]) {
        if !self.inline {
            return;
        }
        for image in images {
            let diff_ids = &image.config.rootfs.diff_ids;
            image.config.cache = Some(remote::inline(&self.remote.trail, diff_ids));
        }
    }

    /// Writes what the build did to all caches; the first error of one that must not fail counts. `failed` says that the
    /// build came to no end; what the caches have of later steps stays then.
    pub(crate) fn export(
        &self,
        (store, style): (&Store, Style),
        renderer: &Arc<Renderer>,
        platforms: &[Platform],
        failed: bool,
    ) -> Result<(), Failure> {
        let told = |mount: &CacheMountId, error: &MountError| {
            let why = with_causes(error);
            let text = format!("the cache mount {} is not exported: {why}", mount.id);
            renderer.event(Event::Warning { text });
        };
        let packer = MountPacker::new(store, style, &told);
        let mut first = Ok(());
        for export in &self.exports {
            let what = What {
                trail: &self.remote.trail,
                mode: export.mode,
                keep: failed.then_some(platforms),
                mounts: (&self.remote.mounts, &packer),
            };
            let outcome = self.export_to(export, &what, store, renderer);
            if let Err(error) = outcome {
                let place = export.place.name();
                if export.ignore_error {
                    renderer.event(Event::Warning {
                        text: format!("cache not exported to {place}: {}", with_causes(&error)),
                    });
                } else if first.is_ok() {
                    first = Err(classify::failure(&error)
                        .during(format!("cannot export the cache to {place}")));
                }
            }
        }
        first
    }

    fn export_to(
        &self,
        export: &Export,
        what: &What<'_>,
        store: &Store,
        renderer: &Arc<Renderer>,
    ) -> Result<(), PlaceError> {
        let vertex = renderer.next_vertex();
        let begun = Instant::now();
        renderer.event(Event::Started {
            vertex,
            name: format!("exporting cache to {}", export.kind),
        });
        let layers = Layers {
            imports: &self.remote.imports,
            store,
            renderer,
            vertex,
        };
        let place = &*export.place;
        match remote::export(place, what, &layers) {
            Ok(exported) => {
                let without = match exported.without_bytes {
                    0 => String::new(),
                    n => format!("; {} could not be had", counted(n, "layer")),
                };
                let mounts = match exported.mounts {
                    0 => String::new(),
                    n => format!(", {}", counted(n, "cache mount")),
                };
                let text = format!(
                    "{} and {}{mounts} written to {}{without}",
                    counted(exported.steps, "step"),
                    counted(exported.layers, "layer"),
                    place.name()
                );
                renderer.event(Event::Status { vertex, text });
                renderer.event(Event::Done {
                    vertex,
                    elapsed: begun.elapsed(),
                });
                if let Some(manifest) = exported.manifest {
                    *self.manifest.borrow_mut() = Some(manifest);
                }
                Ok(())
            }
            Err(error) => {
                renderer.event(Event::Failed {
                    vertex,
                    message: with_causes(&error),
                });
                Err(error)
            }
        }
    }
}

/// A place that is read, with a client of its own.
pub(crate) fn open(
    spec: &PlaceSpec,
    mut settings: Settings,
    env: &Environment,
) -> Result<Box<dyn Place>, Failure> {
    settings.insecure.extend(insecure(spec));
    let client = Client::new(settings).map_err(|e| classify::failure(&e))?;
    place(spec, &Arc::new(client), env)
}

/// The registry that a place asks to be spoken to without encryption.
fn insecure(spec: &PlaceSpec) -> Option<String> {
    match spec {
        PlaceSpec::Registry {
            reference,
            insecure: true,
        } => Some(reference.registry().to_owned()),
        _ => None,
    }
}

fn place(
    spec: &PlaceSpec,
    client: &Arc<Client>,
    env: &Environment,
) -> Result<Box<dyn Place>, Failure> {
    Ok(match spec {
        PlaceSpec::S3(spec) => Box::new(S3Place::new(
            Arc::clone(client),
            s3_settings(spec, env)?,
            jiff::Timestamp::now,
        )),
        PlaceSpec::Gha { url, token, scope } => {
            let variable = |name: &str| {
                env.text(name).map(ToOwned::to_owned).ok_or_else(|| {
                    Failure::usage(format!("the Actions cache needs ${name}")).with_hint(
                        "only actions see it; a workflow has to pass it on to its script steps",
                    )
                })
            };
            let settings = GhaSettings {
                url: url
                    .clone()
                    .map_or_else(|| variable("ACTIONS_RESULTS_URL"), Ok)?,
                token: match token {
                    Some(token) => token.clone(),
                    None => Secret::new(variable("ACTIONS_RUNTIME_TOKEN")?),
                },
                scope: scope.clone(),
            };
            let client = Arc::clone(client);
            Box::new(GhaPlace::new(client, settings, jiff::Timestamp::now))
        }
        PlaceSpec::Registry { reference, .. } => {
            Box::new(RegistryPlace::new(Arc::clone(client), reference.clone()))
        }
        PlaceSpec::Local { dir, tag, digest } => {
            Box::new(LayoutPlace::new(dir.clone(), tag.clone(), *digest))
        }
    })
}

/// A bucket: what the option says, then what AWS's variables say.
fn s3_settings(spec: &S3Spec, env: &Environment) -> Result<S3Settings, Failure> {
    let first = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| env.text(name))
            .map(ToOwned::to_owned)
    };
    let need = |given: &Option<String>, key: &str, names: &[&str]| {
        given
            .clone()
            .or_else(|| first(names))
            .ok_or_else(|| Failure::usage(format!("type=s3 needs {key}=VALUE or ${}", names[0])))
    };
    let endpoint = spec
        .endpoint
        .clone()
        .or_else(|| first(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]));
    let secret = match &spec.secret_access_key {
        Some(secret) => secret.clone(),
        None => Secret::new(need(
            &None,
            "secret_access_key",
            &["AWS_SECRET_ACCESS_KEY"],
        )?),
    };
    let session_token = match (&spec.session_token, &spec.access_key_id) {
        (Some(token), _) => Some(token.clone()),
        // The environment's token belongs to the environment's key.
        (None, Some(_)) => None,
        (None, None) => first(&["AWS_SESSION_TOKEN"]).map(Secret::new),
    };
    Ok(S3Settings {
        bucket: need(&spec.bucket, "bucket", &["AWS_BUCKET"])?,
        region: need(
            &spec.region,
            "region",
            &["AWS_REGION", "AWS_DEFAULT_REGION"],
        )?,
        // A bucket cannot stand in front of an address, and few servers of one's own have names for buckets.
        path_style: spec.path_style.unwrap_or(endpoint.is_some()),
        endpoint,
        prefix: spec.prefix.clone(),
        blobs_prefix: spec.blobs_prefix.clone(),
        manifests_prefix: spec.manifests_prefix.clone(),
        names: spec.names.clone(),
        access_key_id: need(&spec.access_key_id, "access_key_id", &["AWS_ACCESS_KEY_ID"])?,
        secret_access_key: secret,
        session_token,
    })
}

/// Layers of the store, and those that an imported cache promised.
struct Layers<'a> {
    imports: &'a Imports,
    store: &'a Store,
    renderer: &'a Arc<Renderer>,
    vertex: Vertex,
}

impl LayerSource for Layers<'_> {
    fn open(&self, blob: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        if !self.store.has(blob).map_err(io::Error::other)? {
            self.imports
                .fetch(self.store, blob, &mut |_| {})
                .map_err(io::Error::other)?;
        }
        let file = self
            .store
            .open_blob(&blob.digest)
            .map_err(io::Error::other)?;
        Ok(Box::new(file))
    }

    fn repositories(&self, blob: &Digest) -> Vec<Reference> {
        self.imports.repositories(blob)
    }

    fn meter(&self, blob: &Descriptor) -> Option<OnBytes> {
        let meter = transfer::Meter::new(Arc::clone(self.renderer), self.vertex, blob);
        Some(Arc::new(move |sent| meter.moved(sent)))
    }

    fn put(&self, blob: &Descriptor, pushed: &Pushed) {
        let text = match pushed {
            Pushed::Existed => "exists already".to_owned(),
            Pushed::Mounted { from } => format!("mounted from {from}"),
            Pushed::Uploaded => return,
        };
        transfer::Meter::new(Arc::clone(self.renderer), self.vertex, blob).status(&text);
    }
}
