//! `--cache-from` and `--cache-to`: what they say. Keys are buildx's; what is not done is refused by name.

use std::{collections::BTreeSet, path::PathBuf, str::FromStr};

use rbuild::{
    cache::remote::{Mode, MountChoice},
    oci::Digest,
    reference::Reference,
    registry::Secret,
    source::suggest,
};

/// Where a cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PlaceSpec {
    Registry {
        reference: Reference,
        insecure: bool,
    },
    Local {
        dir: PathBuf,
        tag: String,
        digest: Option<Digest>,
    },
    /// What is not given comes from the environment.
    S3(Box<S3Spec>),
    Gha {
        url: Option<String>,
        token: Option<Secret>,
        scope: String,
    },
}

/// A bucket, as far as the option says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct S3Spec {
    pub(crate) bucket: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) path_style: Option<bool>,
    pub(crate) prefix: String,
    pub(crate) blobs_prefix: String,
    pub(crate) manifests_prefix: String,
    pub(crate) names: Vec<String>,
    pub(crate) access_key_id: Option<String>,
    pub(crate) secret_access_key: Option<Secret>,
    pub(crate) session_token: Option<Secret>,
}

const S3_KEYS: [&str; 11] = [
    "bucket",
    "region",
    "endpoint_url",
    "use_path_style",
    "prefix",
    "blobs_prefix",
    "manifests_prefix",
    "name",
    "access_key_id",
    "secret_access_key",
    "session_token",
];

fn s3(pairs: &mut Pairs) -> Result<PlaceSpec, String> {
    let endpoint = pairs.take("endpoint_url");
    if let Some(url) = &endpoint
        && !(url.starts_with("https://") || url.starts_with("http://"))
    {
        return Err(format!(
            "endpoint_url={url} is not an http:// or https:// address"
        ));
    }
    let path_style = match pairs.take("use_path_style") {
        Some(text) => Some(is_true("use_path_style", &text)?),
        None => None,
    };
    let names = pairs.take("name").unwrap_or_else(|| "rbuild".to_owned());
    let names: Vec<String> = names.split(';').map(ToOwned::to_owned).collect();
    if names.iter().any(String::is_empty) {
        return Err("a name is empty".to_owned());
    }
    Ok(PlaceSpec::S3(Box::new(S3Spec {
        bucket: pairs.take("bucket"),
        region: pairs.take("region"),
        endpoint,
        path_style,
        prefix: pairs.take("prefix").unwrap_or_default(),
        blobs_prefix: pairs
            .take("blobs_prefix")
            .unwrap_or_else(|| "blobs/".to_owned()),
        manifests_prefix: pairs
            .take("manifests_prefix")
            .unwrap_or_else(|| "manifests/".to_owned()),
        names,
        access_key_id: pairs.take("access_key_id"),
        secret_access_key: pairs.take("secret_access_key").map(Secret::new),
        session_token: pairs.take("session_token").map(Secret::new),
    })))
}

const GHA_KEYS: [&str; 4] = ["url_v2", "token", "scope", "version"];

fn gha(pairs: &mut Pairs) -> Result<PlaceSpec, String> {
    pairs.only("version", &["2"])?;
    let scope = pairs.take("scope").unwrap_or_else(|| "rbuild".to_owned());
    if scope.is_empty() || scope.contains([',', '#']) {
        return Err(format!("scope={scope} cannot be used"));
    }
    Ok(PlaceSpec::Gha {
        url: pairs.take("url_v2"),
        token: pairs.take("token").map(Secret::new),
        scope,
    })
}

fn is_true(key: &str, text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(format!("{key}={other} is neither true nor false")),
    }
}

/// One `--cache-from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CacheFrom(pub(crate) PlaceSpec);

/// One `--cache-to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CacheTo {
    /// Into the config of the image that is built.
    Inline,
    Place {
        place: PlaceSpec,
        mode: Mode,
        ignore_error: bool,
    },
}

/// `--cache-mounts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountIds(pub(crate) MountChoice);

impl FromStr for MountIds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self(MountChoice::All));
        }
        let ids: BTreeSet<String> = text.split(',').map(ToOwned::to_owned).collect();
        if ids.iter().any(String::is_empty) {
            return Err("an id is empty".to_owned());
        }
        Ok(Self(MountChoice::Ids(ids)))
    }
}

/// What BuildKit knows and this program does not, and why.
const REFUSED: [(&str, &str); 12] = [
    (
        "url",
        "the first version of the Actions cache is shut down; url_v2 is that of the second",
    ),
    (
        "timeout",
        "there is no limit on a whole transfer, only on its pauses",
    ),
    (
        "touch_refresh",
        "objects are not touched; let the bucket expire them by their last use or age",
    ),
    ("upload_parallelism", "four layers are sent at a time"),
    ("retry_mode", "use --registry-retries"),
    ("retry_max_attempts", "use --registry-retries"),
    ("disable_accept_encoding", "no encoding is asked for"),
    (
        "compression-level",
        "layers are exported as the store has them",
    ),
    (
        "force-compression",
        "layers are exported as the store has them",
    ),
    (
        "reset",
        "what no cache in the directory needs is removed anyway",
    ),
    ("repository", "it is no part of the protocol that is spoken"),
    ("ghtoken", "it is no part of the protocol that is spoken"),
];

