//! What the findings of a [`Probe`] mean: the rung that builds take, and the smallest changes that would give more.
//!
//! Pure, so that every environment known to builders can be a test: what is told apart is told apart by the findings.

use super::{
    idmap::IdMap,
    isolation::Rung,
    probe::{Ability, Probe},
};

/// What a change would bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gain {
    /// Anything at all: nothing can be built as it is.
    Builds,
    /// Steps, on this rung.
    Steps(Rung),
    /// The same, or faster steps, on this better rung.
    Rung(Rung),
    /// Owners that the kernel knows, not the supervisor.
    Owners,
    /// States stacked on disk: less copying, less memory.
    Overlay,
    /// Process numbers of their own for steps.
    ProcessNumbers,
}

impl Gain {
    /// What it is, in few words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Builds => "a place for the store",
            Self::Steps(Rung::Chroot) => "RUN steps, by chroot",
            Self::Steps(_) => "RUN steps, in namespaces",
            Self::Rung(Rung::Chroot) => "chroot: RUN steps that cost less",
            Self::Rung(_) => "namespaces and overlays: RUN steps that cost less",
            Self::Owners => "real owners: steps that cost less",
            Self::Overlay => "states of steps stacked on disk",
            Self::ProcessNumbers => "process numbers of their own for steps",
        }
    }
}

/// A change and what it would bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// What it would bring.
    pub gain: Gain,
    /// What to change.
    pub change: String,
}

/// What the findings mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The rung that `auto` takes; `None` when steps cannot be run. What has no step is built all the same.
    pub rung: Option<Rung>,
    /// Changes that would give more, the most important first.
    pub advice: Vec<Advice>,
}

/// Any root with these capabilities can do without namespaces.
const AS_ROOT: &str = "run it as root of the container with the runtime's default capabilities (Kubernetes: \
     `runAsUser: 0`, which `hostUsers: false` makes root of nothing but the pod; CRI-O: add SYS_CHROOT, SETFCAP and MKNOD)";
/// For those who are root in a container already.
const UNCONFINED: &str = "start the container with `--security-opt seccomp=unconfined --security-opt \
     apparmor=unconfined` (Kubernetes: `hostUsers: false` and the capability SYS_ADMIN)";
const VOLUME: &str = "keep the store on a volume: `-v rbuild:/var/lib/rbuild`, in Kubernetes an emptyDir there, or \
     `--root` with a directory of one";

/// The capabilities that steps take without namespaces, by their numbers.
const FOR_CHROOT: [(u32, &str); 7] = [
    (0, "CHOWN"),
    (1, "DAC_OVERRIDE"),
    (3, "FOWNER"),
    (6, "SETGID"),
    (7, "SETUID"),
    (8, "SETPCAP"),
    (18, "SYS_CHROOT"),
];

impl Probe {
    /// What these findings mean.
    pub fn verdict(&self) -> Verdict {
        let rung = self.rung();
        let mut advice = Vec::new();
        let mut advise = |gain, change: String| advice.push(Advice { gain, change });
        if !self.can(Ability::Write) {
            advise(
                Gain::Builds,
                "name a directory that can be written with `--root` or $RBUILD_ROOT".to_owned(),
            );
        }
        match rung {
            None => {
                let (gain, change) = self.for_steps();
                advise(gain, change);
            }
            Some(Rung::Emulate) => {
                let (gain, change) = self.for_steps();
                let better = match gain {
                    Gain::Steps(rung) => Gain::Rung(rung),
                    other => other,
                };
                advise(better, change);
            }
            Some(Rung::Chroot) => advise(Gain::Rung(Rung::Userns), self.for_namespaces()),
            Some(Rung::Native | Rung::Userns) => {
                if self.can(Ability::Write) && !self.can(Ability::Overlay) {
                    advise(Gain::Overlay, self.for_overlay());
                }
                if self.ids == Some(IdMap::Single) {
                    advise(Gain::Owners, self.for_owners());
                }
                if !self.can(Ability::Proc) {
                    let change = "start the container with `--security-opt systempaths=unconfined` (Kubernetes: \
                         `procMount: Unmasked`)";
                    advise(Gain::ProcessNumbers, change.to_owned());
                }
            }
        }
        Verdict { rung, advice }
    }

