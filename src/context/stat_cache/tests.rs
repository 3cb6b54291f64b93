use std::time::{Duration, SystemTime};

use super::*;
use crate::{
    context::{LocalTree, Patterns},
    tree::Tree as _,
};

struct Setup {
    dir: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("context")).unwrap();
        Self { dir }
    }

    /// Writes a file that was changed so long ago.
    fn write(&self, name: &str, content: &str, ago: Duration) {
        let path = self.dir.path().join("context").join(name);
        fs::write(&path, content).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - ago).unwrap();
    }

    /// A cache whose clock runs ahead by so many seconds: the ctime of a file cannot be set back.
    fn load(&self, ahead: i64) -> std::sync::Arc<StatCache> {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        let now = Timestamp::from_seconds(i64::try_from(now.as_secs()).unwrap() + ahead);
        std::sync::Arc::new(StatCache::load(self.dir.path().join("cache/stat"), now))
    }

    fn digest(&self, cache: &std::sync::Arc<StatCache>, name: &str) -> Digest {
        let cache = Some(std::sync::Arc::clone(cache));
        LocalTree::open(self.dir.path().join("context"), Patterns::default(), cache)
            .unwrap()
            .digest(Path::new(name))
            .unwrap()
    }

    fn n_entries(cache: &StatCache) -> usize {
        let state = cache.state.lock().unwrap();
        let files = state.dirs.values().flat_map(|dir| &dir.files);
        files.filter(|file| file.is_kept).count()
    }
}

const LONG: Duration = Duration::from_mins(1);

#[test]
fn a_digest_outlives_the_process() {
    let setup = Setup::new();
    setup.write("f", "one", LONG);
    let cache = setup.load(10);
    let digest = setup.digest(&cache, "f");
    assert_eq!(digest, sha256(b"one"));
    cache.save().unwrap();

    let cache = setup.load(10);
    assert_eq!(Setup::n_entries(&cache), 1);
    let path = setup.dir.path().join("context/f");
    let stamp = Stamp::of(&rustix::fs::stat(&path).unwrap());
    assert_eq!(cache.get(Path::new("f"), &stamp), Some(digest));
}

#[test]
fn other_content_of_equal_size_and_mtime_is_noticed() {
    let setup = Setup::new();
    setup.write("f", "one", LONG);
    let path = setup.dir.path().join("context/f");
    let mtime = fs::metadata(&path).unwrap().modified().unwrap();
    let cache = setup.load(10);
    assert_eq!(setup.digest(&cache, "f"), sha256(b"one"));
    // The ctime has ticks of some milliseconds, which is why fresh files are not remembered.
    let stamp = || Stamp::of(&rustix::fs::stat(&path).unwrap());
    let old = stamp();
    while stamp() == old {
        fs::write(&path, "two").unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(mtime).unwrap();
    }
    assert_eq!(setup.digest(&cache, "f"), sha256(b"two"));
}

#[test]
fn a_file_changed_just_now_is_not_remembered() {
    let setup = Setup::new();
    setup.write("f", "one", LONG);
    let cache = setup.load(0);
    setup.digest(&cache, "f");
    assert_eq!(Setup::n_entries(&cache), 0, "its ctime is recent");
    cache.save().unwrap();
    assert!(!setup.dir.path().join("cache").try_exists().unwrap());
}

#[test]
fn a_damaged_cache_is_empty() {
    let setup = Setup::new();
    setup.write("f", "one", LONG);
    let cache = setup.load(10);
    setup.digest(&cache, "f");
    cache.save().unwrap();
    let file = setup.dir.path().join("cache/stat");
    let good = fs::read(&file).unwrap();
    for length in 0..good.len() {
        assert!(parse(&good[..length]).is_none(), "cut at {length}");
    }
    for i in 0..good.len() {
        let mut bad = good.clone();
        bad[i] ^= 1;
        assert!(parse(&bad).is_none(), "flipped at {i}");
    }
    fs::write(&file, b"nonsense").unwrap();
    assert_eq!(Setup::n_entries(&setup.load(10)), 0);
    fs::write(&file, &good).unwrap();
    assert_eq!(Setup::n_entries(&setup.load(10)), 1);
}

#[test]
fn entries_nobody_asks_for_are_dropped_in_time() {
    let setup = Setup::new();
    setup.write("old", "x", LONG);
    let cache = setup.load(10);
    setup.digest(&cache, "old");
    cache.save().unwrap();
    for i in 0..MAX_IDLE_SAVES {
        let cache = setup.load(10);
        assert_eq!(Setup::n_entries(&cache), 1 + usize::from(i > 0), "save {i}");
        setup.write("f", &format!("{i}"), LONG);
        setup.digest(&cache, "f");
        cache.save().unwrap();
    }
    let cache = setup.load(10);
    assert_eq!(Setup::n_entries(&cache), 1);
}
