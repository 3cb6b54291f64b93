//! The text form of a plan, for people and for tests.
//!
//! ```text
//! plan for linux/amd64, target `app`
//!
//! stage 0 `build` for linux/amd64 from image docker.io/library/golang:1.22
//!   [build 2/3] WORKDIR /src
//!     history  WORKDIR /src
//!     mkdir    /src
//!   …
//!   config   {"Env":["PATH=…"],"WorkingDir":"/src"}
//! ```
//! What a step does not need is left out. Values that may hold blanks or worse are quoted.

use std::fmt::{self, Display, Formatter};

use super::{
    Base, CopyOp, CopySource, CopyVerb, ImageSource, Mount, MountKind, Op, Origin, Plan, RunOp,
    Stage, Step,
};
use crate::dockerfile::quote::quoted;

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let target = self.stages.iter().find(|stage| stage.id == self.target);
        write!(f, "plan for {}, target ", self.platform)?;
        match target.and_then(|stage| stage.alias.as_ref()) {
            Some(alias) => writeln!(f, "`{alias}`")?,
            None => writeln!(f, "stage {}", self.target.0)?,
        }
        if let Some(stage) = target.filter(|stage| stage.image_platform != self.platform) {
            writeln!(f, "the image is for {}", stage.image_platform)?;
        }
        if let Some(epoch) = self.source_date_epoch {
            writeln!(f, "source date epoch {epoch}")?;
        }
        if let Some(hostname) = &self.hostname {
            writeln!(f, "host name {hostname}")?;
        }
        for stage in &self.stages {
            writeln!(f, "\n{stage}")?;
        }
        Ok(())
    }
}

impl Display for Stage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "stage {}", self.id.0)?;
        if let Some(alias) = &self.alias {
            write!(f, " `{alias}`")?;
        }
        writeln!(f, " for {} from {}", self.platform, self.base)?;
        if let Some(label) = &self.from_label {
            writeln!(f, "  {label}")?;
        }
        for step in &self.steps {
            step.fmt(f)?;
        }
        if let Some(author) = &self.author {
            writeln!(f, "  author   {}", quoted(author))?;
        }
        if let Some(config) = &self.config {
            let config = serde_json::to_string(config).map_err(|_not_json| fmt::Error)?;
            write!(f, "  config   {config}")?;
        }
        Ok(())
    }
}

impl Display for Base {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scratch => f.write_str("scratch"),
            Self::Image(source) => source.fmt(f),
            Self::Stage(id) => write!(f, "stage {}", id.0),
            Self::Context(key) => write!(f, "context `{key}`"),
        }
    }
}

impl Display for ImageSource {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.named {
            write!(f, "context `{}` ({})", self.name, self.platform)
        } else {
            write!(f, "{} ({})", self.name, self.platform)
        }
    }
}

impl Display for Origin {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Context => f.write_str("the build context"),
            Self::Stage(id) => write!(f, "stage {}", id.0),
            Self::Image(source) => source.fmt(f),
            Self::Named(key) => write!(f, "context `{key}`"),
            Self::Scratch => f.write_str("scratch"),
        }
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {}", self.label)?;
        writeln!(f, "    history  {}", escaped(&self.created_by))?;
        match &self.op {
            Op::Run(run) => run.fmt(f),
            Op::Copy(copy) => copy.fmt(f),
            Op::Workdir(workdir) => {
                write!(f, "    mkdir    {}", workdir.path)?;
                if !workdir.user.is_empty() {
                    write!(f, " of {}", workdir.user)?;
                }
                writeln!(f)
            }
            Op::Config => Ok(()),
        }
    }
}

impl Display for RunOp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let argv: Vec<String> = self.argv.iter().map(|arg| quoted(arg)).collect();
        writeln!(f, "    argv     {}", argv.join(" "))?;
        for script in &self.scripts {
            writeln!(
                f,
                "    script   {} {}",
                script.name,
                quoted(&script.content)
            )?;
        }
        for (title, variables) in [("env  ", &self.env), ("proxy", &self.proxy_env)] {
            for (name, value) in variables {
                writeln!(f, "    {title}    {name}={}", escaped(value))?;
            }
        }
        if !self.user.is_empty() {
            writeln!(f, "    user     {}", self.user)?;
        }
        writeln!(f, "    workdir  {}", self.workdir.display())?;
        for mount in &self.mounts {
            mount.fmt(f)?;
        }
        if let Some(network) = self.network {
            writeln!(f, "    network  {network:?}")?;
        }
        if self.insecure {
            writeln!(f, "    security insecure")?;
        }
        for device in &self.devices {
            let required = if device.required { " required" } else { "" };
            writeln!(f, "    device   {}{required}", device.name)?;
        }
        Ok(())
    }
}

