//! Credentials and tokens: who gets them, when, and how often.

use rbuild::{
    oci::Platform,
    registry::{Client, Credentials, Error, Settings, parse_docker_config, settings::Proxies},
};

use super::{client, is_blob_get, noise, pull, push, put_image, quick, reference, with_login};
use crate::support::{FakeRegistry, Fault, Wants};

#[test]
fn basic_credentials_are_shown_only_when_asked_for() {
    let fake = FakeRegistry::start();
    fake.wants(Wants::Basic("me:pa:ss"));
    put_image(&fake, "a", "1", "linux/amd64");
    let image = reference(&fake.host(), "a:1");
    let client = Client::new(with_login(&fake.host(), "me:pa:ss")).expect("client");
    client.image(&image, &Platform::host()).expect("allowed");
    let log = fake.log();
    let first = log.iter().find(|r| r.target != "/v2/").expect("a request");
    assert_eq!(first.header("authorization"), "");
    // One refusal teaches for all that follows.
    let n_without = log
        .iter()
        .filter(|r| r.target != "/v2/" && r.header("authorization").is_empty())
        .count();
    assert_eq!(n_without, 1);

    let error = super::client()
        .resolve(&image)
        .expect_err("no credentials")
        .to_string();
    assert!(error.contains("no credentials"), "{error}");
    let wrong = Client::new(with_login(&fake.host(), "me:hunter2")).expect("client");
    let error = wrong.resolve(&image).expect_err("wrong password");
    assert!(
        matches!(error, Error::Unauthorized { status: 401, .. }),
        "{error}"
    );
    let text = format!("{error} {error:?}");
    assert!(
        text.contains("user `me` from the test") && !text.contains("hunter2"),
        "{text}"
    );
}

