//! The outputs of one build as the command line asks for them, and what programs are told of them.

use std::{fs, os::unix::net::UnixListener, process::Command};

use rbuild::oci::{ANNOTATION_CREATED, sha256};
use serde_json::{Value, json};

use super::text;
use crate::support::{FakeRegistry, TestEnv};

fn json_of(path: &std::path::Path) -> Value {
    serde_json::from_str(&text(path)).expect("JSON")
}

/// What `--metadata-file` says of a build with these options.
fn metadata(env: &TestEnv, args: &[&str]) -> Value {
    let metadata = env.path("metadata.json");
    let file = metadata.to_str().expect("text");
    drop(
        env.build(&[&["--metadata-file", file], args].concat())
            .success(),
    );
    json_of(&metadata)
}

#[test]
fn several_outputs_are_made_by_one_build() {
    let fake = FakeRegistry::start();
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY a /a\n")
        .file("a", "text");
    let at = |name: &str| env.path(name).display().to_string();
    let (oci, docker) = (at("oci.tar"), at("docker"));
    let (first, second) = (
        format!("{}/team/app:v1", fake.host()),
        format!("{}/other/app:v2", fake.host()),
    );
    let built = metadata(
        &env,
        &[
            "--platform=linux/amd64",
            "-o",
            &format!("type=registry,\"name={first},{second}\",annotation.a=b"),
            "-o",
            &format!("type=oci,dest={oci},annotation.a=b"),
            "-o",
            &format!("type=docker,dest={docker},tar=false"),
            "-o",
            &format!("type=tar,dest={}", at("files.tar")),
            "-o",
            &at("files"),
            "-o",
            "type=image,name=mine",
            "-o",
            "type=cacheonly",
            "--iidfile",
            &at("iid"),
        ],
    );
    assert_eq!(text(&env.path("files/a")), "text");
    let listed = Command::new("tar").args(["tf", &at("files.tar")]).output();
    assert_eq!(listed.expect("tar runs").stdout, b"a\n");
    // Both names have the manifest; the archive has the same one.
    let digest = built["containerimage.digest"].as_str().expect("a digest");
    for (repository, tag) in [("team/app", "v1"), ("other/app", "v2")] {
        let manifest = fake.manifest(repository, tag).expect("pushed");
        assert_eq!(sha256(&manifest).to_string(), digest);
        let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
        assert_eq!(manifest["annotations"], json!({"a": "b"}));
        let id = manifest["config"]["digest"].as_str().expect("a digest");
        assert_eq!(text(&env.path("iid")), id);
        assert_eq!(built["containerimage.config.digest"], id);
    }
    assert_eq!(built["image.name"], format!("{first},{second}"));
    let listed = Command::new("tar").args(["tf", &oci]).output();
    let listed = String::from_utf8(listed.expect("tar runs").stdout).expect("text");
    let blob = format!("blobs/{}\n", digest.replace(':', "/"));
    assert!(listed.contains(&blob), "{listed}");
    // Without the annotation the image is another one, in the directory as in the store.
    let index = json_of(&env.path("docker/index.json"));
    let mine = env.run(&["inspect", "--format=json", "mine"]).success();
    let mine: Value = serde_json::from_str(&mine.stdout).expect("JSON");
    assert_eq!(
        index["manifests"][0]["digest"],
        mine["descriptor"]["digest"]
    );
    assert_ne!(mine["descriptor"]["digest"], digest);
}

#[test]
fn metadata_say_of_each_output_what_buildkit_says() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY a /a\n")
        .file("a", "text");
    let keys = |value: &Value| -> Vec<String> {
        let object = value.as_object().expect("an object");
        object.keys().cloned().collect()
    };
    let image = [
        "containerimage.config.digest",
        "containerimage.descriptor",
        "containerimage.digest",
    ];
    let named = [&image[..], &["image.name"]].concat();
    let created = json!({ANNOTATION_CREATED: "2023-11-14T22:13:20Z"});
    let at = |name: &str| env.path(name).display().to_string();
    let one = "--platform=linux/amd64";
    for (output, is_archive) in [
        ("type=image".to_owned(), false),
        (format!("type=oci,dest={}", at("a.tar")), true),
        (format!("type=docker,dest={}", at("b.tar")), true),
    ] {
        let told = metadata(&env, &[one, "-o", &output]);
        assert_eq!(keys(&told), image, "{output}");
        let descriptor = &told["containerimage.descriptor"];
        assert_eq!(
            descriptor["mediaType"],
            "application/vnd.oci.image.manifest.v1+json"
        );
        assert_eq!(descriptor["digest"], told["containerimage.digest"]);
        assert_eq!(
            descriptor["platform"],
            json!({"architecture": "amd64", "os": "linux"})
        );
        let annotations = descriptor.get("annotations");
        assert_eq!(annotations, is_archive.then_some(&created), "{output}");
        let told = metadata(&env, &[one, "-o", &output, "-t", "app"]);
        assert_eq!(keys(&told), named, "{output}");
    }
    let told = metadata(
        &env,
        &[
            "--platform=linux/amd64,linux/arm64",
            "-o",
            "type=image,name=two",
        ],
    );
    assert_eq!(keys(&told), &named[1..]);
    assert_eq!(told["containerimage.descriptor"].get("platform"), None);
    assert_eq!(metadata(&env, &["-o", &at("files")]), json!({}));
}

