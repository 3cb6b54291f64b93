//! A cache that somebody else writes, who wants to do harm: what it says is refused or without effect.

use std::{fs, path::Path};

use rbuild::oci::{Digest, sha256, to_json};
use serde_json::{Value, json};

use super::{
    super::support::{Outcome, TestEnv},
    blobs, n_executed, prepared, runner,
};

/// Its files depend on `src` alone.
const DOCKERFILE: &str = "\
FROM base AS a
COPY src /src
RUN cat /src /src >/two; chown 7:8 /two
FROM base
COPY --from=a /two /copied
RUN cat /copied /copied >/four
";

/// The manifest and the config of the cache in a directory.
struct Documents {
    manifest: Value,
    config: Value,
}

impl Documents {
    fn steps(&mut self) -> &mut Vec<Value> {
        let steps = &mut self.config["rbuild.cache.v1"]["steps"];
        steps.as_array_mut().expect("a list of steps")
    }

    fn layers(&mut self) -> &mut Vec<Value> {
        let layers = &mut self.manifest["layers"];
        layers.as_array_mut().expect("a list of layers")
    }

    fn diff_ids(&mut self) -> &mut Vec<Value> {
        let ids = &mut self.config["rootfs"]["diff_ids"];
        ids.as_array_mut().expect("a list of diffIDs")
    }
}

fn blob_path(dir: &Path, digest: &Digest) -> std::path::PathBuf {
    dir.join("blobs/sha256").join(digest.hex())
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("readable")).expect("JSON")
}

fn path_of(dir: &Path, descriptor: &Value) -> std::path::PathBuf {
    let digest = descriptor["digest"].as_str().expect("a digest");
    blob_path(dir, &digest.parse().expect("a digest"))
}

/// Changes the documents of a cache, so that all digests are right again.
fn change(dir: &Path, change: &dyn Fn(&mut Documents)) {
    let mut index = read(&dir.join("index.json"));
    let manifest = read(&path_of(dir, &index["manifests"][0]));
    let config = read(&path_of(dir, &manifest["config"]));
    let mut documents = Documents { manifest, config };
    change(&mut documents);
    let put = |value: &Value| {
        let bytes = to_json(value);
        fs::write(blob_path(dir, &sha256(&bytes)), &bytes).expect("writable");
        (json!(sha256(&bytes)), json!(bytes.len()))
    };
    let (digest, size) = put(&documents.config);
    documents.manifest["config"]["digest"] = digest;
    documents.manifest["config"]["size"] = size;
    let (digest, size) = put(&documents.manifest);
    index["manifests"][0]["digest"] = digest;
    index["manifests"][0]["size"] = size;
    fs::write(dir.join("index.json"), to_json(&index)).expect("writable");
}

fn copy(from: &Path, to: &Path) {
    fs::remove_dir_all(to).ok();
    fs::create_dir_all(to.join("blobs/sha256")).expect("a directory");
    for name in ["index.json", "oci-layout"] {
        fs::copy(from.join(name), to.join(name)).expect("copied");
    }
    for path in blobs(from) {
        let name = path.file_name().expect("a name");
        fs::copy(&path, to.join("blobs/sha256").join(name)).expect("copied");
    }
}

/// Builds with a cache on a new machine, then without it; both have to give the right files, and the store has to be whole.
fn builds_rightly(env: &TestEnv, name: &str, from: &str) -> Outcome {
    let machine = runner(env, name);
    let build = |more: &[&str]| {
        let out = format!("out-{name}");
        fs::remove_dir_all(env.path(&out)).ok();
        let mut args = vec!["-o", &out, "-o", "type=image,name=app"];
        args.extend(more);
        let outcome = machine.build(&args);
        assert_eq!(outcome.code, Some(0), "{name}: {outcome}");
        let text = fs::read_to_string(env.path(&out).join("four")).expect("a file");
        assert_eq!(text, "source\n".repeat(4), "{name}: {outcome}");
        outcome
    };
    let outcome = build(&["--cache-from", from]);
    build(&[]);
    let root = machine.root.to_str().expect("text");
    let verified = env.run(&["--root", root, "cache", "verify"]);
    assert_eq!(verified.code, Some(0), "{name}: {verified}");
    outcome
}

/// What it claims, and how.
type Lie<'a> = (&'a str, &'a dyn Fn(&mut Documents));

