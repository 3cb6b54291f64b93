//! `--provenance` and `--attest`: what the command line wants to be told of a build, and what there is to tell.
//!
//! ```text
//! --provenance[=true|false|FIELD,…]        --attest type=provenance[,FIELD…]        --build-arg BUILDKIT_ATTEST_PROVENANCE=FIELD,…
//! FIELD: mode=min|max  builder-id=TEXT  reproducible=BOOL  inline-only=BOOL  filename=NAME  version=v1  disabled=BOOL
//! ```
//! As in BuildKit, provenance that is asked for by name is `mode=max`: it tells arguments and the Dockerfile. It is attached to
//! images, and is a file beside the files of other outputs, unless `inline-only` says that images alone are meant. An archive for
//! Docker has no place for it.

use std::collections::BTreeMap;

use clap::Args;
use rbuild::{
    build::{BuildRequest, BuildResult, ContextSource, NamedSource, NoCache},
    oci::Platform,
    output::{Invocation, OutputSpec, Provenance},
    plan::Scanner,
    used::UsedSource,
};

use super::{build_args::BuildArgs, diagnostics::Failure, sbom, values::Pair};

/// Which attestations an image gets.
#[derive(Debug, Args)]
pub(crate) struct AttestArgs {
    /// Attach how the image was made: true, false, or `mode=min|max[,builder-id=ID][,reproducible=true]`
    #[arg(
        long,
        value_name = "FIELDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Output"
    )]
    provenance: Vec<String>,
    /// Attach what packages an image has: true, false, or `generator=IMAGE` of the scanner that lists them
    #[arg(
        long,
        value_name = "FIELDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Output"
    )]
    sbom: Vec<String>,
    /// Either of the two, as `type=provenance[,FIELDS]` or `type=sbom[,FIELDS]`
    #[arg(long, value_name = "type=TYPE[,FIELDS]", help_heading = "Output")]
    attest: Vec<String>,
}

/// What provenance is to tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Whether arguments and the Dockerfile are told: `mode=max`.
    is_full: bool,
    builder_id: String,
    reproducible: bool,
    /// Whether images alone get it.
    inline_only: bool,
    /// What it is called where it becomes a file.
    file_name: String,
}

/// As BuildKit calls it.
const FILE_NAME: &str = "provenance.json";

impl AttestArgs {
    /// What is wanted; the last word counts. All outputs must have a place for it.
    pub(crate) fn wish(
        &self,
        build_args: &[Pair],
        outputs: &[OutputSpec],
    ) -> Result<Option<Wish>, Failure> {
        let mut wish = None;
        for text in &self.attest(build_args) {
            let refuse = |reason: &str| Failure::usage(format!("--attest {text}: {reason}"));
            let mut fields: Vec<&str> = text.split(',').collect();
            let kind = fields.iter().position(|field| field.starts_with("type="));
            let Some(kind) = kind.map(|at| fields.remove(at)) else {
                return Err(refuse("there is no `type`"));
            };
            match &kind["type=".len()..] {
                "provenance" => wish = read(&fields).map_err(|reason| refuse(&reason))?,
                // See `sbom.rs`.
                "sbom" => {}
                _ => return Err(refuse("the type is provenance or sbom")),
            }
        }
        for text in &self.provenance {
            let fields: Vec<&str> = text.split(',').collect();
            wish = match flag(text) {
                Some(true) => read(&[]),
                Some(false) => Ok(None),
                None => read(&fields),
            }
            .map_err(|reason| Failure::usage(format!("--provenance={text}: {reason}")))?;
        }
        let has_no_place =
            |spec: &&OutputSpec| !spec.takes_attestations() && **spec != OutputSpec::CacheOnly;
        let without_place = outputs.iter().find(has_no_place);
        let is_listed = self.scanner(build_args)?.is_some();
        if is_listed && let Some(output) = without_place {
            return Err(Failure::usage(format!(
                "type={} has no place for lists of packages",
                output.kind()
            ))
            .with_hint("all other outputs have: --push, type=image, type=oci, type=local"));
        }
        if wish.as_ref().is_some_and(|wish| !wish.inline_only)
            && let Some(output) = without_place
        {
            return Err(Failure::usage(format!(
                "type={} has no place for provenance",
                output.kind()
            ))
            .with_hint(
                "inline-only=true attaches it to images in the store and in registries alone",
            ));
        }
        let types = |spec: &&OutputSpec| {
            spec.image_options()
                .is_some_and(|image| !image.oci_media_types)
        };
        let is_told = wish.as_ref().is_some_and(|wish| !wish.inline_only);
        if (is_told || is_listed)
            && let Some(output) = outputs.iter().find(types)
        {
            let what = if is_told {
                "provenance needs"
            } else {
                "lists of packages need"
            };
            return Err(Failure::usage(format!(
                "{what} OCI media types; type={} has oci-mediatypes=false",
                output.kind()
            )));
        }
        Ok(wish)
    }

