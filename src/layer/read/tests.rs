//! Archives that tell lies, and unusual ones that do not.

use std::{ffi::OsString, path::Path};

use super::*;
use crate::{
    layer::{Toc, TocItem, tar::Header},
    tree::{Kind, Timestamp},
};

/// An archive under construction, one line per entry.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(mut self, name: &[u8], type_flag: u8, link: &[u8], content: &[u8]) -> Self {
        let header = Header {
            name,
            type_flag,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: content.len() as u64,
            mtime: 0,
            link,
            device: (0, 0),
            xattrs: Vec::new(),
        };
        header.write(&mut self.0);
        self.content(content)
    }

    fn content(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(name.as_bytes(), b'0', b"", content)
    }

    /// An extended header with these records, their lengths worked out.
    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest..rest + 9)
                .find(|n| rest + n.to_string().len() == *n)
                .unwrap();
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.entry(b"pax", b'x', b"", &body)
    }

    /// Changes bytes of the last header of this length of content, and corrects its sum.
    fn patch(mut self, content: usize, offset: usize, bytes: &[u8]) -> Self {
        let start = self.0.len() - 512 - content.next_multiple_of(512);
        let header = &mut self.0[start..start + 512];
        header[offset..offset + bytes.len()].copy_from_slice(bytes);
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }

    fn toc(self) -> Result<Toc, ArchiveError> {
        Toc::read(&*self.end())
    }

    fn error(self) -> ArchiveError {
        self.toc().expect_err("this archive lies")
    }

    fn paths(self) -> Vec<String> {
        let toc = self.toc().unwrap();
        let paths = toc.entries.iter().map(|entry| &entry.path);
        paths.map(|path| path.display().to_string()).collect()
    }
}

#[test]
fn names_lead_into_the_root_or_nowhere() {
    let kept = Tar::default()
        .file("/etc/passwd", b"")
        .file("./a//b/./c", b"")
        .file("a/../b", b"")
        .entry(b"./", b'5', b"", b"");
    assert_eq!(kept.paths(), ["etc/passwd", "a/b/c", "b", ""]);
    for name in ["..", "../a", "a/../../b", "/../a"] {
        let error = Tar::default().file(name, b"").error();
        assert!(
            matches!(error, ArchiveError::Name { .. }),
            "{name}: {error}"
        );
    }
    let nul = Tar::default().pax(&[("path", b"a\0b")]).file("a", b"");
    assert!(matches!(nul.error(), ArchiveError::Name { .. }));
    let root_as_file = Tar::default().file("./", b"");
    assert!(matches!(root_as_file.error(), ArchiveError::Name { .. }));
}

#[test]
fn links_have_targets_and_hard_links_stay_inside() {
    for (flag, target) in [(b'1', ""), (b'1', "../x"), (b'1', "/"), (b'2', "")] {
        let error = Tar::default()
            .entry(b"a", flag, target.as_bytes(), b"")
            .error();
        assert!(
            matches!(error, ArchiveError::LinkTarget { .. }),
            "{target:?}"
        );
    }
    let toc =
        Tar::default()
            .entry(b"a", b'1', b"/b/c", b"")
            .entry(b"s", b'2', b"../../anywhere", b"");
    let toc = toc.toc().unwrap();
    assert_eq!(
        toc.entries[0].item,
        TocItem::Link {
            target: "b/c".into()
        }
    );
    assert!(
        matches!(&toc.entries[1].item, TocItem::Node { metadata, .. }
        if metadata.kind == Kind::Symlink { target: "../../anywhere".into() })
    );
}

#[test]
fn a_hard_link_with_a_size_has_no_content() {
    let tar = Tar::default()
        .file("a", b"x")
        .entry(b"b", b'1', b"a", b"")
        .patch(0, 124, b"00000000100")
        .file("c", b"");
    assert_eq!(tar.paths(), ["a", "b", "c"]);
}

#[test]
fn whiteouts_name_what_is_gone() {
    let tar = Tar::default()
        .file("a/.wh.b", b"ignored")
        .file("a/.wh..wh..opq", b"")
        .entry(b"a/.wh.dir/", b'5', b"", b"")
        .file(".wh..wh.plnk/1.2", b"")
        .file(".wh..wh.aufs", b"");
    let toc = tar.toc().unwrap();
    let found: Vec<_> = toc
        .entries
        .iter()
        .map(|entry| (entry.path.to_str().unwrap(), &entry.item))
        .collect();
    let expected = [
        ("a/b", &TocItem::Remove),
        ("a", &TocItem::Opaque),
        ("a/dir", &TocItem::Remove),
    ];
    assert_eq!(found, expected);
    for name in [".wh.", "a/.wh.", ".wh..", ".wh...", "a/.wh.b/c"] {
        let error = Tar::default().file(name, b"").error();
        assert!(
            matches!(error, ArchiveError::Whiteout { .. }),
            "{name}: {error}"
        );
    }
}

