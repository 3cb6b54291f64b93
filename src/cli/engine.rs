//! Where the Docker engine listens, found as Docker's own client finds it.
//!
//! ```text
//! context=NAME of an output  $DOCKER_HOST  $DOCKER_CONTEXT  currentContext in config.json  /var/run/docker.sock
//! ```
//! A context is a file of Docker's, `contexts/meta/SHA256-OF-ITS-NAME/meta.json` beside `config.json`. Engines of ordinary
//! users and of desktop machines are known by contexts only.

use std::{fs, path::PathBuf};

use rbuild::oci::sha256;

use super::{diagnostics::Failure, environment::Environment, settings::docker_config_path};

const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// The context that stands for the variable or the default.
const DEFAULT_CONTEXT: &str = "default";

/// The socket of the Docker engine, or of that of a context.
pub(crate) fn socket(env: &Environment, context: Option<&str>) -> Result<PathBuf, Failure> {
    if let Some(context) = context {
        return of_context(env, context, "context");
    }
    if let Some(host) = env.text("DOCKER_HOST") {
        return path(host, "$DOCKER_HOST");
    }
    if let Some(context) = env.text("DOCKER_CONTEXT") {
        return of_context(env, context, "$DOCKER_CONTEXT");
    }
    let config = docker_config_path(env)
        .and_then(|path| fs::read_to_string(path).ok())
        .and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok())
        .unwrap_or_default();
    match config["currentContext"].as_str() {
        Some(context) if !context.is_empty() => of_context(env, context, "currentContext"),
        _ => Ok(PathBuf::from(DEFAULT_SOCKET)),
    }
}

/// The socket of a context; `origin` is what names it.
fn of_context(env: &Environment, name: &str, origin: &str) -> Result<PathBuf, Failure> {
    if name == DEFAULT_CONTEXT {
        return match env.text("DOCKER_HOST") {
            Some(host) => path(host, "$DOCKER_HOST"),
            None => Ok(PathBuf::from(DEFAULT_SOCKET)),
        };
    }
    let unknown = |reason: String| {
        Failure::usage(format!(
            "{origin} names the Docker context `{name}`: {reason}"
        ))
    };
    let config = docker_config_path(env)
        .ok_or_else(|| unknown("neither $DOCKER_CONFIG nor $HOME is set".to_owned()))?;
    let file = config
        .with_file_name("contexts/meta")
        .join(sha256(name.as_bytes()).hex())
        .join("meta.json");
    let text = fs::read_to_string(&file)
        .map_err(|e| unknown(format!("cannot read {}: {e}", file.display())))?;
    let meta: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| unknown(format!("{}: {e}", file.display())))?;
    match meta["Endpoints"]["docker"]["Host"].as_str() {
        Some(host) => path(host, &format!("the Docker context `{name}`")),
        None => Err(unknown(format!("{} has no engine", file.display()))),
    }
}

fn path(host: &str, origin: &str) -> Result<PathBuf, Failure> {
    match host.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
        _ => Err(Failure::usage(format!(
            "{origin} is `{host}`; images are loaded through sockets only (unix:///PATH)"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cli::diagnostics::Kind;

    #[test]
    fn engines_are_found_as_docker_finds_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = dir.path().to_str().expect("text");
        let meta = dir
            .path()
            .join("contexts/meta")
            .join(sha256(b"rootless").hex());
        fs::create_dir_all(&meta).expect("made");
        let text = r#"{"Name":"rootless","Endpoints":{"docker":{"Host":"unix:///run/user/1000/docker.sock"}}}"#;
        fs::write(meta.join("meta.json"), text).expect("written");
        let rootless = Path::new("/run/user/1000/docker.sock");
        let find = |variables: &[(&str, &str)], context| {
            let mut all = vec![("DOCKER_CONFIG", home)];
            all.extend(variables);
            socket(&Environment::of(&all, 1000), context)
        };
        assert_eq!(find(&[], None).expect("default"), Path::new(DEFAULT_SOCKET));
        assert_eq!(find(&[], Some("rootless")).expect("named"), rootless);
        let variable = [("DOCKER_CONTEXT", "rootless")];
        assert_eq!(find(&variable, None).expect("named"), rootless);
        let host = [("DOCKER_CONTEXT", "rootless"), ("DOCKER_HOST", "unix:///h")];
        assert_eq!(find(&host, None).expect("given"), Path::new("/h"));
        fs::write(
            dir.path().join("config.json"),
            r#"{"currentContext":"rootless"}"#,
        )
        .expect("written");
        assert_eq!(find(&[], None).expect("current"), rootless);
        assert_eq!(
            find(&[], Some("default")).expect("default"),
            Path::new(DEFAULT_SOCKET)
        );
        for (variables, context) in [
            ([("DOCKER_HOST", "tcp://1.2.3.4:2375")], None),
            ([("DOCKER_CONTEXT", "no-such")], None),
            ([("A", "b")], Some("no-such")),
        ] {
            let failure = find(&variables, context).expect_err("refused");
            assert_eq!(failure.kind, Kind::Usage, "{variables:?}");
        }
    }
}
