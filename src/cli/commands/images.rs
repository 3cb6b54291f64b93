//! `images`, `tag`, `rmi`, `inspect`: the named images of the store.

use std::collections::BTreeSet;

use rbuild::{
    oci::{ConfigFile, Descriptor, Digest, Index, Manifest, Platform},
    reference::Reference,
    store::{Store, Tag},
};
use serde_json::{Value, json};

use crate::cli::{
    ago::ago,
    args::{DataFormat, ImagesArgs, InspectArgs, RmiArgs, TagArgs},
    classify,
    diagnostics::{Failure, Kind},
    progress::bytes,
    stdout,
};

/// `rbuild images`.
pub(crate) fn list(store: &Store, args: &ImagesArgs) -> Result<(), Failure> {
    let mut rows: Vec<Row> = store
        .tags()
        .map_err(|e| classify::failure(&e))?
        .into_iter()
        .filter(|tag| {
            args.name.as_ref().is_none_or(|name| {
                tag.reference.familiar().starts_with(name)
                    || tag.reference.to_string().starts_with(name)
            })
        })
        .map(|tag| Row::of(store, tag))
        .collect();
    // The newest first, as Docker lists them. The sort keeps names of the same time in their order.
    let time = |row: &Row| row.created.as_ref()?.parse::<jiff::Timestamp>().ok();
    rows.sort_by_key(|row| std::cmp::Reverse(time(row)));
    let now = jiff::Timestamp::now();
    if args.format == DataFormat::Json {
        let values: Vec<Value> = rows.iter().map(Row::json).collect();
        return stdout::print_json(&values);
    }
    if args.quiet {
        let mut ids: Vec<String> = rows.iter().map(|row| row.id.to_string()).collect();
        ids.push(String::new());
        return stdout::print(&ids.join("\n"));
    }
    let digest = |digest: &Digest| {
        if args.digests {
            digest.to_string()
        } else {
            digest.short()
        }
    };
    let heading = ["NAME", "DIGEST", "IMAGE ID", "PLATFORMS", "CREATED", "SIZE"];
    let mut table = vec![heading.map(ToOwned::to_owned)];
    table.extend(rows.iter().map(|row| {
        [
            row.tag.reference.familiar(),
            digest(&row.tag.descriptor.digest),
            digest(&row.id),
            row.platforms.join(","),
            row.created
                .as_ref()
                .map_or_else(|| "-".to_owned(), |time| ago(time, now)),
            bytes(row.size),
        ]
    }));
    stdout::print(&stdout::table(&table))
}

/// What a list says of an image.
struct Row {
    tag: Tag,
    /// The config of the only image, or the index.
    id: Digest,
    platforms: Vec<String>,
    created: Option<String>,
    /// Bytes of all blobs, compressed as they are.
    size: u64,
}

impl Row {
    /// What is damaged or missing in the store is left out: a list is no check.
    fn of(store: &Store, tag: Tag) -> Self {
        let manifests = manifests(store, &tag.descriptor);
        let configs: Vec<ConfigFile> = manifests
            .iter()
            .filter_map(|(_, manifest)| store.read_json(&manifest.config).ok())
            .collect();
        let size = store.reachable(&tag.descriptor).map_or(0, |blobs| {
            blobs
                .iter()
                .fold(0, |sum: u64, blob| sum.saturating_add(blob.size))
        });
        let id = match manifests.as_slice() {
            [(_, manifest)] if tag.descriptor.media_type.is_manifest() => manifest.config.digest,
            _ => tag.descriptor.digest,
        };
        Self {
            id,
            platforms: configs.iter().map(|c| c.platform.to_string()).collect(),
            created: configs.iter().find_map(|c| c.created.clone()),
            size,
            tag,
        }
    }

    fn json(&self) -> Value {
        json!({
            "name": self.tag.reference.to_string(),
            "digest": self.tag.descriptor.digest.to_string(),
            "mediaType": self.tag.descriptor.media_type.as_str(),
            "id": self.id.to_string(),
            "platforms": self.platforms,
            "created": self.created,
            "size": self.size,
        })
    }
}

