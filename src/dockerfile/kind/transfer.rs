//! `ADD` and `COPY`.

use super::{Parsed, Request};
use crate::{
    dockerfile::{
        Add, Copy, Heredoc, InstructionKind, Source, Transfer, Word,
        flags::{Flags, Takes},
        heredoc::announced,
    },
    source::Diagnostic,
};

impl Request<'_> {
    pub(super) fn add(&self) -> Parsed {
        if self.words().len() < 2 {
            return Err(self.no_destination("ADD"));
        }
        let flags = self.flags(&[
            ("chown", Takes::Value),
            ("chmod", Takes::Value),
            ("link", Takes::Switch),
            ("keep-git-dir", Takes::Switch),
            ("checksum", Takes::Value),
            ("unpack", Takes::Switch),
            ("exclude", Takes::Values),
        ])?;
        Ok(InstructionKind::Add(Add {
            transfer: self.transfer("ADD", &flags)?,
            checksum: flags.value_not_empty("checksum"),
            keep_git_dir: flags.switch("keep-git-dir"),
            unpack: flags.switch("unpack"),
        }))
    }

    pub(super) fn copy(&self) -> Parsed {
        if self.words().len() < 2 {
            return Err(self.no_destination("COPY"));
        }
        let flags = self.flags(&[
            ("chown", Takes::Value),
            ("from", Takes::Value),
            ("chmod", Takes::Value),
            ("link", Takes::Switch),
            ("exclude", Takes::Values),
            ("parents", Takes::Switch),
        ])?;
        Ok(InstructionKind::Copy(Copy {
            transfer: self.transfer("COPY", &flags)?,
            from: flags.value_not_empty("from"),
            parents: flags.switch("parents") == Some(true),
        }))
    }

    fn transfer(&self, name: &str, flags: &Flags<'_>) -> Result<Transfer, Diagnostic> {
        let [sources @ .., dest] = self.words() else {
            return Err(self.no_destination(name));
        };
        if announced(&dest.value).is_some() {
            return Err(Diagnostic::error(
                format!("{name} cannot accept a heredoc as a destination"),
                dest.span,
            ));
        }
        let source = |word: &Word| match announced(&word.value) {
            None => Source::Path(word.clone()),
            // Of several heredocs of one name, the last one's body counts.
            Some(head) => {
                let read = self.heredocs.iter().rfind(|h| h.name == head.name);
                Source::Heredoc(Heredoc {
                    content: read.map(|h| h.content.clone()).unwrap_or_default(),
                    span: read.map_or(word.span, |h| h.span),
                    ..head
                })
            }
        };
        Ok(Transfer {
            sources: sources.iter().map(source).collect(),
            dest: dest.clone(),
            json: self.node.args.is_json(),
            chown: flags.value_not_empty("chown"),
            chmod: flags.value_not_empty("chmod"),
            link: flags.switch("link") == Some(true),
            exclude: flags.values("exclude"),
        })
    }

    fn no_destination(&self, name: &str) -> Diagnostic {
        self.error(format!(
            "{name} requires at least two arguments, but only one was provided. Destination could not be determined"
        ))
    }
}
