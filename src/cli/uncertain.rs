//! `metagov uncertain …`: actions that may have happened, for a person to look at the platform and decide.
//!
//! The driver has had the command's one final event, `action.uncertain`, and no second one follows under that command.
//! That it happened is noted for people: drivers are told nothing more. To run it again is a command of its own, whose
//! outcome the driver recognises by the `correlation_id` of the first. So these decisions are not commands on the bus but
//! rows in the database. Up: operators. Down: the database, and the bus for what is run again.

use std::time::Duration;

use anyhow::{Context, bail};
use chrono::TimeDelta;
use clap::{Args, Subcommand};
use metagov_sdk::contract::{ActionCommand, Command, CommunitySlug, Name};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    arguments::{Page, duration},
    asking::Ask,
    community::{existing, time},
    connection,
    exit::{Exit, Stop},
    output::Output,
};
use crate::{
    config::Config,
    store::{Decided, Decision, RunVerdict, Store, UncertainFilter, UncertainRun},
};

/// What to do with uncertain runs.
#[derive(Debug, Subcommand)]
pub(super) enum Uncertain {
    /// Those that wait for a decision, the oldest first
    List(List),
    /// One of them, with its command, its finished steps and what was decided
    Show {
        /// Its id, as `list` shows it
        id: Uuid,
    },
    /// Note that it happened: it counts as completed; drivers are told nothing more
    MarkDone(MarkDone),
    /// Run it again under a new message id, from where its finished steps stopped
    RunAgain(RunAgain),
}

/// Which ones to list.
#[derive(Debug, Args)]
pub(super) struct List {
    /// Only those of this community
    #[arg(long, short, value_name = "SLUG")]
    community: Option<CommunitySlug>,
    /// Only those of this plugin
    #[arg(long)]
    plugin: Option<Name>,
    /// Only those that ended within this time, such as 60s, 5m or 24h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    since: Option<Duration>,
    #[command(flatten)]
    page: Page,
    /// Only those after this one
    #[arg(long, value_name = "ID")]
    after: Option<Uuid>,
}

/// Who decides what, for the record.
#[derive(Debug, Args)]
pub(super) struct Signed {
    /// Its id, as `list` shows it
    id: Uuid,
    /// Who decides
    #[arg(long, value_name = "NAME", env = "USER", hide_env_values = true, default_value = "operator")]
    by: String,
    /// Why, or what was seen on the platform
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

/// It happened.
#[derive(Debug, Args)]
pub(super) struct MarkDone {
    #[command(flatten)]
    signed: Signed,
    /// What the action answered, as far as the platform shows it
    #[arg(long, value_name = "JSON", value_parser = value)]
    output: Option<Value>,
}

/// It did not happen, or may happen twice.
#[derive(Debug, Args)]
pub(super) struct RunAgain {
    #[command(flatten)]
    signed: Signed,
}

impl Uncertain {
    pub(super) async fn run(self, out: Output, config: &Config) -> anyhow::Result<Exit> {
        let store = connection::store(config).await?;
        match self {
            Self::List(list) => list.run(out, &store).await?,
            Self::Show { id } => {
                let run = store.uncertain_run(id).await?;
                let run = run.ok_or_else(|| missing(id))?;
                out.document(&whole(&store, &run).await?)?;
            }
            Self::MarkDone(done) => {
                let id = done.signed.id;
                done.signed.decide(&store, RunVerdict::Done(done.output)).await?;
                out.done(&json!({ "id": id, "marked": "done" }), "it counts as completed")?;
            }
            Self::RunAgain(again) => {
                let id = again.signed.id;
                let message_id = again.signed.run_again(&store, config).await?;
                let shown = json!({ "id": id, "message_id": message_id });
                out.data(&shown, || message_id.clone())?;
            }
        }
        Ok(Exit::Success)
    }
}

impl List {
    async fn run(self, out: Output, store: &Store) -> anyhow::Result<()> {
        if let Some(community) = &self.community {
            existing(store, community).await?;
        }
        let since = match self.since.and_then(|ago| TimeDelta::from_std(ago).ok()) {
            // What is longer ago than calendars go leaves nothing out.
            Some(ago) => store.now().await?.checked_sub_signed(ago),
            None => None,
        };
        let filter = UncertainFilter {
            community: self.community,
            plugin: self.plugin,
            since,
            after: self.after,
            limit: self.page.to_read(),
        };
        let runs = store.uncertain_runs(filter).await?;
        let shown: Vec<Value> = runs.iter().map(summary).collect();
        let columns = &["ID", "AT", "COMMUNITY", "ACTION", "MESSAGE ID"];
        let cursor = |run: &Value| run["id"].as_str().unwrap_or_default().to_owned();
        out.page(shown, self.page, cursor, "there are no uncertain runs", columns, |run| {
            let text = |member: &str| run[member].as_str().unwrap_or_default().to_owned();
            let action = format!("{}.{}", text("plugin"), text("action"));
            vec![text("id"), text("at"), text("community"), action, text("message_id")]
        })
    }
}

impl Signed {
    /// Keeps the decision, unless there is nothing to decide any more.
    async fn decide(self, store: &Store, verdict: RunVerdict) -> anyhow::Result<()> {
        let decision =
            Decision { verdict, by: self.by, note: self.note, at: store.now().await?, is_carried_out: false };
        match store.decide(self.id, &decision).await? {
            Decided::Kept => Ok(()),
            Decided::Before(before) => bail!("run {} was decided on before: {}", self.id, words(&before)),
            Decided::NotUncertain(Some(status)) => {
                bail!("run {} is '{status}', not uncertain: there is nothing to decide", self.id)
            }
            Decided::NotUncertain(None) => Err(missing(self.id).into()),
        }
    }