/// The pairs of one option; reading takes away those that are known.
struct Pairs {
    pairs: Vec<(String, String)>,
}

impl Pairs {
    fn parse(text: &str) -> Result<Self, String> {
        let mut pairs = Vec::new();
        for field in fields(text).ok_or("its quotes do not match")? {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| format!("`{field}` is not of the form KEY=VALUE"))?;
            pairs.push((key.trim().to_lowercase(), value.to_owned()));
        }
        Ok(Self { pairs })
    }

    fn take(&mut self, key: &str) -> Option<String> {
        let at = self.pairs.iter().position(|(k, _)| k == key)?;
        Some(self.pairs.remove(at).1)
    }

    fn need(&mut self, kind: &str, key: &str) -> Result<String, String> {
        self.take(key)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| format!("type={kind} needs {key}=VALUE"))
    }

    fn flag(&mut self, key: &str, default: bool) -> Result<bool, String> {
        self.take(key)
            .map_or(Ok(default), |text| is_true(key, &text))
    }

    /// Takes a key that may only ask for what is so anyway.
    fn only(&mut self, key: &str, fine: &[&str]) -> Result<(), String> {
        match self.take(key) {
            Some(value) if !fine.contains(&value.as_str()) => Err(format!(
                "{key}={value} is not supported; it is always {}",
                fine.first().unwrap_or(&"off")
            )),
            _ => Ok(()),
        }
    }

    /// Refuses what is left.
    fn finish(self, kind: &str, known: &[&str]) -> Result<(), String> {
        let Some((key, _)) = self.pairs.first() else {
            return Ok(());
        };
        if let Some((_, reason)) = REFUSED.iter().find(|(name, _)| name == key) {
            return Err(format!("{key} is not supported: {reason}"));
        }
        let near = suggest(key, known.iter().copied());
        let near = near.map_or(String::new(), |near| format!(" (did you mean {near}?)"));
        Err(format!("type={kind} has no key `{key}`{near}"))
    }
}

/// Splits at commas; a field in double quotes may have some. `None` when quotes do not match.
fn fields(text: &str) -> Option<Vec<String>> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            _ => field.push(c),
        }
    }
    fields.push(field);
    (!quoted).then_some(fields)
}

fn kind(pairs: &mut Pairs) -> Result<String, String> {
    pairs
        .take("type")
        .ok_or_else(|| "it has no type=registry|local|inline|s3|gha".to_owned())
}

fn unknown(kind: &str) -> String {
    let near = suggest(kind, ["registry", "local", "inline", "s3", "gha"]);
    let near = near.map_or(String::new(), |near| format!(" (did you mean {near}?)"));
    format!("unknown type `{kind}`{near}")
}

fn reference(text: &str) -> Result<Reference, String> {
    Reference::parse(text).map_err(|e| format!("ref={text}: {e}"))
}

fn registry(pairs: &mut Pairs) -> Result<PlaceSpec, String> {
    Ok(PlaceSpec::Registry {
        reference: reference(&pairs.need("registry", "ref")?)?,
        insecure: pairs.flag("registry.insecure", false)?,
    })
}

impl FromStr for CacheFrom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains('=') {
            return Ok(Self(PlaceSpec::Registry {
                reference: reference(text)?,
                insecure: false,
            }));
        }
        let mut pairs = Pairs::parse(text)?;
        let kind = kind(&mut pairs)?;
        let (place, known): (_, &[&str]) = match kind.as_str() {
            "registry" => (registry(&mut pairs)?, &["ref", "registry.insecure"]),
            "local" => {
                let dir = pairs.need("local", "src")?.into();
                let digest = pairs.take("digest").map(|text| text.parse());
                let place = PlaceSpec::Local {
                    dir,
                    tag: pairs.take("tag").unwrap_or_else(|| "latest".to_owned()),
                    digest: digest.transpose().map_err(|e| format!("digest: {e}"))?,
                };
                (place, &["src", "tag", "digest"])
            }
            "s3" => (s3(&mut pairs)?, &S3_KEYS),
            "gha" => (gha(&mut pairs)?, &GHA_KEYS),
            "inline" => {
                return Err(
                    "an inline cache is read with type=registry,ref=IMAGE, or IMAGE alone"
                        .to_owned(),
                );
            }
            other => return Err(unknown(other)),
        };
        pairs.finish(&kind, known)?;
        Ok(Self(place))
    }
}

