//! What a store holds, in items that go as a whole.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{At as _, UpkeepError};
use crate::{
    cache::{StepRecord, key_at_place},
    oci::{ChainId, ConfigFile, Descriptor, DiffId, Digest, Index, Manifest},
    snapshot::{Snapshots, disk_usage},
    store::{CacheMountOnDisk, Found, StepFolder, Store},
};

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A layer with the records of the steps that made it.
    Step,
    /// A blob that no step made: of a base image, or of an image that lost its name.
    Blob,
    /// An unpacked state.
    Snapshot,
    /// An instance of a cache mount.
    Mount,
    /// Remembered digests of a context's files.
    Stat,
    /// What a step was at a place in a Dockerfile, for explanations.
    Position,
    /// What a killed process left.
    Temporary,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Step,
        Self::Blob,
        Self::Snapshot,
        Self::Mount,
        Self::Stat,
        Self::Position,
        Self::Temporary,
    ];

    /// Its name on command lines and in lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Blob => "blob",
            Self::Snapshot => "snapshot",
            Self::Mount => "mount",
            Self::Stat => "stat",
            Self::Position => "position",
            Self::Temporary => "temporary",
        }
    }
}

/// What a part of an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartKind {
    /// Manifests, configs, layers.
    Blobs,
    /// Tables of contents of layers.
    Contents,
    /// Results of steps, and what they were.
    Records,
    /// Unpacked states.
    Snapshots,
    /// Cache mounts.
    Mounts,
    /// Remembered digests of files.
    Stats,
    /// What killed processes left.
    Temporary,
}

impl PartKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Blobs,
        Self::Contents,
        Self::Records,
        Self::Snapshots,
        Self::Mounts,
        Self::Stats,
        Self::Temporary,
    ];

    /// Its name in lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blobs => "blobs",
            Self::Contents => "contents",
            Self::Records => "records",
            Self::Snapshots => "snapshots",
            Self::Mounts => "mounts",
            Self::Stats => "stats",
            Self::Temporary => "temporary",
        }
    }
}

/// A file or directory of an item.
#[derive(Debug, Clone)]
pub struct Part {
    /// What it is.
    pub kind: PartKind,
    /// Where.
    pub path: PathBuf,
    /// What it takes up, in bytes.
    pub size: u64,
    /// Whether a named image needs it: then it stays when the item goes.
    pub pinned: bool,
}

/// How an item is removed.
#[derive(Debug, Clone)]
pub(super) enum Means {
    Files,
    Snapshot(Snapshots, ChainId),
    Mount(CacheMountOnDisk),
}

/// Something that takes up space.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its name, unique in a store: a digest, or a digest and a number.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// The same for people: the instruction, the mount's id.
    pub description: String,
    /// When it, or something that was built on it, was used last.
    pub last_used: SystemTime,
    /// Whether an image with a name has it, or was made with it.
    pub shared: bool,
    /// Whether a running process may count on it.
    pub in_use: bool,
    /// Its files.
    pub parts: Vec<Part>,
    /// How many steps it is away from its base: what is built on others goes first.
    pub(super) depth: usize,
    pub(super) means: Means,
}

impl Item {
    /// What goes with it, in bytes.
    pub fn size(&self) -> u64 {
        let parts = self.parts.iter().filter(|part| !part.pinned);
        parts.map(|part| part.size).sum()
    }
}

/// Everything that takes up space in a store, at one moment.
#[derive(Debug)]
pub struct Inventory {
    /// All items; those with blobs and records by id, then the others.
    pub items: Vec<Item>,
    /// See [`Store::horizon`].
    pub(super) horizon: SystemTime,
}

/// What named images need.
#[derive(Default)]
struct Roots {
    blobs: BTreeSet<Digest>,
    layers: BTreeSet<DiffId>,
    chains: BTreeSet<ChainId>,
}

