//! From a checked document to its type, with the place of what the type refuses all the same.
//!
//! A schema cannot say everything that a type checks by itself. Up: [`super::Schema`], which has checked the document. Down: serde.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

use super::words;
use crate::contract::Violation;

/// Reads a document; the pointer of what is wrong starts with `base`.
///
/// # Errors
/// The one thing that the type refuses.
pub(crate) fn read<T: DeserializeOwned>(value: Value, base: &str) -> Result<T, Violation> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().iter().filter_map(|segment| match segment {
            Segment::Seq { index } => Some(format!("/{index}")),
            Segment::Map { key } => Some(format!("/{}", key.replace('~', "~0").replace('/', "~1"))),
            Segment::Enum { .. } | Segment::Unknown => None,
        });
        Violation {
            pointer: format!("{base}{}", path.collect::<String>()),
            keyword: "type".to_owned(),
            message: words::of_reader(error.inner()),
        }
    })
}
