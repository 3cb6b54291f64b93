//! Values of single options, each read by itself and refused with its own reason.

use std::{net::IpAddr, str::FromStr};

use rbuild::{
    oci::{Platform, PlatformError},
    output::{Annotation, AnnotationPlace},
    source::suggest,
};

/// `KEY=VALUE`, or `KEY` alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) key: String,
    pub(crate) value: Option<String>,
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        if key.is_empty() {
            return Err("the part before `=` is empty".to_owned());
        }
        Ok(Self {
            key: key.to_owned(),
            value,
        })
    }
}

/// An address for a name in `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) name: String,
    /// `None` for `host-gateway`.
    pub(crate) address: Option<IpAddr>,
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = text
            .split_once('=')
            .or_else(|| text.split_once(':'))
            .ok_or("it is not of the form HOST:IP")?;
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(format!("`{name}` is not a host name"));
        }
        let address = if address == "host-gateway" {
            None
        } else {
            let plain = address
                .strip_prefix('[')
                .and_then(|a| a.strip_suffix(']'))
                .unwrap_or(address);
            let parsed = plain
                .parse()
                .map_err(|_bad| format!("`{address}` is not an IP address"))?;
            Some(parsed)
        };
        Ok(Self {
            name: name.to_owned(),
            address,
        })
    }
}

/// A number of bytes: `65536`, `64m`, `1.5GiB`. Suffixes are powers of 1024, as Docker has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || "it is not a size such as `65536`, `64m` or `1g`".to_owned();
        let digits = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        let suffix = suffix.trim_start().to_lowercase();
        let shift = match suffix
            .strip_suffix("ib")
            .or_else(|| suffix.strip_suffix('b'))
        {
            Some(rest) => rest,
            None => &suffix,
        };
        let shift = match shift {
            "" => 0,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            "t" => 40,
            "p" => 50,
            _ => return Err(bad()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let whole: u64 = whole.parse().ok().ok_or_else(bad)?;
        let fraction: f64 = format!("0.{fraction}").parse().ok().ok_or_else(bad)?;
        let unit = 1_u64 << shift;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a fraction of a unit is smaller than the unit"
        )]
        let part = (fraction * unit as f64) as u64;
        whole
            .checked_mul(unit)
            .and_then(|bytes| bytes.checked_add(part))
            .map(Self)
            .ok_or_else(|| "it is more than 64 bits can count".to_owned())
    }
}

/// The resources that `--ulimit` knows, in Docker's words.
const RESOURCES: &[&str] = &[
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// A limit of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ulimit(pub(crate) rbuild::sandbox::Ulimit);

impl FromStr for Ulimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, limits) = text
            .split_once('=')
            .ok_or("it is not of the form NAME=SOFT[:HARD]")?;
        let resource =
            RESOURCES
                .iter()
                .find(|known| **known == name)
                .ok_or_else(|| match suggest(name, RESOURCES.iter().copied()) {
                    Some(near) => format!("unknown resource `{name}`; did you mean `{near}`?"),
                    None => format!("unknown resource `{name}`"),
                })?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let limit = |text: &str| match text {
            "-1" | "unlimited" => Ok(None),
            number => number
                .parse()
                .map(Some)
                .map_err(|_bad| format!("`{number}` is not a number")),
        };
        let (soft, hard) = (limit(soft)?, limit(hard)?);
        if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
            return Err("the soft limit is above the hard limit".to_owned());
        }
        Ok(Self(rbuild::sandbox::Ulimit {
            name: (*resource).to_owned(),
            soft,
            hard,
        }))
    }
}

/// `[TYPE[PLATFORM],…:]KEY=VALUE`: one annotation for each type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Annotations(pub(crate) Vec<Annotation>);

