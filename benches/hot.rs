//! The hot parts of a build: the walk of a context, the stat cache, keys, the plan, writing a layer, reading one, unpacking.
//! Their input is made in a temporary directory. `benches/builds` measures whole builds.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to say"
)]

use std::{
    collections::BTreeMap,
    hint::black_box,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rbuild::{
    cache::{CopyInputs, copy_key},
    context::{LocalTree, Patterns, StatCache},
    copy::{self, CopyRequest},
    dockerfile,
    layer::{
        Change, Compression, LayerBlob, LayerTree, Toc, WriteOptions, write_layer,
        write_layer_after,
    },
    oci::{ChainId, sha256},
    plan::{self, CopyOp, CopyVerb, Options, Planned},
    snapshot::{Marks, Owners, Snapshots, Style},
    tree::{EmptyTree, Timestamp, Tree},
};

const FILES: usize = 4_000;

/// A context: files of a few KiB that shrink to about a third.
fn context(dir: &Path) {
    let mut state = 1_u64;
    for i in 0..FILES {
        let parent = dir.join(format!("d{}", i / 40));
        std::fs::create_dir_all(&parent).unwrap();
        let mut file = std::fs::File::create(parent.join(format!("file{i}"))).unwrap();
        for _ in 0..40 + i % 200 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            writeln!(
                file,
                "{:x} is what {} says of line {}",
                state >> 40,
                i,
                state % 9
            )
            .unwrap();
        }
    }
}

fn now(ahead: i64) -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_seconds(i64::try_from(since.as_secs()).unwrap() + ahead)
}

fn op() -> CopyOp {
    CopyOp::of_paths(CopyVerb::Copy, &["."], "/srv/")
}

fn tree(dir: &Path, cache: Option<Arc<StatCache>>) -> Arc<dyn Tree> {
    Arc::new(LocalTree::open(dir, Patterns::default(), cache).unwrap())
}

fn changes(tree: &Arc<dyn Tree>) -> Vec<Change> {
    let parent: Arc<dyn Tree> = Arc::new(EmptyTree);
    let request = CopyRequest {
        op: &op(),
        trees: std::slice::from_ref(tree),
        parent: &parent,
        now: Timestamp::from_seconds(1),
        scratch: Path::new(""),
    };
    copy::changes(&request).unwrap().changes.into_vec()
}

fn contexts(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    context(dir.path());
    let mut group = c.benchmark_group("context of 4,000 files");
    group.throughput(Throughput::Elements(FILES as u64));
    group.bench_function("walk and hash", |b| {
        b.iter(|| {
            copy::content_digest(&op(), &[tree(dir.path(), None)], &mut |_| {}, &mut |_| {})
                .unwrap()
        });
    });
    // The clock runs ahead: files changed just now are not remembered.
    let kept = tempfile::tempdir().unwrap();
    let file = kept.path().join("stat");
    let cache = Arc::new(StatCache::load(&file, now(10)));
    copy::content_digest(
        &op(),
        &[tree(dir.path(), Some(Arc::clone(&cache)))],
        &mut |_| {},
        &mut |_| {},
    )
    .unwrap();
    cache.save().unwrap();
    group.bench_function("walk, digests remembered", |b| {
        b.iter(|| {
            let cache = Some(Arc::new(StatCache::load(&file, now(10))));
            copy::content_digest(&op(), &[tree(dir.path(), cache)], &mut |_| {}, &mut |_| {})
                .unwrap()
        });
    });
    group.bench_function("stat cache, load", |b| {
        b.iter(|| StatCache::load(&file, now(10)));
    });
    group.bench_function("changes", |b| {
        b.iter(|| changes(&tree(dir.path(), None)));
    });
    group.finish();
    c.bench_function("key of a COPY", |b| {
        let op = op();
        b.iter(|| {
            copy_key(&CopyInputs {
                parent: None,
                op: black_box(&op),
                content: sha256(b"content"),
                owner: None,
            })
        });
    });
}

fn plans(c: &mut Criterion) {
    use std::fmt::Write as _;
    let mut text = String::from("FROM scratch AS s0\n");
    for i in 1..50 {
        write!(
            text,
            "FROM scratch AS s{i}\nARG V={i}\nENV PATH=/opt/$V:$PATH\nWORKDIR /w/$V\nCOPY --from=s{} /a /b\nRUN make $V\n",
            i - 1
        )
        .unwrap();
    }
    let file = dockerfile::parse(&text);
    let options = Options::default();
    c.bench_function("plan 50 stages", |b| {
        b.iter(|| {
            let planned = plan::plan(black_box(&file), &options, &BTreeMap::new()).unwrap();
            assert!(matches!(planned, Planned::Plan(_)));
        });
    });
}

fn layers(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    context(dir.path());
    let cache = Arc::new(StatCache::load("/nonexistent", now(10)));
    let tree = tree(dir.path(), Some(cache));
    copy::content_digest(&op(), &[Arc::clone(&tree)], &mut |_| {}, &mut |_| {}).unwrap();
    let all = changes(&tree);
    let mut blob = Vec::new();
    let written = write_layer(all.clone(), &mut blob, &WriteOptions::default()).unwrap();
    let kept = tempfile::tempdir().unwrap();
    let path: PathBuf = kept.path().join("blob");
    std::fs::write(&path, &blob).unwrap();
    let earlier = || LayerBlob::new(Arc::new(written.toc.unpack()), path.clone(), None);

    let mut group = c.benchmark_group("layer of 4,000 files");
    group.sample_size(20);
    group.measurement_time(Duration::from_secs(8));
    group.throughput(Throughput::Bytes(written.toc.head().tar_size));
    for (name, compression) in [
        ("write, gzip", Compression::default()),
        ("write, zstd", Compression::Zstd { level: 3 }),
        ("write, tar", Compression::Uncompressed),
    ] {
        let options = WriteOptions {
            compression,
            ..WriteOptions::default()
        };
        group.bench_function(name, |b| {
            b.iter_batched(
                || all.clone(),
                |changes| write_layer(changes, std::io::sink(), &options).unwrap(),
                BatchSize::PerIteration,
            );
        });
    }
    group.bench_function("write again, nothing changed", |b| {
        b.iter_batched(
            || (all.clone(), earlier()),
            |(changes, earlier)| {
                let options = WriteOptions::default();
                write_layer_after(changes, std::io::sink(), &options, &earlier).unwrap()
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("read the table of contents", |b| {
        b.iter(|| Toc::read(black_box(&*blob)).unwrap());
    });
    let stack = LayerTree::of([earlier()]).unwrap();
    let chain_id = ChainId::of([written.diff_id]).unwrap();
    let style = Style {
        marks: Marks::User,
        owners: Owners::Recorded,
    };
    let snapshots = Snapshots::open(kept.path(), style).unwrap();
    group.bench_function("unpack", |b| {
        b.iter_batched(
            || snapshots.remove(chain_id).unwrap(),
            |_gone| {
                snapshots
                    .apply(chain_id, &LayerTree::empty(), &stack)
                    .unwrap()
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, contexts, plans, layers);
criterion_main!(benches);
