//! What is pushed while the build still goes on.

use std::{
    fs,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rbuild::{
    oci::{Descriptor, Manifest, MediaType, sha256, to_json},
    registry::{Client, Error, Pushed, Settings, Upload},
    store::{Follower, Growth, Store},
};

use super::{client, noise, push, put_image, quick, reference};
use crate::support::{FakeRegistry, Fault, Received, TestEnv};

/// More than the program waits for before it sends what there is of a layer.
const LARGE_BYTES: usize = 20 << 20;

fn new<'a>(
    descriptor: &'a Descriptor,
    open: &'a (dyn Fn() -> std::io::Result<Box<dyn std::io::Read + Send>> + Sync),
) -> Upload<'a> {
    Upload {
        descriptor,
        open,
        mount_from: &[],
        is_new: true,
        progress: None,
    }
}

fn methods(fake: &FakeRegistry) -> Vec<String> {
    let lines = fake.lines();
    let method = |line: &String| line.split(' ').next().unwrap_or_default().to_owned();
    lines.iter().map(method).collect()
}

#[test]
fn what_the_tag_consists_of_is_not_asked_for_again() {
    let fake = FakeRegistry::start();
    let image = put_image(&fake, "app", "1", "linux/amd64");
    let name = reference(&fake.host(), "app:1");
    let client = client();
    client.look_ahead(&name);
    client.is_named(&name, &image);
    assert_eq!(fake.lines()[0], "HEAD /v2/app/manifests/1");
    client.expect_blobs(&name);
    client.expect_no_more();
    // The layer of that image.
    let outcome = push(&client, &name, b"linux/amd64", &[]).expect("it is there");
    assert_eq!(outcome, Pushed::Existed);
    let is_about_it = |line: &String| line.contains("blobs/sha256");
    assert!(!fake.lines().iter().any(is_about_it), "{:?}", fake.lines());

    // Another image for that tag: the tag is moved without another look.
    let layer = Descriptor::of(MediaType::OCI_LAYER, b"linux/amd64");
    let config = Descriptor::of(MediaType::OCI_CONFIG, b"{}");
    push(&client, &name, b"{}", &[]).expect("sent");
    let manifest = to_json(&Manifest::new(config, vec![layer]));
    fake.clear_log();
    client
        .push_manifest(&name, &MediaType::OCI_MANIFEST, &manifest)
        .expect("pushed");
    assert_eq!(fake.lines(), ["PUT /v2/app/manifests/1"]);
    assert_eq!(fake.manifest("app", "1").expect("tagged"), manifest);
}

#[test]
fn a_registry_that_lost_blobs_of_the_tag_gets_them_again() {
    let fake = FakeRegistry::start();
    let name = reference(&fake.host(), "app:1");
    let layer = Descriptor::of(MediaType::OCI_LAYER, b"lost");
    let config = fake.put_blob("app", b"{}");
    let manifest = to_json(&Manifest::new(config, vec![layer]));
    fake.put_manifest("app", "1", &MediaType::OCI_MANIFEST, &manifest);
    let client = client();
    client.look_ahead(&name);
    client.expect_blobs(&name);
    client.expect_no_more();
    let outcome = push(&client, &name, b"lost", &[]).expect("it seems to be there");
    assert_eq!(outcome, Pushed::Existed);
    let put = |tag: &str| {
        let tagged = reference(&fake.host(), tag);
        client.push_manifest(&tagged, &MediaType::OCI_MANIFEST, &manifest)
    };
    let error = put("app:2").expect_err("the registry does not have it");
    assert!(error.to_string().contains("BLOB_UNKNOWN"), "{error}");
    assert!(client.reconsider(&name));
    let outcome = push(&client, &name, b"lost", &[]).expect("sent");
    assert_eq!(outcome, Pushed::Uploaded);
    put("app:2").expect("all is there");
    assert!(!client.reconsider(&name), "there was no other refusal");
}

