//! Provenance: what is attached to images, in the form in which BuildKit attaches it.

use std::fs;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rbuild::oci::sha256;
use serde_json::{Value, json};

use crate::support::{FakeRegistry, TestEnv};

/// A document or blob of a layout.
fn blob(layout: &std::path::Path, digest: &Value) -> Value {
    let name = digest.as_str().expect("a digest").replace(':', "/");
    let bytes = fs::read(layout.join("blobs").join(name)).expect("it is there");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// The statement about each image of a layout's index.
fn statements(layout: &std::path::Path) -> Vec<Value> {
    let index: Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).expect("a layout"))
            .expect("JSON");
    let index = blob(layout, &index["manifests"][0]["digest"]);
    let manifests = index["manifests"].as_array().expect("a list");
    let n_images = manifests.len() / 2;
    let (images, attestations) = manifests.split_at(n_images);
    let statement = |(image, entry): (&Value, &Value)| {
        let (digest, size) = (&image["digest"], &image["size"]);
        assert_eq!(
            entry["annotations"],
            json!({
                "vnd.docker.reference.digest": digest,
                "vnd.docker.reference.type": "attestation-manifest",
            })
        );
        assert_eq!(
            entry["platform"],
            json!({"architecture": "unknown", "os": "unknown"})
        );
        let manifest = blob(layout, &entry["digest"]);
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        assert_eq!(manifest["mediaType"], media_type);
        assert_eq!(
            manifest["artifactType"],
            "application/vnd.docker.attestation.manifest.v1+json"
        );
        assert_eq!(
            manifest["config"],
            json!({
                "mediaType": "application/vnd.oci.empty.v1+json",
                "digest": sha256(b"{}").to_string(), "size": 2, "data": "e30=",
            })
        );
        assert_eq!(
            manifest["subject"],
            json!({"mediaType": media_type, "digest": digest, "size": size})
        );
        let layer = &manifest["layers"][0];
        assert_eq!(layer["mediaType"], "application/vnd.in-toto+json");
        let kind = json!({"in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"});
        assert_eq!(layer["annotations"], kind);
        let statement = blob(layout, &layer["digest"]);
        assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
        let hex = digest.as_str().expect("a digest").replace("sha256:", "");
        // As many as the image has names.
        for subject in statement["subject"].as_array().expect("a list") {
            assert_eq!(subject["digest"], json!({"sha256": hex}));
        }
        statement
    };
    images.iter().zip(attestations).map(statement).collect()
}

const DOCKERFILE: &str = "FROM base AS b\nARG COLOUR\nLABEL a=$COLOUR\nFROM b\nCOPY a /a\n";

