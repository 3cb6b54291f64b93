//! Where things are and how to talk to registries: environment and configuration files turned into plain values.
//!
//! Credentials are looked for in this order; the first that has a registry counts:
//! `$DOCKER_AUTH_CONFIG`, `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`, and
//! containers' `auth.json` below `$XDG_RUNTIME_DIR` and `$XDG_CONFIG_HOME`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use rbuild::{
    oci::{Platform, PlatformError},
    registry::{
        RegistriesConf, Settings as RegistrySettings, parse_docker_config, parse_registries_conf,
        settings::{Proxies, Trust},
    },
    sandbox::Isolation,
};

use super::{
    args::ProgressForm,
    diagnostics::{Failure, Kind},
    environment::Environment,
    terminal::Colour,
    values::{ByteSize, Pair},
};

/// The store's directory.
pub(crate) fn store_root(flag: Option<PathBuf>, env: &Environment) -> Result<PathBuf, Failure> {
    if let Some(root) = flag.or_else(|| env.path("RBUILD_ROOT")) {
        // Steps are set up from other directories.
        return std::path::absolute(&root)
            .map_err(|e| Failure::usage(format!("--root {}: {e}", root.display())));
    }
    if env.uid == 0 {
        return Ok(PathBuf::from("/var/lib/rbuild"));
    }
    env.path("XDG_DATA_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| env.home().map(|home| home.join(".local/share")))
        .map(|data| data.join("rbuild"))
        .ok_or_else(|| {
            Failure::usage("there is no place for the store: neither --root nor $HOME is set")
        })
}

/// How steps are kept apart: `--isolation`, or its variable.
pub(crate) fn isolation(flag: Option<Isolation>, env: &Environment) -> Result<Isolation, Failure> {
    match (flag, env.text("RBUILD_ISOLATION")) {
        (Some(isolation), _) => Ok(isolation),
        (None, Some(text)) => text
            .parse()
            .map_err(|error| Failure::usage(format!("$RBUILD_ISOLATION: {error}"))),
        (None, None) => Ok(Isolation::Auto),
    }
}

/// How many bytes the cache may have after a build: `--cache-budget`, or its variable.
pub(crate) fn cache_budget(
    flag: Option<ByteSize>,
    env: &Environment,
) -> Result<Option<u64>, Failure> {
    let size = match (flag, env.text("RBUILD_CACHE_BUDGET")) {
        (Some(size), _) => Some(size),
        (None, Some(text)) => Some(
            text.parse()
                .map_err(|error| Failure::usage(format!("$RBUILD_CACHE_BUDGET: {error}")))?,
        ),
        (None, None) => None,
    };
    Ok(size.map(|ByteSize(bytes)| bytes))
}

/// How progress is shown.
pub(crate) fn progress_form(
    flag: Option<ProgressForm>,
    quiet: bool,
    env: &Environment,
) -> Result<ProgressForm, Failure> {
    use clap::ValueEnum as _;
    if quiet {
        return Ok(ProgressForm::Quiet);
    }
    if let Some(form) = flag {
        return Ok(form);
    }
    match env.text("BUILDKIT_PROGRESS") {
        None => Ok(ProgressForm::Auto),
        Some(text) => ProgressForm::from_str(text, false).map_err(|_unknown| {
            Failure::usage(format!(
                "$BUILDKIT_PROGRESS is `{text}`; it can be auto, plain, tty, quiet or rawjson"
            ))
        }),
    }
}

/// Whether standard error gets colours (<https://no-color.org>).
pub(crate) fn colour(env: &Environment) -> Colour {
    let dumb = env.text("TERM") == Some("dumb");
    if env.stderr_is_terminal && env.get("NO_COLOR").is_none() && !dumb {
        Colour::On
    } else {
        Colour::Off
    }
}

/// The variables that every build gets as arguments when the Docker configuration sets them.
const PROXY_VARIABLES: [&str; 5] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// Proxy settings of the Docker configuration (`proxies.default`) as build arguments, in both spellings.
pub(crate) fn proxy_build_args(env: &Environment) -> BTreeMap<String, String> {
    let mut args = BTreeMap::new();
    let Some(text) = docker_config_path(env).and_then(|path| fs::read_to_string(path).ok()) else {
        return args;
    };
    let config: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let proxies = &config["proxies"]["default"];
    for (key, variable) in ["httpProxy", "httpsProxy", "ftpProxy", "noProxy", "allProxy"]
        .into_iter()
        .zip(PROXY_VARIABLES)
    {
        if let Some(value) = proxies[key].as_str().filter(|value| !value.is_empty()) {
            args.insert(variable.to_owned(), value.to_owned());
            args.insert(variable.to_lowercase(), value.to_owned());
        }
    }
    args
}

/// The platforms that are asked for, as they are written.
fn named_platforms(given: &[String], env: &Environment) -> Vec<String> {
    let variable: Vec<String> = env
        .text("DOCKER_DEFAULT_PLATFORM")
        .map(|text| text.split(',').map(ToOwned::to_owned).collect())
        .unwrap_or_default();
    let texts = if given.is_empty() { &variable } else { given };
    let texts = texts.iter().map(|text| text.trim().to_owned());
    texts.filter(|text| !text.is_empty()).collect()
}

/// Whether the result is an index even for one platform: the same one twice makes one, too, as does a build argument.
pub(crate) fn wants_index(
    given: &[String],
    build_args: &BTreeMap<String, String>,
    env: &Environment,
) -> bool {
    let asked = build_args
        .get("BUILDKIT_MULTI_PLATFORM")
        .map(String::as_str);
    named_platforms(given, env).len() > 1
        || matches!(asked, Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
}

/// `--platform`, or its variable, or this machine.
pub(crate) fn platforms(given: &[String], env: &Environment) -> Result<Vec<Platform>, Failure> {
    let mut platforms: Vec<Platform> = Vec::new();
    for text in named_platforms(given, env) {
        let platform: Platform = text
            .parse()
            .map_err(|e: PlatformError| Failure::usage(e.to_string()))?;
        let platform = platform.normalized();
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    if platforms.is_empty() {
        platforms.push(Platform::host().normalized());
    }
    Ok(platforms)
}

/// Whether anybody asked for a platform.
pub(crate) fn platform_is_explicit(given: &[String], env: &Environment) -> bool {
    !given.is_empty() || env.text("DOCKER_DEFAULT_PLATFORM").is_some()
}

/// `--build-arg`, with what the environment and the Docker configuration add.
pub(crate) fn build_args(given: &[Pair], env: &Environment) -> BTreeMap<String, String> {
    let mut args = proxy_build_args(env);
    if let Some(epoch) = env.text("SOURCE_DATE_EPOCH") {
        args.insert("SOURCE_DATE_EPOCH".to_owned(), epoch.to_owned());
    }
    for Pair { key, value } in given {
        match value {
            Some(value) => {
                args.insert(key.clone(), value.clone());
            }
            None => {
                if let Some(value) = env.get_raw(key).and_then(|value| value.to_str()) {
                    args.insert(key.clone(), value.to_owned());
                }
            }
        }
    }
    args
}

/// Docker's configuration file.
pub(crate) fn docker_config_path(env: &Environment) -> Option<PathBuf> {
    env.path("DOCKER_CONFIG")
        .or_else(|| env.home().map(|home| home.join(".docker")))
        .map(|dir| dir.join("config.json"))
}

/// How to talk to registries.
pub(crate) fn registry(env: &Environment) -> Result<RegistrySettings, Failure> {
    let mut settings = RegistrySettings {
        registries: registries_conf(env)?,
        proxies: proxies(env),
        trust: Trust {
            file: env.path("SSL_CERT_FILE"),
            dirs: env
                .get("SSL_CERT_DIR")
                .map(|dirs| std::env::split_paths(dirs).collect())
                .unwrap_or_default(),
        },
        certs_d: certs_d(env),
        ..RegistrySettings::default()
    };
    settings.credentials.helper_dirs = env
        .get("PATH")
        .map(|path| std::env::split_paths(path).collect())
        .unwrap_or_default();
    if let Some(text) = env.text("DOCKER_AUTH_CONFIG") {
        let config = parse_docker_config(text)
            .map_err(|e| Failure::usage(format!("$DOCKER_AUTH_CONFIG: {e}")))?;
        settings
            .credentials
            .push_file(config, "$DOCKER_AUTH_CONFIG");
    }
    for (path, wanted) in credential_files(env) {
        let Some(text) = read_optional(&path, wanted)? else {
            continue;
        };
        let config = parse_docker_config(&text)
            .map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
        settings
            .credentials
            .push_file(config, path.display().to_string());
    }
    Ok(settings)
}

/// The files that may hold credentials, and whether each was asked for by name.
fn credential_files(env: &Environment) -> Vec<(PathBuf, bool)> {
    let mut files = Vec::new();
    if let Some(path) = env.path("REGISTRY_AUTH_FILE") {
        files.push((path, true));
    }
    if let Some(path) = docker_config_path(env) {
        files.push((path, false));
    }
    let runtime = match env.path("XDG_RUNTIME_DIR") {
        Some(dir) => dir.join("containers"),
        None => PathBuf::from(format!("/run/containers/{}", env.uid)),
    };
    files.push((runtime.join("auth.json"), false));
    if let Some(config) = config_home(env) {
        files.push((config.join("containers/auth.json"), false));
    }
    files
}

fn config_home(env: &Environment) -> Option<PathBuf> {
    env.path("XDG_CONFIG_HOME")
        .or_else(|| env.home().map(|home| home.join(".config")))
}

/// `registries.conf` with what lies in `registries.conf.d`; the user's file replaces the system's.
fn registries_conf(env: &Environment) -> Result<RegistriesConf, Failure> {
    let mut files = Vec::new();
    if let Some(path) = env.path("CONTAINERS_REGISTRIES_CONF") {
        files.push((path, true));
    } else {
        let system = PathBuf::from("/etc/containers");
        let user = config_home(env).map(|dir| dir.join("containers"));
        let main = user
            .as_ref()
            .map(|dir| dir.join("registries.conf"))
            .filter(|path| path.try_exists().unwrap_or(false))
            .unwrap_or_else(|| system.join("registries.conf"));
        files.push((main, false));
        for dir in [Some(system), user].into_iter().flatten() {
            files.extend(
                drop_ins(&dir.join("registries.conf.d"))
                    .into_iter()
                    .map(|path| (path, false)),
            );
        }
    }
    let mut all = RegistriesConf::default();
    for (path, wanted) in files {
        let Some(text) = read_optional(&path, wanted)? else {
            continue;
        };
        let conf = parse_registries_conf(&text)
            .map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
        all.merge(conf);
    }
    Ok(all)
}

/// The `*.conf` files of a directory, sorted; none when it cannot be listed.
fn drop_ins(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "conf"))
        .collect();
    files.sort();
    files
}

/// A configuration file; one that nobody asked for may be missing or out of reach.
fn read_optional(path: &Path, wanted: bool) -> Result<Option<String>, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e)
            if !wanted
                && matches!(
                    e.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::PermissionDenied
                        | io::ErrorKind::NotADirectory
                ) =>
        {
            Ok(None)
        }
        Err(e) => Err(Failure::new(
            Kind::Usage,
            format!("cannot read {}: {e}", path.display()),
        )),
    }
}

