//! `metagov asyncapi`: the `AsyncAPI` document of what this service receives and sends. Asks nobody.
//!
//! The exchanges have the names that the settings give them. Up: driver authors, and the tools that make code and pages
//! from such documents. Down: [`metagov_sdk::contract::asyncapi`].

use metagov_sdk::contract::asyncapi::{self, Service};

use super::{exit::Exit, output::Output};
use crate::{
    bus::{Login, topology::Names},
    config::Config,
    plugins,
};

/// Prints it.
pub(super) fn run(out: Output, config: &Config) -> anyhow::Result<Exit> {
    let names = Names::new(&config.broker.prefix);
    let login = Login::of(&config.broker.url)?;
    let (protocol, host, vhost) = match &login {
        Some(login) => (login.protocol, login.host.as_str(), login.vhost.as_str()),
        None => ("amqp", "localhost:5672", "/"),
    };
    out.document(&asyncapi::document(&Service {
        commands: &names.commands(),
        events: &names.events(),
        protocol,
        host,
        vhost,
        plugins: &plugins::all()?.schemas(),
    }))?;
    Ok(Exit::Success)
}
