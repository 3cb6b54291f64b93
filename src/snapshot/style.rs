//! How states are kept on disk: where the marks of overlayfs and the owners of files are.

/// Which extended attributes overlayfs keeps its marks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Marks {
    /// `trusted.overlay.*`, for root on the machine.
    Trusted,
    /// `user.overlay.*` (mount option `userxattr`), for user namespaces.
    User,
}

impl Marks {
    /// What their names begin with.
    pub(super) const fn prefix(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.",
            Self::User => "user.overlay.",
        }
    }
}

/// Where the owners of files are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owners {
    /// In the inodes: every id exists here.
    Real,
    /// In the inodes where the id is mapped into this user namespace, in records (see [`owner`](super::owner)) where not.
    Mapped,
    /// In records: only one id is mapped.
    Recorded,
    /// In records, modes too: what the file system has lets this process, which has no privilege, read and write everything.
    Emulated,
}

/// How states are kept on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Style {
    /// Which attributes overlayfs uses.
    pub marks: Marks,
    /// Where owners are kept.
    pub owners: Owners,
}

impl Style {
    /// The name of the directory for states of this style.
    pub(super) const fn dir_name(self) -> &'static str {
        match (self.marks, self.owners) {
            (Marks::Trusted, Owners::Real) => "trusted",
            (Marks::Trusted, Owners::Mapped) => "trusted-mapped",
            (Marks::Trusted, Owners::Recorded) => "trusted-recorded",
            (Marks::User, Owners::Real) => "user",
            (Marks::User, Owners::Mapped) => "user-mapped",
            (Marks::User, Owners::Recorded) => "user-recorded",
            (Marks::Trusted, Owners::Emulated) => "trusted-emulated",
            (Marks::User, Owners::Emulated) => "emulated",
        }
    }
}
