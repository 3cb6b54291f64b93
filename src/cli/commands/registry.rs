//! `push`, `pull`, `login`, `logout`: the commands that talk to registries.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
};

use rbuild::{
    progress::Vertex,
    reference::{Reference, is_registry},
    registry::{
        Client, Credential, DockerConfig, credentials, helper::Helper, parse_docker_config,
        settings::Warn,
    },
    store::Store,
};

use super::images;
use crate::cli::{
    args::{LoginArgs, LogoutArgs, PullArgs, PushArgs, TalkArgs},
    classify,
    diagnostics::{self, Failure, Kind},
    environment::Environment,
    progress::Renderer,
    registry_args::RegistryArgs,
    settings, stdout, terminal,
    transfer::Transfer,
};

/// A client whose remarks are shown at once.
pub(super) fn client(
    args: &RegistryArgs,
    renderer: &Arc<Renderer>,
    env: &Environment,
) -> Result<Client, Failure> {
    let mut settings = args.settings(env)?;
    settings.warn = Some(renderer.takes_remarks());
    Client::new(settings).map_err(|e| classify::failure(&e))
}

pub(super) fn renderer(talk: &TalkArgs, env: &Environment) -> Result<Arc<Renderer>, Failure> {
    let form = settings::progress_form(talk.progress, talk.quiet, env)?;
    Ok(Arc::new(Renderer::new(
        form,
        env.stderr_is_terminal,
        settings::colour(env),
    )))
}

/// `rbuild push`: prints the digest of each image.
pub(crate) fn push(store: &Store, args: &PushArgs, env: &Environment) -> Result<(), Failure> {
    let renderer = renderer(&args.talk, env)?;
    let client = client(&args.registries, &renderer, env)?;
    let transfer = Transfer {
        store,
        registry: &client,
        reporter: &renderer,
    };
    for (n, text) in (1..).zip(&args.images) {
        let image = images::find(store, text)?;
        if Reference::parse(text).is_err() {
            return Err(Failure::usage(format!(
                "`{text}` is a digest; the name says where to push to"
            )));
        }
        transfer
            .push(Vertex(n), &image.descriptor, &image.reference)
            .map_err(|e| classify::failure(&e).during(format!("cannot push `{text}`")))?;
        stdout::print(&format!("{}\n", image.descriptor.digest))?;
    }
    Ok(())
}

/// `rbuild pull`: prints the digest of each image.
pub(crate) fn pull(store: &Store, args: &PullArgs, env: &Environment) -> Result<(), Failure> {
    let given: Vec<String> = args.platform.iter().cloned().collect();
    let platforms = settings::platforms(&given, env)?;
    let [platform] = platforms.as_slice() else {
        return Err(Failure::usage("images are pulled for one platform"));
    };
    let renderer = renderer(&args.talk, env)?;
    let client = client(&args.registries, &renderer, env)?;
    let transfer = Transfer {
        store,
        registry: &client,
        reporter: &renderer,
    };
    for (n, text) in (1..).zip(&args.images) {
        let reference = images::reference(text)?.with_default_tag();
        let pulled = transfer
            .pull(Vertex(n), &reference, platform)
            .map_err(|e| classify::failure(&e).during(format!("cannot pull `{text}`")))?;
        stdout::print(&format!("{}\n", pulled.digest))?;
    }
    Ok(())
}

