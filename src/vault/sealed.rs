//! A config as it is stored: `{"$sealed": "<key id>:<base64 of nonce and ciphertext>"}` in place of each secret.
//!
//! Whatever looks like that in a stored config is sealed, and nothing else is: a config that a driver sends with such an
//! object in it has that object sealed like a secret. So opening needs no schema, and a secret stays one where a newer
//! version of its plugin no longer marks it. Up: [`super::Vault`]. Down: the store, which keeps the text.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use metagov_sdk::{PluginDefinition, schema::MASK};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::key::KeyId;

/// The only member of an object that stands for a sealed one.
const MEMBER: &str = "$sealed";

/// A config with its secrets sealed. It can be stored and shown; only a [`Vault`](super::Vault) makes one of a clear config
/// and opens it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedConfig(pub(super) Value);

/// Rows from before there were keys hold their secrets in the clear.
impl fmt::Debug for SealedConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedConfig").finish_non_exhaustive()
    }
}

impl SealedConfig {
    /// The config for everybody to see: masked is what the plugin marks as secret, and what is sealed anyway. Needs no key.
    #[must_use]
    pub fn masked(&self, definition: &PluginDefinition) -> Value {
        let mut shown = self.0.clone();
        for pointer in places(Some(definition), &self.0) {
            if let Some(member) = shown.pointer_mut(&pointer) {
                *member = MASK.into();
            }
        }
        shown
    }

    /// The ids of the keys that it is sealed under, each once.
    #[must_use]
    pub fn key_ids(&self) -> BTreeSet<String> {
        members(&self.0).into_values().map(|member| member.key.as_str().to_owned()).collect()
    }

    /// The places of secrets that are not sealed, as far as is known: `None` knows of none.
    #[must_use]
    pub fn clear_secrets(&self, definition: Option<&PluginDefinition>) -> BTreeSet<String> {
        let sealed = members(&self.0);
        places(definition, &self.0).into_iter().filter(|pointer| !sealed.contains_key(pointer)).collect()
    }
}

/// A member as it is stored.
pub(super) struct Sealed {
    pub(super) key: KeyId,
    /// The nonce, then the ciphertext.
    pub(super) bytes: Vec<u8>,
}

impl From<Sealed> for Value {
    fn from(sealed: Sealed) -> Self {
        json!({ MEMBER: format!("{}:{}", sealed.key.as_str(), STANDARD_NO_PAD.encode(sealed.bytes)) })
    }
}

impl Sealed {
    /// What stands in an object that looks sealed. What cannot be read is taken for the work of another key, or for
    /// damage, and never for something that is not sealed.
    fn read(text: &str) -> Self {
        let (key, bytes) = text.split_once(':').unwrap_or((text, ""));
        Self { key: KeyId::stored(key), bytes: STANDARD_NO_PAD.decode(bytes).unwrap_or_default() }
    }
}

/// The text of an object that looks sealed.
fn sealed_text(value: &Value) -> Option<&str> {
    let Value::Object(members) = value else { return None };
    if members.len() == 1 { members.get(MEMBER)?.as_str() } else { None }
}

/// The sealed members of a stored config by their places.
pub(super) fn members(config: &Value) -> BTreeMap<String, Sealed> {
    let mut found = BTreeMap::new();
    walk(config, &mut String::new(), &mut |pointer, text| {
        found.insert(pointer.to_owned(), Sealed::read(text));
    });
    found
}

/// The places to seal, or to mask: what the plugin marks, and what looks sealed.
pub(super) fn places(definition: Option<&PluginDefinition>, config: &Value) -> BTreeSet<String> {
    let marked = definition.map(|definition| definition.secret_places(config)).unwrap_or_default();
    let mut places: BTreeSet<String> = marked.into_iter().collect();
    walk(config, &mut String::new(), &mut |pointer, _| {
        places.insert(pointer.to_owned());
    });
    outermost(&places)
}

/// Without the places that are within another one: they go with it.
pub(super) fn outermost(places: &BTreeSet<String>) -> BTreeSet<String> {
    let within = |place: &str| place.match_indices('/').any(|(end, _)| places.contains(&place[..end]));
    places.iter().filter(|place| !within(place)).cloned().collect()
}

fn walk(value: &Value, at: &mut String, found: &mut impl FnMut(&str, &str)) {
    if let Some(text) = sealed_text(value) {
        found(at, text);
        return;
    }
    let length = at.len();
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                at.push('/');
                at.push_str(&name.replace('~', "~0").replace('/', "~1"));
                walk(member, at, found);
                at.truncate(length);
            }
        }
        Value::Array(items) => {
            for (place, item) in items.iter().enumerate() {
                at.push('/');
                at.push_str(&place.to_string());
                walk(item, at, found);
                at.truncate(length);
            }
        }
        _ => {}
    }
}
