//! The filter of system calls that a step runs under: Docker's default profile.
//!
//! A filter is a program for the kernel's classic BPF machine. It first looks at the architecture of the call (a
//! 64-bit process can make 32-bit calls, with other numbers), then finds the range that the number is in. Recent kernels
//! remember the verdict for calls that are allowed whatever their arguments: they run the filter once for every number when
//! it is installed.

pub(super) mod bpf;
mod table;

use bpf::{Action, Architecture, Section};

use super::sys::Instruction;

/// Address families that cannot be used: `AF_ALG` and `AF_VSOCK`.
const DENIED_FAMILIES: [u32; 2] = [38, 40];

/// Execution domains that may be asked for: Linux, with or without `UNAME26` and `ADDR_NO_RANDOMIZE` alike, and the
/// question itself.
const ALLOWED_PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The flags of `clone` that make namespaces.
const NAMESPACE_FLAGS: u32 = 0x7e02_0000;

/// Calls that wait until something is on disk.
const SYNC: [&str; 5] = ["fdatasync", "fsync", "sync", "sync_file_range", "syncfs"];

/// Has the calls that wait until something is on disk succeed without that, as on an overlay that is `volatile`: a state that was not
/// written out when the machine stopped is not used again. Package managers wait for each file of a package.
pub(super) fn skip_sync(section: &mut Section, architecture: Architecture) {
    let calls = table::ALLOWED
        .iter()
        .filter(|call| SYNC.contains(&call.name));
    for number in calls.filter_map(|call| u32::try_from(architecture.number(call)).ok()) {
        section.answer(number, Action::Errno(0));
    }
}

/// The filter for a step on this machine.
pub(super) fn docker_filter() -> Vec<Instruction> {
    bpf::program(
        &Architecture::native_and_compatible()
            .iter()
            .map(|architecture| (*architecture, section(*architecture)))
            .collect::<Vec<_>>(),
        Action::KillProcess,
    )
}

fn section(architecture: Architecture) -> Section {
    let mut section = Section::new(Action::Errno(libc::EPERM));
    for call in table::ALLOWED {
        if let Ok(number) = u32::try_from(architecture.number(call)) {
            section.allow(number);
        }
    }
    let numbers = architecture.special();
    section.when_argument_not_in(numbers.socket, 0, &DENIED_FAMILIES);
    section.when_argument_in(numbers.personality, 0, &ALLOWED_PERSONALITIES);
    section.when_argument_lacks(numbers.clone, 0, NAMESPACE_FLAGS);
    // Its flags are in memory, where a filter cannot look; programs fall back to `clone`.
    section.answer(numbers.clone3, Action::Errno(libc::ENOSYS));
    section
}

#[cfg(test)]
mod tests {
    use super::*;

    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;
    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn verdicts_are_those_of_the_profile() {
        let filter = docker_filter();
        let verdict = |arch, number, argument| bpf::evaluate(&filter, arch, number, argument);
        // read, openat, chroot, ptrace
        for number in [0, 257, 161, 101] {
            assert_eq!(verdict(X86_64, number, 0), ALLOW, "call {number}");
        }
        // mount, unshare, bpf, keyctl, io_uring_setup, and no call at all
        for number in [165, 272, 321, 250, 425, 9999, 0x4000_0000] {
            assert_eq!(verdict(X86_64, number, 0), EPERM, "call {number}");
        }
        assert_eq!(verdict(X86_64, 41, 2), ALLOW, "an internet socket");
        assert_eq!(verdict(X86_64, 41, 38), EPERM, "a socket of AF_ALG");
        assert_eq!(verdict(X86_64, 56, 0x0100_0011), ALLOW, "a fork");
        assert_eq!(verdict(X86_64, 56, 0x1000_0011), EPERM, "a user namespace");
        assert_eq!(verdict(X86_64, 435, 0), 0x0005_0026, "clone3");
        assert_eq!(verdict(X86_64, 135, 0xffff_ffff), ALLOW, "personality");
        assert_eq!(verdict(X86_64, 135, 0x40_0000), EPERM, "personality");
        assert_eq!(verdict(I386, 3, 0), ALLOW, "read of 32 bits");
        assert_eq!(verdict(I386, 21, 0), EPERM, "mount of 32 bits");
        assert_eq!(verdict(0xc000_00b7, 0, 0), 0x8000_0000, "another machine");
    }

    #[test]
    fn neighbours_with_one_verdict_are_one_range() {
        assert!(docker_filter().len() < 600, "{}", docker_filter().len());
    }

    /// Each number by itself, whatever the ranges are.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn every_number_has_the_verdict_of_the_table() {
        let filter = docker_filter();
        for (architecture, token) in [(Architecture::X86_64, X86_64), (Architecture::I386, I386)] {
            let special = architecture.special();
            let with_arguments = [special.socket, special.personality, special.clone];
            let numbers = table::ALLOWED.iter().map(|call| architecture.number(call));
            let allowed: Vec<_> = numbers.filter_map(|n| u32::try_from(n).ok()).collect();
            for number in (0..1024).chain([u32::MAX - 1, u32::MAX]) {
                let verdict = bpf::evaluate(&filter, token, number, 0);
                let expected = match number {
                    n if n == special.clone3 => 0x0005_0026,
                    n if allowed.contains(&n) || with_arguments.contains(&n) => ALLOW,
                    _ => EPERM,
                };
                assert_eq!(verdict, expected, "call {number} of {architecture:?}");
            }
        }
    }

    #[test]
    fn the_table_is_sorted_and_numbers_are_unique() {
        assert!(table::ALLOWED.windows(2).all(|w| w[0].name < w[1].name));
        for of in [
            |c: &table::Call| c.x86_64,
            |c: &table::Call| c.i386,
            |c: &table::Call| c.aarch64,
        ] {
            let mut numbers: Vec<_> = table::ALLOWED.iter().map(of).filter(|n| *n >= 0).collect();
            numbers.sort_unstable();
            assert!(numbers.windows(2).all(|w| w[0] != w[1]));
        }
    }
}
