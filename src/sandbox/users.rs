//! Who a step runs as: `USER` looked up in the root's own `/etc/passwd` and `/etc/group`.
//!
//! The rules are those of Docker and runc: a name or number, optionally `:` and a group name or number. A number
//! need not be listed; a name must be. Without a group part, the user's own group and the supplementary groups that
//! list the user apply; with one, that group alone.

use crate::source::suggest;

/// The user of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// Supplementary groups, in the order of the group file.
    pub groups: Vec<u32>,
    /// The home directory; `/` when the user is not listed or has none.
    pub home: String,
}

/// A user or group that cannot be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// No such user, and it is no number.
    #[error("unable to find user {name}: no matching entries in passwd file")]
    NoUser {
        /// The name.
        name: String,
        /// One that is there and may be meant.
        near: Option<String>,
    },
    /// No such group, and it is no number.
    #[error("unable to find group {name}: no matching entries in group file")]
    NoGroup {
        /// The name.
        name: String,
        /// One that is there and may be meant.
        near: Option<String>,
    },
    /// A number beyond what Linux has.
    #[error("{0} is out of range for a user or group number")]
    OutOfRange(String),
}

/// The largest user or group number that runc accepts; the kernel would take one bit more.
const MAX_ID: u64 = (1 << 31) - 1;

/// The user that `text` (the argument of `USER`; empty is root) means under these passwd and group files, which are
/// empty when the root has none. Lines that make no sense are passed over.
pub fn find_user(text: &str, passwd: &[u8], group: &[u8]) -> Result<User, UserError> {
    let mut parts = text.split(':');
    let user = parts.next().unwrap_or_default();
    // What follows a second colon counts for nothing, as in runc.
    let group_text = parts.next().filter(|group| !group.is_empty());
    let user = if user.is_empty() { "0" } else { user };
    let entry = find_entry(passwd, user, 2);
    let (uid, mut gid, name) = match entry {
        Some(fields) => (
            fields[2],
            fields.get(3).copied().unwrap_or("0"),
            Some(fields[0]),
        ),
        None if is_number(user) => (user, "0", None),
        None => {
            return Err(UserError::NoUser {
                name: user.to_owned(),
                near: nearest(passwd, user),
            });
        }
    };
    let mut groups = Vec::new();
    if let Some(group_text) = group_text {
        gid = match find_entry(group, group_text, 2) {
            Some(fields) => fields[2],
            None if is_number(group_text) => group_text,
            None => {
                return Err(UserError::NoGroup {
                    name: group_text.to_owned(),
                    near: nearest(group, group_text),
                });
            }
        };
    } else if let Some(name) = name {
        groups = entries(group)
            .filter(|f| f.len() > 3 && f[3].split(',').any(|member| member == name))
            .filter_map(|f| f[2].parse().ok())
            .collect();
    }
    // As in runc, the home is that of the number: the first of several with the same.
    let home = entries(passwd)
        .find(|fields| fields[2].parse::<u64>().ok() == uid.parse().ok())
        .map_or("/", |fields| fields.get(5).copied().unwrap_or_default());
    Ok(User {
        uid: number(uid)?,
        gid: number(gid)?,
        groups,
        home: home.to_owned(),
    })
}

/// The first entry with `key` as its name or, for a number, as its field `id`. A name that is a number wins over
/// nothing: runc compares both at once, first line first.
fn find_entry<'a>(file: &'a [u8], key: &str, id: usize) -> Option<Vec<&'a str>> {
    let wanted: Option<u64> = key.parse().ok();
    entries(file).find(|f| {
        f.len() > id && (f[0] == key || (wanted.is_some() && f[id].parse().ok() == wanted))
    })
}

/// The name in a file that is nearest to one that is not.
fn nearest(file: &[u8], name: &str) -> Option<String> {
    suggest(name, entries(file).map(|fields| fields[0])).map(ToOwned::to_owned)
}

fn entries(file: &[u8]) -> impl Iterator<Item = Vec<&str>> {
    file.split(|b| *b == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(':').map(str::trim).collect::<Vec<_>>())
        .filter(|fields| fields.len() > 2 && is_number(fields[2]))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn number(text: &str) -> Result<u32, UserError> {
    let value = text.parse::<u64>().unwrap_or(u64::MAX);
    if value > MAX_ID {
        return Err(UserError::OutOfRange(text.to_owned()));
    }
    u32::try_from(value).map_err(|_too_large| UserError::OutOfRange(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n# note\nbroken line\nann:x:1000:1001:Ann:/home/ann:/bin/sh\n\xff\nbin:x:2:2\nanna:x:1000:5::/home/anna:\n";
    const GROUP: &[u8] =
        b"root:x:0:\nwheel:x:10:root,ann\nann:x:1001:\naudio:x:29:bob,ann\nvideo:x:44:annie\n";

    fn user(text: &str) -> Result<User, UserError> {
        find_user(text, PASSWD, GROUP)
    }

    fn is(found: &Result<User, UserError>, uid: u32, gid: u32, groups: &[u32], home: &str) {
        let expected = User {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.to_owned(),
        };
        assert_eq!(*found, Ok(expected));
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        is(&user(""), 0, 0, &[10], "/root");
        is(&user("ann"), 1000, 1001, &[10, 29], "/home/ann");
        is(&user("1000"), 1000, 1001, &[10, 29], "/home/ann");
        is(&user("bin"), 2, 2, &[], "");
        is(&user("777"), 777, 0, &[], "/");
        is(&user("anna"), 1000, 5, &[], "/home/ann");
    }

    #[test]
    fn a_group_part_replaces_all_groups() {
        is(&user("ann:wheel"), 1000, 10, &[], "/home/ann");
        is(&user("ann:5"), 1000, 5, &[], "/home/ann");
        is(&user("ann:"), 1000, 1001, &[10, 29], "/home/ann");
        is(&user(":audio"), 0, 29, &[], "/root");
        is(&user("ann:5:wheel"), 1000, 5, &[], "/home/ann");
    }

    #[test]
    fn unknown_names_are_errors_in_docker_s_words() {
        assert_eq!(
            user("ghost").unwrap_err().to_string(),
            "unable to find user ghost: no matching entries in passwd file"
        );
        assert_eq!(
            user("ann:ghosts").unwrap_err().to_string(),
            "unable to find group ghosts: no matching entries in group file"
        );
        let near = |text| match user(text) {
            Err(UserError::NoUser { near, .. } | UserError::NoGroup { near, .. }) => near,
            other => panic!("{other:?}"),
        };
        assert_eq!(near("rot").as_deref(), Some("root"));
        assert_eq!(near("ann:whel").as_deref(), Some("wheel"));
        assert_eq!(near("somebody"), None);
        assert_eq!(
            user("4294967296").unwrap_err(),
            UserError::OutOfRange("4294967296".into())
        );
    }

    #[test]
    fn a_root_without_files_knows_root_by_number() {
        is(&find_user("", b"", b""), 0, 0, &[], "/");
        assert!(find_user("root", b"", b"").is_err());
    }
}
