//! What `-o/--output` asks for.
//!
//! ```text
//! -o PATH   type=local,dest=PATH        -o -   type=tar,dest=-        else   KEY=VALUE[,KEY=VALUE…], quoted as CSV
//! ```
//! Keys and values are BuildKit's. A key that is not known for a type, or that this program does not do, is refused:
//! nothing is accepted and then ignored.

mod parse;

use std::path::{Path, PathBuf};

use crate::{layer::Compression, oci::Platform, reference::Reference};

/// One output of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputSpec {
    /// The root file system in a directory: `type=local`.
    Local(LocalSpec),
    /// The root file system as an archive: `type=tar`.
    Tar(TarSpec),
    /// An image layout, or an archive that `docker load` reads: `type=oci`, `type=docker`.
    Archive(ArchiveSpec),
    /// The local store, a registry, or both: `type=image`, `type=registry`.
    Image(ImageSpec),
    /// Nothing but what the cache keeps: `type=cacheonly`.
    CacheOnly,
}

/// Where a file goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dest {
    /// Standard output: `dest=-`.
    Stdout,
    /// A file, or a directory where the output is one.
    Path(PathBuf),
}

/// `type=local`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalSpec {
    /// The directory.
    pub dest: PathBuf,
    /// What happens to files that are there and not in the image.
    pub mode: LocalMode,
    /// How the files are laid out.
    pub files: FilesOptions,
}

/// What `type=local` does with a directory's earlier content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LocalMode {
    /// It stays: files are added and replaced.
    #[default]
    Copy,
    /// It goes: the directory becomes what the image is.
    Delete,
}

/// How files are laid out that come out as files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FilesOptions {
    /// Whether each platform gets a directory of its own; by default when there are several.
    pub platform_split: Option<bool>,
    /// What the names of files begin with that say something about the image.
    pub attestation_prefix: String,
    /// `source-date-epoch`, in place of the build's.
    pub epoch: Option<i64>,
}

/// `type=tar`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarSpec {
    /// The archive.
    pub dest: Dest,
    /// How the files are laid out.
    pub files: FilesOptions,
}

/// `type=oci` and `type=docker`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveSpec {
    /// Which of the two.
    pub format: ArchiveFormat,
    /// The archive, or the directory; `None` for `type=docker` when a Docker engine gets the image.
    pub dest: Option<Dest>,
    /// The Docker context that names the engine: `context`.
    pub context: Option<String>,
    /// Whether it is an archive (`tar=true`, the default) or a directory.
    pub tar: bool,
    /// What the image is to be like.
    pub image: ImageOptions,
}

/// The two kinds of image archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An OCI image layout.
    Oci,
    /// An image layout with the `manifest.json` that `docker load` reads.
    Docker,
}

/// `type=image` and `type=registry`.
#[expect(
    clippy::struct_excessive_bools,
    reason = "options that the user sets one by one"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSpec {
    /// Whether the image goes into the local store.
    pub store: bool,
    /// Whether it is pushed.
    pub push: bool,
    /// Whether it is pushed without its tag, to be addressed by digest alone.
    pub by_digest: bool,
    /// Whether the registry may be spoken to over plain HTTP or with an unknown certificate.
    pub insecure: bool,
    /// Whether the store knows it by `NAME@DIGEST` too: `name-canonical`.
    pub canonical: bool,
    /// The repository under which the store knows an image without a name, by digest: `dangling-name-prefix`.
    pub dangling: Option<Reference>,
    /// What the image is to be like.
    pub image: ImageOptions,
}

/// What an image that is exported is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOptions {
    /// `name`, with default tags filled in; `-t` has precedence.
    pub names: Vec<Reference>,
    /// How layers are compressed.
    pub layers: LayerOptions,
    /// Whether the documents have OCI's media types, not Docker's.
    pub oci_media_types: bool,
    /// `annotation….KEY`.
    pub annotations: Vec<Annotation>,
    /// `source-date-epoch`, in place of the build's.
    pub epoch: Option<i64>,
    /// Whether attestations are artifacts of the image (`oci-artifact`), or images themselves.
    pub artifacts: bool,
    /// Whether attestations that are for images alone are attached (`attestation-inline`); `None` leaves it to the type of output.
    pub inline_attestations: Option<bool>,
}

/// How the layers of an image that is exported are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerOptions {
    /// `compression` and `compression-level`; `None` leaves layers as they are.
    pub compression: Option<Compression>,
    /// Whether a gzip'd layer is eStargz: `compression=estargz`.
    pub estargz: bool,
    /// Whether layers of base images are compressed anew, too.
    pub force: bool,
    /// Whether file times of new layers later than the epoch are set to it.
    pub rewrite_timestamp: bool,
}

/// An annotation for a document of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// Where it goes.
    pub place: AnnotationPlace,
    /// For which platform; `None` for all.
    pub platform: Option<Platform>,
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// What carries an annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AnnotationPlace {
    /// The manifest of a platform.
    Manifest,
    /// The index of an image for several platforms.
    Index,
    /// What points to a manifest.
    ManifestDescriptor,
    /// What points to the index.
    IndexDescriptor,
}

impl AnnotationPlace {
    /// As it is spelled on the command line and in output options.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Index => "index",
            Self::ManifestDescriptor => "manifest-descriptor",
            Self::IndexDescriptor => "index-descriptor",
        }
    }

    const ALL: [Self; 4] = [
        Self::Manifest,
        Self::Index,
        Self::ManifestDescriptor,
        Self::IndexDescriptor,
    ];
}

/// Why an output is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct SpecError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub problem: SpecProblem,
}