#[test]
fn tokens_are_reused_renewed_and_have_the_right_scopes() {
    let fake = FakeRegistry::start();
    fake.wants(Wants::Bearer {
        login: Some("me:pw"),
        n_uses: 3,
    });
    let image = reference(&fake.host(), "team/app:1");
    let client = Client::new(with_login(&fake.host(), "me:pw")).expect("client");
    for i in 0..4 {
        push(&client, &image, &noise(100 + i), &[]).expect("allowed");
    }
    let tokens: Vec<String> = fake
        .lines()
        .into_iter()
        .filter(|l| l.contains("/token"))
        .collect();
    // Twelve requests with tokens that serve three each.
    assert!((4..=5).contains(&tokens.len()), "{tokens:?}");
    assert!(
        tokens[0].contains("service=fake")
            && tokens[0].contains("scope=repository%3Ateam%2Fapp%3Apull%2Cpush"),
        "{}",
        tokens[0]
    );
    assert!(tokens[0].contains("account=me"));
    let wrong = Client::new(with_login(&fake.host(), "me:hunter2")).expect("client");
    let error = push(&wrong, &image, b"new", &[])
        .expect_err("wrong password")
        .to_string();
    assert!(
        error.contains("incorrect username or password") && error.contains("from the test"),
        "{error}"
    );
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn a_login_that_ran_out_does_not_stop_a_public_pull() {
    let fake = FakeRegistry::start();
    fake.wants(Wants::Bearer {
        login: None,
        n_uses: 100,
    });
    put_image(&fake, "a", "1", "linux/amd64");
    fake.faults(|r, _| {
        let is_login = r.target.starts_with("/token") && !r.header("authorization").is_empty();
        is_login.then(|| Fault::Answer(401, vec![], b"expired".to_vec()))
    });
    let image = reference(&fake.host(), "a:1");
    let client = Client::new(with_login(&fake.host(), "me:old")).expect("client");
    client.resolve(&image).expect("public");
    let error = push(&client, &image, b"x", &[])
        .expect_err("not public")
        .to_string();
    assert!(error.contains("expired"), "{error}");
}

#[test]
fn many_threads_share_one_token() {
    let fake = FakeRegistry::start();
    fake.wants(Wants::Bearer {
        login: None,
        n_uses: 1000,
    });
    let image = reference(&fake.host(), "a:1");
    let client = client();
    std::thread::scope(|scope| {
        for i in 0..8 {
            let (client, image) = (&client, &image);
            scope.spawn(move || push(client, image, &noise(5000 + i), &[]).expect("pushed"));
        }
    });
    let n_tokens = fake.lines().iter().filter(|l| l.contains("/token")).count();
    assert_eq!(n_tokens, 1);
}

#[test]
fn the_authorization_stays_with_its_server() {
    let (fake, store) = (FakeRegistry::start(), FakeRegistry::start());
    fake.wants(Wants::Basic("me:pw"));
    let bytes = noise(1000);
    let descriptor = fake.put_blob("a", &bytes);
    store.put_blob("a", &bytes);
    let elsewhere = store.host();
    fake.faults(move |r, _| {
        let is_allowed = is_blob_get(r) && !r.header("authorization").is_empty();
        is_allowed.then(|| {
            let target = format!("http://{elsewhere}{}?X-Signature=secret", r.target);
            Fault::Answer(307, vec![("Location", target)], vec![])
        })
    });
    let client = Client::new(with_login(&fake.host(), "me:pw")).expect("client");
    let got = pull(&client, &reference(&fake.host(), "a"), &descriptor).expect("redirected");
    assert!(got == bytes);
    assert!(
        store
            .log()
            .iter()
            .all(|r| r.header("authorization").is_empty())
    );
    // What goes wrong over there is told without the signature.
    store.faults(|_, _| Some(Fault::Answer(400, vec![], vec![])));
    let error =
        pull(&client, &reference(&fake.host(), "a"), &descriptor).expect_err("broken store");
    let text = format!("{error} {error:?}");
    assert!(
        text.contains(&store.host()) && !text.contains("secret"),
        "{text}"
    );
}

#[test]
fn login_tells_good_from_bad() {
    let fake = FakeRegistry::start();
    for wants in [
        Wants::Basic("me:pw"),
        Wants::Bearer {
            login: Some("me:pw"),
            n_uses: 9,
        },
    ] {
        fake.wants(wants);
        let good = Client::new(with_login(&fake.host(), "me:pw")).expect("client");
        assert_eq!(
            good.login(&fake.host()).expect("good"),
            "user `me` from the test"
        );
        let bad = Client::new(with_login(&fake.host(), "me:hunter2")).expect("client");
        let error = bad.login(&fake.host()).expect_err("bad");
        assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"));
    }
    assert!(client().login("no such host/x").is_err());
}

#[test]
fn identity_tokens_are_exchanged_by_post() {
    let fake = FakeRegistry::start();
    fake.wants(Wants::Bearer {
        login: None,
        n_uses: 100,
    });
    put_image(&fake, "a", "1", "linux/amd64");
    let mut credentials = Credentials::default();
    let config = format!(
        r#"{{"auths":{{"{}":{{"identitytoken":"refresh me"}}}}}}"#,
        fake.host()
    );
    credentials.push_file(parse_docker_config(&config).expect("valid"), "config.json");
    let client = Client::new(Settings {
        credentials,
        ..quick()
    })
    .expect("client");
    client
        .resolve(&reference(&fake.host(), "a:1"))
        .expect("allowed");
    let log = fake.log();
    let asked = log
        .iter()
        .find(|r| r.target == "/token")
        .expect("a token was asked for");
    assert_eq!(asked.method, "POST");
    assert_eq!(asked.header("authorization"), "");
    assert_eq!(
        asked.header("content-type"),
        "application/x-www-form-urlencoded"
    );
}

#[test]
fn requests_go_through_a_proxy_but_never_those_to_loopback() {
    let (proxy, local) = (FakeRegistry::start(), FakeRegistry::start());
    put_image(&local, "a", "1", "linux/amd64");
    let settings = Settings {
        proxies: Proxies {
            http: Some(format!("http://me:hunter2@{}", proxy.host())),
            https: Some(format!("http://me:hunter2@{}", proxy.host())),
            ..Proxies::default()
        },
        insecure: vec!["registry.example".to_owned()],
        ..quick()
    };
    assert!(!format!("{settings:?}").contains("hunter2"));
    proxy.faults(|r, _| {
        Some(if r.method == "CONNECT" {
            Fault::Answer(403, vec![], vec![])
        } else {
            Fault::Answer(404, vec![], b"from afar".to_vec())
        })
    });
    let client = Client::new(settings).expect("client");
    let error = client
        .resolve(&reference("registry.example", "a:1"))
        .expect_err("missing")
        .to_string();
    assert!(error.contains("from afar"), "{error}");
    let log = proxy.log();
    let request = log.iter().find(|r| r.method == "HEAD").expect("it came by");
    assert_eq!(request.target, "http://registry.example/v2/a/manifests/1");
    assert_eq!(
        request.header("proxy-authorization"),
        "Basic bWU6aHVudGVyMg=="
    );
    // TLS goes through a tunnel, which this proxy refuses.
    let error = client
        .resolve(&reference("tls.example", "a:1"))
        .expect_err("refused");
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    assert!(
        proxy
            .log()
            .iter()
            .any(|r| r.line() == "CONNECT tls.example:443")
    );
    proxy.clear_log();
    client
        .resolve(&reference(&local.host(), "a:1"))
        .expect("reached directly");
    assert!(proxy.log().is_empty());
}

#[test]
fn a_token_that_no_header_can_carry_is_the_servers_fault() {
    let fake = FakeRegistry::start();
    put_image(&fake, "a", "1", "linux/amd64");
    fake.wants(Wants::Bearer {
        login: None,
        n_uses: usize::MAX,
    });
    fake.faults(|r, _| {
        let is_token = r.target.contains("token");
        is_token.then(|| Fault::Body(br#"{"token": "a\r\nX-Evil: 1"}"#.to_vec()))
    });
    let error = client()
        .resolve(&reference(&fake.host(), "a:1"))
        .expect_err("no token");
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
    assert!(!error.to_string().contains("Evil"), "{error}");
}