    /// The rung that `auto` takes.
    fn rung(&self) -> Option<Rung> {
        if self.can(Ability::Namespaces) && self.can(Ability::Mount) {
            return Some(match (self.ids, self.check(Ability::UserNamespace)) {
                (Some(IdMap::Full), None) => Rung::Native,
                _ => Rung::Userns,
            });
        }
        if self.can(Ability::Chroot) {
            return Some(Rung::Chroot);
        }
        self.can(Ability::Emulate).then_some(Rung::Emulate)
    }

    fn for_steps(&self) -> (Gain, String) {
        let chroot = Gain::Steps(Rung::Chroot);
        if self.identity.uid == 0 && self.identity.filtered {
            let missing: Vec<&str> = FOR_CHROOT
                .into_iter()
                .filter(|(bit, _)| self.identity.capabilities >> bit & 1 == 0)
                .map(|(_, name)| name)
                .collect();
            if !missing.is_empty() {
                let list = missing.join(", ");
                return (
                    chroot,
                    format!("add to the container's capabilities: {list}"),
                );
            }
        }
        if self.identity.uid != 0 && self.identity.filtered {
            return (chroot, AS_ROOT.to_owned());
        }
        let known = self.obstacle.and_then(super::Obstacle::remedy);
        let change = known.unwrap_or("run it as root, or allow user namespaces");
        (Gain::Steps(Rung::Userns), change.to_owned())
    }

    fn for_namespaces(&self) -> String {
        match self.identity.ids {
            IdMap::Full => UNCONFINED.to_owned(),
            IdMap::Ranges { .. } | IdMap::Single => {
                "add the capability SYS_ADMIN: it holds in this container's user namespace alone"
                    .to_owned()
            }
        }
    }

    fn for_overlay(&self) -> String {
        match self.filesystem.as_deref() {
            Some("overlay") => VOLUME.to_owned(),
            Some(name) => format!(
                "keep the store on ext4, xfs, btrfs or tmpfs, which overlays can lie on here ({name} cannot)"
            ),
            None => {
                "keep the store on ext4, xfs, btrfs or tmpfs, which overlays can lie on".to_owned()
            }
        }
    }

