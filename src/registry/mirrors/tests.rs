use super::*;

fn endpoints(conf: &str, reference: &str) -> Vec<String> {
    let conf = parse_registries_conf(conf).expect(conf);
    let reference = Reference::parse(reference).expect(reference);
    conf.pull_endpoints(&reference)
        .iter()
        .map(|e| {
            format!(
                "{}/{}{}{}",
                e.host,
                e.repository,
                if e.insecure { " insecure" } else { "" },
                if e.is_mirror { " mirror" } else { "" }
            )
        })
        .collect()
}

const CONF: &str = r#"
    unqualified-search-registries = ["docker.io", "quay.io"]
    short-name-mode = "enforcing"
    [aliases]
    "centos" = "quay.io/centos/centos"
    [[registry]]
    prefix = "docker.io"
    location = "127.0.0.1:5000/hub/"
    insecure = true
    [[registry]]
    location = "quay.io"
    [[registry.mirror]]
    location = "mirror.example/quay"
    [[registry.mirror]]
    location = "pins.example"
    pull-from-mirror = "digest-only"
    insecure = true
    [[registry.mirror]]
    location = "tags.example"
    pull-from-mirror = "tag-only"
    [[registry]]
    prefix = "quay.io/team"
    location = "team.example/x"
    [[registry]]
    prefix = "*.corp.example"
    location = "proxy.example/corp"
    [[registry]]
    prefix = "bad.example"
    blocked = true
    [[registry]]
    prefix = "one.example/app:1"
    location = "other.example/old"
"#;

#[test]
fn the_longest_prefix_decides() {
    let pin = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    for (reference, want) in [
        ("alpine", vec!["127.0.0.1:5000/hub/library/alpine insecure"]),
        (
            "quay.io/a/b",
            vec![
                "mirror.example/quay/a/b mirror",
                "tags.example/a/b mirror",
                "quay.io/a/b",
            ],
        ),
        (
            &format!("quay.io/a/b{pin}"),
            vec![
                "mirror.example/quay/a/b mirror",
                "pins.example/a/b insecure mirror",
                "quay.io/a/b",
            ],
        ),
        ("quay.io/team/app:1", vec!["team.example/x/app"]),
        (
            "quay.io/teams/app",
            vec![
                "mirror.example/quay/teams/app mirror",
                "tags.example/teams/app mirror",
                "quay.io/teams/app",
            ],
        ),
        ("a.corp.example/x/y", vec!["proxy.example/corp/x/y"]),
        ("corp.example/x", vec!["corp.example/x"]),
        ("quay.io:5000/a", vec!["quay.io:5000/a"]),
        ("one.example/app:1", vec!["other.example/old"]),
        ("one.example/app:2", vec!["one.example/app"]),
        ("ghcr.io/a/b", vec!["ghcr.io/a/b"]),
    ] {
        assert_eq!(endpoints(CONF, reference), want, "{reference}");
    }
    let conf = parse_registries_conf(CONF).expect("valid");
    let blocked = Reference::parse("bad.example/x").expect("valid");
    assert!(conf.entry(&blocked).is_some_and(|e| e.blocked));
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (text, message) in [
        ("a = ", "line 1: "),
        ("\n[[registry]]\ninsecure = 3", "line 3: "),
        (
            "[registries.search]\nregistries = ['x']",
            "version 1 of the format",
        ),
        (
            "[[registry]]\ninsecure = true",
            "it has neither a prefix nor a location",
        ),
        (
            "[[registry]]\nlocation = 'https://x.io'",
            "a scheme such as",
        ),
        (
            "[[registry]]\nprefix = '*.x.io/a'\nlocation = 'y.io'",
            "a wildcard stands for hosts",
        ),
        (
            "[[registry]]\nlocation = 'x.io'\n[[registry.mirror]]\ninsecure = true",
            "a mirror has no location",
        ),
        (
            "[[registry]]\nlocation = 'x.io'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'y.io'\npull-from-mirror = 'all'",
            "contradicts",
        ),
        (
            "[[registry]]\nlocation = 'x.io'\n[[registry.mirror]]\nlocation = 'y.io'\npull-from-mirror = 'never'",
            "is not `all`",
        ),
    ] {
        let error = parse_registries_conf(text).expect_err(text).to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
}

proptest::proptest! {
    #[test]
    fn whatever_the_entries_there_is_somewhere_to_pull_from(
        prefix in "(\\*\\.)?[a-z./:@*]{1,12}",
        location in "[a-z./:]{0,12}",
        name in "[a-z]{1,4}(\\.[a-z]{1,3}(:1)?)?/[a-z]{1,3}(/[a-z]{1,3})?(:[a-z]{1,2})?",
    ) {
        let text = format!("[[registry]]\nprefix='{prefix}'\nlocation='{location}'");
        let (Ok(conf), Ok(reference)) = (parse_registries_conf(&text), Reference::parse(&name)) else {
            return Ok(());
        };
        proptest::prop_assert!(!conf.pull_endpoints(&reference).is_empty());
    }
}

#[test]
fn later_files_override_entries_with_the_same_prefix() {
    let mut conf = parse_registries_conf(CONF).expect("valid");
    let n_entries = conf.registries.len();
    conf.merge(
        parse_registries_conf("[[registry]]\nprefix = 'docker.io'\nlocation = 'new.example'")
            .expect("valid"),
    );
    assert_eq!(conf.registries.len(), n_entries);
    let alpine = Reference::parse("alpine").expect("valid");
    assert_eq!(conf.pull_endpoints(&alpine)[0].host, "new.example");
}

#[test]
fn mirrors_of_the_command_line_take_paths_and_schemes() {
    for (mirror, want) in [
        ("m.example", Some(("m.example", "library/x", false))),
        (
            "http://m:5000/hub/",
            Some(("m:5000", "hub/library/x", true)),
        ),
        ("https://m.example", Some(("m.example", "library/x", false))),
        ("ftp://m.example", None),
    ] {
        let endpoint = Endpoint::at_mirror(mirror, "library/x");
        let got = endpoint
            .as_ref()
            .map(|e| (e.host.as_str(), e.repository.as_str(), e.insecure));
        assert_eq!(got, want, "{mirror}");
    }
}
