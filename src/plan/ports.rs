//! The words of `EXPOSE`: `[[ip:]host:]port[-port][/protocol]`, of which the image keeps port and protocol.

use std::net::IpAddr;

use crate::dockerfile::quote::quoted;

/// The parts of one word.
#[derive(Debug)]
pub(super) struct Ports<'a> {
    /// An address of the host, empty if none.
    ip: String,
    /// Ports of the host, empty if none.
    host: &'a str,
    /// Ports.
    container: &'a str,
    /// What follows the slash.
    protocol: &'a str,
}

/// Takes one word apart. The errors, here and below, are BuildKit's.
pub(super) fn split(word: &str) -> Result<Ports<'_>, String> {
    let parts: Vec<&str> = word.split(':').collect();
    let (ip, host, container) = match parts.as_slice() {
        [container] => (String::new(), "", *container),
        [host, container] => (String::new(), *host, *container),
        [ip @ .., host, container] => (ip.join(":"), *host, *container),
        [] => (String::new(), "", ""),
    };
    let (container, protocol) = container.split_once('/').unwrap_or((container, ""));
    let invalid = |reason: &str| Err(format!("invalid port: {}: {reason}", quoted(word)));
    if container.is_empty() {
        return invalid("no port specified");
    }
    let protocols = ["", "tcp", "udp", "sctp"];
    if !protocols.contains(&protocol.to_lowercase().as_str()) {
        return invalid(&format!("invalid proto: {protocol}"));
    }
    Ok(Ports {
        ip,
        host,
        container,
        protocol,
    })
}

impl Ports<'_> {
    /// Whether the protocol is not in lower case.
    pub(super) fn has_odd_casing(&self) -> bool {
        self.protocol != self.protocol.to_lowercase()
    }

    /// Whether an address or port of the host is given, which means nothing here.
    pub(super) const fn has_host(&self) -> bool {
        !self.ip.is_empty() || !self.host.is_empty()
    }

    /// `80/tcp`, one for each port of a range.
    pub(super) fn names(&self) -> Result<Vec<String>, String> {
        let (ip, host, container) = (&self.ip, self.host, self.container);
        let address = if ip.starts_with('[') {
            without_brackets(ip).map_err(|reason| format!("invalid IP address {ip}: {reason}"))?
        } else {
            ip
        };
        if !address.is_empty() && address.parse::<IpAddr>().is_err() {
            return Err(format!("invalid IP address: {address}"));
        }
        let (start, end) =
            range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
        if !host.is_empty() {
            let (host_start, host_end) =
                range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
            if end - start != host_end - host_start && end != start {
                return Err(format!(
                    "invalid ranges specified for container and host Ports: {container} and {host}"
                ));
            }
        }
        let protocol = match self.protocol {
            "" => "tcp".to_owned(),
            protocol => protocol.to_lowercase(),
        };
        Ok((start..=end)
            .map(|port| format!("{port}/{protocol}"))
            .collect())
    }
}

/// The address in `[address]`, which Go reads with the colon in front of a port.
fn without_brackets(ip: &str) -> Result<&str, String> {
    let wrong = |reason: &str| Err(format!("address {ip}:: {reason}"));
    let Some((address, behind)) = ip[1..].split_once(']') else {
        return wrong("missing ']' in address");
    };
    if !behind.is_empty() {
        return wrong("missing port in address");
    }
    if address.contains('[') {
        return wrong("unexpected '[' in address");
    }
    Ok(address)
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    let (start, end) = (number(start)?, number(end)?);
    (start <= end).then_some((start, end))
}

/// A port as Go reads it: a sign is fine.
fn number(text: &str) -> Option<u16> {
    let number: i64 = text.parse().ok()?;
    u16::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(word: &str) -> Result<Vec<String>, String> {
        split(word)?.names()
    }

    #[test]
    fn words_become_ports() {
        for (word, want) in [
            ("80", "80/tcp"),
            ("80/UDP", "80/udp"),
            ("80/", "80/tcp"),
            ("8000-8002/sctp", "8000/sctp 8001/sctp 8002/sctp"),
            ("127.0.0.1:80:90", "90/tcp"),
            ("[::1]:80:90/udp", "90/udp"),
            ("1-3:7", "7/tcp"),
        ] {
            assert_eq!(parse(word).expect(word).join(" "), want);
        }
    }

    #[test]
    fn wrong_words_are_named() {
        for (word, want) in [
            ("99999", "invalid containerPort: 99999"),
            ("80/foo", "invalid port: \"80/foo\": invalid proto: foo"),
            ("9-8", "invalid containerPort: 9-8"),
            ("/tcp", "invalid port: \"/tcp\": no port specified"),
            ("x:1:2", "invalid IP address: x"),
            (
                "[::1:80:80",
                "invalid IP address [::1: address [::1:: missing ']' in address",
            ),
            (
                "[::1]x:80:80",
                "invalid IP address [::1]x: address [::1]x:: missing port in address",
            ),
            (
                "1-2:3-5",
                "invalid ranges specified for container and host Ports: 3-5 and 1-2",
            ),
        ] {
            assert_eq!(parse(word).expect_err(word), want);
        }
    }
}
