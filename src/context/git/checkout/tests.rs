//! Checkouts of a repository made for the purpose.

use std::process::Command;

use super::*;

fn settings() -> GitSettings {
    GitSettings {
        env: std::env::vars_os()
            .filter(|(name, _)| name == "PATH")
            .collect(),
        ..GitSettings::default()
    }
}

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn skip() {
    eprintln!("skipped: git is not installed");
}

/// A repository of two commits, the first tagged; says so and gives nothing where there is no git.
fn repository() -> Option<(tempfile::TempDir, [String; 2])> {
    let dir = tempfile::tempdir().unwrap();
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .arg("-C")
            .arg(dir.path())
            .args([
                "-c",
                "user.name=x",
                "-c",
                "user.email=x@y",
                "-c",
                "commit.gpgsign=false",
            ])
            .args(["-c", "init.defaultBranch=main"])
            .args(args)
            .env("GIT_COMMITTER_DATE", "1577836800 +0000")
            .output();
        let Ok(output) = output else {
            skip();
            return None;
        };
        assert!(output.status.success(), "{args:?} {output:?}");
        Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    };
    let put = |name: &str, content: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    git(&["init", "-q"])?;
    put("README", "one");
    put("sub/f", "f");
    std::os::unix::fs::symlink("sub", dir.path().join("link")).unwrap();
    git(&["add", "."]);
    git(&["commit", "-qm", "1"]);
    let first = git(&["rev-parse", "HEAD"]).unwrap();
    git(&["tag", "-a", "v1", "-m", "v1"]);
    put("README", "two");
    put("exe", "#!");
    fs::set_permissions(dir.path().join("exe"), fs::Permissions::from_mode(0o755)).unwrap();
    git(&["add", "."]);
    git(&["commit", "-qm", "2"]);
    let second = git(&["rev-parse", "HEAD"]).unwrap();
    Some((dir, [first, second]))
}

fn source(dir: &tempfile::TempDir, reference: Option<&str>) -> GitSource {
    GitSource {
        remote: format!("file://{}", dir.path().display()),
        reference: reference.map(str::to_owned),
        subdir: PathBuf::new(),
        checksum: None,
        keep_git_dir: None,
        submodules: true,
        commit_time: None,
        fetch_by_commit: false,
    }
}

#[test]
fn a_commit_is_checked_out_by_any_of_its_names() {
    let Some((dir, [first, second])) = repository() else {
        return;
    };
    for (reference, commit) in [
        (None, &second),
        (Some("main"), &second),
        (Some("refs/heads/main"), &second),
        (Some("v1"), &first),
        (Some("refs/tags/v1"), &first),
        (Some(first.as_str()), &first),
    ] {
        let work = tempfile::tempdir().unwrap();
        let out = checkout(&source(&dir, reference), &settings(), work.path()).unwrap();
        assert_eq!(out.commit, *commit, "{reference:?}");
        assert_eq!(out.commit_time, 1_577_836_800);
        let names = out.tree.names(Path::new("")).unwrap();
        assert!(!names.contains(&".git".into()));
        assert_eq!(names.contains(&"exe".into()), *commit == second);
        for (name, mode) in [("README", 0o644), ("sub", 0o755)] {
            let node = out.tree.node(Path::new(name)).unwrap().unwrap();
            assert_eq!(node.metadata.mode, mode, "{name}");
        }
    }
}

#[test]
fn a_directory_of_it_can_be_taken_with_the_time_of_the_commit() {
    let Some((dir, _)) = repository() else {
        return;
    };
    let work = tempfile::tempdir().unwrap();
    let mut source = source(&dir, None);
    source.subdir = "sub".into();
    source.commit_time = Some(true);
    let out = checkout(&source, &settings(), work.path()).unwrap();
    assert_eq!(out.tree.names(Path::new("")).unwrap(), ["f"]);
    let node = out.tree.node(Path::new("f")).unwrap().unwrap();
    assert_eq!(node.metadata.mtime.seconds, 1_577_836_800);
    let time = out.tree.root_time().map(|time| time.seconds);
    assert_eq!(time, Some(1_577_836_800));
    source.subdir = "none".into();
    let work = tempfile::tempdir().unwrap();
    let error = checkout(&source, &settings(), work.path()).unwrap_err();
    assert!(matches!(error, GitError::NoSubdir { .. }), "{error}");
    // A symbolic link is none, even where it leads to one.
    source.subdir = "link".into();
    let work = tempfile::tempdir().unwrap();
    let error = checkout(&source, &settings(), work.path()).unwrap_err();
    assert!(matches!(error, GitError::NoSubdir { .. }), "{error}");
    source.subdir = PathBuf::new();
    let work = tempfile::tempdir().unwrap();
    let out = checkout(&source, &settings(), work.path()).unwrap();
    let link = out.tree.node(Path::new("link")).unwrap().unwrap();
    assert_eq!(link.metadata.mtime.seconds, 1_577_836_800);
}

