//! The image a stage adds up to: its config document and its history.
//!
//! Times follow BuildKit: an entry with a layer carries the moment the layer was made, also when the layer comes
//! from the cache, so a build that finds everything in the cache gives the very same image; an entry without a
//! layer takes the time of the first new layer, later ones that of the layer before them.

use jiff::Timestamp;

use crate::oci::{Config, ConfigFile, DiffId, History, Platform, RootFs};

/// The comment by which BuildKit marks the history entries of Dockerfile instructions. Kept, because tools that
/// read an image's history look for it.
const COMMENT: &str = "buildkit.dockerfile.v0";
/// The comment of entries that are made up for layers of a base image that has no history.
const COMMENT_EXPORTER: &str = "buildkit.exporter.image.v0";

/// One layer of the image, as its history sees it.
#[derive(Debug, Clone)]
pub(super) struct LayerFacts {
    pub(super) diff_id: DiffId,
    /// When it was made, or first seen when it belongs to a base image.
    pub(super) created: Timestamp,
    /// What it is called where the history has no entry for it.
    pub(super) description: String,
}

/// One instruction, as the history sees it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) created_by: String,
    pub(super) empty_layer: bool,
}

/// Everything a config document is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) platform: Platform,
    pub(super) config: Config,
    pub(super) author: Option<String>,
    /// The base image's history.
    pub(super) base_history: Vec<History>,
    /// What was done since.
    pub(super) entries: Vec<Entry>,
    /// All layers, base first.
    pub(super) layers: Vec<LayerFacts>,
}

/// Puts the config document together.
pub(super) fn config_file(parts: Parts) -> ConfigFile {
    let diff_ids: Vec<DiffId> = parts.layers.iter().map(|layer| layer.diff_id).collect();
    let mut history = parts.base_history;
    history.extend(parts.entries.into_iter().map(|entry| History {
        created_by: entry.created_by,
        comment: COMMENT.to_owned(),
        empty_layer: entry.empty_layer,
        ..History::default()
    }));
    reconcile(&mut history, &parts.layers);
    date(&mut history, &parts.layers);
    // None at all where no layer and no base has one: the present time would make another image each time.
    let created = history.last().and_then(|entry| entry.created.clone());
    ConfigFile {
        created,
        author: parts.author,
        platform: parts.platform,
        config: parts.config,
        rootfs: RootFs {
            diff_ids,
            ..RootFs::default()
        },
        history,
        cache: None,
    }
}

/// Makes the entries with a layer as many as the layers: a base image may have too few or too many.
fn reconcile(history: &mut Vec<History>, layers: &[LayerFacts]) {
    let mut seen = 0;
    for entry in history.iter_mut().filter(|entry| !entry.empty_layer) {
        seen += 1;
        entry.empty_layer = seen > layers.len();
    }
    history.extend(layers.iter().skip(seen).map(|layer| History {
        created: None,
        created_by: layer.description.clone(),
        comment: COMMENT_EXPORTER.to_owned(),
        ..History::default()
    }));
}

/// Gives every entry without a time one.
fn date(history: &mut [History], layers: &[LayerFacts]) {
    let with_layer = history.iter_mut().filter(|entry| !entry.empty_layer);
    for (entry, layer) in with_layer.zip(layers) {
        entry
            .created
            .get_or_insert_with(|| layer.created.to_string());
    }
    let first_undated = history.iter().position(|entry| entry.created.is_none());
    let Some(first_undated) = first_undated else {
        return;
    };
    let next = history[first_undated..]
        .iter()
        .find_map(|entry| entry.created.clone());
    let before = history[..first_undated]
        .last()
        .and_then(|entry| entry.created.clone());
    let mut current = next.or(before);
    for entry in &mut history[first_undated..] {
        match &entry.created {
            Some(created) => current = Some(created.clone()),
            None => entry.created.clone_from(&current),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::sha256;

    fn layer(name: &str, seconds: i64) -> LayerFacts {
        LayerFacts {
            diff_id: DiffId(sha256(name.as_bytes())),
            created: Timestamp::from_second(seconds).expect("in range"),
            description: format!("[2/2] {name}"),
        }
    }

    fn build(base: Vec<History>, entries: &[(&str, bool)], layers: Vec<LayerFacts>) -> ConfigFile {
        config_file(Parts {
            platform: Platform::host(),
            config: Config::default(),
            author: None,
            base_history: base,
            entries: entries
                .iter()
                .map(|(text, empty)| Entry {
                    created_by: (*text).to_owned(),
                    empty_layer: *empty,
                })
                .collect(),
            layers,
        })
    }

    #[test]
    fn entries_without_a_layer_take_the_first_new_layers_time_then_the_one_before() {
        let file = build(
            Vec::new(),
            &[
                ("ENV", true),
                ("COPY", false),
                ("USER", true),
                ("RUN", false),
                ("CMD", true),
            ],
            vec![layer("COPY", 10), layer("RUN", 20)],
        );
        let times: Vec<_> = file
            .history
            .iter()
            .map(|h| h.created.as_deref().expect("dated"))
            .collect();
        let (ten, twenty) = ("1970-01-01T00:00:10Z", "1970-01-01T00:00:20Z");
        assert_eq!(times, [ten, ten, ten, twenty, twenty]);
        assert_eq!(file.created.as_deref(), Some(twenty));
    }

    #[test]
    fn a_base_without_history_gets_one_and_a_base_with_too_much_loses_layers() {
        let file = build(
            Vec::new(),
            &[("COPY", false)],
            vec![layer("base", 1), layer("COPY x", 2)],
        );
        let texts: Vec<_> = file.history.iter().map(|h| h.created_by.as_str()).collect();
        assert_eq!(texts, ["COPY", "[2/2] COPY x"]);

        let extra = History {
            created_by: "gone".to_owned(),
            ..History::default()
        };
        let file = build(vec![extra.clone(), extra], &[], vec![layer("base", 1)]);
        assert_eq!(
            file.history
                .iter()
                .map(|h| h.empty_layer)
                .collect::<Vec<_>>(),
            [false, true]
        );
    }
}
