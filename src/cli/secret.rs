//! `--secret` and `--ssh`: what they say, and finding what they name.

use std::{path::PathBuf, str::FromStr};

use rbuild::source::suggest;

/// `[type=file|env,]id=ID[,src=PATH][,env=VAR]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SecretSpec {
    pub(crate) id: String,
    pub(crate) source: SecretSource,
}

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecretSource {
    /// In a file.
    File(PathBuf),
    /// In a variable.
    Variable(String),
    /// In the variable that is called like it, if there is one, else in the file that is called like it.
    Named,
}

impl FromStr for SecretSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut kind, mut id, mut src, mut env) = (None, None, None, None);
        for field in text.split(',') {
            let Some((key, value)) = field.split_once('=') else {
                return Err(format!("`{field}` is not of the form KEY=VALUE"));
            };
            let slot = match key.to_lowercase().as_str() {
                "type" => &mut kind,
                "id" => &mut id,
                "src" | "source" => &mut src,
                "env" => &mut env,
                other => {
                    let near = suggest(other, ["type", "id", "src", "source", "env"]);
                    let near =
                        near.map_or(String::new(), |near| format!(" (did you mean {near}?)"));
                    return Err(format!("unexpected key '{key}' in '{field}'{near}"));
                }
            };
            *slot = Some(value.to_owned());
        }
        let id = id.filter(|id| !id.is_empty()).ok_or("it has no id=ID")?;
        let source = match (kind.as_deref(), src, env) {
            (Some("file") | None, Some(src), None) => SecretSource::File(src.into()),
            // Docker reads `type=env,src=VAR` as the name of a variable.
            (Some("env"), Some(var), None) | (Some("env") | None, None, Some(var)) => {
                SecretSource::Variable(var)
            }
            (Some("file"), None, None) => SecretSource::File(id.clone().into()),
            (Some("env"), None, None) => SecretSource::Variable(id.clone()),
            (None, None, None) => SecretSource::Named,
            (_, Some(_), Some(_)) => return Err("it has both src and env".to_owned()),
            (Some("file"), None, Some(_)) => return Err("type=file goes with src=PATH".to_owned()),
            (Some(other), ..) => {
                return Err(format!(
                    "unsupported secret type \"{other}\"; it is file or env"
                ));
            }
        };
        Ok(Self { id, source })
    }
}

/// `ID[=PATH[,PATH…]]`: the socket of an agent or key files; without a path, the agent of `$SSH_AUTH_SOCK`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SshSpec {
    pub(crate) id: String,
    pub(crate) paths: Vec<PathBuf>,
}

impl FromStr for SshSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, paths) = match text.split_once('=') {
            Some((id, paths)) => (id, Some(paths)),
            None => (text, None),
        };
        if id.is_empty() {
            return Err("it has no ID".to_owned());
        }
        let paths = paths.map_or_else(Vec::new, |paths| paths.split(',').collect());
        if paths.iter().any(|path| path.is_empty()) {
            return Err("a path is empty".to_owned());
        }
        Ok(Self {
            id: id.to_owned(),
            paths: paths.into_iter().map(PathBuf::from).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_say_where_they_are() {
        let source = |text: &str| text.parse::<SecretSpec>().map(|s| s.source);
        assert_eq!(source("id=a,src=/x"), Ok(SecretSource::File("/x".into())));
        assert_eq!(
            source("id=a,source=/x"),
            Ok(SecretSource::File("/x".into()))
        );
        assert_eq!(source("id=a,env=V"), Ok(SecretSource::Variable("V".into())));
        assert_eq!(
            source("type=env,id=a"),
            Ok(SecretSource::Variable("a".into()))
        );
        assert_eq!(
            source("type=env,id=a,src=V"),
            Ok(SecretSource::Variable("V".into()))
        );
        assert_eq!(source("type=file,id=a"), Ok(SecretSource::File("a".into())));
        assert_eq!(source("id=a"), Ok(SecretSource::Named));
        assert_eq!(
            source("id=a,scr=/x"),
            Err("unexpected key 'scr' in 'scr=/x' (did you mean src?)".to_owned())
        );
        assert_eq!(source("src=/x"), Err("it has no id=ID".to_owned()));
        assert!(source("id=a,src=/x,env=V").is_err());
    }

    #[test]
    fn agents_have_sockets_or_keys() {
        let ssh = |text: &str| text.parse::<SshSpec>().map(|s| (s.id, s.paths));
        assert_eq!(ssh("default"), Ok(("default".to_owned(), vec![])));
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(ssh("k=/run/a"), Ok(("k".to_owned(), paths(&["/run/a"]))));
        assert_eq!(ssh("k=a,b"), Ok(("k".to_owned(), paths(&["a", "b"]))));
        assert!(ssh("k=a,").is_err());
        assert!(ssh("=a").is_err());
    }
}