#[test]
fn records_that_lie_change_nothing_but_what_is_executed() {
    let Some(env) = prepared(DOCKERFILE) else {
        return;
    };
    let to = "type=local,dest=good,mode=max";
    runner(&env, "one")
        .build(&["--cache-to", to, "-o", "type=cacheonly"])
        .success();
    let honest = builds_rightly(&env, "honest", "type=local,src=good");
    assert_eq!(n_executed(&honest), 0, "{honest}");
    let base = read(&TestEnv::base().join("index.json"));
    let base = read(&path_of(&TestEnv::base(), &base["manifests"][0]))["layers"][0].clone();

    let lies: [Lie<'_>; 9] = [
        ("diffids are those of other layers", &|d| {
            d.diff_ids().rotate_left(1);
        }),
        ("layers are those of others", &|d| d.layers().rotate_left(1)),
        ("sizes are wrong", &|d| {
            for layer in d.layers() {
                layer["size"] = json!(layer["size"].as_u64().expect("a size") + 1);
            }
        }),
        ("sizes are 0", &|d| {
            for layer in d.layers() {
                layer["size"] = json!(0);
            }
        }),
        ("layers are wrapped in another way", &|d| {
            for (n, layer) in d.layers().iter_mut().enumerate() {
                let kind = ["tar", "tar+zstd"][n % 2];
                layer["mediaType"] = json!(format!("application/vnd.oci.image.layer.v1.{kind}"));
            }
        }),
        ("the layer of the base has another size", &|d| {
            let mut layer = base.clone();
            layer["size"] = json!(5);
            d.layers().fill(layer);
        }),
        ("the layer of the base is another one", &|d| {
            d.layers().fill(base.clone());
        }),
        ("contents are equal", &|d| {
            for step in d.steps() {
                step["content"] = json!(sha256(b"the same"));
                step["definition"] = json!(sha256(b"the same"));
            }
        }),
        ("answers are wrong", &|d| {
            let facts = &mut d.config["rbuild.cache.v1"]["facts"];
            for fact in facts.as_array_mut().expect("a list") {
                fact["answer"] = json!("../../etc/passwd");
            }
        }),
    ];
    for (n, (what, lie)) in lies.iter().enumerate() {
        let name = format!("lie-{n}");
        copy(&env.path("good"), &env.path(&name));
        change(&env.path(&name), lie);
        builds_rightly(&env, what, &format!("type=local,src={name}"));
    }
}

/// Each result whose bytes do not come lets the build begin again.
#[test]
fn a_step_that_a_cache_has_many_times_is_tried_once() {
    let Some(env) = prepared(DOCKERFILE) else {
        return;
    };
    let to = "type=local,dest=good,mode=max";
    runner(&env, "one")
        .build(&["--cache-to", to, "-o", "type=cacheonly"])
        .success();
    let layer = |n: usize| {
        json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": sha256(n.to_string().as_bytes()), "size": 1000,
        })
    };
    for is_listed in [false, true] {
        let name = format!("many-{is_listed}");
        copy(&env.path("good"), &env.path(&name));
        change(&env.path(&name), &|d| {
            let steps = d.steps().clone();
            let n_steps = steps.len();
            d.steps().clear();
            for n in 0..50 * n_steps {
                let mut step = steps[n % n_steps].clone();
                let diff_id = json!(sha256(format!("layer {n}").as_bytes()));
                step["diff_id"] = diff_id.clone();
                if is_listed {
                    d.layers().push(layer(n));
                    d.diff_ids().push(diff_id);
                } else {
                    step["blob"] = layer(n);
                }
                d.steps().push(step);
            }
        });
        let machine = format!("machine-{is_listed}");
        let outcome = builds_rightly(&env, &machine, &format!("type=local,src={name}"));
        let lost = |n: usize| {
            let digest = sha256(n.to_string().as_bytes());
            outcome.stderr.contains(&digest.hex()[..12])
        };
        let n_lost = (0..200).filter(|n| lost(*n)).count();
        assert!((1..=8).contains(&n_lost), "{n_lost}: {outcome}");
    }
}

#[test]
fn a_wrong_answer_makes_no_record_for_other_builds() {
    let Some(env) = prepared(DOCKERFILE) else {
        return;
    };
    let export = |root: &str, dir: &str| {
        let to = format!("type=local,dest={dir},mode=max");
        runner(&env, root)
            .build(&["--cache-to", &to, "-o", "type=cacheonly"])
            .success();
    };
    let answers = |dir: &str| {
        let mut found = Value::Null;
        let cell = std::cell::RefCell::new(&mut found);
        change(&env.path(dir), &|d| {
            **cell.borrow_mut() = d.config["rbuild.cache.v1"]["facts"].clone();
        });
        found
    };
    export("one", "one-cache");
    env.file("src", "other\n");
    export("two", "two-cache");
    // The cache says that the first build's files are the second's, and has no result for that.
    let theirs = answers("two-cache");
    assert_eq!(theirs.as_array().map(Vec::len), Some(1), "{theirs}");
    let answer = theirs[0]["answer"].clone();
    assert_ne!(answers("one-cache")[0]["answer"], answer);
    change(&env.path("one-cache"), &|d| {
        d.config["rbuild.cache.v1"]["facts"][0]["answer"] = answer.clone();
    });
    env.file("src", "source\n");
    let victim = runner(&env, "victim");
    let build = |more: &[&str]| {
        fs::remove_dir_all(env.path("out")).ok();
        let mut args = vec!["-o", "out"];
        args.extend(more);
        let outcome = victim.build(&args).success();
        (
            fs::read_to_string(env.path("out/copied")).expect("a file"),
            outcome,
        )
    };
    let (text, outcome) = build(&["--cache-from", "type=local,src=one-cache"]);
    assert_eq!(text, "source\n".repeat(2), "{outcome}");
    env.file("src", "other\n");
    let (text, outcome) = build(&[]);
    assert_eq!(text, "other\n".repeat(2), "{outcome}");
}

