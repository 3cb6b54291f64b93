//! Registries that lie to the program: the lie is named, and nothing of it is in the store afterwards.

use std::{collections::BTreeSet, fs};

use rbuild::oci::{MediaType, sha256};

use super::{is_blob_get, noise, put_image};
use crate::support::{FakeRegistry, Fault, Outcome, TestEnv, Wants};

/// What the store holds as blobs; each is what its name says.
fn blobs(env: &TestEnv) -> BTreeSet<String> {
    let dir = env.path("root/blobs/sha256");
    let entries = fs::read_dir(dir).expect("a store");
    entries
        .map(|entry| {
            let entry = entry.expect("readable");
            let name = entry.file_name().into_string().expect("text");
            let bytes = fs::read(entry.path()).expect("readable");
            assert_eq!(sha256(&bytes).hex(), name);
            name
        })
        .collect()
}

fn pull(env: &TestEnv, image: &str) -> Outcome {
    let platform = "--platform=linux/amd64";
    let args = ["pull", "--progress=plain", platform, "--registry-retries=1"];
    env.run(&[&args[..], &[image]].concat())
}

#[test]
fn nothing_wrong_enters_the_store_and_the_truth_does_afterwards() {
    let layer = b"linux/amd64".to_vec();
    let mut longer = layer.clone();
    longer.extend_from_slice(&noise(300_000));
    let mut other = layer.clone();
    other[0] ^= 1;
    let redirect = |to: String| Fault::Answer(307, vec![("Location", to)], vec![]);
    for (is_about_blobs, fault, want) in [
        (true, Fault::Body(other), "with digest sha256:"),
        (true, Fault::Body(longer), "bytes of blob sha256:"),
        (
            true,
            Fault::Body(b"short".to_vec()),
            "bytes of blob sha256:",
        ),
        (true, Fault::CutAnswer(4), "cannot be reached: "),
        (true, Fault::Endless, "bytes of blob sha256:"),
        (
            true,
            redirect("ftp://elsewhere/x".to_owned()),
            "not the address of an HTTP server",
        ),
        (false, Fault::Body(b"{}".to_vec()), "with digest sha256:"),
        (false, Fault::CutAnswer(4), "cannot be reached: "),
        (false, Fault::Endless, "more than 4194304 bytes"),
        (
            false,
            Fault::Headers(vec![("Content-Type", MediaType::OCI_INDEX.to_string())]),
            "but it says",
        ),
        (
            false,
            Fault::Answer(
                200,
                vec![],
                br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec(),
            ),
            "obsolete schema 1",
        ),
    ] {
        let fake = FakeRegistry::start();
        put_image(&fake, "a", "1", "linux/amd64");
        let shown = format!("{fault:?}");
        let digest = sha256(&layer);
        fake.faults(move |received, _| {
            let is_meant = if is_about_blobs {
                is_blob_get(received) && received.target.ends_with(&digest.hex())
            } else {
                received.method == "GET" && received.target.contains("/manifests/")
            };
            is_meant.then(|| fault.clone())
        });
        let env = TestEnv::new();
        let image = format!("{}/a:1", fake.host());
        let pulled = pull(&env, &image);
        assert_eq!(pulled.code, Some(4), "{shown}: {pulled}");
        let pulled = pulled.says(want).says(&fake.host());
        assert!(blobs(&env).is_empty(), "{shown}: {pulled}");
        let listed = env.run(&["images", "--quiet"]).success();
        assert_eq!(listed.stdout.trim(), "", "{shown}: {listed}");
        let entries = fs::read_dir(env.path("root/tmp")).into_iter().flatten();
        assert_eq!(entries.count(), 0, "{shown}: {pulled}");
        fake.faults(|_, _| None);
        pull(&env, &image).success();
        assert!(blobs(&env).contains(&digest.hex()), "{shown}");
        env.run(&["cache", "verify"]).success();
    }
}

#[test]
fn redirects_neither_go_round_nor_carry_the_password_away() {
    let (fake, other) = (FakeRegistry::start(), FakeRegistry::start());
    fake.wants(Wants::Basic("me:hunter2"));
    put_image(&fake, "a", "1", "linux/amd64");
    let elsewhere = other.host();
    fake.faults(move |received, _| {
        let is_allowed = is_blob_get(received) && !received.header("authorization").is_empty();
        is_allowed.then(|| {
            let to = format!("http://{elsewhere}{}", received.target);
            Fault::Answer(307, vec![("Location", to)], vec![])
        })
    });
    let back = fake.host();
    other.faults(move |received, _| {
        let to = format!("http://{back}{}", received.target);
        Some(Fault::Answer(307, vec![("Location", to)], vec![]))
    });
    let mut env = TestEnv::new();
    let auths = format!(
        r#"{{"auths":{{"{}":{{"auth":"bWU6aHVudGVyMg=="}}}}}}"#,
        fake.host()
    );
    env.var("DOCKER_AUTH_CONFIG", &auths);
    pull(&env, &format!("{}/a:1", fake.host()))
        .exits(4)
        .says("there are too many redirects");
    assert!(!other.log().is_empty());
    for received in other.log() {
        assert_eq!(received.header("authorization"), "", "{received:?}");
    }
    assert!(blobs(&env).is_empty());
}
