//! `type=tar` and `type=local`.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink},
};

use super::*;

/// An archive as lines: type, mode, owner, name, link target.
fn listing(bytes: &[u8]) -> Vec<String> {
    tar::Archive::new(bytes)
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            let link = entry
                .link_name()
                .unwrap()
                .map(|link| format!(" -> {}", link.display()))
                .unwrap_or_default();
            format!(
                "{} {:04o} {}:{} {}{link}",
                char::from(header.entry_type().as_byte()),
                header.mode().unwrap(),
                header.uid().unwrap(),
                header.gid().unwrap(),
                entry.path().unwrap().display(),
            )
        })
        .collect()
}

#[test]
fn a_tar_has_the_files_of_all_layers() {
    let fixture = Fixture::new();
    let image = fixture.image("linux/amd64");
    let (_, stdout) = fixture
        .try_export("-", std::slice::from_ref(&image), &[], &[], None)
        .unwrap();
    assert_eq!(
        listing(&stdout),
        [
            "5 0555 0:0 bin/",
            "0 4755 0:0 bin/alias",
            "1 4755 0:0 bin/tool -> bin/alias",
            "5 0755 0:0 etc/",
            "0 0640 1000:1000 etc/motd",
            "0 0644 0:0 etc/passwd",
            "5 0755 0:0 srv/",
            "2 0777 0:0 srv/passwd -> /etc/passwd",
            "6 0600 0:0 srv/pipe",
        ]
    );
    let path = fixture.path("out.tar");
    fixture.export(&format!("type=tar,dest={}", path.display()), &[image]);
    assert!(fs::read(&path).unwrap() == stdout, "two exports differ");
}

#[test]
fn a_tar_of_several_platforms_has_a_directory_for_each() {
    let fixture = Fixture::new();
    let images = [fixture.image("linux/amd64"), fixture.image("linux/arm/v7")];
    let (_, stdout) = fixture
        .try_export("-", &images, &[], &[], Some(1000))
        .unwrap();
    let lines = listing(&stdout);
    assert_eq!(lines.len(), 20);
    assert!(
        lines.contains(&"5 0755 0:0 linux_amd64/".to_owned()),
        "{lines:?}"
    );
    assert!(
        lines.contains(&"1 4755 0:0 linux_arm_v7/bin/tool -> linux_arm_v7/bin/alias".to_owned())
    );
    for entry in tar::Archive::new(&stdout[..]).entries().unwrap() {
        assert_eq!(entry.unwrap().header().mtime().unwrap(), 1000);
    }
}

