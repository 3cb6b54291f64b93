//! HTTP/1.1 by hand, so that it can go wrong in every way.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{Fault, Plan, Received, State, answers::Reply};

pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) state: Arc<Mutex<State>>,
    pub(super) plan: Arc<Mutex<Arc<Plan>>>,
}

impl Connection {
    pub(super) fn serve(self) -> std::io::Result<()> {
        self.stream.set_nodelay(true)?;
        let mut reader = BufReader::new(self.stream.try_clone()?);
        let mut writer = self.stream.try_clone()?;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let mut parts = line.split_ascii_whitespace().map(ToOwned::to_owned);
            let (Some(method), Some(target)) = (parts.next(), parts.next()) else {
                return Ok(());
            };
            let mut headers = BTreeMap::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line)?;
                let Some((name, value)) = line.trim_end().split_once(':') else {
                    break;
                };
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            let received = Received {
                method,
                target,
                headers,
            };
            let n_before = {
                let mut state = self.state.lock().expect("no panic");
                let n = state.count(&received);
                state.log.push(received.clone());
                n
            };
            let plan = Arc::clone(&self.plan.lock().expect("no panic"));
            let fault = plan(&received, n_before);
            match &fault {
                Some(Fault::Answer(status, headers, body)) => {
                    let mut reply = Reply::new(*status).body(body.clone());
                    for (name, value) in headers {
                        reply = reply.header(name, value);
                    }
                    send(&mut writer, &received, &reply, None)?;
                    // As a proxy does that did not read the body.
                    if received.header("content-length").parse().unwrap_or(0) > 0 {
                        return linger(&self.stream, &mut reader);
                    }
                    continue;
                }
                Some(Fault::Drop) => {
                    self.stream.shutdown(Shutdown::Both)?;
                    return Ok(());
                }
                Some(Fault::Endless) => {
                    writer.write_all(b"HTTP/1.1 200 Fake\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                    let piece = [&b"10000\r\n"[..], &vec![b'x'; 0x10000], b"\r\n"].concat();
                    loop {
                        writer.write_all(&piece)?;
                    }
                }
                Some(Fault::Late(time)) => std::thread::sleep(*time),
                Some(Fault::ForgetUploads) => self.state.lock().expect("no panic").uploads.clear(),
                _ => {}
            }
            let len: usize = received.header("content-length").parse().unwrap_or(0);
            let max_body = self.state.lock().expect("no panic").max_body;
            if max_body.is_some_and(|max| len > max) {
                let reply =
                    Reply::new(413).body("<html><title>413 Request Entity Too Large</title>");
                send(
                    &mut writer,
                    &received,
                    &reply.header("Connection", "close"),
                    None,
                )?;
                return linger(&self.stream, &mut reader);
            }
            let mut body = vec![0; len];
            if let Some(Fault::CutRequest(n)) = fault {
                body.truncate(n.min(len));
                reader.read_exact(&mut body)?;
                // Only uploads keep what they got of a request.
                if received.target.contains("/blobs/uploads/") {
                    self.state
                        .lock()
                        .expect("no panic")
                        .answer(&received, &body, true);
                }
                self.stream.shutdown(Shutdown::Both)?;
                return Ok(());
            }
            assert_ne!(
                received.header("transfer-encoding"),
                "chunked",
                "a body without a length: {received:?}"
            );
            reader.read_exact(&mut body)?;
            let mut asked = received.clone();
            if matches!(fault, Some(Fault::NoRanges)) {
                asked.headers.remove("range");
            }
            let mut reply = self
                .state
                .lock()
                .expect("no panic")
                .answer(&asked, &body, false);
            let mut cut = None;
            match fault {
                Some(Fault::DropAnswer) => {
                    self.stream.shutdown(Shutdown::Both)?;
                    return Ok(());
                }
                Some(Fault::CutAnswer(n)) => cut = Some(n),
                Some(Fault::Drip) => {
                    send(&mut writer, &received, &reply, Some(0))?;
                    for byte in &reply.body {
                        writer.write_all(&[*byte])?;
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    continue;
                }
                Some(Fault::Body(bytes)) => reply = reply.body(bytes),
                Some(Fault::Headers(headers)) => {
                    for (name, value) in headers {
                        reply = reply.header(name, value);
                    }
                }
                _ => {}
            }
            send(&mut writer, &received, &reply, cut)?;
            if cut.is_some() {
                self.stream.shutdown(Shutdown::Both)?;
                return Ok(());
            }
        }
    }
}

fn send(
    writer: &mut TcpStream,
    received: &Received,
    reply: &Reply,
    cut: Option<usize>,
) -> std::io::Result<()> {
    use std::fmt::Write as _;
    let mut text = format!("HTTP/1.1 {} Fake\r\n", reply.status);
    if !reply
        .headers
        .iter()
        .any(|(n, _)| n.eq_ignore_ascii_case("content-length"))
        && reply.status != 204
    {
        write!(text, "Content-Length: {}\r\n", reply.body.len()).expect("a string grows");
    }
    for (name, value) in &reply.headers {
        write!(text, "{name}: {value}\r\n").expect("a string grows");
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    if received.method != "HEAD" {
        let n = cut.unwrap_or(usize::MAX).min(reply.body.len());
        bytes.extend_from_slice(&reply.body[..n]);
    }
    writer.write_all(&bytes)
}

/// Lets the other side read the answer before the connection goes, although its body was not read.
fn linger(stream: &TcpStream, reader: &mut BufReader<TcpStream>) -> std::io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    std::io::copy(reader, &mut std::io::sink()).ok();
    Ok(())
}
