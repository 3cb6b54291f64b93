//! Whole builds: what the program makes of a Dockerfile, and what it says when it cannot.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::fs;

use rbuild::{
    layer::Toc,
    store::{Found, Store},
};
use serde_json::Value;

use super::support::TestEnv;

fn inspect(env: &TestEnv, image: &str) -> Value {
    let outcome = env.run(&["inspect", image]).success();
    serde_json::from_str(&outcome.stdout).expect("inspect prints JSON")
}

#[test]
fn files_and_settings_make_an_image() {
    let env = TestEnv::new();
    env.dockerfile("FROM base\nWORKDIR /srv\nCOPY a.txt b/\nENV A=1\nCMD [\"cat\", \"b/a.txt\"]\n")
        .file("a.txt", "hello\n");
    let first = env.build_on_base(&["-t", "app:v1"]).success();
    let first = first
        .says("#3 [1/3] WORKDIR /srv\n#3 DONE")
        .says("[2/3] COPY a.txt b/");
    assert_eq!(first.stdout, "", "{first}");
    let image = inspect(&env, "app:v1");
    assert_eq!(image["names"][0], "docker.io/library/app:v1");
    let config = &image["images"][0]["config"];
    assert_eq!(config["config"]["WorkingDir"], "/srv");
    assert_eq!(config["config"]["Cmd"][1], "b/a.txt");
    assert_eq!(
        image["images"][0]["manifest"]["layers"]
            .as_array()
            .map(Vec::len),
        Some(3)
    );

    let second = env.build_on_base(&["-t", "app:v2"]).success();
    let second = second
        .says("[1/3] WORKDIR /srv\n#3 CACHED")
        .says("#4 CACHED");
    assert_eq!(
        inspect(&env, "app:v2")["descriptor"],
        image["descriptor"],
        "{second}"
    );
}

#[test]
fn quiet_prints_the_image_id_alone() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nLABEL a=b\n");
    let iidfile = env.path("iid");
    let metadata = env.path("metadata.json");
    let built = env
        .build(&[
            "-q",
            "-t",
            "app",
            "--iidfile",
            iidfile.to_str().expect("text"),
            "--metadata-file",
            metadata.to_str().expect("text"),
        ])
        .success();
    assert_eq!(built.stderr, "", "{built}");
    let id = fs::read_to_string(iidfile).expect("the image ID");
    assert_eq!(built.stdout.trim_end(), id);
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    let metadata: Value =
        serde_json::from_slice(&fs::read(metadata).expect("metadata")).expect("JSON");
    assert_eq!(metadata["containerimage.config.digest"], id.as_str());
    assert_eq!(metadata["image.name"], "docker.io/library/app:latest");
}

#[test]
fn archives_come_back_into_another_store() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY a /a\n").file("a", "a");
    env.build(&["-t", "app:v1"]).success();
    let digest = inspect(&env, "app:v1")["descriptor"]["digest"].clone();
    for format in ["docker", "oci"] {
        let archive = env.path(format);
        let archive = archive.to_str().expect("text");
        env.run(&["save", "--format", format, "-o", archive, "app:v1"])
            .success();
        let mut other = TestEnv::new();
        other.var("SOURCE_DATE_EPOCH", "1");
        let loaded = other.run(&["load", "-i", archive]).success();
        assert_eq!(loaded.stdout, "Loaded image: app:v1\n");
        assert_eq!(inspect(&other, "app:v1")["descriptor"]["digest"], digest);
    }
}

#[test]
fn names_come_and_go() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nLABEL a=b\n");
    env.build(&["-t", "app:v1"]).success();
    env.run(&["tag", "app:v1", "app:v2", "example.test/app"])
        .success();
    let names = |env: &TestEnv| env.run(&["images"]).success().stdout;
    for name in ["app:v1", "app:v2", "example.test/app:latest"] {
        assert!(names(&env).contains(name), "{}", names(&env));
    }
    env.run(&["rmi", "app:v2", "app:v1"])
        .success()
        .prints("Untagged: app:v2\n");
    assert!(!names(&env).contains("app:v1"));
    env.run(&["rmi", "app:v3", "example.test/app"])
        .exits(1)
        .says("error: no image `app:v3` in the store");
    assert!(names(&env).contains("example.test/app:latest"));
}

