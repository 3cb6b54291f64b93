//! The values of `RUN --mount` and `RUN --device`: comma-separated fields with CSV quoting.
//!
//! Mount values may hold variables, so they are read twice: when the file is parsed, only their form and that `from`
//! has no variable is checked, everything else when the `RUN` is reached ([`Mount::parse`]).

use serde::Serialize;

use super::{
    Device,
    expand::ExpandError,
    quote::quoted,
    scalar::{parse_bool, parse_size},
};
use crate::source::suggest_in_case;

/// What a mount is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MountType {
    /// Files of the context, a stage or an image.
    #[default]
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// An empty file system in memory.
    Tmpfs,
    /// A secret.
    Secret,
    /// The socket of an SSH agent.
    Ssh,
}

impl MountType {
    /// Its name in `type=`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }

    const ALL: [Self; 5] = [
        Self::Bind,
        Self::Cache,
        Self::Tmpfs,
        Self::Secret,
        Self::Ssh,
    ];
}

/// Who may use a cache mount at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// Everybody at once.
    Shared,
    /// A second user gets a new one.
    Private,
    /// A second user waits.
    Locked,
}

impl Sharing {
    const ALL: [(&'static str, Self); 3] = [
        ("shared", Self::Shared),
        ("private", Self::Private),
        ("locked", Self::Locked),
    ];
}

/// One `--mount`, expanded. Fields that are absent have the defaults of their type, which are the planner's matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// `type`
    pub kind: MountType,
    /// `from`, not empty.
    pub from: Option<String>,
    /// `source` or `src`, not empty.
    pub source: Option<String>,
    /// `target`, `dst` or `destination`, not empty.
    pub target: Option<String>,
    /// `readonly`/`ro` and `readwrite`/`rw`, the last one wins; bind, secret and ssh mounts are read-only unless told
    /// otherwise.
    pub readonly: bool,
    /// `size` in bytes, of a tmpfs.
    pub size: Option<u64>,
    /// `id`, not empty.
    pub id: Option<String>,
    /// `sharing`, of a cache.
    pub sharing: Option<Sharing>,
    /// `required`, of a secret or ssh mount.
    pub required: bool,
    /// `env`, the variable that holds a secret; an empty one stands for the default.
    pub env: Option<String>,
    /// `mode`, of a secret, ssh or cache mount.
    pub mode: Option<u32>,
    /// `uid`, likewise.
    pub uid: Option<u32>,
    /// `gid`, likewise.
    pub gid: Option<u32>,
}

/// Why a mount or device cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// A value cannot be expanded.
    #[error(transparent)]
    Expand(#[from] ExpandError),
    /// The value does not say a mount or device, in BuildKit's words.
    #[error("{0}")]
    Invalid(String),
}

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

impl Mount {
    /// Reads the value of a `--mount`, expanding the value of each key with `expand`.
    pub fn parse(
        value: &str,
        expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
    ) -> Result<Self, MountError> {
        let mut mount = Self::default();
        let mut readonly = None;
        for field in fields(value, "mounts")? {
            mount.field(&field, expand, &mut readonly)?;
        }
        mount.readonly =
            readonly.unwrap_or(!matches!(mount.kind, MountType::Cache | MountType::Tmpfs));
        mount.check()?;
        Ok(mount)
    }

