//! A process in the root of an image of the store: what a build's last step would see, as a container engine would start
//! it. What it changes goes away with it.

use std::{
    ffi::OsString,
    fs::File,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    error::StepError,
    foreign,
    ground::{Ground, Left, Room},
};
use crate::{
    copy,
    layer::{LayerBlob, LayerTree, Toc},
    oci::{Config, ConfigFile, Descriptor, DiffId, Manifest},
    progress::Stream,
    sandbox::{
        self, Cancel, Exit, MountSpec, Network, ProcessSpec, Refusal, Rung, Sandbox, Signals,
        Streams,
    },
    snapshot::Snapshots,
    store::{LayerRecord, Store},
};

/// What a command line may say against an image's config.
#[derive(Debug, Clone, Default)]
pub struct Container {
    /// Instead of the entrypoint, and of the command with it; an empty one is none.
    pub entrypoint: Option<String>,
    /// Instead of the command, if there is any.
    pub args: Vec<OsString>,
    /// Variables, after the image's own.
    pub env: Vec<(OsString, OsString)>,
    /// Instead of the user: a name or number, optionally with a group.
    pub user: Option<String>,
    /// Instead of the working directory; an absolute path.
    pub workdir: Option<PathBuf>,
    /// Directories and files to mount.
    pub mounts: Vec<MountSpec>,
    /// Whether there is no network.
    pub no_network: bool,
    /// The host name.
    pub hostname: String,
    /// Lines for `/etc/hosts`.
    pub add_hosts: Vec<(String, IpAddr)>,
    /// Servers of names.
    pub resolv_conf: Vec<u8>,
    /// Where the standard streams lead.
    pub streams: Streams,
}

/// What it takes to start one.
#[derive(Debug)]
pub struct ContainerServices<'a> {
    /// Where the image is.
    pub store: &'a Store,
    /// Where its root is put together.
    pub snapshots: &'a Snapshots,
    /// Runs the process.
    pub sandbox: &'a Sandbox,
    /// In which way, or why it cannot.
    pub rung: &'a Result<Rung, Refusal>,
    /// Kills it.
    pub cancel: &'a Cancel,
    /// Signals for it.
    pub signals: &'a Signals,
}

/// The program and its arguments; empty when neither image nor command line name one.
fn argv(container: &Container, config: &Config) -> Vec<OsString> {
    let words = |words: &Option<Vec<String>>| -> Vec<OsString> {
        words.iter().flatten().map(OsString::from).collect()
    };
    let (mut argv, keeps_command) = match &container.entrypoint {
        Some(program) if program.is_empty() => (Vec::new(), false),
        Some(program) => (vec![OsString::from(program)], false),
        None => (words(&config.entrypoint), true),
    };
    if !container.args.is_empty() {
        argv.extend(container.args.iter().cloned());
    } else if keeps_command {
        argv.extend(words(&config.cmd));
    }
    argv
}

/// The environment: defaults, the image's, the command line's.
fn environment(container: &Container, config: &Config, home: &str) -> Vec<(OsString, OsString)> {
    let mut env: Vec<(OsString, OsString)> = vec![
        ("PATH".into(), super::run_step::DEFAULT_PATH.into()),
        ("HOSTNAME".into(), OsString::from(&container.hostname)),
    ];
    if container.streams == Streams::Same {
        env.push(("TERM".into(), "xterm".into()));
    }
    env.push(("HOME".into(), home.into()));
    env.extend(config.env.iter().filter_map(|variable| {
        let (name, value) = variable.split_once('=')?;
        Some((name.into(), value.into()))
    }));
    env.extend(container.env.iter().cloned());
    env
}

/// Runs it to its end; hands its output to `sink` unless the streams are this program's own.
pub fn run_container(
    manifest: &Manifest,
    config: &ConfigFile,
    container: &Container,
    services: &ContainerServices<'_>,
    sink: &mut dyn FnMut(Stream, &[u8]),
) -> Result<Exit, StepError> {
    let rung = match services.rung {
        Ok(rung) => *rung,
        Err(refusal) => return Err(StepError::NoSandbox(refusal.clone())),
    };
    let argv = argv(container, &config.config);
    if argv.is_empty() {
        return Err(StepError::NoProgram);
    }
    let tree = tree(services.store, manifest, config)?;
    let user = container.user.as_ref().unwrap_or(&config.config.user);
    let user = copy::find_user(user, &tree).map_err(|source| StepError::User {
        command: argv[0].to_string_lossy().into_owned(),
        source,
    })?;
    let workdir = match &container.workdir {
        Some(path) => path.clone(),
        None => Path::new("/").join(&config.config.working_dir),
    };
    let (ground, _) = Ground::prepare(
        services.snapshots,
        rung,
        &Left::default(),
        (&tree, None),
        Room::None,
    )?;
    let spec = ProcessSpec {
        env: environment(container, &config.config, &user.home),
        cwd: workdir,
        uid: user.uid,
        gid: user.gid,
        groups: super::run_step::groups(user.gid, &user.groups),
        hostname: container.hostname.clone(),
        network: if container.no_network {
            Network::None
        } else {
            Network::Host
        },
        mounts: container.mounts.clone(),
        etc_hosts: Some(sandbox::etc_hosts(
            &container.hostname,
            &container.add_hosts,
        )),
        resolv_conf: Some(container.resolv_conf.clone()),
        streams: container.streams,
        ..ProcessSpec::new(ground.rootfs(), argv)
    };
    let signals = Some(services.signals);
    let exit = services
        .sandbox
        .run_with(&spec, services.cancel, signals, sink)?;
    if let Exit::NotStarted { reason, .. } = &exit {
        foreign::explain(&config.platform, reason)?;
    }
    Ok(exit)
}