    /// Who is to list packages.
    pub(crate) fn scanner(&self, build_args: &[Pair]) -> Result<Option<Scanner>, Failure> {
        sbom::scanner(&self.sbom, &self.attest(build_args))
    }

    /// All that `--attest` says, after what build arguments say in its place.
    fn attest(&self, build_args: &[Pair]) -> Vec<String> {
        let argued = build_args.iter().filter_map(|Pair { key, value }| {
            let kind = key.strip_prefix("BUILDKIT_ATTEST_")?.to_ascii_lowercase();
            let fields = match value.as_deref()? {
                "" | "true" | "1" => String::new(),
                "false" | "0" => ",disabled=true".to_owned(),
                fields => format!(",{fields}"),
            };
            Some(format!("type={kind}{fields}"))
        });
        argued.chain(self.attest.iter().cloned()).collect()
    }
}

pub(super) fn flag(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// The wish that these fields make; `None` when they take it back.
fn read(fields: &[&str]) -> Result<Option<Wish>, String> {
    let mut wish = Wish {
        is_full: true,
        file_name: FILE_NAME.to_owned(),
        ..Wish::default()
    };
    let mut is_off = false;
    for field in fields {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| format!("`{field}` is not of the form KEY=VALUE"))?;
        let yes_or_no = || flag(value).ok_or_else(|| format!("`{field}` is not true or false"));
        match key {
            "mode" => {
                wish.is_full = match value {
                    "min" => false,
                    "max" | "full" => true,
                    _ => return Err(format!("`{field}` is not min or max")),
                }
            }
            "builder-id" => value.clone_into(&mut wish.builder_id),
            "reproducible" => wish.reproducible = yes_or_no()?,
            "disabled" => is_off = yes_or_no()?,
            "inline-only" => wish.inline_only = yes_or_no()?,
            "version" if value == "v1" => {}
            "version" => return Err("only version v1 is written".to_owned()),
            "filename" if value.is_empty() || value.contains('/') => {
                return Err(format!("`{field}` is no name of a file"));
            }
            "filename" => value.clone_into(&mut wish.file_name),
            _ => return Err(format!("there is no field `{key}`")),
        }
    }
    Ok((!is_off).then_some(wish))
}

/// What is known of a build that is to be told, before it begins.
pub(crate) struct Told<'a> {
    pub(crate) wish: &'a Wish,
    pub(crate) args: &'a BuildArgs,
    /// What was fetched: URLs of the command line, and what they stood for.
    pub(crate) fetched: Vec<(String, UsedSource)>,
    pub(crate) begun: jiff::Timestamp,
}

