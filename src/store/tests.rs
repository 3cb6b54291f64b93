use std::{
    cell::Cell,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
};

use super::*;
use crate::{
    oci::{Descriptor, DiffId, Digest, Manifest, MediaType, sha256, to_json},
    reference::Reference,
};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(&dir.path().join("root")).expect("a new store opens");
    (dir, store)
}

fn locked(store: &Store, key: &Digest) -> StepLock {
    let lock = store.wait_for_step(key, &mut || true).unwrap();
    lock.expect("it was waited for")
}

fn reference(text: &str) -> Reference {
    Reference::parse(text).expect("the reference is valid")
}

/// An image without layers.
fn image(store: &Store, note: &str) -> Descriptor {
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","author":"{note}","rootfs":{{"type":"layers","diff_ids":[]}}}}"#
    );
    store.put_bytes(config.as_bytes()).unwrap();
    let manifest = Manifest::new(
        Descriptor::of(MediaType::OCI_CONFIG, config.as_bytes()),
        Vec::new(),
    );
    let bytes = to_json(&manifest);
    store.put_bytes(&bytes).unwrap();
    Descriptor::of(MediaType::OCI_MANIFEST, &bytes)
}

#[test]
fn a_new_store_is_an_image_layout_and_private() {
    let (_dir, store) = store();
    let root = store.root();
    assert_eq!(
        fs::read_to_string(root.join("oci-layout")).unwrap(),
        r#"{"imageLayoutVersion":"1.0.0"}"#
    );
    assert_eq!(fs::metadata(root).unwrap().mode() & 0o777, 0o700);
    drop(Store::open(root).expect("it opens again while it is open"));
}

#[test]
fn newer_and_foreign_directories_are_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("letter.txt"), "dear").unwrap();
    assert!(matches!(
        Store::open(dir.path()),
        Err(StoreError::Foreign { entry, .. }) if entry == "letter.txt"
    ));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    let (_dir, store) = store();
    let root = store.root().to_owned();
    drop(store);
    fs::write(root.join(FORMAT_FILE), r#"{"format":2,"news":true}"#).unwrap();
    assert!(matches!(
        Store::open(&root),
        Err(StoreError::TooNew {
            found: 2,
            supported: 1,
            ..
        })
    ));
    fs::write(root.join(FORMAT_FILE), "").unwrap();
    assert!(matches!(
        Store::open(&root),
        Err(StoreError::Damaged { .. })
    ));
}

