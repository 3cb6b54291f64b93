mod earlier;

use std::{
    collections::BTreeMap,
    io::{Cursor, Read as _, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
};

use proptest::prelude::*;

use super::*;
use crate::{
    layer::Content,
    oci::sha256,
    tree::{Metadata, Timestamp},
};

fn put(path: &str, kind: Kind, bytes: &[u8]) -> Change {
    Change::Put {
        path: path.into(),
        metadata: Metadata {
            kind,
            mode: 0o640,
            uid: 7,
            gid: 8,
            mtime: Timestamp {
                seconds: 1_700_000_000,
                nanos: 999,
            },
            xattrs: BTreeMap::new(),
        },
        content: Content::bytes(bytes.to_vec()),
    }
}

fn file(path: &str, bytes: &[u8]) -> Change {
    let size = bytes.len() as u64;
    put(path, Kind::File { size }, bytes)
}

fn dir(path: &str) -> Change {
    Change::dir(path, Metadata::dir(Timestamp::from_seconds(1)))
}

fn link(path: &str, target: &str) -> Change {
    Change::Link {
        path: path.into(),
        target: target.into(),
    }
}

fn written(changes: Vec<Change>, compression: Compression, threads: usize) -> (Vec<u8>, Written) {
    let mut blob = Vec::new();
    let options = WriteOptions {
        compression,
        threads: NonZeroUsize::new(threads),
        ..WriteOptions::default()
    };
    let written = write_layer(changes, &mut blob, &options).unwrap();
    assert_eq!(written.descriptor.digest, sha256(&blob));
    assert_eq!(written.descriptor.size, blob.len() as u64);
    (blob, written)
}

fn plain(changes: Vec<Change>) -> Vec<u8> {
    let (tar, written) = written(changes, Compression::Uncompressed, 1);
    assert_eq!(written.diff_id.0, sha256(&tar));
    assert_eq!(written.toc.head().tar_size, tar.len() as u64);
    tar
}

/// A bit of everything that a layer can hold.
fn everything() -> Vec<Change> {
    let mut capable = put("usr/bin/ping", Kind::File { size: 2 }, b"hi");
    if let Change::Put { metadata, .. } = &mut capable {
        metadata.mode = 0o4755;
        metadata.xattrs.insert(
            "security.capability".into(),
            b"\x01\0\0\x02\0 =\n\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
        );
        metadata.xattrs.insert("user.note".into(), b"gone".to_vec());
    }
    vec![
        dir("usr"),
        dir("usr/bin"),
        capable,
        link("usr/bin/ping6", "usr/bin/ping"),
        link("usr/bin/arping", "usr/bin/ping"),
        put(
            "lib",
            Kind::Symlink {
                target: "usr/lib".into(),
            },
            b"",
        ),
        put("null", Kind::Char { major: 1, minor: 3 }, b""),
        put("disk", Kind::Block { major: 8, minor: 1 }, b""),
        put("pipe", Kind::Fifo, b""),
        put("socket", Kind::Socket, b""),
        file(&format!("{}/{}", "d".repeat(90), "f".repeat(60)), b"long"),
        file("grün", b"not ASCII"),
        Change::Remove {
            path: "usr/old".into(),
        },
        dir("opaque"),
        Change::Opaque {
            path: "opaque".into(),
        },
    ]
}

#[test]
fn no_changes_make_1024_zero_bytes() {
    assert_eq!(plain(Vec::new()), vec![0; 1024]);
}

#[test]
fn pinned_digests() {
    // Changing these changes the digests of users' images and empties their caches; say so in CHANGELOG.
    let (_, gzip) = written(everything(), Compression::Gzip { level: 4 }, 2);
    assert_eq!(gzip.diff_id.0.short(), "37580f3dd627");
    assert_eq!(gzip.descriptor.digest.short(), "6590c95435a0");
    let (_, zstd) = written(everything(), Compression::Zstd { level: 3 }, 2);
    assert_eq!(zstd.diff_id, gzip.diff_id);
    assert_eq!(zstd.descriptor.digest.short(), "67991c37ef5b");
    let (_, fastest) = written(mixed_files(50), Compression::Gzip { level: 1 }, 2);
    assert_eq!(fastest.descriptor.digest.short(), "5a6884cfd978");
}

/// Files of many sizes, some of them incompressible, some larger than a member.
fn mixed_files(count: usize) -> Vec<Change> {
    let mut state = 1_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count)
        .map(|i| {
            let size = match i % 40 {
                0 => 3_000_000,
                1 => 1 << 20,
                2 => (1 << 20) - 1,
                n => usize::try_from(random() % 4000).unwrap() * n,
            };
            let bytes: Vec<u8> = if i % 3 == 0 {
                (0..size).map(|_| random().to_le_bytes()[0]).collect()
            } else {
                format!("line {i} of a text\n")
                    .into_bytes()
                    .repeat(size / 16 + 1)[..size]
                    .to_vec()
            };
            file(&format!("d{}/f{i}", i % 7), &bytes)
        })
        .collect()
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    for compression in [Compression::default(), Compression::Zstd { level: 3 }] {
        let (one, toc) = written(mixed_files(160), compression, 1);
        assert!(toc.toc.head().members.len() > 20);
        for threads in [2, 8] {
            assert!(written(mixed_files(160), compression, threads).0 == one);
        }
    }
}

