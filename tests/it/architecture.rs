//! The rules about `src/` that no compiler checks: who may import whom, where `unsafe` and raw system calls live,
//! what pure code must not name, and that no test file is forgotten.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A module may import only from modules of a lower rank, and from itself.
const RANKS: &[&[&str]] = &[
    &["oci", "source"],
    &["explain"],
    &["tree", "progress"],
    &["reference"],
    &["dockerfile", "context", "layer", "store", "registry"],
    &["plan", "snapshot", "sandbox", "used"],
    &["cache", "copy"],
    &["build", "output", "upkeep"],
];

/// Modules that turn values into values: no files, network, processes, environment, threads or clock.
const PURE: &[&str] = &[
    "oci",
    "source",
    "explain",
    "dockerfile",
    "plan",
    "reference",
];

const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "std::thread",
    "std::time::SystemTime",
    "std::time::Instant",
];

/// What pure code may name all the same.
const HARMLESS: &[&str] = &[
    "std::env::consts",
    "std::net::IpAddr",
    "std::net::Ipv4Addr",
    "std::net::Ipv6Addr",
];

fn rank(module: &str) -> Option<usize> {
    RANKS.iter().position(|row| row.contains(&module))
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The Rust files below a directory, sorted.
fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut entries: Vec<PathBuf> = fs::read_dir(dir)
        .expect("a source directory can be listed")
        .map(|entry| entry.expect("a directory entry can be read").path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}

/// A source file of the library: its module, its path for messages, and its code without comments, strings
/// and tests.
struct Source {
    module: String,
    path: String,
    file_name: String,
    code: String,
}

fn library_sources() -> Vec<Source> {
    let root = src();
    rust_files(&root)
        .into_iter()
        .filter_map(|path| {
            let relative = path.strip_prefix(&root).expect("below src").to_owned();
            let first = relative.components().next()?.as_os_str().to_str()?;
            let module = first.trim_end_matches(".rs").to_owned();
            let file_name = relative.file_name()?.to_str()?.to_owned();
            if matches!(module.as_str(), "lib" | "main" | "cli") || file_name == "tests.rs" {
                return None;
            }
            let text = fs::read_to_string(&path).expect("a source file is text");
            let mut code = without_comments_and_strings(&text);
            if let Some(tests) = code.find("#[cfg(test)]\nmod tests {") {
                code.truncate(tests);
            }
            Some(Source {
                module,
                path: format!("src/{}", relative.display()),
                file_name,
                code,
            })
        })
        .collect()
}

/// The code with comments and the contents of literals blanked; line breaks stay.
fn without_comments_and_strings(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    while i < chars.len() {
        let c = chars[i];
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && chars[i] != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            loop {
                if at(i) == '/' && at(i + 1) == '*' {
                    depth += 1;
                    i += 2;
                } else if at(i) == '*' && at(i + 1) == '/' {
                    depth -= 1;
                    i += 2;
                } else {
                    if at(i) == '\n' {
                        out.push('\n');
                    }
                    i += 1;
                }
                if depth == 0 || i >= chars.len() {
                    break;
                }
            }
        } else if c == 'r' && matches!(at(i + 1), '"' | '#') && !word(out.chars().last()) {
            let hashes = chars[i + 1..].iter().take_while(|c| **c == '#').count();
            if at(i + 1 + hashes) != '"' {
                out.push(c);
                i += 1;
                continue;
            }
            i += 2 + hashes;
            while i < chars.len() && !(chars[i] == '"' && (1..=hashes).all(|n| at(i + n) == '#')) {
                if chars[i] == '\n' {
                    out.push('\n');
                }
                i += 1;
            }
            i += 1 + hashes;
            out.push_str("\"\"");
        } else if c == '"' {
            i += 1;
            while i < chars.len() && chars[i] != '"' {
                if chars[i] == '\\' {
                    i += 1;
                }
                if at(i) == '\n' {
                    out.push('\n');
                }
                i += 1;
            }
            i += 1;
            out.push_str("\"\"");
        } else if c == '\'' && at(i + 1) == '\\' {
            i += 3;
            while i < chars.len() && chars[i] != '\'' {
                i += 1;
            }
            i += 1;
        } else if c == '\'' && at(i + 2) == '\'' {
            i += 3;
        } else {
            out.push(c);
            i += 1;
        }
    }
    out
}

fn word(c: Option<char>) -> bool {
    c.is_some_and(|c| c.is_alphanumeric() || c == '_')
}

/// Every path that begins with `root::`, groups in braces taken apart, with its line.
fn paths_from(code: &str, root: &str) -> Vec<(usize, String)> {
    let start = format!("{root}::");
    code.match_indices(&start)
        .filter(|(at, _)| {
            let before = code[..*at].chars().last();
            !word(before) && before != Some(':')
        })
        .flat_map(|(at, _)| {
            let line = 1 + code[..at].matches('\n').count();
            let mut found = Vec::new();
            use_tree(&code[at + start.len()..], root, &mut found);
            found.into_iter().map(move |path| (line, path))
        })
        .collect()
}