#[test]
fn images_pushed_by_digest_are_found_by_digest() {
    let fake = FakeRegistry::start();
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY a /a\n")
        .file("a", "text");
    // As the runners of a matrix do it, each for its platform.
    let repository = format!("{}/app", fake.host());
    let output =
        format!("type=image,name={repository},push-by-digest=true,name-canonical=true,push=true");
    let told = metadata(&env, &["-o", &output]);
    let digest = told["containerimage.digest"].as_str().expect("a digest");
    assert!(fake.manifest("app", digest).is_some());
    assert_eq!(fake.manifest("app", "latest"), None);
    let canonical = format!("{repository}@{digest}");
    env.run(&["inspect", &canonical]).success().prints(digest);
    drop(
        env.build(&["-o", "type=image,dangling-name-prefix=dangling"])
            .success(),
    );
    env.run(&["images"])
        .success()
        .prints(&format!("dangling@{digest}"));
}

#[test]
fn a_push_without_a_name_is_refused_before_anything_is_built() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY a /a\n")
        .file("a", "text");
    for output in [
        "--push",
        "--output=type=registry",
        "--output=type=image,push=true",
    ] {
        let refused = env.build(&[output]).exits(2);
        let refused =
            refused.says("error: a name is needed to push; give one with `-t` or `name=`");
        assert!(!refused.stderr.contains("COPY"), "{refused}");
    }
}

#[test]
fn the_engine_of_a_docker_context_gets_the_image() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nLABEL a=b\n");
    let socket = env.path("engine.sock");
    let meta = env.path("home/contexts/meta").join(sha256(b"mine").hex());
    fs::create_dir_all(&meta).expect("made");
    let endpoint =
        json!({"Endpoints": {"docker": {"Host": format!("unix://{}", socket.display())}}});
    fs::write(meta.join("meta.json"), endpoint.to_string()).expect("written");
    env.build(&["-o", "type=docker,context=other"])
        .exits(2)
        .says("names the Docker context `other`");
    env.build(&["-o", "type=docker,context=mine"])
        .exits(3)
        .says(&format!("no Docker engine at `{}`", socket.display()));
    let listener = UnixListener::bind(&socket).expect("bound");
    let engine = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut got = vec![0; 16];
        stream.read_exact(&mut got).expect("a request");
        assert_eq!(got, b"POST /images/loa");
        stream
            .write_all(b"HTTP/1.0 500 Oops\r\n\r\n{\"message\":\"full up\"}\r\n")
            .expect("it listens");
        // As an engine does, which closes the connection; what is still being sent is read.
        stream
            .shutdown(std::net::Shutdown::Write)
            .expect("it is open");
        std::io::copy(&mut stream, &mut std::io::sink()).ok();
    });
    fs::write(env.path("home/config.json"), r#"{"currentContext":"mine"}"#).expect("written");
    env.build(&["-t", "app", "--load"]).exits(4).says("full up");
    engine.join().expect("it was asked");
}

#[test]
fn an_archive_without_a_place_is_refused_before_anything_is_built() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY missing /\n");
    fs::create_dir(env.path("dir")).expect("a new directory");
    for (output, reason) in [
        ("type=tar,dest=no/such.tar", "its directory does not exist"),
        ("type=oci,dest=no/such.tar", "its directory does not exist"),
        ("type=docker,dest=dir", "it is a directory"),
    ] {
        env.build(&["-o", output]).exits(2).says(reason);
    }
}

