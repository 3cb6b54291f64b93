//! `COPY` and `ADD`.

use std::path::Path;

use super::{
    Base, Chmod, CopyOp, CopySource, CopyVerb, Op, Origin, StageId, lower::error, paths,
    planner::Planner, remote, state::Command,
};
use crate::{
    context::{git::GitSource, without_users},
    dockerfile::{
        Add, Copy, Source, Transfer, Word, expand::Expander, lint::Warning, quote::quoted,
    },
    source::Diagnostic,
};

/// What `COPY` and `ADD` do not share.
#[derive(Default)]
struct Flags {
    from: Option<Origin>,
    parents: bool,
    checksum: Option<String>,
    keep_git_dir: Option<bool>,
    unpack: Option<bool>,
}

impl Planner<'_> {
    pub(super) fn lower_copy(
        &mut self,
        at: usize,
        command: &Command<'_>,
        copy: &Copy,
    ) -> Result<(), Diagnostic> {
        let from = match (&copy.from, command.sources.first()) {
            (Some(from), Some(&source)) => {
                if !self.states[source].is_done || source == at {
                    return Err(error(
                        command,
                        format!(
                            "cannot copy from stage {}, it needs to be defined before current stage {}",
                            quoted(&from.value),
                            quoted(&self.states[at].title)
                        ),
                    ));
                }
                Some(self.origin(source))
            }
            _ => None,
        };
        let flags = Flags {
            from,
            parents: copy.parents,
            ..Flags::default()
        };
        self.transfer(at, command, CopyVerb::Copy, &copy.transfer, None, flags)
    }

    pub(super) fn lower_add(
        &mut self,
        at: usize,
        command: &Command<'_>,
        add: &Add,
    ) -> Result<(), Diagnostic> {
        let flags = Flags {
            keep_git_dir: add.keep_git_dir,
            unpack: add.unpack,
            ..Flags::default()
        };
        let checksum = add.checksum.as_ref();
        self.transfer(at, command, CopyVerb::Add, &add.transfer, checksum, flags)
    }

    /// Where the files of a state are.
    pub(super) fn origin(&self, at: usize) -> Origin {
        let state = &self.states[at];
        if !state.is_bare() {
            return Origin::Stage(StageId(at));
        }
        match &state.origin {
            Some(Base::Image(source)) => Origin::Image(source.clone()),
            Some(Base::Context(key)) => Origin::Named(key.clone()),
            _ => Origin::Scratch,
        }
    }

    fn transfer(
        &mut self,
        at: usize,
        command: &Command<'_>,
        verb: CopyVerb,
        transfer: &Transfer,
        checksum: Option<&Word>,
        mut flags: Flags,
    ) -> Result<(), Diagnostic> {
        let chown = self.expand_flag(at, command, transfer.chown.as_ref())?;
        let chmod = self.expand_flag(at, command, transfer.chmod.as_ref())?;
        flags.checksum = self.expand_flag(at, command, checksum)?;
        let mut written = Vec::new();
        for source in &transfer.sources {
            if let Source::Path(path) = source {
                written.push(self.expand(at, command, path)?);
            }
        }
        let written_dest = self.expand(at, command, &transfer.dest)?;
        let mut inline = self.inline_sources(at, command, transfer)?;
        let chmod = chmod
            .map(|chmod| Chmod::parse(&chmod))
            .transpose()
            .map_err(|e| error(command, e.to_string()))?;
        let mut sources = self.named_sources(at, command, verb, &written, &flags)?;
        if let Some(checksum) = &flags.checksum {
            check_checksum(checksum, &sources).map_err(|message| error(command, message))?;
        }
        sources.append(&mut inline);
        let text = self.progress_text(at, &command.instruction.text, false, &[]);
        let text = without_users(&text);
        let state = &self.states[at];
        let dest = state
            .path(written_dest.clone())
            .map_err(|message| error(command, message))?;
        // With a mode, BuildKit copies as without the flag.
        let link = transfer.link && chmod.is_none();
        let op = CopyOp {
            verb,
            from: flags.from.unwrap_or(Origin::Context),
            sources,
            dest: paths::join_dest(&state.workdir(), &dest),
            chown,
            chmod,
            link,
            parents: flags.parents,
            exclude: transfer.exclude.iter().map(|e| e.value.clone()).collect(),
            checksum: flags.checksum,
            keep_git_dir: flags.keep_git_dir,
            unpack: flags.unpack,
        };
        let created_by = created_by(command.instruction.name(), &op, &written, &written_dest);
        self.step(at, command, &text, created_by, Op::Copy(Box::new(op)));
        Ok(())
    }

    /// The heredocs among the sources, with their variables expanded where they want that.
    fn inline_sources(
        &mut self,
        at: usize,
        command: &Command<'_>,
        transfer: &Transfer,
    ) -> Result<Vec<CopySource>, Diagnostic> {
        let mut inline = Vec::new();
        for source in &transfer.sources {
            let Source::Heredoc(heredoc) = source else {
                continue;
            };
            let mut content = heredoc.body();
            if heredoc.expand {
                content = self.expand_text(at, command, &content, Expander::heredoc())?;
            }
            check_inline_name(&heredoc.name).map_err(|message| error(command, message))?;
            inline.push(CopySource::Inline {
                name: heredoc.name.clone(),
                content,
            });
        }
        Ok(inline)
    }

    /// The other sources, from their words, in which variables are expanded.
    fn named_sources(
        &mut self,
        at: usize,
        command: &Command<'_>,
        verb: CopyVerb,
        written: &[String],
        flags: &Flags,
    ) -> Result<Vec<CopySource>, Diagnostic> {
        let mut sources = Vec::with_capacity(written.len());
        for source in written {
            if flags.from.is_none() {
                self.report_ignored(command, verb, source);
            }
            let (mut source, git) =
                remote::classify(source).map_err(|e| error(command, e.to_string()))?;
            if let CopySource::Path(path) = &mut source {
                *path = self.states[at]
                    .path(std::mem::take(path))
                    .map_err(|message| error(command, message))?;
            }
            check_remote(verb, &source, git.as_ref(), flags)
                .map_err(|message| error(command, message))?;
            sources.push(source);
        }
        Ok(sources)
    }

    /// Reports a source that the ignore file takes out. With exceptions in that file it is hard to tell, so nothing is
    /// reported then.
    fn report_ignored(&mut self, command: &Command<'_>, verb: CopyVerb, source: &str) {
        let ignore = &self.options.ignore;
        if ignore.is_empty() || ignore.has_exceptions() {
            return;
        }
        let path = paths::clean_relative(source);
        let is_ignored = match path.as_str() {
            "." | "/" => ignore.takes_all(),
            path => ignore.judge_path(Path::new(path)).is_match(),
        };
        if is_ignored {
            let verb = match verb {
                CopyVerb::Copy => "Copy",
                CopyVerb::Add => "Add",
            };
            self.report(
                command,
                Warning::copy_ignored_file(verb, &path, command.span),
            );
        }
    }

    /// The value of a flag with its variables expanded; an empty one counts as none.
    fn expand_flag(
        &mut self,
        at: usize,
        command: &Command<'_>,
        value: Option<&Word>,
    ) -> Result<Option<String>, Diagnostic> {
        let Some(value) = value else {
            return Ok(None);
        };
        let value = self.expand(at, command, value)?;
        Ok(Some(value).filter(|value| !value.is_empty()))
    }
}

