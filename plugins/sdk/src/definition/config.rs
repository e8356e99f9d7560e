//! A config that has been read: checked once, decoded once, shared by every call of the instance.
//!
//! Up: [`super::PluginDefinition::load_config`]. Down: [`crate::Cx::config`].

use std::{any::Any, fmt, sync::Arc};

use serde_json::Value;

use crate::{Error, Result};

/// The config of one plugin instance, ready for its calls. Cheap to clone.
#[derive(Clone)]
pub struct LoadedConfig {
    /// The config as JSON, defaults filled in; it holds its secrets.
    pub value: Arc<Value>,
    /// The platform's own id of the community, [`crate::Plugin::community_platform_id`].
    pub platform_id: Option<String>,
    typed: Arc<dyn Any + Send + Sync>,
}

impl LoadedConfig {
    pub(super) fn new(value: Value, platform_id: Option<String>, typed: Arc<dyn Any + Send + Sync>) -> Self {
        Self { value: Arc::new(value), platform_id, typed }
    }

    /// The config as the plugin's own type.
    pub(crate) fn typed<C: Send + Sync + 'static>(&self) -> Result<Arc<C>> {
        self.typed.clone().downcast().map_err(|_| Error::failed("the config of this call was loaded by another plugin"))
    }
}

/// Configs hold secrets.
impl fmt::Debug for LoadedConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedConfig").field("platform_id", &self.platform_id).finish_non_exhaustive()
    }
}

/// What serde says, without the value that it repeats: `invalid type: string "hunter2", expected u64` may tell a secret.
pub(crate) fn without_values(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let repeats = ["invalid type", "invalid value", "invalid length", "unknown variant"];
    match repeats.iter().find(|start| text.starts_with(**start)) {
        Some(start) => {
            let expected = text.rfind(", expected").map_or("", |at| &text[at..]);
            format!("{start}{expected}")
        }
        None => text,
    }
}