impl FromStr for Annotations {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text
            .split_once('=')
            .ok_or("it is not of the form KEY=VALUE")?;
        let (places, key) = match key.split_once(':') {
            None => (vec![(AnnotationPlace::Manifest, None)], key),
            Some((types, key)) => (
                types
                    .split(',')
                    .map(annotation_place)
                    .collect::<Result<_, _>>()?,
                key,
            ),
        };
        if key.is_empty() {
            return Err("the key is empty".to_owned());
        }
        Ok(Self(
            places
                .into_iter()
                .map(|(place, platform)| Annotation {
                    place,
                    platform,
                    key: key.to_owned(),
                    value: value.to_owned(),
                })
                .collect(),
        ))
    }
}

fn annotation_place(text: &str) -> Result<(AnnotationPlace, Option<Platform>), String> {
    let (name, platform) = match text.split_once('[') {
        Some((name, rest)) => {
            let platform = rest
                .strip_suffix(']')
                .ok_or_else(|| format!("`{text}` lacks a `]`"))?
                .parse()
                .map_err(|e: PlatformError| e.to_string())?;
            (name, Some(platform))
        }
        None => (text, None),
    };
    let known = [
        AnnotationPlace::Manifest,
        AnnotationPlace::Index,
        AnnotationPlace::ManifestDescriptor,
        AnnotationPlace::IndexDescriptor,
    ];
    match known.into_iter().find(|place| place.name() == name) {
        Some(place) => Ok((place, platform)),
        None => Err(match suggest(name, known.map(AnnotationPlace::name)) {
            Some(near) => format!("unknown annotation type `{name}`; did you mean `{near}`?"),
            None => format!(
                "unknown annotation type `{name}`; it is index, manifest, index-descriptor or manifest-descriptor"
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_count_in_powers_of_1024() {
        for (text, want) in [
            ("65536", 65536),
            ("64m", 64 << 20),
            ("64MB", 64 << 20),
            ("1.5GiB", 3 << 29),
            ("2 k", 2048),
            ("10b", 10),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(want)), "{text}");
        }
        for text in ["", "m", "1x", "-1", "1.2.3", "99999999999p"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_come_with_colon_or_equals_sign() {
        let host = |text: &str| text.parse::<Host>().map(|h| (h.name, h.address));
        let v4 = "10.0.0.1".parse().expect("an address");
        let v6 = "::1".parse().expect("an address");
        assert_eq!(host("db:10.0.0.1"), Ok(("db".to_owned(), Some(v4))));
        assert_eq!(host("db=10.0.0.1"), Ok(("db".to_owned(), Some(v4))));
        assert_eq!(host("db:::1"), Ok(("db".to_owned(), Some(v6))));
        assert_eq!(host("db=[::1]"), Ok(("db".to_owned(), Some(v6))));
        assert_eq!(host("up:host-gateway"), Ok(("up".to_owned(), None)));
        assert_eq!(
            host("db:nowhere"),
            Err("`nowhere` is not an IP address".to_owned())
        );
    }

    #[test]
    fn ulimits_have_two_limits() {
        let ulimit = |text: &str| text.parse::<Ulimit>().map(|u| (u.0.soft, u.0.hard));
        assert_eq!(ulimit("nofile=10"), Ok((Some(10), Some(10))));
        assert_eq!(ulimit("nofile=10:20"), Ok((Some(10), Some(20))));
        assert_eq!(ulimit("core=-1"), Ok((None, None)));
        assert_eq!(
            ulimit("nofiles=1"),
            Err("unknown resource `nofiles`; did you mean `nofile`?".to_owned())
        );
        assert!(ulimit("nofile=3:2").is_err());
    }

    #[test]
    fn annotations_say_where_they_go() {
        let annotations = |text: &str| -> Vec<String> {
            let Annotations(list) = text.parse().expect("valid");
            list.into_iter()
                .map(|a| {
                    let platform = a.platform.map(|p| format!("[{p}]")).unwrap_or_default();
                    format!("{}{platform} {} {}", a.place.name(), a.key, a.value)
                })
                .collect()
        };
        assert_eq!(
            annotations("index,manifest[linux/arm64]:a.b=c=d"),
            ["index a.b c=d", "manifest[linux/arm64] a.b c=d"]
        );
        assert_eq!(annotations("k=http://x"), ["manifest k http://x"]);
        assert!("manifset:k=v".parse::<Annotations>().is_err());
    }
}