impl Display for Mount {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "    mount    ")?;
        match &self.target {
            Some(target) => write!(f, "{}", target.display())?,
            None => write!(f, "-")?,
        }
        let required = |required: bool| if required { ", required" } else { "" };
        match &self.kind {
            MountKind::Bind {
                from,
                source,
                writable,
            } => {
                let access = if *writable { "rw" } else { "ro" };
                writeln!(f, " bind of {} in {from}, {access}", quoted(source))
            }
            MountKind::Cache {
                id,
                sharing,
                from,
                source,
                mode,
                uid,
                gid,
                writable,
            } => {
                let access = if *writable { "rw" } else { "ro" };
                write!(
                    f,
                    " cache {} {sharing:?}, {mode:04o} {uid}:{gid}, {access}",
                    quoted(id)
                )?;
                if let Some(from) = from {
                    write!(f, ", starts as {} in {from}", quoted(source))?;
                }
                writeln!(f)
            }
            MountKind::Tmpfs { size, writable } => {
                write!(f, " tmpfs")?;
                if let Some(size) = size {
                    write!(f, " of {size} bytes")?;
                }
                writeln!(f, "{}", if *writable { "" } else { ", ro" })
            }
            MountKind::Secret {
                id,
                env,
                required: needed,
                mode,
                uid,
                gid,
            } => {
                write!(f, " secret {}", quoted(id))?;
                if let Some(env) = env {
                    write!(f, " in ${env}")?;
                }
                writeln!(f, ", {mode:04o} {uid}:{gid}{}", required(*needed))
            }
            MountKind::Ssh {
                id,
                required: needed,
                mode,
                uid,
                gid,
            } => {
                let (id, required) = (quoted(id), required(*needed));
                writeln!(f, " ssh {id}, {mode:04o} {uid}:{gid}{required}")
            }
        }
    }
}

impl Display for CopyOp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let verb = match self.verb {
            CopyVerb::Copy => "copy",
            CopyVerb::Add => "add ",
        };
        for source in &self.sources {
            write!(f, "    {verb}     ")?;
            match source {
                CopySource::Path(path) => writeln!(f, "{} in {}", quoted(path), self.from)?,
                CopySource::Url(url) => writeln!(f, "url {}", quoted(url))?,
                CopySource::Git(url) => writeln!(f, "git {}", quoted(url))?,
                CopySource::Inline { name, content } => {
                    writeln!(f, "file {} {}", quoted(name), quoted(content))?;
                }
            }
        }
        writeln!(f, "    to       {}", quoted(&self.dest))?;
        let mut flags = Vec::new();
        let mut flag = |name: &str, value: Option<&dyn Display>| {
            flags.extend(value.map(|value| format!("--{name}={value}")));
        };
        flag("chown", self.chown.as_ref().map(|v| v as _));
        flag("chmod", self.chmod.as_ref().map(|v| v as _));
        flag("checksum", self.checksum.as_ref().map(|v| v as _));
        flag("keep-git-dir", self.keep_git_dir.as_ref().map(|v| v as _));
        flag("unpack", self.unpack.as_ref().map(|v| v as _));
        for pattern in &self.exclude {
            flags.push(format!("--exclude={pattern}"));
        }
        for (name, is_set) in [("--link", self.link), ("--parents", self.parents)] {
            flags.extend(is_set.then(|| name.to_owned()));
        }
        if !flags.is_empty() {
            writeln!(f, "    flags    {}", flags.join(" "))?;
        }
        Ok(())
    }
}

/// A text on one line; quoted only when it would not be.
fn escaped(text: &str) -> String {
    if text.chars().any(char::is_control) {
        quoted(text)
    } else {
        text.to_owned()
    }
}
