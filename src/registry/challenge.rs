//! `WWW-Authenticate`: how a server wants to be asked (RFC 9110, section 11).

use std::collections::BTreeSet;

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// One challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    /// In lower case: `bearer`, `basic`.
    pub(super) scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The value of a parameter, whose name is in lower case.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

/// All challenges of an answer, whether in one header or in several.
pub(super) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .flat_map(|value| parse(&String::from_utf8_lossy(value.as_bytes())))
        .collect()
}

fn parse(text: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=', '"']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            // A stray quote or sign: nothing sensible can follow.
            return challenges;
        }
        let trimmed = after.trim_start_matches([' ', '\t']);
        match (trimmed.strip_prefix('='), challenges.last_mut()) {
            // `token68` (`Negotiate abc==`) is not a parameter, and no scheme that we know uses it.
            (Some(value), Some(challenge))
                if !value.starts_with(['=', ',']) && !value.is_empty() =>
            {
                let (value, after) = value_of(value.trim_start_matches([' ', '\t']));
                challenge
                    .parameters
                    .push((word.to_ascii_lowercase(), value));
                rest = after;
            }
            (Some(value), _) => rest = value.trim_start_matches('='),
            (None, _) => {
                challenges.push(Challenge {
                    scheme: word.to_ascii_lowercase(),
                    parameters: Vec::new(),
                });
                rest = after;
            }
        }
    }
}

/// A quoted string or a token, and what follows it.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[i + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// What a token allows: a resource (`repository:library/alpine`) and the actions on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Scope {
    resource: String,
    actions: BTreeSet<String>,
}

impl Scope {
    pub(super) fn pull(repository: &str) -> Self {
        Self::new(repository, &["pull"])
    }

    pub(super) fn push(repository: &str) -> Self {
        Self::new(repository, &["pull", "push"])
    }

    fn new(repository: &str, actions: &[&str]) -> Self {
        Self {
            resource: format!("repository:{repository}"),
            actions: actions.iter().map(|&a| a.to_owned()).collect(),
        }
    }

    /// The scopes that a challenge names, separated by blanks.
    pub(super) fn parse_all(text: &str) -> Vec<Self> {
        text.split_ascii_whitespace()
            .filter_map(|scope| {
                let (resource, actions) = scope.rsplit_once(':')?;
                Some(Self {
                    resource: resource.to_owned(),
                    actions: actions.split(',').map(ToOwned::to_owned).collect(),
                })
            })
            .collect()
    }

    /// Whether `have` allows all that is in `want`.
    pub(super) fn cover(have: &[Self], want: &[Self]) -> bool {
        want.iter().all(|w| {
            have.iter()
                .any(|h| h.resource == w.resource && h.actions.is_superset(&w.actions))
        })
    }

    /// Adds `more` to `scopes`. What is new stands in front: some servers look at the first scope only.
    pub(super) fn merge(scopes: &mut Vec<Self>, more: Vec<Self>) {
        for scope in more {
            match scopes.iter_mut().find(|s| s.resource == scope.resource) {
                Some(old) => old.actions.extend(scope.actions),
                None => scopes.insert(0, scope),
            }
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let actions: Vec<&str> = self.actions.iter().map(String::as_str).collect();
        write!(f, "{}:{}", self.resource, actions.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        parse(text)
            .iter()
            .map(|c| {
                let parameters: Vec<String> = c
                    .parameters
                    .iter()
                    .map(|(n, v)| format!("{n}={v}"))
                    .collect();
                format!("{}[{}]", c.scheme, parameters.join("|"))
            })
            .collect()
    }

    #[test]
    fn challenges_are_read() {
        for (text, want) in [
            (
                r#"Bearer realm="https://a.io/token",service="a.io",scope="repository:x:pull,push""#,
                vec!["bearer[realm=https://a.io/token|service=a.io|scope=repository:x:pull,push]"],
            ),
            (
                r#"Basic realm="My, \"quoted\" realm""#,
                vec![r#"basic[realm=My, "quoted" realm]"#],
            ),
            (
                r#"BEARER Realm=https://a.io/t , service = "s", Basic realm="b""#,
                vec!["bearer[realm=https://a.io/t|service=s]", "basic[realm=b]"],
            ),
            (
                r#"Negotiate, NTLM, Basic realm="x""#,
                vec!["negotiate[]", "ntlm[]", "basic[realm=x]"],
            ),
            ("Basic", vec!["basic[]"]),
            ("", vec![]),
            (
                r#"Bearer realm="unterminated"#,
                vec!["bearer[realm=unterminated]"],
            ),
            (
                r#"Bearer error="insufficient_scope""#,
                vec!["bearer[error=insufficient_scope]"],
            ),
            ("Negotiate YWJj==, Basic realm=x", vec!["negotiate[]", "yw"]),
        ] {
            // The last row only must not hang or lose what follows.
            if want.contains(&"yw") {
                assert!(
                    shown(text).iter().any(|c| c.starts_with("basic")),
                    "{:?}",
                    shown(text)
                );
            } else {
                assert_eq!(shown(text), want, "{text}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_header_hangs_or_panics(text in "([a-zA-Z=\", \\\\]|Bearer |realm=\"|scope=|\u{e4}){0,30}") {
            parse(&text);
            Scope::parse_all(&text);
        }
    }

    #[test]
    fn scopes_cover_and_merge() {
        let push = [Scope::push("a/b")];
        assert!(Scope::cover(&push, &[Scope::pull("a/b")]));
        assert!(!Scope::cover(&[Scope::pull("a/b")], &push));
        assert!(!Scope::cover(&push, &[Scope::pull("a/c")]));
        let mut scopes = vec![Scope::pull("a")];
        Scope::merge(
            &mut scopes,
            Scope::parse_all("repository:b:pull repository:a:push"),
        );
        let texts: Vec<String> = scopes.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["repository:b:pull", "repository:a:pull,push"]);
    }
}