#[test]
fn layers_that_do_harm_when_they_are_unpacked_are_not_used() {
    let Some(env) = prepared(
        "FROM base\nCOPY src /four\nRUN cat /four /four /four >/more; cat /more >>/four\n",
    ) else {
        return;
    };
    let to = "type=local,dest=good,mode=max";
    runner(&env, "one")
        .build(&["--cache-to", to, "-o", "type=cacheonly"])
        .success();
    let evil: [(&str, Vec<u8>); 3] = [
        ("no archive", vec![b'x'; 4096]),
        ("a path that leads out", archive("../../../../escaped")),
        (
            "an archive that breaks off",
            archive("four")[..500].to_vec(),
        ),
    ];
    for (n, (what, bytes)) in evil.iter().enumerate() {
        let name = format!("evil-{n}");
        let dir = env.path(&name);
        copy(&env.path("good"), &dir);
        fs::write(blob_path(&dir, &sha256(bytes)), bytes).expect("writable");
        change(&dir, &|d| {
            for layer in d.layers() {
                *layer = json!({
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": sha256(bytes), "size": bytes.len(),
                });
            }
            // An attacker knows how to compute a diffID.
            let same = json!(sha256(bytes));
            for step in d.steps() {
                step["diff_id"] = same.clone();
            }
            d.diff_ids().fill(same);
        });
        let from = format!("type=local,src={name}");
        let outcome =
            runner(&env, &format!("machine-{n}")).build(&["--cache-from", &from, "-o", "out"]);
        assert_eq!(outcome.code, Some(0), "{what}: {outcome}");
        let text = fs::read_to_string(env.path("out/four")).expect("a file");
        assert_eq!(text, "source\n".repeat(4), "{what}: {outcome}");
        assert!(fs::symlink_metadata(env.path("escaped")).is_err(), "{what}");
        fs::remove_dir_all(env.path("out")).expect("removable");
    }
}

/// A tar with one file of this name.
fn archive(name: &str) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..135].copy_from_slice(b"00000000001");
    header[136..147].copy_from_slice(b"00000000000");
    header[148..156].fill(b' ');
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.push(b'x');
    header.resize(512 + 512 + 1024, 0);
    header
}

#[test]
fn a_directory_of_somebody_else_leads_nowhere() {
    use std::os::unix::fs::symlink;
    let env = TestEnv::new();
    env.dockerfile("FROM scratch\nCOPY a /\n").file("a", "a");
    let one = runner(&env, "one");
    let to = "type=local,dest=cache";
    one.build(&["--cache-to", to, "-o", "type=cacheonly"])
        .success();
    // Links in the way of what is written.
    let precious = env.path("precious");
    fs::write(&precious, "precious").expect("writable");
    fs::create_dir_all(env.path("trap/blobs/sha256")).expect("a directory");
    for name in [".lock", "index.new", "oci-layout.new", "oci-layout"] {
        symlink(&precious, env.path("trap").join(name)).expect("a link");
    }
    for path in blobs(&env.path("cache")) {
        let name = format!(
            "{}.new",
            path.file_name().expect("a name").to_string_lossy()
        );
        symlink(&precious, env.path("trap/blobs/sha256").join(name)).expect("a link");
    }
    one.build(&["--cache-to", "type=local,dest=trap", "-o", "type=cacheonly"])
        .success();
    assert_eq!(fs::read_to_string(&precious).expect("readable"), "precious");
    // A pipe that nobody writes into.
    let index = env.path("cache/index.json");
    fs::remove_file(&index).expect("removable");
    let made = std::process::Command::new("mkfifo").arg(&index).status();
    assert!(made.expect("mkfifo starts").success());
    runner(&env, "two")
        .build(&[
            "--cache-from",
            "type=local,src=cache",
            "-o",
            "type=cacheonly",
        ])
        .success()
        .says("is not used: cannot read");
    // What others have put beside the cache stays.
    let other = env.path("trap/blobs/sha256").join("0".repeat(64));
    fs::write(&other, "other").expect("writable");
    env.file("a", "changed");
    one.build(&["--cache-to", "type=local,dest=trap", "-o", "type=cacheonly"])
        .success();
    assert_eq!(fs::read(&other).expect("still there"), b"other");
}
