//! Which hosts are this machine or its link.

use std::net::{IpAddr, Ipv6Addr};

/// Whether a `host[:port]` is this machine.
pub(super) fn is_loopback(name: &str) -> bool {
    match address(name) {
        Some(IpAddr::V6(v6)) => {
            v6.is_loopback() || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
        }
        Some(address) => address.is_loopback(),
        None => {
            let host = name.split(':').next().unwrap_or_default();
            host == "localhost" || host.ends_with(".localhost")
        }
    }
}

pub(super) fn is_link_local(name: &str) -> bool {
    match address(name) {
        Some(IpAddr::V4(v4)) => v4.is_link_local() || v4.is_unspecified(),
        Some(IpAddr::V6(v6)) => v6.is_unicast_link_local() || v6 == Ipv6Addr::UNSPECIFIED,
        None => false,
    }
}

fn address(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_prefix('[') {
        return rest.split(']').next()?.parse().ok();
    }
    name.split(':').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_recognised() {
        for (name, want) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("reg.localhost:80", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("127.0.0.1.example", false),
            ("10.0.0.1", false),
            ("[fe80::1]", false),
            ("mylocalhost", false),
        ] {
            assert_eq!(is_loopback(name), want, "{name}");
        }
    }
}