#[test]
fn a_new_blob_takes_an_upload_that_was_begun_before() {
    let fake = FakeRegistry::start();
    let name = reference(&fake.host(), "app:1");
    let client = client();
    client.expect_blobs(&name);
    client.expect_blobs(&name);
    let descriptor = Descriptor::of(MediaType::OCI_LAYER, b"a layer");
    let open = || Ok(Box::new(&b"a layer"[..]) as Box<dyn std::io::Read + Send>);
    let pushed = client.push_blob(&name, &new(&descriptor, &open));
    assert_eq!(pushed.expect("sent"), Pushed::Uploaded);
    assert!(fake.blob("app", descriptor.digest).is_some());
    client.expect_no_more();
    let mut methods = methods(&fake);
    methods.sort_unstable();
    assert_eq!(methods, ["DELETE", "POST", "POST", "PUT"]);
    assert_eq!(fake.n_uploads(), 0);
}

#[test]
fn two_who_push_the_same_blob_send_it_once() {
    let fake = FakeRegistry::start();
    fake.faults(|r, _| (r.method == "PUT").then_some(Fault::Late(Duration::from_millis(100))));
    let name = reference(&fake.host(), "app:1");
    let bytes = noise(300_000);
    let client = client();
    let claim = client.claim_blob(&name, sha256(&bytes)).expect("free");
    assert!(client.claim_blob(&name, sha256(&bytes)).is_none());
    drop(claim);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| push(&client, &name, &bytes, &[]).expect("pushed"));
        }
    });
    assert_eq!(methods(&fake), ["HEAD", "POST", "PUT"]);
    // Another repository of the registry has it from there.
    let other = reference(&fake.host(), "other:1");
    let mounted = push(&client, &other, &bytes, &[]).expect("mounted");
    let from = reference(&fake.host(), "app:1").name();
    assert_eq!(mounted, Pushed::Mounted { from });
}

/// A blob in the making.
struct Making {
    dir: tempfile::TempDir,
    bytes: Vec<u8>,
}

impl Making {
    fn new(n_bytes: usize) -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary directory"),
            bytes: noise(n_bytes),
        }
    }

    fn descriptor(&self) -> Descriptor {
        Descriptor::of(MediaType::OCI_LAYER, &self.bytes)
    }

    /// Makes it, a bit at a time, while `send` follows, and calls `end` when it is whole.
    fn make<T: Send>(&self, send: impl FnOnce(&Follower) -> T + Send) -> T {
        let store = Store::open(&self.dir.path().join("root")).expect("a new store opens");
        let mut file = store.blob_file().expect("a file");
        let follower = file.follow().expect("a follower");
        std::thread::scope(|scope| {
            let sent = scope.spawn(move || send(&follower));
            for piece in self.bytes.chunks(50_000) {
                file.write_all(piece).expect("written");
            }
            file.commit(&sha256(&self.bytes)).expect("committed");
            sent.join().expect("no panic")
        })
    }

    /// Sends it to a repository as it grows; `None` when that went wrong before the end.
    fn send(&self, client: &Client, to: &str) -> Option<Result<Pushed, Error>> {
        let to = super::Reference::parse(to).expect("a reference");
        let descriptor = self.descriptor();
        let bytes = self.bytes.clone();
        let open = move || Ok(Box::new(std::io::Cursor::new(bytes.clone())) as Box<_>);
        self.make(|layer| {
            let from = layer.at(0);
            let open_at = Box::new(move |position| Ok(Box::new(from.at(position)) as Box<_>));
            let mut upload = client.push_growing(&to, open_at)?;
            while let Growth::Growing(_) = layer.wait_beyond(upload.next()) {
                upload.advance().ok()?;
            }
            // All that can go ahead of the end.
            while upload.next() < descriptor.size {
                upload.advance().ok()?;
            }
            let claim = client.claim_blob(&to, descriptor.digest).expect("free");
            Some(upload.finish(&claim, &new(&descriptor, &open)))
        })
    }
}

fn in_pieces() -> Client {
    let settings = Settings {
        chunk_bytes: Some(300_000),
        ..quick()
    };
    Client::new(settings).expect("a client can be made")
}

