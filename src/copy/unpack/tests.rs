//! What archives make of a destination.

use std::io::Write as _;

use super::*;
use crate::{
    copy::{CopyRequest, changes, memory::MemoryTree},
    layer::Change,
    plan::{Chmod, CopyOp, CopySource, CopyVerb},
};

const NOW: i64 = 5000;

fn add() -> CopyOp {
    CopyOp::of_paths(CopyVerb::Add, &["x.tar"], "/out")
}

/// One file in a directory.
#[derive(Clone)]
struct OneFile(Vec<u8>);

impl Tree for OneFile {
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        let metadata = match path.to_str() {
            Some("x.tar") => Metadata::file(self.0.len() as u64, Timestamp::from_seconds(7)),
            Some("") => Metadata::dir(Timestamp::default()),
            _ => return Ok(None),
        };
        Ok(Some(Node {
            metadata,
            inode: None,
        }))
    }

    fn names(&self, _: &Path) -> Result<Vec<std::ffi::OsString>, TreeError> {
        Ok(vec!["x.tar".into()])
    }

    fn open(&self, _: &Path) -> Result<Box<dyn io::Read + Send>, TreeError> {
        Ok(Box::new(io::Cursor::new(self.0.clone())))
    }

    fn digest(&self, _: &Path) -> Result<crate::oci::Digest, TreeError> {
        Ok(crate::oci::sha256(&self.0))
    }
}

fn run_changes(
    op: &CopyOp,
    archive: Vec<u8>,
    parent: &MemoryTree,
) -> Result<Vec<Change>, CopyError> {
    let scratch = tempfile::tempdir().unwrap();
    let below: Arc<dyn Tree> = Arc::new(parent.clone());
    let tree: Arc<dyn Tree> = Arc::new(OneFile(archive));
    let copied = changes(&CopyRequest {
        op,
        trees: &[tree],
        parent: &below,
        now: Timestamp::from_seconds(NOW),
        scratch: scratch.path(),
    })?;
    assert_eq!(
        std::fs::read_dir(scratch.path()).unwrap().count(),
        0,
        "copies of archives have no names"
    );
    Ok(copied.changes.into_vec())
}

fn run(op: &CopyOp, archive: Vec<u8>, parent: &str) -> Result<MemoryTree, CopyError> {
    let parent = MemoryTree::parse(parent);
    let changes = run_changes(op, archive, &parent)?;
    Ok(parent.with(&changes))
}

/// Whether what came out is a directory: an archive that was unpacked.
fn is_dir(result: &MemoryTree) -> bool {
    let node = result.node(Path::new("out")).unwrap();
    node.unwrap().metadata.is_dir()
}

fn check(op: &CopyOp, archive: Vec<u8>, parent: &str, expected: &str) {
    let result = run(op, archive, parent).unwrap();
    assert_eq!(result.text(), MemoryTree::parse(expected).text());
}

