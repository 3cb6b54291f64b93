//! Where a cache can be: directories, real registries, buckets, the Actions cache.

use super::{
    super::{
        registry::servers::{Server, have},
        support::{ActionsCache, TestEnv},
    },
    blobs, built, dockerfile, n_executed, prepared, runner,
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

/// A running `moto_server`, which speaks S3.
struct Moto {
    process: std::process::Child,
    host: String,
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Moto {
    /// Starts one with a bucket; says why not where it is not installed.
    fn start(bucket: &str) -> Option<Self> {
        use std::process::{Command, Stdio};
        let is_there = Command::new("python3")
            .args(["-c", "import moto.server"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !is_there {
            eprintln!("skipped: moto is not installed (pip install 'moto[server]')");
            return None;
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let start = format!("from moto.server import main; main(['-p', '{port}'])");
        let process = Command::new("python3")
            .args(["-c", &start])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 starts");
        let mut moto = Self {
            process,
            host: format!("127.0.0.1:{port}"),
        };
        for _ in 0..600 {
            if moto
                .make(bucket)
                .is_some_and(|answer| answer.contains(" 200 "))
            {
                return Some(moto);
            }
            if moto.process.try_wait().expect("own child").is_some() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("moto does not answer");
    }

    fn make(&self, bucket: &str) -> Option<String> {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(&self.host).ok()?;
        let request = format!(
            "PUT /{bucket} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.host
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
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
    assert!(!failed.stderr.contains("X-Amz-Signature=0"), "{failed}");
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