#[test]
fn a_blob_is_sent_while_it_is_made() {
    let fake = FakeRegistry::start();
    let making = Making::new(1_000_000);
    let to = format!("{}/app", fake.host());
    let pushed = making.send(&in_pieces(), &to).expect("nothing went wrong");
    assert_eq!(pushed.expect("sent"), Pushed::Uploaded);
    assert!(fake.blob("app", sha256(&making.bytes)).expect("there") == making.bytes);
    let log = fake.log();
    let is_body = |r: &&Received| matches!(r.method.as_str(), "PATCH" | "PUT");
    let sent = log.iter().filter(is_body);
    let sent: Vec<(&str, &str)> = sent
        .map(|r| (r.method.as_str(), r.header("content-range")))
        .collect();
    assert_eq!(
        sent,
        [
            ("PATCH", "0-299999"),
            ("PATCH", "300000-599999"),
            ("PATCH", "600000-899999"),
            ("PUT", "900000-999999"),
        ]
    );
    assert_eq!(fake.n_uploads(), 0);
}

#[test]
fn a_growing_blob_that_is_there_or_unwanted_is_taken_back() {
    let fake = FakeRegistry::start();
    let making = Making::new(1_000_000);
    fake.put_blob("app", &making.bytes);
    let to = format!("{}/app", fake.host());
    let pushed = making.send(&in_pieces(), &to).expect("nothing went wrong");
    assert_eq!(pushed.expect("there"), Pushed::Existed);
    assert_eq!(fake.n_uploads(), 0);
    assert!(!methods(&fake).contains(&"PUT".to_owned()));

    let fake = FakeRegistry::start();
    let client = in_pieces();
    let to = reference(&fake.host(), "app");
    making.make(|layer| {
        let from = layer.at(0);
        let open_at = Box::new(move |position| Ok(Box::new(from.at(position)) as Box<_>));
        let mut upload = client.push_growing(&to, open_at).expect("pieces are fine");
        while let Growth::Growing(_) = layer.wait_beyond(upload.next()) {
            upload.advance().expect("sent");
        }
        upload.advance().expect("begun, or another piece");
        upload.give_up();
    });
    assert_eq!(fake.n_uploads(), 0);
    assert!(fake.blob("app", sha256(&making.bytes)).is_none());
}

#[test]
fn growing_blobs_get_over_broken_connections() {
    let fake = FakeRegistry::start();
    let n_pieces = AtomicU64::new(0);
    fake.faults(move |r, n| match r.method.as_str() {
        "PATCH" if n_pieces.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) => {
            Some(Fault::CutRequest(100_000))
        }
        "PUT" if n == 0 => Some(Fault::DropAnswer),
        _ => None,
    });
    let making = Making::new(1_000_000);
    let to = format!("{}/app", fake.host());
    let pushed = making.send(&in_pieces(), &to).expect("in the end");
    pushed.expect("sent");
    assert!(fake.blob("app", sha256(&making.bytes)).expect("there") == making.bytes);
    assert_eq!(fake.n_uploads(), 0);
}

#[test]
fn a_registry_that_refuses_pieces_is_not_asked_twice() {
    for method in ["PATCH", "PUT"] {
        let fake = FakeRegistry::start();
        let refused =
            move |r: &Received| r.method == method && !r.header("content-range").is_empty();
        fake.faults(move |r, _| refused(r).then_some(Fault::Answer(400, vec![], vec![])));
        let making = Making::new(1_000_000);
        let to = format!("{}/app", fake.host());
        let client = in_pieces();
        let outcome = making.send(&client, &to);
        if method == "PUT" {
            // Only the end of it was refused: it is sent as a whole at once, where that is allowed.
            outcome
                .expect("the pieces went well")
                .expect_err("in pieces by its settings");
        } else {
            assert!(outcome.is_none());
        }
        assert_eq!(fake.n_uploads(), 0);
        fake.clear_log();
        assert!(making.send(&client, &to).is_none());
        assert!(fake.lines().is_empty(), "{:?}", fake.lines());
    }
}

