//! Provenance: a statement beside each manifest of how it was made, as BuildKit attaches it (`attestation.rs`): SLSA provenance v1.
//!
//! The parameters have the meaning that BuildKit's definitions give them, see `docs/attestations/slsa-definitions.md` there.
//! Paths of this machine, values of secrets, and what may be a secret in a URL are never told. What BuildKit adds to
//! `mode=max` and is not here: the graph of its own operations (`buildConfig`) and what refers to that (`locations`, `layers`).
//! That dependencies are complete is never claimed, since steps may use the network.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::attestation::Statement;
use crate::{
    oci::{Digest, Platform},
    used::{UsedImage, UsedSource},
};

const BUILD_TYPE: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";

/// How a build came about.
#[derive(Debug, Clone)]
pub struct Provenance {
    /// Who built, as the user calls it.
    pub builder_id: String,
    /// Whether it is attached to images alone, and no file beside the files of others.
    pub inline_only: bool,
    /// What it is called where it is such a file.
    pub file_name: String,
    /// Whether the user claims that building again gives the same image.
    pub reproducible: bool,
    /// What built: the version of this program.
    pub version: &'static str,
    /// On which platform.
    pub builder_platform: Platform,
    /// The images that the build looked up.
    pub images: Vec<UsedImage>,
    /// What was fetched by URL.
    pub sources: Vec<UsedSource>,
    /// The context, where it was fetched.
    pub context: Option<UsedSource>,
    /// The name of the Dockerfile in its directory.
    pub dockerfile_name: String,
    /// Parameters, under BuildKit's names.
    pub args: BTreeMap<String, String>,
    /// Whether the build had arguments or labels that are not among them (`mode=min`).
    pub has_more_args: bool,
    /// The names of contexts on this machine.
    pub locals: Vec<String>,
    /// The ids of secrets that were offered to steps.
    pub secrets: Vec<String>,
    /// The ids of SSH agents that were offered to steps.
    pub agents: Vec<String>,
    /// The text of the Dockerfile; `None` to keep it back (`mode=min`).
    pub dockerfile: Option<String>,
    /// Which build it was; `None` leaves that out, so that the same build gives the same bytes.
    pub invocation: Option<Invocation>,
}

/// One build among others.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// What no other build is called.
    pub id: String,
    /// When it began (RFC 3339).
    pub begun: String,
    /// When it ended.
    pub ended: String,
}

