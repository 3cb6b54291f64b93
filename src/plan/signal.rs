//! The signals that `STOPSIGNAL` takes.

/// Whether a text names a Linux signal: a number other than 0, or a name with or without `SIG`, in any case.
pub(super) fn is_signal(text: &str) -> bool {
    const NAMES: [&str; 36] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT",
        "KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM",
        "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
        "RTMIN", "RTMAX",
    ];
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |prefix, last: u8| {
        name.strip_prefix(prefix).is_some_and(|digits: &str| {
            !digits.starts_with(['0', '+'])
                && digits.parse::<u8>().is_ok_and(|n| (1..=last).contains(&n))
        })
    };
    NAMES.contains(&name) || offset("RTMIN+", 15) || offset("RTMAX-", 14)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for good in [
            "9",
            "SIGTERM",
            "term",
            "RTMIN+3",
            "sigrtmax-14",
            "RTMAX",
            "999",
        ] {
            assert!(is_signal(good), "{good}");
        }
        for bad in [
            "0", "", "SIG", "FOO", "RTMIN+16", "RTMIN+0", "RTMAX-15", "RTMIN+03",
        ] {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}
