//! The words of `EXPOSE`: `[[ip:]host:]port[-port][/protocol]`, of which the image keeps port and protocol.

use std::net::IpAddr;

/// One word, read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ports {
    /// `80/tcp`, one for each port of a range.
    pub(super) names: Vec<String>,
    /// Whether the protocol is not in lower case.
    pub(super) odd_casing: bool,
    /// Whether an address or port of the host is given, which means nothing here.
    pub(super) has_host: bool,
}

/// Reads one word. The errors are BuildKit's.
pub(super) fn parse(word: &str) -> Result<Ports, String> {
    let parts: Vec<&str> = word.split(':').collect();
    let (ip, host, container) = match parts.as_slice() {
        [container] => (String::new(), "", *container),
        [host, container] => (String::new(), *host, *container),
        [ip @ .., host, container] => (ip.join(":"), *host, *container),
        [] => (String::new(), "", ""),
    };
    let (port, protocol) = container.split_once('/').unwrap_or((container, ""));
    if port.is_empty() {
        return Err(format!("invalid port: \"{word}\": no port specified"));
    }
    let lower = match protocol.to_lowercase().as_str() {
        "" => "tcp".to_owned(),
        known @ ("tcp" | "udp" | "sctp") => known.to_owned(),
        _ => {
            return Err(format!(
                "invalid port: \"{word}\": invalid proto: {protocol}"
            ));
        }
    };
    let address = ip
        .strip_prefix('[')
        .and_then(|ip| ip.strip_suffix(']'))
        .unwrap_or(&ip);
    if !address.is_empty() && address.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {address}"));
    }
    let (start, end) = range(port).ok_or_else(|| format!("invalid containerPort: {port}"))?;
    if !host.is_empty() {
        let (host_start, host_end) =
            range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        if end - start != host_end - host_start && end != start {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {port} and {host}"
            ));
        }
    }
    Ok(Ports {
        names: (start..=end)
            .map(|port| format!("{port}/{lower}"))
            .collect(),
        odd_casing: !protocol.is_empty() && protocol != lower,
        has_host: !ip.is_empty() || !host.is_empty(),
    })
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
            assert_eq!(parse(word).expect(word).names.join(" "), want);
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
                "1-2:3-5",
                "invalid ranges specified for container and host Ports: 3-5 and 1-2",
            ),
        ] {
            assert_eq!(parse(word).expect_err(word), want);
        }
    }
}