#[test]
fn blobs_are_stored_under_their_digest_or_not_at_all() {
    let (_dir, store) = store();
    let mut writer = store.blob_writer().unwrap();
    writer.write_all(b"hello").unwrap();
    assert_eq!(writer.commit(None).unwrap(), (sha256(b"hello"), 5));
    assert_eq!(store.blob_size(&sha256(b"hello")).unwrap(), Some(5));

    let mut writer = store.blob_writer().unwrap();
    writer.write_all(b"lies").unwrap();
    assert!(matches!(
        writer.commit(Some(&sha256(b"truth"))),
        Err(StoreError::Corrupt { .. })
    ));
    let descriptor = Descriptor::new(MediaType::OCI_LAYER, sha256(b"long"), 3);
    assert!(matches!(
        store.put_blob(&descriptor, &mut &b"long and longer"[..]),
        Err(StoreError::Size {
            expected: 3,
            actual: 4,
            ..
        })
    ));
    assert!(!store.has_blob(&sha256(b"long")).unwrap());
    assert!(!store.has_blob(&sha256(b"lies")).unwrap());
    assert!(matches!(
        store.open_blob(&sha256(b"lies")),
        Err(StoreError::Missing { .. })
    ));
    // Nothing remains of what was refused.
    let tmp = fs::read_dir(store.root().join("tmp"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0);
}

#[test]
fn documents_are_verified_when_read() {
    let (_dir, store) = store();
    let descriptor = Descriptor::of(MediaType::OCI_CONFIG, b"{}");
    store.put_bytes(b"{}").unwrap();
    assert_eq!(store.read_blob(&descriptor).unwrap(), b"{}");
    fs::write(store.blob_path(&descriptor.digest), "[]").unwrap();
    assert!(matches!(
        store.read_blob(&descriptor),
        Err(StoreError::Corrupt { .. })
    ));
    fs::write(store.blob_path(&descriptor.digest), "").unwrap();
    assert!(!store.has(&descriptor).unwrap());
    store.put_bytes(b"{}").unwrap();
    assert!(store.has(&descriptor).unwrap(), "a torn blob is replaced");
}

#[test]
fn tags_move_as_a_whole_and_other_entries_stay() {
    let (_dir, store) = store();
    let (one, two) = (image(&store, "one"), image(&store, "two"));
    let names = [reference("app"), reference("ghcr.io/x/app:v1")];
    store.set_tags(&names, &one).unwrap();
    assert_eq!(
        store.tag(&reference("app:latest")).unwrap(),
        Some(one.clone())
    );

    // Another program's entry without a name, and one with a name that is no reference.
    let index_path = store.root().join("index.json");
    let mut index: crate::oci::Index =
        serde_json::from_slice(&fs::read(&index_path).unwrap()).unwrap();
    index.manifests.push(two.clone());
    index.annotations.insert("k".into(), "v".into());
    fs::write(&index_path, to_json(&index)).unwrap();

    store.set_tags(&names[..1], &two).unwrap();
    assert_eq!(store.tag(&names[0]).unwrap(), Some(two.clone()));
    assert_eq!(store.tag(&names[1]).unwrap(), Some(one.clone()));
    let removed = store.remove_tags(&names[1..2]).unwrap();
    assert_eq!(
        (&removed[0].reference, &removed[0].descriptor),
        (&names[1], &one)
    );
    assert_eq!(removed.len(), 1);
    assert_eq!(store.remove_tags(&names[1..2]).unwrap(), []);
    let names: Vec<_> = store.tags().unwrap();
    assert_eq!(names.len(), 1);
    let index: serde_json::Value = serde_json::from_slice(&fs::read(&index_path).unwrap()).unwrap();
    assert_eq!(index["annotations"]["k"], "v");
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(
        index["manifests"][1]["annotations"]["org.opencontainers.image.ref.name"],
        "app:latest"
    );
}

#[test]
fn reachable_lists_each_blob_once() {
    let (_dir, store) = store();
    let image = image(&store, "x");
    let found = store.reachable(&image).unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0], image);
    assert_eq!(found[1].media_type, MediaType::OCI_CONFIG);
}

#[test]
fn layer_records_prefer_a_blob_that_is_there() {
    let (_dir, store) = store();
    let diff_id = DiffId(sha256(b"tar"));
    assert_eq!(store.layer_record(diff_id).unwrap(), None);
    let record = |blob: &[u8]| LayerRecord {
        diff_id,
        descriptor: Descriptor::of(MediaType::OCI_LAYER_GZIP, blob),
        toc: b"entries\nmore".to_vec(),
    };
    for blob in [&b"a"[..], b"b", b"c", b"d"] {
        store.put_layer(&record(blob)).unwrap();
    }
    store.put_bytes(b"c").unwrap();
    assert_eq!(store.layer_record(diff_id).unwrap(), Some(record(b"c")));
    assert_eq!(
        store.layer_record_of(diff_id, &sha256(b"a")).unwrap(),
        Some(record(b"a"))
    );
}

#[test]
fn the_first_records_of_a_kind_can_come_at_the_same_time() {
    for _ in 0..50 {
        let (_dir, store) = store();
        let start = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for n in 0..4 {
                let (store, start) = (&store, &start);
                scope.spawn(move || {
                    let key = sha256(&[n]);
                    start.wait();
                    store.put_step(StepFolder::Key, &key, b"payload").unwrap();
                });
            }
        });
    }
}

