//! Images that were built apart and joined, pushed to a real registry and judged by what it gives back.

use rbuild::{oci::Descriptor, output::validate, reference::Reference, store::Store};

use super::{
    client, reference,
    servers::{Server, have},
};
use crate::support::TestEnv;

/// Fetches all that a name stands for into a new store, and judges it. Gives the platforms.
fn read_back(image: &Reference) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("store")).expect("a store");
    let client = client();
    let root = client.manifest(image).expect("the name is known");
    let mut documents = vec![root.clone()];
    for entry in root.index().iter().flat_map(|index| &index.manifests) {
        let child = image.clone().with_digest(entry.digest);
        documents.push(client.manifest(&child).expect("the manifest is there"));
    }
    for document in &documents {
        store.put_bytes(&document.bytes).expect("stored");
        let Some(manifest) = document.manifest() else {
            continue;
        };
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            let mut bytes = Vec::new();
            client.blob(image, blob, &mut bytes).expect("a blob");
            store.put_blob(blob, bytes.as_slice()).expect("stored");
        }
    }
    let faults = validate(&store, &root.descriptor).expect("readable");
    assert_eq!(faults, [], "{image}");
    let platform = |d: &Descriptor| d.platform.as_ref().map(ToString::to_string);
    root.index()
        .map(|index| index.manifests.iter().filter_map(platform).collect())
        .unwrap_or_default()
}

/// An environment that builds images for one platform and pushes them to the server.
fn push(server: &Server, name: &str, platform: &str) {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nARG TARGETARCH\nCOPY a.txt /\nCOPY only.txt /\n")
        .file("a.txt", "the same for all\n")
        .file("only.txt", platform);
    let name = format!("{}/{name}", server.host);
    let pushed = env.build(&["-t", &name, "--platform", platform, "--push"]);
    let pushed = pushed.success();
    assert!(
        read_back(&reference(
            &server.host,
            name.split_once('/').expect("a path").1
        ))
        .is_empty(),
        "{pushed}"
    );
}

#[test]
fn images_of_several_runners_are_joined() {
    if !have(&["docker-registry"]) {
        return;
    }
    let server = Server::plain();
    push(&server, "app:amd64", "linux/amd64");
    push(&server, "other/app:arm64", "linux/arm64");
    let at = |rest: &str| format!("{}/{rest}", server.host);

    let env = TestEnv::new();
    let (list, amd64, arm64) = (at("joined/app:v1"), at("app:amd64"), at("other/app:arm64"));
    let created = env
        .run(&[
            "manifest",
            "create",
            &list,
            &amd64,
            &arm64,
            "--annotation",
            "a.b=c",
        ])
        .success();
    let blobs = std::fs::read_dir(env.path("root/blobs/sha256")).expect("a store");
    assert_eq!(blobs.count(), 4, "two manifests, two configs: {created}");
    let pushed = env
        .run(&["manifest", "push", "--progress=plain", &list])
        .success()
        .says("mounted from");
    assert_eq!(pushed.stdout, created.stdout);
    let name = reference(&server.host, "joined/app:v1");
    assert_eq!(read_back(&name), ["linux/amd64", "linux/arm64"]);
    let root = client().manifest(&name).expect("it is there");
    assert_eq!(format!("{}\n", root.descriptor.digest), created.stdout);
    assert_eq!(root.index().expect("an index").annotations["a.b"], "c");

    // Elsewhere nothing can be mounted: layers go through the store.
    let elsewhere = Server::plain();
    let there = format!("{}/app:v1", elsewhere.host);
    drop(env.run(&["manifest", "push", &list, &there]).success());
    assert_eq!(
        read_back(&reference(&elsewhere.host, "app:v1")),
        ["linux/amd64", "linux/arm64"]
    );

    // A list can be made of lists and of the store's images, but has one image for a platform.
    drop(
        env.run(&["pull", "--platform=linux/arm64", &arm64])
            .success(),
    );
    drop(
        env.run(&["manifest", "create", "x", &list, &arm64])
            .success(),
    );
    env.dockerfile("FROM scratch\nCOPY a.txt /\n")
        .file("a.txt", "x");
    drop(
        env.build(&["-t", "mine", "--platform=linux/arm64"])
            .success(),
    );
    env.run(&["manifest", "create", "x", &list, "mine"])
        .exits(1)
        .says("`mine` is for linux/arm64, and so is an image before it");
    env.run(&["manifest", "push", "nothing"])
        .exits(1)
        .says("there is no list `nothing:latest`");
}

#[test]
fn a_mirror_of_the_command_line_is_asked() {
    if !have(&["docker-registry"]) {
        return;
    }
    let server = Server::plain();
    push(&server, "library/thing:1", "linux/amd64");
    let env = TestEnv::new();
    let mirror = format!("--registry-mirror={}", server.host);
    let pulled = env
        .run(&["pull", "--platform=linux/amd64", &mirror, "thing:1"])
        .success();
    env.run(&["images"]).success().prints("thing:1");
    assert!(pulled.stdout.starts_with("sha256:"), "{pulled}");
}

#[test]
fn who_waits_for_a_registry_is_told_why() {
    let env = TestEnv::new();
    env.run(&[
        "pull",
        "--progress=plain",
        "--registry-retries=1",
        "127.0.0.1:1/app:1",
    ])
    .exits(4)
    .says("WARNING: ");
}

#[test]
fn loading_needs_an_engine() {
    let mut env = TestEnv::new();
    let socket = format!("unix://{}", env.path("none.sock").display());
    env.var("DOCKER_HOST", &socket);
    env.dockerfile("FROM scratch\nLABEL a=b\n");
    env.build(&["-t", "app", "--load"])
        .exits(3)
        .says("there is no Docker engine at");
}
