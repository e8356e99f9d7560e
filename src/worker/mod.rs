//! The worker: takes commands from RabbitMQ and sees each of them through to its outcome.
//!
//! ```text
//! delivery → intake → envelope → handle ─→ action, process, webhook, community ─→ the plugin, through guard
//!              │                  └── verdict ── settle ─┬─ committer → store, then bus
//!              └─ shares                        │        └─ reply, delay ladder, dead letters
//!                                               └─ suspects
//! ```
//!
//! Any number of workers may run side by side; they share nothing but broker and database. Up: `src/bus`, which hands
//! over deliveries. Down: [`settle`], which acknowledges them.

mod action;
mod answer;
mod attempt;
mod bookings;
mod bound;
mod closing;
mod committer;
mod community;
mod contended;
mod delivery;
mod envelope;
mod guard;
mod handle;
mod instances;
mod intake;
mod lifecycle;
mod lookups;
mod marking;
mod patience;
mod plugin_state;
mod process;
mod properties;
mod pulse;
mod refusal;
mod rejection;
mod serial;
mod served;
mod settle;
mod shares;
mod starting;
mod suspects;
mod sweeper;
mod tenancy;
mod transition;
mod trouble;
mod unkeyed;
mod verdict;
mod wait;
mod webhook;

use std::sync::Arc;

use metagov_sdk::contract::Name;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

#[cfg(feature = "failpoints")]
pub use self::envelope::key_of;
pub use self::{answer::message_of_stored, tenancy::Tenancy};
use self::{
    committer::{BatchLimits, Committer},
    envelope::Limits,
    handle::Handlers,
    instances::Instances,
    intake::{Intake, Sharing},
    lookups::Lookups,
    pulse::Pulse,
    serial::Serial,
    served::Served,
    settle::Settler,
    suspects::Suspects,
    trouble::Trouble,
};
use crate::{
    bus::{Bus, Queue, Room, Terms},
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
    /// How many plugins it runs.
    plugins: u8,
    settings: config::Worker,
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
    /// Who may command what.
    pub tenancy: Tenancy,
}

impl Worker {
    /// A worker that runs these plugins and no others. `abort` is for a second signal: whatever is unfinished then comes again.
    #[must_use]
    pub fn new(
        parts: Parts,
        settings: &config::Worker,
        prefix: &str,
        plugins: &[Name],
        abort: CancellationToken,
    ) -> Self {
        let Parts { registry, host, bus, store, tenancy } = parts;
        let tasks = TaskTracker::new();
        let limits = BatchLimits { batch: settings.batch, in_flight: settings.batches_in_flight };
        let trouble = Arc::new(Trouble::default());
        let committer =
            Committer::start(store.clone(), bus.clone(), limits, Arc::clone(&trouble), &tasks, abort.clone());
        let lookups = Arc::new(Lookups::new(&store));
        let handlers = Handlers {
            registry,
            served: Arc::new(Served::new(plugins)),
            instances: Arc::new(Instances::new(store.clone(), Arc::clone(&lookups), host.clone())),
            lookups,
            host,
            store: store.clone(),
            serial: Arc::new(Serial::new(committer.clone(), store.clone())),
            trouble,
            deadline: settings.deadline(),
            max_attempts: settings.max_attempts,
        };
        let limits = Limits { max_body_bytes: settings.max_body_bytes, prefix: prefix.to_owned(), tenancy };
        let suspects = Suspects::new(&store, usize::from(Sharing::new(settings, None).prefetch()));
        let settler = Settler { handlers, committer, bus: bus.clone(), store, limits, suspects, abort };
        let mut queues = vec![Queue::Core, Queue::Unrouted, Queue::Expired];
        queues.extend(plugins.iter().flat_map(|plugin| [Queue::Plugin(plugin.clone()), Queue::Poll(plugin.clone())]));
        let plugins = u8::try_from(plugins.len()).unwrap_or(u8::MAX);
        Self { settler: Arc::new(settler), bus, queues, plugins, settings: settings.clone(), tasks }
    }

    /// Asks for deliveries at once, so that whoever looks next sees consumers that are not at their queues yet. What it
    /// answers takes them until `stop` is cancelled, then finishes what runs.
    ///
    /// # Panics
    /// Outside of a runtime, which its tasks are to live on.
    pub fn run(self, stop: CancellationToken) -> impl Future<Output = ()> + Send {
        let pulse = Pulse::start().inspect_err(|error| warn!(%error, "no thread is left to keep the others awake"));
        let room = Room::new(self.settings.prefetch_bytes, self.settings.max_body_bytes);
        for queue in &self.queues {
            let plugin = match queue {
                Queue::Plugin(plugin) | Queue::Poll(plugin) => Some(plugin.as_str()),
                Queue::Core | Queue::Unrouted | Queue::Expired => None,
            };
            let sharing = Sharing::new(&self.settings, plugin);
            // The broker gives what concerns several plugins to the worker with the most of them first.
            let priority = if *queue == Queue::Core { self.plugins } else { 0 };
            let deliveries = self
                .bus
                .consume_on(queue.clone(), Terms { prefetch: sharing.prefetch(), priority, room: Some(room.clone()) });
            let label = plugin.unwrap_or("core").to_owned();
            let intake = Intake::new(Arc::clone(&self.settler), label, queue.kind(), sharing, self.tasks.clone());
            self.tasks.spawn(intake.run(deliveries, stop.clone()));
        }
        self.tasks.spawn(sweeper::sweep(self.settler.store.clone(), self.bus.clone(), stop.clone()));
        info!(queues = self.queues.len(), concurrency = self.settings.concurrency, "the worker takes commands");
        async move {
            stop.cancelled().await;
            self.bus.stop_consuming();
            info!("draining: no more deliveries are taken");
            // The committer ends when its last handle is gone, and that is the settler's.
            drop(self.settler);
            self.tasks.close();
            self.tasks.wait().await;
            info!("drained");
            drop(pulse);
        }
    }
}
