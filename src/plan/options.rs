//! What the command line says about a plan.

use std::collections::BTreeMap;

use crate::{context::Patterns, oci::Platform};

/// What a plan depends on besides the Dockerfile.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own on the command line"
)]
pub struct Options {
    /// `--target`: the name of a stage. The last stage when absent.
    pub target: Option<String>,
    /// `--build-arg`, those that the user gave and those that the program adds (`SOURCE_DATE_EPOCH`, proxies).
    pub build_args: BTreeMap<String, String>,
    /// The platform of the result.
    pub platform: Platform,
    /// Whether `platform` was asked for. When not, a base image for a single other platform decides what the result
    /// says of itself.
    pub platform_explicit: bool,
    /// The platform of this machine: `BUILDPLATFORM`.
    pub build_platform: Platform,
    /// `--build-context`, by name. A name may end in `::os/arch` and then holds for that platform alone. Any stage
    /// or image of that name is replaced; images match after normalisation (`alpine` replaces
    /// `docker.io/library/alpine:latest`).
    pub contexts: BTreeMap<String, NamedContext>,
    /// Whether the result is for several platforms, so that names of steps carry theirs.
    pub multi_platform: bool,
    /// Whether stages that the target does not need are planned, too: `--check` without `--target` does.
    pub all_stages: bool,
    /// Whether the plan tells what the images of all its stages would be, and not of the target alone: for those who print it. In
    /// a chain of stages that takes memory with the square of its length.
    pub all_configs: bool,
    /// The host name that processes see; the build argument `BUILDKIT_SANDBOX_HOSTNAME` goes first.
    pub hostname: Option<String>,
    /// The time of the source that `SOURCE_DATE_EPOCH` names, in seconds since 1970, once somebody asked it:
    /// `Some(None)` when it has none. Unused when the value is a number.
    pub epoch: Option<Option<i64>>,
    /// What the ignore file takes out of the build context, for warnings about instructions that name it.
    pub ignore: Patterns,
    /// Whether images without a known config count as images with an empty one, so that a plan can be had without
    /// asking a registry. Their environment then holds the default `PATH` alone, and `$PATH` expands to that.
    /// What is wrong in a stage is then a warning: a word that cannot be expanded stays as written, and an
    /// instruction that means nothing does nothing.
    pub assume_bases: bool,
}

impl Default for Options {
    /// A build of the last stage for this machine.
    fn default() -> Self {
        Self {
            target: None,
            build_args: BTreeMap::new(),
            platform: Platform::host().normalized(),
            platform_explicit: false,
            build_platform: Platform::host().normalized(),
            contexts: BTreeMap::new(),
            multi_platform: false,
            all_stages: false,
            all_configs: false,
            hostname: None,
            epoch: None,
            ignore: Patterns::default(),
            assume_bases: false,
        }
    }
}

/// What a named context is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedContext {
    /// Files: a directory, an archive, a repository. As a base it is an image without a config.
    Directory,
    /// An image, in a registry or in a layout on disk; as a base it brings its config.
    Image,
    /// Nothing: `docker-image://scratch`.
    Scratch,
}
