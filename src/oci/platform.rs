//! Platforms, in the normal form of containerd's `platforms` package: `x86_64` is `amd64`, `aarch64` and
//! `arm64/v8` are `arm64`, `armhf` is `arm/v7`, `armel` is `arm/v6`, `amd64/v1` is `amd64`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What an image runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// The CPU, in Go's words: `amd64`, `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// The operating system, in Go's words.
    #[serde(default)]
    pub os: String,
    /// The version of the operating system; only Windows has one.
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<String>,
    /// What the operating system must offer.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// The variant of the CPU: `v7` of `arm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("platform `{text}` {reason}")]
pub struct PlatformError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Platform {
    /// The platform this program runs on.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            other => other,
        };
        Self {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            ..Self::default()
        }
    }

    /// The same platform in its normal form.
    #[must_use]
    pub fn normalized(mut self) -> Self {
        self.os = match self.os.to_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let variant = self
            .variant
            .take()
            .filter(|v| !v.is_empty())
            .map(|v| v.to_lowercase());
        let (architecture, variant) = match (
            self.architecture.to_lowercase().as_str(),
            variant.as_deref(),
        ) {
            ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64".to_owned(), None),
            ("x86_64" | "x86-64" | "amd64", Some(v)) => ("amd64".to_owned(), Some(v.to_owned())),
            ("aarch64" | "arm64", None | Some("8" | "v8" | "v8.0")) => ("arm64".to_owned(), None),
            ("aarch64" | "arm64", Some(v)) => ("arm64".to_owned(), Some(v.to_owned())),
            ("i386" | "386", _) => ("386".to_owned(), None),
            ("armhf", _) => ("arm".to_owned(), Some("v7".to_owned())),
            ("armel", _) => ("arm".to_owned(), Some("v6".to_owned())),
            ("arm", None | Some("7" | "v7")) => ("arm".to_owned(), Some("v7".to_owned())),
            ("arm", Some(v)) if v.len() == 1 => ("arm".to_owned(), Some(format!("v{v}"))),
            (other, v) => (other.to_owned(), v.map(ToOwned::to_owned)),
        };
        self.architecture = architecture;
        self.variant = variant;
        self
    }

    /// How well an image for `candidate` serves somebody who asks for `self`: `None` not at all, else smaller is
    /// better. Older variants of the same CPU serve newer ones (`arm/v6` on `arm/v7`).
    pub fn match_rank(&self, candidate: &Self) -> Option<u32> {
        let (want, have) = (self.clone().normalized(), candidate.clone().normalized());
        if want.os != have.os {
            return None;
        }
        if let (Some(a), Some(b)) = (&want.os_version, &have.os_version)
            && a != b
        {
            return None;
        }
        if want.architecture == have.architecture && want.variant == have.variant {
            return Some(0);
        }
        let level = |p: &Self| -> Option<u32> {
            match p.variant.as_deref() {
                None if p.architecture == "amd64" => Some(1),
                None if p.architecture == "arm64" => Some(8),
                None => None,
                Some(v) => v.strip_prefix('v')?.split('.').next()?.parse().ok(),
            }
        };
        if want.architecture == "arm64" && have.architecture == "arm" {
            return Some(100 + 8u32.checked_sub(level(&have)?)?);
        }
        if want.architecture != have.architecture {
            return None;
        }
        level(&want)?.checked_sub(level(&have)?)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant
            .as_ref()
            .map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// Reads `os/arch[/variant]`, or a lone operating system or architecture; `local` is the host.
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let error = |reason| PlatformError {
            text: text.to_owned(),
            reason,
        };
        if text == "local" {
            return Ok(Self::host());
        }
        let parts: Vec<&str> = text.split('/').collect();
        if parts.iter().any(|p| {
            p.is_empty()
                || !p
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '(' | ')'))
        }) {
            return Err(error("is not of the form os/architecture[/variant]"));
        }
        let host = Self::host();
        let known_os = |s: &str| {
            matches!(
                s.to_lowercase().as_str(),
                "linux" | "windows" | "darwin" | "macos" | "freebsd" | "wasi"
            )
        };
        let platform = match parts.as_slice() {
            [os] if known_os(os) => Self {
                os: (*os).to_owned(),
                architecture: host.architecture,
                ..Self::default()
            },
            [arch] => {
                let known = [
                    "amd64", "x86_64", "x86-64", "arm64", "aarch64", "arm", "armhf", "armel",
                    "386", "i386", "ppc64le", "s390x", "riscv64", "mips64le", "mips64", "loong64",
                    "wasm",
                ];
                if !known.contains(&arch.to_lowercase().as_str()) {
                    return Err(error(
                        "is neither a known operating system nor a known architecture",
                    ));
                }
                Self {
                    os: host.os,
                    architecture: (*arch).to_owned(),
                    ..Self::default()
                }
            }
            [os, arch] => Self {
                os: (*os).to_owned(),
                architecture: (*arch).to_owned(),
                ..Self::default()
            },
            [os, arch, variant] => Self {
                os: (*os).to_owned(),
                architecture: (*arch).to_owned(),
                variant: Some((*variant).to_owned()),
                ..Self::default()
            },
            _ => return Err(error("has more than three parts")),
        };
        Ok(platform.normalized())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_normalise() {
        for (text, want) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("arm64", "linux/arm64"),
            ("Linux/amd64/v1", "linux/amd64"),
        ] {
            assert_eq!(
                text.parse::<Platform>().expect("valid").to_string(),
                want,
                "{text}"
            );
        }
        assert!("linux/foo/bar/baz".parse::<Platform>().is_err());
        assert!("nonsense".parse::<Platform>().is_err());
    }

    #[test]
    fn older_variants_serve_newer_ones() {
        let p = |t: &str| t.parse::<Platform>().expect("valid");
        assert_eq!(p("linux/arm/v7").match_rank(&p("linux/arm/v6")), Some(1));
        assert_eq!(p("linux/arm/v6").match_rank(&p("linux/arm/v7")), None);
        assert_eq!(p("linux/amd64").match_rank(&p("linux/arm64")), None);
        assert_eq!(p("linux/amd64/v3").match_rank(&p("linux/amd64")), Some(2));
    }
}
