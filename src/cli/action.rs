//! `metagov action run`: one call of an action, with its outcome if it is waited for.
//!
//! Up: people and scripts. Down: `action.<plugin>.<action>` on the bus.

use clap::{Args, Subcommand};
use metagov_sdk::contract::{ActionCommand, Command};
use serde_json::json;

use super::{
    arguments::{Call, Patience, Qualified},
    asking::{Ask, conclude, pretty},
    connection,
    exit::Exit,
    output::Output,
};
use crate::{config::Config, plugins};

/// What to do with actions.
#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Run an action; prints the id of its message, or with --wait its outcome
    Run(Run),
}

/// Which action, and how.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// The action, such as randomness.random-int
    #[arg(value_name = "PLUGIN.ACTION")]
    name: Qualified,
    #[command(flatten)]
    call: Call,
    /// Wait for the outcome: each step on stderr, the output on stdout; the exit code is the outcome
    #[arg(long, short)]
    wait: bool,
    #[command(flatten)]
    patience: Patience,
}

impl Action {
    pub(super) async fn run(self, out: Output, config: &Config) -> anyhow::Result<Exit> {
        match self {
            Self::Run(run) => run.run(out, config).await,
        }
    }
}

impl Run {
    async fn run(self, out: Output, config: &Config) -> anyhow::Result<Exit> {
        let Self { name, call, wait, patience } = self;
        let registry = plugins::all()?;
        let community = call.community.clone();
        let command = ActionCommand {
            parameters: call.parameters(name.action_parameters(&registry)?)?,
            community: call.community,
            community_platform_id: call.community_platform_id,
            initiator: call.initiator,
        };
        let ask = Ask::new(Command::Action(name.plugin, name.name, command), call.message_id);
        if wait {
            let event = ask.wait(config, out, patience.timeout).await?;
            return conclude(out, &event, |data| pretty(&data["output"]));
        }
        let bus = connection::bus(config).await?;
        ask.publish(&bus).await?;
        bus.close().await;
        let id = &ask.message_id;
        out.data(&json!({ "message_id": id }), || id.to_string())?;
        out.say(&format!("its outcome: metagov events list --community {community} --message-id {id}"));
        Ok(Exit::Success)
    }
}
