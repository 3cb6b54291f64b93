//! What an honest registry answers.

use rbuild::oci::{Digest, sha256};

use super::{Received, State, Wants};

pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub(super) fn header(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(super) fn body(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.body = bytes.into();
        self
    }

    fn error(status: u16, code: &str) -> Self {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"says the fake"}}]}}"#);
        Self::new(status)
            .header("Content-Type", "application/json")
            .body(body)
    }
}

impl State {
    /// The answer of an honest registry.
    pub(super) fn answer(&mut self, received: &Received, body: &[u8], is_cut: bool) -> Reply {
        let (path, query) = received
            .target
            .split_once('?')
            .unwrap_or((received.target.as_str(), ""));
        let host = received.header("host").to_owned();
        if path == "/token" {
            let form = String::from_utf8_lossy(body);
            return self.token(received, if query.is_empty() { &form } else { query });
        }
        if let Some(refusal) = self.refusal(received, path, &host) {
            return refusal;
        }
        let Some(rest) = path.strip_prefix("/v2/") else {
            return Reply::new(404).body("no such page");
        };
        if rest.is_empty() {
            return Reply::new(200).body("{}");
        }
        if let Some((repository, name)) = rest.split_once("/manifests/") {
            return self.manifest(
                &received.method,
                repository,
                name,
                received.header("content-type"),
                body,
            );
        }
        if let Some((repository, id)) = rest.split_once("/blobs/uploads/") {
            return self.upload(received, repository, id, query, &host, body, is_cut);
        }
        if let Some((repository, digest)) = rest.split_once("/blobs/") {
            return self.read_blob(received, repository, digest);
        }
        Reply::error(404, "NAME_UNKNOWN")
    }

