use super::*;
use crate::oci::sha256;

pub(super) fn layer(text: &str) -> StoredLayer {
    StoredLayer {
        diff_id: DiffId(sha256(text.as_bytes())),
        blob: Descriptor::of(MediaType::OCI_LAYER_GZIP, text.as_bytes()),
    }
}

fn step(key: &str, layer: &StoredLayer, stored: bool) -> RemoteStep {
    RemoteStep {
        key: sha256(key.as_bytes()),
        definition: sha256(b"definition"),
        diff_id: layer.diff_id,
        blob: (!stored).then(|| layer.blob.clone()),
        created: "2026-01-01T00:00:00Z".to_owned(),
        content: None,
        parent: None,
        label: String::new(),
    }
}

fn sample() -> Records {
    let (a, b) = (layer("a"), layer("b"));
    let mut records = Records {
        steps: vec![step("1", &a, true), step("2", &b, false)],
        layers: vec![a],
        facts: vec![Fact {
            question: sha256(b"q"),
            answer: "0:0".to_owned(),
        }],
        mounts: vec![StoredMount {
            mount: CacheMountId {
                id: "go".to_owned(),
                seed: None,
                mode: 0o755,
                uid: 0,
                gid: 0,
            },
            diff_id: layer("a").diff_id,
            used: Timestamp::UNIX_EPOCH,
        }],
    };
    records.normalize();
    records
}

fn manifest(records: &Records, config: &[u8]) -> Manifest {
    Manifest::new(
        Descriptor::of(MediaType::OCI_CONFIG, config),
        records.layers.iter().map(|l| l.blob.clone()).collect(),
    )
}

#[test]
fn both_forms_come_back_as_they_were() {
    let records = sample();
    let config = records.to_config();
    let read = Records::from_image(&manifest(&records, &config), &config).expect("valid");
    assert_eq!(read, records);
    assert_eq!(
        Records::from_object(&records.to_object()).expect("valid"),
        records
    );
    let stored: Vec<bool> = records.results().map(|(_, _, stored)| stored).collect();
    assert_eq!(stored.iter().filter(|stored| **stored).count(), 1);
}

#[test]
fn what_is_not_as_it_has_to_be_is_refused() {
    let refused = |change: &dyn Fn(&mut Records)| {
        let mut records = sample();
        change(&mut records);
        Records::from_object(&records.to_object())
            .expect_err("it is wrong")
            .to_string()
    };
    let text = refused(&|r| r.layers[0].blob.media_type = MediaType::new("text/html"));
    assert!(text.contains("text/html"), "{text}");
    let text = refused(&|r| r.layers[0].blob.size = u64::MAX);
    assert!(text.contains("18446744073709551615 bytes"), "{text}");
    let text = refused(&|r| r.steps[0].created = "yesterday".to_owned());
    assert!(text.contains("yesterday"), "{text}");
    let mount = |mode: u32, id: &str| CacheMountId {
        id: id.to_owned(),
        seed: None,
        mode,
        uid: 1,
        gid: 2,
    };
    let with = |records: &mut Records, mount, layer| {
        records.mounts = vec![StoredMount {
            mount,
            diff_id: DiffId(layer),
            used: Timestamp::UNIX_EPOCH,
        }];
    };
    let stored = sample().layers[0].diff_id.0;
    let text = refused(&|r| with(r, mount(0o10_755, "go"), stored));
    assert!(text.contains("`go` is none"), "{text}");
    let text = refused(&|r| with(r, mount(0o755, &"x".repeat(5000)), stored));
    assert!(text.contains("is none"), "{text}");
    let text = refused(&|r| with(r, mount(0o755, "go"), sha256(b"elsewhere")));
    assert!(text.contains("not described"), "{text}");
    let text = refused(&|r| r.steps[0].label = "x".repeat(5000));
    assert!(text.contains("5000 bytes"), "{text}");
    let text = refused(&|r| r.layers.clear());
    assert!(text.contains("not described"), "{text}");
    let text = refused(&|r| r.facts[0].answer = "x".repeat(300));
    assert!(text.contains("300 bytes"), "{text}");
    let text = refused(&|r| r.facts = vec![r.facts[0].clone(); MAX_STEPS + 1]);
    assert!(text.contains("20001 records"), "{text}");
    let config = sample().to_config();
    let mut document = manifest(&sample(), &config);
    document.layers.clear();
    let error = Records::from_image(&document, &config).expect_err("it is wrong");
    assert!(matches!(error, RecordsError::Layers { .. }), "{error}");
    let plain = br#"{"rootfs":{"type":"layers","diff_ids":[]}}"#;
    let error = Records::from_image(&document, plain).expect_err("it has none");
    assert!(matches!(error, RecordsError::NoRecords), "{error}");
}

#[test]
fn a_cache_of_buildkit_is_told_as_such() {
    let config = br#"{"layers":[],"records":[]}"#;
    let kind = MediaType::new(BUILDKIT);
    let manifest = Manifest::new(Descriptor::of(kind, config), Vec::new());
    let error = Records::from_image(&manifest, config).expect_err("another program's");
    assert!(matches!(error, RecordsError::BuildKit), "{error}");
}

#[test]
fn other_fields_of_descriptors_are_dropped() {
    let mut records = sample();
    records.layers[0].blob.urls = vec!["https://elsewhere".to_owned()];
    let read = Records::from_object(&records.to_object()).expect("valid");
    assert_eq!(read, sample());
}
