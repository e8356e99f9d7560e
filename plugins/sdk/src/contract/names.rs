//! The words that name things on the wire, each checked once, where it enters.
//!
//! A value of one of these types is safe in a routing key, in a queue name and in a log line. Up: [`super::command`]
//! and [`super::routing`] build them from input. Down: everything else takes them as given.

use std::{borrow::Cow, fmt, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

/// Why a word was refused. The message never repeats the word: it may be long, or a secret in the wrong place.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what} must match {pattern}")]
pub struct InvalidName {
    what: &'static str,
    pattern: &'static str,
}

fn is_slug(text: &str, longest: usize) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= longest
        && bytes[0] != b'-'
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $pattern:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub struct $name(Arc<str>);

        impl $name {
            /// What the word must look like, as a regular expression.
            pub const PATTERN: &'static str = $pattern;

            /// Checks the word.
            ///
            /// # Errors
            /// [`InvalidName`] with the pattern, where the word does not match it.
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.into())) } else { Err(InvalidName { what: $what, pattern: $pattern }) }
            }

            /// The word itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}

name_type!(
    /// The address of a community: `[a-z0-9][a-z0-9-]{0,35}`.
    CommunitySlug, "a community slug", "^[a-z0-9][a-z0-9-]{0,35}$", |text| is_slug(text, 36)
);

name_type!(
    /// The name of a plugin, an action or a process: `[a-z0-9][a-z0-9-]{0,62}`.
    Name, "a plugin, action or process name", "^[a-z0-9][a-z0-9-]{0,62}$", |text| is_slug(text, 63)
);

name_type!(
    /// The idempotency key of a command, its AMQP `message_id`: 1 to 128 visible ASCII characters; a UUID is best.
    MessageId, "message_id", "^[!-~]{1,128}$",
    |text| (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_is_lower_case_and_at_most_36_long() {
        assert!(CommunitySlug::new("my-community-1").is_ok());
        assert!(CommunitySlug::new(&"a".repeat(36)).is_ok());
        for bad in ["", "-a", "A", "a_b", "a.b", "a/b", "ä", "a\n", &"a".repeat(37), &"a".repeat(300)] {
            assert!(CommunitySlug::new(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_message_id_is_visible_ascii() {
        assert!(MessageId::new("550e8400-e29b-41d4-a716-446655440000").is_ok());
        for bad in ["", "a b", "a\u{7f}", "ü", &"x".repeat(129)] {
            assert!(MessageId::new(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
