//! `metagov events tail`: events as they are published.
//!
//! [`super::replay`] is for those of before. It has a queue of its own for as long as it runs and takes nothing from anybody. What was published before is not
//! shown. Up: people and scripts. Down: the events exchange.

use clap::{Args, Subcommand};
use metagov_sdk::contract::{CommunitySlug, Event};
use serde_json::Value;

use super::{
    asking::kind,
    community::time,
    connection,
    exit::{Exit, Stop},
    history,
    output::{Output, printable, short},
    replay::Replay,
};
use crate::{bus::Message, config::Config};

/// What to do with events.
#[derive(Debug, Subcommand)]
pub(super) enum Events {
    /// Print events as they are published, until it is interrupted
    Tail(Tail),
    /// Events that were stored, the oldest first; with --message-id the outcome of a command
    List(history::List),
    /// Publish stored events once more, for a driver that lost them
    Replay(Replay),
}

/// Which events.
#[derive(Debug, Args)]
pub(super) struct Tail {
    /// Only those of this community
    #[arg(long, short, value_name = "SLUG")]
    community: Option<CommunitySlug>,
    /// Only those whose routing key, after the community if one is given, matches: `*` is one word, `#` any number
    #[arg(long, short, value_name = "PATTERN")]
    pattern: Option<String>,
    /// End after so many events
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
}

impl Events {
    pub(super) async fn run(self, out: Output, config: &Config) -> anyhow::Result<Exit> {
        match self {
            Self::Tail(tail) => tail.run(out, config).await,
            Self::List(list) => list.run(out, config).await,
            Self::Replay(replay) => replay.run(out, config).await,
        }
    }
}

impl Tail {
    async fn run(self, out: Output, config: &Config) -> anyhow::Result<Exit> {
        let pattern = self.routing_pattern();
        let bus = connection::bus(config).await?;
        let mut events = bus.subscribe(std::slice::from_ref(&pattern)).await?;
        out.step(&format!("listening for {pattern}"));
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let gone = || Stop::Unreachable("the connection ended".to_owned());
            print(out, &events.recv().await.ok_or_else(gone)?)?;
            left -= 1;
        }
        bus.close().await;
        Ok(Exit::Success)
    }

    fn routing_pattern(&self) -> String {
        let pattern = self.pattern.as_deref().unwrap_or("#");
        self.community.as_ref().map_or_else(|| pattern.to_owned(), |community| format!("{community}.{pattern}"))
    }
}

fn print(out: Output, message: &Message) -> anyhow::Result<()> {
    if let Ok(event) = serde_json::from_slice::<Event>(&message.body) {
        return out.data(&event, || line(&event));
    }
    out.say(&format!("not an event of this contract: {}", printable(&message.routing_key)));
    Ok(())
}

/// Time, community, type, what it is about, and the part of the data that says most.
fn line(event: &Event) -> String {
    let subject = event.subject.as_deref().unwrap_or(&event.plugin);
    let (at, community, words) = (time(event.time), &event.community, words(event));
    let text = format!("{at}  {community}  {}  {subject}  {words}", kind(event));
    printable(text.trim_end()).into_owned()
}

/// The same for a table of one community's events.
pub(super) fn columns(event: &Event) -> Vec<String> {
    let subject = event.subject.as_deref().unwrap_or(&event.plugin);
    vec![time(event.time), event.id.to_string(), kind(event).to_owned(), subject.to_owned(), words(event)]
}

/// The part of the data that says most.
fn words(event: &Event) -> String {
    let data = &event.data;
    let telling = ["output", "problem", "outcome", "data"].iter().find_map(|member| data.get(member));
    match telling {
        Some(problem) if problem.get("detail").is_some() => problem["detail"].as_str().unwrap_or_default().to_owned(),
        Some(Value::Null) | None => String::new(),
        Some(telling) => short(telling, 100),
    }
}
