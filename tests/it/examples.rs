//! The manifests in `examples/` are what their systems read, and keep to what they promise; rbuild's own image is built and runs.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use super::support::TestEnv;

fn example(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(name)
}

/// A document in YAML as JSON, by Python's reader; `None`, with the reason printed, without one.
fn read_yaml(name: &str) -> Option<Value> {
    let script = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(example(name))
        .output();
    match output {
        Ok(output) if output.status.success() => {
            Some(serde_json::from_slice(&output.stdout).expect("JSON"))
        }
        other => {
            let error = other.map(|o| String::from_utf8_lossy(&o.stderr).into_owned());
            let text = format!("{error:?}");
            assert!(
                text.contains("No module named") || text.contains("NotFound"),
                "{name}: {text}"
            );
            eprintln!("skipped: no Python with a reader of YAML: {text}");
            None
        }
    }
}

/// What Pod Security "restricted" asks of a pod.
#[test]
fn the_job_for_kubernetes_is_restricted() {
    let Some(job) = read_yaml("kubernetes-job.yaml") else {
        return;
    };
    assert_eq!(job["apiVersion"], "batch/v1");
    assert_eq!(job["kind"], "Job");
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(
        pod["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    for (name, _) in pod.as_object().expect("a pod") {
        assert!(!name.starts_with("host"), "{name}");
    }
    for container in pod["containers"].as_array().expect("containers") {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["capabilities"]["drop"][0], "ALL");
        assert_eq!(context["readOnlyRootFilesystem"], true);
        let volumes = pod["volumes"].as_array().expect("volumes");
        for mount in container["volumeMounts"].as_array().expect("mounts") {
            assert!(volumes.iter().any(|volume| volume["name"] == mount["name"]));
        }
    }
}

#[test]
fn the_job_for_gitlab_calls_commands_that_exist() {
    let Some(pipeline) = read_yaml("gitlab-ci.yml") else {
        return;
    };
    let script = pipeline["build"]["script"].as_array().expect("a script");
    let env = TestEnv::new();
    for line in script {
        let line = line.as_str().expect("a command");
        let call = line.split('|').next_back().unwrap_or_default().trim();
        let words: Vec<_> = call.split_ascii_whitespace().collect();
        assert_eq!(words[0], "rbuild", "{line}");
        if let Some(command) = words.get(1).filter(|word| !word.starts_with('-')) {
            let help = env.run(&[*command, "--help"]);
            assert_eq!(help.code, Some(0), "{help}");
        }
    }
}

#[test]
fn rbuild_s_own_image_is_the_program_and_certificates() {
    let env = TestEnv::new();
    fs::create_dir(env.path("certs")).expect("a directory");
    fs::write(env.path("certs/ca-certificates.crt"), "certificates").expect("a file");
    fs::create_dir(env.path("program")).expect("a directory");
    fs::copy(env!("CARGO_BIN_EXE_rbuild"), env.path("program/rbuild")).expect("a copy");
    let dockerfile = example("self/Dockerfile");
    let built = env.run(&[
        "build",
        "-t",
        "rbuild",
        "-f",
        dockerfile.to_str().expect("text"),
        "--build-context=certs=certs",
        "program",
    ]);
    assert_eq!(built.code, Some(0), "{built}");
    let inspect = env.run(&["inspect", "rbuild"]).success();
    let image: Value = serde_json::from_str(&inspect.stdout).expect("JSON");
    let config = &image["images"][0]["config"];
    assert_eq!(config["config"]["Entrypoint"][0], "rbuild");
    let ran = env.run(&["run", "rbuild", "version"]);
    if ran.code == Some(3) {
        eprintln!("skipped: no program can be run here:\n{ran}");
        return;
    }
    assert!(ran.success().stdout.contains(env!("CARGO_PKG_VERSION")));
}
