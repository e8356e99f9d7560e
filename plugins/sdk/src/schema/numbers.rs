//! One kind of number: what JSON Schema calls an integer is one for the reader, too, and no schema promises more than every
//! reader takes.
//!
//! For JSON Schema `1.0`, `1e1` and `-0` are integers, for the reader of a Rust integer they are none, and a schema that is
//! made from an `i64` does not say where an `i64` ends. Nor does it say that many readers of JSON round what is beyond 2^53: so
//! no integer of a schema goes beyond, and what may be larger is a string. Up: [`super::Schema`] and everything that is
//! published. Down: the types that a checked document is read into.

use serde_json::{Map, Number, Value};

/// Rust's integers by the names that schemars gives them, as far as every reader of JSON has them.
const INTEGERS: [(&str, i128, i128); 10] = [
    ("int8", i8::MIN as i128, i8::MAX as i128),
    ("int16", i16::MIN as i128, i16::MAX as i128),
    ("int32", i32::MIN as i128, i32::MAX as i128),
    ("int64", -EXACT, EXACT),
    ("int", -EXACT, EXACT),
    ("uint8", 0, u8::MAX as i128),
    ("uint16", 0, u16::MAX as i128),
    ("uint32", 0, u32::MAX as i128),
    ("uint64", 0, EXACT),
    ("uint", 0, EXACT),
];

/// Those of these names that are registered (<https://spec.openapis.org/registry/format/>) and that validators know.
const REGISTERED: [&str; 2] = ["int32", "int64"];

/// The largest integer that every reader of JSON keeps exactly (RFC 8259, section 6).
pub const LARGEST_EXACT: u64 = (1 << 53) - 1;
const EXACT: i128 = LARGEST_EXACT as i128;

/// Keywords whose values are documents and not schemas.
const DOCUMENTS: [&str; 4] = ["const", "default", "enum", "examples"];

/// Writes each number without a fraction as an integer, where there is one that is exactly the same.
pub fn integral(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(integer) = number.as_f64().filter(|_| number.is_f64()).and_then(exact) {
                *number = integer;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(integral),
        Value::Object(members) => members.values_mut().for_each(integral),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "both bounds are checked before")]
fn exact(number: f64) -> Option<Number> {
    /// The first number that is too large for an `i64`.
    const END: f64 = 9_223_372_036_854_775_808.0;
    if number.fract() != 0.0 || !(-END..2.0 * END).contains(&number) {
        return None;
    }
    Some(if number < END { Number::from(number as i64) } else { Number::from(number as u64) })
}

/// Says of every integer in a schema where it ends, and takes away the names of formats that nobody has registered.
///
/// # Panics
/// Never: every limit is one of a 64-bit integer.
pub fn bound(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            let schemas = members.iter_mut().filter(|(keyword, _)| !DOCUMENTS.contains(&keyword.as_str()));
            schemas.for_each(|(_, value)| bound(value));
            bound_integer(members);
        }
        Value::Array(items) => items.iter_mut().for_each(bound),
        _ => {}
    }
}

fn bound_integer(schema: &mut Map<String, Value>) {
    let format = schema.get("format").and_then(Value::as_str);
    let found = INTEGERS.into_iter().find(|(name, ..)| Some(*name) == format);
    let (name, least, most) = match found {
        Some(integer) => integer,
        None if schema.get("type").is_some_and(is_integer) => ("", -EXACT, EXACT),
        None => return,
    };
    if !name.is_empty() && !REGISTERED.contains(&name) {
        schema.remove("format");
    }
    for (keyword, exclusive, limit) in [("minimum", "exclusiveMinimum", least), ("maximum", "exclusiveMaximum", most)] {
        for keyword in [keyword, exclusive] {
            if schema.get(keyword).and_then(Value::as_f64).is_some_and(is_beyond) {
                schema.remove(keyword);
            }
        }
        let limit = Number::from_i128(limit).expect("it is within i64 and u64");
        if !schema.contains_key(exclusive) {
            schema.entry(keyword).or_insert(Value::Number(limit));
        }
    }
}

fn is_integer(kind: &Value) -> bool {
    let is = |kind: &Value, name: &str| kind == name || kind.as_array().is_some_and(|all| all.contains(&name.into()));
    is(kind, "integer") && !is(kind, "number")
}

