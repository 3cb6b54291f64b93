//! Moto, a server that speaks S3.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

/// A running `moto_server`, which speaks S3.
pub(super) struct Moto {
    process: std::process::Child,
    pub(super) host: String,
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Moto {
    /// Starts one with a bucket; says why not where it is not installed.
    pub(super) fn start(bucket: &str) -> Option<Self> {
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
