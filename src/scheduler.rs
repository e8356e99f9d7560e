//! The scheduler: makes poll and tick commands of what is due. It never calls a plugin.
//!
//! One cron job pokes the scan each second; what is due is a question to the database, claimed row by row, so any number
//! of schedulers may run. A claim that a crash swallowed comes again with the next interval; one that comes twice has the
//! same `message_id`.
//!
//! Where no worker serves a plugin, or its workers are far behind, what is due stays due in the database: no command is
//! made of it until there is room, and then one, however many intervals have passed. (An expiration would not do: what
//! expires in a queue of commands goes to the dead letters, and a process that is polled once an hour would miss an hour.)
//!
//! Due times go by the database's clock. Where that is seen to jump back, what it has left behind is set right first.
//! Up: `processes.due_at` and `plugin_instances.due_at` in the database. Down:
//! `metagov.poll.<plugin>` in the broker, then `src/worker`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::Context;
use metagov_sdk::contract::{Command, Name, Poll, Tick, Timestamp, event::derive_uuid};
use tokio::{sync::Notify, time::timeout};
use tokio_cron_scheduler::{Job, JobScheduler};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::{
    bus::{Bus, BusError, Destination, Message, Outgoing, Properties, Queue},
    failpoint::failpoint,
    store::{DueProcess, DueTick, Store, StoreError},
    telemetry::measures,
};

/// Without a poke for this long (by the monotonic clock) the cron scheduler is built anew: its own clock is the wall
/// clock, and a jump backwards would silence it.
const SILENCE: Duration = Duration::from_secs(3);

/// As many batches may wait in a plugin's queue before the rest waits in the database.
const BATCHES_WAITING: u64 = 10;

/// Looks for what is due.
pub struct Scheduler {
    store: Store,
    bus: Bus,
    batch: u64,
    held_back: BTreeSet<Name>,
    /// What time the database had at the last scan.
    last: Option<Timestamp>,
}

/// Why a scan ends early.
#[derive(Debug, thiserror::Error)]
pub enum Interrupted {
    /// The database is in trouble.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bus is closed.
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl Scheduler {
    /// A scheduler that claims at most `batch` rows at once.
    #[must_use]
    pub fn new(store: Store, bus: Bus, batch: u64) -> Self {
        Self { store, bus, batch, held_back: BTreeSet::new(), last: None }
    }

    /// Scans each second until `stop` is cancelled.
    ///
    /// # Errors
    /// Where the cron scheduler cannot be started.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        info!("the scheduler looks for what is due");
        let poke = Arc::new(Notify::new());
        let mut cron = start_cron(&poke).await?;
        loop {
            let poked = tokio::select! {
                () = stop.cancelled() => break,
                poked = timeout(SILENCE, poke.notified()) => poked,
            };
            if poked.is_err() {
                warn!("no tick for {SILENCE:?}; the cron scheduler is started again");
                let _ = cron.shutdown().await;
                cron = start_cron(&poke).await?;
            }
            // A scan is never cut off: what it has claimed it also publishes.
            if let Err(error) = self.scan().await {
                warn!(%error, "the scan for due work failed; the next one comes in a second");
            }
        }
        let _ = cron.shutdown().await;
        info!("the scheduler has stopped");
        Ok(())
    }

    /// Claims and publishes what is due, batch by batch, until nothing is left that there is room for; how many commands
    /// that made. [`Scheduler::run`] calls it each second.
    ///
    /// # Errors
    /// Of database and bus. What was claimed and not published comes again with its next interval.
    pub async fn scan(&mut self) -> Result<usize, Interrupted> {
        let mut made = 0;
        self.look_at_the_clock().await?;
        loop {
            let due = self.store.due_plugins().await?;
            self.hold_back(&due).await?;
            if due.is_subset(&self.held_back) {
                return Ok(made);
            }
            let held_back: Vec<Name> = self.held_back.iter().cloned().collect();
            let polls = self.store.claim_due_processes(self.batch, &held_back).await?;
            let ticks = self.store.claim_due_ticks(self.batch, &held_back).await?;
            failpoint!("scheduler::claimed");
            made += polls.len() + ticks.len();
            let all = polls.len().max(ticks.len()) < usize::try_from(self.batch).unwrap_or(usize::MAX);
            self.publish(polls.into_iter().map(poll).chain(ticks.into_iter().map(tick)).collect()).await?;
            failpoint!("scheduler::published");
            if all {
                return Ok(made);
            }
        }
    }

