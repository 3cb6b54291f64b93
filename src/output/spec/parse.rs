//! Reading `--output`: CSV fields, then pairs, each taken away by the type that knows it.

mod image;

use std::path::PathBuf;

use self::image::IMAGE_KEYS;
use super::{
    ArchiveFormat, ArchiveSpec, Dest, FilesOptions, ImageSpec, LocalMode, LocalSpec, OutputSpec,
    SpecProblem, TarSpec,
};
use crate::{reference::Reference, source::suggest};

const TYPES: [&str; 7] = [
    "local",
    "tar",
    "oci",
    "docker",
    "image",
    "registry",
    "cacheonly",
];

/// What BuildKit has and this program does not, and why.
const UNSUPPORTED: [(&str, &str); 3] = [
    (
        "attestation-prefix",
        "attestations are files in `type=local` and `type=tar` alone",
    ),
    ("prefer-nondist-layers", "all layers are distributed"),
    (
        "compatibility-version",
        "only the newest formats are written",
    ),
];

/// Reads one `--output`.
pub(super) fn parse(text: &str) -> Result<OutputSpec, SpecProblem> {
    let fields = split(text).ok_or(SpecProblem::Quotes)?;
    if let [field] = &fields[..]
        && !field.contains('=')
        && !field.is_empty()
    {
        return Ok(shorthand(field));
    }
    let mut pairs = Vec::new();
    for field in &fields {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| SpecProblem::NotAPair(field.clone()))?;
        // BuildKit compares keys in lower case, but the rest of an annotation's key is the user's.
        let key = key.trim();
        let key = if key.to_lowercase().starts_with("annotation") {
            key.to_owned()
        } else {
            key.to_lowercase()
        };
        pairs.push((key, value.to_owned()));
    }
    Options::new(pairs).and_then(Options::read)
}

/// `-o -` and `-o PATH`.
fn shorthand(field: &str) -> OutputSpec {
    if field == "-" {
        OutputSpec::Tar(TarSpec {
            dest: Dest::Stdout,
            files: FilesOptions::default(),
        })
    } else {
        OutputSpec::Local(LocalSpec {
            dest: field.into(),
            mode: LocalMode::Copy,
            files: FilesOptions::default(),
        })
    }
}

/// Splits at commas; a field in double quotes may have commas, and `""` for a quote. `None` when quotes do not match.
fn split(text: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let field;
        if let Some(mut inner) = rest.strip_prefix('"') {
            let mut unquoted = String::new();
            rest = loop {
                let (before, after) = inner.split_once('"')?;
                unquoted.push_str(before);
                match after.strip_prefix('"') {
                    Some(more) => {
                        unquoted.push('"');
                        inner = more;
                    }
                    None => break after,
                }
            };
            field = unquoted;
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            if rest[..end].contains('"') {
                return None;
            }
            field = rest[..end].to_owned();
            rest = &rest[end..];
        }
        fields.push(field);
        if rest.is_empty() {
            return Some(fields);
        }
        rest = rest.strip_prefix(',')?;
    }
}

/// The pairs of one output; reading takes those away that are known.
struct Options {
    kind: &'static str,
    pairs: Vec<(String, String)>,
}

impl Options {
    fn new(mut pairs: Vec<(String, String)>) -> Result<Self, SpecProblem> {
        let at = pairs
            .iter()
            .position(|(key, _)| key == "type")
            .ok_or(SpecProblem::NoType)?;
        let (_, name) = pairs.remove(at);
        let Some(kind) = TYPES.into_iter().find(|kind| *kind == name) else {
            let near =
                suggest(&name, TYPES).and_then(|near| TYPES.into_iter().find(|t| *t == near));
            return Err(SpecProblem::UnknownType { name, near });
        };
        Ok(Self { kind, pairs })
    }

    fn read(mut self) -> Result<OutputSpec, SpecProblem> {
        match self.kind {
            "local" => {
                let dest = self.dest_path()?;
                let mode = match self.take("mode").as_deref() {
                    None | Some("copy") => LocalMode::Copy,
                    Some("delete") => LocalMode::Delete,
                    Some(other) => return Err(wrong("mode", other, "expected copy or delete")),
                };
                let files = self.files_options()?;
                self.done(&[
                    "dest",
                    "mode",
                    "platform-split",
                    "attestation-prefix",
                    "source-date-epoch",
                ])?;
                Ok(OutputSpec::Local(LocalSpec { dest, mode, files }))
            }
            "tar" => {
                let dest = self.dest()?.unwrap_or(Dest::Stdout);
                let files = self.files_options()?;
                self.done(&[
                    "dest",
                    "platform-split",
                    "attestation-prefix",
                    "source-date-epoch",
                ])?;
                Ok(OutputSpec::Tar(TarSpec { dest, files }))
            }
            "oci" => self.archive(ArchiveFormat::Oci),
            "docker" => self.archive(ArchiveFormat::Docker),
            "cacheonly" => {
                self.done(&[])?;
                Ok(OutputSpec::CacheOnly)
            }
            _ => self.image(),
        }
    }