#[test]
fn provenance_tells_bases_arguments_and_the_dockerfile_but_no_secrets() {
    let env = TestEnv::new();
    env.dockerfile(DOCKERFILE).file("a", "text");
    fs::write(env.path("token"), "hunter2").expect("written");
    let base = TestEnv::base_context();
    let layout = env.path("layout");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    let secret = format!("id=token,src={}", env.path("token").display());
    let metadata = env.path("metadata.json");
    let build = |provenance: &str| {
        let built = env.build(&[
            provenance,
            "--build-context",
            &base,
            "--build-arg=COLOUR=red",
            "--build-arg=HTTP_PROXY=http://me:hunter2@proxy",
            "--secret",
            &secret,
            "-t",
            "127.0.0.1:5000/team/app:1",
            "-o",
            &output,
            "--metadata-file",
            metadata.to_str().expect("text"),
        ]);
        drop(built.success());
        let statements = statements(&layout);
        assert_eq!(statements.len(), 1);
        let text = statements[0].to_string();
        for secret in ["hunter2", env.path("").to_str().expect("text")] {
            assert!(!text.contains(secret), "{text}");
        }
        let told: Value =
            serde_json::from_slice(&fs::read(&metadata).expect("written")).expect("JSON");
        assert_eq!(told["buildx.build.provenance"], statements[0]["predicate"]);
        assert_eq!(told.get("containerimage.config.digest"), None);
        statements[0].clone()
    };
    let statement = build("--provenance=mode=max,builder-id=https://ci.test/1");
    let platform = rbuild::oci::Platform::host().normalized().to_string();
    let escaped = platform.replace('/', "%2F");
    assert_eq!(
        statement["subject"][0]["name"],
        format!("pkg:docker/127.0.0.1%3A5000/team/app@1?platform={escaped}")
    );
    let definition = &statement["predicate"]["buildDefinition"];
    let dependency = &definition["resolvedDependencies"][0];
    let hex = dependency["digest"]["sha256"].as_str().expect("a digest");
    assert_eq!(
        dependency["uri"],
        format!("pkg:oci/base?digest=sha256:{hex}&platform={escaped}")
    );
    assert!(fs::metadata(TestEnv::base().join("blobs/sha256").join(hex)).is_ok());
    let request = &definition["externalParameters"]["request"];
    assert_eq!(request["args"]["build-arg:COLOUR"], "red");
    assert_eq!(
        request["secrets"],
        json!([{"id": "token", "optional": true}])
    );
    let run = &statement["predicate"]["runDetails"];
    let is_complete = |run: &Value| run["metadata"]["buildkit_completeness"]["request"].clone();
    assert_eq!(is_complete(run), true);
    assert_eq!(run["builder"]["id"], "https://ci.test/1");
    let source = &run["metadata"]["buildkit_metadata"]["source"]["infos"][0];
    assert_eq!(source["data"], STANDARD.encode(DOCKERFILE));
    // The time of the build is fixed, so nothing of it differs the next time.
    assert_eq!(run["metadata"].get("startedOn"), None);
    assert_eq!(run["metadata"].get("invocationId"), None);
    assert_eq!(
        definition["externalParameters"]["configSource"],
        json!({"path": "Dockerfile"})
    );
    assert_eq!(
        build("--provenance=mode=max,builder-id=https://ci.test/1"),
        statement
    );

    let least = build("--attest=type=provenance,mode=min");
    assert_eq!(is_complete(&least["predicate"]["runDetails"]), false);
    let text = least.to_string();
    for told in ["\"red\"", "token", &STANDARD.encode(DOCKERFILE)] {
        assert!(!text.contains(told), "{text}");
    }
    assert_eq!(
        least["predicate"]["buildDefinition"]["resolvedDependencies"],
        definition["resolvedDependencies"]
    );
}

#[test]
fn images_with_provenance_are_pushed_pulled_run_from_and_saved() {
    let fake = FakeRegistry::start();
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY a /a\n")
        .file("a", "text");
    let name = format!("{}/team/app:1", fake.host());
    let two = "--platform=linux/amd64,linux/arm64";
    let built = env
        .build(&[
            two,
            "--provenance",
            "-t",
            &name,
            "--push",
            "-o",
            "type=image",
        ])
        .success();
    let index = fake.manifest("team/app", "1").expect("pushed");
    let index: Value = serde_json::from_slice(&index).expect("JSON");
    let entries = index["manifests"].as_array().expect("a list");
    assert_eq!(entries.len(), 4, "{built}");
    for entry in entries {
        let digest = entry["digest"].as_str().expect("a digest");
        let manifest = fake.manifest("team/app", digest).expect("pushed");
        let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
        for blob in manifest["layers"].as_array().expect("a list") {
            let digest = blob["digest"].as_str().expect("a digest");
            assert!(
                fake.blob("team/app", digest.parse().expect("valid"))
                    .is_some()
            );
        }
    }
    // Nobody takes the attestations for images.
    env.run(&["images"])
        .success()
        .prints("linux/amd64,linux/arm64");
    let inspected = env.run(&["inspect", "--format=json", &name]).success();
    let inspected: Value = serde_json::from_str(&inspected.stdout).expect("JSON");
    assert_eq!(inspected["images"].as_array().map(Vec::len), Some(2));
    let other = TestEnv::new();
    let pull = ["pull", "--platform=linux/arm64", &name];
    other.run(&pull).success();
    other.dockerfile(&format!("FROM {name}\nLABEL b=c\n"));
    other
        .build(&["--platform=linux/amd64", "--pull", "-t", "next"])
        .success();
    // A list for a registry, and an archive, have all of it.
    let again = format!("{}/again/app:1", fake.host());
    env.run(&["tag", &name, &again]).success();
    env.run(&["push", &again]).success();
    assert_eq!(
        fake.manifest("again/app", "1"),
        fake.manifest("team/app", "1")
    );
    let archive = env.path("saved.tar").display().to_string();
    env.run(&["save", "--format=oci", "-o", &archive, &name])
        .success();
    let third = TestEnv::new();
    third.run(&["load", "-i", &archive]).success();
    third.run(&["cache", "verify"]).success();
    // `docker load` reads none, so there is none.
    let docker = format!("type=docker,dest={}", env.path("docker.tar").display());
    env.build(&[
        "--provenance=inline-only=true",
        "-o",
        &docker,
        "-o",
        "type=image",
    ])
    .success();
}

