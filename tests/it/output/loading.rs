//! `load`: what `save` and others wrote, and what nobody should have written.

use std::{error::Error as _, fs};

use rbuild::{
    oci::{Digest, sha256},
    output::{ArchiveFormat, Dest, FaultKind, LoadError, SavedImage, load, load_dir, save},
};

use super::*;

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, path, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

/// An archive of the fixture's image, and the digest of its manifest.
fn saved(fixture: &Fixture, format: ArchiveFormat) -> (Vec<u8>, Digest) {
    let exported = fixture.export("type=image,name=app:v1", &[fixture.image("linux/amd64")]);
    let image = SavedImage {
        descriptor: exported.descriptor.unwrap(),
        names: exported.names,
    };
    let digest = image.descriptor.digest;
    let mut bytes = Vec::new();
    save(
        &fixture.store,
        &[image],
        format,
        &Dest::Stdout,
        0,
        &mut bytes,
    )
    .unwrap();
    (bytes, digest)
}

#[test]
fn what_was_saved_loads_elsewhere_as_the_same_image() {
    for format in [ArchiveFormat::Oci, ArchiveFormat::Docker] {
        let (bytes, digest) = saved(&Fixture::new(), format);
        for compress in [false, true] {
            let bytes = if compress {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&bytes).unwrap();
                encoder.finish().unwrap()
            } else {
                bytes.clone()
            };
            let other = Fixture::new();
            let loaded = load(&bytes[..], &other.store).unwrap();
            assert_eq!(loaded.len(), 1);
            assert_eq!(loaded[0].descriptor.digest, digest);
            assert_eq!(loaded[0].names, [reference("app:v1")]);
            let tagged = other.store.tag(&reference("app:v1")).unwrap().unwrap();
            assert_eq!(validate(&other.store, &tagged).unwrap(), []);
        }
    }
}

#[test]
fn a_layout_directory_loads() {
    let fixture = Fixture::new();
    let layout = fixture.path("layout");
    let spec = format!("type=oci,tar=false,name=app:v1,dest={}", layout.display());
    let digest = fixture
        .export(&spec, &[fixture.image("linux/amd64")])
        .descriptor
        .unwrap()
        .digest;
    let other = Fixture::new();
    let loaded = load_dir(&layout, &other.store).unwrap();
    assert_eq!(loaded[0].descriptor.digest, digest);
    assert!(matches!(
        load_dir(&fixture.path("none"), &other.store),
        Err(LoadError::ReadFile { .. })
    ));
    fs::create_dir(fixture.path("empty")).unwrap();
    assert!(matches!(
        load_dir(&fixture.path("empty"), &other.store),
        Err(LoadError::NoImage)
    ));
}

#[test]
fn oracle_an_archive_that_skopeo_wrote_loads() {
    let fixture = Fixture::new();
    fixture.export("type=image,name=app:v1", &[fixture.image("linux/amd64")]);
    let source = format!("oci:{}:app:v1", fixture.store.root().display());
    for transport in ["docker-archive", "oci-archive"] {
        let path = fixture.path(transport);
        let target = format!("{transport}:{}:app:v1", path.display());
        let args = ["copy", "-q", "--insecure-policy", &source, &target];
        if satisfied("skopeo", &args).is_none() {
            return;
        }
        let other = Fixture::new();
        let loaded = load(fs::File::open(&path).unwrap(), &other.store).unwrap();
        assert_eq!(loaded[0].names, [reference("app:v1")], "{transport}");
        assert_eq!(validate(&other.store, &loaded[0].descriptor).unwrap(), []);
    }
}

/// What a load says, with all causes; and nothing may have been named by it.
fn refusal(bytes: &[u8]) -> String {
    let fixture = Fixture::new();
    let error = load(bytes, &fixture.store).expect_err("the archive is not to be believed");
    assert_eq!(fixture.store.tags().unwrap(), []);
    let mut said = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        said.push(error.to_string());
        cause = error.source();
    }
    said.join(": ")
}

const DOCKER_CONFIG: &str =
    r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["DIFFID"]}}"#;

fn docker_archive(diff_id: &Digest, layer: &[u8], manifest: &str) -> Vec<u8> {
    let config = DOCKER_CONFIG.replace("DIFFID", &diff_id.to_string());
    archive(&[
        ("manifest.json", manifest.as_bytes()),
        ("config.json", config.as_bytes()),
        ("layer.tar", layer),
    ])
}

#[test]
fn an_old_docker_archive_becomes_an_image() {
    let layer = archive(&[("hello", b"x")]);
    let manifest =
        r#"[{"Config":"config.json","RepoTags":["app:v1","bad name"],"Layers":["./layer.tar"]}]"#;
    let fixture = Fixture::new();
    let bytes = docker_archive(&sha256(&layer), &layer, manifest);
    let loaded = load(&bytes[..], &fixture.store).unwrap();
    assert_eq!(loaded[0].names, [reference("app:v1")]);
    assert_eq!(validate(&fixture.store, &loaded[0].descriptor).unwrap(), []);
    assert_eq!(load(&bytes[..], &fixture.store).unwrap(), loaded);
}

