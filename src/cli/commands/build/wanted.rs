//! What a command line wants of a build's result: outputs, names, and reports of what came out.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use rbuild::{
    dockerfile::lint::Warning,
    oci::Descriptor,
    output::{Annotation, Exported, OutputError, OutputSpec, is_written_in_place, open_in_place},
    reference::Reference,
};
use serde_json::{Value, json};

use crate::cli::{
    args::DataFormat,
    build_args::BuildArgs,
    classify,
    diagnostics::{Failure, Kind},
    engine,
    environment::Environment,
    provenance,
    request::LOCAL_DELETE,
    stdout,
};

/// What a command line wants of the result.
pub(super) struct Wanted {
    pub(super) outputs: Vec<OutputSpec>,
    /// For each output, the socket of the Docker engine that it needs.
    pub(super) engines: Vec<Option<PathBuf>>,
    pub(super) names: Vec<Reference>,
    pub(super) annotations: Vec<Annotation>,
    /// What is attached to images about how they were made.
    pub(super) provenance: Option<provenance::Wish>,
    with_warnings: bool,
}

impl Wanted {
    /// What the options say; an error where they contradict each other.
    pub(super) fn new(args: &BuildArgs, env: &Environment) -> Result<Self, Failure> {
        let names = args
            .tag
            .iter()
            .map(|text| {
                let name = Reference::parse(text)
                    .map_err(|e| Failure::usage(format!("--tag {text}: {e}")))?;
                match name.digest() {
                    Some(_) => Err(Failure::usage(format!(
                        "--tag {text}: a name to give has no digest"
                    ))),
                    None => Ok(name.with_default_tag()),
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut outputs = args.output.clone();
        if args.push {
            outputs.push(OutputSpec::registry());
        }
        if args.load {
            outputs.push(OutputSpec::engine());
        }
        if outputs.is_empty() {
            outputs.push(OutputSpec::store());
        }
        let engines = outputs
            .iter()
            .map(|spec| {
                if spec.uses_engine() {
                    engine::socket(env, spec.engine_context()).map(Some)
                } else {
                    Ok(None)
                }
            })
            .collect::<Result<_, _>>()?;
        for file in outputs.iter().filter_map(OutputSpec::archive_file) {
            check_file(file)?;
        }
        let to_stdout = outputs.iter().filter(|spec| spec.uses_stdout()).count();
        if to_stdout > 1 {
            return Err(Failure::usage("only one output can go to standard output"));
        }
        if to_stdout == 1 {
            env.takes_archive("give a file: dest=FILE")?;
        }
        let may_delete = args.allow.iter().flat_map(|list| list.split(','));
        if outputs.iter().any(OutputSpec::deletes_files)
            && !may_delete.into_iter().any(|word| word == LOCAL_DELETE)
        {
            return Err(Failure::usage(
                "an output with mode=delete removes all other files of its directory",
            )
            .with_hint(format!("allow it with --allow {LOCAL_DELETE}")));
        }
        if args.explain == Some(DataFormat::Json) && (to_stdout > 0 || args.quiet) {
            return Err(Failure::usage(
                "--explain=json prints on standard output, and so would something else",
            ));
        }
        if names.is_empty() && outputs.iter().any(OutputSpec::needs_name) {
            return Err(classify::failure(&OutputError::NoName));
        }
        if args.iidfile.is_some() && !outputs.iter().any(has_image) {
            return Err(Failure::usage("--iidfile needs an output that is an image"));
        }
        Ok(Self {
            provenance: args.attest.wish(&args.build_arg, &outputs)?,
            outputs,
            engines,
            names,
            annotations: args
                .annotation
                .iter()
                .flat_map(|list| list.0.clone())
                .collect(),
            with_warnings: matches!(env.text("BUILDX_METADATA_WARNINGS"), Some("1" | "true")),
        })
    }

    /// The registries that an output with `registry.insecure=true` pushes to.
    pub(super) fn insecure_registries(&self) -> Vec<String> {
        let mut registries = Vec::new();
        for spec in &self.outputs {
            if let OutputSpec::Image(image) = spec
                && image.push
                && image.insecure
            {
                let names = self.names.iter().chain(&image.image.names);
                registries.extend(names.map(|name| name.registry().to_owned()));
            }
        }
        registries
    }

    /// Tells what came out: files for programs, the image ID for `--quiet`.
    pub(super) fn report(
        &self,
        args: &BuildArgs,
        warnings: &[Warning],
        exported: &[Exported],
        cache: Option<&Descriptor>,
    ) -> Result<(), Failure> {
        let image = exported.iter().find(|e| e.descriptor.is_some());
        let id = image.and_then(Exported::image_id);
        if let (Some(path), Some(id)) = (&args.iidfile, id) {
            write_file(path, &id.to_string())?;
        }
        if let Some(path) = &args.metadata_file {
            let text = serde_json::to_string_pretty(&self.metadata(warnings, image, cache))
                .map_err(|e| Failure::new(Kind::Bug, format!("metadata is no JSON: {e}")))?;
            write_file(path, &format!("{text}\n"))?;
        }
        let has_data = self.outputs.iter().any(OutputSpec::uses_stdout);
        match id {
            Some(id) if args.quiet && !has_data => stdout::print(&format!("{id}\n")),
            _ => Ok(()),
        }
    }

    /// What `--metadata-file` says, in buildx's words.
    fn metadata(
        &self,
        warnings: &[Warning],
        image: Option<&Exported>,
        cache: Option<&Descriptor>,
    ) -> Value {
        let mut metadata = image.map(Exported::metadata).unwrap_or_default();
        // A text with JSON in it: so buildx passes on what BuildKit says.
        if let Some(Ok(manifest)) = cache.map(serde_json::to_string) {
            metadata.insert("cache.manifest".into(), json!(manifest));
        }
        if self.with_warnings {
            let warnings: Vec<Value> = warnings
                .iter()
                .map(|warning| json!({"short": format!("{}: {}", warning.rule.name(), warning.detail), "level": 1}))
                .collect();
            metadata.insert("buildx.build.warnings".into(), json!(warnings));
        }
        Value::Object(metadata)
    }
}

fn has_image(spec: &OutputSpec) -> bool {
    matches!(spec, OutputSpec::Image(_) | OutputSpec::Archive(_))
}

/// Makes sure, before anything is built, that there can be a file of this name.
fn check_file(path: &Path) -> Result<(), Failure> {
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let reason = if path.is_dir() {
        "it is a directory"
    } else if parent.is_some_and(|dir| !dir.is_dir()) {
        "its directory does not exist"
    } else {
        return Ok(());
    };
    Err(Failure::usage(format!(
        "cannot write {}: {reason}",
        path.display()
    )))
}

/// Writes a small file at once: a reader sees the old one or the whole new one.
fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let new = PathBuf::from(name);
    let written = if is_written_in_place(path) {
        open_in_place(path).and_then(|mut file| file.write_all(text.as_bytes()))
    } else {
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, path))
            .inspect_err(|_| {
                fs::remove_file(&new).ok();
            })
    };
    written.map_err(|e| {
        Failure::new(
            Kind::Machine,
            format!("cannot write {}: {e}", path.display()),
        )
    })
}
