//! JSON in text columns: the database never looks inside, and `jsonb` would refuse `\u0000`.
//!
//! Up: the files that make rows of values. Down: text.

use serde::{Serialize, de::DeserializeOwned};

use super::StoreError;

/// The text of a value.
pub(super) fn write(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Corrupt { what: "a value", reason: error.to_string() })
}

/// The text of a value that may be absent.
pub(super) fn write_optional(value: Option<&impl Serialize>) -> Result<Option<String>, StoreError> {
    value.map(write).transpose()
}

/// The value of a text. Errors name the place and never the content, which may be a secret.
pub(super) fn read<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt {
        what,
        reason: format!("{:?} error in JSON at column {}", error.classify(), error.column()),
    })
}

/// The value of a text that may be absent.
pub(super) fn read_optional<T: DeserializeOwned>(
    what: &'static str,
    text: Option<&str>,
) -> Result<Option<T>, StoreError> {
    text.map(|text| read(what, text)).transpose()
}