impl Inventory {
    /// Looks at everything. This is not quick: states and cache mounts that were not measured before are walked.
    pub fn take(store: &Store) -> Result<Self, UpkeepError> {
        // In this order: whoever gives a name afterwards is running now, or uses the blobs after the horizon.
        let horizon = store.horizon()?;
        let roots = Roots::of(store)?;
        let mut items = layers_and_blobs(store, &roots)?;
        for item in &mut items {
            item.in_use = item.last_used >= horizon;
        }
        for snapshots in Snapshots::of_all_styles(&store.snapshots_dir())? {
            for snapshot in snapshots.on_disk()? {
                items.push(Item {
                    id: snapshot.chain_id.0.to_string(),
                    kind: Kind::Snapshot,
                    description: "unpacked state".to_owned(),
                    last_used: snapshot.last_used,
                    shared: roots.chains.contains(&snapshot.chain_id),
                    in_use: snapshot.in_use,
                    parts: vec![part(PartKind::Snapshots, &snapshot.path, snapshot.size)],
                    depth: 0,
                    means: Means::Snapshot(snapshots.clone(), snapshot.chain_id),
                });
            }
        }
        for mount in store.cache_mounts()? {
            let size = disk_usage(&mount.path).at("measure", &mount.path)?;
            let about = mount.id.as_ref().map_or("?", |id| id.id.as_str());
            items.push(Item {
                id: format!("sha256:{}-{}", mount.key, mount.number),
                kind: Kind::Mount,
                description: format!("cache mount {about}"),
                last_used: mount.last_used,
                shared: false,
                in_use: mount.in_use,
                parts: vec![part(PartKind::Mounts, &mount.path, size)],
                depth: 0,
                means: Means::Mount(mount),
            });
        }
        items.extend(stat_caches(store, horizon)?);
        Ok(Self { items, horizon })
    }

    /// What the cache takes up, in bytes: everything but the blobs of named images.
    pub fn size(&self) -> u64 {
        self.items.iter().map(Item::size).sum()
    }
}

impl Roots {
    fn of(store: &Store) -> Result<Self, UpkeepError> {
        let mut roots = Self::default();
        let mut named: Vec<Descriptor> = store
            .tags()?
            .into_iter()
            .map(|tag| tag.descriptor)
            .collect();
        for list in store.lists()? {
            if let Ok(list) = serde_json::from_slice(&list) {
                descriptors(&list, &mut named);
            }
        }
        let mut seen = BTreeSet::new();
        for image in named {
            if !seen.insert(image.digest) {
                continue;
            }
            for blob in store.reachable(&image)? {
                if roots.blobs.insert(blob.digest) && blob.media_type.is_manifest() {
                    roots.add_layers(store, &blob);
                }
            }
        }
        Ok(roots)
    }

    /// What cannot be read has no layers that anybody could use.
    fn add_layers(&mut self, store: &Store, manifest: &Descriptor) {
        let Ok(manifest) = store.peek_json::<Manifest>(manifest) else {
            return;
        };
        let Ok(config) = store.peek_json::<ConfigFile>(&manifest.config) else {
            return;
        };
        let mut chain = None;
        for diff_id in config.rootfs.diff_ids {
            let next = ChainId::after(chain, diff_id);
            self.layers.insert(diff_id);
            self.chains.insert(next);
            chain = Some(next);
        }
    }
}

/// All descriptors in a document.
fn descriptors(value: &serde_json::Value, found: &mut Vec<Descriptor>) {
    match value {
        serde_json::Value::Object(fields) => {
            if fields.contains_key("digest")
                && let Ok(descriptor) = serde_json::from_value(value.clone())
            {
                found.push(descriptor);
            }
            for value in fields.values() {
                descriptors(value, found);
            }
        }
        serde_json::Value::Array(values) => {
            for value in values {
                descriptors(value, found);
            }
        }
        _ => {}
    }
}

fn part(kind: PartKind, path: &Path, size: u64) -> Part {
    Part {
        kind,
        path: path.to_owned(),
        size,
        pinned: false,
    }
}

/// What is known of the steps whose layer is one blob.
#[derive(Default)]
struct Group {
    parts: Vec<Part>,
    last_used: Option<SystemTime>,
    /// What the steps were called, each once.
    labels: BTreeSet<String>,
    /// State before, layer: of each record.
    moves: Vec<(Option<ChainId>, DiffId)>,
    is_layer: bool,
    is_step: bool,
}

