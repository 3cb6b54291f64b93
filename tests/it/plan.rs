//! Plans, by the files in `testdata/plan/`: the text form of good ones, the words of what is wrong with others.
//!
//! Lines that start with `#!` are options: `target NAME`, `arg NAME=VALUE`, `platform P`, `multi`, `all-stages`,
//! `assume-bases`, `context NAME=directory|image|scratch`, `epoch SECONDS`. `bases.json` holds the configs of the
//! images there are. `UPDATE_EXPECT=1` writes the expected texts anew; read what they say before committing it.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read its data has failed"
)]

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use rbuild::{
    dockerfile,
    oci::{ConfigFile, Platform},
    plan::{self, Analysis, NamedContext, Options, Planned},
    source::{Diagnostic, Span},
};

fn testdata() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/plan")
}

fn is_updating() -> bool {
    env::var_os("UPDATE_EXPECT").is_some()
}

fn options(text: &str) -> Options {
    let mut options = Options {
        platform: "linux/amd64".parse().unwrap(),
        build_platform: "linux/amd64".parse().unwrap(),
        all_configs: true,
        ..Options::default()
    };
    for line in text.lines().filter_map(|line| line.strip_prefix("#! ")) {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        let (key, setting) = value.split_once('=').unwrap_or((value, ""));
        match name {
            "target" => options.target = Some(value.to_owned()),
            "arg" => {
                let arg = (key.to_owned(), setting.to_owned());
                options.build_args.extend([arg]);
            }
            "platform" => {
                options.platform = value.parse().unwrap();
                options.platform_explicit = true;
            }
            "multi" => options.multi_platform = true,
            "all-stages" => options.all_stages = true,
            "assume-bases" => options.assume_bases = true,
            "context" => {
                let kind = match setting {
                    "directory" => NamedContext::Directory,
                    "image" => NamedContext::Image,
                    "scratch" => NamedContext::Scratch,
                    other => panic!("no such context: {other}"),
                };
                options.contexts.insert(key.to_owned(), kind);
            }
            "epoch" => options.epoch = Some(Some(value.parse().unwrap())),
            other => panic!("no such option: {other}"),
        }
    }
    options
}

/// Plans as a build does: what is asked for and known is given.
fn analyse(text: &str, options: &Options) -> Analysis {
    let known: BTreeMap<String, ConfigFile> =
        serde_json::from_slice(&fs::read(testdata().join("bases.json")).unwrap()).unwrap();
    let file = dockerfile::parse(text);
    let mut bases = BTreeMap::new();
    loop {
        let analysis = plan::analyse(&file, options, &bases);
        let Ok(Planned::NeedsImages(needed)) = &analysis.outcome else {
            return analysis;
        };
        let before = bases.len();
        for (source, _) in needed {
            if let Some(config) = known.get(&source.name) {
                bases.insert(source.clone(), config.clone());
            }
        }
        if bases.len() == before {
            return analysis;
        }
    }
}

