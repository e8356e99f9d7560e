//! JSON Schemas at work: compiled once, defaults filled in, every violation named, secrets masked.
//!
//! A schema here always comes from a Rust type or from a plugin at start, never from a message, and it can reach
//! neither network nor files. Up: [`crate::contract::Command::decode`] and the registrar. Down: the `jsonschema` crate.

use std::collections::BTreeSet;

use jsonschema::{PatternOptions, Validator, error::ValidationErrorKind};
use schemars::JsonSchema;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::contract::Violation;

/// A document with more violations than this is told the first ones.
const MOST_VIOLATIONS: usize = 20;
/// Defaults that fill in more than this for one object contain themselves.
const MOST_DEFAULTS: usize = 1_000;

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
        // The linear-time engine: a pattern from a plugin cannot be made to backtrack by a parameter.
        let validator = jsonschema::options()
            .offline()
            .should_validate_formats(true)
            .with_pattern_options(PatternOptions::regex())
            .build(&document)
            .map_err(|error| InvalidSchema(error.to_string()))?;
        if !defaults_end(&document, &document) {
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
            .map(|error| Violation {
                pointer: format!("{base}{}", error.instance_path().as_str()),
                keyword: error.kind().keyword().to_owned(),
                message: match error.kind() {
                    ValidationErrorKind::AdditionalProperties { unexpected } => unknown_members(unexpected, &known),
                    _ => error.masked_with(kind_of(error.instance())).to_string(),
                },
            })
            .collect()
    }

    /// Fills in the defaults that the schema declares for members of objects, where they are absent.
    pub fn fill_defaults(&self, instance: &mut Value) {
        let mut unbounded = usize::MAX;
        fill(&self.document, &self.document, instance, &mut unbounded);
    }

    /// Where the document holds what the schema marks `writeOnly`: JSON pointers, none of them within another. What is
    /// null says nothing, and is no secret.
    #[must_use]
    pub fn secret_places(&self, instance: &Value) -> Vec<String> {
        let mut search = Search { root: &self.document, at: String::new(), found: BTreeSet::new() };
        search.look(&self.document, instance, MOST_STEPS);
        let found = search.found;
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

fn unknown_members(unexpected: &[String], known: &BTreeSet<&str>) -> String {
    let names: Vec<String> = unexpected
        .iter()
        .take(5)
        .map(|name| {
            let short: String = name.chars().take(64).collect();
            match nearest(&short, known.iter().copied()) {
                Some(meant) => format!("'{short}' (did you mean '{meant}'?)"),
                None => format!("'{short}'"),
            }
        })
        .collect();
    format!("unknown: {}", names.join(", "))
}

/// What stands in a message in place of the value, which may be a secret.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "the boolean",
        Value::Number(_) => "the number",
        Value::String(_) => "the string",
        Value::Array(_) => "the array",
        Value::Object(_) => "the object",
    }
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

/// `left` is how many defaults may still be filled in; none is filled in after that.
fn fill(root: &Value, schema: &Value, instance: &mut Value, left: &mut usize) {
    let Some(Value::Object(properties)) = resolve(root, schema).get("properties") else { return };
    let Value::Object(members) = instance else { return };
    for (name, property) in properties {
        if let Some(default) = property.get("default").or_else(|| resolve(root, property).get("default")) {
            // A default of null says no more than absence does.
            if !default.is_null() && !members.contains_key(name) && *left > 0 {
                *left -= 1;
                members.insert(name.clone(), default.clone());
            }
        }
        if let Some(member) = members.get_mut(name) {
            fill(root, property, member, left);
        }
    }
}

/// Whether filling in ends for an object of every schema in the document.
fn defaults_end(root: &Value, schema: &Value) -> bool {
    let mut left = MOST_DEFAULTS;
    fill(root, schema, &mut Value::Object(Map::new()), &mut left);
    left > 0
        && match schema {
            Value::Object(members) => members.values().all(|value| defaults_end(root, value)),
            Value::Array(items) => items.iter().all(|item| defaults_end(root, item)),
            _ => true,
        }
}

/// So many references and choices are followed at one place; a schema that refers to itself has no end.
const MOST_STEPS: u8 = 32;

/// The search for what is marked. Which variant of a choice the document follows is not looked at: what any of them marks
/// is a secret.
struct Search<'s> {
    root: &'s Value,
    at: String,
    found: BTreeSet<String>,
}

