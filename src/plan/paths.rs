//! Paths as instructions write them. They are joined as text: what they mean is known only where the files are.
//!
//! All paths here have slashes. Those of Windows images are brought to that form first ([`with_slashes`]); only the
//! config of such an image has backslashes.

use crate::oci::Platform;

/// Whether paths are written the Windows way.
pub(super) fn is_windows(platform: &Platform) -> bool {
    platform.os == "windows"
}

/// A Windows path with slashes, cleaned and without the drive, which can only be `C:`. The errors are BuildKit's.
pub(super) fn with_slashes(path: &str) -> Result<String, String> {
    let path = path.replace('\\', "/");
    if path.len() == 2 && path.ends_with(':') {
        return Err(format!("no relative path specified in \"{path}\""));
    }
    if path.starts_with("//") {
        return Err("UNC paths are not supported".to_owned());
    }
    let path = match path.split_once(':') {
        None => path.as_str(),
        Some(("c" | "C", path)) => path,
        Some(_) => return Err("the specified path is not on the system drive (C:)".to_owned()),
    };
    let mut clean = clean_relative(path);
    if path.ends_with('/') && clean != "/" {
        clean.push('/');
    }
    Ok(clean)
}

/// The working directory after `WORKDIR new` in `current`: relative ones are joined and cleaned, absolute ones stay
/// as they are written.
pub(super) fn join_workdir(current: &str, new: &str) -> String {
    let current = absolute(current);
    match new {
        "" => current,
        absolute if absolute.starts_with('/') => absolute.to_owned(),
        relative => clean(&format!("{current}/{relative}")),
    }
}

/// The destination of a copy in `workdir`. A `/` or `/.` at the end, which says that it is a directory, stays.
pub(super) fn join_dest(workdir: &str, dest: &str) -> String {
    if dest.starts_with('/') {
        return dest.to_owned();
    }
    let dest = if matches!(dest, "" | ".") { "./" } else { dest };
    let mut path = clean(&format!("{}/{dest}", absolute(workdir)));
    if dest.ends_with('/') {
        if path != "/" {
            path.push('/');
        }
    } else if dest.ends_with("/.") {
        path.push_str(if path == "/" { "." } else { "/." });
    }
    path
}

/// The path from the root, in which it is if it is relative. Absolute ones stay as they are written.
pub(super) fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        clean(&format!("/{path}"))
    }
}

/// An absolute path with `.`, `..` and double slashes taken out.
pub(super) fn clean(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

/// A path cleaned as text; a relative one stays relative.
pub(super) fn clean_relative(path: &str) -> String {
    if path.starts_with('/') {
        return clean(path);
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match (part, parts.last()) {
            ("" | ".", _) => {}
            ("..", Some(last)) if *last != ".." => {
                parts.pop();
            }
            (part, _) => parts.push(part),
        }
    }
    if parts.is_empty() {
        ".".to_owned()
    } else {
        parts.join("/")
    }
}

/// The last component, as Go's `path.Base`: `.` of nothing, `/` of the root.
pub(super) fn base_name(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() {
        return "/";
    }
    trimmed.rsplit('/').next().unwrap_or(trimmed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn working_directories_join() {
        for (current, new, want) in [
            ("", "a", "/a"),
            ("/a", "b/../c/", "/a/c"),
            ("/a", "/x/../y/", "/x/../y/"),
            ("/a/", "..", "/"),
            ("a", "", "/a"),
            ("/a", "../../..", "/"),
        ] {
            assert_eq!(join_workdir(current, new), want, "{current} {new}");
        }
    }

    #[test]
    fn windows_paths_lose_their_drive() {
        for (path, want) in [
            ("C:\\a\\..\\b", Some("/b")),
            ("a\\b\\", Some("a/b/")),
            ("\\", Some("/")),
            ("", Some(".")),
            ("d:\\a", None),
            ("C:", None),
            ("\\\\host\\a", None),
        ] {
            assert_eq!(with_slashes(path).ok().as_deref(), want, "{path}");
        }
    }

    #[test]
    fn destinations_keep_what_makes_them_directories() {
        for (workdir, dest, want) in [
            ("", "a", "/a"),
            ("", ".", "/"),
            ("/w", ".", "/w/"),
            ("/w", "./", "/w/"),
            ("/w", "d/", "/w/d/"),
            ("/w", "d/.", "/w/d/."),
            ("/w", "", "/w/"),
            ("/w", "/x/../y/", "/x/../y/"),
            ("/w", "..", "/"),
            ("/w", "../.", "/."),
        ] {
            assert_eq!(join_dest(workdir, dest), want, "{workdir} {dest}");
        }
    }
}