#[test]
fn sizes_beyond_the_archive_are_found() {
    let tar = Tar::default().file("a", b"four").end();
    for end in [513, 514, 515] {
        let error = Toc::read(&tar[..end]).unwrap_err();
        assert!(
            matches!(error, ArchiveError::Truncated { .. }),
            "{end}: {error}"
        );
    }
    let huge = Tar::default().file("a", b"").patch(0, 124, b"77777777777");
    assert!(matches!(huge.error(), ArchiveError::Truncated { .. }));
    let base256 = [
        0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    ];
    let huge = Tar::default().file("a", b"").patch(0, 124, &base256).toc();
    assert!(huge.is_err());
    let pax = Tar::default()
        .pax(&[("size", b"18446744073709551615")])
        .file("a", b"");
    assert!(pax.toc().is_err());
    let pax = Tar::default().pax(&[("size", b"-1")]).file("a", b"");
    assert!(matches!(
        pax.error(),
        ArchiveError::Number { field: "size", .. }
    ));
}

#[test]
fn a_missing_end_marker_is_forgiven() {
    let tar = Tar::default().file("a", b"four").0;
    assert_eq!(Toc::read(&*tar).unwrap().entries.len(), 1);
    assert_eq!(Toc::read(&tar[..516]).unwrap().entries.len(), 1);
    assert_eq!(Toc::read(&b""[..]).unwrap().entries.len(), 0);
}

#[test]
fn extended_headers_have_limits() {
    let long = vec![b'n'; 5000];
    let error = Tar::default()
        .pax(&[("path", &long)])
        .file("a", b"")
        .error();
    assert!(matches!(error, ArchiveError::Header { .. }));
    let error = Tar::default()
        .entry(b"././@LongLink", b'L', b"", &long)
        .file("a", b"")
        .error();
    assert!(matches!(error, ArchiveError::Header { .. }));
    let giant = vec![b'v'; 2 << 20];
    let error = Tar::default()
        .pax(&[("comment", &giant)])
        .file("a", b"")
        .error();
    assert!(matches!(error, ArchiveError::Header { .. }));
    let without_file = Tar::default().pax(&[("path", b"a")]);
    assert!(without_file.toc().is_err());
    let claimed = Tar::default()
        .entry(b"pax", b'x', b"", b"")
        .patch(0, 124, b"77777777777");
    assert!(claimed.toc().is_err());
}

#[test]
fn numbers_are_those_of_linux() {
    let big = Tar::default().pax(&[("uid", b"4294967294")]).file("a", b"");
    assert!(matches!(&big.toc().unwrap().entries[0].item,
        TocItem::Node { metadata, .. } if metadata.uid == u32::MAX - 1));
    let too_big = Tar::default().pax(&[("uid", b"4294967295")]).file("a", b"");
    assert!(matches!(
        too_big.error(),
        ArchiveError::Number { field: "owner", .. }
    ));
    let base256 = [0x80, 0, 0, 1, 0, 0, 0, 0];
    let too_big = Tar::default().file("a", b"").patch(0, 116, &base256);
    assert!(matches!(
        too_big.error(),
        ArchiveError::Number { field: "group", .. }
    ));
    let bad = Tar::default().pax(&[("gid", b"root")]).file("a", b"");
    assert!(matches!(
        bad.error(),
        ArchiveError::Number { field: "group", .. }
    ));
}

#[test]
fn times_have_signs_and_fractions() {
    let time = |text: &str| {
        let tar = Tar::default()
            .pax(&[("mtime", text.as_bytes())])
            .file("a", b"");
        match &tar.toc().unwrap().entries[0].item {
            TocItem::Node { metadata, .. } => metadata.mtime,
            _ => unreachable!("it is a file"),
        }
    };
    let stamp = |seconds, nanos| Timestamp { seconds, nanos };
    assert_eq!(time("12"), stamp(12, 0));
    assert_eq!(time("12.5"), stamp(12, 500_000_000));
    assert_eq!(time("12.0000000019"), stamp(12, 1));
    assert_eq!(time("-12"), stamp(-12, 0));
    assert_eq!(time("-12.25"), stamp(-13, 750_000_000));
    assert_eq!(time("-0.5"), stamp(-1, 500_000_000));
    let base256 = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfb,
    ];
    let tar = Tar::default().file("a", b"").patch(0, 136, &base256);
    assert!(matches!(&tar.toc().unwrap().entries[0].item,
        TocItem::Node { metadata, .. } if metadata.mtime == stamp(-5, 0)));
    for text in ["", "x", "1.x", "9223372036854775808"] {
        let tar = Tar::default()
            .pax(&[("mtime", text.as_bytes())])
            .file("a", b"");
        assert!(matches!(tar.error(), ArchiveError::Number { .. }), "{text}");
    }
}

