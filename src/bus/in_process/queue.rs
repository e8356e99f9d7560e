//! A queue in memory: messages in the order of their arrival, which a returned message takes its old place in.
//!
//! It hands out and takes back; who holds what is the consumer's business. Up: [`super::exchange`]. Down:
//! [`super::consumer`].

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use crate::bus::{Depth, Message, topology::QueueDeclaration};

/// A message and what its queue knows about it.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) message: Message,
    /// How often it was handed out and came back.
    pub(super) returns: u64,
    position: u64,
}

/// A queue.
#[derive(Debug)]
pub(super) struct MemoryQueue {
    name: String,
    time_to_live: Option<Duration>,
    dead_letter_exchange: Option<String>,
    delivery_limit: Option<u32>,
    contents: Mutex<Contents>,
    arrived: Notify,
    /// Held by each consumer while it may hand something out.
    consumers: Arc<()>,
}

#[derive(Debug, Default)]
struct Contents {
    next_position: u64,
    ready: BTreeMap<u64, Stored>,
}

impl MemoryQueue {
    /// A queue of the topology.
    pub(super) fn declared(declaration: &QueueDeclaration) -> Self {
        Self {
            time_to_live: declaration.number("x-message-ttl").map(|millis| Duration::from_millis(millis.into())),
            dead_letter_exchange: declaration.text("x-dead-letter-exchange").map(str::to_owned),
            delivery_limit: declaration.number("x-delivery-limit"),
            ..Self::temporary(&declaration.name)
        }
    }

    /// A queue without arguments.
    pub(super) fn temporary(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            time_to_live: None,
            dead_letter_exchange: None,
            delivery_limit: None,
            contents: Mutex::default(),
            arrived: Notify::new(),
            consumers: Arc::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn time_to_live(&self) -> Option<Duration> {
        self.time_to_live
    }

    pub(super) fn dead_letter_exchange(&self) -> Option<&str> {
        self.dead_letter_exchange.as_deref()
    }

    pub(super) fn delivery_limit(&self) -> Option<u32> {
        self.delivery_limit
    }

    /// Counts a consumer for as long as it keeps this.
    pub(super) fn attend(&self) -> Arc<()> {
        Arc::clone(&self.consumers)
    }

    pub(super) fn depth(&self) -> Depth {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let consumers = Arc::strong_count(&self.consumers) - 1;
        Depth { waiting: number(self.contents().ready.len()), consumers: number(consumers) }
    }

    /// Puts a message at the end; answers its position.
    pub(super) fn push(&self, message: Message) -> u64 {
        let mut contents = self.contents();
        let position = contents.next_position;
        contents.next_position += 1;
        contents.ready.insert(position, Stored { message, returns: 0, position });
        drop(contents);
        self.arrived.notify_one();
        position
    }

    pub(super) fn put_back(&self, stored: Stored) {
        self.contents().ready.insert(stored.position, stored);
        self.arrived.notify_one();
    }

    /// Takes the oldest message, waiting for one. Safe to cancel.
    pub(super) async fn next(&self) -> Stored {
        loop {
            let arrived = self.arrived.notified();
            let (taken, more) = {
                let mut contents = self.contents();
                (contents.ready.pop_first(), !contents.ready.is_empty())
            };
            match taken {
                Some((_, stored)) => {
                    // `notify_one` keeps one permit, however many messages came: pass it on to the next consumer.
                    if more {
                        self.arrived.notify_one();
                    }
                    return stored;
                }
                None => arrived.await,
            }
        }
    }

    /// What waits, oldest first, with its position.
    pub(super) fn peek(&self) -> Vec<(u64, Message)> {
        self.contents().ready.iter().map(|(position, stored)| (*position, stored.message.clone())).collect()
    }

    /// Takes what waits at this position; `None` where somebody has it.
    pub(super) fn remove(&self, position: u64) -> Option<Message> {
        self.contents().ready.remove(&position).map(|stored| stored.message)
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
