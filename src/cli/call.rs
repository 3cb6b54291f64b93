//! `--call`: what to do with a Dockerfile instead of building it.

use std::str::FromStr;

use serde_json::{Value, json};

use super::args::DataFormat;

/// A method and how to print what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) format: DataFormat,
    /// Whether findings leave the exit status alone.
    pub(crate) ignore_status: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// Build.
    Build,
    /// Look for mistakes.
    Check,
    /// List the arguments, secrets and mounts that the target takes.
    Outline,
    /// List the stages.
    Targets,
    /// List the methods, as BuildKit's frontend lists its own.
    Describe,
}

/// What [`Method::Describe`] tells: names, and what they do.
const DESCRIBED: [(&str, &str); 3] = [
    (
        "outline",
        "List all parameters current build target supports",
    ),
    ("targets", "List all targets current build supports"),
    ("subrequests.describe", "List available subrequest types"),
];
const VERSION: &str = "1.0.0";

/// The methods as a table.
pub(crate) fn described() -> String {
    let head = ("NAME", "VERSION", "DESCRIPTION");
    let rows = DESCRIBED.map(|(name, description)| (name, VERSION, description));
    let lines: Vec<String> = [head]
        .into_iter()
        .chain(rows)
        .map(|(name, version, description)| format!("{name:20} {version:7} {description}"))
        .collect();
    lines.join("\n") + "\n"
}

/// The methods as BuildKit's document.
pub(crate) fn described_json() -> Value {
    let method = |(name, description): (&str, &str)| {
        let named =
            |name: &str, description: &str| json!({"name": name, "description": description});
        let opts = match name {
            "outline" => json!([named("target", "Target build stage")]),
            "targets" => json!([]),
            _ => Value::Null,
        };
        json!({
            "name": format!("frontend.{name}"), "version": VERSION, "type": "rpc", "description": description,
            "opts": opts, "inputs": null, "refs": null,
            "metadata": [named("result.json", ""), named("result.txt", "")],
        })
    };
    DESCRIBED.into_iter().map(method).collect()
}

impl FromStr for Call {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut fields = text.split(',');
        let word = fields.next().unwrap_or_default();
        let method = match word {
            "build" | "" => Method::Build,
            "check" | "lint" => Method::Check,
            "outline" => Method::Outline,
            "targets" => Method::Targets,
            "subrequests.describe" => Method::Describe,
            _ => {
                let near = rbuild::source::suggest(word, ["build", "check", "outline", "targets"]);
                let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                return Err(format!("unknown method `{word}`{near}"));
            }
        };
        let mut call = Self {
            method,
            format: DataFormat::Text,
            ignore_status: false,
        };
        for field in fields {
            match field.split_once('=') {
                Some(("format", "json")) => call.format = DataFormat::Json,
                Some(("format", "text" | "default")) => call.format = DataFormat::Text,
                Some(("ignorestatus", "true" | "1")) => call.ignore_status = true,
                Some(("ignorestatus", "false" | "0")) => call.ignore_status = false,
                _ => {
                    return Err(format!(
                        "`{field}` is neither format=json nor ignorestatus=true"
                    ));
                }
            }
        }
        Ok(call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_described_as_by_buildkit() {
        assert_eq!(
            described(),
            "NAME                 VERSION DESCRIPTION\n\
             outline              1.0.0   List all parameters current build target supports\n\
             targets              1.0.0   List all targets current build supports\n\
             subrequests.describe 1.0.0   List available subrequest types\n"
        );
        let found = described_json();
        assert_eq!(found[0]["name"], "frontend.outline");
        assert_eq!(found[0]["opts"][0]["name"], "target");
        assert_eq!(found[2]["opts"], Value::Null);
        let call: Call = "subrequests.describe,format=json".parse().unwrap();
        assert_eq!(call.method, Method::Describe);
    }
}
