//! What is kept, by whom and for how long: leftovers of killed processes, makers at the same time, another boot.

use super::*;

/// A process that another test is starting has this one's locks until it is executed.
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let mut tries = 0..1000;
    while !is_so() {
        assert!(tries.next().is_some(), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn leftovers_are_swept_and_what_is_used_is_not() {
    if !is_root() {
        return;
    }
    let (at, snapshots, blobs) = fixture(REAL);
    let tree = blobs.tree([base()]);
    let stack = snapshots.stack(&tree).unwrap();
    let id = stack[0].chain_id;
    assert!(!snapshots.remove(id).unwrap(), "it is in use");
    let overlay = snapshots.prepare(stack).unwrap();
    let killed = at.path().join("trusted/tmp/1-0");
    std::fs::create_dir_all(killed.join("upper")).unwrap();
    std::fs::write(killed.join("lock"), "").unwrap();
    assert_eq!(snapshots.sweep().unwrap(), 1);
    std::fs::create_dir_all(killed.join("upper")).unwrap();
    std::fs::write(killed.join("lock"), "").unwrap();
    Snapshots::open(at.path(), REAL).unwrap();
    assert!(!killed.try_exists().unwrap());
    assert!(overlay.upper().try_exists().unwrap());
    assert!(!snapshots.remove(id).unwrap(), "a step runs on it");
    drop(overlay);
    eventually("nothing uses it any longer", || {
        snapshots.remove(id).unwrap()
    });
    assert_eq!(snapshots.list().unwrap(), []);
    assert!(snapshots.remove(id).unwrap(), "gone is gone");
}

#[test]
fn two_makers_of_one_state_agree() {
    if !is_root() {
        return;
    }
    let (_dir, snapshots, blobs) = fixture(REAL);
    let tree = blobs.tree([base(), vec![file("x", "1")], vec![file("y", "2")]]);
    std::thread::scope(|scope| {
        let makers: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| snapshots.stack(&tree).unwrap().len()))
            .collect();
        for maker in makers {
            assert_eq!(maker.join().unwrap(), 3);
        }
    });
    assert_eq!(snapshots.list().unwrap().len(), 3);
}

#[test]
fn snapshots_of_an_earlier_boot_are_kept_when_they_were_settled() {
    if !is_root() {
        return;
    }
    let (at, snapshots, blobs) = fixture(REAL);
    let tree = blobs.tree([base()]);
    let id = snapshots.stack(&tree).unwrap()[0].chain_id;
    let path = at.path().join("trusted").join(id.0.hex());
    assert!(snapshots.get(id).unwrap().is_some());
    let earlier = || std::fs::write(path.join("lock"), "another boot").unwrap();
    let used = snapshots.get(id).unwrap();
    earlier();
    assert!(
        snapshots.get(id).unwrap().is_some(),
        "whoever uses it has all of it"
    );
    drop(used);
    eventually("nobody uses it", || snapshots.get(id).unwrap().is_none());
    assert!(!path.try_exists().unwrap());
    snapshots.stack(&tree).unwrap();
    snapshots.settle(Duration::ZERO).unwrap();
    earlier();
    assert!(snapshots.get(id).unwrap().is_some());
}

#[test]
fn what_is_settled_once_is_not_waited_for_again_and_another_boot_is_not_trusted() {
    if !is_root() {
        return;
    }
    let (at, snapshots, blobs) = fixture(REAL);
    let tree = blobs.tree([base(), vec![file("x", "1")]]);
    let ids: Vec<_> = snapshots
        .stack(&tree)
        .unwrap()
        .iter()
        .map(|s| s.chain_id)
        .collect();
    let path = |n: usize| at.path().join("trusted").join(ids[n].0.hex());
    let settled = |n: usize| path(n).join(SETTLED).try_exists().unwrap();
    assert_eq!(snapshots.settle(LEAST_AGE).unwrap(), 0, "they are young");
    std::fs::write(path(0).join("lock"), "another boot").unwrap();
    assert_eq!(snapshots.settle(Duration::ZERO).unwrap(), 1);
    assert!(settled(1) && !settled(0));
    assert_eq!(snapshots.settle(Duration::ZERO).unwrap(), 0);
}

#[test]
fn what_earlier_processes_made_is_settled_beside_the_work() {
    if !is_root() {
        return;
    }
    let (at, snapshots, blobs) = fixture(REAL);
    let tree = blobs.tree([base()]);
    let id = snapshots.stack(&tree).unwrap()[0].chain_id;
    let settled = at.path().join("trusted").join(id.0.hex()).join(SETTLED);
    let again = Snapshots::open(at.path(), REAL).unwrap();
    again.settle_aside(Duration::ZERO);
    let begun = std::time::Instant::now();
    while !settled.try_exists().unwrap() {
        assert!(
            begun.elapsed() < Duration::from_mins(1),
            "it is never settled"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
