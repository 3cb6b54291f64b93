//! What a layer holds, file times left out.

use std::{borrow::Borrow, os::unix::ffi::OsStrExt as _};

use crate::{
    layer::{TocEntry, TocItem},
    oci::{Digest, Digester},
    tree::Kind,
};

/// A digest of all that a layer says but modification times: two layers with the same are the same to every step that
/// does not ask for times. Layers that this program wrote have one order, so the order counts.
pub fn content_digest<E: Borrow<TocEntry>>(entries: impl IntoIterator<Item = E>) -> Digest {
    let mut fields = Fields(Digester::new());
    for entry in entries {
        let entry = entry.borrow();
        fields.bytes(entry.path.as_os_str().as_bytes());
        match &entry.item {
            TocItem::Node { metadata, content } => {
                let kind = match &metadata.kind {
                    Kind::File { .. } => b'f',
                    Kind::Dir => b'd',
                    Kind::Symlink { .. } => b'l',
                    Kind::Char { .. } => b'c',
                    Kind::Block { .. } => b'b',
                    Kind::Fifo => b'p',
                    Kind::Socket => b's',
                };
                fields.bytes(&[kind]);
                fields.number(metadata.mode.into());
                fields.number(metadata.uid.into());
                fields.number(metadata.gid.into());
                match &metadata.kind {
                    Kind::Symlink { target } => fields.bytes(target.as_os_str().as_bytes()),
                    Kind::Char { major, minor } | Kind::Block { major, minor } => {
                        fields.number((*major).into());
                        fields.number((*minor).into());
                    }
                    Kind::File { .. } | Kind::Dir | Kind::Fifo | Kind::Socket => {}
                }
                fields.number(metadata.xattrs.len() as u64);
                for (name, value) in &metadata.xattrs {
                    fields.bytes(name.as_bytes());
                    fields.bytes(value);
                }
                // One without digests equals none that has them.
                let digest = content.as_ref().and_then(|content| content.digest.as_ref());
                fields.bytes(digest.map_or(b"", |digest| digest.as_bytes()));
            }
            TocItem::Link { target } => {
                fields.bytes(b"h");
                fields.bytes(target.as_os_str().as_bytes());
            }
            TocItem::Remove => fields.bytes(b"-"),
            TocItem::Opaque => fields.bytes(b"!"),
        }
    }
    fields.0.finish()
}

/// Length-prefixed fields.
struct Fields(Digester);

impl Fields {
    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        layer::{Change, Content, WriteOptions, write_layer},
        tree::{Metadata, Timestamp},
    };

    fn digest(changes: Vec<Change>) -> Digest {
        let written = write_layer(changes, std::io::sink(), &WriteOptions::default()).unwrap();
        content_digest(written.toc.entries())
    }

    fn file(text: &str, change: impl FnOnce(&mut Metadata)) -> Change {
        let mut metadata = Metadata::file(text.len() as u64, Timestamp::from_seconds(1));
        change(&mut metadata);
        Change::Put {
            path: "f".into(),
            metadata,
            content: Content::bytes(text.as_bytes()),
        }
    }

    fn link(target: &str) -> Change {
        Change::Link {
            path: "g".into(),
            target: target.into(),
        }
    }

    #[test]
    fn everything_counts_but_times() {
        let same = digest(vec![file("x", |_| ())]);
        let later = file("x", |m| m.mtime = Timestamp::from_seconds(2));
        assert_eq!(digest(vec![later]), same);
        let kind = |kind: Kind| file("", |m| m.kind = kind);
        let device = |major| Kind::Char { major, minor: 1 };
        let to = |target: &str| Kind::Symlink {
            target: target.into(),
        };
        let capability = |value: &[u8]| {
            let value = value.to_vec();
            file("x", move |m| {
                m.xattrs.insert("security.capability".into(), value);
            })
        };
        let mut digests = vec![
            same,
            digest(vec![]),
            digest(vec![file("y", |_| ())]),
            digest(vec![file("x", |m| m.mode = 0o600)]),
            digest(vec![file("x", |m| m.uid = 1)]),
            digest(vec![file("x", |m| m.gid = 1)]),
            digest(vec![kind(Kind::Dir)]),
            digest(vec![kind(Kind::Fifo)]),
            digest(vec![kind(device(1))]),
            digest(vec![kind(device(2))]),
            digest(vec![kind(to("a"))]),
            digest(vec![kind(to("b"))]),
            digest(vec![capability(b"1")]),
            digest(vec![capability(b"2")]),
            digest(vec![file("x", |_| ()), link("f")]),
            digest(vec![Change::Remove { path: "f".into() }]),
            digest(vec![kind(Kind::Dir), Change::Opaque { path: "f".into() }]),
        ];
        let n = digests.len();
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), n, "two different layers have one digest");
    }
}
