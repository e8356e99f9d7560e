//! The bus without a broker: the same topology, routed in memory.
//!
//! For `metagov dev` and for tests. What it keeps of RabbitMQ: topic and fanout routing with the alternate exchange,
//! mandatory publishing, prefetch, redelivery with its count and limit, delays, dead letters, subscriptions. What it
//! does not have: anything that survives the process, and the head-of-line wait of a delay queue (here each copy has a
//! timer of its own). Up: [`super::Bus`]. Down: [`queue`], where messages wait.

mod consumer;
mod exchange;
mod queue;
mod topic;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use metagov_sdk::contract::Name;
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    BusError, DeadLetter, DeadVerdict, Deliveries, Depth, Destination, Message, Outgoing, Published, Queue,
    Subscription, Topology, dead_letter, is_reply_queue,
    topology::{Binding, Names},
};
use exchange::Broker;
use queue::{MemoryQueue, Stored};

/// How many messages a subscription that does not read holds outside its queue.
const SUBSCRIPTION_BUFFER: usize = 64;

/// The in-process bus.
#[derive(Debug)]
pub struct InProcess {
    prefix: String,
    names: Names,
    delivery_limit: u32,
    broker: RwLock<Broker>,
    stopped: CancellationToken,
    closed: CancellationToken,
    /// Ends with the session of those who consume now.
    session: RwLock<CancellationToken>,
    /// Like a broker, the bus outlives whoever uses it: what waits here survives the runtime of a worker.
    runtime: Handle,
}

impl InProcess {
    pub(super) fn start(prefix: &str, delivery_limit: u32, shutdown: &CancellationToken) -> Arc<Self> {
        let closed = shutdown.child_token();
        let bus = Self {
            prefix: prefix.to_owned(),
            names: Names::new(prefix),
            delivery_limit,
            broker: RwLock::default(),
            stopped: closed.child_token(),
            session: RwLock::new(closed.child_token()),
            closed,
            runtime: Handle::current(),
        };
        bus.apply_topology(&[]);
        Arc::new(bus)
    }

    pub(super) fn apply_topology(&self, plugins: &[Name]) {
        self.write().declare(Topology::new(&self.prefix, plugins, self.delivery_limit));
    }

    pub(super) fn publish(self: &Arc<Self>, messages: Vec<Outgoing>) -> Result<Vec<Published>, BusError> {
        if self.closed.is_cancelled() {
            return Err(BusError::Closed);
        }
        Ok(messages.into_iter().map(|outgoing| self.publish_one(outgoing)).collect())
    }

    fn publish_one(self: &Arc<Self>, Outgoing { to, mut message }: Outgoing) -> Published {
        message.properties.headers.retain(|name, _| !dead_letter::is_brokers_note(name));
        message.properties.user_id = None;
        let queues = match to {
            Destination::Commands => self.read().route(&self.names.commands(), &message),
            Destination::Events => self.read().route(&self.names.events(), &message),
            Destination::Dead => {
                message.properties.expiration = None;
                self.read().route(&self.names.dead(), &message)
            }
            Destination::Delay(step) => {
                message.properties.expiration = Some(step.jittered());
                self.read().route(&self.names.delay(step), &message)
            }
            Destination::Reply { queue } => {
                is_reply_queue(&queue).then(|| self.read().queue(&queue)).flatten().into_iter().collect()
            }
        };
        if queues.is_empty() {
            return Published::Unrouted;
        }
        for queue in queues {
            self.enqueue(&queue, message.clone());
        }
        Published::Routed
    }

    fn enqueue(self: &Arc<Self>, queue: &Arc<MemoryQueue>, message: Message) {
        let (own, longest) = (message.properties.expiration, queue.time_to_live());
        // What waits in a delay queue is handed to nobody; anything else may be until its time is over.
        let (position, message) =
            if longest.is_some() { (None, Some(message)) } else { (Some(queue.push(message)), None) };
        let Some(wait) = own.into_iter().chain(longest).min() else { return };
        let (bus, queue) = (Arc::clone(self), Arc::clone(queue));
        self.runtime.spawn(async move {
            tokio::select! {
                () = bus.closed.cancelled() => {}
                () = tokio::time::sleep(wait) => {
                    if let Some(message) = message.or_else(|| queue.remove(position?)) {
                        bus.bury(&queue, message, "expired");
                    }
                }
            }
        });
    }