/// Reads one use tree (`a::b`, `{a, b::{c, d}}`) and adds the paths it names; returns what is left.
fn use_tree<'a>(rest: &'a str, prefix: &str, found: &mut Vec<String>) -> &'a str {
    let rest = rest.trim_start();
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            inner = inner.trim_start();
            if let Some(after) = inner.strip_prefix('}') {
                return after;
            }
            let before = inner.len();
            inner = use_tree(inner, prefix, found);
            inner = inner.trim_start();
            inner = inner.strip_prefix(',').unwrap_or(inner);
            if inner.len() == before || inner.is_empty() {
                return inner;
            }
        }
    }
    let end = rest.find(|c: char| !word(Some(c))).unwrap_or(rest.len());
    let path = format!("{prefix}::{}", &rest[..end]);
    if let Some(after) = rest[end..].strip_prefix("::") {
        return use_tree(after, &path, found);
    }
    found.push(path);
    rest[end..].trim_start_matches(|c: char| c == ' ' || word(Some(c)))
}

fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn imports_follow_the_ranks() {
    let mut violations = Vec::new();
    for source in library_sources() {
        let Some(own) = rank(&source.module) else {
            violations.push(format!("{}: module without a rank", source.path));
            continue;
        };
        for (line, path) in paths_from(&source.code, "crate") {
            let module = path.split("::").nth(1).unwrap_or_default();
            if module == source.module {
                continue;
            }
            if rank(module).is_none_or(|other| other >= own) {
                violations.push(format!(
                    "{}:{line}: `{}` may not import `{path}`",
                    source.path, source.module
                ));
            }
        }
    }
    assert_none(&violations);
}

#[test]
fn pure_modules_touch_nothing_outside() {
    let mut violations = Vec::new();
    for source in library_sources() {
        if !PURE.contains(&source.module.as_str()) {
            continue;
        }
        for (line, path) in paths_from(&source.code, "std") {
            let names = |list: &[&str]| {
                list.iter()
                    .any(|p| path == *p || path.starts_with(&format!("{p}::")))
            };
            if names(IMPURE) && !names(HARMLESS) {
                violations.push(format!("{}:{line}: pure code names `{path}`", source.path));
            }
        }
        for other in ["rustix", "libc", "tokio", "reqwest"] {
            for (line, path) in paths_from(&source.code, other) {
                violations.push(format!("{}:{line}: pure code names `{path}`", source.path));
            }
        }
    }
    assert_none(&violations);
}

#[test]
fn unsafe_code_lives_in_sys_files() {
    let mut violations = Vec::new();
    for source in library_sources() {
        let home = source.file_name == "sys.rs" && source.module == "sandbox";
        if home {
            continue;
        }
        for (n, line) in source.code.lines().enumerate() {
            let has_unsafe = line
                .split(|c: char| !word(Some(c)))
                .any(|token| token == "unsafe");
            if has_unsafe {
                violations.push(format!("{}:{}: unsafe code", source.path, n + 1));
            }
        }
        for (line, path) in paths_from(&source.code, "libc") {
            let name = path.rsplit("::").next().unwrap_or_default();
            let is_constant = name.chars().all(|c| !c.is_lowercase());
            if !is_constant && !name.starts_with("c_") {
                violations.push(format!(
                    "{}:{line}: raw system interface `{path}`",
                    source.path
                ));
            }
        }
    }
    assert_none(&violations);
}

#[test]
fn every_test_file_is_declared() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let main = fs::read_to_string(dir.join("main.rs")).expect("main.rs is text");
    let mut violations = Vec::new();
    for entry in fs::read_dir(&dir).expect("tests/it can be listed") {
        let name = entry.expect("an entry can be read").file_name();
        let name = name.to_string_lossy();
        let module = name.trim_end_matches(".rs");
        if module != "main" && !main.contains(&format!("mod {module};")) {
            violations.push(format!("tests/it/{name} is not declared in main.rs"));
        }
    }
    assert_none(&violations);
}

#[test]
fn the_scanner_sees_what_it_must() {
    let code = without_comments_and_strings(
        "use crate::{a::{b, c as d}, e}; // crate::no\nlet s = \"crate::no\"; 'x: loop {}\nlet c = '\"'; \
         crate::f::g(r#\"crate::no\"#);",
    );
    let found: Vec<(usize, String)> = paths_from(&code, "crate");
    let want = ["crate::a::b", "crate::a::c", "crate::e", "crate::f::g"];
    assert_eq!(
        found.iter().map(|(_, p)| p.as_str()).collect::<Vec<_>>(),
        want
    );
    assert_eq!(found[3].0, 3);
}
