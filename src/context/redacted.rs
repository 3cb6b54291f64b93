//! Addresses of the web as people may see them.

/// A text in which no address of the web names a user any more: what stands there is a password, or a token. BuildKit masks
/// the same way.
pub fn without_users(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        shown.push_str(before);
        rest = after;
        let scheme = before[..at]
            .rsplit(|c: char| !c.is_ascii_alphanumeric())
            .next();
        let is_web = scheme.is_some_and(|it| {
            ["http", "https"]
                .iter()
                .any(|web| it.eq_ignore_ascii_case(web))
        });
        let is_end = |c: char| matches!(c, '/' | '?' | '#' | '"' | '\'') || c.is_whitespace();
        let end = rest.find(is_end).unwrap_or(rest.len());
        if let Some((user, _)) = rest[..end].rsplit_once('@').filter(|_| is_web) {
            shown.push_str(match user {
                "" => "",
                user if user.contains(':') => "xxxxx:xxxxx",
                _ => "xxxxx",
            });
            rest = &rest[user.len()..];
        }
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_addresses_are_masked() {
        for (text, shown) in [
            (
                "https://me:secret@host/a.git",
                "https://xxxxx:xxxxx@host/a.git",
            ),
            ("https://token@host", "https://xxxxx@host"),
            ("HTTPS://a@b@host/c@d", "HTTPS://xxxxx@host/c@d"),
            (
                "ADD --link http://t@h/a?b=c@d https://h/e@f [\"https://u:p@h\"] /",
                "ADD --link http://xxxxx@h/a?b=c@d https://h/e@f [\"https://xxxxx:xxxxx@h\"] /",
            ),
            ("ssh://git@host/a git@host:a", "ssh://git@host/a git@host:a"),
            (
                "https://@host/ ://@x https:// é://é@",
                "https://@host/ ://@x https:// é://é@",
            ),
        ] {
            assert_eq!(without_users(text), shown);
        }
    }
}
