//! What a build took from elsewhere, for those who want to tell where an image comes from.

use crate::{
    context::git::GitSource,
    oci::{Digest, Platform},
    registry::redact::redacted_text,
};

/// An image that a build looked up: a base, or one that an instruction copies from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsedImage {
    /// Its name with its tag, as people type it; of a layout, the name of the context that stands for it.
    pub name: String,
    /// Whether it lies in a layout.
    pub is_layout: bool,
    /// Whether it was asked for by its digest, or has no name that could be given to another one.
    pub is_pinned: bool,
    /// What the name stood for: the index where there is one, else the manifest.
    pub digest: Digest,
    /// The platform that was picked.
    pub platform: Platform,
}

/// A file or a repository that was fetched by its URL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsedSource {
    /// Its URL without passwords, and without values of parameters, which may be some; of a repository with `#` and the
    /// reference that was asked for.
    pub uri: String,
    /// Of what kind the digest is: `sha256`, or `sha1` of most commits.
    pub algorithm: &'static str,
    /// The digest of the file, or the name of the commit, in hexadecimal digits.
    pub hex: String,
}

impl UsedSource {
    /// A file of the web.
    pub fn file(url: &str, digest: Digest) -> Self {
        Self {
            uri: redacted_text(url),
            algorithm: "sha256",
            hex: digest.hex(),
        }
    }

    /// A commit of a repository.
    pub fn commit(source: &GitSource, commit: &str) -> Self {
        let mut uri = shown(source);
        if let Some(reference) = &source.reference {
            uri.push('#');
            uri.push_str(reference);
        }
        Self {
            uri,
            algorithm: if commit.len() == 64 { "sha256" } else { "sha1" },
            hex: commit.to_owned(),
        }
    }
}

/// The address of a repository. On the web a user is no part of it, but often a token; `git@` of SSH is.
fn shown(source: &GitSource) -> String {
    let remote = source.display_remote();
    match remote.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            let host = rest[..end].rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{}", &rest[end..])
        }
        _ => remote,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::sha256;

    #[test]
    fn sources_tell_no_password() {
        let file = UsedSource::file("https://me:secret@x.io/f?token=secret", sha256(b""));
        assert_eq!(file.uri, "https://x.io/f?token=…");
        for (source, shown) in [
            (
                "https://me:secret@x.io/r.git#v1:sub",
                "https://x.io/r.git#v1",
            ),
            ("https://token@x.io/r.git", "https://x.io/r.git"),
            ("ssh://git@x.io/r#main", "ssh://git@x.io/r#main"),
            ("git@x.io:r.git", "git@x.io:r.git"),
        ] {
            let source = GitSource::parse_context(source).unwrap().unwrap();
            let commit = UsedSource::commit(&source, &"a".repeat(40));
            assert_eq!((&*commit.uri, commit.algorithm), (shown, "sha1"));
        }
    }
}
