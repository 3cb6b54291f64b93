//! `rbuild build`.

mod wanted;

use std::{fs, io, path::Path, sync::Arc};

use rbuild::{
    build::{self, BuildError, BuildRequest, BuildResult, FailedStep, Services, StepError},
    dockerfile::lint::Warning,
    explain::Explanation,
    output::{self, Engine, Exported, OutputSpec, Sbom, is_written_in_place},
    progress::{Event, Reporter as _, Vertex},
    registry::{Client, settings::Canceled},
    sandbox::{Cancel, IdMap, RESOLVED_CONF, Refusal, Rung, Sandbox, is_stub, resolv_conf},
    snapshot::{Marks, Owners, Snapshots, Style},
    source::Lines,
    store::Store,
};

use self::wanted::Wanted;
use super::{check, explain};
use crate::cli::{
    ahead,
    args::{DataFormat, ProgressForm},
    build_args::BuildArgs,
    cache::Caches,
    call::Method,
    classify,
    count::counted,
    diagnostics::{self, Failure, Kind, Source},
    environment::Environment,
    export::{self, Export},
    namespace,
    progress::Renderer,
    provenance::Told,
    remote::Fetcher,
    request, settings,
    signals::{self, Received},
    stdout, terminal,
};

/// What the options of a build are given for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To build, or to do with the Dockerfile what `--call` says.
    Build,
    /// To predict what a build would execute, and print that.
    Explain(DataFormat),
}

/// Builds, or does with the Dockerfile what `--call` says, or predicts what a build would do.
///
/// `rung` is how processes are run, or why none can be here; what needs none is built all the same.
pub(crate) fn run(
    args: &BuildArgs,
    root: &Path,
    env: &Environment,
    rung: &Result<Rung, Refusal>,
    purpose: Purpose,
) -> Result<(), Failure> {
    if let Purpose::Explain(_) = purpose {
        explain::check_options(args)?;
    }
    let wanted = Wanted::new(args, env)?;
    // What is wrong with the command line is told before anything is touched, if that can be.
    let known = if request::needs_fetcher(args) {
        None
    } else {
        Some(request::request(args, env, None)?)
    };
    let mut registry = args.registries.settings(env)?;
    registry.insecure.extend(wanted.insecure_registries());
    // A prediction is all there is to see, unless somebody asks for more.
    let quiet = args.quiet || (purpose != Purpose::Build && args.progress.is_none());
    let form = settings::progress_form(args.progress, quiet, env)?;
    let colour = settings::colour(env);
    let budget = settings::cache_budget(args.cache_budget, env)?;

    let store = Store::open(root).map_err(|e| classify::failure(&e))?;
    let _states = namespace::shelter_states(&store, rung, env)?;
    let cancel = Cancel::new()
        .map_err(|e| Failure::new(Kind::Machine, format!("cannot make a build: {e}")))?;
    let received = signals::watch(cancel.clone())?;
    let scratch = store.temp_dir().map_err(|e| classify::failure(&e))?;
    let sandbox = Sandbox::new();
    let resolv_conf = host_resolv_conf();
    let renderer = Arc::new(Renderer::new(form, env.stderr_is_terminal, colour));
    let style = state_style(rung.as_ref().ok().copied());
    let snapshots =
        Snapshots::open(&store.snapshots_dir(), style).map_err(|e| classify::failure(&e))?;
    registry.warn = Some(renderer.takes_remarks());
    let asked = cancel.clone();
    registry.canceled = Some(Canceled(Arc::new(move || asked.is_canceled())));
    let caches = Caches::new(args, &registry, env, &received)?;
    let client = Client::new(registry).map_err(|e| classify::failure(&e))?;
    let is_build = purpose == Purpose::Build && !args.check && args.call.method == Method::Build;
    if is_build {
        for target in ahead::targets(&wanted.outputs, &wanted.names) {
            client.look_ahead(&target);
        }
    }
    let fetcher = Fetcher::new(&store, &client, args, env, &renderer);
    let request = match known {
        Some(request) => request,
        None => request::request(args, env, Some(&fetcher)).map_err(|failure| {
            renderer.finish();
            interruption(&received).unwrap_or(failure)
        })?,
    };
    let services = Services {
        store: &store,
        snapshots: &snapshots,
        rung,
        remote_cache: &caches.remote,
        registry: &client,
        sandbox: &sandbox,
        first_vertex: renderer.next_vertex(),
        reporter: &*renderer,
        cancel: &cancel,
        clock: jiff::Timestamp::now,
        resolv_conf: &resolv_conf,
        compression: ahead::compression(&wanted.outputs),
        departures: None,
        scratch: scratch.path(),
    };
    let session = Session {
        request: &request,
        services: &services,
        renderer: &renderer,
        received: &received,
        caches: &caches,
        provenance: wanted.provenance.as_ref().map(|wish| Told {
            wish,
            args,
            fetched: fetcher.used(),
            begun: (services.clock)(),
        }),
    };
    if let Purpose::Explain(format) = purpose {
        return explain::run(format, &session);
    }
    if !is_build {
        return check::run(args, &session, colour);
    }
    if let Some(path) = &args.iidfile {
        remove_stale(path)?;
    }
    let built = session.build(&wanted);
    let findings = findings(&built.warnings, &request);
    if form == ProgressForm::Rawjson {
        for text in &findings {
            let text = text.clone();
            renderer.event(Event::Warning { text });
        }
    }
    let steps = renderer.finish();
    explain::report(args.explain, form, &built.explanation)?;
    if !matches!(form, ProgressForm::Rawjson | ProgressForm::Quiet) {
        say_findings(&findings);
    }
    let reported = built
        .exported
        .map_err(|failure| failure.with_steps(steps))
        .and_then(|exported| {
            let cache = caches.manifest();
            wanted.report(args, &built.warnings, &exported, cache.as_ref())
        });
    if let Some(budget) = budget
        && store.has_grown()
    {
        super::cache::collect(&store, budget);
    }
    reported
}