#[test]
fn a_directory_gets_the_files_as_the_caller() {
    let fixture = Fixture::new();
    let image = [fixture.image("linux/amd64")];
    let out = fixture.path("out");
    fixture.export(out.to_str().unwrap(), &image);
    let stat = |path: &str| fs::symlink_metadata(out.join(path)).unwrap();
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(stat("etc/motd").mode() & 0o7777, 0o640);
    assert_eq!(stat("etc/motd").uid(), uid);
    assert_eq!(stat("etc/motd").mtime(), MTIME);
    assert_eq!(stat("bin").mode() & 0o7777, 0o555);
    assert_eq!(stat("bin").mtime(), MTIME);
    assert_eq!(stat("bin/tool").mode() & 0o7777, 0o4755);
    assert_eq!(stat("bin/tool").ino(), stat("bin/alias").ino());
    assert_eq!(stat("bin/tool").nlink(), 2);
    assert_eq!(
        fs::read_link(out.join("srv/passwd")).unwrap().to_str(),
        Some("/etc/passwd")
    );
    assert!(stat("srv/pipe").file_type().is_fifo());
    assert!(!out.join("etc/gone").try_exists().unwrap());
    // Again, over what is there, `bin` being closed to its owner.
    fixture.export(out.to_str().unwrap(), &image);
    assert_eq!(stat("bin/tool").nlink(), 2);
    let names: Vec<_> = fs::read_dir(out.join("bin"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn links_in_the_directory_are_replaced_and_never_followed() {
    let fixture = Fixture::new();
    let (out, outside) = (fixture.path("out"), fixture.path("outside"));
    fs::create_dir_all(&outside).unwrap();
    fs::create_dir_all(out.join("srv")).unwrap();
    fs::write(outside.join("motd"), "mine").unwrap();
    symlink(&outside, out.join("etc")).unwrap();
    symlink(outside.join("motd"), out.join("srv/pipe")).unwrap();
    fs::create_dir_all(out.join("srv/passwd/full")).unwrap();
    fs::write(out.join("kept"), "x").unwrap();
    fixture.export(out.to_str().unwrap(), &[fixture.image("linux/amd64")]);
    assert_eq!(text(&outside.join("motd")), "mine");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(text(&out.join("etc/motd")), "welcome\n");
    assert_eq!(text(&out.join("kept")), "x");
}

#[test]
fn delete_makes_a_directory_what_the_image_is() {
    let fixture = Fixture::new();
    let out = fixture.path("out");
    fs::create_dir_all(out.join("etc/old/deep")).unwrap();
    fs::write(out.join("stray"), "x").unwrap();
    let spec = format!("type=local,mode=delete,dest={}", out.display());
    fixture.export(&spec, &[fixture.image("linux/amd64")]);
    let names = |dir: &str| -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(out.join(dir))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(""), ["bin", "etc", "srv"]);
    assert_eq!(names("etc"), ["motd", "passwd"]);

    let images = [fixture.image("linux/amd64"), fixture.image("linux/arm64")];
    fixture.export(&spec, &images);
    assert_eq!(names(""), ["linux_amd64", "linux_arm64"]);
}

#[test]
fn directories_of_platforms_have_the_time_of_the_epoch_or_none() {
    let fixture = Fixture::new();
    let images = [fixture.image("linux/amd64"), fixture.image("linux/arm64")];
    for (options, expected) in [("", 0), (",source-date-epoch=1000", 1000)] {
        let (dir, archive) = (fixture.path("files"), fixture.path("files.tar"));
        fixture.export(
            &format!("type=local,dest={}{options}", dir.display()),
            &images,
        );
        let stat = fs::metadata(dir.join("linux_arm64")).unwrap();
        assert_eq!(stat.mtime(), expected);

        fixture.export(
            &format!("type=tar,dest={}{options}", archive.display()),
            &images,
        );
        let mut archive = tar::Archive::new(fs::File::open(archive).unwrap());
        let first = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(first.path().unwrap().to_str(), Some("linux_amd64/"));
        assert_eq!(first.header().mtime().unwrap(), expected.unsigned_abs());
    }
}

#[test]
fn platforms_can_share_a_directory() {
    let fixture = Fixture::new();
    let one = assemble(
        "linux/amd64",
        vec![fixture.built_layer(vec![file("one", "1", 0o644, 0)])],
    );
    let two = assemble(
        "linux/arm64",
        vec![fixture.built_layer(vec![file("two", "2", 0o644, 0)])],
    );
    let out = fixture.path("out");
    let spec = format!(
        "type=local,platform-split=false,mode=delete,dest={}",
        out.display()
    );
    fixture.export(&spec, &[one, two]);
    let found: BTreeMap<_, _> = ["one", "two"]
        .map(|name| (name, text(&out.join(name))))
        .into();
    assert_eq!(found["one"], "1");
    assert_eq!(found["two"], "2");
}

#[test]
fn platforms_that_share_a_place_do_not_overwrite_each_other() {
    let fixture = Fixture::new();
    let images = ["linux/amd64", "linux/arm64"].map(|platform| {
        assemble(
            platform,
            vec![fixture.built_layer(vec![file("same", platform, 0o644, 0)])],
        )
    });
    for kind in ["local", "tar"] {
        let out = fixture.path(kind);
        let spec = format!("type={kind},platform-split=false,dest={}", out.display());
        let error = fixture
            .try_export(&spec, &images, &[], &[], None)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot overwrite same from linux/amd64 with linux/arm64 when split option is disabled"
        );
        assert!(!out.try_exists().unwrap());
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let fixture = Fixture::new();
    let out = fixture.path("out");
    fs::write(&out, "a file").unwrap();
    let image = [fixture.image("linux/amd64")];
    let error = fixture
        .try_export(out.to_str().unwrap(), &image, &[], &[], None)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot create `{}`", out.display())
    );
    let dir = fixture.path("dir");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o555)).unwrap();
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped in part: root writes everywhere");
        return;
    }
    let error = fixture
        .try_export(dir.to_str().unwrap(), &image, &[], &[], None)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot create `{}`", dir.join("bin").display())
    );
}

#[test]
fn pipes_and_devices_are_written_to_and_stay() {
    let fixture = Fixture::new();
    let image = fixture.image("linux/amd64");
    for kind in ["tar", "oci"] {
        let pipe = fixture.path("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.expect("mkfifo starts").success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe)
        });
        let spec = format!("type={kind},dest={}", pipe.display());
        fixture.export(&spec, std::slice::from_ref(&image));
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        let read = reader.join().unwrap().unwrap();
        assert!(!listing(&read).is_empty());
        fs::remove_file(pipe).unwrap();
    }
}