#[test]
fn attributes_may_hold_any_bytes() {
    let value = b"one\ntwo=\0three\n12 path=evil\n";
    let tar = Tar::default()
        .pax(&[
            ("SCHILY.xattr.security.capability", value),
            ("SCHILY.xattr.", b"no name"),
        ])
        .file("a", b"");
    let toc = tar.toc().unwrap();
    let TocItem::Node { metadata, .. } = &toc.entries[0].item else {
        unreachable!("it is a file")
    };
    assert_eq!(metadata.xattrs.len(), 1);
    assert_eq!(
        metadata.xattrs[&OsString::from("security.capability")],
        value
    );
    assert_eq!(toc.entries[0].path, Path::new("a"));
}

#[test]
fn global_headers_are_passed_over() {
    let mut tar = Tar::default().entry(
        b"pax_global_header",
        b'g',
        b"",
        b"52 comment=0123456789012345678901234567890123456789\n",
    );
    tar = tar.file("a", b"x");
    assert_eq!(tar.paths(), ["a"]);
}

#[test]
fn unknown_types_are_refused_and_old_directories_known() {
    let error = Tar::default().entry(b"a", b'Q', b"", b"").error();
    assert!(matches!(error, ArchiveError::EntryType { flag: b'Q', .. }));
    let toc = Tar::default().entry(b"a/", 0, b"", b"").toc().unwrap();
    assert!(matches!(&toc.entries[0].item, TocItem::Node { metadata, .. } if metadata.is_dir()));
}

/// A sparse file in the form PAX 1.0, `map` being the numbers before the data.
fn sparse(map: &str, size: &str, data: &[u8]) -> Tar {
    let mut content = map.as_bytes().to_vec();
    content.resize(content.len().next_multiple_of(512), 0);
    content.extend_from_slice(data);
    Tar::default()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"real"),
            ("GNU.sparse.realsize", size.as_bytes()),
        ])
        .file("GNUSparseFile.0/real", &content)
}

#[test]
fn sparse_files_are_what_a_reader_of_them_sees() {
    let tar = sparse("2\n4\n3\n10\n0\n", "10", b"abc").file("next", b"");
    let toc = tar.toc().unwrap();
    assert_eq!(toc.entries[0].path, Path::new("real"));
    assert_eq!(toc.entries[1].path, Path::new("next"));
    let TocItem::Node {
        metadata,
        content: Some(content),
    } = &toc.entries[0].item
    else {
        unreachable!("it is a file")
    };
    assert_eq!(metadata.kind, Kind::File { size: 10 });
    assert_eq!(
        content.digest,
        Some(crate::oci::sha256(b"\0\0\0\0abc\0\0\0"))
    );
    assert_eq!(
        content.sparse,
        Some(vec![Extent {
            offset: 4,
            length: 3
        }])
    );
}

#[test]
fn sparse_maps_have_to_add_up() {
    for (map, size) in [
        ("1\n4\n3\n", "6"),
        ("2\n4\n2\n0\n1\n", "10"),
        ("1\n0\n2\n", "10"),
        ("1\n18446744073709551615\n3\n", "10"),
        ("1\n0\n3\n", "99999999999999"),
    ] {
        let error = sparse(map, size, b"abc").error();
        assert!(
            matches!(error, ArchiveError::Sparse { .. }),
            "{map:?} {size}: {error}"
        );
    }
    assert!(sparse("1\n", "10", b"").toc().is_err());
    assert!(sparse("99999999\n", "10", b"").toc().is_err());
}

#[test]
fn any_truncation_is_an_error_or_a_shorter_archive_and_never_a_panic() {
    let tar = Tar::default()
        .pax(&[("path", b"long name"), ("mtime", b"1.5")])
        .file("a", b"some content")
        .entry(b"././@LongLink", b'L', b"", b"gnu name\0")
        .file("b", b"more")
        .end();
    for end in 0..tar.len() {
        let _either = Toc::read(&tar[..end]);
    }
    let mut state = 7_u32;
    for at in 0..tar.len() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mut damaged = tar.clone();
        damaged[at] ^= state.to_be_bytes()[0] | 1;
        let _either = Toc::read(&*damaged);
    }
}