fn proxies(env: &Environment) -> Proxies {
    let get = |name: &str| {
        env.text(&name.to_lowercase())
            .or_else(|| env.text(name))
            .map(ToOwned::to_owned)
    };
    Proxies {
        http: get("HTTP_PROXY"),
        https: get("HTTPS_PROXY"),
        all: get("ALL_PROXY"),
        no_proxy: get("NO_PROXY").unwrap_or_default(),
    }
}

fn certs_d(env: &Environment) -> Vec<PathBuf> {
    config_home(env)
        .map(|dir| dir.join("containers/certs.d"))
        .into_iter()
        .chain([
            PathBuf::from("/etc/containers/certs.d"),
            PathBuf::from("/etc/docker/certs.d"),
        ])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(variables: &[(&str, &str)], uid: u32) -> Result<PathBuf, Failure> {
        store_root(None, &Environment::of(variables, uid))
    }

    #[test]
    fn the_store_has_a_place_for_everybody() {
        assert_eq!(root(&[], 0).expect("a place"), Path::new("/var/lib/rbuild"));
        assert_eq!(
            root(&[("HOME", "/home/u")], 1000).expect("a place"),
            Path::new("/home/u/.local/share/rbuild")
        );
        assert_eq!(
            root(&[("XDG_DATA_HOME", "/d"), ("HOME", "/h")], 1000).expect("a place"),
            Path::new("/d/rbuild")
        );
        assert_eq!(
            root(&[("RBUILD_ROOT", "/r")], 0).expect("a place"),
            Path::new("/r")
        );
        assert_eq!(root(&[], 1000).expect_err("no place").kind, Kind::Usage);
    }

    #[test]
    fn the_option_goes_before_the_variable_and_nonsense_is_refused() {
        let env = Environment::of(&[("RBUILD_ISOLATION", "userns")], 0);
        assert_eq!(isolation(None, &env).expect("known"), Isolation::Userns);
        let flag = Some(Isolation::Native);
        assert_eq!(isolation(flag, &env).expect("known"), Isolation::Native);
        let env = Environment::of(&[("RBUILD_ISOLATION", "jail")], 0);
        assert_eq!(
            isolation(None, &env).expect_err("unknown").kind,
            Kind::Usage
        );
    }

    #[test]
    fn a_file_that_was_asked_for_has_to_be_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let missing = dir.path().join("registries.conf");
        let text = missing.to_str().expect("text").to_owned();
        let env = Environment::of(&[("CONTAINERS_REGISTRIES_CONF", &text)], 0);
        assert!(registries_conf(&env).is_err());
        fs::write(
            &missing,
            "[[registry]]\nprefix = \"a.test\"\ninsecure = true\n",
        )
        .expect("written");
        assert_eq!(registries_conf(&env).expect("valid").registries.len(), 1);
        fs::write(&missing, "[[registry]\n").expect("written");
        assert!(registries_conf(&env).is_err());
    }

    #[test]
    fn proxies_of_the_docker_configuration_are_build_arguments() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(
            dir.path().join("config.json"),
            r#"{"proxies":{"default":{"httpProxy":"http://p:1"}}}"#,
        )
        .expect("written");
        let text = dir.path().to_str().expect("text");
        let args = proxy_build_args(&Environment::of(&[("DOCKER_CONFIG", text)], 0));
        assert_eq!(args.len(), 2);
        assert_eq!(args["http_proxy"], "http://p:1");
    }

    #[test]
    fn arguments_come_from_flags_before_the_environment() {
        let env = Environment::of(&[("A", "env"), ("SOURCE_DATE_EPOCH", "7")], 0);
        let pairs: Vec<Pair> = ["A", "B=1", "MISSING"]
            .iter()
            .map(|text| text.parse().expect("valid"))
            .collect();
        let args = build_args(&pairs, &env);
        let got: Vec<(&str, &str)> = args.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(got, [("A", "env"), ("B", "1"), ("SOURCE_DATE_EPOCH", "7")]);
    }

    #[test]
    fn an_index_is_wanted_by_several_platforms_or_outright() {
        let wanted = |given: &[&str], build_args: &[(&str, &str)], variable: &str| {
            let env = Environment::of(&[("DOCKER_DEFAULT_PLATFORM", variable)], 0);
            let given: Vec<String> = given.iter().map(|&text| text.to_owned()).collect();
            let args = build_args
                .iter()
                .map(|&(k, v)| (k.to_owned(), v.to_owned()));
            wants_index(&given, &args.collect(), &env)
        };
        let arg = "BUILDKIT_MULTI_PLATFORM";
        assert!(!wanted(&[], &[], ""));
        assert!(!wanted(&["linux/amd64"], &[(arg, "0")], "a/b,c/d"));
        assert!(wanted(&["linux/amd64"], &[(arg, "1")], ""));
        assert!(wanted(&["linux/amd64", "linux/amd64"], &[], ""));
        assert!(wanted(&[], &[], "linux/amd64,linux/arm64"));
    }

    #[test]
    fn platforms_are_normal_and_each_once() {
        let env = Environment::of(&[("DOCKER_DEFAULT_PLATFORM", "linux/arm64/v8")], 0);
        let names = |given: &[&str]| -> Vec<String> {
            let given: Vec<String> = given.iter().map(|&text| text.to_owned()).collect();
            platforms(&given, &env)
                .expect("valid")
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(names(&[]), ["linux/arm64"]);
        assert_eq!(names(&["linux/amd64", "linux/x86_64"]), ["linux/amd64"]);
        assert!(platforms(&["what/is/this/x".to_owned()], &env).is_err());
    }
}
