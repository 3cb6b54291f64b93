//! Repositories as contexts, served by the `git` program over its own protocol and over HTTP.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use super::{build_from_stdin, output};
use crate::support::TestEnv;

/// A repository with a tag, two branches, a subdirectory and a file that no branch has any more.
struct Repository {
    dir: tempfile::TempDir,
    first: String,
}

impl Repository {
    /// Says so and gives nothing where there is no git.
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let work = dir.path().join("repo.git");
        fs::create_dir(&work).expect("a directory");
        let git = |args: &[&str]| {
            let output = Command::new("git")
                .arg("-C")
                .arg(&work)
                .args(["-c", "user.name=x", "-c", "user.email=x@y"])
                .args([
                    "-c",
                    "commit.gpgsign=false",
                    "-c",
                    "init.defaultBranch=main",
                ])
                .args(args)
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                .env("GIT_AUTHOR_DATE", "1577836800 +0000")
                .env("GIT_COMMITTER_DATE", "1577836800 +0000")
                .output();
            match output {
                Ok(output) if output.status.success() => {
                    let text = String::from_utf8(output.stdout).expect("text");
                    Some(text.trim().to_owned())
                }
                Ok(output) => panic!("git {args:?}: {output:?}"),
                Err(e) => {
                    eprintln!("skipped: git: {e}");
                    None
                }
            }
        };
        let put = |name: &str, content: &str| {
            let path = work.join(name);
            fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
            fs::write(path, content).expect("a file");
        };
        git(&["init", "-q"])?;
        git(&["config", "uploadpack.allowAnySHA1InWant", "true"])?;
        put("Dockerfile", "FROM scratch\nCOPY data /data\n");
        put("data", "one\n");
        put("sub/Dockerfile", "FROM scratch\nCOPY data /from-sub\n");
        put("sub/data", "below\n");
        // An ignore file says nothing in a repository.
        put(".dockerignore", "data\n");
        git(&["add", "."])?;
        git(&["commit", "-qm", "1"])?;
        let first = git(&["rev-parse", "HEAD"])?;
        git(&["tag", "v1"])?;
        git(&["checkout", "-qb", "dev"])?;
        put("data", "dev\n");
        git(&["commit", "-qam", "2"])?;
        git(&["checkout", "-q", "main"])?;
        put("data", "two\n");
        git(&["commit", "-qam", "3"])?;
        Some(Self { dir, first })
    }
}

