use std::path::PathBuf;

use super::*;
use crate::{
    oci::{DiffId, sha256},
    plan::{Device, Origin, Script, Sharing, StageId},
    source::Span,
};

fn run_op() -> RunOp {
    RunOp {
        argv: vec!["/bin/sh".into(), "-c".into(), "make".into()],
        scripts: Vec::new(),
        env: vec![("PATH".into(), "/bin".into()), ("A".into(), "1".into())],
        args: Vec::new(),
        proxy_env: Vec::new(),
        user: String::new(),
        workdir: PathBuf::from("/src"),
        mounts: vec![
            mount(MountKind::Bind {
                from: Origin::Context,
                source: "src".into(),
                writable: false,
            }),
            mount(MountKind::Cache {
                id: "one".into(),
                sharing: Sharing::Shared,
                from: None,
                source: "/".into(),
                mode: 0o755,
                uid: 0,
                gid: 0,
                writable: true,
            }),
            mount(MountKind::Secret {
                id: "token".into(),
                env: None,
                required: false,
                mode: 0o400,
                uid: 0,
                gid: 0,
            }),
        ],
        network: None,
        insecure: false,
        devices: Vec::new(),
    }
}

fn mount(kind: MountKind) -> Mount {
    Mount {
        target: Some(PathBuf::from("/m")),
        kind,
        span: Span::default(),
    }
}

/// The whole of [`RunInputs`], owned, so that a test can change one thing.
struct Run {
    parent: Option<ChainId>,
    op: RunOp,
    platform: Platform,
    mounts: Vec<MountContent>,
    network: Network,
    hostname: Option<&'static str>,
    added_hosts: Vec<&'static str>,
    shm_size: Option<u64>,
    ulimits: Vec<Ulimit<'static>>,
    cgroup_parent: Option<&'static str>,
}

impl Run {
    fn new() -> Self {
        Self {
            parent: ChainId::of([DiffId(sha256(b"base"))]),
            op: run_op(),
            platform: "linux/amd64".parse().unwrap(),
            mounts: vec![
                MountContent::Files(sha256(b"src")),
                MountContent::Nothing,
                MountContent::Nothing,
            ],
            network: Network::Default,
            hostname: None,
            added_hosts: Vec::new(),
            shm_size: None,
            ulimits: Vec::new(),
            cgroup_parent: None,
        }
    }

    fn key(&self) -> Digest {
        *run_key(&RunInputs {
            parent: self.parent,
            op: &self.op,
            platform: &self.platform,
            mounts: &self.mounts,
            network: self.network,
            hostname: self.hostname,
            added_hosts: &self.added_hosts,
            shm_size: self.shm_size,
            ulimits: &self.ulimits,
            cgroup_parent: self.cgroup_parent,
        })
        .digest()
    }

    fn with(change: impl FnOnce(&mut Self)) -> Digest {
        let mut run = Self::new();
        change(&mut run);
        run.key()
    }
}

#[test]
fn all_that_a_process_can_tell_is_in_its_key() {
    let set_mount = |n: usize, kind: MountKind| move |run: &mut Run| run.op.mounts[n].kind = kind;
    let cache = |mode, uid, writable| MountKind::Cache {
        id: "one".into(),
        sharing: Sharing::Shared,
        from: None,
        source: "/".into(),
        mode,
        uid,
        gid: 0,
        writable,
    };
    let mut keys = vec![
        Run::new().key(),
        Run::with(|run| run.parent = None),
        Run::with(|run| run.parent = ChainId::of([DiffId(sha256(b"other"))])),
        Run::with(|run| run.platform = "linux/arm64".parse().unwrap()),
        Run::with(|run| run.op.argv[2] = "make ".into()),
        Run::with(|run| run.op.argv = vec!["make".into()]),
        Run::with(|run| {
            run.op.scripts = vec![Script {
                name: "EOF".into(),
                content: "x".into(),
            }];
        }),
        Run::with(|run| run.op.env[1].1 = "2".into()),
        Run::with(|run| run.op.env.swap(0, 1)),
        Run::with(|run| run.op.env.push(("B".into(), String::new()))),
        Run::with(|run| run.op.user = "app".into()),
        Run::with(|run| run.op.workdir = "/".into()),
        Run::with(|run| run.op.network = Some(Network::None)),
        Run::with(|run| run.network = Network::Host),
        Run::with(|run| run.op.insecure = true),
        Run::with(|run| {
            run.op.devices = vec![Device {
                name: "gpu".into(),
                required: true,
            }];
        }),
        Run::with(|run| run.hostname = Some("h")),
        Run::with(|run| run.added_hosts = vec!["h"]),
        Run::with(|run| run.shm_size = Some(1 << 20)),
        Run::with(|run| {
            run.ulimits = vec![Ulimit {
                name: "nofile",
                soft: 1,
                hard: 2,
            }];
        }),
        Run::with(|run| run.cgroup_parent = Some("/x")),
        Run::with(|run| run.op.mounts[0].target = Some("/n".into())),
        Run::with(|run| run.mounts[0] = MountContent::Files(sha256(b"changed"))),
        Run::with(|run| run.mounts[1] = MountContent::Files(sha256(b"seed"))),
        Run::with(set_mount(1, cache(0o700, 0, true))),
        Run::with(set_mount(1, cache(0o755, 1, true))),
        Run::with(set_mount(1, cache(0o755, 0, false))),
        Run::with(set_mount(
            0,
            MountKind::Tmpfs {
                size: None,
                writable: true,
            },
        )),
        Run::with(set_mount(
            0,
            MountKind::Tmpfs {
                size: Some(1),
                writable: true,
            },
        )),
        Run::with(set_mount(
            0,
            MountKind::Tmpfs {
                size: None,
                writable: false,
            },
        )),
        Run::with(|run| run.op.mounts.truncate(2)),
        Run::with(|run| {
            let MountKind::Secret { id, .. } = &mut run.op.mounts[2].kind else {
                panic!("the third mount is a secret");
            };
            *id = "other".into();
        }),
    ];
    let n = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), n, "two different steps have one key");
}