    /// Sees to it that nothing waits for a time that has been taken back.
    async fn look_at_the_clock(&mut self) -> Result<(), StoreError> {
        let now = self.store.now().await?;
        // Whoever begins cannot know what the clock has done before.
        if self.last.is_none_or(|last| now < last) {
            let set_right = self.store.set_right_due_times().await?;
            if set_right > 0 {
                warn!(set_right, %now, "the database's clock has jumped back; what it left behind is due now");
            }
        }
        self.last = Some(now);
        Ok(())
    }

    /// Looks which of these plugins have no worker, or no room in their queue.
    async fn hold_back(&mut self, due: &BTreeSet<Name>) -> Result<(), BusError> {
        let room = self.batch.saturating_mul(BATCHES_WAITING);
        let mut held_back = BTreeSet::new();
        for plugin in due {
            let depth = self.bus.depth(&Queue::Poll(plugin.clone())).await?;
            let held = depth.consumers == 0 || u64::from(depth.waiting) >= room;
            if held && !self.held_back.contains(plugin) {
                info!(%plugin, workers = depth.consumers, waiting = depth.waiting, "what is due waits for a worker");
            }
            if held {
                held_back.insert(plugin.clone());
            }
        }
        for plugin in self.held_back.union(&held_back) {
            let held = if held_back.contains(plugin) { 1.0 } else { 0.0 };
            metrics::gauge!(measures::HELD_BACK, "plugin" => plugin.to_string()).set(held);
        }
        self.held_back = held_back;
        Ok(())
    }

    async fn publish(&self, commands: Vec<(Uuid, Command)>) -> Result<(), BusError> {
        if commands.is_empty() {
            return Ok(());
        }
        debug!(commands = commands.len(), "due");
        let outgoing = commands
            .into_iter()
            .map(|(id, command)| Outgoing {
                to: Destination::Commands,
                message: Message {
                    routing_key: command.key().to_string(),
                    body: command.body().into(),
                    properties: Properties {
                        content_type: Some("application/json".to_owned()),
                        message_id: Some(id.to_string()),
                        ..Properties::default()
                    },
                },
            })
            .collect();
        self.bus.publish(outgoing).await.map(|_| ())
    }
}

async fn start_cron(poke: &Arc<Notify>) -> anyhow::Result<JobScheduler> {
    let cron = JobScheduler::new().await.context("cannot create the cron scheduler")?;
    let poke = Arc::clone(poke);
    let job = Job::new("* * * * * *", move |_, _| poke.notify_one()).context("cannot create the cron job")?;
    cron.add(job).await.context("cannot add the cron job")?;
    cron.start().await.context("cannot start the cron scheduler")?;
    Ok(cron)
}

/// The same process and due time give the same key, whichever scheduler claims it.
fn poll(due: DueProcess) -> (Uuid, Command) {
    let id = derive_uuid(&["poll", &due.id.to_string(), &due.due_at.to_rfc3339()]);
    let body = Poll { community: due.community, process_id: due.id, due_at: due.due_at };
    (id, Command::Poll(due.plugin, due.process, body))
}

fn tick(due: DueTick) -> (Uuid, Command) {
    let id = derive_uuid(&["tick", &due.instance_id.to_string(), &due.due_at.to_rfc3339()]);
    let body = Tick { community: due.community, instance_id: due.instance_id, due_at: due.due_at };
    (id, Command::Tick(due.plugin, body))
}
