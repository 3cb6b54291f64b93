//! How long reading a Dockerfile takes: a large one of 10,000 lines is to take milliseconds.

use std::{fmt::Write as _, hint::black_box};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rbuild::dockerfile::{
    self,
    expand::Expander,
    lint::{self, Checks, Linter},
};

/// A Dockerfile of at least so many lines with a bit of everything.
fn dockerfile(lines: usize) -> String {
    let mut text = String::from("# syntax=docker/dockerfile:1\nARG BASE=alpine:3.20\n");
    let mut stage = 0;
    while text.matches('\n').count() < lines {
        write!(
            text,
            "\n# stage{stage} is one of many\n\
             FROM --platform=$BUILDPLATFORM ${{BASE}} AS stage{stage}\n\
             ARG VERSION=1.{stage}\n\
             ENV PATH=/opt/bin:$PATH NAME=\"stage {stage}\" V=${{VERSION:-none}}\n\
             WORKDIR /src/stage{stage}\n\
             COPY --link --chown=1000:1000 go.mod go.sum ./\n\
             RUN --mount=type=cache,target=/root/.cache --mount=type=bind,target=. \\\n\
             \x20 # a comment between\n\
             \x20 make -j8 all && \\\n\
             \x20 make install\n\
             RUN <<EOF\nset -e\necho $NAME\nEOF\n\
             COPY <<one <<'two' /etc/\n1\none\n2\ntwo\n\
             LABEL org.example.stage={stage} org.example.title=\"Stage {stage}\"\n\
             HEALTHCHECK --interval=30s CMD [\"/bin/check\", \"--fast\"]\n\
             EXPOSE 8080/tcp 9090\n\
             USER 1000:1000\n\
             CMD [\"/bin/stage\", \"{stage}\"]\n"
        )
        .expect("a string can be written to");
        stage += 1;
    }
    text
}

fn parse(c: &mut Criterion) {
    let text = dockerfile(10_000);
    let file = dockerfile::parse(&text);
    assert!(!file.has_errors(), "{:?}", file.diagnostics);
    let mut group = c.benchmark_group("dockerfile");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("parse 10,000 lines", |b| {
        b.iter(|| dockerfile::parse(black_box(&text)));
    });
    group.bench_function("lint 10,000 lines", |b| {
        b.iter(|| {
            let mut linter = Linter::new(Checks::default());
            lint::lint(black_box(&file), &mut linter);
            linter
        });
    });
    group.bench_function("print 10,000 lines", |b| {
        b.iter(|| black_box(&file).to_string());
    });
    group.finish();
}

fn expand(c: &mut Criterion) {
    let expander = Expander::new('\\');
    let lookup = |name: &str| (name != "NOPE").then(|| "/usr/local/bin".to_owned());
    for word in [
        "$A/bin:$B",
        "\"${A:-x} ${NOPE:-${B}}\"",
        "${A##*/}",
        "${A//\\//:}",
    ] {
        c.bench_function(&format!("expand {word}"), |b| {
            b.iter(|| expander.expand(black_box(word), &lookup));
        });
    }
}

criterion_group!(benches, parse, expand);
criterion_main!(benches);
