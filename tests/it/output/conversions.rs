//! `compression`, `force-compression`, `rewrite-timestamp`, `oci-mediatypes`.

use std::io::Read as _;

use rbuild::oci::Manifest;

use super::*;

/// The media types of the layers, and whether their blobs are still those of `image`.
fn layers(fixture: &Fixture, exported: &Exported, image: &Image) -> Vec<(String, bool)> {
    let manifest: Manifest = fixture
        .store
        .read_json(exported.descriptor.as_ref().unwrap())
        .unwrap();
    manifest
        .layers
        .iter()
        .zip(&image.layers)
        .map(|(now, before)| {
            let kind = now.media_type.as_str();
            let kind = kind.rsplit(['+', '.']).next().unwrap().to_owned();
            (kind, now.digest == before.descriptor.digest)
        })
        .collect()
}

#[test]
fn layers_are_compressed_as_asked() {
    let fixture = Fixture::new();
    let image = fixture.image("linux/amd64");
    let convert = |options: &str| {
        let exported = fixture.export(
            &format!("type=image{options}"),
            std::slice::from_ref(&image),
        );
        layers(&fixture, &exported, &image)
    };
    let row = |base: &str, same_base: bool, built: &str, same_built: bool| {
        vec![(base.to_owned(), same_base), (built.to_owned(), same_built)]
    };
    assert_eq!(convert(""), row("gzip", true, "gzip", true));
    assert_eq!(
        convert(",compression=gzip"),
        row("gzip", true, "gzip", true)
    );
    assert_eq!(
        convert(",compression=zstd"),
        row("gzip", true, "zstd", false)
    );
    assert_eq!(
        convert(",compression=zstd,force-compression=true"),
        row("zstd", false, "zstd", false)
    );
    assert_eq!(
        convert(",compression=uncompressed,force-compression=true"),
        row("tar", false, "tar", false)
    );
    assert_eq!(
        convert(",compression-level=9"),
        row("gzip", true, "gzip", false)
    );
    assert_eq!(
        convert(",force-compression=true"),
        row("gzip", true, "gzip", true)
    );
    assert_eq!(
        convert(",oci-mediatypes=false"),
        row("gzip", true, "gzip", true)
    );
}

#[test]
fn conversions_are_deterministic_and_remembered() {
    let spec = "type=image,compression=zstd,force-compression=true";
    let digest = || {
        let fixture = Fixture::new();
        let image = [fixture.image("linux/amd64")];
        let first = fixture.export(spec, &image).descriptor.unwrap();
        assert_eq!(fixture.export(spec, &image).descriptor.unwrap(), first);
        first.digest
    };
    assert_eq!(digest(), digest());
}

#[test]
fn docker_has_no_zstd_so_such_layers_become_gzip() {
    let fixture = Fixture::new();
    let image = fixture.image("linux/amd64");
    let zstd = fixture.export("type=image,compression=zstd", std::slice::from_ref(&image));
    let manifest: Manifest = fixture.store.read_json(&zstd.descriptor.unwrap()).unwrap();
    let mut image = image;
    image.layers[1].descriptor = manifest.layers[1].clone();
    let docker = fixture.export(
        "type=image,oci-mediatypes=false",
        std::slice::from_ref(&image),
    );
    let manifest: Manifest = fixture
        .store
        .read_json(&docker.descriptor.unwrap())
        .unwrap();
    assert_eq!(manifest.media_type, Some(MediaType::DOCKER_MANIFEST));
    assert_eq!(manifest.config.media_type, MediaType::DOCKER_CONFIG);
    for layer in manifest.layers {
        assert_eq!(layer.media_type, MediaType::DOCKER_LAYER_GZIP);
    }
}

#[test]
fn new_layers_get_no_later_times_than_the_epoch() {
    let fixture = Fixture::new();
    let image = fixture.image("linux/amd64");
    let spec = "type=image,rewrite-timestamp=true,source-date-epoch=1000";
    let exported = fixture.export(spec, std::slice::from_ref(&image));
    assert_eq!(
        layers(&fixture, &exported, &image),
        [("gzip".to_owned(), true), ("gzip".to_owned(), false)]
    );
    let manifest: Manifest = fixture
        .store
        .read_json(exported.descriptor.as_ref().unwrap())
        .unwrap();
    let times = |blob: &Descriptor| {
        let mut tar = Vec::new();
        flate2::read::MultiGzDecoder::new(fixture.store.open_blob(&blob.digest).unwrap())
            .read_to_end(&mut tar)
            .unwrap();
        tar::Archive::new(&tar[..])
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let path = entry.path().unwrap().to_string_lossy().into_owned();
                (path, entry.header().mtime().unwrap())
            })
            .filter(|(path, _)| !path.contains(".wh."))
            .map(|(_, time)| time)
            .collect::<Vec<_>>()
    };
    let mtime = u64::try_from(MTIME).unwrap();
    assert!(times(&manifest.layers[0]).iter().all(|time| *time == mtime));
    assert!(times(&manifest.layers[1]).iter().all(|time| *time == 1000));

    // Without an epoch there is nothing to rewrite to.
    let same = fixture.export(
        "type=image,rewrite-timestamp=true",
        std::slice::from_ref(&image),
    );
    assert!(
        layers(&fixture, &same, &image)
            .iter()
            .all(|(_, same)| *same)
    );
}