impl Told<'_> {
    /// Tells of the build, which has ended, what the wish allows.
    pub(crate) fn of(
        &self,
        request: &BuildRequest,
        result: &BuildResult,
        now: jiff::Timestamp,
    ) -> Provenance {
        let is_full = self.wish.is_full;
        let ids = |ids: Vec<&String>| -> Vec<String> {
            ids.into_iter().filter(|_| is_full).cloned().collect()
        };
        Provenance {
            builder_id: self.wish.builder_id.clone(),
            file_name: self.wish.file_name.clone(),
            reproducible: self.wish.reproducible,
            version: env!("CARGO_PKG_VERSION"),
            builder_platform: Platform::host().normalized(),
            images: result.used.clone(),
            sources: result
                .fetched
                .iter()
                .chain(self.fetched.iter().map(|(_, source)| source))
                .cloned()
                .collect(),
            context: self.context(),
            dockerfile_name: self.dockerfile_name(request),
            args: self.parameters(request),
            has_more_args: !is_full
                && (!request.build_args.is_empty() || !request.labels.is_empty()),
            locals: self.locals(request),
            secrets: ids(request.secrets.keys().collect()),
            agents: ids(request.ssh.keys().collect()),
            inline_only: self.wish.inline_only,
            dockerfile: is_full.then(|| request.dockerfile.clone()),
            invocation: result.epoch.is_none().then(|| Invocation {
                id: unique(),
                begun: self.begun.to_string(),
                ended: now.to_string(),
            }),
        }
    }

    /// What a URL of the command line stood for.
    fn fetched(&self, url: &str) -> Option<&UsedSource> {
        let mut fetched = self.fetched.iter();
        fetched.find_map(|(of, source)| (of == url).then_some(source))
    }

    /// The context, where it was fetched: with its subdirectory, as it was given.
    fn context(&self) -> Option<UsedSource> {
        let mut context = self.fetched(&self.args.context)?.clone();
        if let Some((_, fragment)) = self.args.context.split_once('#') {
            let uri = context.uri.split('#').next().unwrap_or_default();
            context.uri = format!("{uri}#{fragment}");
        }
        Some(context)
    }

    /// The Dockerfile's name in its directory, or in the context that was fetched. Where directories of this machine are is
    /// nobody's business.
    fn dockerfile_name(&self, request: &BuildRequest) -> String {
        let name = &request.dockerfile_name;
        if matches!(request.context, ContextSource::Tree(_)) && !self.is_dockerfile_fetched(request)
        {
            return name.clone();
        }
        let name = name.split(['?', '#']).next().unwrap_or_default();
        name.rsplit('/').next().unwrap_or_default().to_owned()
    }

    /// Whether the Dockerfile is a file of the web, which goes by a URL without secrets.
    fn is_dockerfile_fetched(&self, request: &BuildRequest) -> bool {
        let mut fetched = self.fetched.iter();
        fetched.any(|(_, source)| source.uri == request.dockerfile_name)
    }

    /// The names of what came from this machine.
    fn locals(&self, request: &BuildRequest) -> Vec<String> {
        let mut locals = Vec::new();
        if matches!(request.context, ContextSource::Directory { .. }) {
            locals.push("context".to_owned());
        }
        if self.context().is_none() && !self.is_dockerfile_fetched(request) {
            locals.push("dockerfile".to_owned());
        }
        for (name, source) in &request.named_contexts {
            if let NamedSource::Directory { .. } | NamedSource::Layout { .. } = source {
                locals.push(name.clone());
            }
        }
        locals
    }

    /// Parameters under BuildKit's names. Arguments and labels are for those who want to know all.
    fn parameters(&self, request: &BuildRequest) -> BTreeMap<String, String> {
        let mut args = BTreeMap::new();
        for pair in &self.args.build_context {
            let url = pair.value.as_deref().unwrap_or_default();
            let value = match request.named_contexts.get(&pair.key) {
                Some(NamedSource::Image(image)) => format!("docker-image://{image}"),
                Some(NamedSource::Tree(..)) => match self.fetched(url) {
                    Some(source) => source.uri.clone(),
                    None => continue,
                },
                Some(NamedSource::Directory { .. }) => format!("local:{}", pair.key),
                _ => continue,
            };
            args.insert(format!("context:{}", pair.key), value);
        }
        if let Some(target) = &request.target {
            args.insert("target".to_owned(), target.clone());
        }
        match &request.no_cache {
            NoCache::Never => {}
            NoCache::Always => drop(args.insert("no-cache".to_owned(), String::new())),
            NoCache::Stages(stages) => drop(args.insert("no-cache".to_owned(), stages.join(","))),
        }
        if !self.wish.is_full {
            return args;
        }
        // Addresses of proxies may hold passwords.
        let is_proxy = |name: &str| name.to_ascii_uppercase().ends_with("_PROXY");
        for (name, value) in &request.build_args {
            if !is_proxy(name) {
                args.insert(format!("build-arg:{name}"), value.clone());
            }
        }
        for (name, value) in &request.labels {
            args.insert(format!("label:{name}"), value.clone());
        }
        args
    }
}

