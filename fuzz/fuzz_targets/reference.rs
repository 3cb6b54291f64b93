//! Any text is read as an image reference; a print reads as the same one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild::reference::Reference;

fuzz_target!(|text: &str| {
    if let Ok(reference) = Reference::parse(text) {
        let again = Reference::parse(&reference.to_string());
        assert_eq!(again.as_ref(), Ok(&reference));
        let again = Reference::parse(&reference.familiar());
        assert_eq!(again.as_ref(), Ok(&reference));
    }
});
