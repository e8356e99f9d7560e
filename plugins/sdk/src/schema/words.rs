//! What is wrong with a document, in the words of its author: which member, what it must be, what it is instead.
//!
//! Never the value itself, which may be a secret in the wrong place. Up: the errors of the `jsonschema` crate, which speak
//! of schemas, and those of serde, which speak of Rust. Down: [`Violation`], in the answer to a driver.

use std::collections::BTreeSet;

use jsonschema::{
    JsonType, ValidationError,
    error::{TypeKind, ValidationErrorKind as Kind},
};
use serde_json::Value;

use super::nearest;
use crate::contract::Violation;

/// A name that is longer does not stand in a pointer: it may be anything.
const LONGEST_NAME: usize = 64;
/// So many of the allowed words are named.
const MOST_WORDS: usize = 20;

/// Everything that one error says, each at its own place.
pub(super) fn violations(error: &ValidationError<'_>, base: &str, known: &BTreeSet<&str>) -> Vec<Violation> {
    let at = format!("{base}{}", error.instance_path().as_str());
    match error.kind() {
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            unexpected.iter().map(|name| unknown(&at, error.kind().keyword(), name, known)).collect()
        }
        Kind::Required { property } => {
            let pointer = format!("{at}/{}", escaped(property.as_str().unwrap_or_default()));
            vec![Violation { pointer, keyword: "required".to_owned(), message: "is missing".to_owned() }]
        }
        Kind::AnyOf { context } | Kind::OneOfNotValid { context } => match meant(error, context) {
            Some(branch) => branch.iter().flat_map(|error| violations(error, base, known)).collect(),
            None => vec![at_place(at, error, choice(error.instance(), context))],
        },
        _ => vec![at_place(at, error, message(error))],
    }
}

/// The first places where a document breaks its schema, for the problem's own text.
pub(crate) fn summary(what: &str, violations: &[Violation]) -> String {
    let place = |violation: &Violation| match violation.pointer.as_str() {
        "" => format!("the whole {}", violation.message),
        pointer => format!("{pointer} {}", violation.message),
    };
    match violations {
        [] => format!("{what} cannot be accepted"),
        [only] => format!("{what} cannot be accepted: {}", place(only)),
        [first, others @ ..] => {
            format!("{what} cannot be accepted: {}, and {} more in `errors`", place(first), others.len())
        }
    }
}

fn at_place(pointer: String, error: &ValidationError<'_>, message: String) -> Violation {
    Violation { pointer, keyword: error.kind().keyword().to_owned(), message }
}

fn unknown(at: &str, keyword: &str, name: &str, known: &BTreeSet<&str>) -> Violation {
    let short: String = name.chars().take(LONGEST_NAME).collect();
    let pointer = if short == name { format!("{at}/{}", escaped(name)) } else { at.to_owned() };
    let message = match nearest(&short, known.iter().copied()) {
        Some(meant) => format!("'{short}' is unknown; did you mean '{meant}'?"),
        None => format!("'{short}' is unknown"),
    };
    Violation { pointer, keyword: keyword.to_owned(), message }
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// The one variant of a choice that was meant: the only one that is of the value's own kind and, where the variants have
/// tags, has its tag.
fn meant<'e>(
    error: &ValidationError<'_>,
    context: &'e [Vec<ValidationError<'static>>],
) -> Option<&'e [ValidationError<'static>]> {
    let place = error.instance_path().as_str();
    let is_other = |branch: &&Vec<ValidationError<'static>>| {
        branch.iter().any(|error| match error.kind() {
            Kind::Type { .. } | Kind::FalseSchema => error.instance_path().as_str() == place,
            Kind::Constant { .. } => true,
            _ => false,
        })
    };
    let mut left = context.iter().filter(|branch| !branch.is_empty() && !is_other(branch));
    match (left.next(), left.next()) {
        (Some(only), None) => Some(only.as_slice()),
        _ => None,
    }
}