impl Group {
    fn description(&self) -> String {
        if !self.labels.is_empty() {
            let labels: Vec<&str> = self.labels.iter().map(String::as_str).collect();
            return labels.join("; ");
        }
        let text = match (self.is_step, self.is_layer) {
            (true, _) => "step",
            (_, true) => "layer of an image",
            _ => "document or layer of an image",
        };
        text.to_owned()
    }

    fn add(&mut self, kind: PartKind, path: &Path, size: u64, used: SystemTime, pinned: bool) {
        self.parts.push(Part {
            pinned,
            ..part(kind, path, size)
        });
        self.last_used = self.last_used.max(Some(used));
    }
}

fn layers_and_blobs(store: &Store, roots: &Roots) -> Result<Vec<Item>, UpkeepError> {
    let mut groups: BTreeMap<Digest, Group> = BTreeMap::new();
    let mut items = Vec::new();
    // Records first, so that they go before what they name.
    let mut keys: HashMap<Digest, Digest> = HashMap::new();
    let steps = store.steps_on_disk()?;
    for step in steps.iter().filter(|step| step.folder == StepFolder::Key) {
        let read = match &step.found {
            Found::Valid(bytes) => StepRecord::read(bytes),
            Found::Absent | Found::Invalid => None,
        };
        let Some((record, parent)) = read else {
            items.push(stray(
                &step.path,
                step.size,
                step.last_used,
                "unreadable record",
            ));
            continue;
        };
        let blob = record.descriptor.digest;
        keys.insert(step.key, blob);
        let group = groups.entry(blob).or_default();
        group.add(
            PartKind::Records,
            &step.path,
            step.size,
            step.last_used,
            false,
        );
        group.is_step = true;
        group.moves.push((parent, record.diff_id));
        if !record.label.is_empty() {
            group.labels.insert(record.label);
        }
    }
    for step in steps.iter().filter(|step| step.folder != StepFolder::Key) {
        let key = match &step.found {
            Found::Valid(bytes) => key_at_place(bytes),
            Found::Absent | Found::Invalid => None,
        };
        match key.and_then(|key| groups.get_mut(keys.get(&key)?)) {
            Some(group) => {
                group.add(
                    PartKind::Records,
                    &step.path,
                    step.size,
                    step.last_used,
                    false,
                );
            }
            None => items.push(Item {
                kind: Kind::Position,
                ..stray(&step.path, step.size, step.last_used, "place of a step")
            }),
        }
    }
    for layer in store.layers_on_disk()? {
        let Found::Valid(record) = &layer.found else {
            items.push(stray(
                &layer.path,
                layer.size,
                layer.last_used,
                "unreadable record",
            ));
            continue;
        };
        let group = groups.entry(record.descriptor.digest).or_default();
        group.add(
            PartKind::Contents,
            &layer.path,
            layer.size,
            layer.last_used,
            false,
        );
        group.is_layer = true;
    }
    let (blobs, strays) = store.blobs_on_disk()?;
    for blob in blobs {
        let pinned = roots.blobs.contains(&blob.digest);
        let group = groups.entry(blob.digest).or_default();
        group.add(
            PartKind::Blobs,
            &blob.path,
            blob.size,
            blob.last_used,
            pinned,
        );
    }
    for path in strays {
        let metadata = fs::symlink_metadata(&path).at("read", &path)?;
        let time = metadata.modified().at("read", &path)?;
        items.push(stray(&path, metadata.len(), time, "foreign file"));
    }
    age_with_children(&mut groups);
    let depths = depths(&groups);
    items.extend(groups.into_iter().map(|(digest, group)| {
        Item {
            id: digest.to_string(),
            kind: if group.is_step {
                Kind::Step
            } else {
                Kind::Blob
            },
            description: group.description(),
            last_used: group.last_used.unwrap_or(SystemTime::UNIX_EPOCH),
            shared: roots.blobs.contains(&digest)
                || group
                    .moves
                    .iter()
                    .any(|(_, diff_id)| roots.layers.contains(diff_id)),
            in_use: false,
            parts: group.parts,
            depth: depths.get(&digest).copied().unwrap_or(0),
            means: Means::Files,
        }
    }));
    items.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(items)
}