#[test]
fn an_image_of_labels_alone_is_the_same_each_time() {
    let mut env = TestEnv::new();
    env.var("SOURCE_DATE_EPOCH", "");
    env.dockerfile("FROM scratch\nLABEL a=b\n");
    let built = || metadata(&env, &["-o", "type=image,name=app"])["containerimage.digest"].clone();
    let first = built();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(built(), first);
}

#[test]
fn no_time_of_an_image_is_later_than_the_epoch_but_those_of_its_base() {
    let env = TestEnv::new();
    let times = |dockerfile: &str, layout: &str, options: &str| {
        env.dockerfile(dockerfile);
        let layout = env.path(layout);
        let output = format!("type=oci,tar=false,dest={}{options}", layout.display());
        let base = format!("base=oci-layout://{}", env.path("one").display());
        let mut args = vec!["-o", &output];
        if dockerfile.contains("base") {
            args.extend(["--build-context", &base]);
        }
        let told = metadata(&env, &args);
        let digest = told["containerimage.config.digest"].as_str().unwrap();
        let digest = digest.strip_prefix("sha256:").unwrap();
        let config = json_of(&layout.join("blobs/sha256").join(digest));
        let history = config["history"].as_array().unwrap().iter();
        let mut times: Vec<Value> = history.map(|entry| entry["created"].clone()).collect();
        times.push(config["created"].clone());
        times
    };
    // That of the builds' environment.
    let (epoch, earlier) = ("2023-11-14T22:13:20Z", "2001-09-09T01:46:40Z");
    let option = ",source-date-epoch=1000000000";
    let scratch = "FROM scratch\nLABEL a=b\n";
    assert_eq!(times(scratch, "none", ""), [epoch, epoch]);
    assert_eq!(times(scratch, "none", option), [earlier, earlier]);
    let one = "FROM scratch\nCOPY <<x /x\nx\n";
    assert_eq!(times(one, "one", ""), [epoch, epoch]);
    let two = times("FROM base\nLABEL a=b\n", "two", option);
    assert_eq!(two, [epoch, earlier, earlier]);
}

#[test]
fn layers_are_the_same_whether_made_in_a_form_or_brought_into_it() {
    let mut env = TestEnv::new();
    env.var("SOURCE_DATE_EPOCH", "1700000000");
    let numbers = |n: u64| (0..n).map(|i| (i * i).to_string()).collect::<String>();
    env.dockerfile("FROM scratch\nCOPY tree /tree\nCOPY tree/small /\n")
        .file("tree/large", &numbers(400_000))
        .file("tree/larger", &numbers(700_000))
        .file("tree/small", "text");
    let built = |store: &str, options: &str| {
        let root = env.path(store).display().to_string();
        let to = env.path("layout").display().to_string();
        let output = format!("type=oci,tar=false,dest={to}{options}");
        let metadata = env.path("metadata.json").display().to_string();
        let context = env.context().display().to_string();
        let mut args = vec!["--root", &root, "build", "-o", &output];
        args.extend(["--metadata-file", &metadata, &context]);
        drop(env.run(&args).success());
        let told = json_of(&env.path("metadata.json"));
        told["containerimage.digest"].as_str().unwrap().to_owned()
    };
    let usual = built("usual", "");
    for (n, form) in [
        ",compression=zstd",
        ",compression=zstd,compression-level=1",
        ",compression-level=2",
        ",compression-level=9",
        ",compression-level=0",
        ",compression=uncompressed",
    ]
    .iter()
    .enumerate()
    {
        let store = format!("store{n}");
        let made = built(&store, form);
        assert_ne!(made, usual, "{form}");
        assert_eq!(built("usual", form), made, "{form}");
        // What the store has is not seen in what is made of it.
        assert_eq!(built(&store, ""), usual, "{form}");
        assert_eq!(built(&store, form), made, "{form}");
    }
}

#[test]
fn an_archive_for_a_closed_standard_output_is_refused() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY a /a\n")
        .file("a", "text");
    env.open_to_others();
    let context = env.context().display().to_string();
    let closed = ["sh", "-c", "exec \"$@\" >&-", "sh"];
    let refused = |args: &[&str]| {
        drop(
            env.outcome(&mut env.started_by(&closed, args))
                .exits(2)
                .says("standard output, which is closed"),
        );
    };
    refused(&["build", "-o", "-", &context]);
    refused(&["cache", "export", "-"]);
    drop(env.build(&["-t", "app"]).success());
    refused(&["save", "app"]);
    // Without data there is nothing to lose.
    let build = ["build", "-q", context.as_str()];
    drop(env.outcome(&mut env.started_by(&closed, &build)).success());
}
