//! Contexts that are not directories: standard input, the web.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    process::Stdio,
};

mod git;

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
fn the_time_of_an_archive_is_that_of_its_newest_file() {
    let env = TestEnv::new();
    env.dockerfile(
        "FROM scratch\nARG SOURCE_DATE_EPOCH\nCOPY <<EOF /time\n$SOURCE_DATE_EPOCH\nEOF\n",
    );
    let here = env.path("context/Dockerfile").display().to_string();
    let text = std::fs::read(&here).expect("written");
    let mut tar = tar::Builder::new(Vec::new());
    for (path, time) in [("Dockerfile", 1_500_000_000), ("dir/new", 1_600_000_000)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(time);
        tar.append_data(&mut header, path, &*text)
            .expect("memory takes it");
    }
    let archive = tar.into_inner().expect("memory takes it");
    let args = ["--build-arg", "SOURCE_DATE_EPOCH=context", "-"];
    build_from_stdin(&env, &args, &archive).success();
    assert_eq!(output(&env, "time"), "1600000000\n");
}

#[test]
fn packed_archives_are_contexts_too() {
    let gzip = |bytes: &[u8]| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(bytes).expect("memory takes it");
        packed.finish().expect("memory takes it")
    };
    for packed in [gzip(&archive()), zstd(&archive())] {
        let env = TestEnv::new();
        build_from_stdin(&env, &["-"], &packed).success();
        assert_eq!(output(&env, "data"), "from the archive\n");
    }
    let env = TestEnv::new();
    let cut = &gzip(&archive())[..60];
    build_from_stdin(&env, &["-"], cut).exits(2);
    build_from_stdin(&env, &["-"], b"\0\x01\x02")
        .exits(2)
        .says("error: the context is neither an archive nor a Dockerfile");
    build_from_stdin(&env, &["-"], b"").exits(1);
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("memory takes it")
}

#[test]
fn an_archive_on_the_web_is_the_context() {
    const DOCKERFILE: &str = "FROM scratch\nCOPY --from=files mine /web\nCOPY . /beside/\n";
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = std::thread::spawn(move || {
        for path in [
            "context.tar",
            "context.tar",
            "context.tar",
            "Dockerfile",
            "Dockerfile",
            "context.tar",
            "gone",
        ] {
            let (mut connection, _) = listener.accept().expect("a connection");
            let mut request = [0; 4096];
            let n = connection.read(&mut request).expect("a request");
            let wanted = format!("GET /{path} HTTP/1.1");
            assert!(request[..n].starts_with(wanted.as_bytes()));
            let body = match path {
                "context.tar" => archive(),
                "Dockerfile" => DOCKERFILE.as_bytes().to_vec(),
                _ => {
                    let head =
                        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                    connection.write_all(head).expect("written");
                    continue;
                }
            };
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
    // A named one is a file, unless it is a repository: BuildKit unpacks it as little.
    env.dockerfile("FROM scratch\nCOPY --from=files . /named/\n");
    let named = format!("files={url}");
    build_from_stdin(&env, &["--build-context", &named, "context"], b"").success();
    let file = std::fs::read(env.path("out/named/context")).expect("a file of the image");
    assert_eq!(file, archive());
    // Another Dockerfile of the archive.
    build_from_stdin(&env, &["-f", "other/Dockerfile.x", &url], b"").success();
    assert_eq!(output(&env, "elsewhere"), "from the archive\n");
    // A Dockerfile of the web, for files of this machine; and as a context, which has it.
    env.file("mine", "local\n");
    let dockerfile = format!("http://{address}/Dockerfile");
    let files = format!("files={}", env.path("context").display());
    let args = ["--build-context", &files, "-f", &dockerfile, "context"];
    build_from_stdin(&env, &args, b"").success();
    assert_eq!(output(&env, "web"), "local\n");
    assert_eq!(output(&env, "beside/mine"), "local\n");
    let args = [
        "--build-context",
        &files,
        "-f",
        "not looked at",
        &dockerfile,
    ];
    build_from_stdin(&env, &args, b"").success();
    assert_eq!(output(&env, "beside/context"), DOCKERFILE);
    // Its whole path says that a Dockerfile is one of this machine.
    let here = env.path("here").display().to_string();
    std::fs::write(&here, "FROM scratch\nCOPY data /here\n").expect("written");
    build_from_stdin(&env, &["-f", &here, &url], b"").success();
    assert_eq!(output(&env, "here"), "from the archive\n");
    build_from_stdin(&env, &[&format!("http://{address}/gone")], b"")
        .exits(4)
        .says("gone: not found");
    server.join().expect("it was asked for everything");
}

#[test]
fn the_password_of_a_dockerfile_on_the_web_is_not_shown() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().expect("a connection");
        let mut request = [0; 4096];
        assert_ne!(connection.read(&mut request).expect("a request"), 0);
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnone";
        connection.write_all(answer).expect("written");
    });
    let env = TestEnv::new();
    let url = format!("http://me:hunter2@{address}/Dockerfile?token=s3cr3t");
    let outcome = build_from_stdin(&env, &["-f", &url, "context"], b"")
        .exits(1)
        .says(&format!("http://{address}/Dockerfile?token=…:1:1"));
    for secret in ["hunter2", "s3cr3t"] {
        assert!(!outcome.stderr.contains(secret), "{outcome}");
    }
    server.join().expect("it was asked");
}
