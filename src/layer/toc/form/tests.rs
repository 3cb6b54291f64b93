//! The bytes of tables.

use super::{
    super::{Checkpoint, Extent, FileContent, Made},
    *,
};
use crate::{
    oci::{DiffId, Digester},
    tree::{Metadata, Timestamp},
};

fn sample() -> Toc {
    let node = |kind, content| TocItem::Node {
        metadata: Metadata {
            kind,
            mode: 0o4755,
            uid: u32::MAX,
            gid: 3,
            mtime: Timestamp {
                seconds: -5,
                nanos: 999_999_999,
            },
            xattrs: [("user.a\n".into(), vec![0, 255])].into(),
        },
        content,
    };
    let content = FileContent {
        digest: Some(sha256(b"")),
        offset: 1 << 40,
        sparse: Some(vec![Extent {
            offset: 4096,
            length: 5,
        }]),
    };
    let unhashed = FileContent {
        digest: None,
        ..content.clone()
    };
    let entry = |path: &str, item| TocEntry {
        path: path.into(),
        item,
    };
    Toc {
        diff_id: DiffId(sha256(b"tar")),
        tar_size: u64::MAX,
        blob_size: 7,
        encoding: Encoding::Zstd,
        recipe: Some(Compression::Zstd { level: 7 }),
        members: vec![
            Member {
                tar_offset: 0,
                blob_offset: 0,
                made: None,
            },
            Member {
                tar_offset: 1 << 20,
                blob_offset: 300,
                made: Some(Made {
                    composition: sha256(b"parts"),
                    checksum: 7,
                }),
            },
        ],
        checkpoints: vec![Checkpoint {
            member: 1,
            tar: Digester::new().state(),
            blob: Digester::new().state(),
        }],
        entries: vec![
            entry("", node(Kind::Dir, None)),
            entry("usr/a", node(Kind::File { size: 9 }, Some(content))),
            entry("usr/aa", node(Kind::File { size: 9 }, Some(unhashed))),
            entry(
                "usr/ab",
                TocItem::Link {
                    target: "usr/a".into(),
                },
            ),
            entry(
                "usr",
                node(
                    Kind::Symlink {
                        target: "/x".into(),
                    },
                    None,
                ),
            ),
            entry("tty", node(Kind::Char { major: 4, minor: 1 }, None)),
            entry(
                "sda",
                node(
                    Kind::Block {
                        major: 8,
                        minor: 300,
                    },
                    None,
                ),
            ),
            entry("fifo", node(Kind::Fifo, None)),
            entry("gone", TocItem::Remove),
            entry("dir", TocItem::Opaque),
        ],
    }
}

#[test]
fn every_kind_of_entry_comes_back() {
    let toc = sample();
    assert_eq!(Toc::from_bytes(&toc.to_bytes()), Ok(toc));
}

#[test]
fn damage_is_found_wherever_it_is() {
    let bytes = sample().to_bytes();
    for cut in 0..bytes.len() {
        assert!(Toc::from_bytes(&bytes[..cut]).is_err());
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x41;
        assert!(Toc::from_bytes(&damaged).is_err());
    }
    assert_eq!(
        Toc::from_bytes(b"rbuild toc 1\n"),
        Err(TocFormError::Version)
    );
}

#[test]
fn nothing_that_a_forger_writes_panics() {
    let body = sample().to_bytes();
    let body = &body[..body.len() - 32];
    for at in MAGIC.len()..body.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut forged = body.to_vec();
            forged[at] = value;
            let digest = sha256(&forged);
            forged.extend_from_slice(digest.as_bytes());
            let _any = Toc::from_bytes(&forged);
        }
    }
}

#[test]
fn a_packed_table_is_the_same_table() {
    let toc = sample();
    let mut entries = Entries::default();
    let mut places = Vec::new();
    for entry in &toc.entries {
        places.extend(entries.push(entry));
    }
    // A digest may come later.
    assert_eq!(places.len(), 1);
    entries.set_digest(places[0], &sha256(b"other"));
    entries.set_digest(places[0], &sha256(b""));
    let head = Toc {
        entries: Vec::new(),
        ..toc.clone()
    };
    let packed = PackedToc::new(head.clone(), entries);
    assert!(packed.entries().eq(toc.entries.iter().cloned()));
    assert_eq!(packed.unpack(), toc);
    assert_eq!(packed.head(), &head);
    let bytes = packed.into_bytes();
    assert_eq!(bytes, toc.to_bytes());
    assert_eq!(Toc::head_of(&bytes), Ok(head));
}
