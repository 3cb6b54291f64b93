use super::*;

fn parse(text: &str) -> OutputSpec {
    OutputSpec::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refusal(text: &str) -> String {
    match OutputSpec::parse(text) {
        Ok(spec) => panic!("{text}: accepted as {spec:?}"),
        Err(error) => error.to_string(),
    }
}

fn image_of(text: &str) -> ImageOptions {
    match parse(text) {
        OutputSpec::Archive(spec) => spec.image,
        OutputSpec::Image(spec) => spec.image,
        other => panic!("{text}: no image but {other:?}"),
    }
}

#[test]
fn shorthands() {
    assert_eq!(parse("out/dir"), parse("type=local,dest=out/dir"));
    assert_eq!(parse("-"), parse("type=tar,dest=-"));
    assert_eq!(parse("type=tar"), parse("type=tar,dest=-"));
    assert_eq!(OutputSpec::registry(), parse("type=registry"));
    assert_eq!(OutputSpec::store(), parse("type=image"));
    assert_eq!(parse("type=cacheonly"), OutputSpec::CacheOnly);
}

#[test]
fn fields_are_csv() {
    let OutputSpec::Local(spec) = parse(r#"type=local,"dest=a,b ""c""""#) else {
        panic!("a local output");
    };
    assert_eq!(spec.dest, PathBuf::from(r#"a,b "c""#));
    for text in [
        "type=local,\"dest=x",
        "type=local,\"dest=x\"y",
        "type=lo\"cal",
    ] {
        assert!(refusal(text).contains("quoted"), "{text}");
    }
}

#[test]
fn image_options_are_read() {
    let image = image_of(
        r#"TYPE=oci,Dest=x.tar,"name=app,ghcr.io/a/b:1",compression=zstd,compression-level=9,force-compression=true,rewrite-timestamp=1,source-date-epoch=7,annotation.Org.key=v,annotation-manifest-descriptor[linux/arm64].k=w=x,annotation-index.i=1"#,
    );
    let names: Vec<_> = image.names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["docker.io/library/app:latest", "ghcr.io/a/b:1"]);
    assert_eq!(
        image.layers,
        LayerOptions {
            estargz: false,
            compression: Some(Compression::Zstd { level: 9 }),
            force: true,
            rewrite_timestamp: true,
        }
    );
    assert_eq!(image.epoch, Some(7));
    let places: Vec<_> = image
        .annotations
        .iter()
        .map(|a| {
            (
                a.place,
                a.platform.is_some(),
                a.key.as_str(),
                a.value.as_str(),
            )
        })
        .collect();
    assert_eq!(
        places,
        [
            (AnnotationPlace::Manifest, false, "Org.key", "v"),
            (AnnotationPlace::ManifestDescriptor, true, "k", "w=x"),
            (AnnotationPlace::Index, false, "i", "1"),
        ]
    );
}

#[test]
fn documents_have_oci_types_unless_told_otherwise() {
    assert!(image_of("type=docker,dest=x").oci_media_types);
    assert!(!image_of("type=docker,dest=x,oci-mediatypes=false").oci_media_types);
    assert!(image_of("type=oci,dest=x").oci_media_types);
    assert!(!image_of("type=image,oci-mediatypes=false").oci_media_types);
}

#[test]
fn a_level_alone_means_gzip() {
    let layers = image_of("type=image,compression-level=9").layers;
    assert_eq!(layers.compression, Some(Compression::Gzip { level: 9 }));
}

#[test]
fn push_by_digest_pushes() {
    let OutputSpec::Image(spec) = parse("type=image,name=a,push-by-digest=true") else {
        panic!("an image output");
    };
    assert!(spec.push && spec.by_digest && spec.store);
}

#[test]
fn what_cannot_be_done_is_refused_exactly() {
    for (text, expected) in [
        ("", "`` is not of the form KEY=VALUE"),
        ("dest=x", "`type` is missing"),
        ("type=oci,x", "`x` is not of the form KEY=VALUE"),
        (
            "type=regsitry",
            "unknown output type `regsitry`, did you mean `registry`?",
        ),
        ("type=zip", "unknown output type `zip`"),
        ("type=local", "output type `local` needs `dest=DIRECTORY`"),
        (
            "type=local,dest=-",
            "output type `local` is a directory and cannot be written to standard output",
        ),
        (
            "type=oci,tar=false",
            "output type `oci` is a directory and cannot be written to standard output",
        ),
        (
            "type=docker,tar=false",
            "output type `docker` needs `dest=DIRECTORY`",
        ),
        (
            "type=local,dest=x,mode=move",
            "`mode=move`: expected copy or delete",
        ),
        (
            "type=oci,dets=x",
            "output type `oci` has no option `dets`, did you mean `dest`?",
        ),
        (
            "type=oci,compresion=gzip",
            "output type `oci` has no option `compresion`, did you mean `compression`?",
        ),
        (
            "type=tar,compression=gzip",
            "output type `tar` has no option `compression`",
        ),
        (
            "type=cacheonly,dest=x",
            "output type `cacheonly` has no option `dest`",
        ),
        (
            "type=oci,compression=lzma",
            "`compression=lzma`: expected gzip, estargz, zstd or uncompressed",
        ),
        (
            "type=oci,compression-level=10",
            "`compression-level=10`: expected 0 to 9",
        ),
        (
            "type=oci,compression=zstd,compression-level=23",
            "`compression-level=23`: expected 0 to 22",
        ),
        (
            "type=docker,dest=x,compression=zstd,oci-mediatypes=false",
            "`compression=zstd` is not supported: Docker's media types have no zstd; leave out `oci-mediatypes=false`",
        ),
        (
            "type=docker,dest=x,context=desktop",
            "`context=desktop`: there is a `dest`, so no engine is used",
        ),
        (
            "type=image,dangling-name-prefix=UPPER",
            "`dangling-name-prefix=UPPER`: invalid reference format: repository name (library/UPPER) must be lowercase",
        ),
        (
            "type=oci,force-compression=yes",
            "`force-compression=yes`: expected true or false",
        ),
        (
            "type=oci,source-date-epoch=now",
            "`source-date-epoch=now`: expected seconds since 1970",
        ),
        (
            "type=image,name=UPPER",
            "`name=UPPER`: invalid reference format: repository name (library/UPPER) must be lowercase",
        ),
        (
            "type=image,unpack=true",
            "`unpack=true` is not supported: images are unpacked when a step needs them",
        ),
        (
            "type=image,oci-artifact=true,oci-mediatypes=false",
            "`oci-artifact=true` is not supported: Docker's media types have no artifacts; leave out `oci-mediatypes=false`",
        ),
        (
            "type=image,annotation=x",
            "`annotation=x`: expected annotation[-manifest|-index|-manifest-descriptor|-index-descriptor][[PLATFORM]].KEY",
        ),
    ] {
        assert_eq!(refusal(text), expected, "{text}");
    }
}
