//! JSON as strict as a service that strangers write to has to be.
//!
//! `serde_json` already refuses invalid UTF-8, lone surrogates, trailing bytes, numbers out of range and nesting deeper
//! than 128. This adds what it lets pass: a member that appears twice, where two readers may disagree on which one
//! counts, and the character NUL, which PostgreSQL does not keep. Up: the body of a delivery. Down: [`super::Command::decode`].

use std::fmt;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use super::{Problem, ProblemKind};

/// Reads one JSON document.
///
/// # Errors
/// A problem `invalid-json` with line and column; it never repeats the input.
pub fn parse(body: &[u8]) -> Result<Value, Problem> {
    serde_json::from_slice::<Strict>(body).map(|strict| strict.0).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Eof => "it ends too early",
            serde_json::error::Category::Data if error.to_string().starts_with(NUL) => NUL,
            serde_json::error::Category::Data => DUPLICATE,
            _ if error.to_string().starts_with("recursion limit") => "it is nested deeper than 128",
            _ => "it is not JSON",
        };
        let detail = format!("the body cannot be read: {what} (line {}, column {})", error.line(), error.column());
        Problem::new(ProblemKind::InvalidJson, detail)
    })
}

/// The schema of a place where any JSON may be, null included: every generator of code takes it for that.
pub(super) fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["object", "array", "string", "number", "boolean", "null"] })
}

const DUPLICATE: &str = "a member appears twice";
const NUL: &str = "a text holds the character NUL, which no database keeps";

fn text<E: serde::de::Error>(text: String) -> Result<String, E> {
    if text.contains('\0') { Err(E::custom(NUL)) } else { Ok(text) }
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> DeserializeSeed<'de> for StrictVisitor {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.visit_string(value.to_owned())
    }
    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Value, E> {
        text(value).map(Value::String)
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(StrictVisitor)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(StrictVisitor)?;
            if members.insert(text(name)?, value).is_some() {
                return Err(A::Error::custom(DUPLICATE));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_serde_json_reads_is_read_the_same() {
        let text = br#"{"a":[1,-2,3.5,true,null,"x\u00e9"],"b":{"c":{}}}"#;
        let plain: Value = serde_json::from_slice(text).expect("valid JSON");
        assert_eq!(parse(text).expect("valid JSON"), plain);
    }

    #[test]
    fn hostile_documents_are_refused_without_being_repeated() {
        let deep = "[".repeat(100_000);
        let cases: &[&[u8]] = &[
            b"",
            b"{",
            b"not json secret",
            br#"{"a":1,"a":2}"#,
            br#"{"x":{"a":1,"b":2,"a":3}}"#,
            br#"{"a":1} trailing"#,
            br#"{"a":1e400}"#,
            br#""\ud800""#,
            br#"{"a":"x\u0000"}"#,
            br#"{"\u0000":1}"#,
            b"\xef\xbb\xbf{}",
            b"\"\xff\"",
            deep.as_bytes(),
        ];
        for case in cases {
            let problem = parse(case).expect_err("it must be refused");
            assert_eq!(problem.kind, ProblemKind::InvalidJson);
            assert!(!problem.detail.contains("secret"), "{}", problem.detail);
        }
        assert!(parse(br#"{"a":1,"a":2}"#).expect_err("duplicate").detail.contains("twice"));
        assert!(parse(deep.as_bytes()).expect_err("deep").detail.contains("128"));
    }
}
