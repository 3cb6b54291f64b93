//! Where a cache can be: directories, real registries, buckets, the Actions cache.

use super::{
    super::{
        registry::servers::{Server, have},
        support::{ActionsCache, TestEnv},
    },
    blobs, built, dockerfile,
    moto::Moto,
    n_executed, prepared, runner,
};

#[test]
fn a_directory_does_not_grow_and_holds_several_caches() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY a /\n").file("a", "one");
    let to = "type=local,dest=cache";
    let one = runner(&env, "one");
    one.build(&["--cache-to", to, "-t", "app"]).success();
    let n_before = blobs(&env.path("cache")).len();
    env.file("a", "two");
    one.build(&["--cache-to", to, "-t", "app"]).success();
    assert_eq!(blobs(&env.path("cache")).len(), n_before);
    env.file("a", "three");
    one.build(&["--cache-to", &format!("{to},tag=other"), "-t", "app"])
        .success();
    assert_eq!(blobs(&env.path("cache")).len(), 2 * n_before);
    for (text, tag) in [("two", "latest"), ("three", "other")] {
        env.file("a", text);
        let from = format!("type=local,src=cache,tag={tag}");
        let two = runner(&env, text).build(&["--cache-from", &from, "-t", "app"]);
        assert_eq!(n_executed(&two.success()), 0);
    }
}

#[test]
fn blobs_of_an_export_that_came_to_no_end_go_with_the_next() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY a /\n").file("a", "one");
    let to = ["--cache-to", "type=local,dest=cache", "-t", "app"];
    let one = runner(&env, "one");
    std::fs::create_dir(env.path("cache")).expect("a directory");
    let index = env.path("cache/index.json");
    std::fs::write(&index, "no index").expect("a file");
    one.build(&to).exits(4);
    let left = blobs(&env.path("cache"));
    assert!(!left.is_empty(), "layers come before the index");
    std::fs::remove_file(&index).expect("a file");
    env.file("a", "two");
    one.build(&to).success();
    let after = blobs(&env.path("cache"));
    assert!(left.iter().all(|blob| !after.contains(blob)), "{after:?}");
}

#[test]
fn the_metadata_file_names_the_manifest_of_the_cache() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY a /\n").file("a", "a");
    let to = "type=local,dest=cache";
    let args = [
        "--cache-to",
        to,
        "-o",
        "type=cacheonly",
        "--metadata-file",
        "m",
    ];
    runner(&env, "one").build(&args).success();
    let read = |path: &str| -> serde_json::Value {
        let text = std::fs::read_to_string(env.path(path)).expect("a file");
        serde_json::from_str(&text).expect("JSON")
    };
    let said = read("m")["cache.manifest"]
        .as_str()
        .expect("a text")
        .to_owned();
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON in it");
    let entry = &read("cache/index.json")["manifests"][0];
    for field in ["mediaType", "digest", "size"] {
        assert_eq!(said[field], entry[field], "{field}");
    }
    runner(&env, "one")
        .build(&["-o", "type=cacheonly", "--metadata-file", "none"])
        .success();
    assert!(read("none").get("cache.manifest").is_none());
}

#[test]
fn a_real_registry_takes_the_cache() {
    if !have(&["docker-registry"]) {
        return;
    }
    let Some(env) = prepared(&dockerfile()) else {
        return;
    };
    let server = Server::plain();
    let to = format!("type=registry,ref={}/team/cache:main,mode=max", server.host);
    let name = format!("{}/team/app:v1", server.host);
    runner(&env, "one")
        .build(&[
            "--cache-to",
            &to,
            "--push",
            "-t",
            &name,
            "--metadata-file",
            "m1",
        ])
        .success();
    let from = format!("{}/team/cache:main", server.host);
    let other = format!("{}/other/app:v1", server.host);
    let two = runner(&env, "two");
    let second = two
        .build(&[
            "--cache-from",
            &from,
            "--push",
            "-t",
            &other,
            "--metadata-file",
            "m2",
        ])
        .success()
        .says("mounted from");
    assert_eq!(n_executed(&second), 0, "{second}");
    assert_eq!(built(&env, "m1"), built(&env, "m2"), "{second}");
    let manifest = format!("{}@{}", other, built(&env, "m2"));
    let root = two.root.to_str().expect("text");
    env.run(&["--root", root, "pull", &manifest]).success();
    assert!(two.has(&built(&env, "m2")));
}

