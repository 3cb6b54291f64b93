//! Layers with all the records that are about them: they go together.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    path::Path,
    time::SystemTime,
};

use super::{
    At as _, UpkeepError,
    inventory::Roots,
    item::{Item, Kind, Means, Part, PartKind},
};
use crate::{
    cache::{AtPlace, StepRecord},
    oci::{ChainId, DiffId, Digest},
    store::{Found, StepFolder, StepOnDisk, Store},
};

/// What records are called that nobody can read.
const UNREADABLE: &str = "unreadable record";

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
            ..Part::new(kind, path, size)
        });
        self.last_used = self.last_used.max(Some(used));
    }
}

/// Layers and blobs with their records, and records that belong to none. Whether they are in use is not told.
pub(super) fn layers_and_blobs(store: &Store, roots: &Roots) -> Result<Vec<Item>, UpkeepError> {
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
            items.push(unreadable(step));
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
    look_back(&steps, &keys, &mut groups, &mut items);
    for layer in store.layers_on_disk()? {
        let Found::Valid(record) = &layer.found else {
            items.push(Item::of_file(
                Kind::Temporary,
                &layer.path,
                layer.size,
                layer.last_used,
                UNREADABLE,
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
        let metadata = match fs::symlink_metadata(&path) {
            // Somebody removed it just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.at("read", &path)?,
        };
        let time = metadata.modified().at("read", &path)?;
        let text = "foreign file";
        items.push(Item::of_file(
            Kind::Temporary,
            &path,
            metadata.len(),
            time,
            text,
        ));
    }
    let depths = depths(&groups);
    age_with_children(&mut groups, &depths);
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

/// Finds the steps that records of places and lists of files are about. What is about none is an item of its own, as facts are.
fn look_back(
    steps: &[StepOnDisk],
    keys: &HashMap<Digest, Digest>,
    groups: &mut BTreeMap<Digest, Group>,
    items: &mut Vec<Item>,
) {
    let in_folder = |folder| steps.iter().filter(move |step| step.folder == folder);
    let mut places = HashMap::new();
    let mut lists: HashMap<Digest, Digest> = HashMap::new();
    let mut pointers = HashMap::new();
    for step in in_folder(StepFolder::Position) {
        let Found::Valid(bytes) = &step.found else {
            continue;
        };
        match AtPlace::read(&step.key, bytes) {
            Some(AtPlace::Step { key, files }) => {
                if let Some(blob) = keys.get(&key) {
                    places.insert(step.key, *blob);
                    lists.extend(files.into_iter().map(|list| (list, *blob)));
                }
            }
            Some(AtPlace::Text(text)) => {
                pointers.insert(step.key, text);
            }
            None => {}
        }
    }
    for step in steps {
        let (blob, kind, text) = match step.folder {
            StepFolder::Key => continue,
            StepFolder::Fact => (None, Kind::Fact, "what is known of a state"),
            StepFolder::Files => (
                lists.get(&step.key),
                Kind::Position,
                "files that a step read",
            ),
            StepFolder::Position => {
                let text = pointers.get(&step.key).unwrap_or(&step.key);
                (places.get(text), Kind::Position, "place of a step")
            }
        };
        if !matches!(step.found, Found::Valid(_)) {
            items.push(unreadable(step));
        } else if let Some(group) = blob.and_then(|blob| groups.get_mut(blob)) {
            let (size, used) = (step.size, step.last_used);
            group.add(PartKind::Records, &step.path, size, used, false);
        } else {
            items.push(Item::of_file(
                kind,
                &step.path,
                step.size,
                step.last_used,
                text,
            ));
        }
    }
}

fn unreadable(step: &StepOnDisk) -> Item {
    Item::of_file(
        Kind::Temporary,
        &step.path,
        step.size,
        step.last_used,
        UNREADABLE,
    )
}

/// A step is as young as what was built on it: without it, that is of no use.
fn age_with_children(groups: &mut BTreeMap<Digest, Group>, depths: &HashMap<Digest, usize>) {
    let mut youngest: HashMap<ChainId, SystemTime> = HashMap::new();
    // The deepest first, so that ages go all the way down in one round; some more where a layer lies at several depths.
    let mut deepest_first: Vec<_> = groups.iter_mut().collect();
    deepest_first.sort_by_key(|(digest, _)| Reverse(depths.get(digest)));
    loop {
        let mut changed = false;
        for (_, group) in &mut deepest_first {
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
    let mut of_states: HashMap<ChainId, usize> = HashMap::new();
    let mut depths = HashMap::new();
    for (state, (_, digest)) in &moves {
        // Down to a state whose depth is known, or the base; a chainID is a hash of those below it, so this ends.
        let mut above = Vec::new();
        let mut at = Some(*state);
        while let Some(state) = at
            && !of_states.contains_key(&state)
            && let Some((parent, _)) = moves.get(&state)
        {
            above.push(state);
            at = *parent;
        }
        let mut depth = at.and_then(|state| of_states.get(&state)).map_or(0, |n| *n);
        for state in above.into_iter().rev() {
            depth += 1;
            of_states.insert(state, depth);
        }
        let known = depths.entry(*digest).or_insert(0);
        *known = of_states.get(state).map_or(0, |n| *n).max(*known);
    }
    depths
}
