//! The scheduler: makes poll and tick commands of what is due. It never calls a plugin.
//!
//! One cron job pokes the scan each second; what is due is a question to the database, claimed row by row, so any number
//! of schedulers may run. A claim that a crash swallowed comes again with the next interval; one that comes twice has the
//! same `message_id`. Up: `processes.due_at` and `plugin_instances.due_at` in the database. Down:
//! `metagov.poll.<plugin>` in the broker, then `src/worker`.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use metagov_sdk::contract::{Command, Poll, Tick, event::derive_uuid};
use tokio::{sync::Notify, time::timeout};
use tokio_cron_scheduler::{Job, JobScheduler};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::{
    bus::{Bus, Destination, Message, Outgoing, Properties},
    store::{DueProcess, DueTick, Store, StoreError},
};

/// Without a poke for this long (by the monotonic clock) the cron scheduler is built anew: its own clock is the wall
/// clock, and a jump backwards would silence it.
const SILENCE: Duration = Duration::from_secs(3);

/// Looks for what is due.
pub struct Scheduler {
    store: Store,
    bus: Bus,
    batch: u64,
}

impl Scheduler {
    /// A scheduler that claims at most `batch` rows at once.
    #[must_use]
    pub fn new(store: Store, bus: Bus, batch: u64) -> Self {
        Self { store, bus, batch }
    }

    /// Scans each second until `stop` is cancelled.
    ///
    /// # Errors
    /// Where the cron scheduler cannot be started.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
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

    /// Claims and publishes what is due, batch by batch, until nothing is left.
    async fn scan(&self) -> Result<(), StoreError> {
        loop {
            let due = self.store.claim_due_processes(self.batch).await?;
            let more = due.len() as u64 == self.batch;
            if !self.publish(due.into_iter().map(poll).collect()).await || !more {
                break;
            }
        }
        loop {
            let due = self.store.claim_due_ticks(self.batch).await?;
            let more = due.len() as u64 == self.batch;
            if !self.publish(due.into_iter().map(tick).collect()).await || !more {
                return Ok(());
            }
        }
    }

    async fn publish(&self, commands: Vec<(Uuid, Command)>) -> bool {
        if commands.is_empty() {
            return true;
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
        self.bus.publish(outgoing).await.is_ok()
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
