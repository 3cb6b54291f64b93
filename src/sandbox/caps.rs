//! Capabilities: what root of a step may do.

use rustix::{
    io::Errno,
    thread::{self, CapabilitySet, CapabilitySets},
};

use super::{
    error::{During as _, Failure},
    mount::Devices,
    spec::{MountKind, MountSpec, ProcessSpec},
};

/// What root of the step `spec` may do.
///
/// The tmpfs that a step asks for look as BuildKit's do, where device files work ([`Devices`]), so the step makes none.
pub(super) fn of_step(spec: &ProcessSpec, devices: Devices) -> CapabilitySet {
    let is_tmpfs = |mount: &MountSpec| matches!(mount.kind, MountKind::Tmpfs { .. });
    if devices == Devices::OfDev && spec.mounts.iter().any(is_tmpfs) {
        DOCKER - CapabilitySet::MKNOD
    } else {
        DOCKER
    }
}

/// The fourteen that Docker leaves to a container.
pub(super) const DOCKER: CapabilitySet = CapabilitySet::from_bits_retain(0xa804_25fb);

/// Takes all but `keep` out of the set that programs of the calling process can ever get.
pub(super) fn limit_bounding(keep: CapabilitySet) -> Result<(), Failure> {
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if keep.contains(one) {
            continue;
        }
        match thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // Past the last one that this kernel knows.
            Err(Errno::INVAL) => break,
            // It takes CAP_SETPCAP to drop even what is not there.
            Err(_) if thread::capability_is_in_bounding_set(one) == Ok(false) => {}
            other => other.during("drop a capability from the bounding set")?,
        }
    }
    match thread::clear_ambient_capability_set() {
        // Before Linux 4.3 there is no such set.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(Failure::new("clear the ambient capabilities", error)),
    }
}

/// Limits the capabilities that the calling process has to `keep`; none can be inherited.
pub(super) fn limit(keep: CapabilitySet) -> Result<(), Failure> {
    let now = thread::capabilities(None).during("read the capabilities")?;
    let left = now.permitted & keep;
    thread::set_capabilities(
        None,
        CapabilitySets {
            effective: left,
            permitted: left,
            inheritable: CapabilitySet::empty(),
        },
    )
    .during("limit the capabilities")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_s_set_has_fourteen_members() {
        assert_eq!(DOCKER.bits().count_ones(), 14);
        assert!(DOCKER.contains(CapabilitySet::CHOWN | CapabilitySet::SETFCAP));
        assert!(!DOCKER.contains(CapabilitySet::SYS_ADMIN));
    }
}