/// What a value must be that fits none of several variants.
fn choice(value: &Value, context: &[Vec<ValidationError<'static>>]) -> String {
    let (mut kinds, mut words) = (Vec::new(), Vec::new());
    for error in context.iter().flatten() {
        match error.kind() {
            Kind::Type { kind } => kinds.extend(kinds_of(kind)),
            Kind::Constant { expected_value } => words.push((**expected_value).clone()),
            Kind::Enum { options } => words.extend(options.as_array().cloned().unwrap_or_default()),
            _ => {}
        }
    }
    kinds.dedup();
    match (kinds.is_empty(), words.is_empty()) {
        (false, true) => must_be_of(&kinds, value),
        (true, false) => one_of(&words),
        _ => "fits none of the forms that are allowed here".to_owned(),
    }
}

fn message(error: &ValidationError<'_>) -> String {
    let value = error.instance();
    let number = |limit: &Value| limit.to_string();
    match error.kind() {
        Kind::Type { kind } => must_be_of(&kinds_of(kind), value),
        Kind::Enum { options } => one_of(options.as_array().map_or(&[][..], Vec::as_slice)),
        Kind::Constant { expected_value } => one_of(std::slice::from_ref(&**expected_value)),
        Kind::Minimum { limit } => format!("must be at least {}", number(limit)),
        Kind::Maximum { limit } => format!("must be at most {}", number(limit)),
        Kind::ExclusiveMinimum { limit } => format!("must be more than {}", number(limit)),
        Kind::ExclusiveMaximum { limit } => format!("must be less than {}", number(limit)),
        Kind::MultipleOf { multiple_of } => format!("must be a multiple of {multiple_of}"),
        Kind::MinLength { limit: 1 } => "must not be empty".to_owned(),
        Kind::MinLength { limit } => format!("must have at least {limit} characters"),
        Kind::MaxLength { limit } => format!("must have at most {limit} characters"),
        Kind::MinItems { limit } => format!("must have at least {limit} items"),
        Kind::MaxItems { limit } => format!("must have at most {limit} items"),
        Kind::AdditionalItems { limit } => format!("must have at most {limit} items"),
        Kind::UnevaluatedItems { .. } => "has too many items".to_owned(),
        Kind::UniqueItems => "must not have the same item twice".to_owned(),
        Kind::Contains => "lacks an item that must be there".to_owned(),
        Kind::MinProperties { limit } => format!("must have at least {limit} members"),
        Kind::MaxProperties { limit } => format!("must have at most {limit} members"),
        Kind::PropertyNames { error } => format!("has a member whose name cannot be used: it {}", message(error)),
        Kind::Pattern { pattern } => format!("must match {pattern}"),
        Kind::Format { format } => form(format),
        Kind::ContentEncoding { content_encoding } => format!("must be {content_encoding}"),
        Kind::OneOfMultipleValid { .. } => "fits several of the forms of which it may have one".to_owned(),
        Kind::FalseSchema | Kind::Not { .. } => "is not allowed here".to_owned(),
        Kind::Custom { message, .. } => message.clone(),
        _ => "cannot be accepted".to_owned(),
    }
}

fn form(format: &str) -> String {
    match format {
        "uuid" => "must be a UUID, such as 018f6f9e-0000-7000-8000-000000000001".to_owned(),
        "date-time" => "must be a time with its offset, such as 2026-01-31T12:00:00Z".to_owned(),
        "date" => "must be a date, such as 2026-01-31".to_owned(),
        "uri" => "must be a URI, such as https://example.org/".to_owned(),
        "email" => "must be an email address".to_owned(),
        other => format!("must be of the form {other}"),
    }
}

fn must_be_of(kinds: &[&'static str], value: &Value) -> String {
    let is = if value.is_number() && kinds.contains(&a_kind(JsonType::Integer)) {
        "a number with a fraction"
    } else {
        kind_of(value)
    };
    format!("must be {}, not {is}", kinds.join(" or "))
}

fn one_of(words: &[Value]) -> String {
    let shown: Vec<String> = words.iter().take(MOST_WORDS).map(Value::to_string).collect();
    let more = if words.len() > MOST_WORDS { ", …" } else { "" };
    match shown.as_slice() {
        [only] => format!("must be {only}"),
        all => format!("must be one of {}{more}", all.join(", ")),
    }
}

fn kinds_of(kind: &TypeKind) -> Vec<&'static str> {
    match kind {
        TypeKind::Single(kind) => vec![a_kind(*kind)],
        TypeKind::Multiple(kinds) => {
            // What is nothing comes last: "an integer or nothing".
            let mut kinds: Vec<_> = kinds.iter().map(a_kind).collect();
            kinds.sort_by_key(|kind| *kind == a_kind(JsonType::Null));
            kinds
        }
    }
}

fn a_kind(kind: JsonType) -> &'static str {
    match kind {
        JsonType::Null => "nothing",
        JsonType::Boolean => "true or false",
        JsonType::Integer => "an integer",
        JsonType::Number => "a number",
        JsonType::String => "a string",
        JsonType::Array => "a list",
        JsonType::Object => "an object",
    }
}