#[test]
fn text_is_compressed_and_noise_is_not() {
    let text = b"a line of a text\n".repeat(50_000);
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        state.to_be_bytes()[0]
    })
    .take(text.len())
    .collect();
    for level in [1, 2, 6] {
        let packed = |bytes| {
            written(vec![file("f", bytes)], Compression::Gzip { level }, 1)
                .0
                .len()
        };
        assert!(packed(&text) < text.len() / 50, "level {level}");
        assert!(packed(&noise) < noise.len() + 2_000, "level {level}");
    }
}

/// A blob on disk, and writing again with it at hand.
struct Before {
    blob: Vec<u8>,
    written: Written,
    file: tempfile::NamedTempFile,
}

impl Before {
    fn new(changes: Vec<Change>, compression: Compression) -> Self {
        let (blob, written) = written(changes, compression, 2);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, &blob).unwrap();
        Self {
            blob,
            written,
            file,
        }
    }

    fn again_with(
        &self,
        changes: Vec<Change>,
        toc: Toc,
        compression: Compression,
        threads: usize,
    ) -> (Vec<u8>, Written) {
        let options = WriteOptions {
            compression,
            threads: NonZeroUsize::new(threads),
            ..WriteOptions::default()
        };
        let earlier = LayerBlob::new(Arc::new(toc), self.file.path().to_owned(), None);
        let mut blob = Vec::new();
        let written = write_layer_after(changes, &mut blob, &options, &earlier).unwrap();
        assert_eq!(written.descriptor.digest, sha256(&blob));
        (blob, written)
    }

    fn again(&self, changes: Vec<Change>) -> (Vec<u8>, Written) {
        // The entries are of no use for this.
        let toc = Toc::head_of(&self.written.toc.clone().into_bytes()).unwrap();
        self.again_with(changes, toc, Compression::default(), 2)
    }
}

#[test]
fn whiteouts_are_empty_files_after_their_directory() {
    let tar = plain(vec![
        dir("a"),
        Change::Remove {
            path: "a/gone".into(),
        },
        file("a/aaa", b""),
    ]);
    let mut archive = ::tar::Archive::new(&*tar);
    let entries: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            let path = entry.path().unwrap().into_owned();
            (path, header.mode().unwrap(), header.mtime().unwrap())
        })
        .collect();
    let expected = [
        (PathBuf::from("a/"), 0o755, 1),
        ("a/aaa".into(), 0o640, 1_700_000_000),
        ("a/.wh.gone".into(), 0, 0),
    ];
    assert_eq!(entries, expected);
}

#[test]
fn timestamps_are_clamped_and_never_raised() {
    let options = WriteOptions {
        rewrite_timestamp: Some(100),
        compression: Compression::Uncompressed,
        ..WriteOptions::default()
    };
    let mut tar = Vec::new();
    write_layer(vec![dir("a"), file("b", b"")], &mut tar, &options).unwrap();
    let mut archive = ::tar::Archive::new(&*tar);
    let times: Vec<u64> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().header().mtime().unwrap())
        .collect();
    assert_eq!(times, [1, 100]);
}

#[test]
fn a_file_of_another_size_is_an_error() {
    let refuse = |size, bytes: &[u8]| {
        let changes = vec![put("a", Kind::File { size }, bytes)];
        write_layer(changes, std::io::sink(), &WriteOptions::default())
            .unwrap_err()
            .to_string()
    };
    let message = refuse(5, b"four");
    assert_eq!(
        message,
        "`a` changed while it was read: 5 bytes expected, 4 found"
    );
    let message = refuse(3, b"four");
    assert_eq!(
        message,
        "`a` changed while it was read: 3 bytes expected, more found"
    );
}

#[test]
fn a_full_disk_stops_the_writer() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let error = write_layer(mixed_files(160), Full(5 << 20), &WriteOptions::default()).unwrap_err();
    assert!(
        matches!(error, LayerError::Sink { source } if source.kind() == std::io::ErrorKind::StorageFull)
    );
}

#[test]
fn levels_are_checked() {
    for compression in [
        Compression::Gzip { level: 13 },
        Compression::Zstd { level: 0 },
    ] {
        let options = WriteOptions {
            compression,
            ..WriteOptions::default()
        };
        let error = write_layer(Vec::new(), std::io::sink(), &options).unwrap_err();
        assert!(matches!(error, LayerError::Level { .. }));
    }
}

