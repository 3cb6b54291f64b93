//! The command line as typed values. What the values mean together with the environment is `settings`' business.
//!
//! `build` is the default command: a command line that does not begin with the name of a command is one of
//! `rbuild build`. A directory that is called like a command is written with a slash: `rbuild ./images`.

#![expect(
    clippy::doc_markdown,
    reason = "comments here are help texts, and a terminal shows backticks as they are"
)]

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use rbuild::source::suggest;

use super::{
    build_args::BuildArgs, cache_args::CacheArgs, cache_spec::CacheFrom,
    registry_args::RegistryArgs, run_args::RunArgs, switches, values::Pair,
};

const AFTER_HELP: &str = "\
`rbuild [OPTIONS] CONTEXT` is short for `rbuild build [OPTIONS] CONTEXT`; `rbuild build --help` lists the options.

Exit status: 0 done; 1 the build is wrong; 2 the command line is wrong; 3 this machine cannot;
4 the remote said no; 70 rbuild is wrong; 129, 130 or 143 interrupted.";

/// Builds container images from Dockerfiles, without a daemon and without root. Images go to rbuild's own store unless
/// -o or --push says otherwise.
#[derive(Debug, Parser)]
#[command(
    name = "rbuild",
    version,
    after_help = AFTER_HELP,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    /// Directory of the store: images, layers and cache [default: $RBUILD_ROOT, or /var/lib/rbuild for root, else
    /// $XDG_DATA_HOME/rbuild or ~/.local/share/rbuild]
    #[arg(long, global = true, value_name = "DIR", display_order = 900)]
    pub(crate) root: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image from a Dockerfile (the default command)
    #[command(visible_alias = "b")]
    Build(Box<BuildArgs>),
    /// Run a program of an image of the store, on this machine's network
    Run(Box<RunArgs>),
    /// Tell which steps a build would take from the cache and which it would run, and why; runs none
    ///
    /// The options are those of a build; nothing is written where they say that a result goes.
    Explain(Box<ExplainArgs>),
    /// List the images in the store
    #[command(visible_alias = "ls")]
    Images(ImagesArgs),
    /// Give an image of the store another name
    Tag(TagArgs),
    /// Remove names of images from the store
    Rmi(RmiArgs),
    /// Push images of the store to their registries
    Push(PushArgs),
    /// Pull images from registries into the store
    Pull(PullArgs),
    /// Fetch the base images that builds will need, and caches with --cache-from
    Warm(WarmArgs),
    /// Join images that were built apart, each for its platform
    Manifest(ManifestArgs),
    /// Show an image: its manifest and config
    Inspect(InspectArgs),
    /// Write images of the store to an archive
    Save(SaveArgs),
    /// Read images from an archive or a layout into the store
    Load(LoadArgs),
    /// Look after the store: what it holds, making room, checking
    Cache(CacheArgs),
    /// Show what a build would do, without network and without reading the context
    Plan(PlanArgs),
    /// Store the credentials for a registry
    Login(LoginArgs),
    /// Forget the credentials for a registry
    Logout(LogoutArgs),
    /// Show what this machine lets a build do, and what to change for more
    Doctor(DoctorArgs),
    /// Print the version
    Version(VersionArgs),
}

