//! The client against real servers: Debian's `docker-registry`, with and without passwords, tokens and TLS.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rbuild::{
    oci::{Descriptor, Manifest, MediaType, Platform, to_json},
    reference::Reference,
    registry::{Client, Error, Pushed, Settings},
};

use super::{client, noise, pull, push, quick, reference, with_login};
use crate::support::{FakeRegistry, Fault, Received};

/// A running `docker-registry` with its files in a directory of its own.
pub(crate) struct Server {
    process: Child,
    pub(crate) host: String,
    dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Whether the programs are there; says which is not.
pub(crate) fn have(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for program in programs {
        let is_there = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
        if !is_there {
            #[expect(clippy::print_stderr, reason = "a skipped test says why")]
            {
                eprintln!("skipped: `{program}` is not installed");
            }
            return false;
        }
    }
    true
}

impl Server {
    /// Starts one; `more` is added to its configuration, in which `DIR` stands for its directory.
    fn start(prepare: impl FnOnce(&Path), more: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        prepare(dir.path());
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let host = format!("127.0.0.1:{port}");
        let data = dir.path().join("data");
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n{}",
            data.display(),
            more.replace("DIR", &dir.path().display().to_string())
                .replace("ADDRESS", &host)
        );
        let config_path = dir.path().join("config.yml");
        fs::write(&config_path, config).expect("writable");
        let log = fs::File::create(dir.path().join("log")).expect("writable");
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config_path)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("docker-registry starts");
        let mut server = Self { process, host, dir };
        let start = Instant::now();
        while TcpStream::connect(&server.host).is_err() {
            let log = fs::read_to_string(server.dir.path().join("log")).unwrap_or_default();
            assert!(
                server.process.try_wait().expect("own child").is_none(),
                "it ended: {log}"
            );
            assert!(start.elapsed() < Duration::from_secs(20), "no start: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    pub(crate) fn plain() -> Self {
        Self::start(|_| {}, "http:\n  addr: ADDRESS\n")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn run(dir: &Path, program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .output()
        .expect("it runs");
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Pushes an image of three layers side by side and pulls it back.
fn round_trip(client: &Client, image: &Reference) {
    let layers: Vec<Vec<u8>> = [10, 200_000, 3_000_000].map(noise).to_vec();
    let config =
        br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    std::thread::scope(|scope| {
        for bytes in layers.iter().map(Vec::as_slice).chain([config.as_slice()]) {
            scope.spawn(move || push(client, image, bytes, &[]).expect("a blob is pushed"));
        }
    });
    let descriptors = layers
        .iter()
        .map(|bytes| Descriptor::of(MediaType::OCI_LAYER, bytes))
        .collect();
    let manifest = to_json(&Manifest::new(
        Descriptor::of(MediaType::OCI_CONFIG, config),
        descriptors,
    ));
    client
        .push_manifest(image, &MediaType::OCI_MANIFEST, &manifest)
        .expect("the manifest is pushed");
    let fresh = Client::new(client.settings().clone()).expect("a client can be made");
    let got = fresh
        .image(image, &Platform::host())
        .expect("the image is pulled");
    assert_eq!(got.document.bytes, manifest);
    assert_eq!(got.config_bytes, config);
    for (descriptor, bytes) in got.manifest.layers.iter().zip(&layers) {
        assert!(pull(&fresh, image, descriptor).expect("a layer is pulled") == *bytes);
    }
    // Once more moves nothing.
    let again = Client::new(client.settings().clone()).expect("a client can be made");
    for bytes in &layers {
        assert_eq!(
            push(&again, image, bytes, &[]).expect("there"),
            Pushed::Existed
        );
    }
}

#[test]
fn a_real_registry_takes_and_gives_images() {
    if !have(&["docker-registry"]) {
        return;
    }
    let server = Server::plain();
    let image = reference(&server.host, "team/app:1");
    round_trip(&client(), &image);
    // In pieces.
    let in_pieces = Client::new(Settings {
        chunk_bytes: Some(1_000_000),
        ..quick()
    })
    .expect("client");
    round_trip(&in_pieces, &reference(&server.host, "pieces/app:1"));
    // Mounted from a neighbour.
    let other = reference(&server.host, "other/app:1");
    let pushed = push(
        &client(),
        &other,
        &noise(3_000_000),
        std::slice::from_ref(&image),
    );
    assert_eq!(
        pushed.expect("mounted"),
        Pushed::Mounted { from: image.name() }
    );
    let missing = reference(&server.host, "team/app:2");
    let error = client().resolve(&missing).expect_err("missing");
    assert!(error.is_not_found(), "{error}");
    assert!(error.to_string().contains("MANIFEST_UNKNOWN"), "{error}");
}

#[test]
fn an_independent_tool_accepts_what_was_pushed() {
    if !have(&["docker-registry", "skopeo"]) {
        return;
    }
    let server = Server::plain();
    let image = reference(&server.host, "app:1");
    round_trip(&client(), &image);
    let address = format!("docker://{image}");
    let target = format!("dir:{}", server.path("copy").display());
    run(
        server.dir.path(),
        "skopeo",
        &[
            "copy",
            "--src-tls-verify=false",
            "--insecure-policy",
            &address,
            &target,
        ],
    );
}

#[test]
fn a_real_registry_with_passwords() {
    if !have(&["docker-registry", "htpasswd"]) {
        return;
    }
    let server = Server::start(
        |dir| {
            run(dir, "htpasswd", &["-Bbc", "users", "me", "pa:ss word"]);
        },
        "http:\n  addr: ADDRESS\nauth:\n  htpasswd:\n    realm: test\n    path: DIR/users\n",
    );
    let image = reference(&server.host, "app:1");
    let good = Client::new(with_login(&server.host, "me:pa:ss word")).expect("client");
    round_trip(&good, &image);
    assert_eq!(
        good.login(&server.host).expect("good"),
        "user `me` from the test"
    );
    let bad = Client::new(with_login(&server.host, "me:hunter2")).expect("client");
    for error in [
        bad.login(&server.host).expect_err("bad"),
        bad.resolve(&image).expect_err("bad"),
        push(&bad, &image, b"new", &[]).expect_err("bad"),
        client().resolve(&image).expect_err("none"),
    ] {
        assert!(
            matches!(error, Error::Unauthorized { status: 401, .. }),
            "{error}"
        );
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}

/// An authority, a certificate for 127.0.0.1 and one for a client.
fn make_certificates(dir: &Path) {
    let make = |text: &str| {
        let arguments: Vec<&str> = text.split(' ').collect();
        run(dir, "openssl", &arguments);
    };
    fs::write(dir.join("server.ext"), "subjectAltName=IP:127.0.0.1\n").expect("writable");
    fs::write(dir.join("client.ext"), "extendedKeyUsage=clientAuth\n").expect("writable");
    make("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=test-ca");
    for name in ["server", "client"] {
        make(&format!(
            "req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        make(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.cert -days 2 -extfile {name}.ext"
        ));
    }
}

#[test]
fn a_real_registry_behind_tls() {
    if !have(&["docker-registry", "openssl"]) {
        return;
    }
    let server = Server::start(
        make_certificates,
        "http:\n  addr: ADDRESS\n  tls:\n    certificate: DIR/server.cert\n    key: DIR/server.key\n",
    );
    let image = reference(&server.host, "app:1");
    let error = client().resolve(&image).expect_err("not trusted");
    assert!(matches!(error, Error::Tls { .. }), "{error}");
    assert!(error.to_string().contains("trusted authority"), "{error}");

    let ca = server.path("ca.crt");
    let certs_d = server.path("certs.d");
    let own = certs_d.join(&server.host);
    fs::create_dir_all(&own).expect("writable");
    fs::copy(&ca, own.join("any.crt")).expect("writable");
    for settings in [
        Settings {
            extra_ca: vec![ca.clone()],
            ..quick()
        },
        Settings {
            registry_ca: vec![(server.host.clone(), ca.clone())],
            ..quick()
        },
        Settings {
            certs_d: vec![server.path("nothing"), certs_d],
            ..quick()
        },
        Settings {
            insecure: vec![server.host.clone()],
            ..quick()
        },
    ] {
        round_trip(&Client::new(settings).expect("client"), &image);
    }
    let error = Client::new(Settings {
        extra_ca: vec![server.path("server.key")],
        ..quick()
    })
    .expect("client")
    .resolve(&image)
    .expect_err("no certificate");
    assert!(error.to_string().contains("server.key"), "{error}");
}

#[test]
fn a_real_registry_that_wants_client_certificates() {
    if !have(&["docker-registry", "openssl"]) {
        return;
    }
    let server = Server::start(
        make_certificates,
        "http:\n  addr: ADDRESS\n  tls:\n    certificate: DIR/server.cert\n    key: DIR/server.key\n    clientcas: [DIR/ca.crt]\n",
    );
    let image = reference(&server.host, "app:1");
    let without = Settings {
        extra_ca: vec![server.path("ca.crt")],
        ..quick()
    };
    let error = Client::new(without)
        .expect("client")
        .resolve(&image)
        .expect_err("no client certificate");
    assert!(error.to_string().contains(&server.host), "{error}");

    let certs_d = server.path("certs.d");
    let own = certs_d.join(&server.host);
    fs::create_dir_all(&own).expect("writable");
    for (from, to) in [
        ("ca.crt", "ca.crt"),
        ("client.cert", "client.cert"),
        ("client.key", "client.key"),
    ] {
        fs::copy(server.path(from), own.join(to)).expect("writable");
    }
    let with = Settings {
        certs_d: vec![certs_d],
        ..quick()
    };
    round_trip(&Client::new(with).expect("client"), &image);
}

/// A token for what the query asks, signed with `openssl`.
fn signed_token(dir: &Path, received: &Received) -> Vec<u8> {
    use base64::Engine as _;
    let url_safe = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let query = received.target.split_once('?').map_or("", |(_, q)| q);
    let access: Vec<serde_json::Value> = query
        .split('&')
        .filter_map(|p| p.strip_prefix("scope="))
        .map(|scope| {
            let scope = scope
                .replace("%3A", ":")
                .replace("%2F", "/")
                .replace("%2C", ",");
            let (resource, actions) = scope.rsplit_once(':').expect("a scope");
            let (kind, name) = resource.split_once(':').expect("a scope");
            let actions: Vec<&str> = actions.split(',').collect();
            serde_json::json!({"type": kind, "name": name, "actions": actions})
        })
        .collect();
    let pem = fs::read_to_string(dir.join("server.cert")).expect("readable");
    let certificate: String = pem.lines().filter(|l| !l.starts_with('-')).collect();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let header = serde_json::json!({"typ": "JWT", "alg": "RS256", "x5c": [certificate]});
    let claims = serde_json::json!({
        "iss": "test", "sub": "me", "aud": "test-registry", "jti": now.to_string(),
        "iat": now - 5, "nbf": now - 5, "exp": now + 300, "access": access,
    });
    let signed = format!(
        "{}.{}",
        url_safe.encode(header.to_string()),
        url_safe.encode(claims.to_string())
    );
    let name = format!("claims-{:?}", std::thread::current().id());
    fs::write(dir.join(&name), &signed).expect("writable");
    let signature = run(
        dir,
        "openssl",
        &["dgst", "-sha256", "-sign", "server.key", &name],
    );
    let token = format!("{signed}.{}", url_safe.encode(signature));
    serde_json::json!({"token": token, "expires_in": 300})
        .to_string()
        .into_bytes()
}

#[test]
fn a_real_registry_with_tokens() {
    if !have(&["docker-registry", "openssl"]) {
        return;
    }
    let tokens = FakeRegistry::start();
    let server = Server::start(
        make_certificates,
        &format!(
            "http:\n  addr: ADDRESS\nauth:\n  token:\n    realm: http://{}/auth?hint=1\n    service: test-registry\n    issuer: test\n    rootcertbundle: DIR/ca.crt\n",
            tokens.host()
        ),
    );
    let dir = server.dir.path().to_owned();
    tokens.faults(move |received, _| {
        let answer = if received.header("authorization") == "Basic bWU6cHc=" {
            let body = signed_token(&dir, received);
            Fault::Answer(200, vec![], body)
        } else {
            Fault::Answer(401, vec![], b"who are you?".to_vec())
        };
        Some(answer)
    });
    let image = reference(&server.host, "team/app:1");
    let good = Client::new(with_login(&server.host, "me:pw")).expect("client");
    round_trip(&good, &image);
    // With the scope of the source, or the registry would not mount.
    let other = reference(&server.host, "other/app:1");
    let pushed = push(&good, &other, &noise(200_000), std::slice::from_ref(&image));
    assert_eq!(
        pushed.expect("mounted"),
        Pushed::Mounted { from: image.name() }
    );
    good.login(&server.host).expect("good");
    let bad = Client::new(with_login(&server.host, "me:hunter2")).expect("client");
    for error in [
        bad.login(&server.host).expect_err("bad"),
        push(&bad, &image, b"new", &[]).expect_err("bad"),
    ] {
        assert!(error.to_string().contains("who are you?"), "{error}");
        assert!(error.to_string().contains("from the test"), "{error}");
    }
}
