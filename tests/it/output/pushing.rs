//! Pushing, to a registry in memory that is stricter than real ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use rbuild::{
    oci::{Digest, Index, Manifest},
    output::{BoxError, Destination, Pusher},
};

use super::*;

/// Has blobs and documents by repository, and refuses a document that points to what it does not have.
#[derive(Default)]
struct StrictRegistry(Mutex<State>);

#[derive(Default)]
struct State {
    content: BTreeSet<(String, Digest)>,
    names: BTreeMap<String, Digest>,
}

impl Pusher for StrictRegistry {
    fn push_blobs(&self, to: &Destination, blobs: &[Descriptor]) -> Result<(), BoxError> {
        let mut state = self.0.lock().unwrap();
        for blob in blobs {
            let new = state.content.insert((to.reference.name(), blob.digest));
            assert!(new, "{} is pushed twice", blob.digest);
        }
        Ok(())
    }

    fn reconsider(&self, _: &Destination) -> bool {
        false
    }

    fn is_named(&self, to: &Destination, document: &Descriptor) -> bool {
        let state = self.0.lock().unwrap();
        match to.reference.digest() {
            Some(digest) => {
                assert_eq!(digest, document.digest);
                let at = (to.reference.name(), digest);
                state.content.contains(&at)
            }
            None => state.names.get(&to.reference.to_string()) == Some(&document.digest),
        }
    }

    fn push_document(
        &self,
        to: &Destination,
        descriptor: &Descriptor,
        bytes: &[u8],
    ) -> Result<(), BoxError> {
        assert_eq!(rbuild::oci::sha256(bytes), descriptor.digest);
        let mut state = self.0.lock().unwrap();
        let repository = to.reference.name();
        let needs: Vec<Digest> = if descriptor.media_type.is_index() {
            let index: Index = serde_json::from_slice(bytes)?;
            index.manifests.iter().map(|m| m.digest).collect()
        } else {
            let manifest: Manifest = serde_json::from_slice(bytes)?;
            let layers = manifest.layers.iter().map(|l| l.digest);
            layers.chain([manifest.config.digest]).collect()
        };
        for digest in needs {
            if !state.content.contains(&(repository.clone(), digest)) {
                return Err(format!("manifest blob unknown: {digest}").into());
            }
        }
        state.content.insert((repository, descriptor.digest));
        if to.reference.digest().is_none() {
            state
                .names
                .insert(to.reference.to_string(), descriptor.digest);
        } else {
            assert_eq!(to.reference.digest(), Some(descriptor.digest));
        }
        Ok(())
    }
}

fn push(fixture: &Fixture, spec: &str, images: &[Image]) -> (Exported, BTreeMap<String, Digest>) {
    let registry = StrictRegistry::default();
    let exported = push_to(&registry, &fixture.store, spec, images);
    (exported, registry.0.into_inner().unwrap().names)
}

fn push_to(registry: &StrictRegistry, store: &Store, spec: &str, images: &[Image]) -> Exported {
    let layers = StoredLayers(store);
    let services = Services {
        pusher: Some(registry),
        ..services(store, &layers)
    };
    let request = request(images);
    let spec = OutputSpec::parse(spec).unwrap();
    export(&spec, &request, &services, &mut Vec::new()).unwrap()
}

#[test]
fn an_image_that_the_registry_has_is_not_pushed_again() {
    let fixture = Fixture::new();
    let images = [fixture.image("linux/amd64")];
    let registry = StrictRegistry::default();
    let spec = "type=registry,name=h.io/a:1";
    let first = push_to(&registry, &fixture.store, spec, &images);
    // A later build, which makes no layer. The registry refuses to be given a blob twice.
    let later = Store::open(fixture.store.root()).unwrap();
    assert_eq!(push_to(&registry, &later, spec, &images), first);
    let other = push_to(&registry, &later, "type=registry,name=h.io/b:1", &images);
    assert_eq!(other.descriptor, first.descriptor);
    assert_eq!(registry.0.into_inner().unwrap().names.len(), 2);
}

#[test]
fn all_names_are_pushed_after_what_they_need() {
    let fixture = Fixture::new();
    let images = [fixture.image("linux/amd64"), fixture.image("linux/arm64")];
    let spec = r#"type=registry,"name=h.io/a:1,h.io/a:2,h.io/b""#;
    for images in [&images[..1], &images[..]] {
        let (exported, names) = push(&fixture, spec, images);
        let digest = exported.descriptor.unwrap().digest;
        let expected = ["h.io/a:1", "h.io/a:2", "h.io/b:latest"];
        assert_eq!(names, expected.map(|name| (name.to_owned(), digest)).into());
        assert_eq!(
            fixture.store.tags().unwrap(),
            [],
            "a push does not name images here"
        );
    }
}

#[test]
fn push_by_digest_names_nothing() {
    let fixture = Fixture::new();
    let spec = "type=image,name=h.io/a:1,push-by-digest=true,store=false";
    let (exported, names) = push(&fixture, spec, &[fixture.image("linux/amd64")]);
    assert_eq!(names, BTreeMap::new());
    assert_eq!(exported.names, [reference("h.io/a:1")]);
}

#[test]
fn a_push_needs_a_name_and_somebody_to_do_it() {
    let fixture = Fixture::new();
    let image = [fixture.image("linux/amd64")];
    let refuse = |spec: &str| {
        let refused = fixture.try_export(spec, &image, &[], &[], None);
        refused.unwrap_err().to_string()
    };
    assert_eq!(
        refuse("type=registry"),
        "a name is needed to push; give one with `-t` or `name=`"
    );
    assert!(refuse("type=registry,name=h.io/a").contains("h.io/a"));
}
