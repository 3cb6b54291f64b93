//! Lists of packages: a scanner that follows BuildKit's protocol runs, and what it writes is attached.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::support::{Outcome, TestEnv};

/// Lists the files below each directory that it is told of, with what else it was told.
const SCANNER: &str = r#"set -e
list() {
    cd "$1"
    printf '{"predicateType":"https://spdx.dev/Document","predicate":{"spdxVersion":"SPDX-2.3","name":"%s","level":"%s","files":[' \
        "$1" "$BUILDKIT_SCAN_LEVEL"
    comma=
    for file in $(find . -type f -name '*.txt' | sort); do
        printf '%s{"fileName":"%s"}' "$comma" "${file#.}"
        comma=,
    done
    printf ']}}'
}
for dir in "$BUILDKIT_SCAN_SOURCE" "$BUILDKIT_SCAN_SOURCE_EXTRAS"/*; do
    name=${dir##*/}
    [ ! -d "$dir" ] || list "$dir" > "$BUILDKIT_SCAN_DESTINATION$name.spdx.json"
done
! [ -e /opt/none-of-it ] || cp -a /opt/none-of-it "${BUILDKIT_SCAN_DESTINATION}odd.json"
"#;

/// Builds the image of the scanner, `scan:1`.
fn scanner(env: &TestEnv, more: &str) {
    env.dockerfile(&format!(
        "FROM base\nCOPY scan /scan\n{more}ENTRYPOINT [\"sh\", \"/scan\"]\n"
    ))
    .file("scan", SCANNER);
    env.build_on_base(&["-t", "scan:1"]).success();
    fs::remove_file(env.context().join("scan")).expect("it is there");
}

/// How a step that has nothing to print ended.
fn last_word<'a>(outcome: &'a Outcome, step: &str) -> &'a str {
    let (_, rest) = outcome
        .stderr
        .split_once(&format!("{step}\n"))
        .unwrap_or_else(|| panic!("no step {step}: {outcome}"));
    let line = rest.lines().next().unwrap_or_default();
    line.split_whitespace().nth(1).unwrap_or_default()
}

/// Whether processes cannot be run here.
fn is_skipped(outcome: &Outcome) -> bool {
    let skip = outcome.code == Some(3) && outcome.stderr.contains("RUN needs namespaces");
    if skip {
        eprintln!("SKIP: {}", outcome.stderr);
    }
    skip
}

fn json_file(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).expect("JSON")
}

const APP: &str = "ARG BUILDKIT_SBOM_SCAN_STAGE=lib\nFROM scratch AS lib\nCOPY lib.txt /\n\
    FROM scratch\nCOPY --from=lib /lib.txt /opt/\nCOPY a.txt /\n";