/// A name that nothing else has.
fn unique() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    // Keys of hash tables are random numbers of the system; that they are hard to guess does not matter here.
    let half = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", half(), half())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::diagnostics::Kind;

    fn wish(provenance: &[&str], attest: &[&str]) -> Result<Option<Wish>, Failure> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        AttestArgs {
            provenance: owned(provenance),
            attest: owned(attest),
            sbom: Vec::new(),
        }
        .wish(&[], &[OutputSpec::registry()])
    }

    #[test]
    fn wishes_are_read_as_buildx_spells_them() {
        let min = Wish {
            file_name: FILE_NAME.to_owned(),
            ..Wish::default()
        };
        let full = Wish {
            is_full: true,
            ..min.clone()
        };
        for (provenance, attest, want) in [
            (&[][..], &[][..], None),
            (&["true"], &[], Some(full.clone())),
            (&["false"], &[], None),
            (&["mode=max"], &[], Some(full.clone())),
            (
                &["mode=min,inline-only=true"],
                &[],
                Some(Wish {
                    inline_only: true,
                    ..min.clone()
                }),
            ),
            (&[], &["type=provenance,mode=min"], Some(min.clone())),
            (
                &["mode=min,filename=p.json"],
                &[],
                Some(Wish {
                    file_name: "p.json".to_owned(),
                    ..min.clone()
                }),
            ),
            (&["false"], &["type=provenance"], None),
            (&[], &["type=provenance,disabled=true"], None),
            (&[], &["type=sbom"], None),
            (
                &["mode=min,builder-id=https://ci/1,reproducible=true,version=v1"],
                &[],
                Some(Wish {
                    is_full: false,
                    builder_id: "https://ci/1".to_owned(),
                    reproducible: true,
                    ..min
                }),
            ),
        ] {
            assert_eq!(wish(provenance, attest).expect("valid"), want);
        }
        for (provenance, attest, reason) in [
            (&["mode=all"][..], &[][..], "not min or max"),
            (&["max"], &[], "not of the form KEY=VALUE"),
            (&["version=v0.2"], &[], "only version v1 is written"),
            (&["filename=a/x"], &[], "is no name of a file"),
            (&["reproducible=perhaps"], &[], "not true or false"),
            (&[], &["mode=max"], "there is no `type`"),
            (&[], &["type=vsa"], "the type is provenance or sbom"),
        ] {
            let failure = wish(provenance, attest).expect_err(reason);
            assert_eq!(failure.kind, Kind::Usage);
            assert!(failure.message().contains(reason), "{}", failure.message());
        }
        let only_files = AttestArgs {
            provenance: vec!["true".to_owned()],
            attest: Vec::new(),
            sbom: Vec::new(),
        };
        let files = OutputSpec::parse("out").expect("valid");
        assert!(only_files.wish(&[], &[files]).is_ok());
        let docker = OutputSpec::engine();
        assert!(only_files.wish(&[], &[docker]).is_err());
    }
    #[test]
    fn build_arguments_stand_for_options() {
        let asked = |name: &str, value: &str| {
            let pair = Pair {
                key: format!("BUILDKIT_ATTEST_{name}"),
                value: Some(value.to_owned()),
            };
            let args = AttestArgs {
                provenance: Vec::new(),
                attest: Vec::new(),
                sbom: Vec::new(),
            };
            let wish = args.wish(std::slice::from_ref(&pair), &[]).expect("valid");
            let scanner = args.scanner(&[pair]).expect("valid");
            (
                wish.map(|wish| wish.is_full),
                scanner.map(|scanner| scanner.image),
            )
        };
        assert_eq!(asked("PROVENANCE", "mode=min"), (Some(false), None));
        assert_eq!(asked("PROVENANCE", ""), (Some(true), None));
        assert_eq!(asked("PROVENANCE", "false"), (None, None));
        let scanner = Some("r.io/scan:2".to_owned());
        assert_eq!(asked("SBOM", "generator=r.io/scan:2"), (None, scanner));
    }
}