impl FromStr for CacheTo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut pairs = if text.contains('=') {
            Pairs::parse(text)?
        } else {
            let pair = ("ref".to_owned(), text.to_owned());
            let kind = ("type".to_owned(), "registry".to_owned());
            // buildx takes `inline` alone for a type, too.
            let pairs = if text == "inline" {
                vec![("type".to_owned(), text.to_owned())]
            } else {
                vec![kind, pair]
            };
            Pairs { pairs }
        };
        let kind = kind(&mut pairs)?;
        if kind == "inline" {
            // Of steps outside the image there is nowhere to put layers; BuildKit takes `max` and writes `min`, too.
            pairs.only("mode", &["min", "max"])?;
            pairs.finish("inline", &["mode"])?;
            return Ok(Self::Inline);
        }
        let mode = match pairs.take("mode").as_deref() {
            None | Some("min") => Mode::Min,
            Some("max") => Mode::Max,
            Some(other) => return Err(format!("mode={other} is neither min nor max")),
        };
        let ignore_error = pairs.flag("ignore-error", false)?;
        pairs.only("compression", &["gzip"])?;
        pairs.only("oci-mediatypes", &["true"])?;
        pairs.only("image-manifest", &["true"])?;
        let (place, known): (_, &[&str]) = match kind.as_str() {
            "registry" => {
                let place = registry(&mut pairs)?;
                if let PlaceSpec::Registry { reference, .. } = &place
                    && reference.digest().is_some()
                {
                    return Err(format!("{reference}: a cache is written to a tag"));
                }
                (place, &["ref", "mode", "ignore-error", "registry.insecure"])
            }
            "local" => {
                let place = PlaceSpec::Local {
                    dir: pairs.need("local", "dest")?.into(),
                    tag: pairs.take("tag").unwrap_or_else(|| "latest".to_owned()),
                    digest: None,
                };
                (place, &["dest", "tag", "mode", "ignore-error"])
            }
            "s3" => (s3(&mut pairs)?, &S3_KEYS),
            "gha" => (gha(&mut pairs)?, &GHA_KEYS),
            other => return Err(unknown(other)),
        };
        pairs.finish(&kind, known)?;
        Ok(Self::Place {
            place,
            mode,
            ignore_error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> Result<PlaceSpec, String> {
        text.parse::<CacheFrom>().map(|from| from.0)
    }

    fn to(text: &str) -> Result<CacheTo, String> {
        text.parse()
    }

    #[test]
    fn a_name_alone_is_a_registry() {
        let place = PlaceSpec::Registry {
            reference: Reference::parse("user/app:cache").expect("valid"),
            insecure: false,
        };
        assert_eq!(from("user/app:cache"), Ok(place.clone()));
        assert_eq!(from("type=registry,ref=user/app:cache"), Ok(place.clone()));
        let written = CacheTo::Place {
            place,
            mode: Mode::Max,
            ignore_error: true,
        };
        assert_eq!(
            to("type=registry,ref=user/app:cache,mode=max,ignore-error=true,oci-mediatypes=true"),
            Ok(written)
        );
        assert_eq!(to("type=inline"), Ok(CacheTo::Inline));
        assert_eq!(to("inline"), Ok(CacheTo::Inline));
        assert_eq!(to("type=inline,mode=max"), Ok(CacheTo::Inline));
    }

    #[test]
    fn directories_have_a_tag() {
        let local = |tag: &str| PlaceSpec::Local {
            dir: "a,b".into(),
            tag: tag.to_owned(),
            digest: None,
        };
        assert_eq!(from(r#"type=local,"src=a,b""#), Ok(local("latest")));
        assert_eq!(from(r#"type=local,"src=a,b",tag=x"#), Ok(local("x")));
    }

    #[test]
    fn what_is_not_done_is_refused() {
        for (text, reason) in [
            ("type=registry", "needs ref="),
            ("type=registry,ref=a b", "a b"),
            ("type=registry,ref=a,mode=most", "mode=most"),
            ("type=registry,ref=a,compression=zstd", "compression=zstd"),
            (
                "type=registry,ref=a,force-compression=true",
                "force-compression",
            ),
            ("type=registry,ref=a,image-manifest=false", "image-manifest"),
            ("type=registry,ref=a,ignore-error=maybe", "ignore-error"),
            ("type=registry,ref=a,modes=max", "did you mean mode?"),
            ("type=regstry,ref=a", "did you mean registry?"),
            ("type=local,src=a", "needs dest="),
            ("type=inline,mode=most", "mode=most"),
            ("ref=a", "no type"),
            (r#"type=local,"dest=a"#, "quotes"),
        ] {
            let error = to(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(from("type=inline,ref=a").is_err());
        assert!(from("type=local,src=a,mode=max").is_err());
    }
}