#[test]
fn a_bucket_holds_a_cache() {
    let Some(mut env) = prepared(&dockerfile()) else {
        return;
    };
    let Some(moto) = Moto::start("caches") else {
        return;
    };
    env.var("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE");
    env.var("AWS_SECRET_ACCESS_KEY", "very-secret");
    env.var("AWS_REGION", "eu-west-1");
    let place = format!(
        "type=s3,bucket=caches,endpoint_url=http://{},prefix=team a/,name=main",
        moto.host
    );
    let none = runner(&env, "none").build(&["--cache-from", &place, "-o", "type=cacheonly"]);
    let none = none.success().says("there is no cache yet");
    assert!(!none.stderr.contains("is not used"), "{none}");
    let to = format!("{place},mode=max");
    runner(&env, "one")
        .build(&["--cache-to", &to, "-t", "app", "--metadata-file", "m1"])
        .success()
        .says("exporting cache to Amazon S3");
    // What is there is found there.
    runner(&env, "one")
        .build(&["--cache-to", &to, "-t", "app"])
        .success()
        .says("exporting cache to Amazon S3");
    let second = runner(&env, "two")
        .build(&["--cache-from", &place, "-t", "app", "--metadata-file", "m2"])
        .success();
    assert_eq!(n_executed(&second), 0, "{second}");
    assert_eq!(built(&env, "m1"), built(&env, "m2"), "{second}");
    env.file("src", "changed\n");
    let third = runner(&env, "three")
        .build(&["--cache-from", &place, "-t", "app"])
        .success();
    assert_eq!(n_executed(&third), 5, "{third}");

    let wrong = place.replace("bucket=caches", "bucket=other");
    let failed = runner(&env, "two").build(&["--cache-to", &wrong, "-t", "app"]);
    let failed = failed.exits(4);
    assert!(!failed.stderr.contains("very-secret"), "{failed}");
    let failed = failed.says("NoSuchBucket");
    assert!(!failed.stderr.contains("X-Amz-Signature"), "{failed}");
}

#[test]
fn the_actions_cache_holds_a_cache() {
    let Some(mut env) = prepared(&dockerfile()) else {
        return;
    };
    let service = ActionsCache::start();
    let missing = runner(&env, "one").build(&["--cache-to", "type=gha", "-t", "app"]);
    missing.exits(2).says("ACTIONS_RESULTS_URL");
    env.var("ACTIONS_RESULTS_URL", &service.url());
    env.var("ACTIONS_RUNTIME_TOKEN", ActionsCache::token());
    let to = "type=gha,mode=max,scope=main";
    runner(&env, "one")
        .build(&[
            "--cache-from",
            "type=gha,scope=main",
            "--cache-to",
            to,
            "-t",
            "app",
            "--metadata-file",
            "m1",
        ])
        .success()
        .says("there is no cache yet")
        .says("exporting cache to GitHub Actions Cache");
    let keys = service.keys();
    let layers = keys
        .iter()
        .filter(|key| key.starts_with("rbuild-blob-sha256:"));
    // Seven steps, of which a copy makes the layer again that it copies.
    assert!(layers.count() >= 6, "{keys:?}");
    service.clear_log();
    let second = runner(&env, "two")
        .build(&[
            "--cache-from",
            "type=gha,scope=main",
            "--cache-to",
            to,
            "-o",
            "type=cacheonly",
        ])
        .success();
    assert_eq!(n_executed(&second), 0, "{second}");
    let log = service.log();
    // The records come and go; no layer does either.
    assert_eq!(
        log.iter()
            .filter(|line| line.starts_with("GET /store/"))
            .count(),
        1,
        "{log:?}"
    );
    assert_eq!(
        log.iter()
            .filter(|line| line.starts_with("PUT /store/"))
            .count(),
        1,
        "{log:?}"
    );
    let third = runner(&env, "three")
        .build(&[
            "--cache-from",
            "type=gha,scope=main",
            "-t",
            "app",
            "--metadata-file",
            "m3",
        ])
        .success();
    assert_eq!(n_executed(&third), 0, "{third}");
    assert_eq!(built(&env, "m1"), built(&env, "m3"), "{third}");
    // Another scope is another cache.
    let other = runner(&env, "four")
        .build(&["--cache-from", "type=gha,scope=mai", "-o", "type=cacheonly"])
        .success()
        .says("there is no cache yet");
    assert!(n_executed(&other) > 0, "{other}");
    env.var("ACTIONS_RUNTIME_TOKEN", "wrong-token");
    let denied = runner(&env, "five").build(&["--cache-to", to, "-o", "type=cacheonly"]);
    let denied = denied.exits(4);
    assert!(!denied.stderr.contains("wrong-token"), "{denied}");
}
