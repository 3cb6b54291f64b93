//! What is tried again, how long, and what is not.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rbuild::registry::{
    Client, Error, Settings,
    settings::{Canceled, Retry, Timeouts, Warn},
};

use super::{client, push, put_image, quick, reference};
use crate::support::{FakeRegistry, Fault};

#[test]
fn patience_has_an_end_and_retry_after_is_heeded() {
    let fake = FakeRegistry::start();
    put_image(&fake, "a", "1", "linux/amd64");
    let body = br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"pull rate limit"}]}"#;
    fake.faults(|_, n| {
        (n < 2).then(|| Fault::Answer(429, vec![("Retry-After", "1".to_owned())], body.to_vec()))
    });
    let remarks = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&remarks);
    let client_that_tells = Client::new(Settings {
        warn: Some(Warn(Arc::new(move |text: &str| {
            seen.lock().expect("no panic").push(text.to_owned());
        }))),
        ..quick()
    })
    .expect("a client can be made");
    let start = Instant::now();
    client_that_tells
        .resolve(&reference(&fake.host(), "a:1"))
        .expect("in the end");
    assert!(start.elapsed() >= Duration::from_secs(2));
    let told = remarks.lock().expect("no panic").join("\n");
    assert!(
        told.contains("limits the rate of requests") && told.contains("trying again in 1 s"),
        "{told}"
    );

    fake.clear_log();
    fake.faults(|_, _| Some(Fault::Answer(429, vec![], body.to_vec())));
    let error = client()
        .manifest(&reference(&fake.host(), "a:1"))
        .expect_err("never");
    assert!(matches!(error, Error::RateLimited { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("TOOMANYREQUESTS: pull rate limit"),
        "{error}"
    );
    assert_eq!(fake.lines().len(), 5);

    fake.faults(|_, _| {
        Some(Fault::Answer(
            429,
            vec![("Retry-After", "3600".to_owned())],
            vec![],
        ))
    });
    let error = client()
        .resolve(&reference(&fake.host(), "a:1"))
        .expect_err("too long");
    assert!(error.to_string().contains("asks to wait 3600 s"), "{error}");
}

#[test]
fn refusals_are_not_repeated() {
    for (status, want) in [
        (400, "400"),
        (403, "denied"),
        (404, "not found"),
        (409, "409"),
        (415, "415"),
    ] {
        let fake = FakeRegistry::start();
        fake.faults(move |_, _| Some(Fault::Answer(status, vec![], vec![])));
        let image = reference(&fake.host(), "a:1");
        let error = push(&client(), &image, b"x", &[]).expect_err("refused");
        assert!(error.to_string().contains(want), "{status}: {error}");
        assert_eq!(
            fake.lines()
                .iter()
                .filter(|l| l.starts_with("POST"))
                .count(),
            1,
            "{status}"
        );
    }
}

#[test]
fn a_registry_that_is_down_is_named() {
    let host = FakeRegistry::start().host();
    let error = client()
        .resolve(&reference(&host, "a:1"))
        .expect_err("down");
    assert_eq!(
        error.to_string(),
        format!("{host} cannot be reached: connection refused")
    );
}

#[test]
fn a_server_that_falls_silent_is_left() {
    let fake = FakeRegistry::start();
    put_image(&fake, "a", "1", "linux/amd64");
    fake.faults(|r, n| {
        (r.target != "/v2/" && n == 0).then_some(Fault::Late(Duration::from_secs(3)))
    });
    let client = Client::new(Settings {
        timeouts: Timeouts {
            idle: Duration::from_millis(300),
            ..quick().timeouts
        },
        ..quick()
    })
    .expect("client");
    let start = Instant::now();
    client
        .resolve(&reference(&fake.host(), "a:1"))
        .expect("the second time");
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_server_that_drips_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let host = listener.local_addr().expect("an address").to_string();
    // Whoever waits has to be let go by the client: nobody else ends a connection.
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            std::thread::spawn(move || drip(connection));
        }
    });
    let client = Client::new(Settings {
        retry: Retry {
            attempts: 2,
            ..quick().retry
        },
        timeouts: Timeouts {
            idle: Duration::from_secs(1),
            ..quick().timeouts
        },
        ..quick()
    })
    .expect("client");
    let error = client
        .resolve(&reference(&host, "a:1"))
        .expect_err("no end in sight");
    assert!(matches!(error, Error::TooSlow { .. }), "{error}");
}