#[test]
fn each_build_says_which_it_was_unless_its_time_is_fixed() {
    let mut env = TestEnv::new();
    env.var("SOURCE_DATE_EPOCH", "");
    env.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    let metadata = || {
        let args = ["--provenance", "-o", "type=image", "--metadata-file=m"];
        drop(env.build(&args).success());
        let told = fs::read(env.path("m")).expect("written");
        let told: Value = serde_json::from_slice(&told).expect("JSON");
        told["buildx.build.provenance"]["runDetails"]["metadata"].clone()
    };
    let (first, second) = (metadata(), metadata());
    for field in ["invocationId", "startedOn", "finishedOn"] {
        assert!(first[field].is_string(), "{first}");
        assert_ne!(first[field], second[field]);
    }
}

/// What the index of a layout made by a build with these arguments points to.
fn exported(env: &TestEnv, name: &str, args: &[&str], attributes: &str) -> Vec<Value> {
    let layout = env.path(name);
    let spec = format!("type=oci,tar=false,dest={}{attributes}", layout.display());
    let mut all = args.to_vec();
    all.extend(["-o", &spec]);
    env.build(&all).success();
    let index: Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).expect("a layout"))
            .expect("JSON");
    let root = blob(&layout, &index["manifests"][0]["digest"]);
    let entries = root["manifests"].as_array().cloned().unwrap_or_default();
    entries
        .iter()
        .map(|entry| blob(&layout, &entry["digest"]))
        .collect()
}

#[test]
fn provenance_is_where_buildkit_has_it() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch AS none\nLABEL a=b\nFROM scratch\nCOPY Dockerfile /\n");
    let min = "--provenance=mode=min";
    assert_eq!(exported(&env, "plain", &[min], "").len(), 2);
    // What is for images in stores and registries alone is not in archives, unless they ask for it.
    let inline = "--provenance=mode=min,inline-only=true";
    assert_eq!(exported(&env, "inline", &[inline], "").len(), 0);
    let asked = exported(&env, "asked", &[inline], ",attestation-inline=true");
    assert_eq!(asked.len(), 2);
    let target = ["--target", "none", min];
    assert_eq!(exported(&env, "none", &target, "").len(), 0);
    // In the form of images.
    let args = [min, "-t", "team/app:v1"];
    let old = exported(&env, "old", &args, ",oci-artifact=false");
    let attestation = &old[1];
    assert_eq!(attestation["artifactType"], Value::Null);
    assert_eq!(attestation["subject"], Value::Null);
    let config = blob(&env.path("old"), &attestation["config"]["digest"]);
    let layer = &attestation["layers"][0]["digest"];
    assert_eq!(
        config,
        json!({
            "architecture": "unknown", "os": "unknown", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        })
    );
    let statement = blob(&env.path("old"), layer);
    assert_eq!(
        statement["subject"][0]["name"]
            .as_str()
            .map(|name| name.split('?').next()),
        Some(Some("pkg:docker/team/app@v1"))
    );
    let definition = &statement["predicate"]["buildDefinition"];
    assert_eq!(definition["resolvedDependencies"], Value::Null);
    env.build(&[min, "-o", "type=oci,dest=x,oci-mediatypes=false"])
        .exits(2)
        .says("provenance needs OCI media types");
    // Files of one platform are not in a directory of their own because of it.
    let files = env.path("files").display().to_string();
    env.build(&[inline, "-o", &files]).success();
    assert!(env.path("files/Dockerfile").is_file());
}
