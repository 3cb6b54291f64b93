//! Which user and group numbers exist here: the mapping of the user namespace, and the subordinate ids that an
//! ordinary user may map.

use std::io;

/// The ids of the user namespace that the calling process is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum IdMap {
    /// All: no user namespace, or one that maps everything.
    Full,
    /// So many, from 0 on.
    Ranges {
        /// Users.
        uids: u64,
        /// Groups.
        gids: u64,
    },
    /// One user and one group.
    Single,
}

impl IdMap {
    /// The mapping of the calling process.
    pub fn current() -> io::Result<Self> {
        let uids = std::fs::read_to_string("/proc/self/uid_map")?;
        let gids = std::fs::read_to_string("/proc/self/gid_map")?;
        Ok(Self::from_maps(&uids, &gids))
    }

    /// The mapping that these contents of `uid_map` and `gid_map` mean.
    pub fn from_maps(uid_map: &str, gid_map: &str) -> Self {
        const ALL: u64 = u32::MAX as u64;
        let (uids, gids) = (total(uid_map), total(gid_map));
        match (uids, gids) {
            (ALL.., ALL..) => Self::Full,
            (0 | 1, _) | (_, 0 | 1) => Self::Single,
            _ => Self::Ranges { uids, gids },
        }
    }

    /// Whether overlays must keep their marks in `user.overlay.*` attributes: everywhere but in the first user
    /// namespace, where alone `trusted.*` can be written.
    pub fn needs_userxattr(self) -> bool {
        self != Self::Full
    }
}

/// How many ids a `uid_map` or `gid_map` covers.
fn total(map: &str) -> u64 {
    lines(map).map(|[_, _, count]| count).sum()
}

/// The entries of a `uid_map` or `gid_map`: first id inside, first id outside, count.
pub(super) fn lines(map: &str) -> impl Iterator<Item = [u64; 3]> {
    map.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace().map(str::parse);
        let mut next = || words.next()?.ok();
        Some([next()?, next()?, next()?])
    })
}

/// Consecutive ids that a user may map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IdRange {
    /// The first.
    pub start: u32,
    /// How many.
    pub count: u32,
}

/// The ranges of user `uid`, called `name` if it has one, in a file of the form of `/etc/subuid`. The owner of a range is
/// named or numbered there. Lines that make no sense are passed over.
pub fn subordinate_ids(file: &[u8], uid: u32, name: Option<&str>) -> Vec<IdRange> {
    file.split(|b| *b == b'\n')
        .filter_map(|line| {
            let line = std::str::from_utf8(line).ok()?.trim();
            let mut fields = line.split(':');
            let owner = fields.next()?;
            let range = IdRange {
                start: fields.next()?.parse().ok()?,
                count: fields.next()?.parse().ok()?,
            };
            let ours = Some(owner) == name || owner.parse() == Ok(uid);
            (ours && range.count > 0).then_some(range)
        })
        .collect()
}

/// The name of user `uid` in a passwd file.
pub(super) fn user_name(passwd: &[u8], uid: u32) -> Option<&str> {
    passwd.split(|b| *b == b'\n').find_map(|line| {
        let line = std::str::from_utf8(line).ok()?;
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// The lines of a map with `own` as id 0 and the ranges after it, one triple each.
pub(super) fn map_with_ranges(own: u32, ranges: &[IdRange]) -> Vec<[u64; 3]> {
    /// The most lines that the kernel takes, by `user_namespaces(7)`.
    const MAX_LINES: usize = 340;
    let mut map = vec![[0, own.into(), 1]];
    let mut next = 1;
    for range in ranges.iter().take(MAX_LINES - 1) {
        let count = u64::from(range.count).min(u64::from(u32::MAX) - next);
        if count == 0 {
            break;
        }
        map.push([next, range.start.into(), count]);
        next += count;
    }
    map
}

/// A map that keeps every id of the caller's own map, for a caller that may write it.
pub(super) fn identity_map(current: &str) -> Vec<[u64; 3]> {
    lines(current)
        .map(|[inside, _, count]| [inside, inside, count])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_told_apart() {
        let full = "         0          0 4294967295\n";
        assert_eq!(IdMap::from_maps(full, full), IdMap::Full);
        assert_eq!(IdMap::from_maps("0 1000 1\n", "0 1000 1\n"), IdMap::Single);
        let ranges = "0 1000 1\n1 100000 65536\n";
        assert_eq!(
            IdMap::from_maps(ranges, ranges),
            IdMap::Ranges {
                uids: 65537,
                gids: 65537
            }
        );
        assert_eq!(IdMap::from_maps(ranges, "0 1000 1\n"), IdMap::Single);
        assert!(IdMap::Single.needs_userxattr() && !IdMap::Full.needs_userxattr());
    }

    #[test]
    fn ranges_belong_to_names_and_numbers() {
        let file = b"ann:100000:65536\n1000:300000:10\nbob:1:1\nann:x:1\nann:7:0\n\xff\n";
        let range = |start, count| IdRange { start, count };
        assert_eq!(
            subordinate_ids(file, 1000, Some("ann")),
            [range(100_000, 65536), range(300_000, 10)]
        );
        assert_eq!(subordinate_ids(file, 1000, None), [range(300_000, 10)]);
        assert_eq!(subordinate_ids(file, 4, Some("eve")), []);
        let passwd = b"root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:/bin/sh\n";
        assert_eq!(user_name(passwd, 1000), Some("ann"));
        assert_eq!(user_name(passwd, 1001), None);
    }

    #[test]
    fn ranges_follow_the_own_id() {
        let ranges = [
            IdRange {
                start: 100_000,
                count: 65536,
            },
            IdRange {
                start: 300_000,
                count: 10,
            },
        ];
        assert_eq!(
            map_with_ranges(1000, &ranges),
            [[0, 1000, 1], [1, 100_000, 65536], [65537, 300_000, 10]]
        );
        assert_eq!(
            identity_map("0 100000 65536\n65536 5 1\n"),
            [[0, 0, 65536], [65536, 65536, 1]]
        );
    }
}
