//! Any bytes are read as an ignore file. The last line is a path to judge: what is left out with all below it stays
//! left out further down.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use rbuild::context::Patterns;

fuzz_target!(|bytes: &[u8]| {
    let at = bytes.iter().rposition(|b| *b == b'\n').unwrap_or(0);
    let (file, path) = bytes.split_at(at);
    let Ok(patterns) = Patterns::parse(file) else {
        return;
    };
    let path = String::from_utf8_lossy(path);
    let path = path.trim_matches(['/', '\n']);
    if path.split('/').any(|c| matches!(c, "" | "." | "..")) {
        return;
    }
    let verdict = patterns.judge_path(Path::new(path));
    for dir in Path::new(path).ancestors().skip(1) {
        if patterns.judge_path(dir).is_match() && !patterns.may_bring_back_below(dir) {
            assert!(verdict.is_match(), "{path} is back below {}", dir.display());
        }
    }
});