/// What is wrong with an output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecProblem {
    /// The quotes do not match.
    #[error("a quoted field does not end, or is not followed by a comma")]
    Quotes,
    /// A field has no `=`.
    #[error("`{0}` is not of the form KEY=VALUE")]
    NotAPair(String),
    /// There is no `type`.
    #[error("`type` is missing")]
    NoType,
    /// There is no such type.
    #[error("unknown output type `{name}`{}", hint(*.near))]
    UnknownType {
        /// What was given.
        name: String,
        /// What may be meant.
        near: Option<&'static str>,
    },
    /// The type has no such key.
    #[error("output type `{kind}` has no option `{key}`{}", hint(*.near))]
    UnknownKey {
        /// The type.
        kind: &'static str,
        /// The key.
        key: String,
        /// What may be meant.
        near: Option<&'static str>,
    },
    /// BuildKit has the option; this program does not do what it asks for.
    #[error("`{key}={value}` is not supported: {reason}")]
    Unsupported {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// Why not, or what to do instead.
        reason: &'static str,
    },
    /// The value does not fit the key.
    #[error("`{key}={value}`: {expected}")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What would fit.
        expected: String,
    },
    /// `dest` is needed.
    #[error("output type `{kind}` needs `dest={}`", if *.directory { "DIRECTORY" } else { "FILE" })]
    NoDest {
        /// The type.
        kind: &'static str,
        /// Whether it has to be a directory.
        directory: bool,
    },
    /// A directory cannot go to standard output.
    #[error("output type `{kind}` is a directory and cannot be written to standard output")]
    DirectoryToStdout {
        /// The type.
        kind: &'static str,
    },
}

fn hint(near: Option<&str>) -> String {
    near.map_or_else(String::new, |near| format!(", did you mean `{near}`?"))
}

impl OutputSpec {
    /// Reads one `--output`.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        parse::parse(text).map_err(|problem| SpecError {
            text: text.to_owned(),
            problem,
        })
    }

    /// The file that it writes an archive to.
    pub fn archive_file(&self) -> Option<&Path> {
        let dest = match self {
            Self::Tar(spec) => &spec.dest,
            Self::Archive(spec) if spec.tar => spec.dest.as_ref()?,
            _ => return None,
        };
        match dest {
            Dest::Path(path) => Some(path),
            Dest::Stdout => None,
        }
    }

    /// Whether it writes to standard output.
    pub fn uses_stdout(&self) -> bool {
        matches!(
            self,
            Self::Tar(TarSpec {
                dest: Dest::Stdout,
                ..
            }) | Self::Archive(ArchiveSpec {
                dest: Some(Dest::Stdout),
                ..
            })
        )
    }

    /// Whether it deletes files that it has not made: `mode=delete`.
    pub fn deletes_files(&self) -> bool {
        matches!(
            self,
            Self::Local(LocalSpec {
                mode: LocalMode::Delete,
                ..
            })
        )
    }

    /// Whether it cannot do without a name and has none of its own.
    pub fn needs_name(&self) -> bool {
        matches!(self, Self::Image(spec) if spec.push && spec.image.names.is_empty())
    }

    /// The value of `type`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Image(_) => "image",
            Self::Archive(spec) => match spec.format {
                ArchiveFormat::Oci => "oci",
                ArchiveFormat::Docker => "docker",
            },
            Self::Local(_) => "local",
            Self::Tar(_) => "tar",
            Self::CacheOnly => "cacheonly",
        }
    }

    /// How its image is made, if it makes one.
    pub const fn image_options(&self) -> Option<&ImageOptions> {
        match self {
            Self::Image(spec) => Some(&spec.image),
            Self::Archive(spec) => Some(&spec.image),
            Self::Local(_) | Self::Tar(_) | Self::CacheOnly => None,
        }
    }

    /// Whether there is a place in it, or beside its files, for what is said about the image.
    pub fn takes_attestations(&self) -> bool {
        match self {
            Self::Image(_) => true,
            Self::Archive(spec) => spec.format == ArchiveFormat::Oci,
            Self::Local(_) | Self::Tar(_) => true,
            Self::CacheOnly => false,
        }
    }

    /// The Docker context whose engine it wants, when it names one.
    pub fn engine_context(&self) -> Option<&str> {
        match self {
            Self::Archive(spec) => spec.context.as_deref(),
            _ => None,
        }
    }

    /// The output that leaves the image in the local store, which is the default.
    pub fn store() -> Self {
        Self::Image(ImageSpec {
            store: true,
            push: false,
            by_digest: false,
            insecure: false,
            canonical: false,
            dangling: None,
            image: ImageOptions::new(),
        })
    }

    /// `--load`, the same as `type=docker`.
    pub fn engine() -> Self {
        Self::Archive(ArchiveSpec {
            format: ArchiveFormat::Docker,
            dest: None,
            context: None,
            tar: true,
            image: ImageOptions::new(),
        })
    }

    /// Whether it hands the image to a Docker engine.
    pub fn uses_engine(&self) -> bool {
        matches!(self, Self::Archive(ArchiveSpec { dest: None, .. }))
    }

    /// `--push`, the same as `type=registry`.
    pub fn registry() -> Self {
        Self::Image(ImageSpec {
            store: false,
            push: true,
            by_digest: false,
            insecure: false,
            canonical: false,
            dangling: None,
            image: ImageOptions::new(),
        })
    }
}

impl Default for ImageOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageOptions {
    /// An image without names and with nothing special.
    pub const fn new() -> Self {
        Self {
            names: Vec::new(),
            layers: LayerOptions {
                compression: None,
                estargz: false,
                force: false,
                rewrite_timestamp: false,
            },
            oci_media_types: true,
            annotations: Vec::new(),
            epoch: None,
            artifacts: true,
            inline_attestations: None,
        }
    }
}

#[cfg(test)]
mod tests;