/// The manifests of an image: one, or those of an index with their platforms. Attestations are no images.
fn manifests(store: &Store, image: &Descriptor) -> Vec<(Option<Platform>, Manifest)> {
    if image.media_type.is_index() {
        let Ok(index) = store.read_json::<Index>(image) else {
            return Vec::new();
        };
        return index
            .manifests
            .into_iter()
            .filter(|entry| {
                entry
                    .platform
                    .as_ref()
                    .is_none_or(|platform| platform.os != "unknown")
            })
            .filter_map(|entry| Some((entry.platform.clone(), store.read_json(&entry).ok()?)))
            .collect();
    }
    store
        .read_json(image)
        .map(|manifest| vec![(image.platform.clone(), manifest)])
        .unwrap_or_default()
}

/// The image that a command line names: by name, or by the beginning of its digest or image ID.
pub(crate) fn find(store: &Store, text: &str) -> Result<Tag, Failure> {
    if let Ok(reference) = Reference::parse(text) {
        let descriptor = store.tag(&reference).map_err(|e| classify::failure(&e))?;
        if let Some(descriptor) = descriptor {
            return Ok(Tag {
                reference: reference.with_default_tag(),
                descriptor,
            });
        }
    }
    let tags = store.tags().map_err(|e| classify::failure(&e))?;
    find_among(store, &tags, text)
}

/// The same among all names, for whoever looks for several.
fn find_among(store: &Store, tags: &[Tag], text: &str) -> Result<Tag, Failure> {
    let named = Reference::parse(text).map(Reference::with_default_tag);
    if let Ok(reference) = &named
        && let Ok(at) = tags.binary_search_by(|tag| tag.reference.cmp(reference))
    {
        return Ok(tags[at].clone());
    }
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    if hex.len() >= 4 && hex.chars().all(|c| c.is_ascii_hexdigit()) {
        let mut found: Vec<Tag> = tags
            .iter()
            .filter(|tag| {
                tag.descriptor.digest.hex().starts_with(hex)
                    || Row::of(store, (*tag).clone()).id.hex().starts_with(hex)
            })
            .cloned()
            .collect();
        found.dedup_by_key(|tag| tag.descriptor.digest);
        if found.len() > 1 {
            return Err(Failure::new(
                Kind::Build,
                format!("`{text}` is the beginning of several digests"),
            ));
        }
        if let Some(tag) = found.pop() {
            return Ok(tag);
        }
    }
    let failure = match named {
        Ok(reference) => Failure::new(
            Kind::Build,
            format!("no image `{}` in the store", reference.familiar()),
        ),
        Err(error) => Failure::usage(error.to_string()),
    };
    let names: Vec<String> = tags.iter().map(|tag| tag.reference.familiar()).collect();
    Err(match nearest(text, &names) {
        Some(near) => failure.with_hint(format!("did you mean `{near}`?")),
        None => failure.with_hint("`rbuild images` lists what there is"),
    })
}