#[test]
fn damaged_records_are_invalid_and_never_an_error() {
    let (_dir, store) = store();
    let key = sha256(b"key");
    assert_eq!(store.step(StepFolder::Key, &key).unwrap(), Found::Absent);
    store.put_step(StepFolder::Key, &key, b"payload").unwrap();
    let hex = key.hex();
    let path = store.root().join("steps/key").join(&hex);
    let good = fs::read(&path).unwrap();
    assert_eq!(
        store.step(StepFolder::Key, &key).unwrap(),
        Found::Valid(b"payload".to_vec())
    );
    for length in 0..good.len() {
        fs::write(&path, &good[..length]).unwrap();
        assert_eq!(store.step(StepFolder::Key, &key).unwrap(), Found::Invalid);
    }
}

#[test]
fn a_dead_process_workspace_is_swept_and_a_live_one_is_not() {
    let (_dir, store) = store();
    let root = store.root().to_owned();
    let dead = root.join("tmp/999999-0/layer");
    fs::create_dir_all(&dead).unwrap();
    fs::write(dead.join("f"), "x").unwrap();
    fs::set_permissions(&dead, fs::Permissions::from_mode(0o500)).unwrap();
    fs::write(root.join("locks/step-dead"), "").unwrap();
    let held = locked(&store, &sha256(b"held"));
    let live = store.temp_dir().unwrap();
    drop(Store::open(&root).unwrap());
    assert!(!root.join("tmp/999999-0").try_exists().unwrap());
    assert!(live.path().try_exists().unwrap());
    assert!(!root.join("locks/step-dead").try_exists().unwrap());
    assert!(store.try_lock_step(&sha256(b"held")).unwrap().is_none());
    drop((live, held));
    drop(store);
    assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0);
    let locks: Vec<_> = fs::read_dir(root.join("locks"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("tmp-"))
        .collect();
    assert_eq!(locks, [""; 0]);
}

#[test]
fn step_locks_exclude_and_leave_nothing() {
    let (_dir, store) = store();
    let key = sha256(b"step");
    let lock = locked(&store, &key);
    assert!(store.try_lock_step(&key).unwrap().is_none());
    let mut patience = 3;
    let mut wait = || {
        patience -= 1;
        patience > 0
    };
    assert!(store.wait_for_step(&key, &mut wait).unwrap().is_none());
    assert!(store.try_lock_step(&sha256(b"other")).unwrap().is_some());
    drop(lock);
    assert!(store.try_lock_step(&key).unwrap().is_some());
    assert!(fs::read_dir(store.root().join("locks")).unwrap().all(|e| {
        !e.unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with("step-")
    }));
}

#[test]
fn many_threads_take_turns_with_a_step() {
    let (_dir, store) = store();
    let key = sha256(b"step");
    let counter = store.root().join("tmp/counter");
    fs::write(&counter, "0").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let _lock = locked(&store, &key);
                    let n: u32 = fs::read_to_string(&counter).unwrap().parse().unwrap();
                    fs::write(&counter, (n + 1).to_string()).unwrap();
                }
            });
        }
    });
    assert_eq!(fs::read_to_string(&counter).unwrap(), "200");
}

fn mount_id() -> CacheMountId {
    CacheMountId {
        id: "/root/.cache".into(),
        seed: None,
        mode: 0o755,
        uid: 0,
        gid: 0,
    }
}

fn mount(store: &Store, sharing: CacheSharing) -> Option<CacheMount> {
    store
        .try_cache_mount::<StoreError>(&mount_id(), sharing, &mut |_| Ok(()))
        .unwrap()
}

#[test]
fn cache_mounts_are_shared_private_or_locked() {
    let (_dir, store) = store();
    let first = mount(&store, CacheSharing::Shared).unwrap();
    fs::write(first.path().join("kept"), "x").unwrap();
    let second = mount(&store, CacheSharing::Shared).unwrap();
    assert_eq!(first.path(), second.path());
    let private = mount(&store, CacheSharing::Private).unwrap();
    assert_ne!(first.path(), private.path());
    assert!(mount(&store, CacheSharing::Locked).is_none());
    let third = mount(&store, CacheSharing::Private).unwrap();
    assert_ne!(third.path(), private.path());
    let path = first.path().to_owned();
    drop((first, second));
    let locked = mount(&store, CacheSharing::Locked).unwrap();
    assert_eq!(locked.path(), path);
    assert!(path.join("kept").try_exists().unwrap());
}

