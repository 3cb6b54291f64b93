//! Any text is expanded in every mode. The first byte chooses the mode, the first line after it is a value.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild::dockerfile::{
    expand::{Expander, Quotes},
    mount::Mount,
};

fuzz_target!(|bytes: &[u8]| {
    let Some((mode, rest)) = bytes.split_first() else {
        return;
    };
    let rest = String::from_utf8_lossy(rest);
    let (value, word) = rest.split_once('\n').unwrap_or(("", &rest));
    let expander = Expander {
        escape: if mode & 1 == 0 { '\\' } else { '`' },
        quotes: match mode & 6 {
            0 => Quotes::Remove,
            2 => Quotes::Keep,
            _ => Quotes::Literal,
        },
        keep_escapes: mode & 8 != 0,
        keep_unset: mode & 16 != 0,
    };
    let lookup = |name: &str| (!name.starts_with('n')).then(|| value.to_owned());
    if let Ok(expansion) = expander.expand(word, &lookup) {
        assert!(expansion.words.iter().all(|word| !word.is_empty()));
    }
    drop(Mount::parse(word, &mut |text| {
        Ok(expander.expand(text, &lookup)?.text)
    }));
});
