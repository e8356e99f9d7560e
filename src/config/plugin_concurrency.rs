//! `slack=16`: how many handlers run at once for each queue of one plugin.
//!
//! Whether there is such a plugin is not known here. Up: `worker.plugin_concurrency`. Down: `src/worker`.

use serde::Deserialize;

/// The concurrency of one plugin.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PluginConcurrency {
    /// The plugin.
    pub plugin: String,
    /// Handlers at once for each of its queues.
    pub handlers: u16,
}

impl TryFrom<String> for PluginConcurrency {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const FORM: &str = "each must be a plugin, `=` and a number between 1 and 65535, like `slack=16`";
        let (plugin, handlers) = text.split_once('=').ok_or(FORM)?;
        let handlers = handlers.trim().parse().ok().filter(|handlers| *handlers > 0).ok_or(FORM)?;
        if plugin.trim().is_empty() {
            return Err(FORM);
        }
        Ok(Self { plugin: plugin.trim().to_owned(), handlers })
    }
}