#[test]
fn who_wants_larger_pieces_gets_them() {
    let fake = FakeRegistry::start();
    let wish = vec![("OCI-Chunk-Min-Length", "400000".to_owned())];
    fake.faults(move |r, _| (r.method == "POST").then(|| Fault::Headers(wish.clone())));
    let making = Making::new(1_000_000);
    let to = format!("{}/app", fake.host());
    let pushed = making.send(&in_pieces(), &to).expect("nothing went wrong");
    pushed.expect("sent");
    let log = fake.log();
    let ranges: Vec<&str> = log
        .iter()
        .filter(|r| r.method == "PATCH")
        .map(|r| r.header("content-range"))
        .collect();
    assert_eq!(ranges, ["0-399999", "400000-799999"]);
}

/// An environment with a context that makes a large layer.
fn large_context() -> (TestEnv, Arc<Vec<u8>>) {
    let env = TestEnv::new();
    let bytes = noise(LARGE_BYTES);
    env.dockerfile("FROM scratch\nCOPY big /big\nCOPY small /small\n");
    env.file("small", "small\n");
    fs::write(env.context().join("big"), &bytes).expect("written");
    (env, Arc::new(bytes))
}

fn layers(fake: &FakeRegistry, repository: &str) -> Vec<Descriptor> {
    let manifest = fake.manifest(repository, "1").expect("pushed");
    let manifest: Manifest = serde_json::from_slice(&manifest).expect("a manifest");
    manifest.layers
}

#[test]
fn a_build_sends_its_large_layers_while_it_makes_them() {
    let (env, _) = large_context();
    let fake = FakeRegistry::start();
    let (app, other) = (
        format!("{}/app:1", fake.host()),
        format!("{}/other:1", fake.host()),
    );
    env.build(&["--push", "-t", &app, "-t", &other]).success();
    let of = |repository: &str, method: &str| {
        let begins = format!("{method} /v2/{repository}/blobs/uploads/u");
        fake.lines()
            .iter()
            .filter(|line| line.starts_with(&begins))
            .count()
    };
    assert_eq!(of("app", "PATCH"), 1);
    assert_eq!(of("other", "PATCH"), 0, "it is mounted from the first");
    for repository in ["app", "other"] {
        for layer in layers(&fake, repository) {
            let bytes = fake.blob(repository, layer.digest).expect("there");
            assert_eq!(bytes.len() as u64, layer.size);
        }
    }
    assert_eq!(fake.n_uploads(), 0);
    // The second time, another machine's: the layer is there, so the upload is taken back.
    let (again, bytes) = large_context();
    fs::write(again.context().join("big"), &*bytes).expect("written");
    let times = [env.context().join("big"), again.context().join("big")];
    let time = fs::metadata(&times[0])
        .and_then(|m| m.modified())
        .expect("a time");
    for name in ["big", "small"] {
        let from = fs::metadata(env.context().join(name)).and_then(|m| m.modified());
        let file = fs::File::open(again.context().join(name)).expect("opens");
        file.set_modified(from.unwrap_or(time)).expect("set");
    }
    fake.clear_log();
    again.build(&["--push", "-t", &app]).success();
    assert_eq!(fake.n_uploads(), 0);
    let sent: Vec<String> = fake.lines();
    let large = layers(&fake, "app")[0].digest.to_string();
    let ends = sent
        .iter()
        .filter(|l| l.starts_with("PUT") && l.ends_with(&large.replace(':', "%3A")));
    assert_eq!(ends.count(), 0, "{sent:?}");
}

#[test]
fn a_build_pushes_where_pieces_are_refused() {
    let (env, _) = large_context();
    let fake = FakeRegistry::start();
    fake.faults(|r, _| (r.method == "PATCH").then_some(Fault::Answer(416, vec![], vec![])));
    let app = format!("{}/app:1", fake.host());
    env.build(&["--push", "-t", &app]).success();
    for layer in layers(&fake, "app") {
        assert!(fake.blob("app", layer.digest).is_some());
    }
    assert_eq!(fake.n_uploads(), 0);
    let patches = fake
        .lines()
        .iter()
        .filter(|l| l.starts_with("PATCH"))
        .count();
    // The refusal may be lost with the connection.
    assert!((1..=3).contains(&patches), "{patches}");
}