#[test]
fn lies_are_found_out() {
    let layer = archive(&[("hello", b"x")]);
    let wrong = sha256(b"another layer");
    let entry = |config: &str, layers: &str| {
        format!(r#"[{{"Config":"{config}","RepoTags":["app:v1"],"Layers":[{layers}]}}]"#)
    };
    let good = entry("config.json", r#""layer.tar""#);
    let said = refusal(&docker_archive(&wrong, &layer, &good));
    assert!(
        said.contains("layer.tar") && said.contains("diffID"),
        "{said}"
    );
    for (manifest, expected) in [
        (
            entry("config.json", ""),
            "as many layers (0) as its config has diffIDs (1)",
        ),
        (entry("../../../etc/passwd", ""), "is missing"),
        (entry("/etc/passwd", ""), "is missing"),
        (entry("config.json", r#""../layer""#), "is missing"),
        (entry("layer.tar", ""), "cannot be understood"),
        ("[{}]".to_owned(), "cannot be understood"),
        ("{".to_owned(), "cannot be understood"),
    ] {
        let said = refusal(&docker_archive(&sha256(&layer), &layer, &manifest));
        assert!(said.contains(expected), "{manifest}: {said}");
    }
    assert_eq!(
        refusal(b"not an archive, whatever it is"),
        "the input is neither a tar archive nor a compressed one"
    );
    assert_eq!(
        refusal(b""),
        "the input is neither a tar archive nor a compressed one"
    );
    assert!(refusal(&archive(&[("a", b"")])).starts_with("there is no image in it"));
    assert!(refusal(&archive(&[("repositories", b"{}")])).contains("Docker before 1.10"));
    let huge = vec![b' '; 33 << 20];
    assert!(refusal(&archive(&[("index.json", &huge)])).contains("more than the"));
}

#[test]
fn changed_blobs_and_broken_archives_are_refused() {
    let (bytes, manifest) = saved(&Fixture::new(), ArchiveFormat::Oci);
    // Every file in turn is changed in its first byte, and the archive is cut in its middle.
    let mut offset = 0;
    let mut changed = 0;
    while bytes[offset] != 0 {
        let header = tar::Header::from_byte_slice(&bytes[offset..offset + 512]);
        let size = usize::try_from(header.size().unwrap()).unwrap();
        let path = header.path().unwrap().to_string_lossy().into_owned();
        if size > 0 && path != "oci-layout" {
            let mut other = bytes.clone();
            other[offset + 512] ^= 1;
            refusal(&other);
            refusal(&bytes[..offset + 512 + size / 2]);
            changed += 1;
        }
        offset += 512 + size.div_ceil(512) * 512;
    }
    assert_eq!(changed, 5, "manifest, config, two layers, index");

    // An index that names what is not there, and one that names what is no image.
    let index = |digest: &str, media_type: &str| {
        format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{media_type}","digest":"{digest}","size":2}}]}}"#
        )
    };
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let absent = index(&manifest.to_string(), manifest_type);
    assert!(refusal(&archive(&[("index.json", absent.as_bytes())])).contains("is missing"));
    let foreign = index(&manifest.to_string(), "text/plain");
    assert!(refusal(&archive(&[("index.json", foreign.as_bytes())])).contains("text/plain"));
    let algorithm = index("md5:d41d8cd98f00b204e9800998ecf8427e", manifest_type);
    assert!(refusal(&archive(&[("index.json", algorithm.as_bytes())])).contains("sha256"));
}

#[test]
fn the_judge_finds_faults() {
    let fixture = Fixture::new();
    let mut image = fixture.image("linux/amd64");
    image.config.history.pop();
    image.config.rootfs.diff_ids.swap(0, 1);
    let exported = {
        let layers = StoredLayers(&fixture.store);
        let services = services(&fixture.store, &layers);
        let request = request(std::slice::from_ref(&image));
        export(&OutputSpec::store(), &request, &services, &mut Vec::new()).unwrap()
    };
    let root = exported.descriptor.unwrap();
    let kinds = || -> Vec<FaultKind> {
        let faults = validate(&fixture.store, &root).unwrap();
        faults.into_iter().map(|fault| fault.kind).collect()
    };
    assert!(matches!(
        kinds()[..],
        [
            FaultKind::DiffId { .. },
            FaultKind::DiffId { .. },
            FaultKind::History {
                layers: 2,
                entries: 1
            }
        ]
    ));
    let blob = fixture.store.blob_path(&image.layers[1].descriptor.digest);
    fs::write(&blob, "x").unwrap();
    let found = kinds();
    assert!(matches!(found[1], FaultKind::Digest(_)), "{found:?}");
    assert!(
        matches!(found[2], FaultKind::Size { actual: 1, .. }),
        "{found:?}"
    );
    fs::remove_file(&blob).unwrap();
    assert_eq!(kinds()[1], FaultKind::Missing);
    fs::remove_file(fixture.store.blob_path(&root.digest)).unwrap();
    assert_eq!(kinds(), [FaultKind::Missing]);
}
