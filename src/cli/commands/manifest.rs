//! `manifest create` and `manifest push`: images that were built apart, each for its platform, joined under one name.
//!
//! A list is a document of its own beside the images of the store: joining fetches manifests and configs, never layers. What
//! a registry does not have yet when the list is pushed is mounted from where it came from, or fetched from there.

use std::collections::{BTreeMap, BTreeSet};

use rbuild::{
    oci::{ConfigFile, Descriptor, Digest, Index, Manifest, MediaType, Platform, to_json},
    progress::Vertex,
    reference::Reference,
    registry::{Client, MAX_CONFIG_BYTES},
    store::Store,
};
use serde::{Deserialize, Serialize};

use super::{images, registry};
use crate::cli::{
    args::{ManifestArgs, ManifestCommand, ManifestCreateArgs, ManifestPushArgs},
    classify,
    diagnostics::{Failure, Kind},
    environment::Environment,
    stdout,
    transfer::{Joined, Part, Transfer},
};

/// What buildx calls an entry that says something about another one.
const ATTESTATION: &str = "vnd.docker.reference.type";

/// A list as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct List {
    name: String,
    index: Index,
    /// For each manifest, where it came from: `repository@digest`. Those of the store are not here.
    sources: BTreeMap<Digest, String>,
}

/// `rbuild manifest`.
pub(crate) fn run(store: &Store, args: &ManifestArgs, env: &Environment) -> Result<(), Failure> {
    match &args.command {
        ManifestCommand::Create(args) => create(store, args, env),
        ManifestCommand::Push(args) => push(store, args, env),
    }
}

/// The name of a list, with its tag.
fn list_name(text: &str) -> Result<Reference, Failure> {
    let name = images::reference(text)?;
    if name.digest().is_some() {
        return Err(Failure::usage(format!(
            "`{text}` is a digest, not a name to give"
        )));
    }
    Ok(name.with_default_tag())
}

fn create(store: &Store, args: &ManifestCreateArgs, env: &Environment) -> Result<(), Failure> {
    let name = list_name(&args.name)?;
    let renderer = registry::renderer(&args.talk, env)?;
    let client = registry::client(&args.registries, &renderer, env)?;
    let mut joining = Joining {
        store,
        client: &client,
        entries: Vec::new(),
        sources: BTreeMap::new(),
    };
    for image in &args.images {
        joining.add(image)?;
    }
    let Joining {
        entries, sources, ..
    } = joining;
    let mut index = Index::new(entries);
    for annotation in &args.annotation {
        let value = annotation.value.clone().unwrap_or_default();
        index.annotations.insert(annotation.key.clone(), value);
    }
    // Docker's list has no annotations, and holds Docker's manifests only.
    let is_docker = |entry: &Descriptor| entry.media_type == MediaType::OCI_MANIFEST.to_docker();
    if index.annotations.is_empty() && index.manifests.iter().all(is_docker) {
        index.media_type = Some(MediaType::OCI_INDEX.to_docker());
    }
    let digest = rbuild::oci::sha256(&to_json(&index));
    let list = List {
        name: name.to_string(),
        index,
        sources,
    };
    let failed = |e| classify::failure(&e);
    store.put_list(&name, &to_json(&list)).map_err(failed)?;
    stdout::print(&format!("{digest}\n"))
}

/// A list that grows.
struct Joining<'a> {
    store: &'a Store,
    client: &'a Client,
    entries: Vec<Descriptor>,
    sources: BTreeMap<Digest, String>,
}

