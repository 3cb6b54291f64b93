//! Loading into a Docker engine, as far as that goes without one: a socket that answers as an engine does.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixListener,
    thread::JoinHandle,
};

use super::*;

/// Takes one archive and answers; gives the archive.
fn engine(socket: &Path, answer: &'static str) -> JoinHandle<Vec<u8>> {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        assert!(
            head.starts_with("POST /images/load?quiet=1 HTTP/1.0\r\n"),
            "{head}"
        );
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "))
            .unwrap();
        let mut archive = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut archive).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        archive
    })
}

fn load(fixture: &Fixture, socket: &Path) -> Result<Exported, OutputError> {
    let layer = fixture.built_layer(vec![file("a", "hello", 0o644, 0)]);
    let images = [assemble("linux/amd64", vec![layer])];
    let names = [reference("app:v1")];
    let request = Request {
        names: &names,
        now: MTIME,
        ..request(&images)
    };
    let layers = StoredLayers(&fixture.store);
    let services = Services {
        engine: Some(Engine {
            socket,
            is_canceled: &|| false,
        }),
        ..services(&fixture.store, &layers)
    };
    export(&OutputSpec::engine(), &request, &services, &mut Vec::new())
}

#[test]
fn an_engine_gets_an_archive_of_the_announced_length() {
    let fixture = Fixture::new();
    let socket = fixture.path("docker.sock");
    let engine = engine(
        &socket,
        "HTTP/1.0 200 OK\r\n\r\n{\"stream\":\"Loaded image: app:v1\\n\"}\r\n",
    );
    let exported = load(&fixture, &socket).expect("it is loaded");
    let archive = engine.join().unwrap();
    let other = Fixture::new();
    let loaded = rbuild::output::load(archive.as_slice(), &other.store).expect("an archive");
    assert_eq!(loaded[0].names, [reference("app:v1")]);
    assert_eq!(
        Some(loaded[0].descriptor.digest),
        exported.descriptor.map(|d| d.digest)
    );
    assert_eq!(archive[archive.len() - 1024..], [0; 1024]);
}

#[test]
fn what_an_engine_says_against_an_image_is_told() {
    let fixture = Fixture::new();
    let socket = fixture.path("docker.sock");
    let engine = engine(
        &socket,
        "HTTP/1.0 200 OK\r\n\r\n{\"error\":\"no space left on device\"}\r\n",
    );
    let error = load(&fixture, &socket).expect_err("it is refused");
    assert_eq!(
        error.to_string(),
        "the Docker engine refused the image: no space left on device"
    );
    engine.join().unwrap();
}

#[test]
fn a_missing_engine_is_named() {
    let fixture = Fixture::new();
    let socket = fixture.path("none.sock");
    let error = load(&fixture, &socket).expect_err("there is none");
    assert!(matches!(error, OutputError::NoEngine { .. }), "{error}");
    assert!(error.to_string().contains("none.sock"), "{error}");
}