fn stray(path: &Path, size: u64, last_used: SystemTime, description: &str) -> Item {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Item {
        id: name.into_owned(),
        kind: Kind::Temporary,
        description: description.to_owned(),
        last_used,
        shared: false,
        in_use: false,
        parts: vec![part(PartKind::Records, path, size)],
        depth: 0,
        means: Means::Files,
    }
}

/// A step is as young as what was built on it: without it, that is of no use.
fn age_with_children(groups: &mut BTreeMap<Digest, Group>) {
    let mut youngest: HashMap<ChainId, SystemTime> = HashMap::new();
    // As often as a chain is long at most; each round carries ages one step down.
    loop {
        let mut changed = false;
        for group in groups.values_mut() {
            let states = group.moves.iter();
            let below = states
                .filter_map(|(parent, diff)| youngest.get(&ChainId::after(*parent, *diff)))
                .max()
                .copied();
            if below > group.last_used {
                group.last_used = below;
            }
            let Some(used) = group.last_used else {
                continue;
            };
            for parent in group.moves.iter().filter_map(|(parent, _)| *parent) {
                let age = youngest.entry(parent).or_insert(SystemTime::UNIX_EPOCH);
                if *age < used {
                    *age = used;
                    changed = true;
                }
            }
        }
        if !changed {
            return;
        }
    }
}

/// How many steps of the cache lead to each layer, at most.
fn depths(groups: &BTreeMap<Digest, Group>) -> HashMap<Digest, usize> {
    let mut moves: HashMap<ChainId, (Option<ChainId>, Digest)> = HashMap::new();
    for (digest, group) in groups {
        for (parent, diff_id) in &group.moves {
            moves.insert(ChainId::after(*parent, *diff_id), (*parent, *digest));
        }
    }
    let mut depths = HashMap::new();
    for (state, (_, digest)) in &moves {
        let mut depth = 0;
        let mut at = Some(*state);
        // A chainID is a hash of those below it, so this ends.
        while let Some((parent, _)) = at.and_then(|state| moves.get(&state)) {
            depth += 1;
            at = *parent;
        }
        let known = depths.entry(*digest).or_insert(0);
        *known = depth.max(*known);
    }
    depths
}

fn stat_caches(store: &Store, horizon: SystemTime) -> Result<Vec<Item>, UpkeepError> {
    let dir = store.stat_dir();
    let mut items = Vec::new();
    for entry in fs::read_dir(&dir).at("read", &dir)? {
        let path = entry.at("read", &dir)?.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            // Somebody replaced or removed it just now.
            continue;
        };
        let last_used = metadata.modified().at("read", &path)?;
        let left_over = path.extension().is_some_and(|extension| extension == "tmp");
        let (kind, part_kind, text) = if left_over {
            (
                Kind::Temporary,
                PartKind::Temporary,
                "left by a killed process",
            )
        } else {
            (Kind::Stat, PartKind::Stats, "digests of a context's files")
        };
        items.push(Item {
            kind,
            in_use: last_used >= horizon,
            parts: vec![part(part_kind, &path, metadata.len())],
            ..stray(&path, 0, last_used, text)
        });
    }
    items.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(items)
}

/// The layers of every config in the store, base first.
pub(super) fn known_stacks(store: &Store) -> Result<Vec<Vec<DiffId>>, UpkeepError> {
    let (blobs, _) = store.blobs_on_disk()?;
    let mut stacks = Vec::new();
    for blob in blobs {
        if blob.size > MAX_CONFIG_BYTES {
            continue;
        }
        let bytes = fs::read(&blob.path).at("read", &blob.path)?;
        if bytes.first() == Some(&b'{')
            && serde_json::from_slice::<Index>(&bytes).is_err()
            && let Ok(config) = serde_json::from_slice::<ConfigFile>(&bytes)
        {
            stacks.push(config.rootfs.diff_ids);
        }
    }
    Ok(stacks)
}

/// Larger blobs are not looked at in search of configs.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