#[test]
fn a_build_argument_that_nothing_declares_is_told_once() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch AS other\nARG there\nFROM scratch\nARG colour\nLABEL a=$colour\n");
    let built = env
        .build(&[
            "--platform=linux/amd64,linux/arm64",
            "--build-arg=color=red",
            "--build-arg=there=1",
            "--build-arg=nowhere=2",
            "--build-arg=HTTP_PROXY=x",
            "--build-arg=BUILDKIT_INLINE_CACHE=1",
            "--build-arg=TARGETARCH=x",
        ])
        .success();
    let said = |text: &str| built.stderr.matches(text).count();
    let color = "WARNING: no ARG declares the build argument color (did you mean colour?)\n";
    assert_eq!(said(color), 1, "{built}");
    assert_eq!(
        said("WARNING: no ARG declares the build argument nowhere\n"),
        1,
        "{built}"
    );
    assert_eq!(said("no ARG declares"), 2, "{built}");
}

#[test]
fn an_error_shows_the_line_and_exits_with_1() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nRUM x\nCOPY a\n");
    env.build(&[]).exits(1).says(
        "\
error: unknown instruction: RUM (did you mean RUN?)
 --> Dockerfile:2:1
  |
1 | FROM scratch
2 | RUM x
  | ^^^
3 | COPY a
  |
error: COPY requires at least two arguments, but only one was provided. Destination could not be determined
 --> Dockerfile:3:6
",
    );
    env.dockerfile("FROM scratch\nCOPY nowhere /\n");
    env.build(&[])
        .exits(1)
        .says(" --> Dockerfile:2:")
        .says("nowhere");
    env.dockerfile("FROM scratch\n");
    env.build(&["--target", "biuld"])
        .exits(1)
        .says("target stage \"biuld\" could not be found");
}

#[test]
fn a_step_that_fails_repeats_its_last_lines_and_shows_the_instruction() {
    let env = TestEnv::new();
    env.dockerfile(
        "FROM base AS made\nRUN for i in $(seq 1 50); do echo line $i; done; \\\n    exit 3\nFROM base\nCOPY --from=made /x /\n",
    );
    let built = env.build_on_base(&[]);
    if built.code == Some(3) && built.stderr.contains("RUN needs namespaces") {
        eprintln!("skipped: no step can be run here:\n{built}");
        return;
    }
    let built = built.exits(1).says("ERROR: process \"/bin/sh -c for i in");
    let (_, report) = built
        .stderr
        .split_once("------\n > [made 1/2] RUN for i in ")
        .expect("a final report");
    let (said, error) = report
        .split_once("\n------\nerror: process ")
        .expect("an error");
    assert!(
        said.contains("(10 earlier lines are not repeated here)\nline 11\n"),
        "{built}"
    );
    assert!(said.ends_with("\nline 50"), "{built}");
    assert!(
        error.ends_with(
            "did not complete successfully: exit code: 3
 --> Dockerfile:2:1
  |
1 |   FROM base AS made
2 | / RUN for i in $(seq 1 50); do echo line $i; done; \\
3 | |     exit 3
  | |__________^
4 |   FROM base
5 |   COPY --from=made /x /
  |
"
        ),
        "{built}"
    );
}

#[test]
fn what_the_command_line_names_has_to_be_there() {
    let env = TestEnv::new();
    env.run(&["./nowhere"])
        .exits(2)
        .says("error: cannot use the context `./nowhere`: No such file or directory");
    env.build(&[]).exits(2).says("cannot read the Dockerfile ");
    env.file("sub/Dockerfile.x", "FROM scratch\nLABEL a=b\n");
    env.build(&["-f", "sub/Dockerfile.x"])
        .exits(2)
        .says("hint: --file is relative to the current directory; did you mean ");
    env.build(&["-f", "context/sub/Dockerfile.x"]).success();
    env.build(&[
        "-f",
        "context/sub/Dockerfile.x",
        "--secret",
        "id=a,src=nowhere",
    ])
    .exits(2)
    .says("error: secret `a`: cannot read nowhere: No such file or directory");
    env.build(&["-f", "context/sub/Dockerfile.x", "--ssh", "default"])
        .exits(2)
        .says("--ssh default: $SSH_AUTH_SOCK is not set");
}

#[test]
fn a_registry_that_is_not_there_is_named_and_exits_with_4() {
    let env = TestEnv::new();
    env.dockerfile("FROM 127.0.0.1:1/nothing:here\nRUN x\n");
    env.build(&[])
        .exits(4)
        .says(" --> Dockerfile:1:")
        .says("127.0.0.1:1");
}

#[test]
fn a_store_that_cannot_be_made_exits_with_3() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nLABEL a=b\n").file("root", "");
    let root = env.context().join("root");
    env.build(&["--root", root.to_str().expect("text")])
        .exits(3)
        .says("root` is not a directory")
        .says("hint: name another directory");
}

