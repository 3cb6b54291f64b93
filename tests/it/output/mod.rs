//! Outputs: each is read by something that is not ours, and every image goes before the judge.

#![expect(
    clippy::unwrap_used,
    reason = "what fails in a helper of a test fails the test"
)]
#![expect(clippy::print_stderr, reason = "a skipped test says why")]

mod archives;
mod conversions;
mod engine;
mod estargz;
mod files;
mod loading;
mod program;
mod provenance;
mod pushing;
mod sbom;

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output},
};

use rbuild::{
    layer::{Change, Content, WriteOptions, write_layer},
    oci::{ConfigFile, Descriptor, DiffId, Digester, History, MediaType, Platform, RootFs},
    output::{
        Annotation, Engine, Exported, Image, ImageLayer, LayerOrigin, Layers, OutputError,
        OutputSpec, Request, Services, StoredLayers, export, validate,
    },
    progress::{Silent, Vertex},
    reference::Reference,
    store::Store,
    tree::{Kind, Metadata, Timestamp},
};

/// The time of all files of the test images.
const MTIME: i64 = 1_700_000_000;

/// A store with an image of two layers, the lower one made by somebody else.
struct Fixture {
    dir: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(&dir.path().join("root")).expect("a new store opens");
        Self { dir, store }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// `etc/passwd`, `etc/gone`, `bin/tool` (setuid), `bin/alias` (a hard link to it), and what the upper layer does to them.
    fn image(&self, platform: &str) -> Image {
        let base = self.foreign_layer();
        let built = self.built_layer(vec![
            dir("etc"),
            Change::Remove {
                path: "etc/gone".into(),
            },
            file("etc/motd", "welcome\n", 0o640, 1000),
            dir("srv"),
            link("srv/passwd", "/etc/passwd"),
            node("srv/pipe", Kind::Fifo, 0o600),
        ]);
        assemble(platform, vec![base, built])
    }

    /// A layer as another program writes one: GNU headers, one gzip stream, a Docker media type.
    fn foreign_layer(&self) -> ImageLayer {
        let mut builder = tar::Builder::new(Vec::new());
        let mut put = |path: &str, kind: tar::EntryType, mode: u32, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_mode(mode);
            header.set_size(bytes.len() as u64);
            header.set_mtime(MTIME as u64);
            header.set_uid(0);
            header.set_gid(0);
            header.set_entry_type(kind);
            if kind == tar::EntryType::Link {
                header.set_link_name("bin/tool").expect("a short name");
            }
            builder
                .append_data(&mut header, path, bytes)
                .expect("an archive in memory");
        };
        put("etc/", tar::EntryType::Directory, 0o755, b"");
        put(
            "etc/passwd",
            tar::EntryType::Regular,
            0o644,
            b"root:x:0:0::/:/bin/sh\n",
        );
        put("etc/gone", tar::EntryType::Regular, 0o644, b"gone");
        put("bin/", tar::EntryType::Directory, 0o555, b"");
        put(
            "bin/tool",
            tar::EntryType::Regular,
            0o4755,
            &vec![7; 100_000],
        );
        put("bin/alias", tar::EntryType::Link, 0o4755, b"");
        let tar = builder.into_inner().expect("an archive in memory");
        let mut digester = Digester::new();
        digester.update(&tar);
        let diff_id = DiffId(digester.finish());
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&tar).expect("memory");
        let blob = encoder.finish().expect("memory");
        self.store.put_bytes(&blob).expect("a blob is stored");
        ImageLayer {
            diff_id,
            descriptor: Descriptor::of(MediaType::DOCKER_LAYER_GZIP, &blob),
            origin: LayerOrigin::Base,
        }
    }

    fn built_layer(&self, changes: Vec<Change>) -> ImageLayer {
        let mut writer = self.store.blob_writer().expect("a blob begins");
        let written = write_layer(changes, &mut writer, &WriteOptions::default())
            .expect("the changes are a layer");
        writer
            .commit_as(&written.descriptor)
            .expect("a blob is stored");
        ImageLayer {
            diff_id: written.diff_id,
            descriptor: written.descriptor,
            origin: LayerOrigin::Built,
        }
    }

    fn export(&self, spec: &str, images: &[Image]) -> Exported {
        self.try_export(spec, images, &[], &[], None)
            .unwrap_or_else(|error| panic!("{spec}: {error}"))
            .0
    }

    /// Makes an output and judges its image.
    fn try_export(
        &self,
        spec: &str,
        images: &[Image],
        names: &[Reference],
        annotations: &[Annotation],
        epoch: Option<i64>,
    ) -> Result<(Exported, Vec<u8>), OutputError> {
        let spec = OutputSpec::parse(spec).expect("the test's output is valid");
        let request = Request {
            names,
            annotations,
            epoch,
            now: MTIME + 5,
            ..request(images)
        };
        let layers = StoredLayers(&self.store);
        let services = services(&self.store, &layers);
        let mut stdout = Vec::new();
        let exported = export(&spec, &request, &services, &mut stdout)?;
        if let Some(image) = &exported.descriptor {
            assert_eq!(
                validate(&self.store, image).expect("the store is readable"),
                []
            );
        }
        Ok((exported, stdout))
    }
}

