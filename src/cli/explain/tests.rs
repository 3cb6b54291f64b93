use std::path::Path;

use rbuild::oci::sha256;

use super::*;

fn step(label: &str, result: StepResult, reason: Option<MissReason>) -> StepExplanation {
    StepExplanation {
        platform: "linux/amd64".into(),
        stage: "build".into(),
        step: label.into(),
        result,
        reason,
    }
}

/// Every reason and cause there is.
fn all() -> Explanation {
    let is = |text: &str| Some(text.to_owned());
    let changed = |causes| Some(MissReason::Changed { causes });
    let path = |n: usize| format!("src/{n}.c");
    let files = FileChanges {
        added: (0..7).map(path).collect(),
        removed: vec!["odd\nname\u{1b}[2J".into()],
        modified: vec![
            ModifiedFile {
                path: "a".into(),
                what: vec![FilePart::Bytes],
                mode: None,
            },
            ModifiedFile {
                path: "b".into(),
                what: vec![FilePart::Bytes, FilePart::Mode],
                mode: Some(["0644".into(), "0755".into()]),
            },
            ModifiedFile {
                path: "c".into(),
                what: vec![FilePart::Other],
                mode: None,
            },
        ],
        omitted: 40,
    };
    let from = || "build context".to_owned();
    let variable = |name: &str, origin, before, after| Cause::Variable {
        name: name.into(),
        origin,
        before,
        after,
    };
    let may_run = StepResult::MayRun {
        after: "[build 2/9] COPY . .".into(),
    };
    let evicted = |blob| Some(MissReason::Evicted { blob });
    Explanation::new(vec![
        step("[build 1/9] WORKDIR /src", StepResult::Cached, None),
        step(
            "[build 2/9] COPY . .",
            StepResult::WillRun,
            changed(vec![
                Cause::BaseMoved {
                    image: "docker.io/library/alpine:3.20".into(),
                    before: sha256(b"one"),
                    after: sha256(b"two"),
                },
                Cause::Files {
                    from: from(),
                    changes: Some(files),
                },
                Cause::Files {
                    from: "stage x".into(),
                    changes: None,
                },
                Cause::Files {
                    from: from(),
                    changes: Some(FileChanges::default()),
                },
            ]),
        ),
        step(
            "[build 3/9] RUN make",
            may_run,
            changed(vec![
                Cause::EarlierStep {
                    step: is("[build 2/9] COPY . ."),
                },
                Cause::EarlierStep { step: None },
                Cause::BaseReplaced {
                    before: "scratch".into(),
                    after: "alpine".into(),
                },
                Cause::Instruction {
                    before: "RUN make".into(),
                    after: format!("RUN {}", "x".repeat(300)),
                },
                variable("A", VariableOrigin::Arg, is("1"), is("2")),
                variable("B", VariableOrigin::Env, None, is("2")),
                variable("C", VariableOrigin::Env, is("1"), None),
                Cause::Setting {
                    name: "user".into(),
                    before: is(""),
                    after: is("app"),
                },
            ]),
        ),
        step("[build 4/9] RUN a", StepResult::Executed, evicted(None)),
        step(
            "[build 5/9] RUN b",
            StepResult::Unchanged,
            evicted(Some(sha256(b"blob"))),
        ),
        step(
            "[build 6/9] RUN c",
            StepResult::Failed,
            Some(MissReason::Corrupt),
        ),
        step(
            "[build 7/9] RUN d",
            StepResult::WillRun,
            Some(MissReason::Disabled),
        ),
        step(
            "[build 8/9] RUN e",
            StepResult::WillRun,
            Some(MissReason::Unknown),
        ),
        step(
            "[build 9/9] RUN f",
            StepResult::WillRun,
            Some(MissReason::First),
        ),
    ])
}

/// Compares with `testdata/explain`, or writes it with `UPDATE_EXPECT=1`.
#[track_caller]
fn golden(name: &str, got: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/explain")
        .join(name);
    let is_update = std::env::var_os("UPDATE_EXPECT").is_some();
    if is_update {
        std::fs::write(&path, got).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap();
    assert_eq!(got, want, "{name}");
}

#[test]
fn every_reason_has_its_words() {
    golden("all.txt", &text(&all()));
}

#[test]
fn the_data_is_stable() {
    let mut json = serde_json::to_string_pretty(&all()).unwrap();
    json.push('\n');
    golden("all.json", &json);
}
