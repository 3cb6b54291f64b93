//! What a store holds.

use std::{collections::BTreeSet, fs, io, time::SystemTime};

use super::{
    At as _, UpkeepError,
    groups::layers_and_blobs,
    item::{Item, Kind, Means, Part, PartKind},
};
use crate::{
    oci::{ChainId, ConfigFile, Descriptor, DiffId, Digest, Index, Manifest},
    snapshot::{Snapshots, disk_usage},
    store::Store,
};

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
pub(super) struct Roots {
    pub(super) blobs: BTreeSet<Digest>,
    pub(super) layers: BTreeSet<DiffId>,
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
                    parts: vec![Part::new(
                        PartKind::Snapshots,
                        &snapshot.path,
                        snapshot.size,
                    )],
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
                parts: vec![Part::new(PartKind::Mounts, &mount.path, size)],
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
        let (kind, text) = if left_over {
            (Kind::Temporary, "left by a killed process")
        } else {
            (Kind::Stat, "digests of a context's files")
        };
        items.push(Item {
            in_use: last_used >= horizon,
            ..Item::of_file(kind, &path, metadata.len(), last_used, text)
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
        let bytes = match fs::read(&blob.path) {
            // Somebody removed it just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.at("read", &blob.path)?,
        };
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