    /// Publishes the command anew. The decision is kept first, so that nobody marks as done what runs; where the program
    /// then ends before the broker has the command, asking again publishes it under the same key.
    async fn run_again(self, store: &Store, config: &Config) -> anyhow::Result<String> {
        let id = self.id;
        let Some(run) = store.uncertain_run(id).await? else {
            // Refused, with the reason.
            self.decide(store, RunVerdict::RunAgain).await?;
            return Err(missing(id).into());
        };
        let message_id = run.next_message_id();
        let Some(body) = run.command else {
            bail!("the command of run {id} was not kept: it ended before this version; publish it anew by hand");
        };
        let command: ActionCommand = serde_json::from_value(body).context("the stored command cannot be read")?;
        let mut ask = Ask::new(Command::Action(run.plugin, run.action, command), Some(message_id));
        ask.correlation_id = run.correlation_id;

        let bus = connection::bus(config).await?;
        let was_interrupted = |decision: Decision| decision.verdict == RunVerdict::RunAgain && !decision.is_carried_out;
        if !run.decision.is_some_and(was_interrupted) {
            self.decide(store, RunVerdict::RunAgain).await?;
        }
        ask.publish(&bus).await?;
        bus.close().await;
        store.note_run_again(id).await?;
        Ok(ask.message_id.to_string())
    }
}

fn missing(id: Uuid) -> Stop {
    Stop::NotFound(format!("there is no run {id}"))
}

fn words(decision: &Decision) -> String {
    let what = match &decision.verdict {
        RunVerdict::Done(_) => "marked as done",
        RunVerdict::RunAgain if decision.is_carried_out => "run again",
        RunVerdict::RunAgain => "to be run again, and its command may not be published yet: `run-again` does that",
    };
    format!("{what}, by {} at {}", decision.by, time(decision.at))
}

fn summary(run: &UncertainRun) -> Value {
    json!({
        "id": run.id,
        "at": time(run.at),
        "community": run.community,
        "plugin": run.plugin,
        "action": run.action,
        "message_id": run.message_id,
        "correlation_id": run.correlation_id,
        "attempts": run.attempts,
    })
}

async fn whole(store: &Store, run: &UncertainRun) -> anyhow::Result<Value> {
    let mut shown = summary(run);
    shown["command"] = json!(run.command);
    let steps = match &run.message_id {
        Some(message_id) => store.steps(&run.community, message_id).await?,
        None => Vec::new(),
    };
    shown["steps"] = Map::from_iter(steps).into();
    shown["decision"] = run.decision.as_ref().map_or(Value::Null, |decision| {
        let (what, output, message_id) = match &decision.verdict {
            RunVerdict::Done(output) => ("done", output.clone(), None),
            RunVerdict::RunAgain => ("run-again", None, Some(run.next_message_id())),
        };
        json!({
            "decision": what,
            "by": decision.by,
            "at": time(decision.at),
            "note": decision.note,
            "output": output,
            "message_id": message_id,
            "carried_out": decision.is_carried_out,
        })
    });
    Ok(shown)
}

fn value(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("must be JSON, such as '{{\"id\": 7}}': {error}"))
}
