//! Directories of this machine as trees.

use std::{
    fs,
    io::Read as _,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, symlink},
    },
};

use super::*;
use crate::context::{IgnoreFile, read_dockerfile};

struct Dir(tempfile::TempDir);

impl Dir {
    /// A directory with these files; a name that ends with `/` is a directory.
    fn new(files: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if name.ends_with('/') {
                fs::create_dir_all(path).unwrap();
            } else {
                fs::write(path, *name).unwrap();
            }
        }
        Self(dir)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn tree(&self, ignore: &str) -> LocalTree {
        let patterns = Patterns::parse(ignore.as_bytes()).unwrap();
        LocalTree::open(self.0.path(), patterns, None).unwrap()
    }
}

/// All paths of a tree in the order of a walk, directories with a `/`.
fn walk(tree: &dyn Tree) -> Vec<String> {
    fn below(tree: &dyn Tree, dir: &Path, out: &mut Vec<String>) {
        for name in tree.names(dir).unwrap() {
            let path = dir.join(name);
            let node = tree.node(&path).unwrap().unwrap();
            if node.metadata.is_dir() {
                out.push(format!("{}/", path.display()));
                below(tree, &path, out);
            } else {
                out.push(path.display().to_string());
            }
        }
    }
    let mut out = Vec::new();
    below(tree, Path::new(""), &mut out);
    out
}

#[test]
fn a_directory_shows_what_is_not_ignored() {
    let dir = Dir::new(&["a/x", "a/y", "b/c/keep", "b/c/drop", "b/d/z", "e", "f/"]);
    assert_eq!(
        walk(&dir.tree("")),
        [
            "a/", "a/x", "a/y", "b/", "b/c/", "b/c/drop", "b/c/keep", "b/d/", "b/d/z", "e", "f/"
        ]
    );
    assert_eq!(walk(&dir.tree("b\nf\na/x")), ["a/", "a/y", "e"]);
    assert_eq!(walk(&dir.tree("*\n!b/c/keep")), ["b/", "b/c/", "b/c/keep"]);
    assert_eq!(walk(&dir.tree("**\n!**/keep")), ["b/", "b/c/", "b/c/keep"]);
    assert_eq!(walk(&dir.tree("*\n!b/nothing")), [""; 0]);
}

#[test]
fn ignored_paths_are_known_to_be_ignored() {
    let dir = Dir::new(&["a/x", "b"]);
    let tree = dir.tree("# c\na\n");
    let line = tree.ignored_by(Path::new("a/x")).unwrap();
    assert_eq!((line.number, line.pattern.as_str()), (2, "a"));
    assert_eq!(tree.ignored_by(Path::new("b")), None);
    assert_eq!(tree.ignored_by(Path::new("nothing")), None);
    assert_eq!(tree.ignored_by(Path::new("")), None);
    // What lies behind a link is not there under the link's name, but nothing ignores it.
    std::os::unix::fs::symlink("a", dir.0.path().join("link")).unwrap();
    assert_eq!(dir.tree("b").ignored_by(Path::new("link/x")), None);
}

