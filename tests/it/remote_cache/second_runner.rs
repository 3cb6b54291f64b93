//! A second machine with the same Dockerfile executes nothing, and fetches no more than what it is asked for needs: every request
//! and byte is counted on the way to a real server.

#![expect(
    clippy::print_stderr,
    reason = "the figures are to be seen with --nocapture"
)]

use std::collections::BTreeMap;

use super::{
    super::{
        registry::servers::{Server, have},
        support::{CountingProxy, Passed},
    },
    Runner, built,
    moto::Moto,
    n_executed, prepared, runner,
};

/// Six steps with layers in three stages. Layers of about 400 kB cannot be overlooked among documents.
fn dockerfile(base: &str) -> String {
    format!(
        "\
FROM {base} AS deps
RUN head -c 400000 /dev/urandom >/deps
FROM {base} AS build
WORKDIR /work
COPY src src
COPY --from=deps /deps deps
RUN cat src deps >out; head -c 400000 /dev/urandom >junk
FROM {base}
COPY --from=build /work/out /out
"
    )
}

const N_STEPS: usize = 6;
/// Documents of a build this small take less, all together; a layer takes more.
const MAX_DOCUMENTS: u64 = 60_000;

/// What passed, by kind.
#[derive(Debug, Default, PartialEq, Eq)]
struct Traffic {
    manifests_read: usize,
    manifests_written: usize,
    blobs_read: usize,
    mounts: usize,
    uploads: usize,
}

fn traffic(passed: &[Passed]) -> Traffic {
    let mut traffic = Traffic::default();
    for request in passed {
        let is =
            |method: &str, part: &str| request.method == method && request.target.contains(part);
        let counter = if is("GET", "/manifests/") {
            &mut traffic.manifests_read
        } else if is("PUT", "/manifests/") {
            &mut traffic.manifests_written
        } else if is("GET", "/blobs/sha256") {
            &mut traffic.blobs_read
        } else if is("POST", "mount=") {
            &mut traffic.mounts
        } else if request.sent > 0 {
            &mut traffic.uploads
        } else {
            continue;
        };
        *counter += 1;
    }
    traffic
}

/// What passed, and the bytes of it that were fetched and sent; printed.
fn counted(proxy: &CountingProxy, what: &str) -> (Traffic, u64, u64) {
    let passed = proxy.take();
    let received = passed.iter().map(|request| request.received).sum();
    let sent = passed.iter().map(|request| request.sent).sum();
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for request in &passed {
        let kind = request.target.split('?').next().unwrap_or_default();
        let kind = kind.split("sha256").next().unwrap_or_default();
        *kinds
            .entry(format!("{} {kind} {}", request.method, request.status))
            .or_default() += 1;
    }
    eprintln!("{what}: {received} bytes fetched, {sent} sent; {kinds:?}");
    (traffic(&passed), received, sent)
}

