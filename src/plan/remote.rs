//! Which sources of `ADD` are files of the web or git repositories, told by their looks.

use super::CopySource;
use crate::context::git::{GitSource, GitSourceError};

/// Tells what a source is, and for a repository what it says about itself.
pub(super) fn classify(source: &str) -> Result<(CopySource, Option<GitSource>), GitSourceError> {
    if let Some(git) = GitSource::parse(source)? {
        return Ok((CopySource::Git(source.to_owned()), Some(git)));
    }
    let is_url = source.starts_with("http://") || source.starts_with("https://");
    let source = source.to_owned();
    Ok((
        if is_url {
            CopySource::Url(source)
        } else {
            CopySource::Path(source)
        },
        None,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_by_their_looks() {
        for (source, want) in [
            ("a/b.git", "path"),
            ("github.com/a/b", "path"),
            ("ftp://host/a", "path"),
            ("https://host/a.tar", "url"),
            ("https://host/a?x=.git", "url"),
            ("https://host/a.git#v1", "git"),
            ("git@github.com:a/b", "git"),
            ("https://host/a.git?what=1", "error"),
        ] {
            let kind = match classify(source) {
                Ok((CopySource::Path(_), None)) => "path",
                Ok((CopySource::Url(_), None)) => "url",
                Ok((CopySource::Git(_), Some(_))) => "git",
                Ok(_) => "inconsistent",
                Err(_) => "error",
            };
            assert_eq!(kind, want, "{source}");
        }
    }
}
