//! `type=oci` and `type=docker`, `type=image`, and `save`.

use std::{collections::BTreeMap, fs, io::Read as _};

use oci_spec::image::{ImageConfiguration, ImageIndex, ImageManifest};
use rbuild::{
    oci::sha256,
    output::{AnnotationPlace, ArchiveFormat, Dest, SavedImage, save},
};

use serde_json::Value;

use super::*;

/// The files of an archive, in order, as the `tar` crate reads them.
fn unpack(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(bytes);
    archive
        .entries()
        .expect("an archive")
        .map(|entry| {
            let mut entry = entry.expect("an entry");
            assert_eq!(entry.header().mtime().unwrap(), 0);
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("its content");
            (
                entry.path().unwrap().to_string_lossy().into_owned(),
                content,
            )
        })
        .collect()
}

#[test]
fn an_oci_archive_is_a_layout_that_others_read() {
    let fixture = Fixture::new();
    let image = fixture.image("linux/amd64");
    let names = [reference("app:v1"), reference("ghcr.io/x/app:v2")];
    let path = fixture.path("out.tar");
    let spec = format!("type=oci,dest={}", path.display());
    let (exported, _) = fixture
        .try_export(&spec, std::slice::from_ref(&image), &names, &[], None)
        .unwrap();
    let bytes = fs::read(&path).unwrap();
    let files = unpack(&bytes);
    let paths: Vec<_> = files.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths[..2], ["blobs/", "blobs/sha256/"]);
    assert!(paths.is_sorted(), "{paths:?}");
    assert_eq!(paths[paths.len() - 2..], ["index.json", "oci-layout"]);
    let files: BTreeMap<_, _> = files.into_iter().collect();
    for (path, content) in &files {
        if let Some(hex) = path
            .strip_prefix("blobs/sha256/")
            .filter(|hex| !hex.is_empty())
        {
            assert_eq!(sha256(content).hex(), hex);
        }
    }
    let index = ImageIndex::from_reader(&files["index.json"][..]).unwrap();
    let entries: Vec<_> = index
        .manifests()
        .iter()
        .map(|entry| {
            let annotations = entry.annotations().clone().unwrap();
            let get = |key: &str| annotations[key].clone();
            (
                get("io.containerd.image.name"),
                get("org.opencontainers.image.ref.name"),
                get("org.opencontainers.image.created"),
            )
        })
        .collect();
    let entry = |name: &str, tag: &str| {
        (
            name.to_owned(),
            tag.to_owned(),
            "2023-11-14T22:13:25Z".to_owned(),
        )
    };
    assert_eq!(
        entries,
        [
            entry("docker.io/library/app:v1", "v1"),
            entry("ghcr.io/x/app:v2", "v2")
        ]
    );
    let blob = |digest: &str| &files[&format!("blobs/sha256/{}", &digest["sha256:".len()..])][..];
    let manifest =
        ImageManifest::from_reader(blob(index.manifests()[0].digest().as_ref())).unwrap();
    let media_types: Vec<_> = manifest
        .layers()
        .iter()
        .map(|layer| layer.media_type().to_string())
        .collect();
    assert_eq!(media_types, [MediaType::OCI_LAYER_GZIP.as_str(); 2]);
    let config =
        ImageConfiguration::from_reader(blob(manifest.config().digest().as_ref())).unwrap();
    let diff_ids: Vec<_> = image.layers.iter().map(|l| l.diff_id.to_string()).collect();
    assert_eq!(config.rootfs().diff_ids(), &diff_ids);
    assert_eq!(
        exported.image_id().unwrap().to_string(),
        manifest.config().digest().to_string()
    );

    // The same to standard output, byte for byte.
    let (_, stdout) = fixture
        .try_export("type=oci,dest=-", &[image], &names, &[], None)
        .unwrap();
    assert!(stdout == bytes, "two exports differ");

    let source = format!("oci-archive:{}:v1", path.display());
    if let Some(json) = satisfied("skopeo", &["inspect", &source]) {
        assert!(
            json.contains(&exported.descriptor.unwrap().digest.to_string()),
            "{json}"
        );
    }
}

#[test]
fn an_oci_directory_unpacks_with_umoci() {
    let fixture = Fixture::new();
    let image = fixture.image("linux/amd64");
    let layout = fixture.path("layout");
    let spec = format!("type=oci,tar=false,name=app:v1,dest={}", layout.display());
    fixture.export(&spec, std::slice::from_ref(&image));
    // Once more, into the directory that is there.
    fixture.export(&spec, &[image]);
    let bundle = fixture.path("bundle");
    let source = format!("{}:v1", layout.display());
    let target = bundle.to_str().unwrap();
    let args = ["unpack", "--rootless", "--image", &source, target];
    if satisfied("umoci", &args).is_some() {
        assert_eq!(text(&bundle.join("rootfs/etc/motd")), "welcome\n");
        assert!(!bundle.join("rootfs/etc/gone").try_exists().unwrap());
    }
}

