//! `metagov asyncapi`: the `AsyncAPI` document of what this service receives and sends. Asks nobody.
//!
//! The exchanges have the names that the settings give them. Up: driver authors, and the tools that make code and pages
//! from such documents. Down: [`metagov_sdk::contract::asyncapi`].

use metagov_sdk::contract::asyncapi;

use super::{exit::Exit, output::Output};
use crate::{bus::topology::Names, config::Config};

/// Prints it.
pub(super) fn run(out: Output, config: &Config) -> anyhow::Result<Exit> {
    let names = Names::new(&config.broker.prefix);
    out.document(&asyncapi::document(&names.commands(), &names.events()))?;
    Ok(Exit::Success)
}
