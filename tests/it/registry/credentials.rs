//! Credentials, proxies and mirrors as users set them: variables, files, helpers, `login` and `logout`.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    process::Stdio,
};

use super::put_image;
use crate::support::{FakeRegistry, Fault, Outcome, TestEnv, Wants};

const PASSWORD: &str = "hunter2:x";
/// `me:hunter2:x` as Docker stores it.
const STORED: &str = "bWU6aHVudGVyMjp4";

/// A registry with `a:1` for those who know the password.
fn registry() -> FakeRegistry {
    let fake = FakeRegistry::start();
    fake.wants(Wants::Basic("me:hunter2:x"));
    put_image(&fake, "a", "1", "linux/amd64");
    fake
}

fn pull(env: &TestEnv, fake: &FakeRegistry) -> Outcome {
    let image = format!("{}/a:1", fake.host());
    let outcome = env.run(&[
        "pull",
        "--progress=plain",
        "--platform=linux/amd64",
        "--registry-retries=0",
        &image,
    ]);
    assert_secretive(&outcome);
    outcome
}

#[track_caller]
fn assert_secretive(outcome: &Outcome) {
    for secret in ["hunter2", STORED] {
        let said = [&outcome.stdout, &outcome.stderr];
        assert!(said.iter().all(|text| !text.contains(secret)), "{outcome}");
    }
}

/// Writes `docker-credential-test` into `bin`, which is on the path from then on. It knows the password, notes its
/// arguments in `asked` and what is stored in `kept`.
fn helper(env: &mut TestEnv) {
    let (bin, asked, kept) = (env.path("bin"), env.path("asked"), env.path("kept"));
    fs::create_dir_all(&bin).expect("a directory");
    let script = format!(
        "#!/bin/sh\n\
         input=$(cat)\n\
         echo \"$* $input\" | sed 's/{{.*//' >> '{}'\n\
         case $1 in\n\
         get) printf '{{\"ServerURL\":\"%s\",\"Username\":\"me\",\"Secret\":\"{PASSWORD}\"}}' \"$input\" ;;\n\
         store) echo \"$input\" > '{}' ;;\n\
         erase) rm '{}' ;;\n\
         esac\n",
        asked.display(),
        kept.display(),
        kept.display()
    );
    let program = bin.join("docker-credential-test");
    fs::write(&program, script).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("own file");
    env.var("PATH", &format!("{}:/usr/bin:/bin", bin.display()));
}

