//! The keys of the three kinds of steps. The table in the module's header says what enters and why.

use crate::{
    oci::{ChainId, Digest, Platform},
    plan::{
        Chmod, CopyOp, CopySource, CopyVerb, Mount, MountKind, Network, RunOp, WorkdirOp,
        sounds_secret,
    },
};

use super::{Key, KeyBuilder, reason};

/// All that can change the layer of a `RUN`.
#[derive(Debug, Clone)]
pub struct RunInputs<'a> {
    /// What it builds on; `None` is the empty root.
    pub parent: Option<ChainId>,
    /// The process.
    pub op: &'a RunOp,
    /// The stage's platform.
    pub platform: &'a Platform,
    /// What the mounts of `op` hold, one for each.
    pub mounts: &'a [MountContent],
    /// The network that the command line asks for; `op` has precedence.
    pub network: Network,
    /// The host name that the process sees, if one was asked for.
    pub hostname: Option<&'a str>,
    /// The names of `--add-host`, without addresses, in order.
    pub added_hosts: &'a [&'a str],
    /// `--shm-size` in bytes, if given.
    pub shm_size: Option<u64>,
    /// `--ulimit`, in order.
    pub ulimits: &'a [Ulimit<'a>],
    /// `--cgroup-parent`, if given.
    pub cgroup_parent: Option<&'a str>,
}

/// One `--ulimit`.
#[derive(Debug, Clone, Copy)]
pub struct Ulimit<'a> {
    /// Its name: `nofile`.
    pub name: &'a str,
    /// The soft limit; -1 is none.
    pub soft: i64,
    /// The hard limit; -1 is none.
    pub hard: i64,
}

/// What a mount holds when the step begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountContent {
    /// Nothing that counts: a cache mount without seed, tmpfs, secret, agent.
    Nothing,
    /// Content with this digest: that of a bind mount, or of a cache mount's seed.
    Files(Digest),
}

/// The key of a `RUN`.
pub fn run_key(inputs: &RunInputs<'_>) -> Key {
    let op = inputs.op;
    let mut key = parent(KeyBuilder::new("run"), inputs.parent)
        .text("platform", &inputs.platform.to_string())
        .optional("os.version", inputs.platform.os_version.as_deref())
        .list("argv", &op.argv)
        .number("scripts", op.scripts.len() as u64);
    for script in &op.scripts {
        key = key.text(&format!("script {}", script.name), &script.content);
    }
    key = key.number("env", op.env.len() as u64);
    for (name, value) in &op.env {
        let field = format!("env {name}");
        key = if sounds_secret(name) {
            key.hidden(&field, value)
        } else {
            key.text(&field, value)
        };
    }
    if !op.args.is_empty() {
        let args = serde_json::Value::from(op.args.clone());
        key = key.note(reason::ARGS, &args.to_string());
    }
    let network = match op.network.unwrap_or(inputs.network) {
        Network::Default => "default",
        Network::None => "none",
        Network::Host => "host",
    };
    key = key
        .text("user", &op.user)
        .text("workdir", &op.workdir.to_string_lossy())
        .text("network", network)
        .flag("insecure", op.insecure)
        .optional("hostname", inputs.hostname)
        .list("added hosts", inputs.added_hosts)
        .optional(
            "shm size",
            inputs.shm_size.map(|n| n.to_string()).as_deref(),
        )
        .optional("cgroup parent", inputs.cgroup_parent)
        .number("ulimits", inputs.ulimits.len() as u64);
    for limit in inputs.ulimits {
        let value = format!("{}:{}", limit.soft, limit.hard);
        key = key.text(&format!("ulimit {}", limit.name), &value);
    }
    key = key.number("devices", op.devices.len() as u64);
    for device in &op.devices {
        key = key.flag(&format!("device {}", device.name), device.required);
    }
    key = key.number("mounts", op.mounts.len() as u64);
    for (i, mount) in op.mounts.iter().enumerate() {
        let content = inputs.mounts.get(i).copied();
        key = mount_fields(key, i + 1, mount, content.unwrap_or(MountContent::Nothing));
    }
    key.finish()
}