impl Search<'_> {
    /// Notes every place at or below this one that the schema marks.
    fn look(&mut self, schema: &Value, instance: &Value, steps: u8) {
        if instance.is_null() || steps == 0 {
            return;
        }
        if schema.get("writeOnly") == Some(&Value::Bool(true)) {
            self.found.insert(self.at.clone());
            return;
        }
        let resolved = resolve(self.root, schema);
        if !std::ptr::eq(resolved, schema) {
            self.look(resolved, instance, steps - 1);
        }
        let families = ["anyOf", "oneOf", "allOf"].iter().filter_map(|family| schema.get(family)?.as_array()).flatten();
        for variant in families.chain(["then", "else"].iter().filter_map(|branch| schema.get(branch))) {
            self.look(variant, instance, steps - 1);
        }
        match instance {
            Value::Object(members) => {
                for (name, member) in members {
                    if let Some(property) = schema.get("properties").and_then(|properties| properties.get(name)) {
                        self.below(property, name, member);
                        continue;
                    }
                    let patterns = schema.get("patternProperties").and_then(Value::as_object);
                    let others = patterns.into_iter().flat_map(Map::values);
                    for schema in others.chain(schema.get("additionalProperties")) {
                        self.below(schema, name, member);
                    }
                }
            }
            Value::Array(items) => {
                let first = schema.get("prefixItems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                for (place, item) in items.iter().enumerate() {
                    if let Some(schema) = first.get(place).or_else(|| schema.get("items")) {
                        self.below(schema, &place.to_string(), item);
                    }
                }
            }
            _ => {}
        }
    }

    fn below(&mut self, schema: &Value, member: &str, value: &Value) {
        let length = self.at.len();
        self.at.push('/');
        self.at.push_str(&member.replace('~', "~0").replace('/', "~1"));
        self.look(schema, value, MOST_STEPS);
        self.at.truncate(length);
    }
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
    fn defaults_are_filled_in_deeply_and_only_where_nothing_stands() {
        let schema = schema(json!({
            "type": "object",
            "properties": {"a": {"default": 1}, "b": {"$ref": "#/$defs/B"}, "c": {"default": null}},
            "$defs": {"B": {"type": "object", "properties": {"x": {"default": true}}}}
        }));
        let mut value = json!({"a": 5, "b": {}});
        schema.fill_defaults(&mut value);
        assert_eq!(value, json!({"a": 5, "b": {"x": true}}));
    }

    #[test]
    fn what_is_write_only_is_masked_wherever_it_stands() {
        let schema = schema(json!({
            "type": "object",
            "properties": {
                "token": {"type": "string", "writeOnly": true},
                "optional": {"anyOf": [{"type": "string", "writeOnly": true}, {"type": "null"}]},
                "list": {"type": "array", "items": {"$ref": "#/$defs/S"}},
                "plain": {"type": "string"}
            },
            "$defs": {"S": {"type": "string", "writeOnly": true}}
        }));
        let shown = schema.mask(&json!({"token": "a", "optional": "b", "list": ["c"], "plain": "d"}));
        assert_eq!(shown, json!({"token": MASK, "optional": MASK, "list": [MASK], "plain": "d"}));
    }

    #[test]
    fn secrets_are_found_in_objects_lists_maps_tuples_and_choices() {
        let secret = json!({"type": "string", "writeOnly": true});
        let schema = schema(json!({
            "type": "object",
            "properties": {
                "deep": {"$ref": "#/$defs/Deep"},
                "map": {"type": "object", "additionalProperties": secret},
                "numbered": {"type": "object", "additionalProperties": false, "patternProperties": {"^[0-9]+$": secret}},
                "endless": {"$ref": "#/$defs/Endless"},
                "pair": {"type": "array", "prefixItems": [{"type": "string"}, secret]},
                "choice": {"oneOf": [
                    {"type": "object", "properties": {"plain": {"type": "string"}}},
                    {"type": "object", "properties": {"key": secret}}
                ]},
                "whole": {"type": "object", "writeOnly": true, "properties": {"inner": secret}},
                "none": {"anyOf": [secret, {"type": "null"}]}
            },
            "$defs": {"Endless": {"anyOf": [{"$ref": "#/$defs/Endless"}, {"type": "object"}]}, "Deep": {"type": "object", "properties": {
                "list": {"type": "array", "items": {"type": "object", "properties": {"token": secret}}},
                "again": {"$ref": "#/$defs/Deep"}
            }}}
        }));
        let document = json!({
            "deep": {"list": [{"token": "1"}], "again": {"list": [{}, {"token": "2"}]}},
            "map": {"a/b": "3", "~": "4"},
            "numbered": {"1": "8"},
            "endless": {"x": "plain"},
            "pair": ["plain", "5"],
            "choice": {"key": "6"},
            "whole": {"inner": "7"},
            "none": null
        });
        let expected = [
            "/choice/key",
            "/deep/again/list/1/token",
            "/deep/list/0/token",
            "/map/a~1b",
            "/map/~0",
            "/numbered/1",
            "/pair/1",
            "/whole",
        ];
        assert_eq!(schema.secret_places(&document), expected);
        let shown = schema.mask(&document).to_string();
        assert_eq!(shown.matches(MASK).count(), expected.len(), "{shown}");
    }

    #[test]
    fn a_default_that_contains_itself_is_refused_and_a_recursive_schema_is_not() {
        let endless = json!({"properties": {"next": {"$ref": "#", "default": {}}}});
        assert!(Schema::compile(endless, Unknown::AsDeclared).is_err());
        let branching = json!({"$defs": {"A": {"properties": {"l": {"$ref": "#/$defs/A", "default": {}}, "r": {"$ref": "#/$defs/A", "default": {}}}}}});
        assert!(Schema::compile(branching, Unknown::AsDeclared).is_err());
        let list = schema(json!({"properties": {"next": {"$ref": "#"}, "value": {"default": 1}}}));
        let mut value = json!({"next": {"next": {}}});
        list.fill_defaults(&mut value);
        assert_eq!(value, json!({"value": 1, "next": {"value": 1, "next": {"value": 1}}}));
        assert!(list.violations(&value, "").is_empty());
        assert!(!list.violations(&json!({"next": {"next": 1, "nxt": 1}}), "").is_empty());
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