#[expect(clippy::print_stderr, reason = "a test that does not run says why")]
fn skipped(reason: &str) {
    eprintln!("skipped: {reason}");
}

/// Runs a program on bytes; `None`, with the reason printed, where it is missing.
fn filter(program: &str, args: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            skipped(&format!("cannot run {program}: {error}"));
            return None;
        }
    };
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert!(output.status.success(), "{program} refuses it");
    Some(output.stdout)
}

#[test]
fn other_programs_decompress_it() {
    let tar = plain(mixed_files(80));
    for (compression, program) in [
        (Compression::Gzip { level: 4 }, "gzip"),
        (Compression::Gzip { level: 0 }, "gzip"),
        (Compression::Zstd { level: 3 }, "zstd"),
    ] {
        let (blob, _) = written(mixed_files(80), compression, 2);
        let Some(output) = filter(program, &["-dc"], &blob) else {
            continue;
        };
        assert!(output == tar, "{program} gives another archive");
    }
}

#[test]
fn gnu_tar_lists_every_kind() {
    let Some(output) = filter(
        "tar",
        &["-tvf", "-", "--numeric-owner"],
        &plain(everything()),
    ) else {
        return;
    };
    let listing = String::from_utf8(output).unwrap();
    let expected = [
        "brw-r----- 7/8             8,1 2023-11-14 22:13 disk",
        "-rw-r----- 7/8               9 2023-11-14 22:13 gr\\303\\274n",
        "lrw-r----- 7/8               0 2023-11-14 22:13 lib -> usr/lib",
        "crw-r----- 7/8             1,3 2023-11-14 22:13 null",
        "drwxr-xr-x 0/0               0 1970-01-01 00:00 opaque/",
        "---------- 0/0               0 1970-01-01 00:00 opaque/.wh..wh..opq",
        "prw-r----- 7/8               0 2023-11-14 22:13 pipe",
        "-rwsr-xr-x 7/8               2 2023-11-14 22:13 usr/bin/arping",
        "hrwsr-xr-x 7/8               0 2023-11-14 22:13 usr/bin/ping link to usr/bin/arping",
        "---------- 0/0               0 1970-01-01 00:00 usr/.wh.old",
    ];
    for line in expected {
        assert!(listing.contains(line), "no `{line}` in:\n{listing}");
    }
    assert!(!listing.contains("socket"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Names of every length round the borders of the header's fields come back from an independent reader.
    #[test]
    fn the_tar_crate_reads_what_was_put(
        lengths in prop::collection::btree_set(
            prop::collection::vec(prop_oneof![1usize..6, 48..52usize, 95..105usize, 150..160usize, 250..=255usize], 1..4), 1..12),
        target in prop_oneof![1usize..5, 95..105usize, 300..310usize],
        seconds in prop_oneof![0i64..10, Just((1 << 33) - 1), Just(1 << 33)],
        uid in prop_oneof![0u32..2, Just((1 << 21) - 1), Just(1 << 21), Just(u32::MAX)],
    ) {
        let mut expected = BTreeMap::new();
        let mut changes = Vec::new();
        for (i, parts) in lengths.iter().enumerate() {
            let path: PathBuf = parts.iter().map(|&n| "n".repeat(n)).collect();
            let path = path.join(format!("{i}"));
            let bytes = vec![b'x'; i * 200];
            let kind = if i % 3 == 2 {
                Kind::Symlink { target: "t".repeat(target).into() }
            } else {
                Kind::File { size: bytes.len() as u64 }
            };
            let metadata = Metadata {
                kind: kind.clone(), mode: 0o1755, uid, gid: uid,
                mtime: Timestamp::from_seconds(seconds), xattrs: BTreeMap::new(),
            };
            let content = if i % 3 == 2 { Content::Empty } else { Content::bytes(bytes.clone()) };
            changes.push(Change::Put { path: path.clone(), metadata, content });
            expected.insert(path, (kind, bytes));
        }
        let tar = plain(changes);
        let mut archive = ::tar::Archive::new(Cursor::new(&tar));
        let mut found = 0;
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().into_owned();
            let (kind, bytes) = &expected[&path];
            if let Kind::Symlink { target } = kind {
                prop_assert_eq!(&*entry.link_name().unwrap().unwrap(), &**target);
            } else {
                let mut read = Vec::new();
                entry.read_to_end(&mut read).unwrap();
                prop_assert_eq!(&read, bytes);
            }
            prop_assert_eq!(entry.header().mode().unwrap(), 0o1755);
            if uid < 1 << 21 {
                prop_assert_eq!(entry.header().uid().unwrap(), u64::from(uid));
            }
            found += 1;
        }
        prop_assert_eq!(found, expected.len());
    }
}
