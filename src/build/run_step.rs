//! `RUN`: a root directory, mounts, a process, and what it changed.

use std::{ffi::OsString, path::Path};

use super::{
    cache_mounts,
    error::StepError,
    explain::{Keyed, note, origin_name},
    foreign,
    ground::{Ground, Room},
    made::Made,
    mounts::{Mounts, absent},
    next_step,
    session::{Session, Task},
    shared::Claims,
    stage::{Outcome, Worker},
};
use crate::{
    cache::{FileList, Files, MountContent, RunInputs, Ulimit as KeyUlimit, run_key},
    copy,
    oci::{ChainId, Digest},
    plan::{MountKind, Network, Origin, RunOp, Step},
    progress::Event,
    sandbox::{self, Exit, ProcessSpec},
};

/// Where a process finds programs when nothing says so.
pub(super) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where the scripts of heredocs are.
const SCRIPTS: &str = "/dev/pipes";

/// Takes the layer from the cache or runs the process.
pub(super) fn run(
    worker: &Worker<'_>,
    task: &Task<'_>,
    step: &Step,
    op: &RunOp,
    claims: &Claims,
) -> Result<Outcome, StepError> {
    let request = worker.session.request;
    check_allowed(worker.session, op)?;
    let mut contents = Vec::with_capacity(op.mounts.len());
    let mut files = Vec::new();
    for (number, mount) in (1..).zip(&op.mounts) {
        contents.push(match mount_files(worker, task, &mount.kind, claims)? {
            Some((from, digest, of_mount)) => {
                if !of_mount.is_empty() {
                    files.push(FileList {
                        input: format!("mount {number} content"),
                        from: origin_name(worker.plan, from),
                        files: of_mount,
                    });
                }
                MountContent::Files(digest)
            }
            None => MountContent::Nothing,
        });
    }
    cache_mounts::note(worker.session, op, &contents);
    let added_hosts: Vec<&str> = request
        .add_hosts
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    let ulimits: Vec<KeyUlimit<'_>> = request
        .ulimits
        .iter()
        .map(|limit| KeyUlimit {
            name: &limit.name,
            soft: signed(limit.soft),
            hard: signed(limit.hard),
        })
        .collect();
    let key = run_key(&RunInputs {
        parent: worker.root.chain(),
        op,
        platform: &worker.stage.platform,
        mounts: &contents,
        network: request.network,
        hostname: worker.plan.hostname.as_deref(),
        added_hosts: &added_hosts,
        shm_size: request.shm_size,
        ulimits: &ulimits,
        cgroup_parent: None,
    });
    let keyed = Keyed {
        key,
        files,
        is_claimed: claims.was_taken(),
    };
    worker.cached(step, task, &keyed, || execute(worker, task, step, op))
}

/// A limit as cache keys hold it.
fn signed(limit: Option<u64>) -> i64 {
    limit.map_or(-1, |n| i64::try_from(n).unwrap_or(i64::MAX))
}

fn check_allowed(session: &Session<'_>, op: &RunOp) -> Result<(), StepError> {
    let request = session.request;
    if op.network == Some(Network::Host) && !request.allow_host_network {
        return Err(StepError::NotAllowed("network.host"));
    }
    if op.insecure && !request.allow_insecure {
        return Err(StepError::NotAllowed("security.insecure"));
    }
    if let Some(device) = op.devices.iter().find(|device| device.required) {
        let reason = format!(
            "device {} is not available: this machine has no CDI devices",
            device.name
        );
        return Err(StepError::Unsupported(reason));
    }
    Ok(())
}

/// What a mount holds before the step, as far as it counts for the result, and where that comes from.
pub(super) fn mount_files<'a>(
    worker: &Worker<'_>,
    task: &Task<'_>,
    kind: &'a MountKind,
    claims: &Claims,
) -> Result<Option<(&'a Origin, Digest, Files)>, StepError> {
    let (from, source) = match kind {
        MountKind::Bind { from, source, .. } => (from, source),
        MountKind::Cache {
            from: Some(from),
            source,
            ..
        } => (from, source),
        _ => return Ok(None),
    };
    let question = worker.mounted_question(from, source)?;
    if let Some(digest) = worker.known_content(from, question, claims)? {
        // Which files they are is not known, and tells nobody anything unless they can be looked at.
        return Ok(Some((from, digest, Files::default())));
    }
    let tree = worker.origin_tree(from, task.vertex)?;
    let mut files = Files::default();
    let digest = copy::mounted_content(&tree, source, &mut note(&mut files))?;
    worker.keep_digests(from)?;
    worker.found_out(question, &digest.to_string())?;
    Ok(Some((from, digest, files)))
}

