//! Defaults of JSON Schemas: a schema on the first line, a document on the rest.
//!
//! Filling in ends, twice is as good as once, and what stood there stays. What is wrong is told without any text of the
//! document, which may be a secret.

use metagov_sdk::schema::{Schema, Unknown};
use serde_json::Value;

/// Stands in for every text of the document.
const CANARY: &str = "hunter2-hunter2-hunter2";

/// Panics where the property does not hold.
pub(crate) fn holds(input: &[u8]) {
    let (schema, document) = input.split_at(input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len()));
    let (Ok(schema), Ok(document)) = (serde_json::from_slice::<Value>(schema), serde_json::from_slice(document)) else {
        return;
    };
    if schema.to_string().contains(CANARY) {
        return;
    }
    for unknown in [Unknown::AsDeclared, Unknown::Refused] {
        let Ok(compiled) = Schema::compile(schema.clone(), unknown) else { continue };
        let filled = filled(&compiled, &document);
        let told = compiled.violations(&with_canaries(&filled), "/parameters");
        assert!(told.len() <= 20, "{} violations", told.len());
        for violation in told {
            assert!(violation.pointer.starts_with("/parameters"), "{}", violation.pointer);
            assert!(!violation.message.contains(CANARY), "it repeats a text: {}", violation.message);
        }
    }
}

fn filled(schema: &Schema, document: &Value) -> Value {
    let mut once = document.clone();
    schema.fill_defaults(&mut once);
    assert!(holds_all_of(&once, document), "something that stood there is gone");
    let mut twice = once.clone();
    schema.fill_defaults(&mut twice);
    assert_eq!(twice, once, "twice is not as good as once");
    once
}

/// Whether everything of `part` stands in `whole`, in its place.
fn holds_all_of(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(name, part)| whole.get(name).is_some_and(|whole| holds_all_of(whole, part)))
        }
        (whole, part) => whole == part,
    }
}

fn with_canaries(document: &Value) -> Value {
    match document {
        Value::String(_) => Value::from(CANARY),
        Value::Array(items) => items.iter().map(with_canaries).collect(),
        Value::Object(members) => members.iter().map(|(name, member)| (name.clone(), with_canaries(member))).collect(),
        other => other.clone(),
    }
}
