//! The mounts of a step: from what the plan says to what the sandbox makes.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    cache_mounts, copy_step,
    error::StepError,
    request::BuildRequest,
    secrets,
    session::{Session, Task},
    stage::Worker,
};
use crate::{
    layer::{Compression, LayerBlob, LayerTree, WriteOptions, write_layer},
    plan::{Mount, MountKind, Origin},
    sandbox::{self, MountSpec, Rung},
    snapshot::{Checkout, Snapshot},
    store::CacheMount,
    tree::{self, Last, Tree},
};

/// Mounts as the sandbox wants them, and what has to live as long as they do.
#[derive(Default)]
pub(super) struct Mounts {
    pub(super) specs: Vec<MountSpec>,
    pub(super) env: Vec<(String, Vec<u8>)>,
    caches: Vec<CacheMount>,
    checkouts: Vec<Checkout>,
    snapshots: Vec<Snapshot>,
}

impl Mounts {
    /// Adds a file of these bytes.
    pub(super) fn bytes(
        &mut self,
        target: &Path,
        content: Vec<u8>,
        mode: u32,
        (uid, gid): (u32, u32),
    ) {
        let kind = sandbox::MountKind::Bytes {
            content,
            mode,
            uid,
            gid,
        };
        self.specs.push(MountSpec::new(target, kind));
    }

    /// Adds a mount of the step.
    pub(super) fn add(
        &mut self,
        worker: &Worker<'_>,
        task: &Task<'_>,
        mount: &Mount,
    ) -> Result<(), StepError> {
        let session = worker.session;
        let target = mount.target.as_deref();
        match &mount.kind {
            MountKind::Bind {
                from,
                source,
                writable,
            } => {
                let Some(target) = target else { return Ok(()) };
                let kind = self.files(worker, task, from, source, *writable)?;
                self.specs.push(MountSpec::new(target, kind));
            }
            MountKind::Tmpfs { size, writable } => {
                let Some(target) = target else { return Ok(()) };
                let kind = sandbox::MountKind::Tmpfs {
                    size: *size,
                    readonly: !writable,
                };
                self.specs.push(MountSpec::new(target, kind));
            }
            MountKind::Cache { .. } => {
                let Some(target) = target else { return Ok(()) };
                let (cache, readonly) = cache_mounts::cache_mount(worker, task, &mount.kind)?;
                let source = cache.path().to_owned();
                self.caches.push(cache);
                let kind = sandbox::MountKind::Own { source, readonly };
                self.specs.push(MountSpec::new(target, kind));
            }
            MountKind::Secret {
                id,
                env,
                required,
                mode,
                uid,
                gid,
            } => {
                let value = secrets::value(session, id, *required)?;
                if let Some(name) = env {
                    self.env
                        .push((name.clone(), value.clone().unwrap_or_default()));
                }
                // As with BuildKit, one that is not given is mounted nowhere.
                if target == Some(Path::new("/")) && value.is_some() {
                    return Err(StepError::MountOnRoot("SECRET"));
                }
                if let (Some(target), Some(value)) = (target, value) {
                    self.bytes(target, value, *mode, (*uid, *gid));
                }
            }
            MountKind::Ssh {
                id,
                required,
                mode,
                uid,
                gid,
            } => {
                let Some(target) = target else { return Ok(()) };
                if let Some(host) = self.agent(session, target, id, *required)? {
                    let kind = sandbox::MountKind::Socket {
                        host,
                        mode: *mode,
                        uid: *uid,
                        gid: *gid,
                    };
                    self.specs.push(MountSpec::new(target, kind));
                }
            }
        }
        Ok(())
    }

    /// The socket of an agent that is mounted at `target`, which the process is told of; `None` where none was given.
    fn agent(
        &mut self,
        session: &Session<'_>,
        target: &Path,
        id: &str,
        required: bool,
    ) -> Result<Option<PathBuf>, StepError> {
        let agent = session.request.ssh.get(id);
        if agent.is_some() && target == Path::new("/") {
            return Err(StepError::MountOnRoot("SSH"));
        }
        if agent.is_none() && required {
            return Err(StepError::SshMissing(id.to_owned()));
        }
        // For the first one, also without an agent, as in BuildKit.
        let name = "SSH_AUTH_SOCK";
        if self.env.iter().all(|(other, _)| other != name) {
            let value = target.as_os_str().as_encoded_bytes().to_vec();
            self.env.push((name.to_owned(), value));
        }
        Ok(agent.map(|agent| agent.socket().to_owned()))
    }