/// The name that may be meant. Who leaves out the tag is not told apart by it, nor who leaves out where an image comes from.
fn nearest<'a>(text: &str, names: &'a [String]) -> Option<&'a str> {
    let bare = |name: &'a str| match name.rsplit_once(':') {
        Some((bare, tag)) if !tag.contains('/') => bare,
        _ => name,
    };
    let last = |name: &'a str| name.rsplit_once('/').map_or(name, |(_, last)| last);
    let whole = |name: &'a str| name;
    let (tagged, untagged) = (
        [&whole as &dyn Fn(&'a str) -> &'a str, &last],
        [&bare as &dyn Fn(&'a str) -> &'a str, &|name| {
            last(bare(name))
        }],
    );
    let has_tag = text
        .rsplit_once(':')
        .is_some_and(|(_, tag)| !tag.contains('/'));
    let forms = if has_tag { tagged } else { untagged };
    let near = forms.iter().find_map(|form| {
        let near = rbuild::source::suggest(text, names.iter().map(|name| form(name)))?;
        names.iter().find(|name| form(name) == near)
    })?;
    Some(near.strip_suffix(":latest").unwrap_or(near))
}

/// A name from the command line.
pub(crate) fn reference(text: &str) -> Result<Reference, Failure> {
    Reference::parse(text).map_err(|e| Failure::usage(e.to_string()))
}

/// `rbuild tag`.
pub(crate) fn tag(store: &Store, args: &TagArgs) -> Result<(), Failure> {
    let image = find(store, &args.image)?;
    let names = args
        .names
        .iter()
        .map(|name| {
            let reference = reference(name)?;
            if reference.digest().is_some() {
                return Err(Failure::usage(format!(
                    "`{name}` is a digest, not a name to give"
                )));
            }
            Ok(reference.with_default_tag())
        })
        .collect::<Result<Vec<_>, _>>()?;
    store
        .set_tags(&names, &image.descriptor)
        .map_err(|e| classify::failure(&e))
}

/// `rbuild rmi`: all or nothing.
pub(crate) fn remove(store: &Store, args: &RmiArgs) -> Result<(), Failure> {
    let tags = store.tags().map_err(|e| classify::failure(&e))?;
    let mut doomed: Vec<Tag> = Vec::new();
    for text in &args.images {
        let image = find_among(store, &tags, text)?;
        let by_name = Reference::parse(text)
            .is_ok_and(|reference| reference.with_default_tag() == image.reference);
        if by_name {
            doomed.push(image);
        } else {
            let same = |tag: &&Tag| tag.descriptor.digest == image.descriptor.digest;
            doomed.extend(tags.iter().filter(same).cloned());
        }
    }
    let names: Vec<Reference> = doomed.iter().map(|tag| tag.reference.clone()).collect();
    let removed = store
        .remove_tags(&names)
        .map_err(|e| classify::failure(&e))?;
    let mut removed: BTreeSet<Reference> = removed.into_iter().map(|tag| tag.reference).collect();
    for name in names {
        if removed.remove(&name) {
            stdout::print(&format!("Untagged: {}\n", name.familiar()))?;
        }
    }
    Ok(())
}

/// `rbuild inspect`.
pub(crate) fn inspect(store: &Store, args: &InspectArgs) -> Result<(), Failure> {
    let tag = find(store, &args.image)?;
    let names: Vec<String> = store
        .tags()
        .map_err(|e| classify::failure(&e))?
        .into_iter()
        .filter(|other| other.descriptor.digest == tag.descriptor.digest)
        .map(|other| other.reference.to_string())
        .collect();
    let manifests = manifests(store, &tag.descriptor);
    if manifests.is_empty() {
        return Err(Failure::new(
            Kind::Machine,
            format!("the store has nothing of `{}` but its name", args.image),
        ));
    }
    let mut images = Vec::new();
    for (_, manifest) in &manifests {
        let config: Value = store
            .read_json(&manifest.config)
            .map_err(|e| classify::failure(&e))?;
        images.push(json!({"manifest": manifest, "config": config}));
    }
    if args.format == DataFormat::Json {
        return stdout::print_json(&json!({
            "names": names,
            "descriptor": tag.descriptor,
            "images": images,
        }));
    }
    let mut out = format!(
        "names: {}\ndigest: {}\nmedia type: {}\n",
        names.join(", "),
        tag.descriptor.digest,
        tag.descriptor.media_type.as_str()
    );
    for (_, manifest) in &manifests {
        let config: ConfigFile = store
            .read_json(&manifest.config)
            .map_err(|e| classify::failure(&e))?;
        out.push_str(&describe(manifest, &config));
    }
    stdout::print(&out)
}

/// An image for people.
fn describe(manifest: &Manifest, config: &ConfigFile) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "  {name}: {value}");
        }
    };
    let words = |words: &Option<Vec<String>>| {
        words
            .as_ref()
            .map_or(String::new(), |words| format!("{words:?}"))
    };
    row("platform", config.platform.to_string());
    row("image ID", manifest.config.digest.to_string());
    row("created", config.created.clone().unwrap_or_default());
    row("user", config.config.user.clone());
    row("working directory", config.config.working_dir.clone());
    row("entrypoint", words(&config.config.entrypoint));
    row("command", words(&config.config.cmd));
    for variable in &config.config.env {
        row("env", variable.clone());
    }
    for port in config.config.exposed_ports.keys() {
        row("port", port.clone());
    }
    for (key, value) in &config.config.labels {
        row("label", format!("{key}={value}"));
    }
    for (layer, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
        row(
            "layer",
            format!("{} {} ({diff_id})", layer.digest, bytes(layer.size)),
        );
    }
    out
}
