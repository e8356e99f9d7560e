//! `metagov events list`: events that were stored, with what they say.
//!
//! How the outcome of a command is looked up whose answer nobody waited for. Up: people and scripts. Down: the outbox.

use anyhow::Context;
use clap::Args;
use metagov_sdk::contract::{CommunitySlug, Event, MessageId, Name, Timestamp};
use uuid::Uuid;

use super::{
    arguments::Page,
    community::existing,
    connection,
    events::columns,
    exit::{Exit, Stop},
    output::Output,
    replay::{full_type, moment},
};
use crate::{config::Config, store::Selection};

/// Which events.
#[derive(Debug, Args)]
pub(super) struct List {
    /// The community whose events they are
    #[arg(long, short, value_name = "SLUG")]
    community: CommunitySlug,
    /// Those of the command with this id, as `action run` prints it
    #[arg(long, value_name = "ID")]
    message_id: Option<MessageId>,
    /// Those stored from then on: RFC 3339, or so long ago, such as 2h or 3d
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Those of this plugin, or of `core`
    #[arg(long, value_name = "PLUGIN")]
    plugin: Option<Name>,
    /// Those of this type, such as action.completed; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    #[command(flatten)]
    page: Page,
    /// Only those after this one
    #[arg(long, value_name = "ID")]
    after: Option<Uuid>,
}

impl List {
    pub(super) async fn run(self, out: Output, config: &Config) -> anyhow::Result<Exit> {
        let store = connection::store(config).await?;
        existing(&store, &self.community).await?;
        let selection = Selection {
            since: self.since,
            plugin: self.plugin.as_ref().map(Name::to_string),
            types: self.types.iter().map(full_type).collect(),
            caused_by: self.message_id.as_ref().map(MessageId::to_string),
            ..Selection::default()
        };
        let after = match self.after {
            None => None,
            Some(id) => {
                let none = || Stop::NotFound(format!("there is no event {id} in '{}'", self.community));
                Some(store.place_of(&self.community, id).await?.ok_or_else(none)?)
            }
        };
        let stored = store.events(&self.community, &selection, after, self.page.to_read()).await?;
        let events = stored
            .iter()
            .map(|past| serde_json::from_str::<Event>(&past.event.body).context("a stored event cannot be read"))
            .collect::<Result<Vec<_>, _>>()?;
        let titles = &["TIME", "ID", "TYPE", "SUBJECT", "WHAT"];
        out.page(events, self.page, |event| event.id.to_string(), "there are no such events", titles, columns)?;
        Ok(Exit::Success)
    }
}
