//! What is done for the step after one that runs a process: while that runs, directories are made for it, and while the changes are
//! written, its root is set up on them. Only when nothing else is between the two; what comes of it is of use for no other step, as
//! [`Ground::prepare`] checks.

use super::{
    error::StepError,
    ground::{self, Early, Ground, Room},
    stage::Worker,
};
use crate::{
    plan::{Network, Op, RunOp, Step},
    sandbox::{self, ProcessSpec, Rootfs, Rung},
};

/// While a step is set up and runs: finishes the one before, and gets ready for the one after.
pub(super) fn use_the_time(worker: &Worker<'_>, step: &Step, rung: Rung) -> Result<(), StepError> {
    worker.later.catch_up()?;
    if next_process(worker, step).is_some() {
        if matches!(rung, Rung::Native | Rung::Userns) {
            let blank = worker.session.services.snapshots.blank()?;
            worker.room.replace(Room::Blank(blank));
        } else {
            worker.session.services.sandbox.expect();
        }
    }
    Ok(())
}

/// What the process of a step finds beside its own mounts; the rest of the specification is still to be filled in.
pub(super) fn surroundings(worker: &Worker<'_>, op: &RunOp, rootfs: Rootfs) -> ProcessSpec {
    let session = worker.session;
    let hostname = worker.plan.hostname.as_deref().unwrap_or(sandbox::HOSTNAME);
    ProcessSpec {
        hostname: hostname.to_owned(),
        network: match op.network.unwrap_or(session.request.network) {
            Network::None => sandbox::Network::None,
            Network::Default | Network::Host => sandbox::Network::Host,
        },
        etc_hosts: Some(sandbox::etc_hosts(hostname, &session.request.add_hosts)),
        resolv_conf: Some(session.services.resolv_conf.to_vec()),
        shm_size: session.request.shm_size,
        insecure: op.insecure,
        ..ProcessSpec::new(rootfs, Vec::new())
    }
}

/// Has the root of the next process set up while the changes of this one, which has ended, are written.
pub(super) fn set_up(
    worker: &Worker<'_>,
    step: &Step,
    ground: &Ground,
) -> Result<Option<Early>, StepError> {
    let Some(op) = next_process(worker, step) else {
        return Ok(None);
    };
    let Room::Blank(blank) = worker.room.replace(Room::None) else {
        return Ok(None);
    };
    let Some(dirs) = ground.ahead(blank)? else {
        return Ok(None);
    };
    let spec = surroundings(worker, op, ground::rootfs_ahead(&dirs));
    let set_up = worker.session.services.sandbox.set_up(&spec, dirs.first());
    Ok(set_up.map(|set_up| Early { dirs, set_up }))
}

/// The process that is next, when nothing but configuration is between.
fn next_process<'a>(worker: &Worker<'a>, step: &Step) -> Option<&'a RunOp> {
    let steps = worker.stage.steps.iter();
    let mut after = steps
        .skip_while(|other| !std::ptr::eq(*other, step))
        .skip(1);
    match &after.find(|step| !matches!(step.op, Op::Config))?.op {
        Op::Run(op) => Some(op),
        _ => None,
    }
}
