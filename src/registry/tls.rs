//! HTTP clients: which authorities a server is verified with, which certificate is shown, which proxy is used.
//!
//! There is one client for plain HTTP, one for TLS with the usual authorities, and one for each host that has
//! settings of its own. They are made when first needed, because reading the authorities takes time that a
//! build without the network should not spend.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock},
};

use reqwest::{Certificate, Client, ClientBuilder, Identity, NoProxy, Proxy, Url};

use super::{error::Error, redact::redacted_text, settings::Settings};

/// Where distributions keep the authorities they trust.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Addresses that are never reached through a proxy.
const NEVER_PROXIED: &str = "localhost,127.0.0.0/8,::1";

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Plain,
    Usual,
    Own { host: String, insecure: bool },
}

/// Makes and keeps the clients.
#[derive(Debug)]
pub(super) struct Clients {
    made: Mutex<HashMap<Key, Client>>,
    usual: OnceLock<Vec<Certificate>>,
}

impl Clients {
    pub(super) fn new() -> Self {
        // Fails when the program has installed a provider before, and then that one is used.
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        Self {
            made: Mutex::default(),
            usual: OnceLock::new(),
        }
    }

    /// The client for a URL. `name` is what its server's certificates are filed under; `insecure` accepts
    /// certificates that nobody vouches for.
    pub(super) fn get(
        &self,
        settings: &Settings,
        url: &Url,
        name: &str,
        insecure: bool,
    ) -> Result<Client, Error> {
        let key = if url.scheme() == "http" {
            Key::Plain
        } else if insecure || has_own_settings(settings, name) {
            Key::Own {
                host: name.to_owned(),
                insecure,
            }
        } else {
            Key::Usual
        };
        let mut made = self
            .made
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(client) = made.get(&key) {
            return Ok(client.clone());
        }
        let client = self.make(settings, &key)?;
        made.insert(key, client.clone());
        Ok(client)
    }

    fn make(&self, settings: &Settings, key: &Key) -> Result<Client, Error> {
        let mut builder = base(settings)?;
        builder = match key {
            Key::Plain => builder.tls_certs_only([]),
            Key::Usual => builder.tls_certs_only(self.usual(settings)?),
            Key::Own { host, insecure } => {
                let mut authorities = self.usual(settings)?;
                for (_, path) in settings.registry_ca.iter().filter(|(h, _)| h == host) {
                    authorities.extend(read_authorities(path)?);
                }
                if let Some(dir) = certs_dir(settings, host) {
                    let (own, identity) = read_certs_dir(&dir)?;
                    authorities.extend(own);
                    if let Some(identity) = identity {
                        builder = builder.identity(identity);
                    }
                }
                builder
                    .tls_certs_only(authorities)
                    .tls_danger_accept_invalid_certs(*insecure)
            }
        };
        builder.build().map_err(|e| Error::Setting {
            what: "TLS settings",
            value: match key {
                Key::Own { host, .. } => host.clone(),
                Key::Plain | Key::Usual => "default".to_owned(),
            },
            reason: super::fault::cause(&e),
        })
    }

    /// The system's authorities, or Mozilla's where it has none, and those of [`Settings::extra_ca`].
    fn usual(&self, settings: &Settings) -> Result<Vec<Certificate>, Error> {
        if let Some(usual) = self.usual.get() {
            return Ok(usual.clone());
        }
        let mut usual = system_authorities(settings)?;
        if usual.is_empty() {
            usual = webpki_root_certs::TLS_SERVER_ROOT_CERTS
                .iter()
                .filter_map(|der| Certificate::from_der(der).ok())
                .collect();
        }
        for path in &settings.extra_ca {
            usual.extend(read_authorities(path)?);
        }
        Ok(self.usual.get_or_init(|| usual).clone())
    }
}

fn system_authorities(settings: &Settings) -> Result<Vec<Certificate>, Error> {
    let trust = &settings.trust;
    let is_explicit = trust.file.is_some() || !trust.dirs.is_empty();
    let file = trust.file.clone().or_else(|| {
        let usable = |path: &PathBuf| path.is_file();
        (!is_explicit)
            .then(|| BUNDLES.iter().map(PathBuf::from).find(usable))
            .flatten()
    });
    let mut authorities = Vec::new();
    let dirs = trust.dirs.iter().map(|dir| (None, Some(dir.as_path())));
    let sources = file
        .iter()
        .map(|file| (Some(file.as_path()), None))
        .chain(dirs);
    for (file, dir) in sources {
        let loaded = rustls_native_certs::load_certs_from_paths(file, dir);
        if let (true, [error, ..], Some(path)) = (
            loaded.certs.is_empty(),
            loaded.errors.as_slice(),
            file.or(dir),
        ) && is_explicit
        {
            return Err(Error::Certificate {
                path: path.to_owned(),
                reason: error.to_string(),
            });
        }
        authorities.extend(
            loaded
                .certs
                .iter()
                .filter_map(|der| Certificate::from_der(der).ok()),
        );
    }
    Ok(authorities)
}

