//! `metagov process …`: starting, watching and closing governance processes.
//!
//! Watching reads the database first and then the events; the highest version wins, so that a late or repeated event is
//! never shown, and a lost one is found by reading again. Up: people and scripts. Down: `process.<plugin>.<process>.…` on
//! the bus; the database for reads.

use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Subcommand};
use metagov_sdk::contract::{
    Command, CommunitySlug, Event, Name, ProcessClose, ProcessRecord, ProcessStart, ProcessStatus,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    arguments::{Call, Page, Patience, Qualified, duration},
    asking::{Ask, conclude, pretty, problem_of},
    community::{existing, time},
    connection,
    exit::{Exit, Stop},
    output::{Output, short},
};
use crate::{
    bus::Bus,
    config::Config,
    plugins,
    store::{ProcessFilter, Store},
};

/// How long a start is waited for where nobody says otherwise.
const FOR_A_START: Duration = Duration::from_mins(1);

/// How often a watcher reads the database besides listening.
const READ_EVERY: Duration = Duration::from_secs(5);

/// What to do with processes.
#[derive(Debug, Subcommand)]
pub(super) enum Process {
    /// Start a process; prints its id, or with --wait or --watch its record
    Start(Box<Start>),
    /// One process
    Get(Which),
    /// The processes of a community, the newest first
    List(List),
    /// End a process now, if it can be closed by hand
    Close {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        patience: Patience,
    },
    /// Print every change until the process ends; the exit code is the outcome
    Watch {
        #[command(flatten)]
        which: Which,
        /// How long to watch, such as 60s or 2h [default: until it ends]
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        timeout: Option<Duration>,
    },
}

/// Which process to start, and how.
#[derive(Debug, Args)]
pub(super) struct Start {
    /// The process, such as randomness.delayed-stochastic-vote
    #[arg(value_name = "PLUGIN.PROCESS")]
    name: Qualified,
    #[command(flatten)]
    call: Call,
    /// The id of the process [default: a fresh UUID]
    #[arg(long, value_name = "UUID")]
    process_id: Option<Uuid>,
    /// Where the driver wants to be called back
    #[arg(long, value_name = "URL")]
    callback_url: Option<String>,
    /// Wait until it has started
    #[arg(long, short)]
    wait: bool,
    /// Wait until it has started, then print every change until it ends
    #[arg(long)]
    watch: bool,
    /// How long to wait, such as 500ms, 60s, 5m or 2h [default: 60s for the start; with --watch, then until it ends]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
}

/// A process of a community.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// The id of the process
    id: Uuid,
    /// The community
    #[arg(long, short, value_name = "SLUG")]
    community: CommunitySlug,
}

/// Which processes to list.
#[derive(Debug, Args)]
pub(super) struct List {
    /// The community
    #[arg(long, short, value_name = "SLUG")]
    community: CommunitySlug,
    /// Only those of this plugin
    #[arg(long)]
    plugin: Option<Name>,
    /// Only those of this name within their plugin
    #[arg(long)]
    name: Option<Name>,
    /// Only those that stand so: created, pending, completed or failed
    #[arg(long, value_parser = status)]
    status: Option<ProcessStatus>,
    #[command(flatten)]
    page: Page,
    /// Only those after this one
    #[arg(long, value_name = "ID")]
    after: Option<Uuid>,
}

impl Process {
    pub(super) async fn run(self, out: Output, config: &Config) -> anyhow::Result<Exit> {
        match self {
            Self::Start(start) => start.run(out, config).await,
            Self::Get(which) => {
                let store = connection::store(config).await?;
                out.document(&which.read(&store).await?)?;
                Ok(Exit::Success)
            }
            Self::List(list) => list.run(out, config).await,
            Self::Close { which, patience } => which.close(out, config, patience).await,
            Self::Watch { which, timeout } => match timeout {
                None => which.watch(out, config).await,
                Some(timeout) => which.watch_for(out, config, timeout, timeout).await,
            },
        }
    }
}

impl Start {
    async fn run(self, out: Output, config: &Config) -> anyhow::Result<Exit> {
        let Self { name, call, process_id, callback_url, wait, watch, timeout } = self;
        let registry = plugins::all()?;
        // A repeated key must carry the same body, so the id of the process is made from the key.
        let id = process_id.unwrap_or_else(|| match &call.message_id {
            Some(key) => Uuid::new_v5(&Uuid::NAMESPACE_OID, key.as_str().as_bytes()),
            None => Uuid::now_v7(),
        });
        let which = Which { id, community: call.community.clone() };
        let command = ProcessStart {
            parameters: call.parameters(name.process_parameters(&registry)?)?,
            community: call.community,
            community_platform_id: call.community_platform_id,
            initiator: call.initiator,
            callback_url,
            process_id: Some(id),
        };
        let ask = Ask::new(Command::ProcessStart(name.plugin, name.name, command), call.message_id);
        if wait || watch {
            let begun = Instant::now();
            let event = ask.wait(config, out, timeout.unwrap_or(FOR_A_START)).await?;
            if watch && problem_of(&event).is_none() {
                return match timeout {
                    None => which.watch(out, config).await,
                    Some(asked) => which.watch_for(out, config, asked.saturating_sub(begun.elapsed()), asked).await,
                };
            }
            return conclude(out, &event, pretty);
        }
        let bus = connection::bus(config).await?;
        ask.publish(&bus).await?;
        bus.close().await;
        out.data(&json!({ "message_id": ask.message_id, "process_id": id }), || id.to_string())?;
        Ok(Exit::Success)
    }
}