    fn field(
        &mut self,
        field: &str,
        expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
        readonly: &mut Option<bool>,
    ) -> Result<(), MountError> {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(expand(value)?)),
            None => (field.to_lowercase(), None),
        };
        let key = key.as_str();
        let unexpected_for_type = |kind: MountType| {
            invalid(format!(
                "unexpected key '{key}' for mount type '{}'",
                kind.name()
            ))
        };
        let Some(value) = value else {
            match key {
                "readonly" | "ro" => *readonly = Some(true),
                "readwrite" | "rw" => *readonly = Some(false),
                "required" if self.takes_required() => self.required = true,
                "required" => return Err(unexpected_for_type(self.kind)),
                _ => {
                    return Err(invalid(format!(
                        "invalid field '{field}' must be a key=value pair"
                    )));
                }
            }
            return Ok(());
        };
        let switch = || {
            parse_bool(&value).ok_or_else(|| invalid(format!("invalid value for {key}: {value}")))
        };
        let number = |radix| {
            // A sign is no digit here, though it is for Rust.
            Some(&value)
                .filter(|v| !v.starts_with('+'))
                .and_then(|v| u32::from_str_radix(v, radix).ok())
                .ok_or_else(|| invalid(format!("invalid value {value} for {key}")))
        };
        match key {
            "type" => {
                let name = value.to_lowercase();
                self.kind = MountType::ALL
                    .into_iter()
                    .find(|t| t.name() == name)
                    .ok_or_else(|| {
                        misspelt(
                            format!("unsupported mount type {}", quoted(&value)),
                            &value,
                            MountType::ALL.map(MountType::name),
                        )
                    })?;
            }
            "from" => self.from = not_empty(value),
            "source" | "src" => self.source = not_empty(value),
            "target" | "dst" | "destination" => self.target = not_empty(value),
            "readonly" | "ro" => *readonly = Some(switch()?),
            "readwrite" | "rw" => *readonly = Some(!switch()?),
            "required" if self.takes_required() => self.required = switch()?,
            "size" if self.kind == MountType::Tmpfs => {
                self.size = Some(
                    parse_size(&value)
                        .ok_or_else(|| invalid(format!("invalid value for {key}: {value}")))?,
                );
            }
            "required" | "size" => return Err(unexpected_for_type(self.kind)),
            "id" => self.id = not_empty(value),
            "sharing" => {
                let name = value.to_lowercase();
                let sharing = Sharing::ALL.into_iter().find(|(n, _)| *n == name);
                let (_, sharing) = sharing.ok_or_else(|| {
                    misspelt(
                        format!("unsupported sharing value {}", quoted(&value)),
                        &value,
                        Sharing::ALL.map(|(name, _)| name),
                    )
                })?;
                self.sharing = Some(sharing);
            }
            "mode" => self.mode = Some(number(8)?),
            "uid" => self.uid = Some(number(10)?),
            "gid" => self.gid = Some(number(10)?),
            "env" => self.env = Some(value),
            _ => {
                return Err(misspelt(
                    format!("unexpected key '{key}' in '{field}'"),
                    key,
                    KEYS,
                ));
            }
        }
        Ok(())
    }

    fn takes_required(&self) -> bool {
        matches!(self.kind, MountType::Secret | MountType::Ssh)
    }

    fn check(&self) -> Result<(), MountError> {
        let kind = self.kind.name();
        if matches!(self.kind, MountType::Bind | MountType::Tmpfs) {
            for (name, value) in [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)] {
                if value.is_some() {
                    return Err(invalid(format!(
                        "{name} not allowed for {} type mounts",
                        quoted(kind)
                    )));
                }
            }
        }
        if self.kind == MountType::Tmpfs
            && let Some(source) = &self.source
            && !source.trim_matches(['/', '.']).is_empty()
        {
            // BuildKit looks for it in the new, empty file system, when the step runs.
            return Err(invalid(format!(
                "tmpfs mount has no source {}",
                quoted(source)
            )));
        }
        if self.kind == MountType::Secret {
            let problem = if self.from.is_some() {
                Some("secret mount should not have a from")
            } else if self.sharing.is_some() {
                Some("secret mount should not define sharing")
            } else if self.source.is_none() && self.target.is_none() && self.id.is_none() {
                Some("invalid secret mount. one of source, target required")
            } else if self.source.is_some() && self.id.is_some() {
                Some("both source and id can't be set")
            } else {
                None
            };
            if let Some(problem) = problem {
                return Err(invalid(problem.to_owned()));
            }
        }
        if self.sharing.is_some() && self.kind != MountType::Cache {
            return Err(invalid(format!(
                "invalid cache sharing set for {kind} mount"
            )));
        }
        Ok(())
    }
}