/// Answers connections on a port of its own until it is dropped.
struct Server {
    address: String,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn new(answer: impl Fn(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if seen.load(Ordering::SeqCst) {
                    break;
                }
                answer(connection.expect("a connection"));
            }
        });
        Self {
            address,
            over,
            thread: Some(thread),
        }
    }

    /// `git://`: one `git daemon` for each connection, as inetd would start it.
    fn native(repository: &Repository) -> Self {
        let base: PathBuf = repository.dir.path().to_owned();
        Self::new(move |connection| {
            let socket = || {
                let socket = connection.try_clone().expect("another descriptor");
                Stdio::from(std::os::fd::OwnedFd::from(socket))
            };
            let mut daemon = git_exec("git-daemon");
            daemon
                .args(["--inetd", "--export-all"])
                .arg(format!("--base-path={}", base.display()))
                .stdin(socket())
                .stdout(socket())
                .stderr(Stdio::null());
            // The client may hang up first.
            daemon.status().ok();
        })
    }

    /// `http://`: git's own program behind a small server. With a password, no other requests are answered.
    fn http(repository: &Repository, password: Option<&'static str>) -> Self {
        let base: PathBuf = repository.dir.path().to_owned();
        Self::new(move |connection| {
            answer_http(connection, &base, password);
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        TcpStream::connect(&self.address).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// A program of git that is not on the `PATH`.
fn git_exec(name: &str) -> Command {
    let path = Command::new("git")
        .arg("--exec-path")
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .expect("git says where its programs are");
    let mut command = Command::new(PathBuf::from(path).join(name));
    command.env("GIT_CONFIG_GLOBAL", "/dev/null");
    command.env("GIT_CONFIG_COUNT", "1");
    command.env("GIT_CONFIG_KEY_0", "safe.directory");
    command.env("GIT_CONFIG_VALUE_0", "*");
    command
}

fn output_has(env: &TestEnv, path: &str) -> bool {
    env.path("out").join(path).try_exists().expect("an answer")
}

fn answer_http(connection: TcpStream, base: &std::path::Path, password: Option<&str>) {
    let mut reader = BufReader::new(connection.try_clone().expect("another descriptor"));
    let mut writer = connection;
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None => break,
        }
    }
    let header = |wanted: &str| {
        let found = headers.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.clone())
    };
    if header("expect").is_some() {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok();
    }
    let mut body = Vec::new();
    if let Some(length) = header("content-length").and_then(|text| text.parse::<u64>().ok()) {
        reader
            .by_ref()
            .take(length)
            .read_to_end(&mut body)
            .expect("a body");
    }
    let given = header("authorization").unwrap_or_default();
    if password.is_some_and(|password| given != password) {
        writer
            .write_all(
                b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            )
            .ok();
        return;
    }
    let (path, query) = words[1].split_once('?').unwrap_or((&words[1], ""));
    let mut program = git_exec("git-http-backend");
    program
        .env("GIT_PROJECT_ROOT", base)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", &words[0])
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", header("content-type").unwrap_or_default())
        .env("CONTENT_LENGTH", body.len().to_string())
        .env(
            "HTTP_CONTENT_ENCODING",
            header("content-encoding").unwrap_or_default(),
        )
        .env("GIT_PROTOCOL", header("git-protocol").unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = program.spawn().expect("git answers");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(&body).ok();
    drop(stdin);
    let answer = child.wait_with_output().expect("an answer").stdout;
    let text = String::from_utf8_lossy(&answer);
    let status = text
        .lines()
        .find_map(|line| line.strip_prefix("Status: "))
        .unwrap_or("200 OK")
        .to_owned();
    write!(writer, "HTTP/1.1 {status}\r\nConnection: close\r\n").ok();
    writer.write_all(&answer).ok();
}

#[test]
fn a_repository_is_a_context_at_any_of_its_commits() {
    let Some(repository) = Repository::new() else {
        return;
    };
    let server = Server::native(&repository);
    let url = format!("git://{}/repo.git", server.address);
    let cases = [
        (String::new(), "data", "two\n"),
        ("#v1".to_owned(), "data", "one\n"),
        ("#dev".to_owned(), "data", "dev\n"),
        ("#refs/heads/dev".to_owned(), "data", "dev\n"),
        (format!("#{}", repository.first), "data", "one\n"),
        ("#:sub".to_owned(), "from-sub", "below\n"),
        ("#v1:sub".to_owned(), "from-sub", "below\n"),
        ("?tag=v1&subdir=sub".to_owned(), "from-sub", "below\n"),
    ];
    for (suffix, path, content) in cases {
        let env = TestEnv::new();
        let url = format!("{url}{suffix}");
        build_from_stdin(&env, &[&url], b"").success();
        assert_eq!(output(&env, path), content, "{suffix}");
    }
    let env = TestEnv::new();
    // A Dockerfile of the command line, and files of the repository.
    build_from_stdin(&env, &["-f", "-", &url], b"FROM scratch\nCOPY sub/ /s/\n").success();
    assert_eq!(output(&env, "s/data"), "below\n");
    build_from_stdin(&env, &["-f", "sub/Dockerfile", &url], b"").success();
    assert_eq!(output(&env, "from-sub"), "two\n");
    build_from_stdin(&env, &[&format!("{url}#nowhere")], b"")
        .exits(4)
        .says("nowhere");
    build_from_stdin(&env, &[&format!("{url}#:nowhere")], b"")
        .exits(2)
        .says("nowhere");
    build_from_stdin(&env, &[&format!("{url}?colour=red")], b"")
        .exits(2)
        .says("unexpected query \"colour\"");
}

#[test]
fn a_repository_over_http_is_a_context_and_a_named_one() {
    let Some(repository) = Repository::new() else {
        return;
    };
    let server = Server::http(&repository, None);
    let url = format!("http://{}/repo.git", server.address);
    let env = TestEnv::new();
    build_from_stdin(&env, &[&format!("{url}#v1")], b"").success();
    assert_eq!(output(&env, "data"), "one\n");
    env.dockerfile("FROM scratch\nCOPY --from=code data /named\nADD code.sh /\n")
        .file("code.sh", "local\n");
    let named = format!("code={url}#dev");
    build_from_stdin(&env, &["--build-context", &named, "context"], b"").success();
    assert_eq!(output(&env, "named"), "dev\n");
    // What has been fetched does not stay.
    assert_eq!(fs::read_dir(env.path("tmp")).expect("there").count(), 0);
}

#[test]
fn provenance_tells_the_commits_and_files_that_a_build_took() {
    let Some(repository) = Repository::new() else {
        return;
    };
    let server = Server::native(&repository);
    let url = format!("git://{}/repo.git", server.address);
    let web = Server::new(|mut connection| {
        let mut lines = BufReader::new(connection.try_clone().expect("another")).lines();
        while lines
            .next()
            .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
        {}
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfile";
        connection.write_all(answer.as_bytes()).ok();
    });
    let file = format!("http://{}/f", web.address);
    let mut env = TestEnv::new();
    // It would be among the arguments.
    env.var("SOURCE_DATE_EPOCH", "");
    env.dockerfile(&format!(
        "FROM scratch\nADD {url}#v1:sub /s\nADD http://me:secret@{}/f?token=secret /f\nCOPY --from=code data /c\n",
        web.address
    ));
    let commit = serde_json::json!({"sha1": repository.first});
    let told = |args: &[&str]| -> serde_json::Value {
        let metadata = [
            "--provenance",
            "-o",
            "type=image",
            "--metadata-file",
            "told",
        ];
        drop(
            env.run(&[&["build"], &metadata[..], args].concat())
                .success(),
        );
        let text = fs::read_to_string(env.path("told")).expect("written");
        assert!(!text.contains("secret"), "{text}");
        let told: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        told["buildx.build.provenance"]["buildDefinition"].clone()
    };
    let named = format!("code={url}#{}", repository.first);
    let args = ["--build-context", &named, "context"];
    let definition = told(&args);
    let digest = rbuild::oci::sha256(b"file").hex();
    assert_eq!(
        definition["resolvedDependencies"],
        serde_json::json!([
            {"uri": format!("{url}#{}", repository.first), "digest": commit},
            {"uri": format!("{url}#v1"), "digest": commit},
            {"uri": format!("{file}?token=…"), "digest": {"sha256": digest}},
        ])
    );
    let request = &definition["externalParameters"]["request"];
    assert_eq!(
        request["args"],
        serde_json::json!({"context:code": format!("{url}#{}", repository.first)})
    );
    // Steps that are cached took the same.
    assert_eq!(told(&args), definition);

    let definition = told(&[&format!("{url}#v1:sub")]);
    assert_eq!(
        definition["externalParameters"],
        serde_json::json!({
            "configSource": {"uri": format!("{url}#v1:sub"), "digest": commit, "path": "Dockerfile"},
            "request": {"frontend": "dockerfile.v0"},
        })
    );
    assert_eq!(
        definition["resolvedDependencies"],
        serde_json::json!([{"uri": format!("{url}#v1"), "digest": commit}])
    );
}

#[test]
fn the_git_directory_stays_on_request() {
    let Some(repository) = Repository::new() else {
        return;
    };
    let server = Server::native(&repository);
    let url = format!("git://{}/repo.git", server.address);
    let dockerfile = b"FROM scratch\nCOPY . /\n";
    for (args, stays) in [
        (&["-f", "-"][..], false),
        (
            &["-f", "-", "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"],
            true,
        ),
        (
            &["-f", "-", "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=0"],
            false,
        ),
    ] {
        let env = TestEnv::new();
        let mut args = args.to_vec();
        args.push(&url);
        build_from_stdin(&env, &args, dockerfile).success();
        assert_eq!(output_has(&env, ".git/HEAD"), stays, "{args:?}");
    }
    let env = TestEnv::new();
    build_from_stdin(
        &env,
        &["-f", "-", &format!("{url}?keep-git-dir=true")],
        dockerfile,
    )
    .success();
    assert!(output_has(&env, ".git/HEAD"));
}

#[test]
fn a_token_opens_a_repository() {
    let Some(repository) = Repository::new() else {
        return;
    };
    // x-access-token:letmein
    let password = "basic eC1hY2Nlc3MtdG9rZW46bGV0bWVpbg==";
    let server = Server::http(&repository, Some(password));
    let url = format!("http://{}/repo.git", server.address);
    let mut env = TestEnv::new();
    build_from_stdin(&env, &[&url], b"").exits(4);
    env.var("TOKEN", "letmein");
    for id in ["GIT_AUTH_TOKEN", "GIT_AUTH_TOKEN.127.0.0.1"] {
        let secret = format!("id={id},env=TOKEN");
        let outcome = build_from_stdin(&env, &["--secret", &secret, &url], b"").success();
        assert!(!outcome.stderr.contains("letmein"), "{outcome}");
        assert_eq!(output(&env, "data"), "two\n");
    }
}

/// A server that leads to another one gets the token, and that one does not.
#[test]
fn a_token_is_not_taken_to_another_server() {
    let Some(repository) = Repository::new() else {
        return;
    };
    let base = repository.dir.path().to_owned();
    let heads = Arc::new(std::sync::Mutex::new(String::new()));
    let seen = Arc::clone(&heads);
    let other = Server::new(move |connection| {
        let mut head = [0; 4096];
        let n = connection.peek(&mut head).unwrap_or(0);
        *seen.lock().expect("no panic") += &String::from_utf8_lossy(&head[..n]);
        answer_http(connection, &base, None);
    });
    let to = other.address.clone();
    let first = Server::new(move |mut connection| {
        let mut head = [0; 4096];
        let n = connection.read(&mut head).unwrap_or(0);
        let head = String::from_utf8_lossy(&head[..n]);
        let target = head.split(' ').nth(1).unwrap_or("/");
        let answer = format!(
            "HTTP/1.1 302 Found\r\nLocation: http://{to}{target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        connection.write_all(answer.as_bytes()).ok();
    });
    let url = format!("http://{}/repo.git", first.address);
    let mut env = TestEnv::new();
    build_from_stdin(&env, &[&url], b"").success();
    assert!(heads.lock().expect("no panic").contains("POST /repo.git"));
    env.var("TOKEN", "letmein");
    build_from_stdin(
        &env,
        &["--secret", "id=GIT_AUTH_TOKEN,env=TOKEN", &url],
        b"",
    )
    .exits(4)
    .says("a token goes nowhere else");
    let heads = heads.lock().expect("no panic").to_ascii_lowercase();
    assert!(!heads.contains("authorization"), "{heads}");
}