/// What outputs are given when nothing is asked for besides.
fn request(images: &[Image]) -> Request<'_> {
    Request {
        images,
        multi_platform: false,
        names: &[],
        annotations: &[],
        provenance: None,
        sboms: &[],
        epoch: None,
        now: 0,
    }
}

/// A store and layers alone: nobody to push, no engine.
fn services<'a>(store: &'a Store, layers: &'a dyn Layers) -> Services<'a> {
    Services {
        store,
        layers,
        pusher: None,
        engine: None,
        reporter: &Silent,
        vertex: Vertex(1),
    }
}

fn assemble(platform: &str, layers: Vec<ImageLayer>) -> Image {
    let history = layers
        .iter()
        .map(|layer| History {
            created: Some("2023-11-14T22:13:20Z".to_owned()),
            created_by: format!("{:?}", layer.origin),
            ..History::default()
        })
        .collect();
    Image {
        config: ConfigFile {
            created: Some("2023-11-14T22:13:20Z".to_owned()),
            platform: platform.parse::<Platform>().expect("a platform"),
            rootfs: RootFs {
                diff_ids: layers.iter().map(|layer| layer.diff_id).collect(),
                ..RootFs::default()
            },
            history,
            ..ConfigFile::default()
        },
        base_history: 1,
        layers,
    }
}

fn metadata(kind: Kind, mode: u32) -> Metadata {
    Metadata {
        kind,
        mode,
        ..Metadata::dir(Timestamp::from_seconds(MTIME))
    }
}

fn dir(path: &str) -> Change {
    Change::dir(path, metadata(Kind::Dir, 0o755))
}

fn node(path: &str, kind: Kind, mode: u32) -> Change {
    Change::Put {
        path: path.into(),
        metadata: metadata(kind, mode),
        content: Content::Empty,
    }
}

fn link(path: &str, target: &str) -> Change {
    let target = target.into();
    node(path, Kind::Symlink { target }, 0o777)
}

fn file(path: &str, text: &str, mode: u32, owner: u32) -> Change {
    let size = text.len() as u64;
    Change::Put {
        path: path.into(),
        metadata: Metadata {
            uid: owner,
            gid: owner,
            ..metadata(Kind::File { size }, mode)
        },
        content: Content::bytes(text.as_bytes()),
    }
}

fn reference(text: &str) -> Reference {
    Reference::parse(text).expect("the reference is valid")
}

/// Runs a program that may not be there; `None`, with the reason printed, when it is not.
fn oracle(program: &str, args: &[&str]) -> Option<Output> {
    match Command::new(program).args(args).output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("skipped: {program} cannot be run: {error}");
            None
        }
    }
}

/// [`oracle`], and the program has to succeed.
fn satisfied(program: &str, args: &[&str]) -> Option<String> {
    let output = oracle(program, args)?;
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
