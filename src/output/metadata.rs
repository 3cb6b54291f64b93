//! What a build tells programs: the content of `--iidfile` and `--metadata-file`, under buildx's keys.

use serde_json::{Map, Value};

use super::Exported;
use crate::oci::Digest;

impl Exported {
    /// The content of `--iidfile`: the config's digest, for several platforms the index's. `None` when there is no image.
    pub fn image_id(&self) -> Option<Digest> {
        self.config
            .or_else(|| self.descriptor.as_ref().map(|image| image.digest))
    }

    /// The content of `--metadata-file`: `containerimage.…` and `image.name`, as far as there is an image.
    ///
    /// # Panics
    /// Never: a descriptor has string keys and plain values.
    pub fn metadata(&self) -> Map<String, Value> {
        let mut metadata = Map::new();
        let is_only = self.provenance.len() == 1;
        for (platform, predicate) in &self.provenance {
            let mut key = "buildx.build.provenance".to_owned();
            if !is_only {
                key.push('/');
                key.push_str(&platform.to_string());
            }
            metadata.insert(key, predicate.clone());
        }
        if let Some(config) = self.config {
            let key = "containerimage.config.digest".to_owned();
            metadata.insert(key, config.to_string().into());
        }
        if let Some(descriptor) = &self.descriptor {
            let value = serde_json::to_value(descriptor)
                .expect("a descriptor has string keys and plain values");
            metadata.insert("containerimage.descriptor".to_owned(), value);
            let digest = descriptor.digest.to_string();
            metadata.insert("containerimage.digest".to_owned(), digest.into());
        }
        if !self.names.is_empty() {
            let names: Vec<_> = self.names.iter().map(ToString::to_string).collect();
            metadata.insert("image.name".to_owned(), names.join(",").into());
        }
        metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        oci::{Descriptor, MediaType, sha256},
        reference::Reference,
    };

    #[test]
    fn metadata_has_buildx_keys() {
        let exported = Exported {
            descriptor: Some(Descriptor::of(MediaType::OCI_MANIFEST, b"m")),
            config: Some(sha256(b"c")),
            names: ["app:v1", "ghcr.io/a/b:2"]
                .map(|name| Reference::parse(name).unwrap())
                .to_vec(),
            provenance: Vec::new(),
        };
        assert_eq!(exported.image_id(), Some(sha256(b"c")));
        let metadata = exported.metadata();
        let keys: Vec<_> = metadata.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "containerimage.config.digest",
                "containerimage.descriptor",
                "containerimage.digest",
                "image.name"
            ]
        );
        assert_eq!(
            metadata["image.name"],
            "docker.io/library/app:v1,ghcr.io/a/b:2"
        );
        assert_eq!(metadata["containerimage.descriptor"]["size"], 1);
        assert!(Exported::default().metadata().is_empty());
        assert_eq!(Exported::default().image_id(), None);
    }
}
