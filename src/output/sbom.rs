//! Lists of packages (SBOM) that a scanner made, as statements about images.
//!
//! A scanner writes in-toto statements of SPDX documents. As BuildKit does, the layer that a file comes from is added to the files of
//! the list of the image itself, `sbom.spdx.json`, where no other comment is, and this program to its creators.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Image, OutputError, attestation::Statement};
use crate::tree;

/// The kind of lists that are attached.
const SPDX: &str = "https://spdx.dev/Document";
/// The list of the image itself is called this, up to the first dot.
const CORE: &str = "sbom";

/// What a scanner says of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sbom {
    /// The files that it wrote, by name.
    pub lists: Vec<(String, Vec<u8>)>,
    /// Which of the image's layers each path comes from.
    pub layers: HashMap<PathBuf, usize>,
    /// What made the build, as creators of lists are called: a name, `-`, a version.
    pub tool: String,
}

/// A statement as scanners write it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    predicate_type: String,
    #[serde(default)]
    subject: Option<Vec<Value>>,
    #[serde(default)]
    predicate: Value,
}

impl Sbom {
    /// What there is to say, each with the name of its file, the list of the image itself first: as it is attached to `image`, or as it is
    /// written where that is not known.
    pub(super) fn statements(
        &self,
        image: Option<&Image>,
    ) -> Result<Vec<(String, Statement)>, OutputError> {
        let mut statements = Vec::with_capacity(self.lists.len());
        for (name, bytes) in &self.lists {
            let written: Written =
                serde_json::from_slice(bytes).map_err(|source| OutputError::Statement {
                    name: name.clone(),
                    source,
                })?;
            if written.predicate_type != SPDX {
                return Err(OutputError::PredicateType {
                    name: name.clone(),
                    predicate_type: written.predicate_type,
                });
            }
            let mut statement = Statement {
                predicate_type: written.predicate_type,
                subjects: written.subject.unwrap_or_default(),
                predicate: written.predicate,
            };
            if is_core(name)
                && let Some(image) = image
            {
                self.supplement(&mut statement.predicate, image);
            }
            statements.push((name.clone(), statement));
        }
        statements.sort_by_key(|(name, _)| !is_core(name));
        Ok(statements)
    }

    /// Adds layers and this program to a document that is one.
    fn supplement(&self, document: &mut Value, image: &Image) {
        let version = document["spdxVersion"].as_str();
        let is_known = version.is_some_and(|version| version.starts_with("SPDX-2."));
        let Some(document) = document.as_object_mut().filter(|_| is_known) else {
            return;
        };
        let files = document.get_mut("files").and_then(Value::as_array_mut);
        for file in files.into_iter().flatten() {
            let has_comment = file["comment"]
                .as_str()
                .is_some_and(|text| !text.is_empty());
            let Some(name) = file["fileName"].as_str().filter(|_| !has_comment) else {
                continue;
            };
            let path = tree::clean(Path::new(name));
            let layer = self.layers.get(&path).and_then(|n| image.layers.get(*n));
            if let Some(layer) = layer {
                let digest = layer.descriptor.digest;
                file["comment"] = format!("layerID: {digest}").into();
            }
        }
        let made = document.entry("creationInfo").or_insert_with(|| json!({}));
        let creators = made
            .as_object_mut()
            .map(|made| made.entry("creators").or_insert_with(|| json!([])));
        if let Some(creators) = creators.and_then(Value::as_array_mut) {
            creators.push(format!("Tool: {}", self.tool).into());
        }
    }
}

fn is_core(name: &str) -> bool {
    name.split('.').next() == Some(CORE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        oci::{ConfigFile, Descriptor, DiffId, MediaType, sha256},
        output::{ImageLayer, LayerOrigin},
    };

    fn image() -> Image {
        let layer = |bytes: &[u8]| ImageLayer {
            diff_id: DiffId(sha256(bytes)),
            descriptor: Descriptor::of(MediaType::OCI_LAYER, bytes),
            origin: LayerOrigin::Built,
        };
        Image {
            config: ConfigFile::default(),
            base_history: 0,
            layers: vec![layer(b"0"), layer(b"1")],
        }
    }

    fn said(name: &str, statement: &Value) -> Result<Vec<(String, Statement)>, OutputError> {
        let bytes = statement.to_string().into_bytes();
        Sbom {
            lists: vec![
                ("other.json".to_owned(), of(&json!({})).to_string().into()),
                (name.to_owned(), bytes),
            ],
            layers: HashMap::from([("etc/a".into(), 0), ("bin/b".into(), 1)]),
            tool: "rbuild-1".to_owned(),
        }
        .statements(Some(&image()))
    }

    fn of(predicate: &Value) -> Value {
        json!({"predicateType": SPDX, "subject": null, "predicate": predicate})
    }

    #[test]
    fn files_of_the_image_are_told_with_their_layers() {
        let document = json!({
            "spdxVersion": "SPDX-2.3",
            "files": [
                {"fileName": "/etc/a"},
                {"fileName": "bin/../bin/b"},
                {"fileName": "/etc/a", "comment": "mine"},
                {"fileName": "/gone"},
                7,
            ],
            "creationInfo": {"creators": ["Tool: scan"]},
        });
        let said = said("sbom.spdx.json", &of(&document)).expect("valid");
        assert_eq!(said[0].0, "sbom.spdx.json", "that of the image comes first");
        let layer = |bytes: &[u8]| format!("layerID: {}", sha256(bytes));
        let want = json!({
            "spdxVersion": "SPDX-2.3",
            "files": [
                {"fileName": "/etc/a", "comment": layer(b"0")},
                {"fileName": "bin/../bin/b", "comment": layer(b"1")},
                {"fileName": "/etc/a", "comment": "mine"},
                {"fileName": "/gone"},
                7,
            ],
            "creationInfo": {"creators": ["Tool: scan", "Tool: rbuild-1"]},
        });
        assert_eq!(said[0].1.predicate, want);
        assert!(said[0].1.subjects.is_empty());
    }

    #[test]
    fn what_is_not_the_list_of_the_image_or_no_such_document_stays_as_it_is() {
        let document = json!({"spdxVersion": "SPDX-2.3", "files": [{"fileName": "/etc/a"}]});
        let extra = said("sbom-build.spdx.json", &of(&document)).expect("valid");
        assert_eq!(extra[1].1.predicate, document);
        for odd in [
            json!(null),
            json!("text"),
            json!({"spdxVersion": "SPDX-3.0", "files": [{"fileName": "/etc/a"}]}),
        ] {
            let said = said("sbom.spdx.json", &of(&odd)).expect("valid");
            assert_eq!(said[0].1.predicate, odd);
        }
        let odd = json!({"spdxVersion": "SPDX-2.2", "creationInfo": 1, "files": {}});
        let said = said("sbom.spdx.json", &of(&odd)).expect("valid");
        assert_eq!(said[0].1.predicate, odd);
    }

    #[test]
    fn other_files_are_refused_by_name() {
        let other = json!({"predicateType": "https://slsa.dev/provenance/v1"});
        let error = said("x.json", &other).expect_err("no list");
        assert_eq!(
            error.to_string(),
            "`x.json` that the scanner wrote is no list of packages: its predicate type is `https://slsa.dev/provenance/v1`"
        );
        let error = said("y.json", &json!(7)).expect_err("no statement");
        assert_eq!(
            error.to_string(),
            "`y.json` that the scanner wrote is no in-toto statement"
        );
    }
}
