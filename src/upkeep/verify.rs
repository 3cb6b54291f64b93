//! Whether a store is whole, and dropping what is not.
//!
//! | what                 | is compared with                                                                |
//! |----------------------|---------------------------------------------------------------------------------|
//! | `index.json`         | it can be read                                                                  |
//! | blobs                | the digest that is their name                                                   |
//! | records              | their own digest; what they say can be understood                               |
//! | tables of contents   | the layer, read anew: diffID, names, metadata, digests of files                 |
//! | unpacked states      | the tables of contents of their layers: every file, by its digest               |
//! | remembered digests   | their own digest                                                                |
//! | names                | documents and layers of the image are there, but for layers that a registry has |
//!
//! That a record names a blob that is not there is no damage: it counts as a miss.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{At as _, UpkeepError, inventory::known_stacks};
use crate::{
    cache::{StepRecord, content_digest},
    context::StatCache,
    layer::{Toc, TocItem},
    oci::{ChainId, Descriptor, DiffId, Digest, Digester},
    snapshot::Snapshots,
    store::{Found, StepFolder, Store, StoreError, read_regular},
    tree::Kind,
};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where: a path below the store, or the name of an image.
    pub place: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What was looked at and found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many things of each sort were looked at.
    pub checked: BTreeMap<&'static str, usize>,
    /// What is damaged, in the order in which it was found.
    pub damage: Vec<Damage>,
}

/// How many blobs are read at once, at most.
const READERS: usize = 4;
/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

/// Reads everything that is in a store. With `repair`, what is damaged is dropped.
pub fn verify(store: &Store, repair: bool) -> Result<Verified, UpkeepError> {
    let mut check = Check {
        store,
        repair,
        found: Verified::default(),
    };
    let has_index = check.index()?;
    let bad = check.blobs()?;
    let tocs = check.layers(&bad)?;
    let layers = check.steps()?;
    check.snapshots(&States { tocs, layers })?;
    check.stats()?;
    if has_index {
        check.names(&bad)?;
    }
    Ok(check.found)
}

struct Check<'a> {
    store: &'a Store,
    repair: bool,
    found: Verified,
}