/// The files of an image whose layers are all in the store.
fn tree(store: &Store, manifest: &Manifest, config: &ConfigFile) -> Result<LayerTree, StepError> {
    let pairs = manifest.layers.iter().zip(&config.rootfs.diff_ids);
    let mut tree = LayerTree::empty();
    for (descriptor, diff_id) in pairs {
        let blob = layer(store, descriptor, *diff_id)?;
        tree = tree.push(blob).map_err(|source| StepError::Stack {
            layer: descriptor.digest,
            source,
        })?;
    }
    Ok(tree)
}

fn layer(
    store: &Store,
    descriptor: &Descriptor,
    diff_id: DiffId,
) -> Result<Arc<LayerBlob>, StepError> {
    let digest = descriptor.digest;
    let record = store.layer_record_of(diff_id, &digest)?;
    let known = record.and_then(|record| Toc::from_bytes(&record.toc).ok());
    let blob = store.open_blob(&digest)?;
    let toc = match known {
        Some(toc) => toc,
        None => read_toc(store, blob, descriptor, diff_id)?,
    };
    let scratch = Some(store.scratch_dir().to_owned());
    Ok(LayerBlob::new(
        Arc::new(toc),
        store.blob_path(&digest),
        scratch,
    ))
}

/// Reads a layer once, and remembers what is in it.
fn read_toc(
    store: &Store,
    blob: File,
    descriptor: &Descriptor,
    diff_id: DiffId,
) -> Result<Toc, StepError> {
    let layer = descriptor.digest;
    let toc = Toc::read(blob).map_err(|source| StepError::Archive { layer, source })?;
    if toc.diff_id != diff_id {
        return Err(StepError::DiffId {
            layer,
            expected: diff_id,
            actual: toc.diff_id,
        });
    }
    store.put_layer(&LayerRecord {
        diff_id,
        descriptor: descriptor.clone(),
        toc: toc.to_bytes(),
    })?;
    Ok(toc)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(entrypoint: Option<&str>, args: &[&str]) -> Container {
        Container {
            entrypoint: entrypoint.map(ToOwned::to_owned),
            args: args.iter().map(OsString::from).collect(),
            ..Container::default()
        }
    }

    #[test]
    fn entrypoint_and_command_join_as_in_docker() {
        let config = Config {
            entrypoint: Some(vec!["/entry".to_owned()]),
            cmd: Some(vec!["a".to_owned(), "b".to_owned()]),
            ..Config::default()
        };
        for (entrypoint, args, want) in [
            (None, &[][..], &["/entry", "a", "b"][..]),
            (None, &["c"], &["/entry", "c"]),
            (Some("/other"), &[], &["/other"]),
            (Some("/other"), &["c"], &["/other", "c"]),
            (Some(""), &["c"], &["c"]),
            (Some(""), &[], &[]),
        ] {
            assert_eq!(argv(&container(entrypoint, args), &config), want);
        }
    }

    #[test]
    fn the_command_line_has_the_last_word_about_variables() {
        let config = Config {
            env: vec!["PATH=/image".to_owned(), "A=1".to_owned()],
            ..Config::default()
        };
        let mut container = container(None, &[]);
        container.env = vec![("A".into(), "2".into())];
        let env = environment(&container, &config, "/home/u");
        let value = |name: &str| {
            env.iter()
                .rev()
                .find(|(key, _)| key == name)
                .map(|(_, v)| v)
        };
        assert_eq!(value("A"), Some(&OsString::from("2")));
        assert_eq!(value("PATH"), Some(&OsString::from("/image")));
        assert_eq!(value("HOME"), Some(&OsString::from("/home/u")));
        assert_eq!(value("TERM"), None);
    }
}
