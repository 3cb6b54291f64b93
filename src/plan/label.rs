//! Names of steps in progress: `[linux/arm64 build 2/4] RUN make`.

use crate::{
    dockerfile::expand::{Expander, Quotes},
    oci::Platform,
};

use super::env::Env;

/// What stands in front of a step's text.
#[derive(Debug)]
pub(super) struct Prefix<'a> {
    /// The stage's name, empty for a lone one.
    pub(super) stage: &'a str,
    /// The platform of the stage in a build for several.
    pub(super) platform: Option<&'a Platform>,
    /// The variables in effect, for the platform that a cross build aims at.
    pub(super) env: &'a Env,
    /// Which step of how many.
    pub(super) number: (usize, usize),
}

impl Prefix<'_> {
    /// The whole name.
    pub(super) fn label(&self, text: &str) -> String {
        let platform = self
            .platform
            .map(|platform| format!("{platform}{} ", cross(platform, self.env)))
            .unwrap_or_default();
        let stage = match self.stage {
            "" => String::new(),
            name => format!("{name} "),
        };
        let (number, total) = self.number;
        let width = total.checked_ilog10().unwrap_or(0) as usize + 1;
        format!("[{platform}{stage}{number:width$}/{total}] {text}")
    }
}

/// `->arm64` where the `TARGET…` variables that a stage has declared name another platform than its own.
fn cross(own: &Platform, env: &Env) -> String {
    let Some(mut target) = target_platform(env) else {
        return String::new();
    };
    if target.os.is_empty() {
        own.os.clone_into(&mut target.os);
    }
    if target.architecture.is_empty() {
        own.architecture.clone_into(&mut target.architecture);
    }
    let target = target.normalized();
    if target.os != own.os {
        return format!("->{target}");
    }
    if target.architecture == own.architecture {
        return String::new();
    }
    match target.variant {
        Some(variant) => format!("->{}/{variant}", target.architecture),
        None => format!("->{}", target.architecture),
    }
}

fn target_platform(env: &Env) -> Option<Platform> {
    let mut platform = Platform::default();
    let mut found = false;
    for name in env.names() {
        let value = env.get(name).unwrap_or_default();
        match name {
            "TARGETPLATFORM" => {
                if let Ok(platform) = value.parse() {
                    return Some(platform);
                }
            }
            "TARGETOS" => {
                value.clone_into(&mut platform.os);
                found = true;
            }
            "TARGETARCH" => {
                value.clone_into(&mut platform.architecture);
                found = true;
            }
            "TARGETVARIANT" => {
                platform.variant = Some(value.to_owned()).filter(|v| !v.is_empty());
                found = true;
            }
            _ => {}
        }
    }
    found.then_some(platform)
}

/// The text of an instruction as progress shows it: the name in capitals, variables expanded. What cannot be expanded
/// stays. `is_run` keeps quotes and unset variables, since they are the shell's.
pub(super) fn text(
    written: &str,
    escape: char,
    is_run: bool,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> String {
    let mut expander = Expander::new(escape);
    if is_run {
        expander.quotes = Quotes::Keep;
        expander.keep_unset = true;
    }
    let text = expander
        .expand(written, lookup)
        .map_or_else(|_| written.to_owned(), |expansion| expansion.text);
    match text.split_once(' ') {
        Some((name, rest)) => format!("{} {rest}", name.to_uppercase()),
        None => text.to_uppercase(),
    }
}

/// The first line of a heredoc, with `...` for the rest.
pub(super) fn summary(body: &str) -> String {
    let body = body.trim();
    match body.split_once('\n') {
        Some((first, _)) => format!("{}...", first.trim_end_matches('\r')),
        None => body.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix<'a>(env: &'a Env, platform: Option<&'a Platform>) -> Prefix<'a> {
        Prefix {
            stage: "build",
            platform,
            env,
            number: (2, 12),
        }
    }

    #[test]
    fn numbers_are_aligned_and_platforms_shown() {
        let mut env = Env::default();
        let amd64: Platform = "linux/amd64".parse().expect("valid");
        assert_eq!(prefix(&env, None).label("RUN x"), "[build  2/12] RUN x");
        env.set("TARGETARCH", "amd64");
        assert_eq!(
            prefix(&env, Some(&amd64)).label("RUN x"),
            "[linux/amd64 build  2/12] RUN x"
        );
        env.set("TARGETARCH", "arm");
        env.set("TARGETVARIANT", "v7");
        assert_eq!(
            prefix(&env, Some(&amd64)).label("RUN x"),
            "[linux/amd64->arm/v7 build  2/12] RUN x"
        );
        env.set("TARGETPLATFORM", "linux/arm64");
        assert_eq!(
            prefix(&env, Some(&amd64)).label("RUN x"),
            "[linux/amd64->arm64 build  2/12] RUN x"
        );
    }

    #[test]
    fn run_keeps_what_is_the_shells() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        assert_eq!(
            text("run echo \"$A\" $B", '\\', true, &lookup),
            "RUN echo \"1\" $B"
        );
        assert_eq!(
            text("copy \"$A\" $B /x", '\\', false, &lookup),
            "COPY 1  /x"
        );
        assert_eq!(summary("\n a\r\nb\n"), "a...");
    }
}