/// What the process can tell of a mount. Not where its content comes from, nor the id and sharing of a cache.
fn mount_fields(
    key: KeyBuilder,
    number: usize,
    mount: &Mount,
    content: MountContent,
) -> KeyBuilder {
    let name = |field: &str| format!("mount {number} {field}");
    let target = mount.target.as_ref().map(|path| path.to_string_lossy());
    let key = key.optional(&name("target"), target.as_deref());
    let key = match content {
        MountContent::Nothing => key.no_input(&name("content")),
        MountContent::Files(digest) => key.input(&name("content"), &digest),
    };
    let kind = name("type");
    let owner = |key: KeyBuilder, mode: u32, uid: u32, gid: u32| {
        key.mode(&name("mode"), mode)
            .number(&name("uid"), uid.into())
            .number(&name("gid"), gid.into())
    };
    match &mount.kind {
        MountKind::Bind {
            from: _,
            source: _,
            writable,
        } => key.text(&kind, "bind").flag(&name("writable"), *writable),
        MountKind::Cache {
            id: _,
            sharing: _,
            from: _,
            source: _,
            mode,
            uid,
            gid,
            writable,
        } => owner(key.text(&kind, "cache"), *mode, *uid, *gid).flag(&name("writable"), *writable),
        MountKind::Tmpfs { size, writable } => key
            .text(&kind, "tmpfs")
            .optional(&name("size"), size.map(|n| n.to_string()).as_deref())
            .optional(&name("readonly"), (!writable).then_some("")),
        MountKind::Secret {
            id,
            env,
            required,
            mode,
            uid,
            gid,
        } => owner(key.text(&kind, "secret"), *mode, *uid, *gid)
            .text(&name("id"), id)
            .optional(&name("env"), env.as_deref())
            .flag(&name("required"), *required),
        MountKind::Ssh {
            id,
            required,
            mode,
            uid,
            gid,
        } => owner(key.text(&kind, "ssh"), *mode, *uid, *gid)
            .text(&name("id"), id)
            .flag(&name("required"), *required),
    }
}

/// All that can change the layer of a `COPY` or `ADD`.
#[derive(Debug, Clone, Copy)]
pub struct CopyInputs<'a> {
    /// What it builds on; `None` is the empty root, and right for `--link`. Also right when `content` covers what
    /// the copy found at its destination.
    pub parent: Option<ChainId>,
    /// The instruction.
    pub op: &'a CopyOp,
    /// What is copied: a digest over every name below the sources, with type, mode, owner, link target, xattrs
    /// and bytes. It covers what an `ADD` downloaded, too.
    pub content: Digest,
    /// The owner that `--chown` came to, `uid:gid`. Names mean other numbers on another base.
    pub owner: Option<(u32, u32)>,
}

/// The key of a `COPY` or `ADD`.
pub fn copy_key(inputs: &CopyInputs<'_>) -> Key {
    let op = inputs.op;
    let verb = match op.verb {
        CopyVerb::Copy => "COPY",
        CopyVerb::Add => "ADD",
    };
    let mut key = parent(KeyBuilder::new("copy"), inputs.parent)
        .text("verb", verb)
        .text("destination", &op.dest)
        .input("content", &inputs.content)
        .optional(
            "owner",
            inputs
                .owner
                .map(|(uid, gid)| format!("{uid}:{gid}"))
                .as_deref(),
        )
        .optional("chmod", op.chmod.as_ref().map(Chmod::as_str))
        .flag("link", op.link)
        .flag("parents", op.parents)
        .list("exclude", &op.exclude)
        .optional("checksum", op.checksum.as_deref())
        .optional("keep git dir", op.keep_git_dir.map(yes_no))
        .optional("unpack", op.unpack.map(yes_no))
        .number("sources", op.sources.len() as u64);
    for (i, source) in op.sources.iter().enumerate() {
        let name = |field: &str| format!("source {} {field}", i + 1);
        key = match source {
            // The last part can become the name of what is copied; what is above it is where it was found.
            CopySource::Path(path) => key.text(&name("path"), shown_source(op, path)),
            CopySource::Url(url) => key.address(&name("url"), url),
            CopySource::Git(url) => key.address(&name("git"), url),
            CopySource::Inline {
                name: file,
                content,
            } => key.text(&name("name"), file).text(&name("text"), content),
        };
    }
    key.finish()
}

/// What of a source path can show in the result: all of it with `--parents`, else its last part.
fn shown_source<'a>(op: &CopyOp, path: &'a str) -> &'a str {
    if op.parents {
        path
    } else {
        let trimmed = path.trim_end_matches('/');
        let start = trimmed.rfind('/').map_or(0, |i| i + 1);
        &path[start..]
    }
}

/// All that can change the layer of a `WORKDIR`.
#[derive(Debug, Clone, Copy)]
pub struct WorkdirInputs<'a> {
    /// What it builds on; `None` is the empty root.
    pub parent: Option<ChainId>,
    /// The instruction.
    pub op: &'a WorkdirOp,
    /// The owner that `USER` came to.
    pub owner: (u32, u32),
}

/// The key of a `WORKDIR`.
pub fn workdir_key(inputs: &WorkdirInputs<'_>) -> Key {
    let (uid, gid) = inputs.owner;
    let key = parent(KeyBuilder::new("workdir"), inputs.parent)
        .text("path", &inputs.op.path)
        .text("owner", &format!("{uid}:{gid}"));
    match inputs.op.time {
        Some(time) => key.text("time", &time.to_string()).finish(),
        None => key.finish(),
    }
}

fn parent(key: KeyBuilder, parent: Option<ChainId>) -> KeyBuilder {
    match parent {
        Some(chain_id) => key.input("parent", &chain_id.0),
        None => key.no_input("parent"),
    }
}

fn yes_no(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

#[cfg(test)]
mod tests;
