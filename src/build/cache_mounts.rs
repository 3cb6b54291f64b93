//! Cache mounts of steps: where their directories come from, and what remote caches hear of them.

use std::path::Path;

use super::{
    error::StepError,
    mounts::{check_out, is_chroot},
    run_step::mount_files,
    session::{Session, Task},
    shared::Claims,
    stage::Worker,
};
use crate::{
    cache::{MountContent, remote},
    copy,
    plan::{MountKind, RunOp, Sharing},
    snapshot::owner,
    store::{CacheMount, CacheMountId, CacheSharing},
    tree::EmptyTree,
};

/// Notes the cache mounts of a step, of which `contents` are what the mounts hold before it.
pub(super) fn note(session: &Session<'_>, op: &RunOp, contents: &[MountContent]) {
    for (mount, content) in op.mounts.iter().zip(contents) {
        if let MountKind::Cache {
            id, mode, uid, gid, ..
        } = &mount.kind
        {
            session.services.remote_cache.trail.mount(&CacheMountId {
                id: id.clone(),
                seed: match content {
                    MountContent::Files(digest) => Some(*digest),
                    MountContent::Nothing => None,
                },
                mode: *mode,
                uid: *uid,
                gid: *gid,
            });
        }
    }
}

/// Takes a mount from a remote cache, if that is wanted and it has one that is newer. What goes wrong is a warning: the step
/// does without.
fn restore(session: &Session<'_>, task: &Task<'_>, id: &CacheMountId) {
    let services = session.services;
    let cache = services.remote_cache;
    cache.first_use(id, || {
        let Some(mount) = session.imported().and_then(|loaded| loaded.mount(id)) else {
            return;
        };
        let style = services.snapshots.style();
        let fetch = |blob: &crate::oci::Descriptor, sink: &mut dyn crate::registry::BlobSink| {
            cache.imports.copy(blob, sink)
        };
        let name = &id.id;
        match remote::restore_mount(services.store, style, mount, &fetch) {
            Ok(true) => task.status(format!("the cache mount {name} is restored")),
            Ok(false) => {}
            Err(_) if session.is_over() => {}
            Err(error) => session.warn(format!("the cache mount {name} is not restored: {error}")),
        }
    });
}

/// The directory of a cache mount, and whether it is shown read-only. Waits for it where others may not use it meanwhile.
pub(super) fn cache_mount(
    worker: &Worker<'_>,
    task: &Task<'_>,
    kind: &MountKind,
) -> Result<(CacheMount, bool), StepError> {
    let MountKind::Cache {
        id,
        sharing,
        from,
        source,
        mode,
        uid,
        gid,
        writable,
    } = kind
    else {
        unreachable!("only cache mounts come here");
    };
    let session = worker.session;
    let store = session.services.store;
    if from.is_none() {
        // Without a tree to start from there is nothing but its root.
        copy::mounted_presence(&EmptyTree, Path::new(source))?;
    }
    let seed = mount_files(worker, task, kind, &Claims::refused())?.map(|(_, digest, _)| digest);
    let cache_id = CacheMountId {
        id: id.clone(),
        seed,
        mode: *mode,
        uid: *uid,
        gid: *gid,
    };
    restore(session, task, &cache_id);
    let sharing = match sharing {
        // Where it cannot be mounted it is moved into the root, and so it is in one place at a time.
        Sharing::Shared if is_chroot(session) => CacheSharing::Locked,
        Sharing::Shared => CacheSharing::Shared,
        Sharing::Private => CacheSharing::Private,
        Sharing::Locked => CacheSharing::Locked,
    };
    let mut fill = |dir: &Path| -> Result<(), StepError> {
        let failed = |source| StepError::Scratch {
            path: dir.to_owned(),
            source,
        };
        let (mut uid, mut gid, mut mode) = (*uid, *gid, *mode);
        if let Some(from) = from {
            let tree = worker.origin_tree(from, task.vertex)?;
            if (uid, gid, mode) == (0, 0, 0o755) {
                // Nothing else was asked for, or may be.
                let path = copy::mounted_presence(&*tree, Path::new(source))?;
                if let Some(node) = tree.node(&path)? {
                    (uid, gid, mode) = (node.metadata.uid, node.metadata.gid, node.metadata.mode);
                }
            }
            let seed = check_out(session, tree, source, "/")?;
            for entry in std::fs::read_dir(seed.root()).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                std::fs::rename(entry.path(), dir.join(entry.file_name())).map_err(failed)?;
            }
        }
        owner::give_dir(dir, uid, gid, mode).map_err(failed)
    };
    let mut wait = || !session.is_over();
    let cache = store.cache_mount::<StepError>(&cache_id, sharing, &mut fill, &mut wait)?;
    Ok((cache.ok_or(StepError::Canceled)?, !writable))
}
