//! Which sources of `ADD` are files of the web or git repositories, told by their looks.
//!
//! Git: `git@host:path`, `ssh://…`, `git://…`, `http(s)://….git`, each with `?key=value` and `#ref:directory`. Other
//! `http(s)://…` are files. All else is a path, `github.com/…` included, which was a repository once.

use std::collections::BTreeMap;

use super::CopySource;
use crate::dockerfile::{quote::quoted, scalar::parse_bool};

/// What a git source says about itself that flags can say, too.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct GitQuery {
    pub(super) keep_git_dir: Option<bool>,
    pub(super) checksum: Option<String>,
}

/// Tells what a source is. The error is BuildKit's, for a git source with a query that makes no sense.
pub(super) fn classify(source: &str) -> Result<CopySource, String> {
    if is_git(source) {
        git_query(source)?;
        return Ok(CopySource::Git(source.to_owned()));
    }
    if source.starts_with("http://") || source.starts_with("https://") {
        return Ok(CopySource::Url(source.to_owned()));
    }
    Ok(CopySource::Path(source.to_owned()))
}

fn is_git(source: &str) -> bool {
    let Some((scheme, rest)) = scheme(source) else {
        return is_scp(source);
    };
    match scheme.to_ascii_lowercase().as_str() {
        "ssh" | "git" => true,
        "http" | "https" => {
            let end = rest.find(['?', '#']).unwrap_or(rest.len());
            rest[..end]
                .split_once('/')
                .is_some_and(|(_, path)| path.ends_with(".git"))
        }
        _ => false,
    }
}

/// Splits `scheme://rest`.
fn scheme(source: &str) -> Option<(&str, &str)> {
    source.split_once("://").filter(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric())
    })
}

/// `user@host:path`
fn is_scp(source: &str) -> bool {
    let is = |text: &str, more: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    source.split_once('@').is_some_and(|(user, rest)| {
        is(user, "-_") && rest.split_once(':').is_some_and(|(host, _)| is(host, "-."))
    })
}

/// Reads what stands between `?` and `#`.
pub(super) fn git_query(source: &str) -> Result<GitQuery, String> {
    let (before, fragment) = source.split_once('#').unwrap_or((source, ""));
    let query = before.split_once('?').map_or("", |(_, query)| query);
    let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        values.entry(key).or_default().push(value);
    }
    let (mut reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
    let subdir = subdir.trim_matches('/');
    let mut found = GitQuery::default();
    let (mut tag, mut branch) = (None, None);
    for (key, values) in values {
        let [value] = values.as_slice() else {
            return Err(format!("query {} has multiple values", quoted(key)));
        };
        let value = *value;
        let is_switch = matches!(key, "submodules" | "keep-git-dir" | "fetch-by-commit");
        if value.is_empty() && !is_switch {
            return Err(format!("query {} has no value", quoted(key)));
        }
        let switch = || match value {
            "" => Ok(true),
            value => {
                parse_bool(value).ok_or_else(|| format!("invalid {key} value: {}", quoted(value)))
            }
        };
        let conflict = |old: &str| {
            let what = if key == "subdir" { key } else { "ref" };
            let (old, new) = (quoted(old), quoted(value));
            Err(format!("{what} conflicts: {old} vs {new}"))
        };
        match key {
            "ref" if !reference.is_empty() && reference != value => return conflict(reference),
            "ref" => reference = value,
            "subdir" if !subdir.is_empty() && subdir != value => return conflict(subdir),
            "subdir" => {}
            "tag" => tag = Some(prefixed("refs/tags/", value)),
            "branch" => branch = Some(prefixed("refs/heads/", value)),
            "checksum" | "commit" => found.checksum = Some(value.to_owned()),
            "keep-git-dir" => found.keep_git_dir = Some(switch()?),
            "submodules" | "fetch-by-commit" => {
                switch()?;
            }
            "mtime" if matches!(value, "checkout" | "commit") => {}
            "mtime" => {
                let value = quoted(value);
                return Err(format!(
                    "invalid mtime value: {value} (must be \"checkout\" or \"commit\")"
                ));
            }
            _ => return Err(format!("unexpected query {}", quoted(key))),
        }
    }
    if tag.is_some() && branch.is_some() {
        return Err("branch conflicts with tag".to_owned());
    }
    if let Some(name) = tag.or(branch)
        && !reference.is_empty()
        && reference != name
    {
        let (old, new) = (quoted(reference), quoted(&name));
        return Err(format!("ref conflicts: {old} vs {new}"));
    }
    Ok(found)
}

fn prefixed(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) {
        name.to_owned()
    } else {
        format!("{prefix}{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_by_their_looks() {
        for (source, want) in [
            ("a/b", "path"),
            ("github.com/a/b", "path"),
            ("./git@host:path", "path"),
            ("ftp://host/a", "path"),
            ("https://host/a.tar", "url"),
            ("https://host/a?x=.git", "url"),
            ("https://host.git", "url"),
            ("https://host/a.git", "git"),
            ("http://host/a.git?subdir=x#main:y/../x", "error"),
            ("http://host/a.git?subdir=x#main:x", "git"),
            ("git@github.com:a/b.git#v1", "git"),
            ("ssh://git@host/a", "git"),
            ("git://host/a?keep-git-dir", "git"),
            ("https://host/a.git?what=1", "error"),
            ("https://host/a.git?tag=v1&branch=b", "error"),
        ] {
            let kind = match classify(source) {
                Ok(CopySource::Path(_)) => "path",
                Ok(CopySource::Url(_)) => "url",
                Ok(CopySource::Git(_)) => "git",
                Ok(CopySource::Inline { .. }) => "inline",
                Err(_) => "error",
            };
            assert_eq!(kind, want, "{source}");
        }
    }

    #[test]
    fn queries_say_what_flags_say() {
        assert_eq!(
            git_query("https://host/a.git?checksum=abc&keep-git-dir=false#v1"),
            Ok(GitQuery {
                keep_git_dir: Some(false),
                checksum: Some("abc".to_owned()),
            })
        );
        assert_eq!(
            git_query("https://host/a.git?ref=x#y").expect_err("two refs"),
            "ref conflicts: \"y\" vs \"x\""
        );
    }
}
