//! The worker: takes commands from RabbitMQ and sees each of them through to its outcome.
//!
//! ```text
//! delivery → envelope → handle ─→ action, process, webhook, community ─→ the plugin, through guard
//!               │          └── verdict ── settle ─┬─ committer → store, then bus
//!               └─ limits                         └─ reply, delay ladder, dead letters
//! ```
//!
//! Any number of workers may run side by side; they share nothing but broker and database. Up: `src/bus`, which hands
//! over deliveries. Down: [`settle`], which acknowledges them.

mod action;
mod answer;
mod attempt;
mod committer;
mod community;
mod envelope;
mod guard;
mod handle;
mod instances;
mod lifecycle;
mod process;
mod settle;
mod sweeper;
mod verdict;
mod webhook;

use std::sync::Arc;

use metagov_sdk::contract::Name;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use self::{
    committer::{BatchLimits, Committer},
    envelope::Limits,
    handle::Handlers,
    instances::Instances,
    settle::Settler,
};
use crate::{
    bus::{Bus, Deliveries, Queue},
    config,
    host::Host,
    registry::Registry,
    store::Store,
};

/// A worker, ready to run.
pub struct Worker {
    settler: Arc<Settler>,
    bus: Bus,
    queues: Vec<Queue>,
    concurrency: usize,
    tasks: TaskTracker,
}

/// What a worker is made of.
pub struct Parts {
    /// The plugins of this build.
    pub registry: Arc<Registry>,
    /// What plugins are given.
    pub host: Host,
    /// The broker.
    pub bus: Bus,
    /// The database.
    pub store: Store,
}

impl Worker {
    /// A worker for these plugins. `abort` is for a second signal: whatever is unfinished then comes again.
    #[must_use]
    pub fn new(
        parts: Parts,
        settings: &config::Worker,
        prefix: &str,
        plugins: &[Name],
        abort: CancellationToken,
    ) -> Self {
        let Parts { registry, host, bus, store } = parts;
        let tasks = TaskTracker::new();
        let limits = BatchLimits { batch: settings.batch, in_flight: settings.batches_in_flight };
        let committer = Committer::start(store.clone(), bus.clone(), limits, &tasks, abort.clone());
        let handlers = Handlers {
            registry,
            host,
            store: store.clone(),
            instances: Arc::new(Instances::new(store.clone())),
            deadline: settings.deadline(),
            max_attempts: settings.max_attempts,
        };
        let limits = Limits { max_body_bytes: settings.max_body_bytes, prefix: prefix.to_owned() };
        let settler = Settler { handlers, committer, bus: bus.clone(), store, limits, abort };
        let mut queues = vec![Queue::Core, Queue::Unrouted];
        queues.extend(plugins.iter().flat_map(|plugin| [Queue::Plugin(plugin.clone()), Queue::Poll(plugin.clone())]));
        Self { settler: Arc::new(settler), bus, queues, concurrency: settings.concurrency.into(), tasks }
    }

    /// Takes deliveries until `stop` is cancelled, then finishes what runs.
    pub async fn run(self, stop: CancellationToken) {
        for queue in &self.queues {
            let prefetch = u16::try_from(self.concurrency * 2).unwrap_or(u16::MAX);
            let deliveries = self.bus.consume(queue.clone(), prefetch);
            let settler = Arc::clone(&self.settler);
            self.tasks.spawn(take(deliveries, settler, self.concurrency, self.tasks.clone(), stop.clone()));
        }
        self.tasks.spawn(sweeper::sweep(self.settler.store.clone(), self.bus.clone(), stop.clone()));
        info!(queues = self.queues.len(), concurrency = self.concurrency, "the worker takes commands");
        stop.cancelled().await;
        self.bus.stop_consuming();
        info!("draining: no more deliveries are taken");
        // The committer ends when its last handle is gone, and that is the settler's.
        drop(self.settler);
        self.tasks.close();
        self.tasks.wait().await;
        info!("drained");
    }
}

/// One queue: each delivery gets a task and a permit, so that one queue never takes the hands of another.
async fn take(
    mut deliveries: Deliveries,
    settler: Arc<Settler>,
    concurrency: usize,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(concurrency));
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => return,
            permit = Arc::clone(&permits).acquire_owned() => permit,
        };
        let Ok(permit) = permit else { return };
        let delivery = tokio::select! {
            () = stop.cancelled() => return,
            delivery = deliveries.recv() => delivery,
        };
        let Some(delivery) = delivery else { return };
        let settler = Arc::clone(&settler);
        tasks.spawn(async move {
            settler.settle(delivery).await;
            drop(permit);
        });
    }
}
