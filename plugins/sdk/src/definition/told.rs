//! What of an answer drivers are told, and the secrets that slipped into it.
//!
//! A platform may give a token back where nobody expects it, in the address of a file for instance. What the plugin keeps
//! for itself is left alone. Up: [`crate::Cx`], when a call ends. Down: [`LoadedConfig`], which knows its secrets.

use serde_json::Value;

use super::LoadedConfig;
use crate::{Progress, StartedProcess, SteppedProcess};

/// An answer of a handler.
pub(crate) trait Told {
    /// Takes the secrets of the config out of what drivers are told.
    fn hide(&mut self, config: &LoadedConfig);
}

impl Told for () {
    fn hide(&mut self, _: &LoadedConfig) {}
}

impl Told for Value {
    fn hide(&mut self, config: &LoadedConfig) {
        config.hide_in_value(self);
    }
}

impl Told for Progress<Value> {
    fn hide(&mut self, config: &LoadedConfig) {
        match self {
            Self::Unchanged => {}
            Self::Updated(outcome) | Self::Completed(outcome) => config.hide_in_value(outcome),
        }
    }
}

impl Told for StartedProcess {
    fn hide(&mut self, config: &LoadedConfig) {
        if let Some(url) = &mut self.url {
            config.hide_in_text(url);
        }
        self.progress.hide(config);
    }
}

impl Told for SteppedProcess {
    fn hide(&mut self, config: &LoadedConfig) {
        self.progress.hide(config);
    }
}