/// Runs the process and makes a layer of what it changed.
fn execute(
    worker: &Worker<'_>,
    task: &Task<'_>,
    step: &Step,
    op: &RunOp,
) -> Result<Made, StepError> {
    let session = worker.session;
    let rung = match session.services.rung {
        Ok(rung) => *rung,
        Err(refusal) => return Err(StepError::NoSandbox(refusal.clone())),
    };
    // Beside fetching and unpacking.
    session.services.sandbox.expect();
    if let Some(departures) = worker.departures() {
        departures.expected();
    }
    let command = op.argv.join(" ");
    let tree = worker.tree_to_unpack(task.vertex, rung)?;
    let mut mounts = Mounts::default();
    for script in &op.scripts {
        let target = Path::new(SCRIPTS).join(&script.name);
        mounts.bytes(&target, script.content.clone().into_bytes(), 0o755, (0, 0));
    }
    for mount in &op.mounts {
        mounts.add(worker, task, mount)?;
    }
    let snapshots = session.services.snapshots;
    let state = (&*tree, worker.root.chain());
    let room = worker.room.replace(Room::None);
    let (mut ground, set_up) = Ground::prepare(snapshots, rung, &session.left, state, room)?;
    let user = session.users.find(&op.user, &tree, &ground);
    let user = user.map_err(|source| StepError::User {
        command: command.clone(),
        source,
    })?;
    if let Some(mount) = mounts.specs.iter().find(|m| m.target.starts_with("/proc")) {
        return Err(StepError::MountInProc(mount.target.clone()));
    }
    // Mounts are made in the order of their targets, as in BuildKit, so one below another is not hidden by it.
    mounts.specs.sort_by(|a, b| a.target.cmp(&b.target));
    let spec = ProcessSpec {
        argv: op.argv.iter().map(OsString::from).collect(),
        env: environment(op, &user.home, &mounts.env),
        cwd: op.workdir.clone(),
        uid: user.uid,
        gid: user.gid,
        groups: groups(user.gid, &user.groups),
        mounts: std::mem::take(&mut mounts.specs),
        ulimits: session.request.ulimits.clone(),
        streams: sandbox::Streams::Output,
        ..next_step::surroundings(worker, op, ground.rootfs())
    };
    let reporter = session.services.reporter;
    let mut sink = |stream, bytes: &[u8]| {
        let bytes = bytes.to_vec();
        reporter.event(Event::Output {
            vertex: task.vertex,
            stream,
            bytes,
        });
    };
    let mut caught_up = Ok(());
    let mut meanwhile = || caught_up = next_step::use_the_time(worker, step, rung);
    let exit = session.services.sandbox.run_in(
        set_up,
        &spec,
        session.services.cancel,
        &mut sink,
        &mut meanwhile,
    )?;
    drop(mounts);
    caught_up?;
    match exit {
        Exit::Code(0) => {}
        Exit::Canceled => return Err(StepError::Canceled),
        Exit::NotStarted { code, reason } => {
            foreign::explain(&worker.stage.platform, &reason)?;
            return Err(StepError::NotStarted {
                command,
                reason,
                code,
            });
        }
        Exit::Code(_) | Exit::Signal(_) => {
            return Err(StepError::Exit {
                command,
                code: exit.code(),
                absent: absent(session.request, &op.mounts),
            });
        }
    }
    let mut early = next_step::set_up(worker, step, &ground)?;
    let made = worker.write(ground.changes(&tree)?, step.label.clone())?;
    let chain = ChainId::after(worker.root.chain(), made.layer.diff_id);
    ground.adopt(&session.left, chain, early.as_mut())?;
    if let Some(early) = early {
        worker.room.replace(Room::Early(early));
    }
    Ok(made)
}

/// The supplementary groups of a process: containerd counts the main one among them, and `id` shows that.
pub(super) fn groups(gid: u32, others: &[u32]) -> Vec<u32> {
    let others = others.iter().copied().filter(|other| *other != gid);
    std::iter::once(gid).chain(others).collect()
}

/// The environment of the process: what the Dockerfile says, then what has to be there.
fn environment(op: &RunOp, home: &str, secrets: &[(String, Vec<u8>)]) -> Vec<(OsString, OsString)> {
    use std::os::unix::ffi::OsStringExt as _;
    let has = |name: &str| op.env.iter().any(|(key, _)| key == name);
    let mut env: Vec<(OsString, OsString)> = Vec::new();
    if !has("PATH") {
        env.push(("PATH".into(), DEFAULT_PATH.into()));
    }
    let is_proxy = |name: &str| op.proxy_env.iter().any(|(key, _)| key == name);
    let own = op.env.iter().filter(|(name, _)| !is_proxy(name));
    env.extend(
        own.chain(&op.proxy_env)
            .map(|(key, value)| (key.into(), value.into())),
    );
    env.extend(
        secrets
            .iter()
            .map(|(key, value)| (key.into(), OsString::from_vec(value.clone()))),
    );
    if !has("HOME") {
        env.push(("HOME".into(), home.into()));
    }
    env
}