#[test]
fn every_place_of_credentials_is_read() {
    let fake = registry();
    let auths = format!(r#"{{"auths":{{"{}":{{"auth":"{STORED}"}}}}}}"#, fake.host());
    let env = TestEnv::new();
    pull(&env, &fake).exits(4).says("no credentials");

    let mut env = TestEnv::new();
    env.var("DOCKER_AUTH_CONFIG", &auths);
    pull(&env, &fake).success();

    for (variable, file) in [
        (Some("REGISTRY_AUTH_FILE"), "some/auth.json"),
        (None, "home/config.json"),
        (Some("XDG_RUNTIME_DIR"), "run/containers/auth.json"),
        (Some("XDG_CONFIG_HOME"), "conf/containers/auth.json"),
        (None, "home/.config/containers/auth.json"),
    ] {
        let mut env = TestEnv::new();
        let path = env.path(file);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(&path, &auths).expect("written");
        if let Some(variable) = variable {
            let value = match variable {
                "REGISTRY_AUTH_FILE" => path.as_path(),
                _ => path.ancestors().nth(2).expect("two directories up"),
            };
            env.var(variable, value.to_str().expect("text"));
        }
        pull(&env, &fake).success();
        // A wrong password is told with the place where it stands.
        let wrong = auths.replace(STORED, "bWU6aHVudGVyMg==");
        fs::write(&path, wrong).expect("written");
        pull(&env, &fake)
            .exits(4)
            .says(&format!("user `me` from {}", path.display()));
    }

    for config in [
        r#"{"credsStore":"test"}"#.to_owned(),
        format!(r#"{{"credHelpers":{{"{}":"test"}}}}"#, fake.host()),
    ] {
        let mut env = TestEnv::new();
        helper(&mut env);
        fs::write(env.path("home/config.json"), config).expect("written");
        pull(&env, &fake).success();
        let asked = fs::read_to_string(env.path("asked")).expect("it was asked");
        assert_eq!(asked, format!("get {}\n", fake.host()));
    }
    let env = TestEnv::new();
    fs::write(env.path("home/config.json"), r#"{"credsStore":"absent"}"#).expect("written");
    pull(&env, &fake)
        .exits(4)
        .says("docker-credential-absent")
        .says("there is no such program");
}

fn log_in(env: &TestEnv, fake: &FakeRegistry, password: &str) -> Outcome {
    let host = fake.host();
    let mut command = env.command(&["login", &host, "-u", "me", "--password-stdin"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    writeln!(stdin, "{password}").expect("it reads");
    drop(stdin);
    let outcome = env.ended(child);
    assert_secretive(&outcome);
    outcome
}

#[test]
fn login_keeps_what_the_registry_accepted_and_logout_removes_it() {
    let fake = registry();
    let env = TestEnv::new();
    let config = env.path("home/config.json");
    log_in(&env, &fake, "hunter2").exits(4).says("denied");
    assert!(!config.try_exists().expect("it can be told"));
    log_in(&env, &fake, PASSWORD).success();
    let mode = fs::metadata(&config).expect("written").mode();
    assert_eq!(mode & 0o777, 0o600);
    pull(&env, &fake).success();
    env.run(&["logout", &fake.host()]).success();
    let text = fs::read_to_string(&config).expect("it stays");
    assert!(!text.contains(STORED), "{text}");
    pull(&env, &fake).exits(4);
    // Every process of the machine may read arguments.
    env.run(&["login", &fake.host(), "-u", "me", "-p", PASSWORD])
        .exits(2)
        .says("--password-stdin");
}

#[test]
fn a_helper_keeps_credentials_out_of_the_configuration_and_of_the_process_list() {
    let fake = registry();
    let mut env = TestEnv::new();
    helper(&mut env);
    let config = env.path("home/config.json");
    fs::write(&config, r#"{"credsStore":"test"}"#).expect("written");
    log_in(&env, &fake, PASSWORD).success();
    let text = fs::read_to_string(&config).expect("readable");
    assert!(
        text.contains(&fake.host()) && !text.contains(STORED),
        "{text}"
    );
    let kept = fs::read_to_string(env.path("kept")).expect("the helper has it");
    assert!(kept.contains(PASSWORD), "{kept}");
    env.run(&["logout", &fake.host()]).success();
    assert!(!env.path("kept").try_exists().expect("it can be told"));
    let asked = fs::read_to_string(env.path("asked")).expect("it was asked");
    assert_eq!(asked, format!("store \nerase {}\n", fake.host()));
}

#[test]
fn proxies_and_insecure_registries_are_what_the_environment_and_options_say() {
    let proxy = FakeRegistry::start();
    proxy.faults(|_, _| Some(Fault::Answer(403, vec![], vec![])));
    let mut env = TestEnv::new();
    let url = format!("http://me:hunter2@{}", proxy.host());
    env.var("HTTPS_PROXY", &url);
    env.var("http_proxy", &url);
    env.var("NO_PROXY", "direct.example,0.0.0.0");
    let pull = |image: &str, more: &[&str]| {
        let mut args = vec!["pull", "--progress=plain", "--registry-retries=0", image];
        args.extend(more);
        let outcome = env.run(&args).exits(4);
        assert_secretive(&outcome);
        outcome
    };
    drop(pull("tls.example/a:1", &[]));
    let lines = |fake: &FakeRegistry| -> Vec<String> {
        fake.log()
            .iter()
            .map(crate::support::Received::line)
            .collect()
    };
    // Nothing goes in the clear unless that was asked for.
    assert_eq!(lines(&proxy), ["CONNECT tls.example:443"]);
    proxy.clear_log();
    drop(pull(
        "tls.example/a:1",
        &["--insecure-registry=tls.example"],
    ));
    let plain = "GET http://tls.example/v2/";
    assert!(
        lines(&proxy).iter().any(|l| l == plain),
        "{:?}",
        lines(&proxy)
    );
    proxy.clear_log();
    drop(pull("0.0.0.0:1/a:1", &[]).says("connection refused"));
    assert_eq!(lines(&proxy), [""; 0]);
}

#[test]
fn the_registries_of_a_configuration_file_are_asked_in_its_order() {
    let (empty, full) = (FakeRegistry::start(), FakeRegistry::start());
    put_image(&full, "cache/team/a", "1", "linux/amd64");
    let env = TestEnv::new();
    let conf = format!(
        "[[registry]]\nprefix = 'quay.test/team'\nlocation = 'unreachable.invalid'\n\
         [[registry.mirror]]\nlocation = '{}'\n\
         [[registry.mirror]]\nlocation = '{}/cache/team'\n\
         [[registry]]\nprefix = 'bad.test'\nblocked = true\n",
        empty.host(),
        full.host(),
    );
    fs::write(env.path("home/registries.conf"), conf).expect("written");
    let pulled = ["pull", "--platform=linux/amd64", "quay.test/team/a:1"];
    env.run(&pulled).success();
    env.run(&["images"]).success().prints("quay.test/team/a:1");
    assert!(
        empty
            .lines()
            .iter()
            .any(|l| l.contains("/v2/a/manifests/1"))
    );
    env.run(&["pull", "bad.test/a"])
        .exits(2)
        .says("is blocked by the entry `bad.test`");
}
