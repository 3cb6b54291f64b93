//! Contexts that are not directories: standard input, the web.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    process::Stdio,
};

use super::support::{Outcome, TestEnv};

/// A tar with a Dockerfile and a file.
fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, text) in [
        ("Dockerfile", "FROM scratch\nCOPY data /data\n"),
        ("other/Dockerfile.x", "FROM scratch\nCOPY data /elsewhere\n"),
        ("data", "from the archive\n"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, text.as_bytes())
            .expect("memory takes it");
    }
    tar.into_inner().expect("memory takes it")
}

fn build_from_stdin(env: &TestEnv, args: &[&str], input: &[u8]) -> Outcome {
    let mut all = vec!["build", "--progress=plain", "-o", "out"];
    all.extend(args);
    let mut child = env
        .command(&all)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    // A program that refuses the command line does not read.
    stdin.write_all(input).ok();
    drop(stdin);
    env.ended(child)
}

fn output(env: &TestEnv, path: &str) -> String {
    std::fs::read_to_string(env.path("out").join(path)).expect("a file of the image")
}

#[test]
fn a_dockerfile_on_standard_input_has_no_files() {
    let env = TestEnv::new();
    let dockerfile = b"FROM scratch\nCOPY <<EOF /made\nhere\nEOF\n";
    build_from_stdin(&env, &["-"], dockerfile).success();
    assert_eq!(output(&env, "made"), "here\n");
    build_from_stdin(&env, &["-"], b"FROM scratch\nCOPY data /\n")
        .exits(1)
        .says(" --> Dockerfile:2:");
    build_from_stdin(&env, &["-f", "x", "-"], dockerfile)
        .exits(2)
        .says("error: the context is a Dockerfile, and --file names another one\n");
    build_from_stdin(&env, &["-f", "-", "-"], b"")
        .exits(2)
        .says("error: standard input cannot be both the context and the Dockerfile\n");
}

#[test]
fn a_dockerfile_on_standard_input_uses_the_directory() {
    let env = TestEnv::new();
    env.file("data", "from the directory\n");
    build_from_stdin(
        &env,
        &["-f", "-", "context"],
        b"FROM scratch\nCOPY data /\n",
    )
    .success();
    assert_eq!(output(&env, "data"), "from the directory\n");
}

#[test]
fn an_archive_on_standard_input_is_the_context() {
    let env = TestEnv::new();
    build_from_stdin(&env, &["-"], &archive()).success();
    assert_eq!(output(&env, "data"), "from the archive\n");
    build_from_stdin(&env, &["-f", "other/Dockerfile.x", "-"], &archive()).success();
    assert_eq!(output(&env, "elsewhere"), "from the archive\n");
    build_from_stdin(&env, &["-f", "nowhere", "-"], &archive())
        .exits(2)
        .says("nowhere");
}

#[test]
fn an_archive_on_the_web_is_the_context() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut connection, _) = listener.accept().expect("a connection");
            let mut request = [0; 4096];
            let n = connection.read(&mut request).expect("a request");
            assert!(request[..n].starts_with(b"GET /context.tar HTTP/1.1"));
            let body = archive();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            connection.write_all(head.as_bytes()).expect("written");
            connection.write_all(&body).expect("written");
        }
    });
    let env = TestEnv::new();
    let url = format!("http://{address}/context.tar");
    build_from_stdin(&env, &[&url], b"")
        .success()
        .says("#1 [internal] load remote build context\n")
        .says("#1 context ")
        .says("#1 DONE");
    assert_eq!(output(&env, "data"), "from the archive\n");
    env.dockerfile("FROM scratch\nCOPY --from=files data /named\n");
    let named = format!("files={url}");
    build_from_stdin(&env, &["--build-context", &named, "context"], b"").success();
    assert_eq!(output(&env, "named"), "from the archive\n");
    server.join().expect("it served twice");
}
