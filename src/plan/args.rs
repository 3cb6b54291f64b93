//! Arguments: those in front of the first `FROM`, the predefined ones and those of the command line.

use std::collections::{BTreeMap, BTreeSet};

use super::{Options, env::Env};
use crate::{
    dockerfile::{Arg, Instruction, InstructionKind, expand::Expander},
    oci::Platform,
    source::{Diagnostic, MOST_SUGGESTIONS, Severity, Span, suggest},
};

/// Arguments that are read by the builder and never reach the environment of a step.
pub(super) const NOT_IN_ENV: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Proxy settings: usable in `RUN` without an `ARG`, in the order in which processes get them.
const PROXIES: [&str; 5] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// What `--call outline` tells of an argument.
#[derive(Debug, Clone, Default)]
pub(super) struct ArgInfo {
    pub(super) value: String,
    pub(super) description: Option<String>,
    /// The arguments in its default.
    pub(super) deps: BTreeSet<String>,
    pub(super) span: Span,
}

/// The arguments that `FROM` lines see.
#[derive(Debug, Clone, Default)]
pub(super) struct Globals {
    /// Their values.
    pub(super) env: Env,
    /// Those that the file declares.
    pub(super) infos: BTreeMap<String, ArgInfo>,
}

impl Globals {
    /// The predefined arguments, as the command line changes them.
    pub(super) fn predefined(options: &Options, target: &str) -> Self {
        let target = if target.is_empty() { "default" } else { target };
        let mut env = Env::default();
        let mut set = |name: &str, value: &str| {
            let given = options.build_args.get(name);
            env.set(name, given.map_or(value, String::as_str));
        };
        let mut set_platform = |prefix: &str, platform: &Platform| {
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            set(&format!("{prefix}PLATFORM"), &platform.to_string());
            set(&format!("{prefix}OS"), &platform.os);
            set(&format!("{prefix}OSVERSION"), &text(&platform.os_version));
            set(&format!("{prefix}ARCH"), &platform.architecture);
            set(&format!("{prefix}VARIANT"), &text(&platform.variant));
        };
        set_platform("BUILD", &options.build_platform);
        set_platform("TARGET", &options.platform);
        set("TARGETSTAGE", target);
        Self {
            env,
            infos: BTreeMap::new(),
        }
    }

    /// These and the `ARG`s in front of the first `FROM`.
    pub(super) fn with_args(
        mut self,
        head: &[Instruction],
        build_args: &BTreeMap<String, String>,
        escape: char,
    ) -> Result<Self, Diagnostic> {
        for instruction in head {
            let InstructionKind::Arg(arg) = &instruction.kind else {
                continue;
            };
            self.add(instruction, arg, build_args, escape)?;
        }
        Ok(self)
    }

    fn add(
        &mut self,
        instruction: &Instruction,
        arg: &Arg,
        build_args: &BTreeMap<String, String>,
        escape: char,
    ) -> Result<(), Diagnostic> {
        for definition in &arg.args {
            let name = &definition.name.value;
            let mut info = ArgInfo {
                description: instruction.description(name).map(ToOwned::to_owned),
                span: instruction.span,
                ..ArgInfo::default()
            };
            let value = if let Some(given) = build_args.get(name) {
                Some(given.clone())
            } else if let Some(default) = &definition.value {
                let expansion = Expander::new(escape)
                    .expand(&default.value, &|n| self.env.get(n).map(ToOwned::to_owned))
                    .map_err(|e| Diagnostic::error(e.to_string(), instruction.span))?;
                info.deps = expansion.used;
                if info.deps.remove(name)
                    && let Some(old) = self.infos.get(name)
                {
                    info.deps.extend(old.deps.iter().cloned());
                }
                Some(expansion.text)
            } else {
                None
            };
            if let Some(value) = value {
                self.env.set(name, &value);
                info.value = value;
            }
            self.infos.insert(name.clone(), info);
        }
        Ok(())
    }

    /// The value of a variable in a `FROM` line.
    pub(super) fn lookup(&self) -> impl Fn(&str) -> Option<String> {
        |name| self.env.get(name).map(ToOwned::to_owned)
    }
}

/// The proxy settings among the build arguments: both cases of each, as a process gets them.
pub(super) fn proxies(build_args: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut proxies = Vec::new();
    for name in PROXIES {
        // The last one in order of bytes wins, which is the one in lower case.
        let given = build_args
            .iter()
            .rfind(|(given, _)| given.eq_ignore_ascii_case(name));
        if let Some((_, value)) = given
            && !value.is_empty()
        {
            proxies.push((name.to_owned(), value.clone()));
            proxies.push((name.to_lowercase(), value.clone()));
        }
    }
    proxies
}

/// A warning for each build argument that nothing declares and that has no meaning of its own.
pub(super) fn unused(
    build_args: &BTreeMap<String, String>,
    declared: &BTreeSet<String>,
) -> Vec<Diagnostic> {
    let is_known = |name: &str| {
        declared.contains(name)
            || name == "SOURCE_DATE_EPOCH"
            || name.starts_with("BUILDKIT_")
            || PROXIES.iter().any(|proxy| name.eq_ignore_ascii_case(proxy))
            || is_predefined(name)
    };
    build_args
        .keys()
        .filter(|name| !is_known(name))
        .enumerate()
        .map(|(n, name)| Diagnostic {
            severity: Severity::Warning,
            message: format!("no ARG declares the build argument {name}"),
            span: Span::default(),
            hint: (n < MOST_SUGGESTIONS)
                .then(|| suggest(name, declared.iter().map(String::as_str)))
                .flatten()
                .map(|near| format!("did you mean {near}?")),
        })
        .collect()
}

fn is_predefined(name: &str) -> bool {
    name == "TARGETSTAGE"
        || ["BUILD", "TARGET"].iter().any(|prefix| {
            name.strip_prefix(prefix).is_some_and(|rest| {
                matches!(rest, "PLATFORM" | "OS" | "OSVERSION" | "ARCH" | "VARIANT")
            })
        })
}

/// Whether a name has a word that secrets have, and none that takes the meaning back.
pub fn sounds_secret(name: &str) -> bool {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const PUBLIC: [&str; 3] = ["public", "file", "version"];
    let name = name.to_lowercase();
    let has = |words: &[&str]| name.split('_').any(|word| words.contains(&word));
    has(&SECRET) && !has(&PUBLIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_by_words() {
        for secret in ["API_KEY", "apikey", "GITHUB_TOKEN", "auth"] {
            assert!(sounds_secret(secret), "{secret}");
        }
        for harmless in ["KEYBOARD", "PUBLIC_KEY", "TOKEN_FILE", "monkey"] {
            assert!(!sounds_secret(harmless), "{harmless}");
        }
    }
}
