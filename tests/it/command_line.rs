//! The command line: help, refusals and exit codes.

use super::support::TestEnv;

#[test]
fn help_stands_alone() {
    let env = TestEnv::new();
    let help = env.run(&["--help"]).success();
    for word in ["Usage: rbuild", "build", "images", "--root", "Exit status"] {
        assert!(help.stdout.contains(word), "help lacks {word:?}\n{help}");
    }
    let help = env.run(&["build", "--help"]).success();
    for flag in [
        "--tag",
        "--build-arg",
        "--secret",
        "--output",
        "--metadata-file",
    ] {
        assert!(help.stdout.contains(flag), "help lacks {flag:?}\n{help}");
    }
    let none: [&str; 0] = [];
    env.run(&none).exits(2).says("Usage: rbuild");
}

#[test]
fn version_is_that_of_the_package() {
    let env = TestEnv::new();
    let version = format!("rbuild {}\n", env!("CARGO_PKG_VERSION"));
    for args in [&["version"][..], &["--version"]] {
        assert_eq!(env.run(args).success().stdout, version);
    }
    env.run(&["version", "--format", "json"])
        .success()
        .prints(&format!("\"{}\"", env!("CARGO_PKG_VERSION")));
}

#[test]
fn options_of_docker_that_are_not_there_are_refused_by_name() {
    let env = TestEnv::new();
    for (args, want) in [
        (
            &["--provenance=mode=all"][..],
            "--provenance=mode=all: `mode=all` is not min or max",
        ),
        (
            &["--attest=type=provenance", "--load"],
            "type=docker has no place for provenance",
        ),
        (
            &["--attest", "type=sbom", "-o", "type=docker,dest=x"],
            "type=docker has no place for lists of packages",
        ),
        (
            &["--sbom", "-o", "type=image,oci-mediatypes=false"],
            "lists of packages need OCI media types; type=image has oci-mediatypes=false",
        ),
        (
            &["--sbom=scan"],
            "--sbom=scan: `scan` is not of the form KEY=VALUE",
        ),
        (
            &["--builder", "b"],
            "--builder=b is refused: there is no builder",
        ),
        (
            &["--squash"],
            "--squash is refused: layers are not squashed",
        ),
        (&["-m", "1g"], "--memory=1g is refused: limits"),
        (&["--rm=false"], "--rm=false is refused: nothing of a step"),
        (
            &["--print", "outline"],
            "--print=outline is refused: use `--call outline`",
        ),
        (&["--invoke", "sh"], "--invoke=sh is refused: "),
        (&["--dns", "1.1.1.1"], "--dns=1.1.1.1 is refused: "),
        (
            &["--runtime", "crun", "--kaniko-dir", "/k"],
            "--kaniko-dir=/k is refused: `--root` says where the store is\n--runtime=crun is refused: ",
        ),
    ] {
        env.build(args).exits(2).says(want);
    }
}

#[test]
fn wrong_options_are_named_with_the_nearest_right_one() {
    let env = TestEnv::new();
    for (args, want) in [
        (&["--biuld-arg", "A=1"][..], "--build-arg"),
        (&["--ulimit", "nofiles=1"], "did you mean `nofile`?"),
        (&["--add-host", "a:b"], "`b` is not an IP address"),
        (&["--shm-size", "big"], "it is not a size"),
        (
            &["--secret", "id=a,scr=b"],
            "unexpected key 'scr' in 'scr=b' (did you mean src?)",
        ),
        (
            &["--call", "outlnie"],
            "unknown method `outlnie`; did you mean `outline`?",
        ),
    ] {
        env.build(args).exits(2).says(want);
    }
}

/// Options that are only refused are no advice for one that is unknown, nor is a context of that name.
#[test]
fn an_unknown_option_has_no_misleading_tip() {
    let env = TestEnv::new();
    for option in ["--contxt", "--resourc", "--something"] {
        let outcome = env.build(&[option]).exits(2);
        let told = &outcome.stderr;
        assert!(
            told.contains(&format!("unexpected argument '{option}'")),
            "{outcome}"
        );
        assert!(!told.contains("tip:"), "{outcome}");
    }
}

#[test]
fn findings_are_events_in_json_and_nothing_where_progress_is_quiet() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nMAINTAINER me\n");
    let outcome = env.build(&["--progress=rawjson"]).success();
    let lines = outcome.stderr.lines();
    let events: Vec<serde_json::Value> = lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    assert!(
        events.iter().any(|event| event["warnings"].is_array()),
        "{outcome}"
    );
    for quiet in ["--progress=quiet", "-q"] {
        let outcome = env.build(&[quiet]).success();
        assert_eq!(outcome.stderr, "", "{quiet}");
    }
    env.build(&["--progress=plain"])
        .success()
        .says(" - MaintainerDeprecated: ");
}

#[test]
fn a_misspelt_command_is_told_the_nearest_one() {
    let env = TestEnv::new();
    env.run(&["imges"])
        .exits(2)
        .says("error: cannot use the context `imges`: ")
        .says("hint: did you mean the command `images`?\n");
    let help = env.run(&["help", "cache", "prune"]).success();
    assert_eq!(
        help.stdout,
        env.run(&["cache", "prune", "--help"]).success().stdout
    );
}

#[test]
fn what_cannot_be_loaded_pulled_or_imported_is_named() {
    let env = TestEnv::new();
    let place = env.path("tmp").display().to_string();
    env.run(&["load", "-i", &place]).exits(1).says(&format!(
        "error: cannot load images from `{place}`\ncaused by: there is no image in it"
    ));
    env.run(&["cache", "import", &place])
        .exits(1)
        .says(&format!(
            "error: cannot import a cache from `{place}`\ncaused by: there is no cache in it"
        ));
    let image = "localhost:1/team/app";
    env.run(&["pull", image, "--registry-retries", "0"])
        .exits(4)
        .says(&format!(
            "error: cannot pull `{image}`\ncaused by: localhost:1 cannot be reached"
        ));
}

#[test]
fn an_empty_store_lists_nothing_and_finds_nothing() {
    let env = TestEnv::new();
    let list = env.run(&["images"]).success();
    assert_eq!(list.stdout.lines().count(), 1, "{list}");
    assert_eq!(
        env.run(&["images", "--format", "json"]).success().stdout,
        "[]\n"
    );
    env.run(&["inspect", "app:v1"])
        .exits(1)
        .says("error: no image `app:v1` in the store\nhint: `rbuild images` lists what there is\n");
    env.run(&["tag", "App", "b"])
        .exits(2)
        .says("must be lowercase");
}

#[test]
fn reports_may_go_where_nothing_can_take_the_place_of_what_is_there() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    let args = [
        "--iidfile=/proc/self/fd/1",
        "--metadata-file=/proc/self/fd/1",
    ];
    let built = env.build(&args).success();
    assert!(built.stdout.starts_with("sha256:"), "{built}");
    assert!(built.stdout.ends_with("}\n"), "{built}");
}

#[test]
fn what_a_dockerfile_says_is_told_for_this_machine() {
    let env = TestEnv::new();
    env.dockerfile("ARG FOR=$TARGETARCH\nFROM scratch\nARG FOR\n");
    let here = env.build(&["--call", "outline"]).success().stdout.clone();
    let there = env.build(&["--call", "outline", "--platform", "linux/s390x"]);
    assert_eq!(there.success().stdout, here);
}
