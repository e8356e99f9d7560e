//! Defaults: filled in for members of objects that are absent, and never without end.
//!
//! Up: [`super::Schema`]. Down: the `default` of the schema.

use serde_json::{Map, Value};

use super::resolve;

/// Defaults that fill in more than this for one object contain themselves.
const MOST_DEFAULTS: usize = 1_000;

/// `left` is how many defaults may still be filled in; none is filled in after that.
pub(super) fn fill(root: &Value, schema: &Value, instance: &mut Value, left: &mut usize) {
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
pub(super) fn defaults_end(root: &Value, schema: &Value) -> bool {
    let mut left = MOST_DEFAULTS;
    fill(root, schema, &mut Value::Object(Map::new()), &mut left);
    left > 0
        && match schema {
            Value::Object(members) => members.values().all(|value| defaults_end(root, value)),
            Value::Array(items) => items.iter().all(|item| defaults_end(root, item)),
            _ => true,
        }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Schema, Unknown};

    fn schema(document: serde_json::Value) -> Schema {
        Schema::compile(document, Unknown::Refused).expect("a valid schema")
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
}