/// How states are kept on disk for processes with the ids that there are here.
pub(crate) fn state_style(rung: Option<Rung>) -> Style {
    let map = IdMap::current().unwrap_or(IdMap::Single);
    match map {
        _ if rung == Some(Rung::Emulate) => Style {
            marks: Marks::User,
            owners: Owners::Emulated,
        },
        IdMap::Full if rung.is_some() => Style {
            marks: Marks::Trusted,
            owners: Owners::Real,
        },
        IdMap::Ranges { .. } => Style {
            marks: Marks::User,
            owners: Owners::Mapped,
        },
        IdMap::Full | IdMap::Single => Style {
            marks: Marks::User,
            owners: Owners::Recorded,
        },
    }
}

/// A build that is over.
struct Built {
    /// What became of the images, or why there is none.
    exported: Result<Vec<Exported>, Failure>,
    warnings: Vec<Warning>,
    explanation: Explanation,
}

/// One build and all that it needs.
pub(crate) struct Session<'a> {
    pub(crate) request: &'a BuildRequest,
    pub(crate) services: &'a Services<'a>,
    pub(crate) renderer: &'a Arc<Renderer>,
    received: &'a Received,
    caches: &'a Caches,
    provenance: Option<Told<'a>>,
}

impl Session<'_> {
    /// Builds, exports what came out, and then the cache: also when something failed, for what was done until then.
    fn build(&self, wanted: &Wanted) -> Built {
        let imports = &self.services.remote_cache.imports;
        let mut services = *self.services;
        let mut built = loop {
            let n_lost = imports.n_lost();
            let built = self.build_once(wanted, &services);
            // An output needed a layer that a cache had promised: what is there now is built upon.
            let is_over = built.exported.is_ok() || imports.n_lost() == n_lost;
            if is_over || self.received.get().is_some() {
                break built;
            }
            imports.begin_again();
            services.first_vertex = self.renderer.next_vertex();
        };
        if self.received.get().is_some() {
            return built;
        }
        let cached = self.caches.export(
            (self.services.store, self.services.snapshots.style()),
            self.renderer,
            &self.request.platforms,
            built.exported.is_err(),
        );
        let cached = cached.map_err(|failure| self.interrupted().unwrap_or(failure));
        built.exported = built
            .exported
            .and_then(|exported| cached.map(|()| exported));
        built
    }

    fn build_once(&self, wanted: &Wanted, services: &Services<'_>) -> Built {
        let targets = ahead::targets(&wanted.outputs, &wanted.names);
        ahead::uploading(&targets, services, |services, is_built| {
            let outcome = build::build(self.request, services);
            is_built();
            Built {
                exported: outcome
                    .result
                    .map_err(|error| self.failure(&error))
                    .and_then(|result| self.export_all(wanted, &result)),
                warnings: outcome.warnings,
                explanation: outcome.explanation,
            }
        })
    }

    fn export_all(&self, wanted: &Wanted, result: &BuildResult) -> Result<Vec<Exported>, Failure> {
        let mut images = export::images(result);
        self.caches.mark(&mut images);
        let now = (self.services.clock)();
        let provenance = self
            .provenance
            .as_ref()
            .map(|told| told.of(self.request, result, now));
        let sboms = self.sboms(result)?;
        let request = output::Request {
            images: &images,
            multi_platform: self.request.multi_platform,
            names: &wanted.names,
            annotations: &wanted.annotations,
            provenance: provenance.as_ref(),
            sboms: &sboms,
            epoch: result.epoch,
            now: now.as_second(),
        };
        let mut exported = Vec::new();
        for (spec, engine) in wanted.outputs.iter().zip(&wanted.engines) {
            exported.push(self.export(spec, &request, result, engine.as_deref())?);
        }
        Ok(exported)
    }

    /// What the scanner says of the images; nothing where there is none.
    fn sboms(&self, result: &BuildResult) -> Result<Vec<Sbom>, Failure> {
        if self.request.scanner.is_none() {
            return Ok(Vec::new());
        }
        self.line("[internal] reading what the scanner found", |vertex| {
            let scans = result.images.iter().map(|image| {
                let scan = result.scan(self.services, vertex, image)?;
                Ok(scan.map(export::sbom))
            });
            let sboms = scans.collect::<Result<Option<_>, StepError>>()?;
            Ok::<_, StepError>(sboms.unwrap_or_default())
        })
    }

    /// Does something that is a line of work for users.
    fn line<T, E: std::error::Error + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(Vertex) -> Result<T, E>,
    ) -> Result<T, Failure> {
        let vertex = self.renderer.next_vertex();
        let begun = std::time::Instant::now();
        self.renderer.event(Event::Started {
            vertex,
            name: name.to_owned(),
        });
        match work(vertex) {
            Ok(done) => {
                self.renderer.event(Event::Done {
                    vertex,
                    elapsed: begun.elapsed(),
                });
                Ok(done)
            }
            Err(error) => {
                self.renderer.event(Event::Failed {
                    vertex,
                    message: error.to_string(),
                });
                Err(self
                    .interrupted()
                    .unwrap_or_else(|| classify::failure(&error)))
            }
        }
    }

    fn export(
        &self,
        spec: &OutputSpec,
        request: &output::Request<'_>,
        result: &BuildResult,
        engine: Option<&Path>,
    ) -> Result<Exported, Failure> {
        if *spec == OutputSpec::CacheOnly {
            return Ok(Exported::default());
        }
        self.line(export_name(spec), |vertex| {
            let export = Export {
                result,
                services: self.services,
                renderer: self.renderer,
                vertex,
            };
            let is_canceled = || self.services.cancel.is_canceled();
            let services = output::Services {
                store: self.services.store,
                layers: &export,
                pusher: Some(&export),
                engine: engine.map(|socket| Engine {
                    socket,
                    is_canceled: &is_canceled,
                }),
                reporter: &**self.renderer,
                vertex,
            };
            let mut out = stdout::Patient::new(&is_canceled);
            output::export(spec, request, &services, &mut out)
        })
    }

    /// What a signal makes of an error that it caused.
    fn interrupted(&self) -> Option<Failure> {
        interruption(self.received)
    }

    /// What is to be said of an error of the build.
    pub(crate) fn failure(&self, error: &BuildError) -> Failure {
        let source = Source::new(
            self.request.dockerfile_name.clone(),
            self.request.dockerfile.clone(),
        );
        let of_step = |step: &FailedStep| {
            let text = &self.request.dockerfile;
            let instruction = step.span.and_then(|span| text.get(span.range()));
            classify::step_failure(&step.source, instruction.unwrap_or_default(), self.request)
        };
        match error {
            BuildError::Invalid(diagnostics) => Failure::from_diagnostics(source, diagnostics),
            BuildError::Image(image) => {
                let failure = classify::failure_or(Kind::Build, error).at(source, image.span);
                match &image.suggestion {
                    Some(name) => failure.with_hint(format!("did you mean `{name}`?")),
                    None => failure,
                }
            }
            BuildError::Epoch { span, .. } => classify::failure_or(Kind::Build, error).at(source, *span),
            BuildError::Step(step) => self.interrupted().unwrap_or_else(|| {
                let first = of_step(step);
                let first = match step.span {
                    Some(span) => first.at(source, span),
                    None => first.with_hint(
                        "no line of the Dockerfile asks for this step: it lists packages, for --sbom",
                    ),
                };
                step.others.iter().fold(first, |failure, other| {
                    failure.and(of_step(other), other.span)
                })
            }),
            BuildError::Interrupted => self
                .interrupted()
                .unwrap_or_else(|| Failure::new(Kind::Bug, "the build gave up without a reason")),
            _ => classify::failure_or(Kind::Build, error),
        }
    }
}

