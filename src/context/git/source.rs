//! How a git source is written.
//!
//! ```text
//! https://host/path.git     http://…  ssh://…  git://…      then ?key=value&…  then #ref:directory
//! user@host:path            as ssh takes it                  both optional
//! github.com/path           for contexts alone
//! ```

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{context::without_users, tree};

/// A git source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitSource {
    /// The repository, without query and fragment.
    pub remote: String,
    /// A branch, tag, full reference or commit; `None` is the repository's default branch.
    pub reference: Option<String>,
    /// The directory that is the result, relative and clean.
    pub subdir: PathBuf,
    /// What the commit's name has to start with.
    pub checksum: Option<String>,
    /// Whether `.git` stays.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are fetched.
    pub submodules: bool,
    /// Whether files take the time of the commit instead of that of the checkout.
    pub commit_time: Option<bool>,
    /// Whether the commit that the checksum names is taken whatever the reference stands for.
    pub fetch_by_commit: bool,
}

/// A git source with a query that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GitSourceError {
    /// A key stands twice.
    #[error("query {0:?} has multiple values")]
    MultipleValues(String),
    /// A key needs a value.
    #[error("query {0:?} has no value")]
    NoValue(String),
    /// A value is none that the key takes.
    #[error("invalid {key} value: {value:?}")]
    InvalidValue {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// Two places say different things.
    #[error("{what} conflicts: {first:?} vs {second:?}")]
    Conflict {
        /// `ref` or `subdir`.
        what: &'static str,
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// Both a tag and a branch are asked for.
    #[error("branch conflicts with tag")]
    BranchAndTag,
    /// The key is unknown.
    #[error("unexpected query {0:?}")]
    UnknownKey(String),
}

impl GitSource {
    /// Reads a source of `ADD`; `None` when it is no git source.
    pub fn parse(text: &str) -> Result<Option<Self>, GitSourceError> {
        if is_git(text) {
            Self::read(text).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Reads the argument that names a build context; there, `github.com/…` is a git source, too.
    pub fn parse_context(text: &str) -> Result<Option<Self>, GitSourceError> {
        if text.starts_with("github.com/") {
            return Self::read(&format!("https://{text}")).map(Some);
        }
        Self::parse(text)
    }

    fn read(text: &str) -> Result<Self, GitSourceError> {
        let (before, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (remote, query) = before.split_once('?').unwrap_or((before, ""));
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let mut source = Self {
            remote: remote.to_owned(),
            reference: (!reference.is_empty()).then(|| reference.to_owned()),
            subdir: tree::clean(Path::new(subdir)),
            checksum: None,
            keep_git_dir: None,
            submodules: true,
            commit_time: None,
            fetch_by_commit: false,
        };
        source.take_query(query, subdir)?;
        Ok(source)
    }

    /// `subdir` is what the fragment says, as it is written.
    fn take_query(&mut self, query: &str, subdir: &str) -> Result<(), GitSourceError> {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            // What Go's reader of queries does not understand it drops.
            if let (false, Some(key), Some(value)) =
                (pair.contains(';'), decode(key), decode(value))
            {
                values.entry(key).or_default().push(value);
            }
        }
        let (mut tag, mut branch) = (None, None);
        for (key, mut values) in values {
            let (Some(value), true) = (values.pop(), values.is_empty()) else {
                return Err(GitSourceError::MultipleValues(key));
            };
            let is_switch = matches!(
                key.as_str(),
                "submodules" | "keep-git-dir" | "fetch-by-commit"
            );
            if value.is_empty() && !is_switch {
                return Err(GitSourceError::NoValue(key));
            }
            match key.as_str() {
                "ref" => self.set_reference(value)?,
                "tag" => tag = Some(prefixed("refs/tags/", value)),
                "branch" => branch = Some(prefixed("refs/heads/", value)),
                "subdir" => {
                    if !subdir.is_empty() && subdir != value {
                        return Err(GitSourceError::Conflict {
                            what: "subdir",
                            first: subdir.to_owned(),
                            second: value,
                        });
                    }
                    self.subdir = tree::clean(Path::new(&value));
                }
                "checksum" | "commit" => self.checksum = Some(value),
                "keep-git-dir" => self.keep_git_dir = Some(switch(key, value)?),
                "submodules" => self.submodules = switch(key, value)?,
                "fetch-by-commit" => self.fetch_by_commit = switch(key, value)?,
                "mtime" if value == "checkout" => self.commit_time = Some(false),
                "mtime" if value == "commit" => self.commit_time = Some(true),
                "mtime" => return Err(GitSourceError::InvalidValue { key, value }),
                _ => return Err(GitSourceError::UnknownKey(key)),
            }
        }
        match (tag, branch) {
            (Some(_), Some(_)) => Err(GitSourceError::BranchAndTag),
            (Some(name), None) | (None, Some(name)) => self.set_reference(name),
            (None, None) => Ok(()),
        }
    }

    fn set_reference(&mut self, name: String) -> Result<(), GitSourceError> {
        match &self.reference {
            Some(first) if *first != name => Err(GitSourceError::Conflict {
                what: "ref",
                first: first.clone(),
                second: name,
            }),
            _ => {
                self.reference = Some(name);
                Ok(())
            }
        }
    }

    /// The secrets that may hold the credential `name`: that for the repository's server first, then that for any.
    pub fn secret_ids(&self, name: &str) -> [String; 2] {
        let host = self.remote.split("://").last().unwrap_or(&self.remote);
        let host = host.split('/').next().unwrap_or(host);
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        let host = host.split(':').next().unwrap_or(host);
        [format!("{name}.{host}"), name.to_owned()]
    }

    /// The repository for people to read: without a password, and on the web without the user, which often is a token.
    pub fn display_remote(&self) -> String {
        let Some((scheme, rest)) = self.remote.split_once("://") else {
            return self.remote.clone();
        };
        let end = rest.find('/').unwrap_or(rest.len());
        match rest[..end].rsplit_once('@') {
            _ if matches!(scheme, "http" | "https") => without_users(&self.remote),
            Some((user, host)) if user.contains(':') => {
                let user = user.split(':').next().unwrap_or_default();
                format!("{scheme}://{user}:xxxxx@{host}{}", &rest[end..])
            }
            _ => self.remote.clone(),
        }
    }
}

fn is_git(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric())
    }) else {
        return is_scp(text);
    };
    match scheme.to_ascii_lowercase().as_str() {
        "ssh" | "git" => true,
        "http" | "https" => {
            let end = rest.find(['?', '#']).unwrap_or(rest.len());
            rest[..end]
                .split_once('/')
                .is_some_and(|(_, path)| path.strip_suffix(".git").is_some())
        }
        _ => false,
    }
}

