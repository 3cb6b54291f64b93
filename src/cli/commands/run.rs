//! `rbuild run`: a program of an image of the store, to see whether it works.

use std::{
    ffi::OsString,
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use rbuild::{
    build::{Container, ContainerServices, run_container},
    oci::{ConfigFile, Index, Manifest, Platform},
    progress::Stream,
    sandbox::{Cancel, Exit, MountKind, MountSpec, Refusal, Rung, Sandbox, Signals, Streams},
    snapshot::Snapshots,
    store::{Store, Tag},
};

use super::{build, images};
use crate::cli::{
    classify,
    diagnostics::{self, Failure, Kind},
    environment::Environment,
    namespace,
    ports::Watch,
    request,
    run_args::{RunArgs, Volume},
    signals,
    values::Pair,
};

/// Runs the program to its end; gives its exit status.
pub(crate) fn run(
    args: &RunArgs,
    root: &Path,
    env: &Environment,
    rung: &Result<Rung, Refusal>,
) -> Result<ExitCode, Failure> {
    let store = Store::open(root).map_err(|e| classify::failure(&e))?;
    let _states = namespace::shelter_states(&store, rung, env)?;
    let image = images::find(&store, &args.image)?;
    let (manifest, config) = manifest(&store, &image)?;
    let container = container(args, &image, env)?;
    let style = build::state_style(rung.as_ref().ok().copied());
    let snapshots =
        Snapshots::open(&store.snapshots_dir(), style).map_err(|e| classify::failure(&e))?;
    let failed = |e: io::Error| Failure::new(Kind::Machine, format!("cannot start a program: {e}"));
    let cancel = Cancel::new().map_err(failed)?;
    let passed_on = Arc::new(Signals::new().map_err(failed)?);
    signals::pass_on(Arc::clone(&passed_on), cancel.clone())?;
    let ports = Watch::start(&args.publish)?;
    let services = ContainerServices {
        store: &store,
        snapshots: &snapshots,
        sandbox: &Sandbox::new(),
        rung,
        cancel: &cancel,
        signals: &passed_on,
    };
    // A reader that has gone away must not stop the program: it would not know.
    let mut sink = |stream, bytes: &[u8]| {
        match stream {
            Stream::Stdout => io::stdout().lock().write_all(bytes).ok(),
            Stream::Stderr => io::stderr().lock().write_all(bytes).ok(),
        };
        if stream == Stream::Stdout {
            io::stdout().lock().flush().ok();
        }
    };
    let exit = run_container(&manifest, &config, &container, &services, &mut sink)
        .map_err(|e| classify::failure_or(Kind::Build, &e))?;
    ports.finish();
    if let Exit::NotStarted { reason, .. } = &exit {
        diagnostics::warn(&format!("error: {reason}\n"));
    }
    Ok(ExitCode::from(u8::try_from(exit.code()).unwrap_or(u8::MAX)))
}

/// The manifest and config for this machine.
fn manifest(store: &Store, image: &Tag) -> Result<(Manifest, ConfigFile), Failure> {
    let failed = |e| classify::failure(&e);
    let mut descriptor = image.descriptor.clone();
    if descriptor.media_type.is_index() {
        let index: Index = store.read_json(&descriptor).map_err(failed)?;
        let host = Platform::host();
        let fits = |platform: &Platform| {
            platform.os == host.os && platform.architecture == host.architecture
        };
        let mut manifests = index.manifests.into_iter();
        descriptor = manifests
            .find(|entry| entry.platform.as_ref().is_some_and(fits))
            .ok_or_else(|| {
                let name = image.reference.familiar();
                Failure::new(Kind::Build, format!("`{name}` has no image for {host}"))
            })?;
    }
    let manifest: Manifest = store.read_json(&descriptor).map_err(failed)?;
    let config = store.read_json(&manifest.config).map_err(failed)?;
    Ok((manifest, config))
}

fn container(args: &RunArgs, image: &Tag, env: &Environment) -> Result<Container, Failure> {
    let streams = match (args.interactive, args.tty) {
        (_, true) if !io::stdin().is_terminal() => {
            return Err(Failure::usage("standard input is not a terminal")
                .with_hint("leave out -t; output is passed on as it comes"));
        }
        (_, true) => Streams::Same,
        (true, false) => Streams::Input,
        (false, false) => Streams::Output,
    };
    let no_network = match args.network.as_str() {
        "host" | "default" => false,
        "none" => true,
        other => {
            return Err(Failure::usage(format!(
                "network mode `{other}` is not supported; it is host or none"
            )));
        }
    };
    if let Some(dir) = args.workdir.as_deref().filter(|dir| !dir.is_absolute()) {
        return Err(Failure::usage(format!(
            "the working directory `{}` is not an absolute path",
            dir.display()
        )));
    }
    let mut variables = Vec::new();
    for file in &args.env_file {
        variables.extend(env_file(file, env)?);
    }
    variables.extend(args.env.iter().filter_map(|pair| variable(pair, env)));
    let hostname = args.hostname.clone();
    Ok(Container {
        entrypoint: args.entrypoint.clone(),
        args: args.command.clone(),
        env: variables,
        user: args.user.clone(),
        workdir: args.workdir.clone(),
        mounts: args.volume.iter().map(mount).collect::<Result<_, _>>()?,
        no_network,
        hostname: hostname.unwrap_or_else(|| image.descriptor.digest.short()),
        add_hosts: request::hosts(&args.add_host),
        resolv_conf: build::host_resolv_conf(),
        streams,
    })
}

/// A variable as it was asked for; one without a value, and not in the environment, is not set.
fn variable(pair: &Pair, env: &Environment) -> Option<(OsString, OsString)> {
    let value = match &pair.value {
        Some(value) => value.into(),
        None => env.get_raw(&pair.key)?.to_owned(),
    };
    Some((OsString::from(&pair.key), value))
}

/// The variables of a file of Docker's form.
fn env_file(path: &Path, env: &Environment) -> Result<Vec<(OsString, OsString)>, Failure> {
    let wrong = |what: String| Failure::usage(format!("{}: {what}", path.display()));
    let text = fs::read_to_string(path).map_err(|e| wrong(format!("cannot read it: {e}")))?;
    let mut variables = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let pair: Pair = line
            .parse()
            .map_err(|e| wrong(format!("line {}: {e}", number + 1)))?;
        if pair.key.contains(char::is_whitespace) {
            return Err(wrong(format!("line {}: a name has no spaces", number + 1)));
        }
        variables.extend(variable(&pair, env));
    }
    Ok(variables)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a path of this machine, not of a root"
)]
fn mount(volume: &Volume) -> Result<MountSpec, Failure> {
    let source = fs::canonicalize(&volume.source)
        .map_err(|e| Failure::usage(format!("cannot mount `{}`: {e}", volume.source.display())))?;
    let readonly = volume.readonly;
    let kind = MountKind::Bind { source, readonly };
    Ok(MountSpec::new(&volume.target, kind))
}
