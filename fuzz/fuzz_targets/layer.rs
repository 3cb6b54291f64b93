//! Any bytes are read as a layer: decompressed, and its tar walked. What can be read says the same when it is written down.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild::layer::Toc;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(toc) = Toc::read(bytes) {
        assert!(Toc::from_bytes(&toc.to_bytes()).is_ok_and(|again| again == toc));
    }
});