#[test]
fn what_must_not_matter_is_not_in_the_key_of_a_run() {
    let same = Run::new().key();
    assert_eq!(
        same,
        Run::with(|run| run.op.proxy_env = vec![("http_proxy".into(), "http://p".into())])
    );
    assert_eq!(
        same,
        Run::with(|run| run.op.network = Some(Network::Default)),
        "the network asked for is the one that was the default"
    );
    assert_eq!(
        same,
        Run::with(|run| {
            run.op.mounts[0].kind = MountKind::Bind {
                from: Origin::Stage(StageId(3)),
                source: "elsewhere".into(),
                writable: false,
            };
            run.op.mounts[0].span = Span::new(1, 2);
        })
    );
    assert_eq!(
        same,
        Run::with(|run| {
            let MountKind::Cache { id, sharing, .. } = &mut run.op.mounts[1].kind else {
                panic!("the second mount is a cache");
            };
            (*id, *sharing) = ("two".into(), Sharing::Locked);
        })
    );
}

fn copy_op() -> CopyOp {
    CopyOp::of_paths(CopyVerb::Copy, &["dir/a"], "/x/")
}

fn copy(change: impl FnOnce(&mut CopyOp)) -> Digest {
    let mut op = copy_op();
    change(&mut op);
    let inputs = CopyInputs {
        parent: None,
        op: &op,
        content: sha256(b"content"),
        owner: None,
    };
    *copy_key(&inputs).digest()
}

#[test]
fn all_that_shapes_a_copy_is_in_its_key() {
    let op = copy_op();
    let base = CopyInputs {
        parent: None,
        op: &op,
        content: sha256(b"content"),
        owner: None,
    };
    let parent = ChainId::of([DiffId(sha256(b"base"))]);
    let content = sha256(b"changed");
    let owner = Some((1, 2));
    let mut keys = vec![
        copy(|_| ()),
        *copy_key(&CopyInputs { parent, ..base }).digest(),
        *copy_key(&CopyInputs { content, ..base }).digest(),
        *copy_key(&CopyInputs { owner, ..base }).digest(),
        copy(|op| op.verb = CopyVerb::Add),
        copy(|op| op.sources = vec![CopySource::Path("dir/b".into())]),
        copy(|op| op.sources = vec![CopySource::Path("dir/a/".into())]),
        copy(|op| op.sources = vec![CopySource::Url("http://h/a".into())]),
        copy(|op| op.sources = vec![CopySource::Git("http://h/a".into())]),
        copy(|op| op.sources.push(CopySource::Path("b".into()))),
        copy(|op| op.dest = "/x".into()),
        copy(|op| op.chmod = Some(Chmod::parse("755").unwrap())),
        copy(|op| op.link = true),
        copy(|op| op.parents = true),
        copy(|op| op.exclude = vec!["*.log".into()]),
        copy(|op| op.checksum = Some("sha256:0".into())),
        copy(|op| op.keep_git_dir = Some(true)),
        copy(|op| op.unpack = Some(false)),
        copy(|op| op.unpack = Some(true)),
    ];
    let n = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), n, "two different steps have one key");
}

#[test]
fn where_copied_files_were_found_does_not_matter() {
    let same = copy(|_| ());
    assert_eq!(same, copy(|op| op.from = Origin::Named("other".into())));
    assert_eq!(
        same,
        copy(|op| op.sources = vec![CopySource::Path("elsewhere/a".into())])
    );
    assert_ne!(
        copy(|op| op.parents = true),
        copy(|op| {
            op.parents = true;
            op.sources = vec![CopySource::Path("elsewhere/a".into())];
        })
    );
}

#[test]
fn a_directory_is_made_for_its_owner() {
    let op = WorkdirOp {
        path: "/w".into(),
        user: "app".into(),
        time: None,
    };
    let key = |owner| {
        *workdir_key(&WorkdirInputs {
            parent: None,
            op: &op,
            owner,
        })
        .digest()
    };
    assert_ne!(key((0, 0)), key((1, 1)));
    let renamed = WorkdirOp {
        user: "1".into(),
        ..op.clone()
    };
    let by_number = workdir_key(&WorkdirInputs {
        parent: None,
        op: &renamed,
        owner: (1, 1),
    });
    assert_eq!(*by_number.digest(), key((1, 1)));
    let dated = WorkdirOp {
        time: Some(0),
        ..op.clone()
    };
    let at_epoch = workdir_key(&WorkdirInputs {
        parent: None,
        op: &dated,
        owner: (1, 1),
    });
    assert_ne!(*at_epoch.digest(), key((1, 1)));
}