/// Whether `--checksum` makes sense for the sources beside heredocs, in the words of BuildKit.
fn check_checksum(checksum: &str, sources: &[CopySource]) -> Result<(), &'static str> {
    match sources {
        [CopySource::Url(_)] => check_digest(checksum),
        // A prefix of a commit's name.
        [CopySource::Git(_)] => Ok(()),
        [_] => Err("checksum requires HTTP(S) or Git sources"),
        _ => Err("checksum can't be specified for multiple sources"),
    }
}

/// What the history says of a copy: `written` are its sources beside heredocs, and `dest` is its destination, expanded.
fn created_by(instruction: &str, op: &CopyOp, written: &[String], dest: &str) -> String {
    let mut words = vec![instruction.to_owned()];
    if op.parents {
        words.push("--parents".to_owned());
    }
    if let Some(chown) = &op.chown {
        words.push(format!("--chown={chown}"));
    }
    if let Some(chmod) = &op.chmod {
        words.push(format!("--chmod={}", chmod.as_str()));
    }
    words.extend_from_slice(written);
    for source in &op.sources {
        if let CopySource::Inline { name, .. } = source {
            words.push(format!("<<{name}"));
        }
    }
    words.push(format!("{dest} # buildkit"));
    words.join(" ")
}

/// Refuses remote sources for `COPY`, and git sources that contradict the flags.
fn check_remote(
    verb: CopyVerb,
    source: &CopySource,
    git: Option<&GitSource>,
    flags: &Flags,
) -> Result<(), String> {
    if verb == CopyVerb::Copy {
        return match source {
            CopySource::Git(_) => Err("source can't be a git ref for COPY".to_owned()),
            CopySource::Url(_) => Err("source can't be a URL for COPY".to_owned()),
            CopySource::Path(_) | CopySource::Inline { .. } => Ok(()),
        };
    }
    let Some(git) = git else {
        return Ok(());
    };
    if let (Some(flag), Some(query)) = (flags.keep_git_dir, git.keep_git_dir)
        && flag != query
    {
        return Err("inconsistent keep-git-dir configuration".to_owned());
    }
    match (&flags.checksum, &git.checksum) {
        (Some(flag), Some(query)) if flag != query => Err(format!(
            "checksum mismatch {} != {}",
            quoted(flag),
            quoted(query)
        )),
        _ => Ok(()),
    }
}

/// Checks `--checksum` of a file, in the words of BuildKit.
fn check_digest(text: &str) -> Result<(), &'static str> {
    const FORMAT: &str = "invalid checksum digest format";
    let (algorithm, hex) = text.split_once(':').ok_or(FORMAT)?;
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        "" => return Err(FORMAT),
        _ => return Err("unsupported digest algorithm"),
    };
    if hex.len() != length {
        return Err("invalid checksum digest length");
    }
    if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(FORMAT);
    }
    Ok(())
}

/// Refuses a heredoc whose name is no file's name: it is written into an empty directory.
pub(super) fn check_inline_name(name: &str) -> Result<(), String> {
    match paths::clean(&format!("/{name}")).trim_start_matches('/') {
        "" => Err(format!("heredoc name {} is a directory", quoted(name))),
        file if file.contains('/') => Err(format!(
            "heredoc name {} is a path into a directory that does not exist",
            quoted(name)
        )),
        _ => Ok(()),
    }
}