/// One entry: `KIND NAME MODE UID GID [REST]`, as in [`MemoryTree`], names taken literally.
fn tar(lines: &[&str]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for line in lines {
        let mut words = line.splitn(6, ' ');
        let kind = words.next().unwrap();
        let name = words.next().unwrap();
        let mode = u32::from_str_radix(words.next().unwrap(), 8).unwrap();
        let mut number = || words.next().unwrap().parse().unwrap();
        let (uid, gid): (u64, u64) = (number(), number());
        let rest = words.next().unwrap_or("");
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_mtime(300);
        header.set_size(0);
        let mut content = "";
        let entry_type = match kind {
            "dir" => tar::EntryType::Directory,
            "file" => {
                content = rest;
                header.set_size(rest.len() as u64);
                tar::EntryType::Regular
            }
            "symlink" => tar::EntryType::Symlink,
            "hardlink" => tar::EntryType::Link,
            "fifo" => tar::EntryType::Fifo,
            "char" => {
                header.set_device_major(1).unwrap();
                header.set_device_minor(3).unwrap();
                tar::EntryType::Char
            }
            other => panic!("{other}"),
        };
        header.set_entry_type(entry_type);
        if kind.ends_with("link") {
            header.as_old_mut().linkname[..rest.len()].copy_from_slice(rest.as_bytes());
        }
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn archives_are_unpacked_with_all_they_say() {
    let archive = tar(&[
        "dir d/ 1777 5 6",
        "file d/f 4755 0 0 f",
        "symlink d/l 0777 0 0 f",
        "symlink d/abs 0777 0 0 /etc/passwd",
        "hardlink d/h 0644 0 0 d/f",
        "fifo d/p 0600 0 0",
        "char null 0666 0 0",
        "file no/parent/entry 0644 3 4 x",
        "file ./x 0640 0 0 first",
        "file x 0600 0 0 second",
    ]);
    let expected = "dir out/d 1777 5 6\nfile out/d/f 0644 0 0 f\nsymlink out/d/l 0777 0 0 f\n\
                    symlink out/d/abs 0777 0 0 /etc/passwd\nhardlink out/d/h out/d/f\nfifo out/d/p 0600 0 0\n\
                    char out/null 0666 0 0 1,3\ndir out/no 0755 0 0\ndir out/no/parent 0755 0 0\n\
                    file out/no/parent/entry 0644 3 4 x\nfile out/x 0600 0 0 second";
    check(&add(), archive.clone(), "", expected);
    let result = run(&add(), archive.clone(), "").unwrap();
    let mtimes = ["out", "out/d", "out/d/f", "out/no"].map(|path| result.mtime(path));
    assert_eq!(mtimes, [NOW, 300, 300, NOW]);
    check(&add(), gzip(&archive), "", expected);
}

#[test]
fn what_is_no_archive_is_copied() {
    for bytes in [
        b"not a tar".to_vec(),
        Vec::new(),
        gzip(b"no tar"),
        vec![0; 2048],
    ] {
        let result = run(&add(), bytes, "").unwrap();
        assert!(result.node(Path::new("out")).unwrap().is_some());
        assert!(!is_dir(&result));
    }
    let mut packed = add();
    packed.unpack = Some(false);
    let result = run(&packed, tar(&["file f 0644 0 0 f"]), "").unwrap();
    assert!(!is_dir(&result));
    packed.unpack = None;
    packed.verb = CopyVerb::Copy;
    let result = run(&packed, tar(&["file f 0644 0 0 f"]), "").unwrap();
    assert!(!is_dir(&result));
}

#[test]
fn a_downloaded_archive_is_unpacked_only_when_asked() {
    let archive = tar(&["file f 0644 0 0 f"]);
    let mut op = add();
    op.sources = vec![CopySource::Url("http://h/x.tar".to_owned())];
    let result = run(&op, archive.clone(), "").unwrap();
    assert!(!is_dir(&result));
    op.unpack = Some(true);
    check(&op, archive, "", "file out/f 0644 0 0 f");
}

#[test]
fn chown_goes_for_entries_and_chmod_for_nothing() {
    let mut op = add();
    op.chown = Some("9:8".to_owned());
    op.chmod = Some(Chmod::parse("700").unwrap());
    check(
        &op,
        tar(&["file a/f 0644 1 1 f", "symlink l 0777 1 1 f"]),
        "",
        "dir out 0755 9 8\ndir out/a 0755 0 0\nfile out/a/f 0644 9 8 f\nsymlink out/l 0777 9 8 f",
    );
}

#[test]
fn entries_replace_what_is_there_and_directories_merge() {
    let archive = tar(&[
        "dir ./ 0700 7 7",
        "dir bin/ 0700 0 0",
        "file etc/passwd 0644 0 0 new",
        "symlink tmp 0777 0 0 /var/tmp",
        "dir was-file/ 0711 0 0",
        "file was-dir 0644 0 0 f",
    ]);
    let parent = "dir out 0750 1 1\ndir out/bin 0755 2 2\nfile out/bin/sh 0755 0 0 sh\ndir out/etc 0710 3 3\n\
                  file out/etc/passwd 0600 0 0 old\ndir out/tmp 1777 0 0\nfile out/tmp/x 0644 0 0 x\n\
                  file out/was-file 0644 0 0 f\nfile out/was-dir/x 0644 0 0 x";
    check(
        &add(),
        archive,
        parent,
        "dir out 0750 1 1\ndir out/bin 0700 0 0\nfile out/bin/sh 0755 0 0 sh\ndir out/etc 0710 3 3\n\
         file out/etc/passwd 0644 0 0 new\nsymlink out/tmp 0777 0 0 /var/tmp\ndir out/was-file 0711 0 0\n\
         file out/was-dir 0644 0 0 f",
    );
}

#[test]
fn what_was_linked_stays_when_another_entry_takes_the_name() {
    check(
        &add(),
        tar(&[
            "file a 0644 0 0 one",
            "hardlink b 0644 0 0 a",
            "file a 0644 0 0 two",
            "file c 0644 0 0 three",
            "hardlink d/e 0644 0 0 c",
            "dir c/ 0755 0 0",
            "file f/g 0600 0 0 gone",
            "file f 0600 0 0 f",
        ]),
        "dir out 0755 0 0",
        "dir out 0755 0 0\nfile out/a 0644 0 0 two\nfile out/b 0644 0 0 one\ndir out/c 0755 0 0\n\
         file out/d/e 0644 0 0 three\nfile out/f 0600 0 0 f",
    );
}

#[test]
fn links_lead_nowhere_outside_the_destination() {
    let archive = tar(&[
        "dir etc/ 0755 0 0",
        "file abs/f 0644 0 0 a",
        "file up/g 0644 0 0 b",
        "symlink own 0644 0 0 /etc",
        "file own/h 0644 0 0 c",
    ]);
    let links =
        "dir etc 0700 0 0\nsymlink out/abs 0777 0 0 /etc\nsymlink out/up 0777 0 0 ../../etc\n";
    check(
        &add(),
        archive,
        links,
        &format!(
            "{links}symlink out/own 0777 0 0 /etc\ndir out/etc 0755 0 0\nfile out/etc/f 0644 0 0 a\n\
             file out/etc/g 0644 0 0 b\nfile out/etc/h 0644 0 0 c"
        ),
    );
    let mut op = add();
    op.dest = "/lnk/sub".to_owned();
    check(
        &op,
        tar(&["file f 0644 0 0 f"]),
        "dir real 0755 0 0\nsymlink lnk 0777 0 0 /real",
        "dir real 0755 0 0\nsymlink lnk 0777 0 0 /real\nfile real/sub/f 0644 0 0 f",
    );
}

#[test]
fn a_directory_replaced_by_a_directory_shows_nothing_of_the_old() {
    let archive = tar(&[
        "file d 0644 0 0 f",
        "dir d/ 0755 0 0",
        "file d/new 0644 0 0 n",
    ]);
    let parent = MemoryTree::parse("file out/d/old 0644 0 0 o\nfile out/d/new 0644 0 0 o");
    let changes = run_changes(&add(), archive, &parent).unwrap();
    assert!(
        changes.iter().any(
            |change| matches!(change, Change::Remove { path } if path == Path::new("out/d/old"))
        )
    );
    assert_eq!(
        parent.with(&changes).text(),
        MemoryTree::parse("file out/d/new 0644 0 0 n").text()
    );
}

#[test]
fn odd_names_are_taken_as_docker_takes_them() {
    check(
        &add(),
        tar(&[
            "file  0644 0 0 ",
            "file ../../up 0644 0 0 u",
            "file /abs 0644 0 0 a",
            "hardlink h 0644 0 0 ../abs",
        ]),
        "",
        "file out/up 0644 0 0 u\nfile out/abs 0644 0 0 a\nhardlink out/h out/abs",
    );
}

#[test]
fn impossible_archives_are_refused() {
    let error = |lines: &[&str]| {
        let error = run(&add(), tar(lines), "file out/f 0644 0 0 f").unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", source.unwrap_or_default())
    };
    assert!(error(&["file a 0644 0 0 a", "hardlink h 0644 0 0 gone"]).contains("gone"));
    assert!(error(&["file f/below 0644 0 0 a"]).contains("mkdir /out/f"));
    let lost = "is below a symbolic link to what is not in the destination";
    assert!(error(&["symlink l 0777 0 0 /etc", "file l/f 0644 0 0 a"]).contains(lost));
    assert!(error(&["symlink l 0777 0 0 gone", "dir l/d/e 0755 0 0"]).contains(lost));
    let mut cut = tar(&["file a 0644 0 0 aaaaaaaaaa"]);
    cut.truncate(515);
    assert!(run(&add(), cut, "").is_err());
}