fn lines(span: Span, text: &str) -> String {
    match span.lines(text) {
        _ if span == Span::default() => "-".to_owned(),
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

fn show_diagnostic(diagnostic: &Diagnostic, text: &str) -> String {
    let hint = diagnostic.hint.as_ref();
    format!(
        "{:?} in line {}: {}\n{}",
        diagnostic.severity,
        lines(diagnostic.span, text),
        diagnostic.message,
        hint.map(|hint| format!("  hint: {hint}\n"))
            .unwrap_or_default()
    )
}

fn show(analysis: &Analysis, text: &str) -> String {
    match &analysis.outcome {
        Ok(Planned::Plan(plan)) => {
            let mut out = plan.to_string();
            let mut warnings = plan.warnings.iter().chain(&plan.unused_args).peekable();
            if warnings.peek().is_some() {
                out.push('\n');
            }
            out.extend(warnings.map(|w| show_diagnostic(w, text)));
            out
        }
        Ok(Planned::NeedsImages(needed)) => needed
            .iter()
            .map(|(source, span)| format!("needs {source} in line {}\n", lines(*span, text)))
            .collect::<Vec<_>>()
            .concat(),
        Ok(Planned::NeedsEpoch(source, span)) => {
            format!(
                "needs the time of {source:?} in line {}\n",
                lines(*span, text)
            )
        }
        Err(errors) => errors.iter().map(|e| show_diagnostic(e, text)).collect(),
    }
}

#[test]
fn dockerfiles_have_their_plans() {
    let mut differences = Vec::new();
    let mut n_plans = 0;
    for entry in fs::read_dir(testdata()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "dockerfile") {
            continue;
        }
        n_plans += 1;
        let text = fs::read_to_string(&path).unwrap();
        let options = options(&text);
        let first = show(&analyse(&text, &options), &text);
        assert_eq!(
            first,
            show(&analyse(&text, &options), &text),
            "the same input gives the same plan"
        );
        let expected = path.with_extension("plan");
        if is_updating() {
            fs::write(&expected, &first).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != first {
            differences.push(format!("{} should be\n{first}", expected.display()));
        }
    }
    assert!(n_plans > 0, "testdata/plan has no Dockerfiles");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn errors_have_their_words() {
    const SEPARATOR: &str = ">>> ";
    let path = testdata().join("errors.txt");
    let content = fs::read_to_string(&path).unwrap();
    let mut actual = Vec::new();
    for case in content.split("--- ").skip(1) {
        let (name, rest) = case.split_once('\n').unwrap();
        let text: String = rest
            .split_inclusive('\n')
            .filter(|line| !line.starts_with(SEPARATOR))
            .collect();
        let analysis = analyse(&text, &options(&text));
        let shown = match &analysis.outcome {
            Ok(Planned::Plan(_)) => "accepted\n".to_owned(),
            _ => show(&analysis, &text),
        };
        actual.push(format!("--- {name}\n{text}"));
        let lines = shown.lines();
        actual.extend(lines.map(|line| format!("{SEPARATOR}{line}\n")));
    }
    let actual = actual.concat();
    if is_updating() {
        fs::write(&path, &actual).unwrap();
    } else {
        assert_eq!(content, actual, "UPDATE_EXPECT=1 accepts this");
    }
}

#[test]
fn a_plan_is_json_too() {
    let text = fs::read_to_string(testdata().join("mounts.dockerfile")).unwrap();
    let analysis = analyse(&text, &options(&text));
    let Ok(Planned::Plan(plan)) = analysis.outcome else {
        panic!("{:?}", analysis.outcome);
    };
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["platform"]["architecture"], "amd64");
    assert_eq!(json["stages"][1]["steps"][2]["op"]["op"], "run");
}

#[test]
fn an_outline_tells_of_the_stages_that_the_target_needs() {
    let text = "\
FROM scratch AS other
ARG OTHER=1
RUN --mount=type=secret,id=other --mount=type=ssh,id=other x
FROM scratch AS used
ARG USED=1
RUN --mount=type=secret,id=used x
FROM scratch
ARG OWN
COPY --from=used / /
";
    let outline = analyse(text, &options(text)).outline.unwrap();
    assert_eq!(
        outline.to_string(),
        "\
BUILD ARG   VALUE   DESCRIPTION
USED        1       \n\
OWN                 \n
SECRET   REQUIRED
used     \n
"
    );
}

#[test]
fn outline_and_targets_are_buildkits() {
    let text = "\
# VERSION is what is built
ARG VERSION=1
ARG BASE=scratch$VERSION
ARG UNUSED=1
# build makes it
FROM ${BASE%1} AS build
ARG VERSION
# JOBS at a time
ARG JOBS=4
RUN --mount=type=secret,id=token,required --mount=type=ssh make
# app is the result
FROM --platform=$BUILDPLATFORM scratch AS app
COPY --from=build / /
";
    let analysis = analyse(text, &options(text));
    let outline = analysis.outline.unwrap();
    assert_eq!(
        outline.to_string(),
        "\
TARGET:      app
DESCRIPTION: is the result

BUILD ARG   VALUE      DESCRIPTION
VERSION     1          is what is built
BASE        scratch1   \n\
JOBS        4          at a time

SECRET   REQUIRED
token    true

SSH       REQUIRED
default   \n
"
    );
    let json = serde_json::to_value(&outline).unwrap();
    assert_eq!(
        json["secrets"][0],
        serde_json::json!({
            "name": "token",
            "required": true,
            "location": {"ranges": [{"start": {"line": 10}, "end": {"line": 10}}]},
        })
    );
    let targets = plan::targets(&dockerfile::parse(text));
    assert_eq!(
        targets.to_string(),
        "\
TARGET        DESCRIPTION
build         makes it
app (default) is the result
"
    );
    assert_eq!(targets.targets[0].base, "${BASE%1}");
    assert_eq!(targets.targets[1].platform, "$BUILDPLATFORM");
}

#[test]
fn every_platform_of_a_build_has_its_own_plan() {
    let text = "FROM scratch\nARG TARGETPLATFORM\nLABEL for=$TARGETPLATFORM\n";
    for platform in ["linux/amd64", "linux/arm64", "linux/arm/v7"] {
        let options = Options {
            platform: platform.parse::<Platform>().unwrap(),
            ..options("")
        };
        let Ok(Planned::Plan(plan)) = analyse(text, &options).outcome else {
            panic!("{platform} has no plan");
        };
        assert_eq!(
            plan.stages[0].config.as_ref().unwrap().labels["for"],
            platform
        );
    }
}

/// Lines that refer to each other in right and wrong ways.
const LINES: &[&str] = &[
    "FROM alpine AS a",
    "FROM a AS b",
    "FROM $X",
    "FROM scratch",
    "FROM --platform=$BUILDPLATFORM b AS a",
    "ARG X=a",
    "ARG Y=${X}y Z",
    "ENV X=$Y Y=$X",
    "ENV PATH=$PATH:/x",
    "COPY --from=a / /",
    "COPY --from=1 / /",
    "COPY --from=other:1 x y",
    "COPY a $X/",
    "ADD https://example.com/a.git#$X /",
    "RUN --mount=from=b,target=x true",
    "RUN --mount=type=cache,target=$X true",
    "RUN <<E\n$X\nE",
    "WORKDIR $Y/..",
    "ONBUILD COPY --from=b / /",
    "ONBUILD ARG X",
    "SHELL [\"x\"]",
    "CMD $X",
    "EXPOSE $X",
    "VOLUME $Y",
];

proptest::proptest! {
    #[test]
    fn planning_is_a_function(lines in proptest::collection::vec(proptest::sample::select(LINES), 1..12)) {
        let text = lines.join("\n");
        let mut options = options("#! assume-bases");
        options.build_args.insert("X".to_owned(), "a".to_owned());
        let file = dockerfile::parse(&text);
        let first = plan::analyse(&file, &options, &BTreeMap::new());
        let again = plan::analyse(&file, &options, &BTreeMap::new());
        proptest::prop_assert_eq!(show(&first, &text), show(&again, &text));
        if let Ok(Planned::Plan(plan)) = &first.outcome {
            for (at, stage) in plan.stages.iter().enumerate() {
                // Each stage comes after all that it depends on.
                let before = |id: &plan::StageId| plan.stages[..at].iter().any(|s| s.id == *id);
                if let plan::Base::Stage(id) = &stage.base {
                    proptest::prop_assert!(before(id));
                }
                for step in &stage.steps {
                    if let plan::Op::Copy(copy) = &step.op
                        && let plan::Origin::Stage(id) = &copy.from
                    {
                        proptest::prop_assert!(before(id));
                    }
                }
            }
        }
    }
}

#[test]
fn a_missing_image_may_be_a_misspelt_stage() {
    let text = "FROM scratch AS builder\nFROM bulider\nFROM alpin:latest\nFROM alpine\n";
    let file = dockerfile::parse(text);
    let options = Options {
        all_stages: true,
        ..options("")
    };
    let Ok(Planned::NeedsImages(needed)) = plan::analyse(&file, &options, &BTreeMap::new()).outcome
    else {
        panic!("there are no such images");
    };
    let suggestions: Vec<_> = needed
        .iter()
        .map(|(source, _)| source.suggest(&file))
        .collect();
    assert_eq!(suggestions, [Some("builder"), Some("alpine"), None]);
}

#[test]
fn thousands_of_stages_are_no_problem() {
    let stage = |n: usize| format!("FROM scratch AS s{n}\nCOPY --from=s{} / /\n", n + 1);
    let text: String = (0..5_000).map(stage).collect();
    let analysis = analyse(&text, &options(""));
    assert!(matches!(
        analysis.outcome,
        Ok(Planned::NeedsImages(_) | Planned::Plan(_))
    ));
}
