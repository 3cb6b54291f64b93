//! Who owns what: names looked up in the `/etc/passwd` and `/etc/group` of a tree, never of this machine.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::CopyError;
use crate::{
    layer::LayerTree,
    sandbox::{self, User, UserError},
    tree::{self, Kind, Last, Tree, TreeError},
};

/// An owner of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What `--chown`, or the `USER` under which `WORKDIR` makes directories, stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundOwner {
    /// The owner.
    pub owner: Owner,
    /// Names that the tree does not know; as in BuildKit, they stand for 0.
    pub unknown: Vec<String>,
}

/// A file of users larger than this is refused, as in BuildKit.
const MAX_USER_FILE_BYTES: u64 = 10 << 20;

/// The owner that `user[:group]` means in any tree: `None` when it names somebody.
pub fn owner_by_number(spec: &str) -> Option<Owner> {
    let (user, group) = spec.split_once(':').unwrap_or((spec, spec));
    Some(Owner {
        uid: number(user)?,
        gid: number(group)?,
    })
}

/// The owner that `user[:group]` means in the state below an instruction, which is asked for only if a name has to be
/// looked up. Where there is no state, a name is an error, unlike one that a state does not know.
pub fn owner_below<E: From<CopyError>>(
    spec: &str,
    below: Option<impl FnOnce() -> Result<Arc<LayerTree>, E>>,
) -> Result<Owner, E> {
    if let Some(owner) = owner_by_number(spec) {
        return Ok(owner);
    }
    let Some(below) = below else {
        let user = spec.to_owned();
        return Err(CopyError::NoUsers { user }.into());
    };
    Ok(find_owner(spec, &*below()?)?.owner)
}

/// Looks up `user[:group]` for files. A lone number is user and group, a lone name brings its primary group.
pub fn find_owner(spec: &str, tree: &dyn Tree) -> Result<FoundOwner, CopyError> {
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let mut unknown = Vec::new();
    let mut owner = Owner::default();
    if let Some(id) = number(user) {
        owner = Owner { uid: id, gid: id };
    } else {
        let passwd = read(tree, "etc/passwd")?;
        match entry(&passwd, user) {
            Some(fields) => {
                owner.uid = field_number(&fields, 2);
                owner.gid = field_number(&fields, 3);
            }
            None => unknown.push(user.to_owned()),
        }
    }
    if let Some(group) = group {
        if let Some(id) = number(group) {
            owner.gid = id;
        } else {
            let groups = read(tree, "etc/group")?;
            match entry(&groups, group) {
                Some(fields) => owner.gid = field_number(&fields, 2),
                None => unknown.push(group.to_owned()),
            }
        }
    }
    Ok(FoundOwner { owner, unknown })
}

/// Looks up `USER` for a process: with supplementary groups and home. Unknown names are errors.
pub fn find_user(spec: &str, tree: &dyn Tree) -> Result<User, FindUserError> {
    let passwd = read(tree, "etc/passwd")?;
    let group = read(tree, "etc/group")?;
    Ok(sandbox::find_user(spec, &passwd, &group)?)
}

/// The user of a process could not be told.
#[derive(Debug, thiserror::Error)]
pub enum FindUserError {
    /// There is none of the name, or the words are wrong.
    #[error(transparent)]
    User(#[from] UserError),
    /// The files that say could not be read.
    #[error(transparent)]
    Read(#[from] TreeError),
    /// The files that say are no files, or too large.
    #[error(transparent)]
    Unusable(#[from] UnusableUserFile),
}

/// A file of users or groups that is none.
#[derive(Debug, thiserror::Error)]
#[error("cannot look up names in `/{}`: {reason}", path.display())]
pub struct UnusableUserFile {
    path: PathBuf,
    reason: &'static str,
}

/// Why a file of users could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Unusable(#[from] UnusableUserFile),
}

impl From<ReadError> for FindUserError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Tree(error) => Self::Read(error),
            ReadError::Unusable(error) => Self::Unusable(error),
        }
    }
}