    fn archive(mut self, format: ArchiveFormat) -> Result<OutputSpec, SpecProblem> {
        let dest = match (self.dest()?, format) {
            (Some(dest), _) => Some(dest),
            (None, ArchiveFormat::Oci) => Some(Dest::Stdout),
            (None, ArchiveFormat::Docker) => None,
        };
        let context = match (self.take("context"), &dest) {
            (Some(name), Some(_)) => {
                return Err(wrong(
                    "context",
                    &name,
                    "there is a `dest`, so no engine is used",
                ));
            }
            (context, _) => context.filter(|name| !name.is_empty()),
        };
        let tar = self.flag("tar")?.unwrap_or(true);
        if !tar && dest.is_none() {
            return Err(SpecProblem::NoDest {
                kind: self.kind,
                directory: true,
            });
        }
        if !tar && dest == Some(Dest::Stdout) {
            return Err(SpecProblem::DirectoryToStdout { kind: self.kind });
        }
        let image = self.image_options()?;
        self.done(&["dest", "tar", "context"])?;
        Ok(OutputSpec::Archive(ArchiveSpec {
            format,
            dest,
            context,
            tar,
            image,
        }))
    }

    fn image(mut self) -> Result<OutputSpec, SpecProblem> {
        let registry = self.kind == "registry";
        let push = self.flag("push")?.unwrap_or(registry);
        let by_digest = self.flag("push-by-digest")?.unwrap_or(false);
        let insecure = self.flag("registry.insecure")?.unwrap_or(false);
        let store = self.flag("store")?.unwrap_or(!registry);
        let canonical = self.flag("name-canonical")?.unwrap_or(false);
        let dangling = match self.take("dangling-name-prefix") {
            None => None,
            Some(prefix) => Some(
                Reference::parse(&prefix)
                    .map_err(|error| wrong("dangling-name-prefix", &prefix, &error.to_string()))?,
            ),
        };
        if self.flag("unpack")? == Some(true) {
            let reason = "images are unpacked when a step needs them";
            return Err(unsupported("unpack", "true", reason));
        }
        let image = self.image_options()?;
        self.done(&[
            "push",
            "push-by-digest",
            "registry.insecure",
            "store",
            "unpack",
            "name-canonical",
            "dangling-name-prefix",
        ])?;
        Ok(OutputSpec::Image(ImageSpec {
            store,
            push: push || by_digest,
            by_digest,
            insecure,
            canonical,
            dangling,
            image,
        }))
    }

    fn epoch(&mut self) -> Result<Option<i64>, SpecProblem> {
        match self.take("source-date-epoch") {
            None => Ok(None),
            Some(text) if text.is_empty() => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_not_a_number| {
                wrong("source-date-epoch", &text, "expected seconds since 1970")
            }),
        }
    }

    fn files_options(&mut self) -> Result<FilesOptions, SpecProblem> {
        Ok(FilesOptions {
            platform_split: self.flag("platform-split")?,
            attestation_prefix: self.take("attestation-prefix").unwrap_or_default(),
            epoch: self.epoch()?,
        })
    }

    fn dest(&mut self) -> Result<Option<Dest>, SpecProblem> {
        match self.take("dest").as_deref() {
            None => Ok(None),
            Some("") => Err(SpecProblem::NoDest {
                kind: self.kind,
                directory: false,
            }),
            Some("-") => Ok(Some(Dest::Stdout)),
            Some(path) => Ok(Some(Dest::Path(path.into()))),
        }
    }

    fn dest_path(&mut self) -> Result<PathBuf, SpecProblem> {
        match self.dest() {
            Ok(Some(Dest::Path(path))) => Ok(path),
            Ok(Some(Dest::Stdout)) => Err(SpecProblem::DirectoryToStdout { kind: self.kind }),
            Ok(None) | Err(_) => Err(SpecProblem::NoDest {
                kind: self.kind,
                directory: true,
            }),
        }
    }

    /// A yes or no, in the words of Go's `strconv.ParseBool`.
    fn flag(&mut self, key: &str) -> Result<Option<bool>, SpecProblem> {
        match self.take(key).as_deref() {
            None => Ok(None),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
            Some(other) => Err(wrong(key, other, "expected true or false")),
        }
    }

    /// Takes a key's value; the last one counts.
    fn take(&mut self, key: &str) -> Option<String> {
        let mut value = None;
        self.pairs.retain(|(name, text)| {
            if name == key {
                value = Some(text.clone());
            }
            name != key
        });
        value
    }

    /// Refuses what is left. `known` are the keys of this type beside those of images.
    fn done(&self, known: &'static [&'static str]) -> Result<(), SpecProblem> {
        let Some((key, value)) = self.pairs.first() else {
            return Ok(());
        };
        if let Some((_, reason)) = UNSUPPORTED.iter().find(|(name, _)| name == key) {
            return Err(unsupported(key, value, reason));
        }
        let of_images: &[&'static str] = match self.kind {
            "local" | "tar" | "cacheonly" => &[],
            _ => &IMAGE_KEYS,
        };
        let known = known.iter().chain(of_images).copied();
        let near = suggest(key, known.clone());
        Err(SpecProblem::UnknownKey {
            kind: self.kind,
            key: key.clone(),
            near: known.into_iter().find(|name| Some(*name) == near),
        })
    }
}

fn wrong(key: &str, value: &str, expected: &str) -> SpecProblem {
    SpecProblem::Value {
        key: key.to_owned(),
        value: value.to_owned(),
        expected: expected.to_owned(),
    }
}

fn unsupported(key: &str, value: &str, reason: &'static str) -> SpecProblem {
    SpecProblem::Unsupported {
        key: key.to_owned(),
        value: value.to_owned(),
        reason,
    }
}
