//! JSON Schemas at work: compiled once, defaults filled in, every violation named, secrets masked.
//!
//! A schema here always comes from a Rust type or from a plugin at start, never from a message, and it can reach
//! neither network nor files. Up: [`crate::contract::Command::decode`] and the registrar. Down: the `jsonschema` crate.

mod defaults;
mod numbers;
mod reading;
mod secret_places;
mod words;

use std::collections::BTreeSet;

use jsonschema::{PatternOptions, Validator};
use schemars::JsonSchema;
use serde_json::Value;
use thiserror::Error;

pub use self::numbers::{LARGEST_EXACT, bound, integral};
pub(crate) use self::{
    reading::read,
    words::{of_reader, summary},
};

use crate::contract::Violation;

/// The most violations that a refusal lists.
const MOST_VIOLATIONS: usize = 20;

/// What a secret looks like wherever it is shown.
pub const MASK: &str = "********";

/// What to do with members that the schema does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// Refuse them, unless the schema itself says `additionalProperties`.
    Refused,
    /// Exactly what the schema says.
    AsDeclared,
}

/// The schema itself is not valid; found at start, never at a call.
#[derive(Debug, Error)]
#[error("the JSON Schema is not valid: {0}")]
pub struct InvalidSchema(String);

/// A JSON Schema (2020-12), compiled once.
#[derive(Debug)]
pub struct Schema {
    document: Value,
    validator: Validator,
}

impl Schema {
    /// The schema of a type.
    ///
    /// # Errors
    /// [`InvalidSchema`] where the type's schema does not compile.
    pub fn of<T: JsonSchema>(unknown: Unknown) -> Result<Self, InvalidSchema> {
        Self::compile(schemars::schema_for!(T).to_value(), unknown)
    }

    /// Compiles a schema document.
    ///
    /// # Errors
    /// [`InvalidSchema`] where it is no JSON Schema, refers to anything outside itself, or has a default that contains
    /// itself.
    pub fn compile(mut document: Value, unknown: Unknown) -> Result<Self, InvalidSchema> {
        if unknown == Unknown::Refused {
            refuse_unknown_members(&mut document);
        }
        numbers::bound(&mut document);
        // The linear-time engine: a pattern from a plugin cannot be made to backtrack by a parameter.
        let validator = jsonschema::options()
            .offline()
            .should_validate_formats(true)
            .with_pattern_options(PatternOptions::regex())
            .build(&document)
            .map_err(|error| InvalidSchema(error.to_string()))?;
        if !defaults::defaults_end(&document, &document) {
            return Err(InvalidSchema("a default contains itself: filling it in would never end".to_owned()));
        }
        Ok(Self { document, validator })
    }

    /// The schema as JSON, as manifests publish it.
    #[must_use]
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// Everything that is wrong with a document; pointers start with `base`. Empty when all is well.
    #[must_use]
    pub fn violations(&self, instance: &Value, base: &str) -> Vec<Violation> {
        if self.validator.is_valid(instance) {
            return Vec::new();
        }
        let known = self.known_members();
        self.validator
            .iter_errors(instance)
            .take(MOST_VIOLATIONS)
            .flat_map(|error| words::violations(&error, base, &known))
            .take(MOST_VIOLATIONS)
            .collect()
    }

    /// Fills in the defaults that the schema declares for members of objects, where they are absent.
    pub fn fill_defaults(&self, instance: &mut Value) {
        let mut unbounded = usize::MAX;
        defaults::fill(&self.document, &self.document, instance, &mut unbounded);
    }

    /// Where the document holds what the schema marks `writeOnly`: JSON pointers, none of them within another. What is
    /// null says nothing, and is no secret.
    #[must_use]
    pub fn secret_places(&self, instance: &Value) -> Vec<String> {
        let found = secret_places::find(&self.document, instance);
        let within_another = |place: &str| place.match_indices('/').any(|(end, _)| found.contains(&place[..end]));
        found.iter().filter(|place| !within_another(place)).cloned().collect()
    }