/// The bytes of a file of users; none when there is no such file.
fn read(tree: &dyn Tree, path: &str) -> Result<Vec<u8>, ReadError> {
    let path = tree::resolve(tree, Path::new(path), Last::Follow)?;
    let unusable = |reason| UnusableUserFile {
        path: path.clone(),
        reason,
    };
    let Some(node) = tree.node(&path)? else {
        return Ok(Vec::new());
    };
    if !matches!(node.metadata.kind, Kind::File { .. }) {
        return Err(unusable("it is not a regular file").into());
    }
    let mut bytes = Vec::new();
    tree.open(&path)?
        .take(MAX_USER_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| TreeError {
            action: "read",
            path: path.clone(),
            source,
        })?;
    if bytes.len() as u64 > MAX_USER_FILE_BYTES {
        return Err(unusable("it exceeds 10485760 bytes").into());
    }
    Ok(bytes)
}

/// The first line whose first field is `name`.
fn entry(file: &[u8], name: &str) -> Option<Vec<String>> {
    String::from_utf8_lossy(file)
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && line.split(':').next() == Some(name))
        .map(|line| line.split(':').map(str::to_owned).collect())
}

fn field_number(fields: &[String], at: usize) -> u32 {
    fields.get(at).and_then(|f| f.parse().ok()).unwrap_or(0)
}

/// A number as BuildKit takes one: 32 bits with a sign, `root` for 0, nothing for 0, too, and so is -1, with which the
/// system leaves a new file's owner alone.
fn number(text: &str) -> Option<u32> {
    match text {
        "root" | "" => Some(0),
        _ => match text.parse::<i32>().ok()? {
            -1 => Some(0),
            number => Some(number.cast_unsigned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::memory::MemoryTree;

    fn tree() -> MemoryTree {
        MemoryTree::parse(
            "file etc/passwd 0644 0 0 root:x:0:0:root:/root:/bin/sh\\nnobody:x:65534:65533:n:/:/bin/false\\nweb:x:33:33::/:\n\
             file etc/group 0644 0 0 root:x:0:\\nusers:x:100:web\\nbroken\n",
        )
    }

    #[test]
    fn owners_are_looked_up_in_the_tree() {
        let table = [
            ("1:2", 1, 2),
            ("55", 55, 55),
            ("nobody", 65534, 65533),
            ("nobody:users", 65534, 100),
            ("web:0", 33, 0),
            ("web:", 33, 0),
            (":users", 0, 100),
            ("root:root", 0, 0),
            ("2147483646:7", 2_147_483_646, 7),
            ("-1:-1", 0, 0),
            ("-2", 4_294_967_294, 4_294_967_294),
        ];
        for (spec, uid, gid) in table {
            let found = find_owner(spec, &tree()).unwrap();
            assert_eq!(found.owner, Owner { uid, gid }, "{spec}");
            assert!(found.unknown.is_empty());
        }
    }

    #[test]
    fn numbers_need_no_tree() {
        assert_eq!(owner_by_number("1:2"), Some(Owner { uid: 1, gid: 2 }));
        assert_eq!(owner_by_number("55"), Some(Owner { uid: 55, gid: 55 }));
        assert_eq!(owner_by_number("root"), Some(Owner::default()));
        assert_eq!(owner_by_number("web"), None);
        assert_eq!(owner_by_number("1:web"), None);
    }

    #[test]
    fn an_unknown_name_is_root_and_said_to_be_unknown() {
        let found = find_owner("ghost:ghosts", &tree()).unwrap();
        assert_eq!(found.owner, Owner::default());
        assert_eq!(found.unknown, ["ghost", "ghosts"]);
        let found = find_owner("5:ghosts", &tree()).unwrap();
        assert_eq!(found.owner, Owner { uid: 5, gid: 5 });
        let found = find_owner("web", &crate::tree::EmptyTree).unwrap();
        assert_eq!(found.unknown, ["web"]);
    }

    #[test]
    fn a_directory_for_a_file_of_users_is_an_error() {
        let tree = MemoryTree::parse("dir etc/passwd 0755 0 0\n");
        let error = find_owner("web", &tree).unwrap_err();
        assert!(error.to_string().contains("`/etc/passwd`"), "{error}");
    }

    #[test]
    fn the_user_of_a_process_has_to_exist() {
        let error = find_user("ghost", &tree()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unable to find user ghost: no matching entries in passwd file"
        );
        assert_eq!(find_user("web", &tree()).unwrap().groups, [100]);
    }
}
