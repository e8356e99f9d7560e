//! `metagov config …`: the settings that count, and which layer set each of them, secrets masked; and the defaults.
//!
//! Up: whoever asks where a value comes from. Down: [`crate::config`].

use clap::Subcommand;
use serde_json::{Map, Value};

use super::{exit::Exit, output::Output};
use crate::config::{Config, DEFAULTS, Loaded, Setting, Sources};

/// What to do with settings.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(super) enum Settings {
    /// Each key with the value that counts
    Show,
    /// Each key with its value and the layer that set it: default, file, variable or flag
    Explain,
    /// The annotated file of defaults, to copy from; works whatever the settings are
    Defaults,
}

impl Settings {
    /// What needs no settings to be loaded: the file as it stands, or its keys and values as `show` has them.
    pub(super) fn print_defaults(out: Output) -> anyhow::Result<Exit> {
        let defaults = Config::load(&Sources::default())?.explain();
        out.data(&object(&defaults), || DEFAULTS.to_owned())?;
        Ok(Exit::Success)
    }

    pub(super) fn run(self, out: Output, loaded: &Loaded) -> anyhow::Result<Exit> {
        let settings = loaded.explain();
        match self {
            Self::Show => {
                let pair = |setting: &Setting| format!("{} = {}", setting.key, setting.value);
                out.data(&object(&settings), || settings.iter().map(pair).collect::<Vec<_>>().join("\n"))?;
            }
            Self::Explain => out.list(&settings, "there are no settings", &["KEY", "VALUE", "SET BY"], |setting| {
                vec![setting.key.clone(), setting.value.to_string(), setting.origin.clone()]
            })?,
            Self::Defaults => return Self::print_defaults(out),
        }
        Ok(Exit::Success)
    }
}

fn object(settings: &[Setting]) -> Map<String, Value> {
    settings.iter().map(|setting| (setting.key.clone(), setting.value.clone())).collect()
}
