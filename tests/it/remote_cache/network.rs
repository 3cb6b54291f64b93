//! A cache in a registry that breaks off, lies or talks without end: the build is right, as if there were none.

use std::fs;

use rbuild::oci::{Descriptor, MediaType, sha256};
use serde_json::json;

use super::{n_executed, prepared, runner};
use crate::support::{FakeRegistry, Fault, Outcome, TestEnv};

const DOCKERFILE: &str = "FROM base\nCOPY src /one\nRUN cat /one /one >/two\n";

/// Builds on a new machine; the files have to be right and the store whole.
fn builds_rightly(env: &TestEnv, what: &str, from: &str) -> Outcome {
    let root = format!("root-{}", sha256(what.as_bytes()).hex());
    let outcome = runner(env, &root).build(&["--cache-from", from, "-o", "out"]);
    assert_eq!(outcome.code, Some(0), "{what}: {outcome}");
    let text = fs::read_to_string(env.path("out/two")).expect("a file");
    assert_eq!(text, "source\n".repeat(2), "{what}: {outcome}");
    let verified = env.run(&["--root", &root, "cache", "verify"]);
    assert_eq!(verified.code, Some(0), "{what}: {verified}");
    fs::remove_dir_all(env.path("out")).expect("removable");
    fs::remove_dir_all(env.path(&root)).expect("removable");
    outcome
}

#[test]
fn a_cache_in_a_registry_that_fails_at_any_point_is_no_cache() {
    let Some(env) = prepared(DOCKERFILE) else {
        return;
    };
    let fake = FakeRegistry::start();
    let from = format!("type=registry,ref={}/cache:1", fake.host());
    let to = format!("{from},mode=max");
    runner(&env, "one")
        .build(&["--cache-to", &to, "-o", "type=cacheonly"])
        .success();
    fake.clear_log();
    let honest = builds_rightly(&env, "honest", &from);
    assert_eq!(n_executed(&honest), 0, "{honest}");
    // Documents first, then layers.
    let asked = fake.lines();
    let begins = |begin: &str| {
        let found = asked.iter().find(|line| line.starts_with(begin));
        found
            .unwrap_or_else(|| panic!("{begin}: {asked:?}"))
            .clone()
    };
    let manifest = begins("GET /v2/cache/manifests/");
    let config = begins("GET /v2/cache/blobs/");
    let layer = asked
        .iter()
        .rfind(|line| line.starts_with("GET /v2/cache/blobs/"));
    let layer = layer.expect("a layer").clone();
    assert_ne!(config, layer);
    let html = b"<html><body>Please log in</body></html>".to_vec();
    for (n, line) in [manifest, config, layer].into_iter().enumerate() {
        for fault in [
            Fault::Drop,
            Fault::CutAnswer(20),
            Fault::Body(html.clone()),
            Fault::Endless,
            Fault::Answer(401, vec![], html.clone()),
            Fault::Answer(503, vec![("Retry-After", "9999999999".to_owned())], vec![]),
            Fault::Answer(307, vec![("Location", line[4..].to_owned())], vec![]),
        ] {
            // Between the other two, what is no answer is the same.
            if n == 1 && matches!(fault, Fault::Drop | Fault::Answer(..)) {
                continue;
            }
            let what = format!("{n} {fault:?}");
            let meant = line.clone();
            fake.faults(move |received, _| (received.line() == meant).then(|| fault.clone()));
            let outcome = builds_rightly(&env, &what, &from);
            assert_ne!(n_executed(&outcome), 0, "{what}: {outcome}");
        }
    }
}

#[test]
fn documents_of_a_cache_that_make_no_sense_are_no_cache() {
    let Some(env) = prepared(DOCKERFILE) else {
        return;
    };
    let fake = FakeRegistry::start();
    let from = format!("type=registry,ref={}/cache:1", fake.host());
    let layer = Descriptor::of(MediaType::OCI_LAYER, b"not there");
    let put = |config: &[u8]| {
        let mut config = fake.put_blob("cache", config);
        config.media_type = MediaType::OCI_CONFIG;
        json!(config)
    };
    let manifest = |config: serde_json::Value, n_layers: usize| {
        json!({
            "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "config": config,
            "layers": vec![&layer; n_layers],
        })
    };
    let sized = |size: serde_json::Value| {
        let mut config = put(b"{}");
        config["size"] = size;
        manifest(config, 0)
    };
    let step = json!({
        "key": sha256(b"key"), "definition": sha256(b"definition"), "diff_id": sha256(b"diff"),
        "content": sha256(b"content"), "created": "2001-01-01T00:00:00Z",
    });
    let crowd = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": vec![sha256(b"diff"); 10_000]},
        "rbuild.cache.v1": {"steps": vec![&step; 20_000], "facts": [], "mounts": []},
    });
    let mut index = json!({"schemaVersion": 2, "manifests": []});
    for _ in 0..20 {
        let bytes = index.to_string();
        let inner = fake.put_manifest(
            "cache",
            &format!("sha256:{}", sha256(bytes.as_bytes()).hex()),
            &MediaType::OCI_INDEX,
            bytes.as_bytes(),
        );
        index =
            json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": [inner]});
    }
    for (what, document) in [
        ("negative size", sized(json!(-1))),
        ("enormous size", sized(json!(u64::MAX))),
        ("no size", sized(json!(null))),
        (
            "a document within documents",
            manifest(put(&b"[".repeat(200_000)), 0),
        ),
        (
            "numbers without end",
            manifest(put(&b"9".repeat(200_000)), 0),
        ),
        (
            "layers without end",
            manifest(put(crowd.to_string().as_bytes()), 10_000),
        ),
        (
            "steps without layers",
            manifest(put(crowd.to_string().as_bytes()), 0),
        ),
        ("no config", manifest(json!(layer), 1)),
        ("indexes in indexes", index),
        ("nothing", json!({})),
    ] {
        let kind = if document.get("manifests").is_some() {
            MediaType::OCI_INDEX
        } else {
            MediaType::OCI_MANIFEST
        };
        fake.put_manifest("cache", "1", &kind, document.to_string().as_bytes());
        let outcome = builds_rightly(&env, what, &from);
        assert_ne!(n_executed(&outcome), 0, "{what}: {outcome}");
    }
}