#[expect(clippy::cast_precision_loss, reason = "that it is exact is what the constant says")]
fn is_beyond(number: f64) -> bool {
    number.abs() > LARGEST_EXACT as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schemars::JsonSchema;
    use serde::Deserialize;
    use serde_json::json;

    use super::super::{Schema, Unknown};
    use super::*;

    /// One of each integer, so that every bound is met.
    #[derive(Debug, Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only read")]
    struct Integers {
        a: Option<i8>,
        b: Option<i16>,
        c: Option<i32>,
        d: Option<i64>,
        e: Option<isize>,
        f: Option<u8>,
        g: Option<u16>,
        h: Option<u32>,
        i: Option<u64>,
        j: Option<usize>,
        k: Option<std::num::NonZeroU16>,
        l: Vec<i64>,
    }

    /// Numbers as strangers write them: at every bound, beside it, with fractions and exponents.
    fn number() -> impl Strategy<Value = String> {
        let edge =
            prop::sample::select(INTEGERS.iter().flat_map(|(_, least, most)| [*least, *most]).collect::<Vec<_>>());
        prop_oneof![
            (edge, -2_i128..=2).prop_map(|(edge, beside)| (edge + beside).to_string()),
            (-3_i64..=300, 0..3_usize).prop_map(|(number, zeros)| format!("{number}.{}", "0".repeat(zeros + 1))),
            (-40_i64..=40, -2..=22_i32).prop_map(|(number, exponent)| format!("{number}e{exponent}")),
            Just("-0".to_owned()),
            Just("-0.0".to_owned()),
            any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(|number| format!("{number:e}")),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn what_the_schema_takes_every_reader_takes_and_nothing_else(member in "[a-k]", number in number(), in_list in any::<bool>()) {
            let schema = Schema::of::<Integers>(Unknown::Refused).expect("it compiles");
            let text = if in_list { format!("{{\"l\":[{number}]}}") } else { format!("{{\"l\":[],\"{member}\":{number}}}") };
            let Ok(written) = serde_json::from_str::<Value>(&text) else { return Ok(()) };
            let mut value = written.clone();
            integral(&mut value);
            let accepted = schema.violations(&value, "").is_empty();
            prop_assert_eq!(accepted, schema.violations(&written, "").is_empty(), "{} means another thing", text);
            let is_exact = !number.parse::<f64>().is_ok_and(is_beyond);
            let read = serde_json::from_value::<Integers>(value);
            prop_assert_eq!(accepted, is_exact && read.is_ok(), "{}: {:?}", text, read.err());
        }
    }

    #[test]
    fn a_number_stays_what_it_is() {
        for (written, kept) in [
            ("1.0", "1"),
            ("1e1", "10"),
            ("-0", "0"),
            ("1.5", "1.5"),
            ("1e300", "1e+300"),
            ("1e19", "10000000000000000000"),
        ] {
            let mut value: Value = serde_json::from_str(written).expect("JSON");
            integral(&mut value);
            assert_eq!(value.to_string(), kept);
        }
    }

    #[test]
    fn formats_that_nobody_registered_are_gone_and_their_bounds_are_there() {
        let mut schema = json!({"type": "integer", "format": "uint16", "minimum": 1});
        bound(&mut schema);
        assert_eq!(schema, json!({"type": "integer", "minimum": 1, "maximum": 65535}));
    }

    #[test]
    fn no_integer_goes_beyond_what_every_reader_keeps_exactly_whatever_a_plugin_says() {
        for mut schema in [
            json!({"type": "integer"}),
            json!({"type": ["integer", "null"], "format": "int64"}),
            json!({"type": "integer", "minimum": -1e300, "maximum": u64::MAX}),
            json!({"type": "integer", "exclusiveMinimum": i64::MIN, "exclusiveMaximum": i64::MAX}),
        ] {
            bound(&mut schema);
            let limits = [&schema["minimum"], &schema["maximum"]];
            assert_eq!(limits, [&json!(-9_007_199_254_740_991_i64), &json!(9_007_199_254_740_991_i64)], "{schema}");
        }
        let mut others = json!({"type": ["integer", "number"], "default": {"type": "integer"}, "maximum": 1e300});
        let before = others.clone();
        bound(&mut others);
        assert_eq!(others, before);
    }
}