type Make = fn(&str) -> reqwest::Result<Proxy>;

/// What all clients have in common.
fn base(settings: &Settings) -> Result<ClientBuilder, Error> {
    let mut builder = Client::builder()
        .user_agent(&settings.user_agent)
        // Redirects are followed here, where it is known which header may go where.
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        // The library's own retries would hide failures from the policy.
        .retry(reqwest::retry::never())
        .connect_timeout(settings.timeouts.connect)
        // One connection that carries all blobs side by side is slower than several.
        .http1_only()
        .pool_idle_timeout(std::time::Duration::from_secs(30))
        .no_proxy();
    // Without configuration the built-in resolver would ask servers on the internet.
    if !Path::new("/etc/resolv.conf").try_exists().unwrap_or(false) {
        builder = builder.no_hickory_dns();
    }
    let proxies = &settings.proxies;
    let no_proxy = NoProxy::from_string(&format!("{NEVER_PROXIED},{}", proxies.no_proxy));
    let kinds: [(&Option<String>, Make); 3] = [
        (&proxies.http, |url| Proxy::http(url)),
        (&proxies.https, |url| Proxy::https(url)),
        (&proxies.all, |url| Proxy::all(url)),
    ];
    for (url, make) in kinds {
        let Some(url) = url.as_deref().filter(|url| !url.is_empty()) else {
            continue;
        };
        let proxy = make(url).map_err(|_e: reqwest::Error| Error::Setting {
            what: "proxy",
            value: redacted_text(url),
            reason: "not the URL of a proxy".to_owned(),
        })?;
        builder = builder.proxy(proxy.no_proxy(no_proxy.clone()));
    }
    Ok(builder)
}

fn has_own_settings(settings: &Settings, host: &str) -> bool {
    settings.registry_ca.iter().any(|(h, _)| h == host) || certs_dir(settings, host).is_some()
}

/// The first `certs.d` directory that has one for the host. The port counts, and an implied port does not show.
fn certs_dir(settings: &Settings, host: &str) -> Option<PathBuf> {
    settings
        .certs_d
        .iter()
        .flat_map(|dir| {
            // Docker Hub's API host is not the name that people file it under.
            let alias = (host == "registry-1.docker.io").then(|| dir.join("docker.io"));
            alias.into_iter().chain([dir.join(host)])
        })
        .find(|dir| dir.is_dir())
}

fn read_certs_dir(dir: &Path) -> Result<(Vec<Certificate>, Option<Identity>), Error> {
    let error = |path: &Path, reason: String| Error::Certificate {
        path: path.to_owned(),
        reason,
    };
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .map_err(|e| error(dir, e.to_string()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    paths.sort();
    let (mut authorities, mut identity) = (Vec::new(), None);
    for path in paths {
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => authorities.extend(read_authorities(&path)?),
            Some("cert") if identity.is_none() => {
                let key = path.with_extension("key");
                let mut pem = fs::read(&path).map_err(|e| error(&path, e.to_string()))?;
                pem.push(b'\n');
                pem.extend(fs::read(&key).map_err(|e| error(&key, e.to_string()))?);
                identity = Some(
                    Identity::from_pem(&pem).map_err(|e| error(&path, super::fault::cause(&e)))?,
                );
            }
            _ => {}
        }
    }
    Ok((authorities, identity))
}

fn read_authorities(path: &Path) -> Result<Vec<Certificate>, Error> {
    let error = |reason: String| Error::Certificate {
        path: path.to_owned(),
        reason,
    };
    let pem = fs::read(path).map_err(|e| error(e.to_string()))?;
    let authorities =
        Certificate::from_pem_bundle(&pem).map_err(|e| error(super::fault::cause(&e)))?;
    if authorities.is_empty() {
        return Err(error("no certificate in PEM form".to_owned()));
    }
    Ok(authorities)
}

/// `host`, `host:port`, `[ipv6]:port`; the port only where the URL names one that its scheme does not imply.
pub(super) fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}