    /// Dead-letters a message: to wherever its queue says.
    fn bury(self: &Arc<Self>, queue: &MemoryQueue, mut message: Message, reason: &str) {
        message.properties.expiration = None;
        dead_letter::note(&mut message, reason, queue.name());
        let Some(exchange) = queue.dead_letter_exchange() else { return };
        let heirs = self.read().route(exchange, &message);
        for heir in heirs {
            self.enqueue(&heir, message.clone());
        }
    }

    /// Puts a message that was handed out back in its place, or buries it after too many returns.
    fn take_back(self: &Arc<Self>, queue: &MemoryQueue, mut stored: Stored) {
        stored.returns += 1;
        match queue.delivery_limit() {
            Some(limit) if stored.returns > u64::from(limit) => self.bury(queue, stored.message, "delivery_limit"),
            _ => queue.put_back(stored),
        }
    }

    pub(super) fn consume(self: &Arc<Self>, queue: &Queue, prefetch: u16) -> Deliveries {
        if let Queue::Plugin(plugin) | Queue::Poll(plugin) = queue {
            self.apply_topology(std::slice::from_ref(plugin));
        }
        let name = self.names.queue(queue);
        let (outgoing, incoming) = mpsc::channel(usize::from(prefetch));
        if let Some(queue) = self.read().queue(&name) {
            let session = self.session.read().unwrap_or_else(PoisonError::into_inner).clone();
            self.runtime.spawn(consumer::run(Arc::clone(self), queue, prefetch, outgoing, session));
        }
        Deliveries::new(incoming, self.stopped.clone())
    }

    pub(super) fn subscribe(self: &Arc<Self>, patterns: &[String]) -> Result<Subscription, BusError> {
        if self.closed.is_cancelled() {
            return Err(BusError::Closed);
        }
        let name = self.names.subscription();
        let queue = Arc::new(MemoryQueue::temporary(&name));
        self.write().add_queue(Arc::clone(&queue));
        self.write().bind(patterns.iter().map(|pattern| Binding {
            exchange: self.names.events(),
            queue: name.clone(),
            pattern: pattern.clone(),
            arguments: Vec::new(),
        }));
        let (outgoing, incoming) = mpsc::channel(SUBSCRIPTION_BUFFER);
        let bus = Arc::clone(self);
        self.runtime.spawn(async move {
            let forward = async { while outgoing.send(queue.next().await.message).await.is_ok() {} };
            tokio::select! {
                () = forward => {}
                () = outgoing.closed() => {}
                () = bus.closed.cancelled() => {}
            }
            bus.write().remove_queue(queue.name());
        });
        Ok(Subscription::new(name, incoming))
    }

    pub(super) fn dead_letters(
        self: &Arc<Self>,
        decide: &mut (dyn FnMut(&DeadLetter) -> DeadVerdict + Send),
    ) -> Result<Vec<DeadLetter>, BusError> {
        let Some(queue) = self.read().queue(&self.names.dead()) else { return Ok(Vec::new()) };
        let mut shown = Vec::new();
        for (position, message) in queue.peek() {
            let letter = DeadLetter { message };
            match decide(&letter) {
                DeadVerdict::Keep => {}
                DeadVerdict::Retry => {
                    self.publish(vec![letter.revived()])?;
                    queue.remove(position);
                }
                DeadVerdict::Discard => drop(queue.remove(position)),
            }
            shown.push(letter);
        }
        Ok(shown)
    }

    pub(super) fn depth(&self, queue: &Queue) -> Result<Depth, BusError> {
        if self.closed.is_cancelled() {
            return Err(BusError::Closed);
        }
        Ok(self.read().queue(&self.names.queue(queue)).map(|queue| queue.depth()).unwrap_or_default())
    }

    #[cfg(feature = "failpoints")]
    pub(super) fn lose_consumers(&self) {
        let mut session = self.session.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *session, self.closed.child_token()).cancel();
    }

    pub(super) fn stop_consuming(&self) {
        self.stopped.cancel();
    }

    pub(super) fn is_open(&self) -> bool {
        !self.closed.is_cancelled()
    }

    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    // A poisoned lock only says that some test's closure panicked: the maps are whole between statements.
    fn read(&self) -> RwLockReadGuard<'_, Broker> {
        self.broker.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Broker> {
        self.broker.write().unwrap_or_else(PoisonError::into_inner)
    }
}
