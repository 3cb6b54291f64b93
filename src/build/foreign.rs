//! Whether this machine can run the programs of another platform.

use std::path::Path;

use super::error::StepError;
use crate::oci::Platform;

/// Where the kernel lists the interpreters that were registered for foreign programs.
const BINFMT: &str = "/proc/sys/fs/binfmt_misc";

/// Whether programs for `platform` run here: natively, or through an interpreter that the kernel knows by the name
/// that QEMU's packages give it.
fn can_run(platform: &Platform) -> bool {
    let host = Platform::host();
    if runs_natively(&host.architecture, &platform.architecture) {
        return true;
    }
    let Some(name) = qemu_name(platform) else {
        return false;
    };
    Path::new(BINFMT).join(name).try_exists().unwrap_or(false)
}

/// Why a program that the kernel does not know could not be started, where it may well be one for another machine. What a
/// stage's platform says is not enough to tell beforehand: images for one platform with programs for another are common.
pub(super) fn explain(platform: &Platform, reason: &str) -> Result<(), StepError> {
    if !reason.ends_with("exec format error") || can_run(platform) {
        return Ok(());
    }
    Err(StepError::Foreign {
        platform: platform.to_string(),
        host: Platform::host().to_string(),
    })
}

/// Whether a CPU runs programs for another one by itself.
fn runs_natively(host: &str, program: &str) -> bool {
    host == program || matches!((host, program), ("amd64", "386") | ("arm64", "arm"))
}

fn qemu_name(platform: &Platform) -> Option<&'static str> {
    Some(match platform.architecture.as_str() {
        "amd64" => "qemu-x86_64",
        "386" => "qemu-i386",
        "arm64" => "qemu-aarch64",
        "arm" => "qemu-arm",
        "ppc64le" => "qemu-ppc64le",
        "s390x" => "qemu-s390x",
        "riscv64" => "qemu-riscv64",
        "mips64le" => "qemu-mips64el",
        "mips64" => "qemu-mips64",
        "loong64" => "qemu-loongarch64",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_runs_its_own_programs_and_those_of_its_smaller_brother() {
        assert!(can_run(&Platform::host()));
        assert!(runs_natively("amd64", "386") && runs_natively("arm64", "arm"));
        assert!(!runs_natively("386", "amd64") && !runs_natively("amd64", "arm64"));
    }
}
