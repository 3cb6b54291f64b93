//! Failures of connections in words that help: who, why, and whether it may be different next time.

use super::{
    error::{Error, Failure},
    redact::printable,
};

pub(super) fn unreachable(host: &str, reason: &str, connected: bool) -> Error {
    Error::Unreachable {
        host: host.to_owned(),
        reason: reason.to_owned(),
        connected,
    }
}

/// What a failure of the HTTP library means.
pub(super) fn failure(host: &str, error: &reqwest::Error) -> Failure {
    let mut io_kind = None;
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut is_dns = false;
    while let Some(e) = next {
        if let Some(tls) = e.downcast_ref::<rustls::Error>() {
            return tls_failure(host, tls);
        }
        is_dns |= e.to_string().contains("dns error");
        next = match e.downcast_ref::<std::io::Error>() {
            // What such an error wraps is not its source.
            Some(io) => {
                io_kind = Some(io.kind());
                io.get_ref()
                    .map(|inner| inner as &(dyn std::error::Error + 'static))
            }
            None => e.source(),
        };
    }
    let innermost = cause(error);
    // What the two resolvers say of a name that does not exist, as opposed to a server that does not answer.
    if is_dns && (innermost.contains("no records found") || innermost.contains("not known")) {
        return unreachable(host, "there is no host of that name", false).into();
    }
    let reason = if is_dns {
        format!("its name cannot be looked up ({innermost})")
    } else if error.is_timeout() && error.is_connect() {
        "no connection in time".to_owned()
    } else {
        match io_kind {
            Some(std::io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
            Some(std::io::ErrorKind::ConnectionReset) => "connection reset".to_owned(),
            Some(std::io::ErrorKind::UnexpectedEof) => "the connection was closed early".to_owned(),
            _ => innermost,
        }
    };
    if error.is_builder() {
        return Error::Setting {
            what: "request to",
            value: host.to_owned(),
            reason,
        }
        .into();
    }
    Failure::transient(unreachable(host, &reason, !error.is_connect()))
}

fn tls_failure(host: &str, error: &rustls::Error) -> Failure {
    use rustls::{CertificateError, Error as Tls};
    let reason = match error {
        Tls::InvalidMessage(_) => "it does not speak TLS".to_owned(),
        Tls::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate is not signed by a trusted authority".to_owned()
        }
        Tls::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "its certificate has expired".to_owned(),
        Tls::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "its certificate is for another name".to_owned(),
        other => other.to_string(),
    };
    Error::Tls {
        host: host.to_owned(),
        reason,
    }
    .into()
}

/// The innermost reason, which never holds a URL.
pub(super) fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    if innermost.is::<reqwest::Error>() {
        return "the request failed".to_owned();
    }
    printable(&innermost.to_string(), 200)
}
