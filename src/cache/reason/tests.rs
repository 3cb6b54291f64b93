//! What is told of a step that the cache does not know, against records made for the purpose.

use std::path::Path;

use super::*;
use crate::{
    cache::{BaseState, FileEntry, FileList, Files, KeyBuilder, Lineage, Place},
    explain::{FileChanges, FilePart, ModifiedFile},
    oci::{DiffId, Digest, sha256},
};

struct Setup {
    _dir: tempfile::TempDir,
    store: Store,
    lineage: Lineage,
    files: Vec<FileList>,
}

/// A step as it looks, whose text is also its `argv`.
struct Look<'a> {
    text: &'a str,
    nth: usize,
    number: usize,
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("root")).unwrap();
        Self {
            _dir: dir,
            store,
            lineage: Lineage::of(base("alpine", b"one")),
            files: Vec::new(),
        }
    }

    fn key(&self, text: &str, env: &str) -> Key {
        let mut parent = self.lineage.base.name.clone().into_bytes();
        if let Some(digest) = &self.lineage.base.digest {
            parent.extend(digest.as_bytes());
        }
        for (_, layer) in &self.lineage.steps {
            parent.extend(layer.0.as_bytes());
        }
        let mut key = KeyBuilder::new("run")
            .input("parent", &sha256(&parent))
            .text("argv", text)
            .text("env A", env)
            .hidden("env TOKEN", env)
            .text("user", env)
            .note(ARGS, r#"["A"]"#);
        for list in &self.files {
            let all = format!("{:?}", list.files);
            key = key.input(&list.input, &sha256(all.as_bytes()));
        }
        key.finish()
    }

    fn sight<'a>(&'a self, look: &Look<'a>) -> Sight<'a> {
        Sight {
            place: Place::new(&["stage"], look.text, look.nth, look.number),
            text: look.text,
            lineage: &self.lineage,
            files: &self.files,
        }
    }

    fn remember(&self, look: &Look<'_>, env: &str) {
        let key = self.key(look.text, env);
        key.remember(&self.store, &self.sight(look)).unwrap();
    }

    fn reason(&self, look: &Look<'_>, env: &str) -> MissReason {
        let key = self.key(look.text, env);
        key.reason(&self.store, &self.sight(look), Miss::Absent)
            .unwrap()
    }
}

fn base(name: &str, content: &[u8]) -> BaseState {
    BaseState {
        name: name.into(),
        digest: Some(sha256(content)),
    }
}

fn layer(content: &[u8]) -> DiffId {
    DiffId(sha256(content))
}

fn file<'a>(path: &'a str, text: &str) -> FileEntry<'a> {
    let digest: Digest = sha256(text.as_bytes());
    FileEntry {
        path: Path::new(path),
        mode: 0o644,
        digest,
        bytes: Some(digest),
    }
}

const MAKE: Look<'_> = Look {
    text: "RUN make",
    nth: 0,
    number: 2,
};

fn changed(causes: Vec<Cause>) -> MissReason {
    MissReason::Changed { causes }
}

#[test]
fn nothing_is_known_of_a_first_step() {
    let setup = Setup::new();
    assert_eq!(setup.reason(&MAKE, "1"), MissReason::First);
    setup.remember(&MAKE, "1");
    assert_eq!(
        setup.reason(&MAKE, "1"),
        MissReason::Evicted { blob: None },
        "the same inputs without a record"
    );
}

#[test]
fn variables_and_settings_are_named_and_secrets_are_not_shown() {
    let setup = Setup::new();
    setup.remember(&MAKE, "1");
    let hidden = |text: &str| Some(format!("hidden, {}", sha256(text.as_bytes()).short()));
    let variable = |name: &str, origin, before, after| Cause::Variable {
        name: name.into(),
        origin,
        before,
        after,
    };
    let is = |text: &str| Some(text.to_owned());
    assert_eq!(
        setup.reason(&MAKE, "2"),
        changed(vec![
            variable("A", VariableOrigin::Arg, is("1"), is("2")),
            variable("TOKEN", VariableOrigin::Env, hidden("1"), hidden("2")),
            setting("user", is("1"), is("2")),
        ])
    );
}

#[test]
fn a_step_put_in_between_moves_no_other() {
    let setup = Setup::new();
    setup.remember(&MAKE, "1");
    let text = "RUN make check";
    let new = Look {
        text,
        nth: 0,
        number: 2,
    };
    let instruction = Cause::Instruction {
        before: "RUN make".into(),
        after: text.into(),
    };
    assert_eq!(setup.reason(&new, "1"), changed(vec![instruction]));
    setup.remember(&new, "1");
    let moved = Look { number: 3, ..MAKE };
    assert_eq!(
        setup.reason(&moved, "1"),
        MissReason::Evicted { blob: None }
    );
}