#[test]
fn what_a_scanner_finds_is_attached_with_the_layers_that_files_come_from() {
    let env = TestEnv::new();
    scanner(&env, "");
    env.dockerfile(APP).file("lib.txt", "l").file("a.txt", "a");
    let layout = env.path("layout");
    let oci = format!("type=oci,tar=false,dest={}", layout.display());
    let files = env.path("files");
    let local = format!("type=local,attestation-prefix=x-,dest={}", files.display());
    let args = [
        "--attest",
        "type=sbom,generator=scan:1,LEVEL=all",
        "--provenance=mode=min,filename=how.json",
        "-t",
        "r.io/app:1",
        "-o",
        &oci,
        "-o",
        &local,
    ];
    let built = env.build_on_base(&args);
    if is_skipped(&built) {
        return;
    }
    let built = built.success();
    let platform = rbuild::oci::Platform::host().normalized().to_string();
    let step = format!("[{platform}] generating sbom using docker.io/library/scan:1");
    assert_eq!(last_word(&built, &step), "DONE");

    let blob = |digest: &Value| {
        let name = digest.as_str().expect("a digest").replace(':', "/");
        json_file(&layout.join("blobs").join(name))
    };
    let index = blob(&json_file(&layout.join("index.json"))["manifests"][0]["digest"]);
    let image = blob(&index["manifests"][0]["digest"]);
    let attestation = blob(&index["manifests"][1]["digest"]);
    let layers = attestation["layers"].as_array().expect("a list");
    let kinds: Vec<&Value> = layers
        .iter()
        .map(|layer| &layer["annotations"]["in-toto.io/predicate-type"])
        .collect();
    let spdx = "https://spdx.dev/Document";
    assert_eq!(kinds, [spdx, spdx, "https://slsa.dev/provenance/v1"]);
    let core = blob(&layers[0]["digest"]);
    let subject = &core["subject"][0];
    let digest = index["manifests"][0]["digest"].as_str().expect("a digest");
    assert_eq!(subject["digest"]["sha256"], digest["sha256:".len()..]);
    let layer = |n: usize| {
        let digest = image["layers"][n]["digest"].as_str().expect("a digest");
        format!("layerID: {digest}")
    };
    assert_eq!(
        core["predicate"],
        json!({
            "spdxVersion": "SPDX-2.3",
            "name": "/run/src/core/sbom",
            "level": "all",
            "files": [
                {"fileName": "/a.txt", "comment": layer(1)},
                {"fileName": "/opt/lib.txt", "comment": layer(0)},
            ],
            "creationInfo": {"creators": [concat!("Tool: rbuild-", env!("CARGO_PKG_VERSION"))]},
        })
    );
    let extra = blob(&layers[1]["digest"]);
    assert_eq!(extra["predicate"]["name"], "/run/src/extras/sbom-lib");
    assert_eq!(
        extra["predicate"]["files"],
        json!([{"fileName": "/lib.txt"}])
    );
    let made = blob(&layers[2]["digest"]);
    let used = &made["predicate"]["buildDefinition"]["resolvedDependencies"];
    assert!(
        used.to_string().contains("pkg:docker/scan@1?platform="),
        "{used}"
    );

    // Beside files, they are about each of these.
    let list = json_file(&files.join("x-sbom.spdx.json"));
    let names: Vec<&Value> = list["subject"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|subject| &subject["name"])
        .collect();
    assert_eq!(names, ["a.txt", "opt/lib.txt"]);
    assert_eq!(list["predicate"]["files"][0], json!({"fileName": "/a.txt"}));
    assert_eq!(
        json_file(&files.join("x-how.json"))["predicateType"],
        "https://slsa.dev/provenance/v1"
    );
    json_file(&files.join("x-sbom-lib.spdx.json"));

    let again = env.build_on_base(&args).success();
    assert_eq!(last_word(&again, &step), "CACHED");
    // Without a list, nothing but the image comes out.
    env.build_on_base(&["--sbom=false", "-t", "plain", "-o", &oci])
        .success();
    let plain = json_file(&layout.join("index.json"));
    let entries = plain["manifests"].as_array().expect("a list");
    let media_type = &entries.last().expect("an image")["mediaType"];
    assert_eq!(media_type, "application/vnd.oci.image.manifest.v1+json");
}

#[test]
fn what_is_wrong_with_a_scanner_is_told_without_a_line_of_the_dockerfile() {
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY a.txt /\n")
        .file("a.txt", "a");
    let missing = env
        .build_on_base(&["--sbom=generator=127.0.0.1:1/none:1"])
        .exits(4);
    let missing = missing.says("error: cannot use the scanner `127.0.0.1:1/none:1`");
    assert!(!missing.stderr.contains("--> Dockerfile"), "{missing}");

    env.build_on_base(&["-t", "scan:1"]).success();
    env.build_on_base(&["--sbom=generator=scan:1"])
        .exits(1)
        .says("error: the image `docker.io/library/scan:1` names no program to list packages with");

    scanner(
        &env,
        "COPY <<X /opt/none-of-it\n{\"predicateType\":\"other\"}\nX\n",
    );
    env.dockerfile("FROM scratch\nCOPY a.txt /\n");
    let odd = env.build_on_base(&["--sbom=generator=scan:1"]);
    if is_skipped(&odd) {
        return;
    }
    odd.exits(1).says(
        "`odd.json` that the scanner wrote is no list of packages: its predicate type is `other`",
    );

    scanner(&env, "RUN mkdir -p /opt && ln -s / /opt/none-of-it\n");
    env.dockerfile("FROM scratch\nCOPY a.txt /\n");
    env.build_on_base(&["--sbom=generator=scan:1"])
        .exits(1)
        .says("`odd.json` that the scanner wrote cannot be attached: it is no regular file");

    env.dockerfile("FROM base\nENTRYPOINT [\"sh\", \"-c\", \"echo no packages; exit 7\"]\n");
    env.build_on_base(&["-t", "scan:1"]).success();
    env.dockerfile("FROM scratch\nCOPY a.txt /\n");
    let failed = env.build_on_base(&["--sbom=generator=scan:1"]).exits(1);
    let failed = failed
        .says("no packages")
        .says("exit code: 7")
        .says("hint: no line of the Dockerfile asks for this step: it lists packages, for --sbom");
    assert!(!failed.stderr.contains("--> Dockerfile"), "{failed}");
}