/// `rbuild login`: asks the registry, then writes the Docker configuration or tells the helper that it names.
pub(crate) fn login(args: &LoginArgs, env: &Environment) -> Result<(), Failure> {
    let registry = registry_name(&args.registry)?;
    if args.password.is_some() {
        return Err(Failure::usage(
            "a password on the command line can be read by every process of this machine",
        )
        .with_hint("use --password-stdin"));
    }
    if !args.password_stdin {
        return Err(Failure::usage(
            "--password-stdin is required: the password is not asked for",
        ));
    }
    let mut password = String::new();
    io::stdin()
        .lock()
        .read_to_string(&mut password)
        .map_err(|e| Failure::usage(format!("cannot read the password: {e}")))?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Failure::usage("the password is empty"));
    }
    let credential = Credential::from_login(&args.username, password);

    let mut settings = args.registries.settings(env)?;
    settings.warn = Some(Warn(Arc::new(|text| {
        diagnostics::warn(&format!("WARNING: {}\n", terminal::one_line(text)));
    })));
    // Only what was typed is shown to the registry: another credential that works would prove nothing.
    let helper_dirs = std::mem::take(&mut settings.credentials).helper_dirs;
    settings
        .credentials
        .push(registry, credential.clone(), "the command line");
    let limit = settings.timeouts.helper;
    Client::new(settings)
        .and_then(|client| client.login(registry))
        .map_err(|e| classify::failure_or(Kind::Remote, &e))?;

    edit_config(env, |text, config, path| {
        if let Some(name) = config.helper_name(registry) {
            Helper::new(name, path, &helper_dirs)
                .store(registry, &credential, limit)
                .map_err(|e| classify::failure(&e))?;
            return credentials::docker_config_with_helper_entry(text, registry)
                .map_err(|e| Failure::usage(format!("{path}: {e}")));
        }
        credentials::docker_config_with(text, registry, &credential)
            .map_err(|e| Failure::usage(format!("{path}: {e}")))
    })?;
    diagnostics::warn(&format!("Login to {registry} succeeded\n"));
    Ok(())
}

/// `rbuild logout`.
pub(crate) fn logout(args: &LogoutArgs, env: &Environment) -> Result<(), Failure> {
    let registry = registry_name(&args.registry)?;
    let settings = settings::registry(env)?;
    edit_config(env, |text, config, path| {
        if let Some(name) = config.helper_name(registry) {
            Helper::new(name, path, &settings.credentials.helper_dirs)
                .erase(registry, settings.timeouts.helper)
                .map_err(|e| classify::failure(&e))?;
        }
        credentials::docker_config_without(text, registry)
            .map_err(|e| Failure::usage(format!("{path}: {e}")))
    })?;
    diagnostics::warn(&format!("The credentials for {registry} are removed\n"));
    Ok(())
}

/// The registry that a command line names, `https://` and a trailing slash forgiven.
fn registry_name(text: &str) -> Result<&str, Failure> {
    let name = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .unwrap_or(text)
        .trim_end_matches('/');
    let name = match name {
        "index.docker.io" | "index.docker.io/v1" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    if name != "docker.io" && !is_registry(name) {
        return Err(Failure::usage(format!(
            "`{text}` is not a registry (host or host:port)"
        )));
    }
    Ok(name)
}

/// Rewrites the Docker configuration: a new file with mode 0600 takes the place of the old one.
fn edit_config(
    env: &Environment,
    edit: impl FnOnce(&str, &DockerConfig, &str) -> Result<String, Failure>,
) -> Result<(), Failure> {
    let path = settings::docker_config_path(env).ok_or_else(|| {
        Failure::usage("there is no place for credentials: neither $DOCKER_CONFIG nor $HOME is set")
    })?;
    // Of a link, the file it points to is replaced, so that the link stays.
    let path = match fs::read_link(&path) {
        Ok(target) => path.parent().unwrap_or(Path::new("/")).join(target),
        Err(_) => path,
    };
    let shown = path.display().to_string();
    let failed = |e: io::Error| Failure::new(Kind::Machine, format!("cannot write {shown}: {e}"));
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(Failure::usage(format!("cannot read {shown}: {e}"))),
    };
    let config = parse_docker_config(&text).map_err(|e| Failure::usage(format!("{shown}: {e}")))?;
    let edited = edit(&text, &config, &shown)?;
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    let mode = fs::metadata(&path).map_or(0o600, |m| m.permissions().mode() & 0o777);
    let new = path.with_extension(format!("json.{}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&new)?;
        file.write_all(edited.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().map_err(|e| {
        fs::remove_file(&new).ok();
        failed(e)
    })
}