#[test]
fn what_is_below_is_told_by_its_first_difference() {
    let mut setup = Setup::new();
    setup.lineage.push("[1/3] COPY a", layer(b"a"));
    setup.lineage.push("[2/3] RUN b", layer(b"b"));
    setup.remember(&MAKE, "1");
    let with = |base: BaseState, layers: &[(&str, &[u8])]| {
        let mut lineage = Lineage::of(base);
        for (label, content) in layers {
            lineage.push(label, layer(content));
        }
        lineage
    };
    let earlier = |step: Option<&str>| Cause::EarlierStep {
        step: step.map(ToOwned::to_owned),
    };
    let same = || base("alpine", b"one");
    for (lineage, cause) in [
        (
            with(same(), &[("COPY a", b"a2"), ("RUN b", b"b2")]),
            earlier(Some("COPY a")),
        ),
        (
            with(same(), &[("COPY a", b"a"), ("RUN b", b"b2")]),
            earlier(Some("RUN b")),
        ),
        (
            with(same(), &[("COPY a", b"a2"), ("RUN b", b"b")]),
            earlier(Some("COPY a")),
        ),
        (with(same(), &[("COPY a", b"a")]), earlier(None)),
        (
            with(base("alpine", b"two"), &[("COPY a", b"a")]),
            Cause::BaseMoved {
                image: "alpine".into(),
                before: sha256(b"one"),
                after: sha256(b"two"),
            },
        ),
        (
            with(base("debian", b"two"), &[]),
            Cause::BaseReplaced {
                before: format!("alpine@{}", sha256(b"one")),
                after: format!("debian@{}", sha256(b"two")),
            },
        ),
    ] {
        setup.lineage = lineage;
        assert_eq!(setup.reason(&MAKE, "1"), changed(vec![cause]));
    }
}

#[test]
fn the_last_result_is_that_of_the_step_that_stood_there() {
    use crate::{
        cache::StepRecord,
        oci::{Descriptor, MediaType},
        store::LayerRecord,
    };
    let setup = Setup::new();
    let store = &setup.store;
    let place = |look: &Look<'_>| setup.sight(look).place;
    assert_eq!(place(&MAKE).last_result(store).unwrap(), None);
    store.put_bytes(b"layer").unwrap();
    let record = StepRecord {
        diff_id: layer(b"tar"),
        descriptor: Descriptor::of(MediaType::OCI_LAYER, b"layer"),
        created: "2026-01-01T00:00:00Z".to_owned(),
        content: None,
        began: None,
        label: String::new(),
    };
    let known = LayerRecord {
        diff_id: record.diff_id,
        descriptor: record.descriptor.clone(),
        toc: Vec::new(),
    };
    store.put_layer(&known).unwrap();
    setup.key(MAKE.text, "1").record(store, &record).unwrap();
    setup.remember(&MAKE, "1");
    let other = |number| Look {
        text: "RUN other",
        nth: 0,
        number,
    };
    for look in [MAKE, other(2)] {
        assert_eq!(
            place(&look).last_result(store).unwrap(),
            Some(record.clone())
        );
    }
    assert_eq!(place(&other(3)).last_result(store).unwrap(), None);
    std::fs::remove_file(store.blob_path(&record.descriptor.digest)).unwrap();
    assert_eq!(
        place(&MAKE).last_result(store).unwrap(),
        None,
        "its blob is gone"
    );
}

#[test]
fn files_that_changed_are_named_if_their_list_was_kept() {
    let mut setup = Setup::new();
    let list = |entries: &[FileEntry<'_>]| {
        let mut files = Files::default();
        for entry in entries {
            files.push(entry);
        }
        FileList {
            input: "mount 1 content".into(),
            from: "build context".into(),
            files,
        }
    };
    setup.files = vec![list(&[file("a", "1"), file("b", "1")])];
    setup.remember(&MAKE, "1");
    setup.files = vec![list(&[file("a", "2"), file("c", "1")])];
    let cause = |changes| Cause::Files {
        from: "build context".into(),
        changes,
    };
    let changes = FileChanges {
        added: vec!["c".into()],
        removed: vec!["b".into()],
        modified: vec![ModifiedFile {
            path: "a".into(),
            what: vec![FilePart::Bytes],
            mode: None,
        }],
        omitted: 0,
    };
    assert_eq!(
        setup.reason(&MAKE, "1"),
        changed(vec![cause(Some(changes))])
    );
    std::fs::remove_dir_all(setup.store.root().join("steps/files")).unwrap();
    assert_eq!(setup.reason(&MAKE, "1"), changed(vec![cause(None)]));
}