    fn for_owners(&self) -> String {
        let identity = &self.identity;
        let ranges = identity.subordinate.0 > 0 && identity.subordinate.1 > 0;
        let install = "install newuidmap and newgidmap (Debian: `apt-get install uidmap`)";
        let give = format!(
            "give this user ids: `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 NAME` (or, without \
             a name, `{}:100000:65536` in /etc/subuid and /etc/subgid)",
            identity.uid
        );
        if identity.no_new_privileges {
            return "start it without no-new-privileges, with newuidmap, newgidmap and ids for this user in \
                    /etc/subuid and /etc/subgid"
                .to_owned();
        }
        match (identity.map_helpers, ranges) {
            (false, true) => install.to_owned(),
            (true, false) => give,
            (false, false) => format!("{install}, and {give}"),
            (true, true) => {
                "let newuidmap and newgidmap be set-user-ID root: they are there, and refuse"
                    .to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{
        Obstacle,
        error::Failure,
        probe::{Check, Identity},
    };

    fn identity(uid: u32, filtered: bool) -> Identity {
        Identity {
            uid,
            gid: uid,
            capabilities: 0,
            no_new_privileges: false,
            filtered,
            ids: IdMap::Full,
            subordinate: (0, 0),
            map_helpers: false,
        }
    }

    fn probe(identity: Identity, ids: Option<IdMap>, checks: &[(Ability, bool)]) -> Probe {
        let failure = || Failure::new("try", rustix::io::Errno::PERM);
        Probe {
            identity,
            ids,
            checks: checks
                .iter()
                .map(|(ability, works)| Check {
                    ability: *ability,
                    failure: (!works).then(failure),
                })
                .collect(),
            obstacle: ids.is_none().then_some(Obstacle::Filter),
            filesystem: Some("overlay".to_owned()),
        }
    }

    const NAMESPACED: [(Ability, bool); 8] = [
        (Ability::Namespaces, true),
        (Ability::Mount, true),
        (Ability::Overlay, true),
        (Ability::Proc, true),
        (Ability::Notification, true),
        (Ability::Chroot, true),
        (Ability::Owners, true),
        (Ability::Write, true),
    ];
    const STOCK: [(Ability, bool); 6] = [
        (Ability::UserNamespace, false),
        (Ability::Notification, true),
        (Ability::Chroot, true),
        (Ability::Owners, true),
        (Ability::Write, true),
        (Ability::Emulate, true),
    ];

    #[test]
    fn root_has_nothing_to_change() {
        let verdict = probe(identity(0, false), Some(IdMap::Full), &NAMESPACED).verdict();
        assert_eq!(verdict.rung, Some(Rung::Native));
        assert_eq!(verdict.advice, []);
    }

    #[test]
    fn a_store_on_an_overlay_is_to_move() {
        let mut checks = NAMESPACED;
        checks[2].1 = false;
        let verdict = probe(identity(0, true), Some(IdMap::Full), &checks).verdict();
        assert_eq!(verdict.rung, Some(Rung::Native));
        assert_eq!(verdict.advice.len(), 1);
        assert_eq!(verdict.advice[0].gain, Gain::Overlay);
        assert!(verdict.advice[0].change.contains("volume"));
    }

    #[test]
    fn with_one_id_what_is_missing_is_named() {
        let checks = [vec![(Ability::UserNamespace, true)], NAMESPACED.to_vec()].concat();
        let advice = |helpers, ranges: u64, no_new_privileges| {
            let who = Identity {
                map_helpers: helpers,
                subordinate: (ranges, ranges),
                no_new_privileges,
                ..identity(1000, false)
            };
            let verdict = probe(who, Some(IdMap::Single), &checks).verdict();
            assert_eq!(verdict.rung, Some(Rung::Userns));
            assert_eq!(verdict.advice.len(), 1);
            verdict.advice[0].change.clone()
        };
        assert!(advice(false, 65536, false).contains("uidmap"));
        assert!(!advice(false, 65536, false).contains("usermod"));
        assert!(!advice(true, 0, false).contains("install"));
        assert!(advice(false, 0, false).contains("uidmap"));
        assert!(advice(false, 0, false).contains("usermod"));
        assert!(advice(true, 65536, true).contains("no-new-privileges"));
    }

    #[test]
    fn in_a_stock_container_root_has_chroot_and_others_are_emulated() {
        let root = probe(identity(0, true), None, &STOCK).verdict();
        assert_eq!(root.rung, Some(Rung::Chroot));
        assert!(root.advice[0].change.contains("seccomp=unconfined"));
        let mapped = Identity {
            ids: IdMap::Ranges {
                uids: 65536,
                gids: 65536,
            },
            ..identity(0, true)
        };
        let root = probe(mapped, None, &STOCK).verdict();
        assert_eq!(root.rung, Some(Rung::Chroot));
        assert!(root.advice[0].change.contains("SYS_ADMIN"));

        let mut checks = STOCK;
        checks[2].1 = false;
        checks[3].1 = false;
        let other = probe(identity(1000, true), None, &checks).verdict();
        assert_eq!(other.rung, Some(Rung::Emulate));
        assert_eq!(other.advice[0].gain, Gain::Rung(Rung::Chroot));
        assert!(other.advice[0].change.contains("as root"));
        checks[5].1 = false;
        let other = probe(identity(1000, true), None, &checks).verdict();
        assert_eq!(other.rung, None);
        assert_eq!(other.advice[0].gain, Gain::Steps(Rung::Chroot));
        assert!(other.advice[0].change.contains("as root"));
        let bare = probe(identity(0, true), None, &checks).verdict();
        assert_eq!(bare.rung, None);
        assert!(bare.advice[0].change.contains("SYS_CHROOT"));
    }

    #[test]
    fn a_store_that_cannot_be_written_comes_first() {
        let mut checks = STOCK;
        checks[4].1 = false;
        let verdict = probe(identity(0, true), None, &checks).verdict();
        assert_eq!(verdict.advice[0].gain, Gain::Builds);
    }
}
