//! Members that are those of an earlier blob.

use super::*;

#[test]
fn an_edit_leaves_other_members_alone() {
    let (blob, before) = written(mixed_files(160), Compression::default(), 2);
    let mut changes = mixed_files(160);
    changes[60] = file("d4/f60", b"another text");
    let (edited, after) = written(changes, Compression::default(), 2);
    let members = |blob: &[u8], toc: &Toc| -> std::collections::HashSet<Vec<u8>> {
        let mut ends: Vec<usize> = toc
            .members
            .iter()
            .map(|member| usize::try_from(member.blob_offset).unwrap())
            .collect();
        ends.push(blob.len());
        ends.windows(2)
            .map(|range| blob[range[0]..range[1]].to_vec())
            .collect()
    };
    let (old, new) = (
        members(&blob, before.toc.head()),
        members(&edited, after.toc.head()),
    );
    assert!(old.len() > 20);
    assert!(
        new.difference(&old).count() <= 3,
        "too many members changed"
    );
}

#[test]
fn bytes_are_the_same_with_and_without_an_earlier_blob_and_with_any_number_of_threads() {
    const FILES: usize = 120;
    let (gzip, zstd) = (Compression::default(), Compression::Zstd { level: 3 });
    // In the first member, between checkpoints, in the last one; a file more, a file less, and nothing.
    let edits = [
        (gzip, Some(0), &[2][..]),
        (gzip, Some(60), &[1, 2, 8]),
        (gzip, Some(FILES - 1), &[2]),
        (gzip, Some(FILES), &[2]),
        (gzip, Some(80), &[2]),
        (gzip, None, &[2]),
        (zstd, Some(60), &[2]),
    ];
    let befores = [gzip, zstd].map(|it| (it, Before::new(mixed_files(FILES), it)));
    for (compression, edited, threads) in edits {
        let before = befores.iter().find(|(it, _)| *it == compression);
        let before = &before.unwrap().1;
        assert!(before.written.toc.head().checkpoints.len() > 1);
        let mut changes = mixed_files(FILES);
        match edited {
            Some(FILES) => changes.push(file("d3/more", b"a new text")),
            Some(80) => drop(changes.remove(80)),
            Some(at) => changes[at] = file(&format!("d{}/f{at}", at % 7), b"another text"),
            None => {}
        }
        let (fresh, plain) = written(changes.clone(), compression, 1);
        for threads in threads {
            let toc = before.written.toc.unpack();
            let (blob, made) = before.again_with(changes.clone(), toc, compression, *threads);
            assert!(blob == fresh, "{edited:?} edited, {threads} threads");
            assert!(made.toc == plain.toc);
            assert!(made.reused > made.descriptor.size / 2);
        }
    }
}

#[test]
fn files_before_the_first_change_are_not_read() {
    /// Knows digests, and counts how often it is read.
    struct Watched(std::sync::atomic::AtomicUsize);
    const BYTES: &[u8] = &[7; 100_000];
    impl crate::tree::Tree for Watched {
        fn node(
            &self,
            _: &std::path::Path,
        ) -> Result<Option<crate::tree::Node>, crate::tree::TreeError> {
            Ok(None)
        }
        fn names(
            &self,
            _: &std::path::Path,
        ) -> Result<Vec<std::ffi::OsString>, crate::tree::TreeError> {
            Ok(Vec::new())
        }
        fn open(
            &self,
            _: &std::path::Path,
        ) -> Result<Box<dyn std::io::Read + Send>, crate::tree::TreeError> {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok(Box::new(Cursor::new(BYTES)))
        }
        fn digest(&self, _: &std::path::Path) -> Result<Digest, crate::tree::TreeError> {
            Ok(sha256(BYTES))
        }
        fn known_digest(&self, _: &std::path::Path) -> Option<Digest> {
            Some(sha256(BYTES))
        }
    }
    let tree = Arc::new(Watched(std::sync::atomic::AtomicUsize::new(0)));
    let changes = || -> Vec<Change> {
        let put = |i: usize| {
            let mut change = file(&format!("f{i:04}"), BYTES);
            if let Change::Put { content, path, .. } = &mut change {
                *content = Content::Tree {
                    tree: Arc::clone(&tree) as Arc<dyn crate::tree::Tree>,
                    path: path.clone(),
                };
            }
            change
        };
        (0..400).map(put).collect()
    };
    let before = Before::new(changes(), Compression::default());
    let count = || tree.0.swap(0, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(count(), 400);
    let (same, _) = before.again(changes());
    assert!(same == before.blob);
    let tail = count();
    assert!(tail < 120, "{tail} files after the last checkpoint");
    let mut edited = changes();
    edited[200] = file("f0200", b"edited");
    before.again(edited);
    let behind = count();
    assert!((199..199 + 120).contains(&behind), "{behind} files read");
}

#[test]
fn an_earlier_blob_that_is_of_no_use_changes_nothing() {
    let before = Before::new(mixed_files(160), Compression::default());
    let (toc, gzip) = (before.written.toc.unpack(), Compression::default());
    // Other settings, and blobs of unknown making, give nothing.
    let other = Compression::Gzip { level: 3 };
    let made = before.again_with(mixed_files(60), toc.clone(), other, 2).1;
    assert_eq!(made.reused, 0);
    let unknown = Toc::read(&*before.blob).unwrap();
    let made = before.again_with(mixed_files(60), unknown, gzip, 2).1;
    assert_eq!(made.reused, 0);
    // Nor does one that is damaged, or gone.
    for damage in [100, 3_000_000] {
        let mut damaged = before.blob.clone();
        for byte in damaged.iter_mut().skip(damage).step_by(1000) {
            *byte ^= 1;
        }
        std::fs::write(&before.file, &damaged).unwrap();
        let (whole, made) = before.again(mixed_files(160));
        assert!(whole == before.blob, "damaged from byte {damage} on");
        assert!(made.reused < before.blob.len() as u64 / 2);
    }
    let gone = LayerBlob::new(Arc::new(toc), PathBuf::from("/nonexistent"), None);
    let mut blob = Vec::new();
    write_layer_after(mixed_files(160), &mut blob, &WriteOptions::default(), &gone).unwrap();
    assert!(blob == before.blob);
}