impl List {
    async fn run(self, out: Output, config: &Config) -> anyhow::Result<Exit> {
        let store = connection::store(config).await?;
        existing(&store, &self.community).await?;
        let filter = ProcessFilter {
            plugin: self.plugin,
            name: self.name,
            status: self.status,
            after: self.after,
            limit: self.page.to_read(),
        };
        let found = store.processes(&self.community, filter).await?;
        let records: Vec<ProcessRecord> = found.into_iter().map(|process| process.record).collect();
        let columns = &["ID", "NAME", "STATUS", "UPDATED", "OUTCOME"];
        out.page(
            records,
            self.page,
            |record| record.id.to_string(),
            "there are no such processes",
            columns,
            |record| {
                let status = record.status.as_str().to_owned();
                vec![record.id.to_string(), record.name.clone(), status, time(record.updated_at), outcome(record)]
            },
        )?;
        Ok(Exit::Success)
    }
}

impl Which {
    async fn read(&self, store: &Store) -> anyhow::Result<ProcessRecord> {
        let found = store.process(&self.community, self.id).await?;
        let none = || Stop::NotFound(format!("there is no process {} in '{}'", self.id, self.community));
        Ok(found.ok_or_else(none)?.record)
    }

    async fn close(self, out: Output, config: &Config, patience: Patience) -> anyhow::Result<Exit> {
        let store = connection::store(config).await?;
        let record = self.read(&store).await?;
        let name: Qualified =
            record.name.parse().map_err(anyhow::Error::msg).context("the stored name of the process")?;
        let close = ProcessClose { community: self.community, process_id: self.id };
        let ask = Ask::new(Command::ProcessClose(name.plugin, name.name, close), None);
        let event = ask.wait(config, out, patience.timeout).await?;
        conclude(out, &event, pretty)
    }

    /// Watches for as long as is left of what was asked for.
    async fn watch_for(&self, out: Output, config: &Config, left: Duration, asked: Duration) -> anyhow::Result<Exit> {
        let late = |_| Stop::TimedOut(format!("the process has not ended within {asked:?}"));
        tokio::time::timeout(left, self.watch(out, config)).await.map_err(late)?
    }

    async fn watch(&self, out: Output, config: &Config) -> anyhow::Result<Exit> {
        let store = connection::store(config).await?;
        let bus = connection::bus(config).await?;
        let result = self.follow(out, &store, &bus).await;
        bus.close().await;
        result
    }

    async fn follow(&self, out: Output, store: &Store, bus: &Bus) -> anyhow::Result<Exit> {
        // Before the first read: what changes in between is in one or in the other.
        let mut events = bus.subscribe(&[format!("{}.*.process.#", self.community)]).await?;
        let mut read = tokio::time::interval(READ_EVERY);
        let mut shown = 0;
        loop {
            let record = tokio::select! {
                _ = read.tick() => self.read(store).await?,
                message = events.recv() => {
                    let gone = || Stop::Unreachable("the connection ended before the process did".to_owned());
                    match self.record_in(&message.ok_or_else(gone)?.body) {
                        Some(record) => record,
                        None => continue,
                    }
                }
            };
            if record.version <= shown {
                continue;
            }
            shown = record.version;
            out.data(&record, || line(&record))?;
            if record.status.is_terminal() {
                return ended(&record);
            }
        }
    }

    fn record_in(&self, body: &[u8]) -> Option<ProcessRecord> {
        let event: Event = serde_json::from_slice(body).ok()?;
        (event.subject? == self.id.to_string()).then(|| serde_json::from_value(event.data).ok())?
    }
}

/// How the command ends whose process has: one that failed is an error like all others.
fn ended(record: &ProcessRecord) -> anyhow::Result<Exit> {
    match (&record.status, &record.problem) {
        (ProcessStatus::Failed, Some(problem)) => Err(problem.clone().into()),
        (ProcessStatus::Failed, None) => Err(anyhow::anyhow!("the process has failed")),
        (ProcessStatus::Created | ProcessStatus::Pending | ProcessStatus::Completed, _) => Ok(Exit::Success),
    }
}

fn line(record: &ProcessRecord) -> String {
    let status = record.status.as_str();
    format!("{}  {}  {status:<9}  {}", time(record.updated_at), record.version, outcome(record))
}

fn outcome(record: &ProcessRecord) -> String {
    match &record.outcome {
        Value::Null => record.url.clone().unwrap_or_default(),
        outcome => short(outcome, 100),
    }
}

fn status(text: &str) -> Result<ProcessStatus, String> {
    serde_json::from_value(text.into()).map_err(|_| "must be created, pending, completed or failed".to_owned())
}
