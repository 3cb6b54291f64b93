//! From options, environment and files to a request that needs neither: the second stage of settings.

use std::{
    collections::BTreeMap,
    error::Error as _,
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

use rbuild::{
    build::{Agent, BuildRequest, ContextSource, NamedSource, NoCache, SecretSource},
    plan::Network,
};

use super::{
    build_args::BuildArgs,
    diagnostics::Failure,
    environment::Environment,
    inputs::{self, Context, Directory, Inputs},
    remote::Fetcher,
    secret::{self, SecretSpec, SshSpec},
    settings,
    values::{Host, Pair},
};

/// Everything that a build depends on, found and read.
///
/// Without a fetcher, no context may be one that has to be fetched, see [`needs_fetcher`].
pub(crate) fn request(
    args: &BuildArgs,
    env: &Environment,
    fetcher: Option<&Fetcher<'_>>,
) -> Result<BuildRequest, Failure> {
    let Inputs {
        dockerfile,
        context,
    } = inputs::find(&args.context, args.file.as_deref(), fetcher)?;
    let (context, context_time) = match context {
        Context::Directory(Directory { path, patterns }) => {
            (ContextSource::Directory { path, patterns }, None)
        }
        Context::Fetched(tree, time) => (ContextSource::Tree(tree), time),
        Context::Empty => (ContextSource::Empty, None),
    };
    let allowed = allowed(&args.allow)?;
    let network = network(&args.network)?;
    Ok(BuildRequest {
        dockerfile_name: dockerfile.name,
        dockerfile: dockerfile.text,
        context,
        named_contexts: named_contexts(&args.build_context, fetcher)?,
        target: args.target.clone().filter(|target| !target.is_empty()),
        platforms: settings::platforms(&args.platform, env)?,
        multi_platform: settings::wants_index(
            &args.platform,
            &settings::build_args(&args.build_arg, env),
            env,
        ),
        platform_explicit: settings::platform_is_explicit(&args.platform, env),
        build_args: settings::build_args(&args.build_arg, env),
        labels: pairs(&args.label),
        no_cache: no_cache(args),
        pull: args.pull,
        explain: args.explain.is_some(),
        network,
        add_hosts: hosts(&args.add_host),
        secrets: secrets(&args.secret, env)?,
        ssh: agents(&args.ssh, env)?,
        shm_size: args.shm_size.map(|size| size.0),
        ulimits: args.ulimit.iter().map(|limit| limit.0.clone()).collect(),
        hostname: None,
        scanner: args.attest.scanner(&args.build_arg)?,
        git_env: inputs::git_env(env),
        context_time,
        // Who asks for the host's network on the command line allows it with that, as in Docker.
        allow_host_network: allowed.host_network || network == Network::Host,
        allow_insecure: allowed.insecure,
    })
}

/// Whether something has to be fetched before the request is known.
pub(crate) fn needs_fetcher(args: &BuildArgs) -> bool {
    let named = args.build_context.iter();
    inputs::is_remote(&args.context)
        || args.file.as_deref().is_some_and(inputs::is_url)
        || named
            .filter_map(|pair| pair.value.as_deref())
            .any(inputs::is_url)
}

fn pairs(pairs: &[Pair]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|pair| (pair.key.clone(), pair.value.clone().unwrap_or_default()))
        .collect()
}

fn no_cache(args: &BuildArgs) -> NoCache {
    if args.no_cache {
        NoCache::Always
    } else if args.no_cache_filter.is_empty() {
        NoCache::Never
    } else {
        NoCache::Stages(args.no_cache_filter.clone())
    }
}

fn network(mode: &str) -> Result<Network, Failure> {
    match mode {
        "" | "default" => Ok(Network::Default),
        "none" => Ok(Network::None),
        "host" => Ok(Network::Host),
        other => Err(Failure::usage(format!(
            "network mode `{other}` is not supported; it is default, none or host"
        ))),
    }
}

/// The word that lets an output delete files, as in buildx.
pub(crate) const LOCAL_DELETE: &str = "buildx.local.delete";

struct Allowed {
    host_network: bool,
    insecure: bool,
}

fn allowed(entitlements: &[String]) -> Result<Allowed, Failure> {
    let mut allowed = Allowed {
        host_network: false,
        insecure: false,
    };
    for entitlement in entitlements.iter().flat_map(|list| list.split(',')) {
        match entitlement {
            "network.host" => allowed.host_network = true,
            "security.insecure" => allowed.insecure = true,
            // Not the build's business: the outputs ask for it.
            LOCAL_DELETE => {}
            other => {
                return Err(Failure::usage(format!(
                    "--allow `{other}` is not supported; it is network.host, security.insecure or {LOCAL_DELETE}"
                )));
            }
        }
    }
    Ok(allowed)
}

/// Steps see the network of this machine, so its own address is the gateway.
const HOST_GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(crate) fn hosts(hosts: &[Host]) -> Vec<(String, IpAddr)> {
    hosts
        .iter()
        .map(|host| (host.name.clone(), host.address.unwrap_or(HOST_GATEWAY)))
        .collect()
}

fn named_contexts(
    pairs: &[Pair],
    fetcher: Option<&Fetcher<'_>>,
) -> Result<BTreeMap<String, NamedSource>, Failure> {
    let mut contexts = BTreeMap::new();
    for Pair { key, value } in pairs {
        let Some(value) = value.as_deref().filter(|value| !value.is_empty()) else {
            return Err(Failure::usage(format!(
                "--build-context `{key}` is not of the form NAME=VALUE"
            )));
        };
        contexts.insert(key.clone(), named_context(key, value, fetcher)?);
    }
    Ok(contexts)
}

