//! Where a document holds what its schema marks `writeOnly`.
//!
//! Up: [`super::Schema`]. Down: the marks of [`crate::Secret`].

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::resolve;

/// JSON pointers to everything that is marked.
pub(super) fn find(root: &Value, instance: &Value) -> BTreeSet<String> {
    let mut search = Search { root, at: String::new(), found: BTreeSet::new() };
    search.look(root, instance, MOST_STEPS);
    search.found
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

    use super::super::{MASK, Schema, Unknown};

    fn schema(document: serde_json::Value) -> Schema {
        Schema::compile(document, Unknown::Refused).expect("a valid schema")
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
}
