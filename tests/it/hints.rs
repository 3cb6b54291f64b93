//! What the program advises where something is wrong.

use std::fs;

use super::support::{FakeRegistry, Fault, TestEnv};

#[test]
fn a_misspelt_image_is_told_the_nearest_name_by_every_command() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nLABEL a=b\n");
    env.build(&["-t", "app", "-t", "ghcr.io/me/tool:v1"])
        .success();
    for (name, near) in [
        ("ap", "app"),
        ("app:latset", "app"),
        ("tool", "ghcr.io/me/tool:v1"),
        ("ghcr.io/me/tol", "ghcr.io/me/tool:v1"),
        ("tool:v2", "ghcr.io/me/tool:v1"),
    ] {
        for args in [
            &["inspect", name][..],
            &["save", "-o", "x.tar", name],
            &["tag", name, "new"],
            &["rmi", name],
            &["push", name],
            &["run", name],
        ] {
            env.run(args)
                .exits(1)
                .says(&format!("no image `{name}"))
                .says(&format!("did you mean `{near}`?"));
        }
    }
    env.run(&["inspect", "something-else"])
        .exits(1)
        .says("`rbuild images` lists what there is");
}

#[test]
fn a_file_that_an_ignore_file_leaves_out_is_told_with_its_line() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY dir/a /\n")
        .file(".dockerignore", "# no secrets\n\ndir\n!dir/b\n")
        .file("dir/a", "")
        .file("dir/b", "");
    env.build(&[])
        .exits(1)
        .says("error: \"/dir/a\": not found (left out by an ignore file)\n --> Dockerfile:2:1")
        .says("hint: line 3 of .dockerignore, `dir`, leaves it out of the build context");
}

#[test]
fn a_misspelt_base_is_told_the_nearest_stage_or_image() {
    let registry = FakeRegistry::start();
    let env = TestEnv::new();
    fs::create_dir_all(env.path("home")).expect("the home directory");
    fs::write(
        env.path("home/registries.conf"),
        format!(
            "[[registry]]\nprefix = 'docker.io'\nlocation = '{}/hub'\ninsecure = true\n",
            registry.host()
        ),
    )
    .expect("its file");
    for (base, near) in [
        ("alpin", Some("alpine")),
        ("buildr", Some("builder")),
        ("something-else", None),
        ("alpine", None),
    ] {
        env.dockerfile(&format!(
            "FROM scratch AS builder\nFROM {base}\nCOPY --from=builder / /\n"
        ));
        let built = env.build(&[]).exits(4);
        let hint = near.map_or_else(
            || "did you mean".to_owned(),
            |near| format!("hint: did you mean `{near}`?"),
        );
        assert_eq!(
            built.stderr.contains(&hint),
            near.is_some(),
            "{base}: {built}"
        );
    }
}

#[test]
fn a_base_is_shown_by_the_digest_that_pins_it_on_every_platform() {
    let registry = FakeRegistry::start();
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY a /\n").file("a", "a");
    let name = format!("{}/base:1", registry.host());
    let metadata = env.path("metadata.json");
    env.build(&[
        "--push",
        "-t",
        &name,
        "--platform=linux/amd64,linux/arm64",
        "--metadata-file",
        metadata.to_str().expect("text"),
    ])
    .success();
    let told: serde_json::Value =
        serde_json::from_slice(&fs::read(&metadata).expect("written")).expect("JSON");
    let index = told["containerimage.digest"].as_str().expect("a digest");
    let pinned = format!("{name}@{index}");
    for from in [&name, &pinned] {
        env.dockerfile(&format!("FROM {from}\nCOPY a /b\n"));
        let built = env.build(&[]).success();
        let line = format!("[1/2] FROM {pinned}\n");
        assert!(built.stderr.contains(&line), "{line}{}", built.stderr);
    }
    env.build(&["--platform=linux/amd64,linux/arm64"])
        .success()
        .says(&format!(
            "[linux/amd64 internal] load metadata for {pinned}\n"
        ))
        .says(&format!(
            "[linux/arm64 internal] load metadata for {pinned}\n"
        ));
}

#[test]
fn a_secret_that_is_missing_is_told_with_the_options_that_give_it() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nRUN --mount=type=secret,id=token,required make\n");
    env.build(&[])
        .exits(1)
        .says("error: secret token: not found\n --> Dockerfile:2:1")
        .says("hint: give it with --secret id=token,src=FILE or --secret id=token,env=VARIABLE");
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nLABEL a=b\n");
    let to = "type=registry,ref=localhost:1/team/cache:main";
    env.build(&["--cache-to", to, "--registry-retries", "0"])
        .exits(4)
        .says("error: cannot export the cache to localhost:1/team/cache:main\ncaused by: localhost:1 cannot be reached");
}