impl Joining<'_> {
    /// Adds an image of the store, or else of its registry, with all its platforms.
    fn add(&mut self, text: &str) -> Result<(), Failure> {
        let reference = images::reference(text)?.with_default_tag();
        let stored = self
            .store
            .tag(&reference)
            .map_err(|e| classify::failure(&e))?;
        let (root, source) = match stored {
            Some(descriptor) => (descriptor, None),
            None => (
                self.fetch(&reference)?,
                Some(reference.clone().without_digest()),
            ),
        };
        if !root.media_type.is_index() {
            return self.add_manifest(text, &root, None, source.as_ref());
        }
        let index: Index = self.read(&root)?;
        for entry in &index.manifests {
            if let Some(source) = &source {
                self.fetch(&source.clone().with_digest(entry.digest))?;
            }
            self.add_manifest(text, entry, Some(entry), source.as_ref())?;
        }
        Ok(())
    }

    /// Takes a manifest or an index of a registry into the store.
    fn fetch(&self, reference: &Reference) -> Result<Descriptor, Failure> {
        let document = self
            .client
            .manifest(reference)
            .map_err(|e| classify::failure(&e))?;
        self.store
            .put_bytes(&document.bytes)
            .map_err(|e| classify::failure(&e))?;
        Ok(document.descriptor)
    }

    fn read<T: serde::de::DeserializeOwned>(&self, document: &Descriptor) -> Result<T, Failure> {
        self.store
            .read_json(document)
            .map_err(|e| classify::failure(&e))
    }

    /// Adds one manifest, which is in the store. `entry` is what an index says of it.
    fn add_manifest(
        &mut self,
        text: &str,
        manifest: &Descriptor,
        entry: Option<&Descriptor>,
        source: Option<&Reference>,
    ) -> Result<(), Failure> {
        if !manifest.media_type.is_manifest() {
            return Err(Failure::new(
                Kind::Build,
                format!(
                    "`{text}` has an entry of type `{}`, which is no image",
                    manifest.media_type.as_str()
                ),
            ));
        }
        if self.entries.iter().any(|e| e.digest == manifest.digest) {
            return Ok(());
        }
        let mut joined = match entry {
            Some(entry) => entry.clone(),
            None => Descriptor::new(manifest.media_type.clone(), manifest.digest, manifest.size),
        };
        if joined.platform.is_none() {
            joined.platform = Some(self.platform(manifest, source)?);
        }
        let platform = joined.platform.clone();
        let is_image = |e: &&Descriptor| !e.annotations.contains_key(ATTESTATION);
        if is_image(&&joined)
            && let Some(platform) = &platform
            && self
                .entries
                .iter()
                .filter(is_image)
                .any(|e| e.platform.as_ref() == Some(platform))
        {
            return Err(Failure::new(
                Kind::Build,
                format!("`{text}` is for {platform}, and so is an image before it"),
            ));
        }
        if let Some(source) = source {
            let from = source.clone().with_digest(manifest.digest);
            self.sources.insert(manifest.digest, from.to_string());
        }
        self.entries.push(joined);
        Ok(())
    }

    /// For which platform a manifest is, by its config.
    fn platform(
        &self,
        manifest: &Descriptor,
        source: Option<&Reference>,
    ) -> Result<Platform, Failure> {
        let config = self.read::<Manifest>(manifest)?.config;
        let here = self.store.has(&config).map_err(|e| classify::failure(&e))?;
        if let (false, Some(source)) = (here, source) {
            let bytes = self
                .client
                .blob_bytes(source, &config, MAX_CONFIG_BYTES)
                .map_err(|e| classify::failure(&e))?;
            self.store
                .put_blob(&config, &mut bytes.as_slice())
                .map_err(|e| classify::failure(&e))?;
        }
        let config: ConfigFile = self.read(&config)?;
        Ok(config.platform.normalized())
    }
}

fn push(store: &Store, args: &ManifestPushArgs, env: &Environment) -> Result<(), Failure> {
    let name = list_name(&args.name)?;
    let Some(bytes) = store.list(&name).map_err(|e| classify::failure(&e))? else {
        let failure = Failure::new(
            Kind::Build,
            format!("there is no list `{}`", name.familiar()),
        );
        return Err(failure.with_hint("`rbuild manifest create NAME IMAGE…` makes one"));
    };
    let damaged = |e: &dyn std::fmt::Display| {
        Failure::new(
            Kind::Machine,
            format!("the list `{}` is damaged: {e}", name.familiar()),
        )
    };
    let list: List = serde_json::from_slice(&bytes).map_err(|e| damaged(&e))?;
    let to = match &args.destination {
        Some(text) => list_name(text)?,
        None => name.clone(),
    };
    let renderer = registry::renderer(&args.talk, env)?;
    let client = registry::client(&args.registries, &renderer, env)?;
    let mut blobs: Vec<Part> = Vec::new();
    let mut documents = Vec::new();
    let mut seen = BTreeSet::new();
    for entry in &list.index.manifests {
        let source = list
            .sources
            .get(&entry.digest)
            .map(|text| Reference::parse(text))
            .transpose()
            .map_err(|e| damaged(&e))?;
        let here = store.has(entry).map_err(|e| classify::failure(&e))?;
        let bytes = match (&source, here) {
            (Some(source), false) => {
                let document = client.manifest(source).map_err(|e| classify::failure(&e))?;
                document.bytes
            }
            _ => store.read_blob(entry).map_err(|e| classify::failure(&e))?,
        };
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|e| damaged(&e))?;
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            // Layers that are fetched from elsewhere are not in registries.
            let is_distributed =
                blob.urls.is_empty() || store.has(blob).map_err(|e| classify::failure(&e))?;
            if is_distributed && seen.insert(blob.digest) {
                blobs.push(Part {
                    descriptor: blob.clone(),
                    source: source.clone(),
                });
            }
        }
        documents.push((entry.clone(), bytes));
    }
    let media_type = list
        .index
        .media_type
        .clone()
        .unwrap_or(MediaType::OCI_INDEX);
    let index = to_json(&list.index);
    let digest = rbuild::oci::sha256(&index);
    let root = Descriptor::new(media_type, digest, index.len() as u64);
    documents.push((root, index));

    Transfer {
        store,
        registry: &client,
        reporter: &renderer,
    }
    .push_joined(Vertex(1), &Joined { blobs, documents }, &to)
    .map_err(|e| classify::failure(&e))?;
    stdout::print(&format!("{digest}\n"))
}