#[test]
fn a_commit_can_be_taken_whatever_its_branch_has_become() {
    let Some((dir, [first, second])) = repository() else {
        return;
    };
    let mut source = source(&dir, Some("main"));
    source.fetch_by_commit = true;
    source.keep_git_dir = Some(true);
    let fetch = |source: &GitSource| {
        let work = tempfile::tempdir().unwrap();
        checkout(source, &settings(), work.path()).map(|out| {
            let head = out.tree.open(Path::new(".git/refs/heads/main")).unwrap();
            (out.commit, io::read_to_string(head).unwrap())
        })
    };
    let error = fetch(&source).unwrap_err();
    assert!(matches!(error, GitError::NoCommit), "{error}");
    source.checksum = Some(first[..8].to_owned());
    let error = fetch(&source).unwrap_err();
    assert!(matches!(error, GitError::NoCommit), "{error}");
    source.checksum = Some(first.clone());
    assert_eq!(
        fetch(&source).unwrap(),
        (first.clone(), format!("{first}\n"))
    );
    source.fetch_by_commit = false;
    let error = fetch(&source).unwrap_err();
    assert!(
        error.to_string().ends_with(&format!("got {second}")),
        "{error}"
    );
}

#[test]
fn names_of_commits_have_small_letters() {
    let Some((dir, [first, _])) = repository() else {
        return;
    };
    let capital = first.to_ascii_uppercase();
    let work = tempfile::tempdir().unwrap();
    let error = checkout(&source(&dir, Some(&capital)), &settings(), work.path()).unwrap_err();
    assert!(matches!(error, GitError::NoReference { .. }), "{error}");
    let mut source = source(&dir, Some("v1"));
    source.checksum = Some(capital);
    let error = checkout(&source, &settings(), work.path()).unwrap_err();
    assert!(matches!(error, GitError::Checksum { .. }), "{error}");
}

#[test]
fn repositories_whose_names_are_of_sha256_are_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(dir.path()).args(args);
        git.output().is_ok_and(|output| output.status.success())
    };
    if !git(&["init", "-q", "--object-format=sha256"]) {
        skip();
        return;
    }
    fs::write(dir.path().join("f"), "f").unwrap();
    assert!(git(&["add", "."]));
    let commit = Command::new("git")
        .arg("-C")
        .arg(dir.path())
        .args(["-c", "user.name=x", "-c", "user.email=x@y"])
        .args(["-c", "commit.gpgsign=false", "commit", "-qm", "1"])
        .status();
    assert!(commit.unwrap().success());
    let work = tempfile::tempdir().unwrap();
    let out = checkout(&source(&dir, None), &settings(), work.path()).unwrap();
    assert_eq!(out.commit.len(), 64);
    assert_eq!(out.tree.names(Path::new("")).unwrap(), ["f"]);
}

#[test]
fn the_git_directory_stays_when_asked_for() {
    let Some((dir, _)) = repository() else {
        return;
    };
    let work = tempfile::tempdir().unwrap();
    let mut source = source(&dir, None);
    source.keep_git_dir = Some(true);
    let out = checkout(&source, &settings(), work.path()).unwrap();
    let has = |name: &str| out.tree.node(Path::new(name)).unwrap().is_some();
    assert!(has(".git/HEAD") && has(".git/refs/heads/main"));
    assert!(!has(".git/FETCH_HEAD") && !has(".git/logs"));

    let work = tempfile::tempdir().unwrap();
    source.reference = Some("v1".to_owned());
    let out = checkout(&source, &settings(), work.path()).unwrap();
    let has = |name: &str| out.tree.node(Path::new(name)).unwrap().is_some();
    assert!(has(".git/refs/tags/v1"));
}

#[test]
fn another_commit_than_promised_is_refused() {
    let Some((dir, [first, second])) = repository() else {
        return;
    };
    let check = |reference, checksum: &str| {
        let work = tempfile::tempdir().unwrap();
        let mut source = source(&dir, reference);
        source.checksum = Some(checksum.to_owned());
        checkout(&source, &settings(), work.path()).map(|out| out.commit)
    };
    assert_eq!(check(None, &second[..8]).unwrap(), second);
    assert_eq!(check(Some("v1"), &first).unwrap(), first);
    assert!(matches!(
        check(None, &first),
        Err(GitError::Checksum { .. })
    ));
    assert!(matches!(
        check(None, "xyz"),
        Err(GitError::InvalidChecksum(_))
    ));
}

#[test]
fn failures_say_what_is_missing() {
    let Some((dir, _)) = repository() else {
        return;
    };
    let work = tempfile::tempdir().unwrap();
    let error = checkout(&source(&dir, Some("nope")), &settings(), work.path()).unwrap_err();
    assert!(
        error.to_string().ends_with("does not contain ref nope"),
        "{error}"
    );
    let mut missing = source(&dir, None);
    missing.remote = "file:///nonexistent/x".to_owned();
    let error = checkout(&missing, &settings(), work.path()).unwrap_err();
    assert!(matches!(error, GitError::Failed { .. }), "{error}");
    let nowhere = GitSettings {
        env: vec![("PATH".into(), "/nonexistent".into())],
        ..GitSettings::default()
    };
    let error = checkout(&source(&dir, None), &nowhere, work.path()).unwrap_err();
    assert!(matches!(error, GitError::NoGit { .. }), "{error}");
}

#[test]
fn a_server_that_says_nothing_is_left() {
    let Some((dir, _)) = repository() else {
        return;
    };
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let source = GitSource {
        remote: format!("http://{address}/x.git"),
        ..source(&dir, None)
    };
    let settings = GitSettings {
        silence: Some(1),
        ..settings()
    };
    let into = tempfile::tempdir().unwrap();
    let begun = std::time::Instant::now();
    let error = checkout(&source, &settings, into.path()).unwrap_err();
    assert!(error.to_string().contains("Operation too slow"), "{error}");
    assert!(begun.elapsed().as_secs() < 60);
    drop(silent);
}