/// What the value of a `--mount` names in `from`, which holds no variable. The planner wants it before it can expand
/// the rest.
pub fn source(value: &str) -> Option<String> {
    let fields = fields(value, "mounts").ok()?;
    let from = fields.iter().rev().find_map(|field| {
        let (key, value) = field.split_once('=')?;
        key.eq_ignore_ascii_case("from").then_some(value)
    })?;
    not_empty(from.to_owned())
}

/// Checks what can be checked of a `--mount` before its variables are known.
pub(super) fn check_unexpanded(value: &str) -> Result<(), MountError> {
    for field in fields(value, "mounts")? {
        let Some((key, value)) = field.split_once('=') else {
            continue;
        };
        let variable = value.find('$').is_some_and(|at| at + 1 != value.len());
        if key.eq_ignore_ascii_case("from") && variable {
            return Err(invalid(
                "'from' doesn't support variable expansion, define alias stage instead".to_owned(),
            ));
        }
    }
    Ok(())
}

/// Reads the value of a `--device`.
pub(super) fn parse_device(value: &str) -> Result<Device, MountError> {
    let mut device = Device {
        name: String::new(),
        required: false,
    };
    for field in fields(value, "devices")? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("required", None) => device.required = true,
            ("required", Some(value)) => {
                device.required = parse_bool(value)
                    .ok_or_else(|| invalid(format!("invalid value for {key}: {value}")))?;
            }
            ("name", Some(_)) if !device.name.is_empty() => {
                return Err(invalid(format!(
                    "device name already set to {}",
                    device.name
                )));
            }
            ("name", Some(value)) => value.clone_into(&mut device.name),
            _ if device.name.is_empty() => device.name = field,
            (_, None) => {
                return Err(invalid(format!(
                    "invalid field '{field}' must be a key=value pair"
                )));
            }
            (_, Some(_)) => {
                return Err(misspelt(
                    format!("unexpected key '{key}' in '{field}'"),
                    &key,
                    ["name", "required"],
                ));
            }
        }
    }
    Ok(device)
}

fn not_empty(value: String) -> Option<String> {
    Some(value).filter(|v| !v.is_empty())
}

fn invalid(message: String) -> MountError {
    MountError::Invalid(message)
}

fn misspelt<'a>(
    message: String,
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> MountError {
    invalid(match suggest_in_case(word, candidates) {
        Some(candidate) => format!("{message} (did you mean {candidate}?)"),
        None => message,
    })
}

/// Splits at commas; a field that starts with `"` runs to the next lone `"`.
fn fields(value: &str, what: &str) -> Result<Vec<String>, MountError> {
    let fail = |rest: &str, reason: &str| {
        let column = value.len() - rest.len() + 1;
        invalid(format!(
            "failed to parse csv {what}: parse error on line 1, column {column}: {reason}"
        ))
    };
    if value.is_empty() {
        return Err(invalid(format!("failed to parse csv {what}: EOF")));
    }
    let mut fields = Vec::new();
    let mut rest = value;
    loop {
        if let Some(mut inner) = rest.strip_prefix('"') {
            let mut field = String::new();
            rest = loop {
                let Some(at) = inner.find('"') else {
                    return Err(fail(inner, "extraneous or missing \" in quoted-field"));
                };
                field += &inner[..at];
                let after = &inner[at + 1..];
                match after.chars().next() {
                    Some('"') => {
                        field.push('"');
                        inner = &after[1..];
                    }
                    None | Some(',') => break after,
                    Some(_) => {
                        return Err(fail(
                            &inner[at..],
                            "extraneous or missing \" in quoted-field",
                        ));
                    }
                }
            };
            fields.push(field);
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            if let Some(quote) = rest[..end].find('"') {
                return Err(fail(&rest[quote..], "bare \" in non-quoted field"));
            }
            fields.push(rest[..end].to_owned());
            rest = &rest[end..];
        }
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None => return Ok(fields),
        }
    }
}
