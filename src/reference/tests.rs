use proptest::prelude::*;

use super::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn references_are_normalised_as_docker_does() {
    for (text, canonical, familiar) in [
        ("alpine", "docker.io/library/alpine", "alpine"),
        (
            "alpine:3.20",
            "docker.io/library/alpine:3.20",
            "alpine:3.20",
        ),
        ("me/app", "docker.io/me/app", "me/app"),
        ("docker.io/alpine", "docker.io/library/alpine", "alpine"),
        (
            "index.docker.io/alpine",
            "docker.io/library/alpine",
            "alpine",
        ),
        ("index.docker.io/me/app:1", "docker.io/me/app:1", "me/app:1"),
        (
            "docker.io/library/a/b",
            "docker.io/library/a/b",
            "library/a/b",
        ),
        ("localhost/app", "localhost/app", "localhost/app"),
        (
            "localhost:5000/app",
            "localhost:5000/app",
            "localhost:5000/app",
        ),
        (
            "ghcr.io/a/b_c/d--e:T_1",
            "ghcr.io/a/b_c/d--e:T_1",
            "ghcr.io/a/b_c/d--e:T_1",
        ),
        ("[::1]:5000/app:x", "[::1]:5000/app:x", "[::1]:5000/app:x"),
        ("[fd00::2]/app", "[fd00::2]/app", "[fd00::2]/app"),
        ("Host/app", "Host/app", "Host/app"),
        ("a__b/c.d", "docker.io/a__b/c.d", "a__b/c.d"),
    ] {
        let reference = Reference::parse(text).expect(text);
        assert_eq!(reference.to_string(), canonical, "{text}");
        assert_eq!(reference.familiar(), familiar, "{text}");
    }
}

#[test]
fn a_digest_decides_over_the_tag() {
    let reference = Reference::parse(&format!("alpine:3.20@sha256:{HEX}")).expect("valid");
    assert_eq!(reference.tag(), Some("3.20"));
    assert_eq!(reference.selector(), format!("sha256:{HEX}"));
    assert_eq!(reference.clone().with_default_tag(), reference);
    assert_eq!(reference.without_digest().selector(), "3.20");
    let pinned = Reference::parse(&format!("alpine@sha256:{HEX}")).expect("valid");
    assert_eq!(pinned.with_default_tag().tag(), None);
    let plain = Reference::parse("alpine")
        .expect("valid")
        .with_default_tag();
    assert_eq!(plain.to_string(), "docker.io/library/alpine:latest");
}

#[test]
fn refusals_name_the_reason() {
    let long = format!("x.io/{}", "a".repeat(256));
    for (text, message) in [
        ("", "repository name must have at least one component"),
        ("Bad_Image:UPPER/x", "invalid reference format"),
        (
            "BUG_stage",
            "invalid reference format: repository name (library/BUG_stage) must be lowercase",
        ),
        (
            "ghcr.io/A/b:1",
            "invalid reference format: repository name (A/b) must be lowercase",
        ),
        ("platform-", "invalid reference format"),
        ("a/", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("a___b", "invalid reference format"),
        ("a._b", "invalid reference format"),
        ("alpine:", "invalid reference format"),
        ("alpine:.x", "invalid reference format"),
        ("alpine@", "invalid reference format"),
        ("alpine@sha256:abc", "invalid reference format"),
        ("host:port/a", "invalid reference format"),
        ("-host.io/a", "invalid reference format"),
        ("[::1/a", "invalid reference format"),
        ("[::1]x/a", "invalid reference format"),
        (" alpine", "invalid reference format"),
        ("https://ghcr.io/a", "invalid reference format"),
        (
            HEX,
            &format!("invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"),
        ),
        (
            &long,
            "repository name must not be more than 255 characters",
        ),
        (
            &format!("a@sha512:{HEX}"),
            &format!("digest `sha512:{HEX}` does not use sha256, the only supported algorithm"),
        ),
    ] {
        let error = Reference::parse(text).expect_err(text);
        assert_eq!(error.to_string(), message, "{text}");
        assert_eq!(error.text, text);
    }
    let image = Reference::parse("alpine").expect("valid");
    assert!(image.with_tag("a:b").is_err());
    assert!(Reference::parse(&format!("a:{}", "t".repeat(128))).is_ok());
    assert!(Reference::parse(&format!("a:{}", "t".repeat(129))).is_err());
}

proptest! {
    #[test]
    fn no_text_panics_and_what_parses_survives_printing(text in "\\PC{0,40}|[a-zA-Z0-9./:@_\\[\\]-]{0,40}") {
        if let Ok(reference) = Reference::parse(&text) {
            prop_assert_eq!(&Reference::parse(&reference.to_string()), &Ok(reference.clone()));
            prop_assert_eq!(&Reference::parse(&reference.familiar()), &Ok(reference.clone()));
        }
    }

    #[test]
    fn well_formed_references_are_accepted(
        host in "([a-z0-9]{1,5}\\.[a-z]{2,3}(:[0-9]{1,5})?/|localhost:[0-9]{1,4}/|\\[::[0-9a-f:]{0,7}\\](:[0-9]{1,4})?/)?",
        path in "[a-z0-9]{1,6}((_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,5}(\\.[a-z0-9])?){0,3}",
        tag in "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,10})?",
        pin in proptest::bool::ANY,
    ) {
        let text = format!("{host}{path}{tag}{}", if pin { format!("@sha256:{HEX}") } else { String::new() });
        let reference = Reference::parse(&text);
        prop_assert!(reference.is_ok(), "{}: {:?}", text, reference);
        let reference = reference.expect("just checked");
        prop_assert_eq!(&Reference::parse(&reference.to_string()), &Ok(reference.clone()));
        prop_assert_eq!(&Reference::parse(&reference.familiar()), &Ok(reference.clone()));
        prop_assert_eq!(reference.digest().is_some(), pin);
    }
}
