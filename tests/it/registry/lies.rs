//! Registries that lie to the program: the lie is named, and nothing of it is in the store afterwards.

use std::{collections::BTreeSet, fs};

use rbuild::oci::{Manifest, MediaType, sha256, to_json};

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

#[test]
fn a_base_whose_long_layer_is_another_or_ends_early_is_refused() {
    // Longer than all buffers on the way.
    let text: Vec<u8> = noise(5_000_000)
        .into_iter()
        .flat_map(|byte| [b'a' + (byte >> 4), b'a' + (byte & 15)])
        .collect();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    let added = tar.append_data(&mut header, "usr/text", &text[..]);
    added.expect("memory takes it");
    let tar = tar.into_inner().expect("memory takes it");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &tar).expect("memory takes it");
    let whole = gzip.finish().expect("memory takes it");
    let short = whole[..whole.len() - 700_000].to_vec();
    let mut damaged = whole.clone();
    let last = damaged.len() - 6;
    damaged[last] ^= 1;
    for (blob, diff_id, refusal) in [
        (&whole, sha256(&tar), None),
        (
            &whole,
            sha256(b"another"),
            Some("but the image's config says"),
        ),
        (&short, sha256(&tar), Some("ends too early")),
        (&damaged, sha256(&tar), Some("checksum")),
    ] {
        let fake = FakeRegistry::start();
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
        );
        let mut config = fake.put_blob("a", config.as_bytes());
        config.media_type = MediaType::OCI_CONFIG;
        let mut layer = fake.put_blob("a", blob);
        layer.media_type = MediaType::OCI_LAYER_GZIP;
        let manifest = to_json(&Manifest::new(config, vec![layer]));
        fake.put_manifest("a", "1", &MediaType::OCI_MANIFEST, &manifest);
        let env = TestEnv::new();
        env.dockerfile(&format!("FROM {}/a:1\nCOPY file /usr/file\n", fake.host()))
            .file("file", "text\n");
        let built = env.build(&["--platform=linux/amd64"]);
        match refusal {
            None => {
                built.success();
                env.run(&["cache", "verify"]).success();
            }
            Some(text) => {
                assert_ne!(built.code, Some(0), "{built}");
                built.says(text);
                let known = fs::read_dir(env.path("root/layers")).expect("a store");
                assert_eq!(known.count(), 0, "nothing is remembered of it");
            }
        }
    }
}

#[test]
fn a_working_directory_that_no_file_system_has_is_the_images_fault() {
    let fake = FakeRegistry::start();
    let mut config = fake.put_blob(
        "a",
        br#"{"architecture":"amd64","os":"linux","config":{"WorkingDir":"/a\u0000b"},"rootfs":{"type":"layers","diff_ids":[]}}"#,
    );
    config.media_type = MediaType::OCI_CONFIG;
    let manifest = to_json(&Manifest::new(config, vec![]));
    fake.put_manifest("a", "1", &MediaType::OCI_MANIFEST, &manifest);
    let env = TestEnv::new();
    for (instruction, what) in [
        ("RUN [\"x\"]", "working directory"),
        (
            "WORKDIR /\nRUN --mount=type=cache,target=/c\0d [\"x\"]",
            "mount target",
        ),
    ] {
        env.dockerfile(&format!("FROM {}/a:1\n{instruction}\n", fake.host()));
        let built = env.build(&["--platform=linux/amd64"]);
        if built.stderr.contains("RUN needs ") {
            #[expect(clippy::print_stderr, reason = "a skipped test says why")]
            {
                eprintln!("skipped: no step can be run here:\n{built}");
            }
            return;
        }
        built
            .exits(1)
            .says(what)
            .says("holds a NUL byte")
            .says(" --> Dockerfile:");
    }
}