#[test]
fn warnings_come_at_the_end_and_check_shows_their_places() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch as x\nCOPY Dockerfile /\n");
    env.build(&[]).success().says(
        "\n 1 warning found (use --check to see the places):\n - FromAsCasing: 'as' and 'FROM' keywords' casing do not \
         match (line 1)\n",
    );
    env.build(&["--check"]).exits(1).prints(
        "warning: FromAsCasing: 'as' and 'FROM' keywords' casing do not match\n --> Dockerfile:1:",
    );
    let json = env.build(&["--call", "check,format=json,ignorestatus=true"]);
    let report: Value = serde_json::from_str(&json.success().stdout).expect("JSON");
    assert_eq!(report["warnings"][0]["ruleName"], "FromAsCasing");
    env.build(&["--call", "targets"])
        .success()
        .prints("x (default)");
    env.dockerfile("FROM scratch AS x\nFROM x\n");
    env.build(&["--call", "targets"])
        .success()
        .prints("TARGET    DESCRIPTION\nx         \n(default) \n");
}

#[test]
fn files_that_are_missing_are_told_together_before_anything_runs() {
    let env = TestEnv::new();
    env.dockerfile(
        "FROM base\nCOPY one /\nRUN echo ran\nCOPY other /\nRUN --mount=source=two,target=/x true\nADD thre /\nCOPY dir/*.txt /\n",
    )
    .file("other", "")
    .file("three", "")
    .file("dir/x", "");
    let outcome = env.build_on_base(&[]).exits(1);
    let outcome = outcome
        .says("error: \"/one\": not found\n --> Dockerfile:2:1")
        .says("error: \"/two\": not found\n --> Dockerfile:5:1")
        .says("error: \"/thre\": not found\n --> Dockerfile:6:1")
        .says("hint: did you mean /three?")
        .says("error: dir/*.txt: nothing matches, and nothing else is taken from \"/dir\"\n --> Dockerfile:7:1");
    assert!(!outcome.stderr.contains("RUN echo ran\n#"), "{outcome}");
}

#[test]
fn a_wildcard_without_matches_is_fine_where_its_directory_is_used() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY dir/*.txt no*.txt /a/\nCOPY dir/x /b/\n")
        .file("dir/x", "x");
    env.build(&["-o", "out"]).success();
    assert_eq!(
        fs::read_to_string(env.path("out/b/x")).expect("copied"),
        "x"
    );
    env.dockerfile("FROM scratch\nCOPY *.none /a/\n");
    env.build(&[]).success();
    env.dockerfile("FROM scratch\nCOPY dir/*.none /a/\n");
    env.build(&[]).exits(1);
}

#[test]
fn missing_files_of_images_are_told_together() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY --from=base /one /\nCOPY --from=base /bin/sh /\nCOPY --from=base /two /\n");
    env.build_on_base(&[])
        .exits(1)
        .says(" --> Dockerfile:2:1")
        .says(" --> Dockerfile:4:1");
}

#[test]
fn files_of_a_base_are_hashed_once_and_only_when_a_step_copies_some() {
    let env = TestEnv::new();
    let has_digests = || {
        let store = Store::open(&env.path("root")).expect("the build's store");
        let layers = store.layers_on_disk().expect("it lists layers");
        let tocs = layers.iter().map(|layer| {
            let Found::Valid(record) = &layer.found else {
                panic!("{} is no record", layer.path.display());
            };
            Toc::from_bytes(&record.toc).expect("a table of contents")
        });
        tocs.map(|toc| toc.has_digests()).collect::<Vec<_>>()
    };
    env.dockerfile("FROM base\nCOPY --link Dockerfile /opt/\nCOPY Dockerfile /etc/\n");
    env.build_on_base(&[]).success();
    assert!(has_digests().contains(&false));
    env.dockerfile("FROM base AS made\nFROM scratch\nCOPY --from=made /etc /\n");
    env.build_on_base(&[]).success();
    assert!(!has_digests().contains(&false));
}

#[test]
fn names_of_users_need_something_to_be_looked_up_in() {
    let env = TestEnv::new();
    for dockerfile in [
        "FROM scratch\nCOPY --chown=web a /\n",
        "FROM scratch\nUSER web\nWORKDIR /x\n",
        "FROM base\nCOPY --link --chown=root:users a /\n",
    ] {
        env.dockerfile(dockerfile).file("a", "");
        env.build_on_base(&[])
            .exits(1)
            .says("the instruction builds on nothing")
            .says("give numbers instead");
    }
    env.dockerfile("FROM scratch\nCOPY --chown=5:6 a /\nCOPY --link --chown=root a /b\nCOPY --chown=web a /c\n");
    env.build(&[]).success();
}

#[test]
fn an_empty_target_is_the_last_stage() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch AS a\nLABEL stage=a\nFROM scratch\nLABEL stage=last\n");
    env.build(&["--target", "", "-t", "app"]).success();
    let labels = &inspect(&env, "app")["images"][0]["config"]["config"]["Labels"];
    assert_eq!(labels["stage"], "last");
}