fn named_context(
    name: &str,
    value: &str,
    fetcher: Option<&Fetcher<'_>>,
) -> Result<NamedSource, Failure> {
    if let Some(reference) = value.strip_prefix("docker-image://") {
        return Ok(NamedSource::Image(reference.to_owned()));
    }
    if let Some(layout) = value.strip_prefix("oci-layout://") {
        let (path, image) = split_layout(layout);
        let marker = path.join("oci-layout");
        if !marker.try_exists().unwrap_or(false) {
            return Err(Failure::usage(format!(
                "context `{name}`: `{}` is not an OCI image layout",
                path.display()
            )));
        }
        return Ok(NamedSource::Layout { path, image });
    }
    if let Some(fetcher) = fetcher.filter(|_| inputs::is_url(value)) {
        let (tree, time) = fetcher.named(value)?;
        return Ok(NamedSource::Tree(tree, time));
    }
    let what = format!("context `{name}`,");
    let Directory { path, patterns } = Directory::open(&what, Path::new(value), None)?;
    Ok(NamedSource::Directory { path, patterns })
}

/// `PATH[:TAG][@DIGEST]`; a colon before the last slash belongs to the path.
fn split_layout(text: &str) -> (PathBuf, Option<String>) {
    if let Some((path, digest)) = text.split_once('@') {
        let path = match path.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => path,
            _ => path,
        };
        return (PathBuf::from(path), Some(digest.to_owned()));
    }
    match text.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (PathBuf::from(path), Some(tag.to_owned())),
        _ => (PathBuf::from(text), None),
    }
}

pub(crate) fn secrets(
    specs: &[SecretSpec],
    env: &Environment,
) -> Result<BTreeMap<String, SecretSource>, Failure> {
    let mut secrets = BTreeMap::new();
    for spec in specs {
        let variable = |name: &str| {
            use std::os::unix::ffi::OsStrExt as _;
            env.get_raw(name)
                .map(|value| SecretSource::Value(value.as_bytes().to_vec()))
        };
        let file = |path: &Path| match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Err(Failure::usage(format!(
                "secret `{}`: {} is a directory",
                spec.id,
                path.display()
            ))),
            Ok(_) => Ok(SecretSource::File(path.to_owned())),
            Err(e) => Err(Failure::usage(format!(
                "secret `{}`: cannot read {}: {e}",
                spec.id,
                path.display()
            ))),
        };
        let source = match &spec.source {
            secret::SecretSource::File(path) => file(path)?,
            // As in Docker, a variable that is not set is an empty secret only when it is named outright.
            secret::SecretSource::Variable(name) => {
                variable(name).unwrap_or_else(|| SecretSource::Value(Vec::new()))
            }
            secret::SecretSource::Named => match variable(&spec.id) {
                Some(value) => value,
                None => file(Path::new(&spec.id))?,
            },
        };
        secrets.insert(spec.id.clone(), source);
    }
    Ok(secrets)
}

fn agents(specs: &[SshSpec], env: &Environment) -> Result<BTreeMap<String, Agent>, Failure> {
    let mut agents = BTreeMap::new();
    for spec in specs {
        agents.insert(spec.id.clone(), agent(spec, env)?);
    }
    Ok(agents)
}

/// The agent that listens at a path, or one for the keys in files.
fn agent(spec: &SshSpec, env: &Environment) -> Result<Agent, Failure> {
    let id = &spec.id;
    let mut paths = spec.paths.clone();
    if paths.is_empty() {
        paths.push(env.path("SSH_AUTH_SOCK").ok_or_else(|| {
            Failure::usage(format!("--ssh {id}: $SSH_AUTH_SOCK is not set"))
                .with_hint("start an agent, or name its socket or files of keys: `--ssh ID=PATH`")
        })?);
    }
    let mut n_sockets = 0;
    for path in &paths {
        let metadata = fs::metadata(path);
        let metadata = metadata.map_err(|e| {
            Failure::usage(format!("--ssh {id}: cannot use {}: {e}", path.display()))
        })?;
        n_sockets += usize::from(metadata.file_type().is_socket());
    }
    if n_sockets > 0 {
        let [socket] = <[PathBuf; 1]>::try_from(paths).map_err(|_several| {
            Failure::usage(format!(
                "--ssh {id}: a socket goes with no other socket and no key"
            ))
        })?;
        return Ok(Agent::at(socket));
    }
    let dir = env.path("TMPDIR").unwrap_or_else(|| "/tmp".into());
    Agent::with_keys(&paths, &dir).map_err(|error| {
        let cause = error.source().map(|cause| format!(": {cause}"));
        let text = format!("--ssh {id}: {error}{}", cause.unwrap_or_default());
        Failure::usage(text).with_hint(
            "keys that cannot be read here can be added to an agent with ssh-add, whose socket is passed",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_split_from_their_images() {
        for (text, path, image) in [
            ("dir", "dir", None),
            ("dir:v1", "dir", Some("v1")),
            ("a:b/dir", "a:b/dir", None),
            ("dir@sha256:ab", "dir", Some("sha256:ab")),
            ("dir:v1@sha256:ab", "dir", Some("sha256:ab")),
        ] {
            let want = (PathBuf::from(path), image.map(ToOwned::to_owned));
            assert_eq!(split_layout(text), want, "{text}");
        }
    }
}