impl Check<'_> {
    fn count(&mut self, what: &'static str, n: usize) {
        *self.found.checked.entry(what).or_default() += n;
    }

    fn damaged(&mut self, path: &Path, reason: impl Into<String>) {
        let place = path.strip_prefix(self.store.root()).unwrap_or(path);
        self.found.damage.push(Damage {
            place: place.display().to_string(),
            reason: reason.into(),
        });
    }

    /// Notes a damaged file, and drops it if that is wanted.
    fn drop_file(&mut self, path: &Path, reason: impl Into<String>) -> Result<(), UpkeepError> {
        self.damaged(path, reason);
        if self.repair {
            self.store.remove_damaged(&[path.to_owned()])?;
        }
        Ok(())
    }

    /// Whether the names can be read.
    fn index(&mut self) -> Result<bool, UpkeepError> {
        let Err(StoreError::Damaged { path, reason }) = self.store.tags() else {
            return Ok(true);
        };
        self.damaged(&path, format!("{reason}; all names are lost"));
        if self.repair {
            self.store.replace_damaged_index()?;
        }
        Ok(false)
    }

    /// Reads all blobs; those with other content than their name says.
    fn blobs(&mut self) -> Result<BTreeSet<Digest>, UpkeepError> {
        let (blobs, strays) = self.store.blobs_on_disk()?;
        self.count("blobs", blobs.len());
        for path in strays {
            self.drop_file(&path, "it is no file named by a digest")?;
        }
        let next = AtomicUsize::new(0);
        let read = || {
            let mut bad = Vec::new();
            while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                match digest_of(&blob.path) {
                    Ok(digest) if digest == blob.digest => {}
                    Ok(digest) => bad.push((blob, format!("its content has the digest {digest}"))),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => bad.push((blob, format!("it cannot be read: {error}"))),
                }
            }
            bad
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut bad = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads.min(READERS))
                .map(|_| scope.spawn(read))
                .collect();
            let mut bad = read();
            for other in others {
                let found = other.join();
                bad.extend(found.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            bad
        });
        bad.sort_by_key(|(blob, _)| blob.digest);
        for (blob, reason) in &bad {
            self.drop_file(&blob.path, reason.clone())?;
        }
        Ok(bad.iter().map(|(blob, _)| blob.digest).collect())
    }

    /// Compares records of layers with the layers; gives the good ones.
    fn layers(&mut self, bad: &BTreeSet<Digest>) -> Result<HashMap<DiffId, Toc>, UpkeepError> {
        let layers = self.store.layers_on_disk()?;
        self.count("contents", layers.len());
        let mut tocs = HashMap::new();
        for layer in layers {
            let Found::Valid(record) = &layer.found else {
                if layer.found == Found::Invalid {
                    self.drop_file(&layer.path, "it does not have the digest that it says")?;
                }
                continue;
            };
            let blob = record.descriptor.digest;
            if record.toc.is_empty() {
                continue;
            }
            let toc = match Toc::from_bytes(&record.toc) {
                Ok(toc) if toc.diff_id == layer.diff_id => toc,
                Ok(toc) => {
                    let reason = format!("it is of the layer {}", toc.diff_id);
                    self.drop_file(&layer.path, reason)?;
                    continue;
                }
                Err(error) => {
                    self.drop_file(&layer.path, error.to_string())?;
                    continue;
                }
            };
            let file = File::open(self.store.blob_path(&blob));
            if !bad.contains(&blob)
                && let Ok(file) = file
            {
                match Toc::read(file) {
                    Ok(read)
                        if read.diff_id == toc.diff_id
                            && toc.has_digests()
                            && is_same(&read, &toc) => {}
                    // What was found out just now says more.
                    Ok(read)
                        if read.diff_id == toc.diff_id
                            && !toc.has_digests()
                            && is_same(
                                &read.clone().without_digests(),
                                &toc.clone().without_digests(),
                            ) =>
                    {
                        tocs.insert(layer.diff_id, read);
                        continue;
                    }
                    Ok(_) => {
                        self.drop_file(&layer.path, "the layer has other content")?;
                        continue;
                    }
                    Err(error) => {
                        self.drop_file(&layer.path, format!("the layer cannot be read: {error}"))?;
                        continue;
                    }
                }
            }
            tocs.insert(layer.diff_id, toc);
        }
        Ok(tocs)
    }

    /// Reads all records of steps; which layer leads to which state, and on what it lies there.
    fn steps(&mut self) -> Result<HashMap<ChainId, (Option<ChainId>, DiffId)>, UpkeepError> {
        let steps = self.store.steps_on_disk()?;
        self.count("records", steps.len());
        let mut layers = HashMap::new();
        for step in steps {
            let good = match (&step.found, step.folder) {
                (Found::Absent, _) => true,
                (Found::Invalid, _) => false,
                // Explanations use them, and facts say nothing that could be compared.
                (Found::Valid(_), StepFolder::Position | StepFolder::Files | StepFolder::Fact) => {
                    true
                }
                (Found::Valid(bytes), StepFolder::Key) => {
                    let read = StepRecord::read(bytes);
                    if let Some((record, parent)) = &read {
                        let state = ChainId::after(*parent, record.diff_id);
                        layers.insert(state, (*parent, record.diff_id));
                    }
                    read.is_some()
                }
            };
            if !good {
                self.drop_file(&step.path, "it is no whole record")?;
            }
        }
        for stack in known_stacks(self.store)? {
            let mut chain = None;
            for diff_id in stack {
                let next = ChainId::after(chain, diff_id);
                layers.insert(next, (chain, diff_id));
                chain = Some(next);
            }
        }
        Ok(layers)
    }

    /// Compares unpacked states with the tables of contents of their layers, as far as these are known.
    fn snapshots(&mut self, states: &States) -> Result<(), UpkeepError> {
        for snapshots in Snapshots::of_all_styles(&self.store.snapshots_dir())? {
            for chain_id in snapshots.list()? {
                let Some(snapshot) = snapshots.get(chain_id)? else {
                    continue;
                };
                self.count("snapshots", 1);
                let path = snapshot.fs();
                let wrong = if path.is_dir() {
                    states.compare(&path, chain_id)
                } else {
                    Some("it has no files".to_owned())
                };
                let Some(reason) = wrong else { continue };
                self.damaged(path.parent().unwrap_or(&path), reason);
                drop(snapshot);
                if self.repair && !snapshots.remove(chain_id)? {
                    let last = self.found.damage.last_mut();
                    if let Some(damage) = last {
                        damage.reason.push_str("; it stays, since a step uses it");
                    }
                }
            }
        }
        Ok(())
    }

    fn stats(&mut self) -> Result<(), UpkeepError> {
        let dir = self.store.stat_dir();
        for entry in fs::read_dir(&dir).at("read", &dir)? {
            let path = entry.at("read", &dir)?.path();
            // What ends so is being written, or was when its process was killed.
            if path.extension().is_some_and(|extension| extension == "tmp") {
                continue;
            }
            self.count("stats", 1);
            match read_regular(&path) {
                Ok(bytes) if StatCache::is_whole(&bytes) => {}
                Ok(_) => self.drop_file(&path, "it does not have the digest that it says")?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    self.drop_file(&path, "it is no regular file")?;
                }
                Err(error) => return Err(error).at("read", &path),
            }
        }
        Ok(())
    }

    fn names(&mut self, bad: &BTreeSet<Digest>) -> Result<(), UpkeepError> {
        let tags = self.store.tags()?;
        self.count("names", tags.len());
        let mut broken: BTreeMap<Digest, String> = BTreeMap::new();
        for tag in &tags {
            let image = tag.descriptor.digest;
            if let Some(reason) = self.incomplete(&tag.descriptor, bad)? {
                self.found.damage.push(Damage {
                    place: tag.reference.familiar(),
                    reason: reason.clone(),
                });
                broken.insert(image, reason);
            }
        }
        if self.repair && !broken.is_empty() {
            self.store
                .remove_damaged_tags(|entry| broken.contains_key(&entry.digest))?;
        }
        Ok(())
    }

    /// What an image lacks. Parts for other platforms may be missing, and layers that were not damaged just now: they
    /// need not have been fetched.
    fn incomplete(
        &self,
        image: &Descriptor,
        bad: &BTreeSet<Digest>,
    ) -> Result<Option<String>, UpkeepError> {
        if !self.store.blob_path(&image.digest).is_file() || bad.contains(&image.digest) {
            return Ok(Some(format!("its document {} has gone", image.digest)));
        }
        for blob in self.store.reachable(image)? {
            if bad.contains(&blob.digest) {
                return Ok(Some(format!("its blob {} was damaged", blob.digest)));
            }
            if blob.media_type.is_manifest()
                && let Ok(manifest) = self.store.peek_json::<crate::oci::Manifest>(&blob)
                && !self.store.blob_path(&manifest.config.digest).is_file()
            {
                return Ok(Some(format!(
                    "its config {} has gone",
                    manifest.config.digest
                )));
            }
        }
        Ok(None)
    }
}

