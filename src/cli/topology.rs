//! `metagov topology …`: what stands on the broker, and putting it there.
//!
//! Up: operators, who may give the right to declare to this command only. Down: [`crate::bus`].

use std::fmt::Write as _;

use clap::Subcommand;
use metagov_sdk::contract::Name;

use super::{connection, exit::Exit, export::Export, output::Output};
use crate::{
    bus::{self, topology::Argument},
    config::Config,
    plugins,
};

/// What to do with the topology.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum Topology {
    /// Every exchange, queue and binding, with the reason for it; asks nobody
    Show,
    /// Declare all of it on the broker; harmless where it stands already
    Apply,
    /// Write users and permissions for the broker: those that each role and each driver needs; asks nobody
    Export(Export),
}

impl Topology {
    pub(super) async fn run(self, out: Output, config: &Config) -> anyhow::Result<Exit> {
        let names: Vec<Name> = plugins::all()?.names().cloned().collect();
        let topology = bus::Topology::new(&config.broker.prefix, &names, config.broker.delivery_limit);
        match self {
            Self::Export(export) => return export.run(out, config),
            Self::Show => out.data(&topology, || describe(&topology))?,
            Self::Apply => {
                let bus = connection::bus(config).await?;
                bus.apply_topology(&names).await?;
                bus.close().await;
                out.done(&topology, "everything is declared as it should be")?;
            }
        }
        Ok(Exit::Success)
    }
}

fn describe(topology: &bus::Topology) -> String {
    let mut text = String::new();
    for exchange in &topology.exchanges {
        let kind = format!("{:?}", exchange.kind).to_lowercase();
        let _ = writeln!(text, "exchange {} ({kind})\n  {}", exchange.name, exchange.reason);
        arguments(&mut text, &exchange.arguments);
    }
    for queue in &topology.queues {
        let _ = writeln!(text, "queue {}\n  {}", queue.name, queue.reason);
        for binding in topology.bindings.iter().filter(|binding| binding.queue == queue.name) {
            let pattern = if binding.pattern.is_empty() { "everything" } else { &binding.pattern };
            let _ = writeln!(text, "  from {}: {pattern}", binding.exchange);
        }
        arguments(&mut text, &queue.arguments);
    }
    text
}

fn arguments(text: &mut String, arguments: &[Argument]) {
    for argument in arguments {
        let value = serde_json::to_value(&argument.value).unwrap_or_default();
        let _ = writeln!(text, "  {} = {value}  # {}", argument.name, argument.reason);
    }
}
