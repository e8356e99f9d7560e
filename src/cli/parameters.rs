//! `key=value` on the command line as the JSON that a plugin's schema asks for.
//!
//! `key=value` is JSON where it reads as a number, a boolean, null, a list or an object, and text otherwise; where the
//! schema says that the member is text it always is, so that `name=123` stays `"123"`. `key:=value` is JSON whatever it
//! looks like. What the values must be is not checked here; the service does that and names every violation. Up: the
//! shell. Down: the commands that are published.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read as _},
    path::Path,
};

use anyhow::Context;
use metagov_sdk::contract::json;
use serde_json::{Map, Value};

use super::exit::Stop;

/// How the options explain themselves.
pub(super) const HOW: &str = "`key=value` is JSON where it reads as such, else text; always text where the plugin's \
                              schema says so. `key:=json` is always JSON";

/// A file, then pairs over it.
pub(super) fn assemble(
    schema: Option<&Value>,
    file: Option<&Path>,
    pairs: &[String],
) -> anyhow::Result<Map<String, Value>> {
    let mut members = match file {
        Some(path) => object(path)?,
        None => Map::new(),
    };
    let mut given = BTreeSet::new();
    for pair in pairs {
        let (key, value) = read(schema, pair)?;
        if !given.insert(key.clone()) {
            return Err(Stop::Usage(format!("'{key}' is given twice")).into());
        }
        members.insert(key, value);
    }
    Ok(members)
}

/// A JSON document from a file, or from stdin for `-`. As strict as the service is.
pub(super) fn document(path: &Path) -> anyhow::Result<Value> {
    let mut body = Vec::new();
    if path == Path::new("-") {
        io::stdin().read_to_end(&mut body).context("cannot read stdin")?;
    } else {
        body = fs::read(path).map_err(|error| Stop::Usage(format!("cannot read {}: {error}", path.display())))?;
    }
    json::parse(&body).with_context(|| path.display().to_string())
}

fn object(path: &Path) -> anyhow::Result<Map<String, Value>> {
    match document(path)? {
        Value::Object(members) => Ok(members),
        _ => Err(Stop::Usage(format!("{} must hold a JSON object", path.display())).into()),
    }
}

fn read(schema: Option<&Value>, pair: &str) -> Result<(String, Value), Stop> {
    let usage = || Stop::Usage(format!("'{}' must be key=value or key:=json", pair.split('=').next().unwrap_or(pair)));
    let (key, text) = pair.split_once('=').ok_or_else(usage)?;
    if let Some(key) = key.strip_suffix(':') {
        let value = json::parse(text.as_bytes())
            .map_err(|problem| Stop::Usage(format!("the value of '{key}:=' must be JSON: {}", problem.detail)))?;
        return if key.is_empty() { Err(usage()) } else { Ok((key.to_owned(), value)) };
    }
    if key.is_empty() {
        return Err(usage());
    }
    let value = if schema.is_some_and(|schema| is_text(schema, key)) { None } else { json_but_no_text(text) };
    Ok((key.to_owned(), value.unwrap_or_else(|| text.into())))
}

/// JSON other than a string: quotes around a word belong to the word.
fn json_but_no_text(text: &str) -> Option<Value> {
    json::parse(text.as_bytes()).ok().filter(|value| !value.is_string())
}

/// Whether the schema allows text for this member and nothing else but null.
fn is_text(schema: &Value, member: &str) -> bool {
    let Some(property) = schema.get("properties").and_then(|properties| properties.get(member)) else { return false };
    let mut kinds = BTreeSet::new();
    collect_kinds(schema, property, 8, &mut kinds);
    kinds.remove("null");
    kinds.len() == 1 && kinds.contains("string")
}

fn collect_kinds<'a>(root: &'a Value, schema: &'a Value, depth: u8, kinds: &mut BTreeSet<&'a str>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    let reference = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix('#'));
    if let Some(target) = reference.and_then(|pointer| root.pointer(pointer)) {
        collect_kinds(root, target, depth, kinds);
    }
    match schema.get("type") {
        Some(Value::String(kind)) => drop(kinds.insert(kind)),
        Some(Value::Array(all)) => kinds.extend(all.iter().filter_map(Value::as_str)),
        _ => {}
    }
    let values = schema.get("enum").and_then(Value::as_array).into_iter().flatten().chain(schema.get("const"));
    kinds.extend(values.map(|value| if value.is_string() { "string" } else { "other" }));
    for family in ["anyOf", "oneOf", "allOf"] {
        for variant in schema.get(family).and_then(Value::as_array).into_iter().flatten() {
            collect_kinds(root, variant, depth, kinds);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "nick": {"type": ["string", "null"]},
                "colour": {"$ref": "#/$defs/Colour"},
                "maybe": {"anyOf": [{"$ref": "#/$defs/Colour"}, {"type": "null"}]},
                "either": {"type": ["string", "integer"]},
                "low": {"type": "integer"}
            },
            "$defs": {"Colour": {"enum": ["1", "2"]}}
        })
    }

    fn assembled(pairs: &[&str]) -> Value {
        let pairs: Vec<String> = pairs.iter().map(|pair| (*pair).to_owned()).collect();
        Value::Object(assemble(Some(&schema()), None, &pairs).expect("usable"))
    }

    #[test]
    fn what_the_schema_calls_text_stays_text() {
        let value = assembled(&["name=123", "nick=null", "colour=1", "maybe=2", "either=3", "low=4"]);
        let expected = json!({"name": "123", "nick": "null", "colour": "1", "maybe": "2", "either": 3, "low": 4});
        assert_eq!(value, expected);
    }

    #[test]
    fn what_the_schema_does_not_name_is_json_where_it_reads_as_such() {
        let value =
            assembled(&["a=1", "b=true", "c=null", "d=[1,2]", "e={\"x\":1}", "f=word", "g=\"quoted\"", "h=a=b", "i="]);
        let expected = json!({
            "a": 1, "b": true, "c": null, "d": [1, 2], "e": {"x": 1}, "f": "word", "g": "\"quoted\"", "h": "a=b", "i": ""
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn colon_equals_is_json_against_the_schema_too() {
        assert_eq!(assembled(&["name:=123", "nick:=null"]), json!({"name": 123, "nick": null}));
    }

    #[test]
    fn pairs_that_cannot_be_used_are_refused() {
        for pairs in [&["word"][..], &["=1"], &[":=1"], &["a:=word"], &["a=1", "a=2"]] {
            let pairs: Vec<String> = pairs.iter().map(|pair| (*pair).to_owned()).collect();
            let error = assemble(None, None, &pairs).expect_err("not usable");
            assert!(matches!(error.downcast_ref(), Some(Stop::Usage(_))), "{error}");
        }
    }

    #[test]
    fn pairs_count_over_the_file() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(file.path(), r#"{"low": 1, "name": "x"}"#).expect("it is ours");
        let members = assemble(None, Some(file.path()), &["low=2".to_owned()]).expect("usable");
        assert_eq!(Value::Object(members), json!({"low": 2, "name": "x"}));
    }

    proptest! {
        #[test]
        fn a_text_member_is_exactly_what_was_typed(text in "\\PC{0,20}") {
            prop_assert_eq!(assembled(&[&format!("name={text}")]), json!({ "name": text }));
        }

        #[test]
        fn no_pair_makes_it_panic(pair in any::<String>()) {
            let _ = read(Some(&schema()), &pair);
        }
    }
}