    /// The document with every member that the schema marks `writeOnly` replaced by a mask.
    #[must_use]
    pub fn mask(&self, instance: &Value) -> Value {
        let mut masked = instance.clone();
        for place in self.secret_places(instance) {
            if let Some(secret) = masked.pointer_mut(&place) {
                *secret = Value::from(MASK);
            }
        }
        masked
    }

    fn known_members(&self) -> BTreeSet<&str> {
        fn collect<'a>(schema: &'a Value, into: &mut BTreeSet<&'a str>) {
            match schema {
                Value::Object(members) => {
                    if let Some(Value::Object(properties)) = members.get("properties") {
                        into.extend(properties.keys().map(String::as_str));
                    }
                    members.values().for_each(|value| collect(value, into));
                }
                Value::Array(items) => items.iter().for_each(|item| collect(item, into)),
                _ => {}
            }
        }
        let mut known = BTreeSet::new();
        collect(&self.document, &mut known);
        known
    }
}

/// The word nearest to `word` among `candidates`, if one is near enough to be meant.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let furthest = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= furthest)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn refuse_unknown_members(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            members.values_mut().for_each(refuse_unknown_members);
            let is_object_schema = members.get("properties").is_some_and(Value::is_object)
                || members.get("type").is_some_and(|kind| kind == "object");
            if is_object_schema && !members.contains_key("additionalProperties") {
                members.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(refuse_unknown_members),
        _ => {}
    }
}

/// Follows one local reference, `#/$defs/<name>`.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|reference| root.pointer(reference.strip_prefix('#')?))
        .unwrap_or(schema)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(document: Value) -> Schema {
        Schema::compile(document, Unknown::Refused).expect("a valid schema")
    }

    #[test]
    fn all_violations_are_reported_at_once_and_no_value_is_repeated() {
        let schema = schema(json!({
            "type": "object",
            "properties": {"low": {"type": "integer"}, "key": {"type": "string", "minLength": 99}},
            "required": ["low"]
        }));
        let found = schema.violations(&json!({"key": "hunter2", "lwo": 1}), "/parameters");
        let text = serde_json::to_string(&found).expect("plain data");
        assert!(text.contains("did you mean 'low'") && text.contains("/parameters/key") && text.contains("required"));
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_schema_reaches_neither_network_nor_files() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let local = format!("http://{}/schema.json", listener.local_addr().expect("it is bound"));
        for reference in ["http://169.254.169.254/x", "file:///etc/passwd", "file:///dev/null#", &local] {
            for document in [
                json!({"$ref": reference}),
                json!({"properties": {"a": {"items": {"$ref": reference}}}}),
                json!({"$id": reference, "$ref": "other.json"}),
                json!({"$schema": reference}),
                json!({"$dynamicRef": reference}),
            ] {
                assert!(Schema::compile(document.clone(), Unknown::AsDeclared).is_err(), "{document}");
            }
        }
        listener.set_nonblocking(true).expect("it can be asked");
        assert!(listener.accept().is_err(), "somebody came to fetch a schema");
    }

    #[test]
    fn a_pattern_takes_no_longer_than_its_text_is_long() {
        let evil = schema(json!({"type": "string", "pattern": "^(a+)+$"}));
        let text = Value::from("a".repeat(50_000) + "!");
        let begun = std::time::Instant::now();
        assert_eq!(evil.violations(&text, "/text")[0].keyword, "pattern");
        println!("50 kB against ^(a+)+$: {:?}", begun.elapsed());
        // An engine that goes back would not come to an end.
        assert!(begun.elapsed() < std::time::Duration::from_mins(1), "{:?}", begun.elapsed());
        for backtracking in ["(a)\\1", "(?=a)b"] {
            assert!(Schema::compile(json!({"pattern": backtracking}), Unknown::AsDeclared).is_err(), "{backtracking}");
        }
    }
}
