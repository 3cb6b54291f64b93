use std::time::{Duration, SystemTime};

use super::{item::Means, *};

const NOW: u64 = 1_000_000;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// An item of 10 bytes that was used so many seconds ago.
fn item(id: &str, age: u64) -> Item {
    Item {
        id: id.to_owned(),
        kind: Kind::Step,
        description: String::new(),
        last_used: at(NOW - age),
        shared: false,
        in_use: false,
        parts: vec![Part {
            kind: PartKind::Blobs,
            path: id.into(),
            size: 10,
            pinned: false,
        }],
        depth: 0,
        means: Means::Files,
    }
}

fn chosen(policy: &Policy, items: Vec<Item>, free: u64) -> String {
    let inventory = Inventory {
        items,
        horizon: at(NOW),
    };
    let chosen = policy.choose(&inventory, Free(free), at(NOW));
    let ids: Vec<&str> = chosen.iter().map(|item| item.id.as_str()).collect();
    ids.join(" ")
}

fn items() -> Vec<Item> {
    let mut shared = item("shared", 500);
    shared.shared = true;
    let mut busy = item("busy", 600);
    busy.in_use = true;
    let mut mount = item("mount", 300);
    mount.kind = Kind::Mount;
    vec![item("young", 10), item("old", 400), shared, busy, mount]
}

#[test]
fn without_limits_all_that_nobody_needs_goes_oldest_first() {
    let policy = Policy::default();
    assert_eq!(chosen(&policy, items(), 0), "old mount young");
    let all = Policy {
        all: true,
        ..policy
    };
    assert_eq!(chosen(&all, items(), 0), "shared old mount young");
}

#[test]
fn age_and_kind_narrow_the_choice() {
    let old = Policy {
        older_than: Some(Duration::from_mins(5)),
        ..Policy::default()
    };
    assert_eq!(chosen(&old, items(), 0), "old mount");
    let mounts = Policy {
        kinds: Some(vec![Kind::Mount]),
        ..Policy::default()
    };
    assert_eq!(chosen(&mounts, items(), 0), "mount");
}

#[test]
fn limits_keep_what_was_used_last() {
    let limit = |reserved, max_used, min_free, free| {
        let policy = Policy {
            reserved,
            max_used,
            min_free,
            ..Policy::default()
        };
        chosen(&policy, items(), free)
    };
    // There are 50 bytes.
    assert_eq!(limit(None, Some(50), None, 0), "");
    assert_eq!(limit(None, Some(45), None, 0), "old");
    assert_eq!(limit(None, Some(30), None, 0), "old mount");
    assert_eq!(limit(None, Some(0), None, 0), "old mount young");
    assert_eq!(limit(Some(40), None, None, 0), "old");
    assert_eq!(limit(Some(40), Some(0), None, 0), "old");
    assert_eq!(limit(None, None, Some(100), 100), "");
    assert_eq!(limit(None, None, Some(100), 85), "old mount");
    assert_eq!(limit(None, Some(45), Some(100), 85), "old mount");
    assert_eq!(limit(Some(40), None, Some(100), 0), "old");
}

#[test]
fn what_is_built_on_others_goes_before_them() {
    let mut base = item("a-base", 10);
    base.depth = 1;
    let mut top = item("b-top", 10);
    top.depth = 2;
    let policy = Policy {
        max_used: Some(10),
        ..Policy::default()
    };
    assert_eq!(chosen(&policy, vec![base, top], 0), "b-top");
}

#[test]
fn what_others_remove_meanwhile_is_neither_damage_nor_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let kept = dir.path().join("kept");
    std::fs::create_dir(&kept).unwrap();
    let names: Vec<String> = (0..200)
        .map(|n| {
            let text = format!("{{\"n\":{n}}}");
            let name = crate::oci::sha256(text.as_bytes()).hex();
            std::fs::write(kept.join(&name), text).unwrap();
            name
        })
        .collect();
    let blobs = store.root().join("blobs/sha256");
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                for name in &names {
                    std::fs::hard_link(kept.join(name), blobs.join(name)).unwrap();
                }
                for name in &names {
                    std::fs::remove_file(blobs.join(name)).unwrap();
                }
            }
        });
        let outcomes: Vec<_> = (0..50).map(|_| verify(&store, false)).collect();
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        for outcome in outcomes {
            assert_eq!(outcome.unwrap().damage, []);
        }
    });
}
