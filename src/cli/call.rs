//! `--call`: what to do with a Dockerfile instead of building it.

use std::str::FromStr;

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