/// `user@host:path`
fn is_scp(text: &str) -> bool {
    let is = |text: &str, more: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    text.split_once('@').is_some_and(|(user, rest)| {
        is(user, "-_")
            && rest
                .split_once(':')
                .is_some_and(|(host, path)| is(host, "-.") && !path.is_empty())
    })
}

fn switch(key: String, value: String) -> Result<bool, GitSourceError> {
    match value.as_str() {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(GitSourceError::InvalidValue { key, value }),
    }
}

fn prefixed(prefix: &str, name: String) -> String {
    if name.starts_with(prefix) {
        name
    } else {
        format!("{prefix}{name}")
    }
}

/// A part of a query as it is meant; `None` where a `%` has not two digits behind it.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let digits = tail.get(..2)?;
            let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
            let digits = std::str::from_utf8(digits).ok().filter(|_| is_hex)?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(if first == b'+' { b' ' } else { first });
            rest = tail;
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> GitSource {
        GitSource::parse(text).unwrap().unwrap()
    }

    #[test]
    fn sources_are_told_by_their_looks() {
        for text in [
            "https://host/a.git",
            "http://host/a/b.git#x",
            "https://host/a.git?tag=v1",
            "ssh://git@host:2222/a",
            "git://host/a",
            "git@github.com:a/b.git",
            "me@host.name:a?ref=x#x",
        ] {
            assert!(GitSource::parse(text).unwrap().is_some(), "{text}");
        }
        for text in [
            "https://host/a",
            "https://host.git",
            "https://host/a?x=.git",
            "./git@host:x",
            "github.com/a/b",
            "a/b.git",
            "ftp://host/a.git",
            "git@host:",
        ] {
            assert_eq!(GitSource::parse(text), Ok(None), "{text}");
        }
        let github = GitSource::parse_context("github.com/a/b#v1:sub").unwrap();
        assert_eq!(github.unwrap().remote, "https://github.com/a/b");
        assert_eq!(GitSource::parse_context("./github.com/a"), Ok(None));
    }

    #[test]
    fn credentials_go_by_the_server() {
        for text in [
            "https://u:p@host.test:8443/a@b.git",
            "me@host.test:a",
            "git://host.test/a",
        ] {
            assert_eq!(
                parse(text).secret_ids("GIT_AUTH_TOKEN"),
                ["GIT_AUTH_TOKEN.host.test", "GIT_AUTH_TOKEN"]
            );
        }
    }

    #[test]
    fn fragments_and_queries_say_what_to_take() {
        let source = parse("https://host/a.git#feature/x:/sub/../dir/");
        assert_eq!(source.reference.as_deref(), Some("feature/x"));
        assert_eq!(source.subdir, Path::new("dir"));
        let source = parse(
            "https://h/a.git?tag=v1&subdir=d&checksum=abc&keep-git-dir&submodules=false&mtime=commit",
        );
        assert_eq!(source.remote, "https://h/a.git");
        assert_eq!(source.reference.as_deref(), Some("refs/tags/v1"));
        assert_eq!(source.subdir, Path::new("d"));
        assert_eq!(source.checksum.as_deref(), Some("abc"));
        assert_eq!(source.keep_git_dir, Some(true));
        assert!(!source.submodules && source.commit_time == Some(true));
        let source = parse("git@host:a?branch=refs/heads/x");
        assert_eq!(source.remote, "git@host:a");
        assert_eq!(source.reference.as_deref(), Some("refs/heads/x"));
        assert_eq!(parse("git@host:a#:sub").reference, None);
        // As Go reads queries: what is none is no part of it.
        let source = parse("https://h/a.git?what=%zz&ref=v1;subdir=a&fetch-by-commit&submodules=0");
        assert_eq!((source.reference, source.fetch_by_commit), (None, true));
        assert!(!source.submodules);
    }

    #[test]
    fn senseless_queries_are_refused() {
        for (query, message) in [
            ("?ref=a#b", "ref conflicts: \"b\" vs \"a\""),
            ("?tag=a&branch=b", "branch conflicts with tag"),
            ("?tag=a#b", "ref conflicts: \"b\" vs \"refs/tags/a\""),
            ("?subdir=a#b:c", "subdir conflicts: \"c\" vs \"a\""),
            ("?subdir=a#b:a/", "subdir conflicts: \"a/\" vs \"a\""),
            ("?what=1", "unexpected query \"what\""),
            ("?ref=a&ref=b", "query \"ref\" has multiple values"),
            ("?ref=", "query \"ref\" has no value"),
            ("?submodules=maybe", "invalid submodules value: \"maybe\""),
            ("?mtime=never", "invalid mtime value: \"never\""),
        ] {
            let error = GitSource::parse(&format!("https://h/a.git{query}")).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        for (remote, shown) in [
            (
                "https://me:secret@host/a.git",
                "https://xxxxx:xxxxx@host/a.git",
            ),
            ("https://token@host/a.git", "https://xxxxx@host/a.git"),
            ("ssh://me:secret@host/a", "ssh://me:xxxxx@host/a"),
            ("ssh://git@host/a", "ssh://git@host/a"),
            ("git@host:a", "git@host:a"),
        ] {
            assert_eq!(parse(remote).display_remote(), shown);
        }
    }
}