    fn token(&mut self, received: &Received, query: &str) -> Reply {
        if let Wants::Bearer {
            login: Some(login), ..
        } = self.wants
            && received.header("authorization") != format!("Basic {}", base64(login))
        {
            let told = told(received);
            let details = format!("incorrect username or password: {told}");
            return Reply::new(401).body(serde_json::json!({ "details": details }).to_string());
        }
        self.n_made += 1;
        let token = format!("token-{}", self.n_made);
        let scopes = query
            .replace("%3A", ":")
            .replace("%2F", "/")
            .replace("%2C", ",");
        let n_uses = match self.wants {
            Wants::Bearer { n_uses, .. } => n_uses,
            _ => 0,
        };
        self.tokens.insert(token.clone(), (scopes, n_uses));
        Reply::new(200).body(format!(r#"{{"token":"{token}","expires_in":300}}"#))
    }

    fn refusal(&mut self, received: &Received, path: &str, host: &str) -> Option<Reply> {
        let authorization = received.header("authorization");
        match self.wants {
            Wants::Nothing => None,
            Wants::Basic(login) => {
                (authorization != format!("Basic {}", base64(login))).then(|| {
                    let error =
                        serde_json::json!({ "code": "UNAUTHORIZED", "message": told(received) });
                    let body = serde_json::json!({ "errors": [error] }).to_string();
                    Reply::error(401, "UNAUTHORIZED")
                        .body(body)
                        .header("WWW-Authenticate", "Basic realm=\"fake, inc\"")
                })
            }
            Wants::Bearer { .. } => {
                let repository = path
                    .strip_prefix("/v2/")
                    .and_then(|p| {
                        p.split_once("/manifests/")
                            .or_else(|| p.split_once("/blobs/"))
                    })
                    .map(|(repository, _)| repository);
                let action = if matches!(received.method.as_str(), "GET" | "HEAD") {
                    "pull"
                } else {
                    "push"
                };
                let is_good = authorization
                    .strip_prefix("Bearer ")
                    .and_then(|token| self.tokens.get_mut(token))
                    .is_some_and(|(scopes, n_uses)| {
                        if *n_uses == 0 {
                            return false;
                        }
                        *n_uses -= 1;
                        repository.is_none_or(|repository| {
                            scopes.split('&').any(|scope| {
                                scope
                                    .strip_prefix(&format!("scope=repository:{repository}:"))
                                    .is_some_and(|actions| actions.split(',').any(|a| a == action))
                            })
                        })
                    });
                let scope = repository.map_or(String::new(), |repository| {
                    let actions = if action == "push" {
                        "pull,push"
                    } else {
                        "pull"
                    };
                    format!(",scope=\"repository:{repository}:{actions}\"")
                });
                (!is_good).then(|| {
                    Reply::error(401, "UNAUTHORIZED").header(
                        "WWW-Authenticate",
                        format!("Bearer realm=\"http://{host}/token\",service=\"fake\"{scope}"),
                    )
                })
            }
        }
    }

    fn manifest(
        &mut self,
        method: &str,
        repository: &str,
        name: &str,
        media_type: &str,
        body: &[u8],
    ) -> Reply {
        if method == "PUT" {
            let digest = sha256(body);
            let text = String::from_utf8_lossy(body);
            // Everything that looks like a digest in it must be there.
            for part in text.split("\"digest\":\"").skip(1) {
                let digest: Digest = part[..71].parse().expect("a digest");
                let is_blob = self.blobs.contains_key(&(repository.to_owned(), digest));
                let is_manifest = self
                    .manifests
                    .contains_key(&(repository.to_owned(), digest.to_string()));
                if !is_blob && !is_manifest {
                    return Reply::error(400, "MANIFEST_BLOB_UNKNOWN");
                }
            }
            for name in [name.to_owned(), digest.to_string()] {
                self.manifests.insert(
                    (repository.to_owned(), name),
                    (media_type.to_owned(), body.to_vec()),
                );
            }
            return Reply::new(201).header("Docker-Content-Digest", digest);
        }
        match self
            .manifests
            .get(&(repository.to_owned(), name.to_owned()))
        {
            Some((media_type, bytes)) => Reply::new(200)
                .header("Content-Type", media_type)
                .header("Docker-Content-Digest", sha256(bytes))
                .body(bytes.clone()),
            None => Reply::error(404, "MANIFEST_UNKNOWN"),
        }
    }

    fn read_blob(&self, received: &Received, repository: &str, digest: &str) -> Reply {
        let Some(bytes) = digest
            .parse()
            .ok()
            .and_then(|digest| self.blobs.get(&(repository.to_owned(), digest)))
        else {
            return Reply::error(404, "BLOB_UNKNOWN");
        };
        let first = received
            .header("range")
            .strip_prefix("bytes=")
            .and_then(|r| r.strip_suffix('-'))
            .and_then(|r| r.parse::<usize>().ok());
        match first {
            Some(first) if first < bytes.len() => Reply::new(206)
                .header(
                    "Content-Range",
                    format!("bytes {first}-{}/{}", bytes.len() - 1, bytes.len()),
                )
                .body(&bytes[first..]),
            Some(_) => Reply::error(416, "RANGE_INVALID"),
            None => Reply::new(200).body(bytes.clone()),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one request")]
    fn upload(
        &mut self,
        received: &Received,
        repository: &str,
        id: &str,
        query: &str,
        host: &str,
        body: &[u8],
        is_cut: bool,
    ) -> Reply {
        let parameter = |name: &str| {
            query
                .split('&')
                .find_map(|p| p.strip_prefix(name)?.strip_prefix('='))
                .map(|v| v.replace("%3A", ":").replace("%2F", "/"))
        };
        let key = |digest: &str| {
            (
                repository.to_owned(),
                digest.parse::<Digest>().expect("a digest"),
            )
        };
        let prefix = if self.is_relative {
            String::new()
        } else {
            format!("http://{host}")
        };
        let location = |id: &str, n: usize| {
            format!("{prefix}/v2/{repository}/blobs/uploads/{id}?_state=a%2Bb{n}==")
        };
        match (received.method.as_str(), id) {
            ("POST", "") => {
                if let (Some(digest), Some(from)) = (parameter("mount"), parameter("from"))
                    && self.can_mount
                    && let Some(bytes) = self
                        .blobs
                        .get(&(from, digest.parse().expect("a digest")))
                        .cloned()
                {
                    self.blobs.insert(key(&digest), bytes);
                    return Reply::new(201);
                }
                self.n_made += 1;
                let id = format!("u{}", self.n_made);
                self.uploads.insert(id.clone(), Vec::new());
                Reply::new(202)
                    .header("Location", location(&id, 0))
                    .header("Range", "0-0")
            }
            ("PATCH" | "PUT", id) => {
                assert!(
                    query.contains("_state=a%2Bb"),
                    "the state was changed: {query}"
                );
                let Some(upload) = self.uploads.get_mut(id) else {
                    return Reply::error(404, "BLOB_UPLOAD_UNKNOWN");
                };
                let range = received.header("content-range");
                let first = range
                    .split('-')
                    .next()
                    .and_then(|f| f.parse::<usize>().ok());
                // An empty end of an upload has no range.
                let expected = if body.is_empty() { upload.len() } else { 0 };
                if first.unwrap_or(expected) != upload.len() {
                    return Reply::error(416, "BLOB_UPLOAD_INVALID");
                }
                upload.extend_from_slice(body);
                let n = upload.len();
                if received.method == "PATCH" || is_cut {
                    return Reply::new(202)
                        .header("Location", location(id, n))
                        .header("Range", format!("0-{}", n.saturating_sub(1)));
                }
                let bytes = self.uploads.remove(id).expect("just seen");
                let digest = parameter("digest").expect("the end of an upload has a digest");
                if sha256(&bytes).to_string() != digest {
                    return Reply::error(400, "DIGEST_INVALID");
                }
                self.blobs.insert(key(&digest), bytes);
                Reply::new(201).header("Docker-Content-Digest", digest)
            }
            ("GET", id) => match self.uploads.get(id) {
                Some(upload) => Reply::new(204)
                    .header("Location", location(id, upload.len()))
                    .header("Range", format!("0-{}", upload.len().saturating_sub(1))),
                None => Reply::error(404, "BLOB_UPLOAD_UNKNOWN"),
            },
            ("DELETE", id) => {
                self.uploads.remove(id);
                Reply::new(204)
            }
            _ => Reply::error(405, "UNSUPPORTED"),
        }
    }
}

/// What the client says of itself, as some servers repeat it.
fn told(received: &Received) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let header = received.header("authorization");
    let pair = header.strip_prefix("Basic ").unwrap_or_default();
    let pair = STANDARD.decode(pair).unwrap_or_default();
    format!("{header}, {}", String::from_utf8_lossy(&pair))
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