#[test]
fn a_cache_mount_is_filled_once_and_never_half() {
    let (_dir, store) = store();
    let fail: Result<_, StoreError> =
        store.try_cache_mount(&mount_id(), CacheSharing::Shared, &mut |path| {
            fs::write(path.join("half"), "").unwrap();
            Err(StoreError::Foreign {
                root: path.into(),
                entry: String::new(),
            })
        });
    assert!(fail.is_err());
    let filled = Cell::new(0);
    let mut fill = |path: &Path| {
        filled.set(filled.get() + 1);
        assert_eq!(fs::read_dir(path).unwrap().count(), 0);
        fs::write(path.join("seed"), "").unwrap();
        Ok::<(), StoreError>(())
    };
    for _ in 0..2 {
        let mount = store
            .cache_mount(&mount_id(), CacheSharing::Shared, &mut fill, &mut || false)
            .unwrap()
            .unwrap();
        assert!(mount.path().join("seed").try_exists().unwrap());
    }
    assert_eq!(filled.get(), 1);
}

#[test]
fn a_cache_mount_is_replaced_only_by_a_newer_one_and_not_in_use() {
    let (_dir, store) = store();
    let origin = crate::oci::sha256(b"layer");
    let at = |seconds| std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    let replace = |text: &str, used| {
        let temp = store.temp_dir().unwrap();
        let new = temp.path().join("fs");
        fs::create_dir(&new).unwrap();
        fs::write(new.join("file"), text).unwrap();
        store
            .replace_cache_mount(&mount_id(), &new, at(used), &origin)
            .unwrap()
    };
    let content = || {
        let instances = store.cache_mount_instances(&mount_id()).unwrap();
        assert_eq!(instances.len(), 1);
        fs::read_to_string(instances[0].path.join("file")).unwrap()
    };
    assert_eq!(store.cache_mount_origin(&mount_id()), None);
    assert!(replace("one", 100));
    assert!(!replace("older", 99) && !replace("same", 100));
    assert_eq!(content(), "one");
    assert!(replace("two", 101));
    assert_eq!(content(), "two");
    assert_eq!(store.cache_mount_origin(&mount_id()), Some(origin));
    let read = |mount| store.read_cache_mount(mount, |dir| dir.join("file").is_file());
    let instance = store.cache_mount_instances(&mount_id()).unwrap().remove(0);
    assert_eq!(instance.last_used, at(101), "reading is no use");
    assert_eq!(read(&instance).unwrap(), Some(true));
    let in_use = mount(&store, CacheSharing::Shared).expect("free");
    assert!(!replace("in use", u64::from(u32::MAX)));
    assert_eq!(read(&instance).unwrap(), None);
    drop(in_use);
    assert!(replace("later", u64::from(u32::MAX)));
    assert_eq!(content(), "later");
}

#[test]
fn waiting_for_a_locked_mount_can_be_given_up() {
    let (_dir, store) = store();
    let _held = mount(&store, CacheSharing::Locked).unwrap();
    let mut asked = 0;
    let given_up = store
        .cache_mount::<StoreError>(
            &mount_id(),
            CacheSharing::Locked,
            &mut |_| Ok(()),
            &mut || {
                asked += 1;
                asked < 3
            },
        )
        .unwrap();
    assert!(given_up.is_none());
    assert_eq!(asked, 3);
}

#[test]
fn what_steps_make_has_no_group_that_a_volume_hands_down() {
    const SET_GROUP: u32 = 0o2000;
    let volume = tempfile::tempdir().unwrap();
    let handing_down = fs::Permissions::from_mode(SET_GROUP | 0o770);
    fs::set_permissions(volume.path(), handing_down).unwrap();
    let store = Store::open(&volume.path().join("store")).unwrap();
    for dir in ["snapshots", "mounts", "tmp"] {
        let mode = fs::metadata(store.root().join(dir)).unwrap().permissions();
        assert_eq!(mode.mode() & SET_GROUP, 0, "{dir}");
    }
}