    /// What lies at `path` of a directory that nobody else uses.
    fn own(&mut self, checkout: Checkout, path: &Path, writable: bool) -> sandbox::MountKind {
        let source = checkout.root().join(path);
        self.checkouts.push(checkout);
        sandbox::MountKind::Own {
            source,
            readonly: !writable,
        }
    }

    /// The files that a bind mount shows. Those of a state are shown where they are; those of a context are put on
    /// disk first, with the owners that a step has to see.
    fn files(
        &mut self,
        worker: &Worker<'_>,
        task: &Task<'_>,
        from: &Origin,
        source: &str,
        writable: bool,
    ) -> Result<sandbox::MountKind, StepError> {
        let session = worker.session;
        if let Some(root) = worker.origin_root(from)? {
            let tree = root.tree(session.fetch(task.vertex))?;
            let path = tree::resolve(&*tree, &tree::clean(Path::new(source)), Last::Follow)?;
            if tree.node(&path)?.is_none() {
                return Err(StepError::MountSource(source.to_owned()));
            }
            if is_chroot(session) {
                let checkout = session.services.snapshots.checkout(&tree)?;
                return Ok(self.own(checkout, &path, writable));
            }
            let snapshots = session.services.snapshots;
            let stack = snapshots.stack_with(&session.left.shelf, &tree)?;
            let lower = stack.iter().map(Snapshot::fs).collect();
            self.snapshots.extend(stack);
            return Ok(sandbox::MountKind::Tree {
                lower,
                source: path,
                writable,
            });
        }
        let tree = worker.origin_tree(from, task.vertex)?;
        let checkout = check_out(session, tree, source, "/mounted")?;
        if is_chroot(session) {
            return Ok(self.own(checkout, Path::new("mounted"), writable));
        }
        let lower = vec![checkout.root()];
        self.checkouts.push(checkout);
        Ok(sandbox::MountKind::Tree {
            lower,
            source: PathBuf::from("mounted"),
            writable,
        })
    }
}

/// The options that give the secrets and agents of mounts which were not given.
pub(super) fn absent(request: &BuildRequest, mounts: &[Mount]) -> Vec<String> {
    let option = |mount: &Mount| match &mount.kind {
        MountKind::Secret { id, .. } => {
            (!request.secrets.contains_key(id)).then(|| format!("--secret id={id}"))
        }
        MountKind::Ssh { id, .. } => (!request.ssh.contains_key(id)).then(|| format!("--ssh {id}")),
        _ => None,
    };
    mounts.iter().filter_map(option).collect()
}

/// Whether nothing can be mounted.
pub(super) fn is_chroot(session: &Session<'_>) -> bool {
    matches!(session.services.rung, Ok(Rung::Chroot | Rung::Emulate))
}

/// Puts what `source` of a tree is at `dest` of a directory.
pub(super) fn check_out(
    session: &Session<'_>,
    tree: Arc<dyn Tree>,
    source: &str,
    dest: &str,
) -> Result<Checkout, StepError> {
    let changes = copy_step::files_of(session, tree, source, dest)?;
    let dir = session.services.store.temp_dir()?;
    let path = dir.path().join("layer");
    let file = File::create_new(&path).map_err(|source| StepError::Scratch {
        path: path.clone(),
        source,
    })?;
    let options = WriteOptions {
        compression: Compression::Uncompressed,
        ..WriteOptions::default()
    };
    let written = write_layer(changes, file, &options)?;
    let layer = LayerBlob::new(Arc::new(written.toc.unpack()), path, None);
    let tree = LayerTree::of([layer]).map_err(|source| StepError::Stack {
        layer: written.descriptor.digest,
        source,
    })?;
    Ok(session.services.snapshots.checkout(&tree)?)
}