/// What a value is, without the value.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// What serde says, without the value that it repeats: `invalid type: string "hunter2", expected u64` may tell a secret.
pub(crate) fn of_reader(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let repeats = ["invalid type", "invalid value", "invalid length", "unknown variant", "unknown field"];
    if !repeats.iter().any(|start| text.starts_with(start)) {
        return text;
    }
    let Some((_, expected)) = text.split_once(", expected ") else { return "cannot be read".to_owned() };
    match expected {
        "i8" | "i16" | "i32" | "i64" | "isize" => "must be an integer that is not too large".to_owned(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "must be an integer from 0 that is not too large".to_owned(),
        "f32" | "f64" => "must be a number".to_owned(),
        "unit" => "must be null".to_owned(),
        "a boolean" => "must be true or false".to_owned(),
        "a sequence" => "must be a list".to_owned(),
        "a map" => "must be an object".to_owned(),
        expected if expected.starts_with("struct ") => "must be an object".to_owned(),
        expected if expected.starts_with("tuple ") || expected.starts_with("an array of length ") => {
            "must be a list of another length".to_owned()
        }
        expected => format!("must be {expected}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Schema, Unknown};

    /// Pointer and message of everything that is wrong.
    fn wrong(schema: serde_json::Value, value: &serde_json::Value) -> Vec<(String, String)> {
        let schema = Schema::compile(schema, Unknown::Refused).expect("it compiles");
        let found = schema.violations(value, "/parameters");
        found.into_iter().map(|violation| (violation.pointer, violation.message)).collect()
    }

    fn is(value: &serde_json::Value, schema: &serde_json::Value) -> String {
        let schema = json!({"type": "object", "properties": {"x": schema}});
        let mut found = wrong(schema, &json!({"x": value}));
        assert_eq!(found.len(), 1, "{found:?}");
        let (pointer, message) = found.remove(0);
        assert_eq!(pointer, "/parameters/x");
        message
    }

    #[test]
    fn every_refusal_says_what_it_must_be_and_what_it_is() {
        let nothing = json!({"type": "null"});
        for (value, schema, message) in [
            (json!("7"), json!({"type": ["integer", "null"]}), "must be an integer or nothing, not a string"),
            (
                json!("7"),
                json!({"anyOf": [{"type": "integer"}, nothing]}),
                "must be an integer or nothing, not a string",
            ),
            (json!(1.5), json!({"type": "integer"}), "must be an integer, not a number with a fraction"),
            (json!(null), json!({"type": "string"}), "must be a string, not null"),
            (json!(0), json!({"type": "integer", "minimum": 1}), "must be at least 1"),
            (json!(9), json!({"anyOf": [{"type": "integer", "maximum": 5}, nothing]}), "must be at most 5"),
            (json!([1, 2, 3]), json!({"type": "array", "maxItems": 2}), "must have at most 2 items"),
            (
                json!("soon"),
                json!({"type": "string", "format": "date-time"}),
                "must be a time with its offset, such as 2026-01-31T12:00:00Z",
            ),
            (json!("c"), json!({"enum": ["a", "b"]}), "must be one of \"a\", \"b\""),
            (json!("c"), json!({"oneOf": [{"const": "a"}, {"const": "b"}]}), "must be one of \"a\", \"b\""),
            (
                json!(true),
                json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
                "must be a string or a number, not a boolean",
            ),
            (json!(""), json!({"type": "string", "minLength": 1}), "must not be empty"),
            (json!("A b"), json!({"type": "string", "pattern": "^[a-z]+$"}), "must match ^[a-z]+$"),
            (json!("x"), json!(false), "is not allowed here"),
        ] {
            assert_eq!(is(&value, &schema), message);
        }
    }

    #[test]
    fn a_refusal_points_at_the_member_also_where_it_is_missing_or_unknown() {
        let schema = json!({"type": "object", "properties": {"low": {"type": "integer"}, "a/b": {}}, "required": ["low", "a/b"]});
        let found = wrong(schema, &json!({"lwo": 1}));
        let expected = [
            ("/parameters/lwo", "'lwo' is unknown; did you mean 'low'?"),
            ("/parameters/low", "is missing"),
            ("/parameters/a~1b", "is missing"),
        ];
        for (pointer, message) in expected {
            assert!(found.contains(&(pointer.to_owned(), message.to_owned())), "{pointer} {message}: {found:?}");
        }
    }

    #[test]
    fn of_a_choice_the_variant_that_was_meant_is_spoken_of() {
        let tagged = |tag: &str, member: &str| {
            json!({
                "type": "object",
                "properties": {"kind": {"const": tag}, member: {"type": "integer"}},
                "required": ["kind", member]
            })
        };
        let schema = json!({"type": "object", "properties": {"x": {"oneOf": [tagged("score", "max"), tagged("yes-no", "quorum")]}}});
        let found = wrong(schema, &json!({"x": {"kind": "score", "max": "many"}}));
        assert_eq!(found, [("/parameters/x/max".to_owned(), "must be an integer, not a string".to_owned())]);
    }
}
