//! The options of `rbuild run`, named as Docker names them.

#![expect(
    clippy::doc_markdown,
    reason = "comments here are help texts, and a terminal shows backticks as they are"
)]

use std::{ffi::OsString, path::PathBuf, str::FromStr};

use clap::Args;
use rbuild::sandbox::Isolation;

use super::values::{Host, Pair};

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Set a variable; without a value, take it from the environment
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) env: Vec<Pair>,
    /// Set the variables of a file: KEY=VALUE or KEY on each line, # begins a comment
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Mount a directory or file of this machine
    #[arg(short, long, value_name = "SOURCE:TARGET[:ro]")]
    pub(crate) volume: Vec<Volume>,
    /// A port that the program has to listen on. It is on this machine's network, so both numbers are the same
    #[arg(short, long, value_name = "PORT[:PORT][/udp]")]
    pub(crate) publish: Vec<Port>,
    /// Directory to start in
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<PathBuf>,
    /// Who to be
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Instead of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Let the program read standard input
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Let the program have this terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// host, or none
    #[arg(long, alias = "net", value_name = "MODE", default_value = "host")]
    pub(crate) network: String,
    /// Host name
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// Address for a name
    #[arg(long, value_name = "HOST:IP")]
    pub(crate) add_host: Vec<Host>,
    /// Remove what the program has written, as is done anyway
    #[arg(long)]
    pub(crate) rm: bool,
    /// How the program is kept apart from this machine: auto, native, userns, chroot or emulate [default:
    /// $RBUILD_ISOLATION, or auto]
    #[arg(long, value_name = "RUNG")]
    pub(crate) isolation: Option<Isolation>,
    /// An image of the store: a name, or a digest
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// Instead of the image's command
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(crate) command: Vec<OsString>,
}

/// A directory or file of this machine, and where it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) readonly: bool,
}

impl FromStr for Volume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split(':').collect();
        let (source, target, options) = match fields.as_slice() {
            [source, target] => (*source, *target, ""),
            [source, target, options] => (*source, *target, *options),
            _ => return Err("it is not of the form SOURCE:TARGET[:ro]".to_owned()),
        };
        let readonly = match options {
            "" | "rw" => false,
            "ro" => true,
            other => return Err(format!("option `{other}` is not supported; it is ro or rw")),
        };
        if !source.contains('/') && source != "." && source != ".." {
            return Err(format!(
                "volumes with names are not kept; `./{source}` is a directory here"
            ));
        }
        if !target.starts_with('/') {
            return Err(format!("`{target}` is not an absolute path"));
        }
        Ok(Self {
            source: source.into(),
            target: target.into(),
            readonly,
        })
    }
}

/// A port that a program listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) udp: bool,
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let protocol = if self.udp { "udp" } else { "tcp" };
        write!(f, "{}/{protocol}", self.number)
    }
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ports, udp) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.split('/').next().unwrap_or(text), false),
            Some((ports, "udp")) => (ports, true),
            Some((_, other)) => return Err(format!("`{other}` is neither tcp nor udp")),
        };
        let number = |text: &str| {
            let parsed = text.parse::<u16>().ok().filter(|number| *number > 0);
            parsed.ok_or_else(|| format!("`{text}` is not a port"))
        };
        let number = match ports.rsplit_once(':') {
            None => number(ports)?,
            Some((host, inside)) => {
                let (host, inside) = (host.rsplit(':').next().unwrap_or(host), number(inside)?);
                if number(host)? != inside {
                    return Err(format!(
                        "the program is on this machine's network, where its port is {inside}: give `-p {inside}`"
                    ));
                }
                inside
            }
        };
        Ok(Self { number, udp })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_what_the_program_listens_on() {
        let port = |text: &str| text.parse::<Port>();
        let tcp = |number| Ok(Port { number, udp: false });
        assert_eq!(port("80"), tcp(80));
        assert_eq!(port("80:80/tcp"), tcp(80));
        assert_eq!(port("127.0.0.1:80:80"), tcp(80));
        assert_eq!(
            port("53/udp"),
            Ok(Port {
                number: 53,
                udp: true
            })
        );
        assert!(port("8080:80").unwrap_err().contains("`-p 80`"));
        for bad in ["", "0", "65536", "80/sctp", "a:80"] {
            port(bad).unwrap_err();
        }
    }

    #[test]
    fn volumes_are_directories_of_this_machine() {
        let volume = |text: &str| text.parse::<Volume>();
        assert!(volume("/a:/b:ro").unwrap().readonly);
        assert!(!volume("./a:/b").unwrap().readonly);
        assert!(volume("data:/b").unwrap_err().contains("./data"));
        for bad in ["/a", "/a:b", "/a:/b:z", "/a:/b:ro:x"] {
            volume(bad).unwrap_err();
        }
    }
}
