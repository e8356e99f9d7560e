//! A config that has been read: checked once, decoded once, shared by every call of the instance.
//!
//! Up: [`super::PluginDefinition::load_config`]. Down: [`crate::Cx::config`].

use std::{any::Any, fmt, sync::Arc};

use serde_json::Value;

use crate::{Error, Result, schema::MASK};

/// The config of one plugin instance, ready for its calls. Cheap to clone.
#[derive(Clone)]
pub struct LoadedConfig {
    /// The config as JSON, defaults filled in; it holds its secrets.
    pub value: Arc<Value>,
    /// The platform's own id of the community, [`crate::Plugin::community_platform_id`].
    pub platform_id: Option<String>,
    typed: Arc<dyn Any + Send + Sync>,
    secrets: Arc<[String]>,
}

/// A shorter secret is not looked for in what a plugin says: hiding every `1` would hide the words around it.
const SHORTEST_HIDDEN: usize = 6;

impl LoadedConfig {
    /// `secrets` are the places of the secrets in the config.
    pub(super) fn new(
        value: Value,
        platform_id: Option<String>,
        typed: Arc<dyn Any + Send + Sync>,
        secrets: &[String],
    ) -> Self {
        let mut texts = Vec::new();
        secrets.iter().filter_map(|place| value.pointer(place)).for_each(|secret| collect_texts(secret, &mut texts));
        // One secret may be the beginning of another, and the longer one must go first.
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        Self { value: Arc::new(value), platform_id, typed, secrets: texts.into() }
    }

    /// Takes the secrets of this config out of what a plugin says went wrong: platforms and HTTP clients repeat tokens in
    /// their errors, and those reach drivers and logs.
    pub(crate) fn hide_in(&self, mut error: Error) -> Error {
        let problem = error.problem_mut();
        let violations = problem.errors.iter_mut().flat_map(|error| [&mut error.message, &mut error.pointer]);
        std::iter::once(&mut problem.detail).chain(violations).for_each(|text| self.hide_in_text(text));
        error
    }

    /// The same for whatever else a plugin says.
    pub(crate) fn hide_in_text(&self, text: &mut String) {
        for secret in &*self.secrets {
            if text.contains(secret.as_str()) {
                *text = text.replace(secret, MASK);
            }
        }
    }

    /// The same for all texts in this; names of members stay.
    pub(crate) fn hide_in_value(&self, value: &mut Value) {
        if self.secrets.is_empty() {
            return;
        }
        match value {
            Value::String(text) => self.hide_in_text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.hide_in_value(item)),
            Value::Object(members) => members.values_mut().for_each(|member| self.hide_in_value(member)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// The config as the plugin's own type.
    pub(crate) fn typed<C: Send + Sync + 'static>(&self) -> Result<Arc<C>> {
        self.typed.clone().downcast().map_err(|_| Error::failed("the config of this call was loaded by another plugin"))
    }
}

/// The texts of a secret, which is one most of the time.
fn collect_texts(secret: &Value, into: &mut Vec<String>) {
    match secret {
        Value::String(text) if text.len() >= SHORTEST_HIDDEN => into.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| collect_texts(item, into)),
        Value::Object(members) => members.values().for_each(|member| collect_texts(member, into)),
        _ => {}
    }
}

/// Configs hold secrets.
impl fmt::Debug for LoadedConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedConfig").field("platform_id", &self.platform_id).finish_non_exhaustive()
    }
}