/// How a command prints data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum DataFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: DataFormat,
    #[command(flatten)]
    pub(crate) build: BuildArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Only images whose name begins with this
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: DataFormat,
    /// Whole digests
    #[arg(long)]
    pub(crate) digests: bool,
    /// Print the image IDs alone
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// An image of the store: a name, or a digest
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// The new names
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RmiArgs {
    /// Names, or digests for all names of an image
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// Images of the store; the name says which registry
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
    #[command(flatten)]
    pub(crate) registries: RegistryArgs,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Images to pull
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
    /// The platform to pick of an image for several [default: $DOCKER_DEFAULT_PLATFORM, or this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<String>,
    #[command(flatten)]
    pub(crate) registries: RegistryArgs,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WarmArgs {
    /// Images to fetch
    #[arg(value_name = "IMAGE", required_unless_present_any = ["file", "cache_from"])]
    pub(crate) images: Vec<String>,
    /// Fetch all images that this Dockerfile names, in FROM, COPY --from, mounts, or by ONBUILD of its bases; may be repeated
    #[arg(short, long, value_name = "PATH")]
    pub(crate) file: Vec<PathBuf>,
    /// Take in a cache, with all layers that it has, as for a build: type=registry|local|s3|gha,KEY=VALUE…; may be repeated
    #[arg(long, value_name = "PLACE")]
    pub(crate) cache_from: Vec<CacheFrom>,
    /// Set an ARG that names of images use; without a value, take it from the environment
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub(crate) build_arg: Vec<Pair>,
    /// Platforms to pick of an image for several [default: $DOCKER_DEFAULT_PLATFORM, or this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    pub(crate) platform: Vec<String>,
    #[command(flatten)]
    pub(crate) registries: RegistryArgs,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ManifestArgs {
    #[command(subcommand)]
    pub(crate) command: ManifestCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ManifestCommand {
    /// Make a list of images, one for each platform; no layers are fetched
    Create(ManifestCreateArgs),
    /// Push a list, and what its images need that the registry does not have
    Push(ManifestPushArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ManifestCreateArgs {
    /// The name of the list
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Images of the store, or else of their registries, with all their platforms
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
    /// Set an annotation of the index
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) annotation: Vec<Pair>,
    #[command(flatten)]
    pub(crate) registries: RegistryArgs,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ManifestPushArgs {
    /// The name of the list
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Where to push to [default: NAME]
    #[arg(value_name = "DESTINATION")]
    pub(crate) destination: Option<String>,
    #[command(flatten)]
    pub(crate) registries: RegistryArgs,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

/// How commands that take their time report.
#[derive(Debug, Args)]
pub(crate) struct TalkArgs {
    /// How to show progress [default: $BUILDKIT_PROGRESS, or auto]
    #[arg(long, value_enum, value_name = "FORM")]
    pub(crate) progress: Option<ProgressForm>,
    /// Print the result alone
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ProgressForm {
    /// `tty` on a terminal, else `plain`
    #[default]
    Auto,
    /// A live view of a few lines
    Tty,
    /// One line for each thing that happens, nothing clipped
    Plain,
    /// Errors alone
    #[value(alias = "none")]
    Quiet,
    /// One JSON object for each event
    Rawjson,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// An image of the store: a name, or a digest
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// How to print
    #[arg(long, value_enum, default_value_t = DataFormat::Json)]
    pub(crate) format: DataFormat,
}

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// Images of the store
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
    /// The archive [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// What kind of archive
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ArchiveFormat,
}

/// The two archives that hold images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ArchiveFormat {
    /// What `docker load` reads
    #[default]
    Docker,
    /// An OCI image layout in a tar
    Oci,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// The archive, or the directory of a layout [default: standard input]
    #[arg(short, long, value_name = "PATH")]
    pub(crate) input: Option<PathBuf>,
    /// Print nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The Dockerfile; `-` for standard input [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,
    /// The stage to build [default: the last one]
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Set an ARG; without a value, take it from the environment
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub(crate) build_arg: Vec<Pair>,
    /// The platform of the result [default: $DOCKER_DEFAULT_PLATFORM, or this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<String>,
    /// Name of a context that replaces a stage or an image; its value is not looked at
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) build_context: Vec<Pair>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: DataFormat,
    /// The directory of the Dockerfile; nothing else of it is read
    #[arg(value_name = "CONTEXT", default_value = ".")]
    pub(crate) context: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// The registry, as it stands in image names
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    pub(crate) registry: String,
    /// User name
    #[arg(short, long, value_name = "NAME")]
    pub(crate) username: String,
    /// Read the password from standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// On the command line every process of the machine could read it
    #[arg(short, long, value_name = "PASSWORD", hide = true)]
    pub(crate) password: Option<OsString>,
    #[command(flatten)]
    pub(crate) registries: RegistryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// The registry, as it stands in image names
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    pub(crate) registry: String,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: DataFormat,
    /// Short for --format=json
    #[arg(long, conflicts_with = "format")]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: DataFormat,
}

/// Puts `build` where a command line leaves it out.
pub(crate) fn with_default_command(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let mut at = 1;
    while let Some(arg) = args.get(at).and_then(|a| a.to_str()) {
        match arg {
            "--root" => at += 2,
            _ if arg.starts_with("--root=") => at += 1,
            "-h" | "--help" | "-V" | "--version" => return args,
            "help" => {
                args.remove(at);
                args.push("--help".into());
                return args;
            }
            _ if is_command(arg) => return args,
            _ => break,
        }
    }
    if at < args.len() {
        args.insert(at, "build".into());
    }
    args
}

/// Reads a command line. As with `docker buildx`, an option of a build that needs a value takes the next word, whatever it looks
/// like: `--build-arg -v=1`.
pub(crate) fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    use clap::{CommandFactory as _, FromArgMatches as _};
    let takes_any = |arg: clap::Arg| {
        let one = arg.get_num_args().is_none_or(|n| n == 1.into());
        if one && arg.get_action().takes_values() && !arg.is_positional() {
            arg.allow_hyphen_values(true)
        } else {
            arg
        }
    };
    let mut command = Cli::command();
    for name in switches::LIKE_DOCKER {
        command = command.mut_subcommand(name, |c| c.mut_args(takes_any));
    }
    let matches = switches::matches(&mut command, arguments)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

fn is_command(word: &str) -> bool {
    use clap::CommandFactory as _;
    Cli::command()
        .get_subcommands()
        .any(|c| c.get_name() == word || c.get_all_aliases().any(|a| a == word))
}

/// The command that may be meant by a word that was taken for a context.
pub(crate) fn command_near(word: &str) -> Option<String> {
    use clap::CommandFactory as _;
    let command = Cli::command();
    let names = command.get_subcommands().map(clap::Command::get_name);
    suggest(word, names).map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaulted(line: &str) -> String {
        let args = line.split(' ').map(OsString::from);
        let args: Vec<String> = with_default_command(args)
            .into_iter()
            .map(|a| a.into_string().expect("ASCII"))
            .collect();
        args.join(" ")
    }

    #[test]
    fn definitions_hold_together() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_value_may_look_like_an_option() {
        let words = ["rbuild", "build", "--target", "-1", "--label", "--x=y", "."];
        let cli = parse(&words.map(OsString::from)).unwrap();
        let Command::Build(build) = cli.command else {
            panic!("another command");
        };
        assert_eq!(build.target.as_deref(), Some("-1"));
        assert!(
            parse(&["rbuild", "build", "--call", "check", "--nope", "."].map(OsString::from))
                .is_err()
        );
    }

    #[test]
    fn build_is_the_default_command() {
        for (line, want) in [
            ("rbuild -t app .", "rbuild build -t app ."),
            ("rbuild .", "rbuild build ."),
            ("rbuild -t images .", "rbuild build -t images ."),
            ("rbuild --root /r .", "rbuild --root /r build ."),
            ("rbuild --root=/r images", "rbuild --root=/r images"),
            ("rbuild build .", "rbuild build ."),
            ("rbuild ./images", "rbuild build ./images"),
            ("rbuild --help", "rbuild --help"),
            ("rbuild help", "rbuild --help"),
            ("rbuild help cache prune", "rbuild cache prune --help"),
            ("rbuild ./help", "rbuild build ./help"),
            ("rbuild", "rbuild"),
        ] {
            assert_eq!(defaulted(line), want);
        }
    }
}