#[test]
fn a_directory_keeps_the_images_that_it_has() {
    let fixture = Fixture::new();
    let image = fixture.image("linux/amd64");
    let layout = fixture.path("layout");
    let names = || -> Vec<Value> {
        let index: Value = serde_json::from_str(&text(&layout.join("index.json"))).expect("JSON");
        let entries = index["manifests"].as_array().expect("a list").iter();
        entries
            .map(|entry| entry["annotations"]["org.opencontainers.image.ref.name"].clone())
            .collect()
    };
    let export = |attributes: &str| {
        let spec = format!("type=oci,tar=false,dest={}{attributes}", layout.display());
        fixture.export(&spec, std::slice::from_ref(&image));
    };
    // As in BuildKit, what has no name is the latest.
    export("");
    assert_eq!(names(), ["latest"]);
    export(",name=app:v1");
    export(",name=app:v2");
    export("");
    export(",name=app:v1");
    assert_eq!(names(), ["v2", "latest", "v1"]);
    fs::write(layout.join("index.json"), "{").unwrap();
    let spec = format!("type=oci,tar=false,dest={}", layout.display());
    let images = [image];
    let result = fixture.try_export(&spec, &images, &[], &[], None);
    assert!(result.is_err(), "a broken index is not replaced");
}

#[test]
fn a_docker_archive_loads_elsewhere() {
    let fixture = Fixture::new();
    let image = fixture.image("linux/amd64");
    let path = fixture.path("docker.tar");
    let spec = format!("type=docker,name=app:v1,dest={}", path.display());
    let exported = fixture.export(&spec, std::slice::from_ref(&image));
    assert_eq!(
        exported.descriptor.unwrap().media_type,
        MediaType::OCI_MANIFEST
    );
    let files: BTreeMap<_, _> = unpack(&fs::read(&path).unwrap()).into_iter().collect();
    let manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    assert_eq!(manifest[0]["RepoTags"], serde_json::json!(["app:v1"]));
    for path in manifest[0]["Layers"].as_array().unwrap() {
        assert!(files.contains_key(path.as_str().unwrap()));
    }
    assert!(files.contains_key(manifest[0]["Config"].as_str().unwrap()));
    let source = format!("docker-archive:{}:app:v1", path.display());
    let target = format!("oci:{}:x", fixture.path("copied").display());
    if satisfied(
        "skopeo",
        &["copy", "-q", "--insecure-policy", &source, &target],
    )
    .is_some()
    {
        let json = satisfied("skopeo", &["inspect", "--config", &target]).unwrap();
        assert!(
            json.contains(&image.layers[1].diff_id.to_string()),
            "{json}"
        );
    }
}

#[test]
fn several_platforms_are_an_index() {
    let fixture = Fixture::new();
    let images = [fixture.image("linux/amd64"), fixture.image("linux/arm64")];
    let exported = fixture.export("type=image,name=app", &images);
    let root = exported.descriptor.clone().unwrap();
    assert_eq!(root.media_type, MediaType::OCI_INDEX);
    assert_eq!(exported.config, None);
    assert_eq!(exported.image_id(), Some(root.digest));
    let index: rbuild::oci::Index = fixture.store.read_json(&root).unwrap();
    let platforms: Vec<_> = index
        .manifests
        .iter()
        .map(|m| m.platform.as_ref().unwrap().to_string())
        .collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
    let tagged = fixture.store.tag(&reference("app")).unwrap();
    assert_eq!(tagged, Some(root));
    let refused = fixture.try_export("type=docker,dest=-", &images, &[], &[], None);
    assert!(matches!(refused, Err(OutputError::DockerIndex)));
}

#[test]
fn one_platform_can_be_an_index_too() {
    let fixture = Fixture::new();
    let images = [fixture.image("linux/amd64")];
    let layers = StoredLayers(&fixture.store);
    let services = services(&fixture.store, &layers);
    let request = Request {
        multi_platform: true,
        ..request(&images)
    };
    let exported = export(&OutputSpec::store(), &request, &services, &mut Vec::new()).unwrap();
    assert!(exported.descriptor.unwrap().media_type.is_index());
}

fn annotation(place: AnnotationPlace, platform: Option<&str>, value: &str) -> Annotation {
    Annotation {
        place,
        platform: platform.map(|p| p.parse().unwrap()),
        key: "org.example.k".to_owned(),
        value: value.to_owned(),
    }
}