fn is_same(read: &Toc, known: &Toc) -> bool {
    content_digest(&read.entries) == content_digest(&known.entries)
}

fn digest_of(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut digester = Digester::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(digester.finish()),
            n => digester.update(&buffer[..n]),
        }
    }
}

/// What is known of states: the tables of contents of layers, and for each state its uppermost layer and the state below.
struct States {
    tocs: HashMap<DiffId, Toc>,
    layers: HashMap<ChainId, (Option<ChainId>, DiffId)>,
}

impl States {
    /// The uppermost layer of a state, and those below it, as far down as they are known.
    fn stack(&self, state: ChainId) -> impl Iterator<Item = &Toc> {
        let layer = |state: &ChainId| self.layers.get(state);
        std::iter::successors(layer(&state), move |(below, _)| layer(below.as_ref()?))
            .map_while(|(_, diff_id)| self.tocs.get(diff_id))
    }

    /// What of the uppermost layer of a state, unpacked in `root`, is not as its table of contents says. Owners and modes are
    /// not compared: how they are kept goes by the place.
    fn compare(&self, root: &Path, state: ChainId) -> Option<String> {
        let mut stack = self.stack(state);
        let toc = stack.next()?;
        // The last entry of a name is the one that counts.
        let mut last: BTreeMap<&PathBuf, &TocItem> = BTreeMap::new();
        for entry in &toc.entries {
            if matches!(entry.item, TocItem::Node { .. } | TocItem::Link { .. }) {
                last.insert(&entry.path, &entry.item);
            }
        }
        // What lies below the name of a link is elsewhere, and below that of a file it was removed again.
        let mut elsewhere: Option<&PathBuf> = None;
        let mut gone = BTreeMap::new();
        for (name, item) in last {
            if elsewhere.is_some_and(|above| name.starts_with(above)) {
                continue;
            }
            if !is_dir(item) {
                elsewhere = Some(name);
            }
            let path = root.join(name);
            let Ok(stat) = fs::symlink_metadata(&path) else {
                gone.insert(name, item);
                continue;
            };
            if let Some(reason) = wrong(&path, &stat, item) {
                return Some(format!("`{}` {reason}", name.display()));
            }
        }
        // A directory that the state below has in the same way was not made again.
        for entry in stack.flat_map(|toc| &toc.entries) {
            if is_dir(&entry.item) && gone.get(&entry.path) == Some(&&entry.item) {
                gone.remove(&entry.path);
            }
        }
        let (name, _) = gone.first_key_value()?;
        Some(format!("`{}` is not there", name.display()))
    }
}

fn is_dir(item: &TocItem) -> bool {
    matches!(item, TocItem::Node { metadata, .. } if metadata.kind == Kind::Dir)
}

/// In what the file at `path` is not what an entry says.
fn wrong(path: &Path, stat: &fs::Metadata, item: &TocItem) -> Option<&'static str> {
    let TocItem::Node { metadata, content } = item else {
        return None;
    };
    let kind = stat.file_type();
    let same_kind = match &metadata.kind {
        Kind::File { .. } => kind.is_file(),
        Kind::Dir => kind.is_dir(),
        Kind::Symlink { target } => fs::read_link(path).is_ok_and(|to| to == *target),
        // Where devices cannot be made, something else stands for them.
        Kind::Char { .. } | Kind::Block { .. } | Kind::Fifo | Kind::Socket => true,
    };
    if !same_kind {
        return Some("is something else");
    }
    if let (Kind::File { size }, Some(content)) = (&metadata.kind, content) {
        if stat.len() != *size {
            return Some("has another size");
        }
        match digest_of(path) {
            Ok(digest) if content.digest.is_none_or(|expected| expected == digest) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            _ => return Some("has other content"),
        }
    }
    None
}
