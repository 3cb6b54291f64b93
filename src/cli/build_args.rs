//! The options of `rbuild build`, with Docker's names and meanings.

#![expect(
    clippy::doc_markdown,
    reason = "comments here are help texts, and a terminal shows backticks as they are"
)]

use std::path::PathBuf;

use clap::Args;
use rbuild::{output::OutputSpec, sandbox::Isolation};

use super::{
    args::{DataFormat, ProgressForm},
    cache_spec::{CacheFrom, CacheTo, MountIds},
    call::Call,
    provenance::AttestArgs,
    refused::Refused,
    registry_args::RegistryArgs,
    secret::{SecretSpec, SshSpec},
    values::{Annotations, ByteSize, Host, Pair, Ulimit},
};

/// What the options of a build say, each by itself.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches of a command line are independent of each other"
)]
pub(crate) struct BuildArgs {
    /// Build context: a directory, `-` for a tar or a Dockerfile on standard input, a git or http URL
    #[arg(value_name = "CONTEXT")]
    pub(crate) context: String,

    /// Name of the result; may be repeated
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub(crate) tag: Vec<String>,
    /// The Dockerfile; `-` for standard input, or a URL [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "PATH")]
    pub(crate) file: Option<String>,
    /// The stage to build [default: the last one]
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Set an ARG; without a value, take it from the environment
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub(crate) build_arg: Vec<Pair>,
    /// Another context, for `FROM`, `COPY --from` and mounts: a directory, `docker-image://REF`, `oci-layout://DIR[:TAG]`,
    /// a git or http URL
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) build_context: Vec<Pair>,
    /// Platforms of the result, with commas between them [default:
    /// $DOCKER_DEFAULT_PLATFORM, or this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    pub(crate) platform: Vec<String>,

    /// Where the result goes: PATH, `-`, or `type=registry|image|oci|docker|tar|local|cacheonly[,KEY=VALUE…]`; may be
    /// repeated
    #[arg(short, long, value_name = "SPEC", value_parser = OutputSpec::parse, help_heading = "Output")]
    pub(crate) output: Vec<OutputSpec>,
    /// Push the result to the registry that its name says; short for `-o type=registry`
    #[arg(long, help_heading = "Output")]
    pub(crate) push: bool,
    /// Load the result into the Docker engine; short for `-o type=docker`
    #[arg(long, help_heading = "Output")]
    pub(crate) load: bool,
    /// Set a label of the image
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Output")]
    pub(crate) label: Vec<Pair>,
    /// Set an annotation of the manifest, or of what TYPE says: index, manifest, index-descriptor, manifest-descriptor
    #[arg(long, value_name = "[TYPE:]KEY=VALUE", help_heading = "Output")]
    pub(crate) annotation: Vec<Annotations>,
    #[command(flatten)]
    pub(crate) attest: AttestArgs,
    /// Write the image ID to a file
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) iidfile: Option<PathBuf>,
    /// Write what came out to a file, as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) metadata_file: Option<PathBuf>,

    /// Run every step again
    #[arg(long, help_heading = "Cache")]
    pub(crate) no_cache: bool,
    /// Run the steps of these stages again
    #[arg(
        long,
        value_name = "STAGE",
        value_delimiter = ',',
        help_heading = "Cache"
    )]
    pub(crate) no_cache_filter: Vec<String>,
    /// Take results of steps from a cache: REF, `type=registry,ref=REF`, `type=local,src=DIR`, `type=s3,…`, `type=gha`; may be
    /// repeated
    #[arg(long, value_name = "SPEC", help_heading = "Cache")]
    pub(crate) cache_from: Vec<CacheFrom>,
    /// Write results of steps to a cache: `type=registry,ref=REF`, `type=local,dest=DIR`, `type=inline`,
    /// `type=s3,…`, `type=gha`, with `mode=max` those of all
    /// stages; may be repeated
    #[arg(long, value_name = "SPEC", help_heading = "Cache")]
    pub(crate) cache_to: Vec<CacheTo>,
    /// Also move cache mounts (RUN --mount=type=cache) with --cache-from and --cache-to: their ids, or all
    #[arg(long, value_name = "ID[,ID]|all", help_heading = "Cache")]
    pub(crate) cache_mounts: Option<MountIds>,
    /// Ask the registry for newer base images
    #[arg(long, help_heading = "Cache")]
    pub(crate) pull: bool,
    /// Say of each step that runs why it was not cached; `--explain=json` prints that about all steps on standard
    /// output when the build is over
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "text",
        help_heading = "Cache"
    )]
    pub(crate) explain: Option<DataFormat>,

    /// Give RUN steps a secret: `id=ID[,src=PATH|,env=VAR]`
    #[arg(long, value_name = "SPEC", help_heading = "RUN steps")]
    pub(crate) secret: Vec<SecretSpec>,
    /// Give RUN steps an SSH agent: `default` or `ID[=SOCKET]`
    #[arg(long, value_name = "SPEC", help_heading = "RUN steps")]
    pub(crate) ssh: Vec<SshSpec>,
    /// Network of RUN steps: default, none or host
    #[arg(
        long,
        value_name = "MODE",
        default_value = "default",
        help_heading = "RUN steps"
    )]
    pub(crate) network: String,
    /// Another line in /etc/hosts; the address may be `host-gateway`
    #[arg(
        long,
        value_name = "HOST:IP",
        value_delimiter = ',',
        help_heading = "RUN steps"
    )]
    pub(crate) add_host: Vec<Host>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE", help_heading = "RUN steps")]
    pub(crate) shm_size: Option<ByteSize>,
    /// Limit of a resource
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = "RUN steps")]
    pub(crate) ulimit: Vec<Ulimit>,
    /// How RUN steps are kept apart from this machine: auto, native, userns, chroot or emulate [default:
    /// $RBUILD_ISOLATION, or auto]
    #[arg(long, value_name = "RUNG", help_heading = "RUN steps")]
    pub(crate) isolation: Option<Isolation>,
    /// Allow what can harm this machine: network.host, security.insecure, buildx.local.delete
    #[arg(long, value_name = "WHAT", help_heading = "RUN steps")]
    pub(crate) allow: Vec<String>,

    /// Make room after the build when the cache has more than this [default: $RBUILD_CACHE_BUDGET, or no limit]
    #[arg(long, value_name = "BYTES")]
    pub(crate) cache_budget: Option<ByteSize>,
    /// How to show progress [default: $BUILDKIT_PROGRESS, or auto]
    #[arg(
        long,
        value_enum,
        value_name = "FORM",
        help_heading = "Progress and checks"
    )]
    pub(crate) progress: Option<ProgressForm>,
    /// Print the image ID alone
    #[arg(short, long, help_heading = "Progress and checks")]
    pub(crate) quiet: bool,
    /// Look for mistakes in the Dockerfile and build nothing; short for `--call check`
    #[arg(long, help_heading = "Progress and checks")]
    pub(crate) check: bool,
    /// What to do with the Dockerfile: build, check, outline, targets or subrequests.describe, with `,format=json` for
    /// programs
    #[arg(
        long,
        value_name = "METHOD",
        default_value = "build",
        help_heading = "Progress and checks"
    )]
    pub(crate) call: Call,

    #[command(flatten)]
    pub(crate) registries: RegistryArgs,
    #[command(flatten)]
    pub(crate) refused: Refused,
}

impl BuildArgs {
    /// Whether a build argument asks for an inline cache, as BuildKit takes it.
    pub(crate) fn asks_for_inline_cache(&self) -> bool {
        self.build_arg.iter().any(|arg| {
            arg.key == "BUILDKIT_INLINE_CACHE" && matches!(arg.value.as_deref(), Some("1" | "true"))
        })
    }
}