#[test]
fn of_a_registry_a_second_runner_takes_what_it_needs() {
    if !have(&["docker-registry"]) {
        return;
    }
    let Some(env) = prepared("FROM base\n") else {
        return;
    };
    let server = Server::plain();
    let proxy = CountingProxy::start(&server.host);
    let host = proxy.host();
    let base = format!("{host}/lib/base:1");
    runner(&env, "publisher")
        .build(&["--push", "-t", &base])
        .success();
    env.dockerfile(&dockerfile(&base));
    let cache = format!("{host}/team/cache:main");
    let to = format!("type=registry,ref={cache},mode=max");
    let app = format!("{host}/team/cache:v1");
    let first = runner(&env, "one").build(&[
        "--cache-to",
        &to,
        "--push",
        "-t",
        &app,
        "--metadata-file",
        "m1",
    ]);
    assert_eq!(n_executed(&first.success()), N_STEPS);
    let (_, _, sent) = counted(&proxy, "the first runner");
    assert!(
        sent > 1_200_000,
        "three layers that cannot be compressed: {sent}"
    );

    let second = |name: &str, args: &[&str]| {
        let machine: Runner<'_> = runner(&env, name);
        let outcome = machine.build(&[&["--cache-from", &cache], args].concat());
        let outcome = outcome.success();
        assert_eq!(n_executed(&outcome), 0, "{outcome}");
        assert!(!outcome.stderr.contains("WARN"), "{outcome}");
        counted(&proxy, name)
    };
    // The manifest and the config of the base and of the cache.
    let documents = Traffic {
        manifests_read: 2,
        blobs_read: 2,
        ..Traffic::default()
    };
    let (seen, received, sent) = second("cacheonly", &["-o", "type=cacheonly"]);
    assert_eq!(seen, documents);
    assert!(received < MAX_DOCUMENTS && sent == 0, "{received} {sent}");

    // To the repository of the cache: everything is there but the name.
    let again = format!("{host}/team/cache:v2");
    let (seen, received, sent) = second("push", &["--push", "-t", &again, "--metadata-file", "m2"]);
    let pushed = Traffic {
        manifests_written: 1,
        ..documents
    };
    assert_eq!(seen, pushed);
    assert!(
        received < MAX_DOCUMENTS && sent < MAX_DOCUMENTS,
        "{received} {sent}"
    );
    assert_eq!(built(&env, "m1"), built(&env, "m2"));

    // To another repository: layers are mounted, the config alone is sent.
    let other = format!("{host}/other/app:v1");
    let (seen, received, sent) = second(
        "push elsewhere",
        &["--push", "-t", &other, "--metadata-file", "m3"],
    );
    assert_eq!((seen.manifests_read, seen.blobs_read), (2, 2), "{seen:?}");
    assert_eq!((seen.mounts, seen.manifests_written), (2, 1), "{seen:?}");
    assert!(
        received < MAX_DOCUMENTS && sent < MAX_DOCUMENTS,
        "{received} {sent}"
    );
    assert_eq!(built(&env, "m1"), built(&env, "m3"));

    // Into the store: the base's layer and that of the last stage, of five.
    let (seen, received, _) = second("store", &["-t", "app", "--metadata-file", "m4"]);
    assert_eq!((seen.manifests_read, seen.blobs_read), (2, 4), "{seen:?}");
    assert!(received > 400_000, "{received}");
    assert_eq!(built(&env, "m1"), built(&env, "m4"));

    // With another source, the layers that the steps to be executed build on, and none else.
    env.file("src", "changed\n");
    let machine = runner(&env, "changed");
    let outcome = machine
        .build(&["--cache-from", &cache, "-o", "type=cacheonly"])
        .success();
    assert_eq!(
        n_executed(&outcome),
        4,
        "both copies, what runs on them, the copy of that: {outcome}"
    );
    let (seen, _, _) = counted(&proxy, "changed source");
    // The base's, the directory's, and that of `deps`.
    assert_eq!(seen.blobs_read, 2 + 3, "{outcome}");
}

#[test]
fn of_a_bucket_a_second_runner_takes_what_it_needs() {
    let Some(mut env) = prepared(&dockerfile("base")) else {
        return;
    };
    let Some(moto) = Moto::start("caches") else {
        return;
    };
    let proxy = CountingProxy::start(&moto.host);
    env.var("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE");
    env.var("AWS_SECRET_ACCESS_KEY", "very-secret");
    env.var("AWS_REGION", "eu-west-1");
    let place = format!("type=s3,bucket=caches,endpoint_url=http://{}", proxy.host());
    let to = format!("{place},mode=max");
    let first = runner(&env, "one").build(&["--cache-to", &to, "-t", "app"]);
    assert_eq!(n_executed(&first.success()), N_STEPS);
    counted(&proxy, "the first runner");
    for (name, args, n_layers) in [
        ("cacheonly", ["-o", "type=cacheonly"], 0),
        // The base lies in a layout.
        ("store", ["-t", "app"], 1),
    ] {
        let machine = runner(&env, name);
        let outcome = machine.build(&[&["--cache-from", &place], &args[..]].concat());
        let outcome = outcome.success();
        assert_eq!(n_executed(&outcome), 0, "{outcome}");
        let passed = proxy.take();
        let gets = |part: &str| {
            let found = passed
                .iter()
                .filter(|request| request.method == "GET" && request.target.contains(part));
            found.count()
        };
        assert_eq!(
            (gets("/manifests/"), gets("/blobs/")),
            (1, n_layers),
            "{passed:?}"
        );
        assert_eq!(passed.len(), 1 + n_layers, "{passed:?}");
        let received: u64 = passed.iter().map(|request| request.received).sum();
        eprintln!("{name}: {received} bytes fetched");
    }
}
