//! Roots that are set up before it is known what runs in them.

use std::{fs, path::PathBuf};

use rbuild::sandbox::{Cancel, Exit, IdMap, MountKind, MountSpec, Rootfs};

use super::{Stage, sandbox};

#[test]
fn a_step_runs_in_what_was_set_up_on_the_one_before() {
    let Some(stage) = Stage::new() else { return };
    let (sandbox, cancel) = (sandbox(), Cancel::new().unwrap());
    for (turn, is_taken) in [(0, true), (1, false), (2, true)] {
        // The helper that has run this step sets up the next one.
        let first = stage.spec("echo first >/first; touch /dev/shm/x");
        let first = stage.run_in(&sandbox, &first, &cancel).unwrap();
        assert_eq!(first.exit, Exit::Code(0), "{first:?}");
        let place = |name: &str| stage.path(&format!("{name}-{turn}"));
        let (upper, work) = (place("next-upper"), place("next-work"));
        for dir in [&upper, &work] {
            fs::create_dir(dir).unwrap();
        }
        let mut spec = stage.spec("cat /first /in; ls /dev/shm; stat -c %a /made; echo next >/out");
        let userxattr = IdMap::current().unwrap().needs_userxattr();
        let on = |lower: Vec<PathBuf>| Rootfs::Overlay {
            lower,
            upper: upper.clone(),
            work: work.clone(),
            userxattr,
        };
        spec.rootfs = on(vec![stage.path("lower")]);
        let set_up = sandbox.set_up(&spec, &stage.path("upper"));
        assert!(set_up.is_some(), "a helper waits");
        // The state of the first step gets its name.
        fs::rename(stage.path("upper"), place("state")).unwrap();
        fs::create_dir(stage.path("upper")).unwrap();
        let set_up = set_up.filter(|_| is_taken);
        spec.rootfs = on(if is_taken {
            // Nothing is set up anew.
            vec![PathBuf::from("/nowhere/at/all")]
        } else {
            vec![place("state"), stage.path("lower")]
        });
        // Of the step's own mounts nothing was known then.
        let bytes = |mode, content: &str| MountKind::Bytes {
            content: content.as_bytes().to_vec(),
            mode,
            uid: 0,
            gid: 0,
        };
        spec.mounts = vec![
            MountSpec::new("/in", bytes(0o644, "mounted\n")),
            MountSpec::new("/made", bytes(0o400, "")),
        ];
        let mut stdout = Vec::new();
        let mut sink = |_, bytes: &[u8]| stdout.extend_from_slice(bytes);
        let exit = sandbox.run_in(set_up, &spec, &cancel, &mut sink, &mut || {});
        assert_eq!(exit.unwrap(), Exit::Code(0));
        let stdout = String::from_utf8(stdout).unwrap();
        assert_eq!(stdout, "first\nmounted\n400\n", "turn {turn}");
        assert_eq!(fs::read(upper.join("out")).unwrap(), b"next\n");
        for absent in ["in", "made", "first"] {
            assert!(!upper.join(absent).try_exists().unwrap(), "{absent}");
        }
    }
}