#[test]
fn annotations_go_where_they_are_meant() {
    use AnnotationPlace::{Index, IndexDescriptor, Manifest, ManifestDescriptor};
    let fixture = Fixture::new();
    let images = [fixture.image("linux/amd64"), fixture.image("linux/arm64")];
    let annotations = [
        annotation(Manifest, Some("linux/arm64"), "arm"),
        annotation(Manifest, None, "all"),
        annotation(ManifestDescriptor, None, "to manifest"),
        annotation(Index, None, "index"),
        annotation(IndexDescriptor, None, "to index"),
    ];
    let (exported, _) = fixture
        .try_export("type=image", &images, &[], &annotations, None)
        .unwrap();
    let root = exported.descriptor.unwrap();
    let key = "org.example.k";
    assert_eq!(root.annotations[key], "to index");
    let index: rbuild::oci::Index = fixture.store.read_json(&root).unwrap();
    assert_eq!(index.annotations[key], "index");
    let values: Vec<_> = index
        .manifests
        .iter()
        .map(|m| {
            let manifest: rbuild::oci::Manifest = fixture.store.read_json(m).unwrap();
            (
                m.annotations[key].clone(),
                manifest.annotations[key].clone(),
            )
        })
        .collect();
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(
        values,
        [pair("to manifest", "all"), pair("to manifest", "arm")]
    );

    let one = &images[..1];
    let refuse = |spec: &str, annotation: Annotation| {
        fixture
            .try_export(spec, one, &[], &[annotation], None)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refuse("type=image", annotation(Index, None, "x")),
        "annotation `org.example.k` is for an index; an image for a single platform has none"
    );
    assert_eq!(
        refuse("type=image", annotation(Manifest, Some("linux/s390x"), "x")),
        "annotation `org.example.k` is for linux/s390x, which is not built"
    );
    assert_eq!(
        refuse(
            "type=image,oci-mediatypes=false",
            annotation(Manifest, None, "x")
        ),
        "annotation `org.example.k` needs OCI media types; leave out `oci-mediatypes=false`"
    );
}

#[test]
fn names_of_the_command_line_win() {
    let fixture = Fixture::new();
    let image = [fixture.image("linux/amd64")];
    let names = [reference("mine")];
    let (exported, _) = fixture
        .try_export("type=image,name=theirs", &image, &names, &[], None)
        .unwrap();
    assert_eq!(exported.names, [reference("mine:latest")]);
    assert_eq!(fixture.store.tag(&reference("theirs")).unwrap(), None);
}

#[test]
fn a_failed_archive_leaves_nothing() {
    let fixture = Fixture::new();
    let image = fixture.image("linux/amd64");
    fs::remove_file(fixture.store.blob_path(&image.layers[0].descriptor.digest)).unwrap();
    let path = fixture.path("out.tar");
    let spec = format!("type=oci,dest={}", path.display());
    let error = fixture
        .try_export(&spec, std::slice::from_ref(&image), &[], &[], None)
        .unwrap_err();
    let digest = image.layers[0].descriptor.digest;
    assert_eq!(error.to_string(), format!("cannot get layer {digest}"));
    let nowhere = fixture.path("no/such/dir/out.tar");
    let spec = format!("type=oci,dest={}", nowhere.display());
    let whole = fixture.image("linux/amd64");
    let error = fixture
        .try_export(&spec, &[whole], &[], &[], None)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot create `{}`", nowhere.display())
    );
    let left: Vec<_> = fs::read_dir(fixture.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["root"]);
}

#[test]
fn save_writes_several_images() {
    let fixture = Fixture::new();
    let one = fixture.export("type=image,name=one", &[fixture.image("linux/amd64")]);
    let two = fixture.export("type=image,name=two", &[fixture.image("linux/arm64")]);
    let images = [one, two].map(|exported| SavedImage {
        descriptor: exported.descriptor.unwrap(),
        names: exported.names,
    });
    for format in [ArchiveFormat::Oci, ArchiveFormat::Docker] {
        let mut stdout = Vec::new();
        save(
            &fixture.store,
            &images,
            format,
            &Dest::Stdout,
            0,
            &mut stdout,
        )
        .unwrap();
        let files: BTreeMap<_, _> = unpack(&stdout).into_iter().collect();
        let index: serde_json::Value = serde_json::from_slice(&files["index.json"]).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
        assert_eq!(
            files.contains_key("manifest.json"),
            format == ArchiveFormat::Docker
        );
    }
}

#[test]
fn a_link_stays_and_the_archive_is_where_it_leads() {
    let fixture = Fixture::new();
    let (link, file) = (fixture.path("link"), fixture.path("file"));
    fs::write(&file, "old").unwrap();
    std::os::unix::fs::symlink("file", &link).unwrap();
    let image = fixture.image("linux/amd64");
    fixture.export(&format!("type=oci,dest={}", link.display()), &[image]);
    assert_eq!(fs::read_link(&link).unwrap().to_str(), Some("file"));
    assert!(fs::metadata(&file).unwrap().len() > 1000);
}