#[test]
fn owners_are_root_and_modes_are_kept() {
    let dir = Dir::new(&["f", "d/"]);
    fs::set_permissions(dir.path("f"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::set_permissions(dir.path("d"), fs::Permissions::from_mode(0o1700)).unwrap();
    let tree = dir.tree("");
    for (name, mode) in [("f", 0o4711), ("d", 0o1700)] {
        let metadata = tree.node(Path::new(name)).unwrap().unwrap().metadata;
        assert_eq!((metadata.mode, metadata.uid, metadata.gid), (mode, 0, 0));
    }
}

#[test]
fn links_are_not_followed() {
    let dir = Dir::new(&["d/f"]);
    symlink("d", dir.path("l")).unwrap();
    symlink("/etc", dir.path("out")).unwrap();
    let tree = dir.tree("");
    let node = tree.node(Path::new("l")).unwrap().unwrap();
    assert_eq!(node.metadata.kind, Kind::Symlink { target: "d".into() });
    assert!(tree.node(Path::new("l/f")).unwrap().is_none());
    assert!(tree.node(Path::new("out/passwd")).unwrap().is_none());
    assert!(tree.names(Path::new("l")).unwrap().is_empty());
    assert!(tree.names(Path::new("out")).unwrap().is_empty());
}

#[test]
fn names_of_one_inode_are_known_as_such() {
    let dir = Dir::new(&["a", "b", "c"]);
    fs::hard_link(dir.path("a"), dir.path("z")).unwrap();
    fs::hard_link(dir.path("b"), dir.path("y")).unwrap();
    let tree = dir.tree("");
    let inode = |name: &str| tree.node(Path::new(name)).unwrap().unwrap().inode;
    assert!(inode("a").is_some());
    assert_eq!(inode("a"), inode("z"));
    assert_eq!(inode("b"), inode("y"));
    assert_ne!(inode("a"), inode("b"));
    assert_eq!(inode("c"), None);
}

#[test]
fn special_files_and_odd_names_are_there() {
    let dir = Dir::new(&["sp ace\n", "ünï"]);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path("p"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(dir.path("s")).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    fs::write(dir.0.path().join(odd), "x").unwrap();
    let tree = dir.tree("");
    let kind = |name: &str| tree.node(Path::new(name)).unwrap().unwrap().metadata.kind;
    assert_eq!(kind("p"), Kind::Fifo);
    assert_eq!(kind("s"), Kind::Socket);
    assert!(matches!(kind("sp ace\n"), Kind::File { .. }));
    assert!(matches!(kind("ünï"), Kind::File { .. }));
    assert!(tree.node(Path::new(odd)).unwrap().is_some());
    assert_eq!(tree.names(Path::new("")).unwrap().last().unwrap(), odd);
    let long = "x".repeat(300);
    assert!(tree.node(Path::new(&long)).unwrap().is_none());
}

#[test]
fn bytes_and_digests_are_those_of_the_file() {
    let dir = Dir::new(&["d/f"]);
    let tree = dir.tree("");
    let mut bytes = Vec::new();
    tree.open(Path::new("d/f"))
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap();
    assert_eq!(bytes, b"d/f");
    assert_eq!(
        tree.digest(Path::new("d/f")).unwrap(),
        crate::oci::sha256(b"d/f")
    );
    let error = tree.digest(Path::new("none")).unwrap_err();
    assert!(error.path.starts_with(dir.0.path()), "{error}");
}

#[test]
fn a_context_has_to_be_a_directory() {
    let dir = Dir::new(&["f"]);
    let open = |name: &str| LocalTree::open(dir.path(name), Patterns::default(), None);
    assert!(
        open("f")
            .unwrap_err()
            .to_string()
            .contains("not a directory")
    );
    assert!(
        open("none")
            .unwrap_err()
            .to_string()
            .contains("cannot read")
    );
}

#[test]
fn one_ignore_file_is_used() {
    let dir = Dir::new(&["Dockerfile"]);
    assert!(IgnoreFile::find(dir.0.path(), None).unwrap().is_none());
    fs::write(dir.path(".dockerignore"), "a\n").unwrap();
    fs::write(dir.path("other.dockerignore"), "b\n").unwrap();
    let find = |dockerfile: &str| {
        IgnoreFile::find(dir.0.path(), Some(&dir.path(dockerfile)))
            .unwrap()
            .unwrap()
    };
    assert_eq!(find("Dockerfile").path, dir.path(".dockerignore"));
    assert_eq!(find("other").path, dir.path("other.dockerignore"));
    fs::write(dir.path(".dockerignore"), "!\n").unwrap();
    let error = IgnoreFile::find(dir.0.path(), None).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("illegal exclusion pattern: \"!\" in `"),
        "{error}"
    );
}

#[test]
fn the_dockerfile_may_be_lower_case_or_a_link() {
    let dir = Dir::new(&["dockerfile", "sub/real"]);
    let tree = dir.tree("*");
    let read = |tree: &LocalTree, name: &str| read_dockerfile(tree, Path::new(name));
    assert!(read(&tree, "Dockerfile").is_err());
    let tree = dir.tree("");
    let found = read(&tree, "Dockerfile").unwrap();
    assert_eq!(found.name, Path::new("dockerfile"));
    symlink("/sub/real", dir.path("Dockerfile")).unwrap();
    let found = read(&tree, "Dockerfile").unwrap();
    assert_eq!(found.bytes, b"sub/real");
    symlink("../../../../etc/passwd", dir.path("out")).unwrap();
    assert!(matches!(
        read(&tree, "out"),
        Err(ContextError::NoDockerfile { .. })
    ));
    assert!(matches!(
        read(&tree, "sub"),
        Err(ContextError::DockerfileIsNoFile { .. })
    ));
}

#[test]
fn a_file_changed_after_its_digest_was_told_is_refused() {
    let dir = Dir::new(&["same", "other"]);
    let tree = dir.tree("");
    for name in ["same", "other"] {
        tree.digest(Path::new(name)).unwrap();
    }
    let file = fs::File::open(dir.path("same")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    fs::write(dir.path("other"), "longer than before").unwrap();
    let mut bytes = String::new();
    let mut reader = tree.open(Path::new("same")).unwrap();
    reader.read_to_string(&mut bytes).unwrap();
    assert_eq!(bytes, "same");
    let Err(error) = tree.open(Path::new("other")) else {
        panic!("the file has other bytes");
    };
    assert_eq!(
        error.source.to_string(),
        "it was changed while the build was reading it"
    );
}

#[test]
fn a_file_that_is_read_to_its_end_has_told_its_digest() {
    let dir = Dir::new(&["whole", "half", "other"]);
    let tree = dir.tree("");
    let known = |name: &str| tree.known_digest(Path::new(name));
    let open = |name: &str| tree.open(Path::new(name)).unwrap();
    let mut bytes = String::new();
    open("whole").read_to_string(&mut bytes).unwrap();
    assert_eq!(known("whole"), Some(crate::oci::sha256(b"whole")));
    open("half").read_exact(&mut [0; 4]).unwrap();
    assert_eq!(known("half"), None);
    let mut reader = open("other");
    reader.read_exact(&mut [0; 5]).unwrap();
    let file = fs::File::open(dir.path("other")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    let error = reader.read(&mut [0; 1]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "it was changed while the build was reading it"
    );
    assert_eq!(known("other"), None);
}