impl Provenance {
    /// The predicate about the image of a platform.
    pub fn predicate(&self, platform: &Platform) -> Value {
        let mut dependencies: Vec<&UsedImage> = self
            .images
            .iter()
            .filter(|image| {
                let used = image.platform.clone().normalized();
                used == platform.clone().normalized()
                    || used == self.builder_platform.clone().normalized()
            })
            .collect();
        dependencies.sort();
        let images = dependencies.into_iter().map(|image| {
            json!({
                "uri": image.url(),
                "digest": {"sha256": image.digest.hex()},
            })
        });
        let sources = self.sources.iter().collect::<BTreeSet<_>>().into_iter();
        let sources = sources.map(|source| json!({"uri": source.uri, "digest": source.digest()}));
        let dependencies: Vec<Value> = images.chain(sources).collect();
        let mut config_source = json!({"path": self.dockerfile_name});
        if let Some(context) = &self.context {
            config_source["uri"] = context.uri.clone().into();
            config_source["digest"] = context.digest();
        }
        let mut request = json!({"frontend": "dockerfile.v0"});
        if !self.args.is_empty() {
            request["args"] = json!(self.args);
        }
        if !self.locals.is_empty() {
            let locals = self.locals.iter().map(|name| json!({"name": name}));
            request["locals"] = locals.collect();
        }
        for (key, ids) in [("secrets", &self.secrets), ("ssh", &self.agents)] {
            if !ids.is_empty() {
                let ids: Vec<Value> = ids
                    .iter()
                    .map(|id| json!({"id": id, "optional": true}))
                    .collect();
                request[key] = ids.into();
            }
        }
        let mut metadata = Map::new();
        if let Some(Invocation { id, begun, ended }) = &self.invocation {
            metadata.insert("invocationId".to_owned(), id.clone().into());
            metadata.insert("startedOn".to_owned(), begun.clone().into());
            metadata.insert("finishedOn".to_owned(), ended.clone().into());
        }
        let source = self.dockerfile.as_ref().map(|text| {
            json!({"source": {"infos": [{
                "filename": self.dockerfile_name,
                "language": "Dockerfile",
                "data": STANDARD.encode(text),
            }]}})
        });
        metadata.insert(
            "buildkit_metadata".to_owned(),
            source.unwrap_or_else(|| json!({})),
        );
        metadata.insert(
            "buildkit_completeness".to_owned(),
            // Steps may use the network.
            json!({"request": !self.has_more_args, "resolvedDependencies": false}),
        );
        if self.reproducible {
            metadata.insert("buildkit_reproducible".to_owned(), true.into());
        }
        let mut definition = json!({
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "configSource": config_source,
                "request": request,
            },
            "internalParameters": {
                "builderPlatform": self.builder_platform.to_string(),
                "rbuildVersion": self.version,
            },
        });
        if !dependencies.is_empty() {
            definition["resolvedDependencies"] = dependencies.into();
        }
        json!({
            "buildDefinition": definition,
            "runDetails": {
                "builder": {"id": self.builder_id},
                "metadata": metadata,
            },
        })
    }

    /// What is said about the image of a platform.
    pub(super) fn statement(&self, platform: &Platform) -> Statement {
        Statement {
            predicate_type: PREDICATE_TYPE.to_owned(),
            subjects: Vec::new(),
            predicate: self.predicate(platform),
        }
    }
}

impl UsedSource {
    fn digest(&self) -> Value {
        json!({self.algorithm: self.hex})
    }
}

impl UsedImage {
    fn url(&self) -> String {
        let kind = if self.is_layout { "oci" } else { "docker" };
        let digest = self.is_pinned.then_some(self.digest);
        package_url(kind, &self.name, digest, &self.platform)
    }
}

/// A name as a package URL: `pkg:docker/alpine@3.20?digest=sha256:…&platform=linux%2Famd64`.
pub(super) fn package_url(
    kind: &str,
    name: &str,
    digest: Option<Digest>,
    platform: &Platform,
) -> String {
    let name = name.split('@').next().unwrap_or_default();
    let (name, tag) = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    };
    let mut url = format!("pkg:{kind}/{}", name.replace(':', "%3A"));
    if let Some(tag) = tag {
        url.push('@');
        url.push_str(tag);
    }
    let mut separator = '?';
    if let Some(digest) = digest {
        url.push_str("?digest=");
        url.push_str(&digest.to_string());
        separator = '&';
    }
    let platform = platform.clone().normalized().to_string();
    url.push(separator);
    url.push_str("platform=");
    url.push_str(&platform.replace('/', "%2F"));
    url
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::sha256;

    #[test]
    fn package_urls_are_those_of_buildkit() {
        let platform: Platform = "linux/arm64/v8".parse().unwrap();
        let digest = sha256(b"x");
        for (name, with_digest, want) in [
            (
                "alpine:3.20",
                true,
                "pkg:docker/alpine@3.20?digest=DIGEST&platform=linux%2Farm64",
            ),
            ("a:1", false, "pkg:docker/a@1?platform=linux%2Farm64"),
            (
                "127.0.0.1:5000/x/y:1",
                false,
                "pkg:docker/127.0.0.1%3A5000/x/y@1?platform=linux%2Farm64",
            ),
            (
                "r.io/x",
                true,
                "pkg:docker/r.io/x?digest=DIGEST&platform=linux%2Farm64",
            ),
        ] {
            let digest = with_digest.then_some(digest);
            let want = want.replace("DIGEST", &sha256(b"x").to_string());
            assert_eq!(package_url("docker", name, digest, &platform), want);
        }
    }
}