#[test]
fn findings_come_in_front_of_what_made_a_build_fail() {
    let env = TestEnv::new();
    env.dockerfile("ARG VERSON=1\nFROM base:${VERSION}\n");
    let built = env.build(&[]).exits(1);
    let finding = "FROM argument 'VERSION' is not declared (did you mean VERSON?) (line 2)\n";
    let error = "error: failed to parse stage name \"base:\"";
    let place = |text| {
        built
            .stderr
            .find(text)
            .unwrap_or_else(|| panic!("{text}{built}"))
    };
    assert!(place(finding) < place(error), "{built}");

    // A step that fails is later than what is wrong with a text that can be planned.
    env.dockerfile("FROM scratch\nMAINTAINER me\nCOPY missing /\n");
    env.build(&[])
        .exits(1)
        .says(" 1 warning found (use --check to see the places):\n - MaintainerDeprecated: ")
        .says("error: \"/missing\": not found");
}

#[test]
fn typical_mistakes_are_told_with_what_to_do() {
    let env = TestEnv::new();
    env.file("src/main.c", "")
        .file("Dockerfile.prod", "FROM scratch\n");
    for (dockerfile, hint) in [
        (
            "FROM scratch\nRUN <<END\nmake\n",
            "a line with `END` and nothing else ends it; `<<-` allows tabs in front",
        ),
        (
            "FROM scratch\nRUN make &&\n    make install\n",
            "if it goes on with the instruction above, the last line of that one has to end with `\\`",
        ),
        (
            "FROM scratch\nRUN\u{a0}make\n",
            "there is a space in it that is not the usual one; write that instead",
        ),
        ("FROM scratch\nENV A=${B\n", "`${` ends with `}`"),
        (
            "FROM scratch\nCOPY [\"a\", \"b\" /x\n",
            "`[` begins a set of characters; sources and destination are a list only where all of it is valid JSON",
        ),
        (
            "FROM scratch\nCOPY --from=3 / /\n",
            "stages count from 0; `FROM … AS name` lets --from name one",
        ),
        (
            "FROM scratch\nRUN --mount=type=cache make\n",
            "target= says where the step finds it",
        ),
        (
            "FROM scratch\nCOPY [\"../lib\", \"/lib\"]\n",
            "`..` does not lead out of the build context; --build-context names another one, for --from",
        ),
    ] {
        env.dockerfile(dockerfile);
        env.build(&[]).exits(1).says(&format!("hint: {hint}\n"));
    }
    env.dockerfile("");
    env.build(&[])
        .exits(1)
        .says("error: the Dockerfile cannot be empty\n");
}

#[test]
fn a_dockerfile_that_is_not_there_is_told_with_one_that_is() {
    let env = TestEnv::new();
    env.file("Dockerfile.prod", "FROM scratch\n")
        .file("Dockerfile.prod.dockerignore", "");
    for (file, near) in [
        ("Dockerfile.prd", "Dockerfile.prod"),
        ("Dockerfile", "Dockerfile.prod"),
    ] {
        let path = env.path("context").join(file);
        let path = path.to_str().expect("text");
        let near = env.path("context").join(near);
        env.build(&["-f", path])
            .exits(2)
            .says(&format!("error: cannot read the Dockerfile {path}: "))
            .says(&format!("hint: did you mean --file {}?\n", near.display()));
    }
}

#[test]
fn a_check_that_ends_with_an_error_does_not_say_that_nothing_was_found() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nRUM make\n");
    let checked = env.build(&["--check"]).exits(1);
    assert_eq!(checked.stdout, "", "{checked}");
    checked.says("error: unknown instruction: RUM (did you mean RUN?)");
    env.dockerfile("FROM scratch\nLABEL a=b\n");
    env.build(&["--check"])
        .success()
        .prints("Check complete, no warnings found.\n");
}

#[test]
fn an_image_that_a_registry_denies_may_be_one_that_it_does_not_have() {
    let registry = FakeRegistry::start();
    registry.faults(|_, _| Some(Fault::Answer(403, vec![], vec![])));
    let env = TestEnv::new();
    let host = registry.host();
    env.dockerfile(&format!("FROM {host}/team/ap:1\n"));
    env.build(&[])
        .exits(4)
        .says(&format!("caused by: {host} denied "))
        .says("hint: `rbuild login REGISTRY -u NAME --password-stdin` stores credentials; registries say this of names");
}
