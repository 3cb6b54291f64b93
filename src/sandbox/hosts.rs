//! The contents of `/etc/hosts` and `/etc/resolv.conf` in a step.

use std::net::IpAddr;

/// `/etc/hosts` as BuildKit writes it: the loopback names, then `extra` (name, address) in the given order.
pub fn etc_hosts(hostname: &str, extra: &[(String, IpAddr)]) -> Vec<u8> {
    use std::fmt::Write as _;
    let mut text =
        format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in extra {
        writeln!(text, "{address}\t{name}").expect("writing to a string cannot fail");
    }
    text.into_bytes()
}

/// Where systemd-resolved keeps the servers behind its stub: to be read when [`is_stub`] says so.
pub const RESOLVED_CONF: &str = "/run/systemd/resolve/resolv.conf";

/// Whether a `resolv.conf` names systemd-resolved's stub and no other server.
pub fn is_stub(conf: &[u8]) -> bool {
    let mut servers = nameservers(conf).peekable();
    servers.peek().is_some() && servers.all(|server| server == "127.0.0.53")
}

/// The name servers of a `resolv.conf`, in order.
fn nameservers(conf: &[u8]) -> impl Iterator<Item = &str> {
    conf.split(|b| *b == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some("nameserver"))
                .then(|| words.next())
                .flatten()
        })
}

/// `/etc/resolv.conf` for a step on the host's network: the host's own, which is reachable from there, loopback
/// servers included. A host without any gets an empty file, and names then resolve through `/etc/hosts` alone.
pub fn resolv_conf(host: Option<&[u8]>) -> Vec<u8> {
    host.map(<[u8]>::to_vec).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_has_loopback_and_extra_names() {
        let text = etc_hosts("box", &[("db".into(), "10.0.0.7".parse().unwrap())]);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.7\tdb\n"
        );
    }

    #[test]
    fn only_a_lone_stub_is_a_stub() {
        assert!(is_stub(b"# x\nnameserver 127.0.0.53\noptions edns0\n"));
        assert!(!is_stub(b"nameserver 127.0.0.53\nnameserver 9.9.9.9\n"));
        assert!(!is_stub(b"search example.org\n"));
    }
}