fn interruption(received: &Received) -> Option<Failure> {
    let signal = received.get()?;
    Some(Failure::new(Kind::Interrupted(signal), "interrupted"))
}

/// What progress calls an output, in BuildKit's words where it has some.
fn export_name(spec: &OutputSpec) -> &'static str {
    match spec {
        OutputSpec::Local(_) => "exporting to client directory",
        OutputSpec::Tar(_) => "exporting to client tarball",
        OutputSpec::Archive(spec) => match spec.format {
            output::ArchiveFormat::Oci => "exporting to oci image format",
            output::ArchiveFormat::Docker => "exporting to docker image format",
        },
        OutputSpec::Image(_) | OutputSpec::CacheOnly => "exporting to image",
    }
}

/// The servers that this machine asks for names, for steps on its network.
pub(crate) fn host_resolv_conf() -> Vec<u8> {
    let mut conf = fs::read("/etc/resolv.conf").ok();
    if conf.as_deref().is_some_and(is_stub)
        && let Ok(servers) = fs::read(RESOLVED_CONF)
    {
        conf = Some(servers);
    }
    resolv_conf(conf.as_deref())
}

/// An old image ID must not be taken for this build's when it fails.
fn remove_stale(path: &Path) -> Result<(), Failure> {
    if is_written_in_place(path) {
        return Ok(());
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            // A directory, or a file in the place of one.
            let is_wrong = matches!(
                e.kind(),
                io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory
            );
            let kind = if is_wrong { Kind::Usage } else { Kind::Machine };
            let message = format!("cannot replace {}: {e}", path.display());
            Err(Failure::new(kind, message))
        }
        _ => Ok(()),
    }
}

/// What was found in the Dockerfile, each in a line.
fn findings(warnings: &[Warning], request: &BuildRequest) -> Vec<String> {
    let places = Lines::of(&request.dockerfile);
    let line = |warning: &Warning| warning.line(&places);
    warnings.iter().map(line).collect()
}

/// Tells of them at the end of a build, in front of what made it fail.
fn say_findings(findings: &[String]) {
    if findings.is_empty() {
        return;
    }
    let count = counted(findings.len(), "warning");
    let mut text = format!("\n {count} found (use --check to see the places):\n");
    for line in findings {
        text.push_str(" - ");
        text.push_str(&terminal::one_line(line));
        text.push('\n');
    }
    diagnostics::warn(&text);
}