/// Answers with a document, a byte at a time.
fn drip(mut connection: TcpStream) -> io::Result<()> {
    let _request = connection.read(&mut [0; 4096])?;
    connection.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.index.v1+json\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n",
    )?;
    loop {
        connection.write_all(b" ")?;
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A client for which a second of silence is enough.
fn impatient() -> Client {
    Client::new(Settings {
        timeouts: Timeouts {
            idle: Duration::from_secs(1),
            ..quick().timeouts
        },
        ..quick()
    })
    .expect("client")
}

#[test]
fn a_layer_that_drips_is_resumed_and_left() {
    let fake = FakeRegistry::start();
    let bytes = vec![7; 4000];
    let layer = fake.put_blob("a", &bytes);
    fake.faults(|r, _| r.target.contains("/blobs/").then_some(Fault::Drip));
    let client = impatient();
    let start = Instant::now();
    let error = client
        .blob(&reference(&fake.host(), "a:1"), &layer, &mut Vec::new())
        .expect_err("no end in sight");
    let text = error.to_string();
    assert!(
        text.contains("sends too slowly") && text.contains(&format!("blob {}", layer.digest)),
        "{text}"
    );
    assert!(start.elapsed() < Duration::from_secs(20));
    let log = fake.log().into_iter();
    let blobs = log.filter(|r| r.target.contains("/blobs/"));
    let ranges: Vec<bool> = blobs
        .map(|r| r.header("range").starts_with("bytes="))
        .collect();
    assert_eq!(ranges, [false, true, true]);
}

#[test]
fn a_token_server_that_falls_silent_is_left_by_all_who_wait_for_it() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let token_host = silent.local_addr().expect("an address").to_string();
    let registry = TcpListener::bind("127.0.0.1:0").expect("a port");
    let host = registry.local_addr().expect("an address").to_string();
    let challenge = format!(
        "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\
         WWW-Authenticate: Bearer realm=\"http://{token_host}/token\",service=\"s\"\r\n\r\n"
    );
    std::thread::spawn(move || {
        for mut connection in registry.incoming().flatten() {
            // Who hangs up early is no concern of a server.
            let asked = connection.read(&mut [0; 4096]);
            asked
                .and_then(|_| connection.write_all(challenge.as_bytes()))
                .ok();
        }
    });
    let client = impatient();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (client, host, token_host) = (&client, &host, &token_host);
            scope.spawn(move || {
                let error = client
                    .resolve(&reference(host, &format!("a:{n}")))
                    .expect_err("nobody answers");
                assert_eq!(
                    error.to_string(),
                    format!("{token_host} has sent nothing for 1 s: a token for repository:a:pull")
                );
            });
        }
    });
    // Three attempts, not three for each of them.
    assert!(start.elapsed() < Duration::from_secs(5));
    drop(silent);
}

#[test]
fn waiting_can_be_called_off() {
    let fake = FakeRegistry::start();
    fake.faults(|_, _| {
        Some(Fault::Answer(
            429,
            vec![("Retry-After", "5".to_owned())],
            vec![],
        ))
    });
    let is_over = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&is_over);
    let client = Client::new(Settings {
        canceled: Some(Canceled(Arc::new(move || asked.load(Ordering::Relaxed)))),
        ..quick()
    })
    .expect("client");
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            is_over.store(true, Ordering::Relaxed);
        });
        let error = client
            .resolve(&reference(&fake.host(), "a:1"))
            .expect_err("called off");
        assert!(matches!(error, Error::Canceled), "{error}");
    });
    assert!(start.elapsed() < Duration::from_secs(3));
}
