//! Any bytes are read as a Dockerfile; what is read without errors is printed and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild::dockerfile::{self, lint};
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let file = dockerfile::parse(&text);
    let mut linter = lint::Linter::new(file.checks(None).unwrap_or_default());
    lint::lint(&file, &mut linter);
    for warning in linter.warnings() {
        warning.to_json(&text);
    }
    drop(dockerfile::parse_trigger(&text));
    let mut tree = serde_json::to_value(&file).expect("a tree can be written as JSON");
    check_spans(&tree, &text);
    if file.has_errors() {
        return;
    }
    let again = dockerfile::parse(&file.to_string());
    let mut tree_again = serde_json::to_value(&again).expect("a tree can be written as JSON");
    without_spans(&mut tree);
    without_spans(&mut tree_again);
    assert_eq!(tree, tree_again);
});

fn check_spans(value: &Value, text: &str) {
    match value {
        Value::Object(object) => {
            if let (Some(Value::Number(start)), Some(Value::Number(end))) =
                (object.get("start"), object.get("end"))
            {
                let place = |n: &serde_json::Number| n.as_u64().and_then(|n| n.try_into().ok());
                let range = place(start).zip(place(end));
                assert!(range.is_some_and(|(a, b): (usize, usize)| text.get(a..b).is_some()));
            }
            object.values().for_each(|v| check_spans(v, text));
        }
        Value::Array(values) => values.iter().for_each(|v| check_spans(v, text)),
        _ => {}
    }
}

fn without_spans(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|key, _| !matches!(key.as_str(), "span" | "empty_continuation"));
            object.values_mut().for_each(without_spans);
        }
        Value::Array(values) => values.iter_mut().for_each(without_spans),
        _ => {}
    }
}
