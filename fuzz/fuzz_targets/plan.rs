//! Any bytes are planned, as a build would for two platforms and as `rbuild plan` does.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use rbuild::{
    dockerfile,
    plan::{self, Options, Planned},
};

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let file = dockerfile::parse(&text);
    let mut options = Options {
        assume_bases: true,
        epoch: Some(None),
        all_stages: true,
        ..Options::default()
    };
    for platform in ["linux/amd64", "windows/amd64"] {
        options.platform = platform.parse().expect("a platform");
        let outcome = plan::analyse(&file, &options, &BTreeMap::new()).outcome;
        match outcome {
            Ok(Planned::Plan(plan)) => {
                serde_json::to_value(&plan).expect("a plan can be written as JSON");
                assert!(!plan.to_string().is_empty());
            }
            Ok(_) => panic!("asks for what it was told to do without"),
            Err(errors) => assert!(!errors.is_empty()),
        }
    }
});
