//! A driver's mailbox: every event and reply that arrives, kept, and waited for by what it says.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use metagov::bus::{Message, Subscription};
use metagov_sdk::contract::Event;
use tokio::{sync::Notify, time::timeout};

/// How long a story waits for what must come.
const PATIENCE: Duration = Duration::from_mins(1);

/// An event with the message that it came in.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) message: Message,
    pub(crate) event: Event,
}

#[derive(Clone, Default)]
pub(crate) struct Mailbox {
    received: Arc<Mutex<Vec<Received>>>,
    news: Arc<Notify>,
}

impl Mailbox {
    /// Collects what a subscription brings for as long as it lives.
    pub(crate) fn of(mut subscription: Subscription) -> Self {
        let mailbox = Self::default();
        let filled = mailbox.clone();
        tokio::spawn(async move {
            while let Some(message) = subscription.recv().await {
                let event = serde_json::from_slice(&message.body).expect("every message is an event");
                filled.received.lock().expect("no story panics here").push(Received { message, event });
                filled.news.notify_waiters();
            }
        });
        mailbox
    }

    /// Everything so far.
    pub(crate) fn all(&self) -> Vec<Received> {
        self.received.lock().expect("no story panics here").clone()
    }

    /// The first `count` events that `wanted` says yes to.
    pub(crate) async fn wait_for(&self, count: usize, what: &str, wanted: impl Fn(&Received) -> bool) -> Vec<Received> {
        let found = async {
            loop {
                let news = self.news.notified();
                let found: Vec<_> = self.all().into_iter().filter(|received| wanted(received)).take(count).collect();
                if found.len() == count {
                    return found;
                }
                news.await;
            }
        };
        timeout(PATIENCE, found).await.unwrap_or_else(|_| {
            let seen: Vec<_> = self
                .all()
                .into_iter()
                .map(|received| {
                    format!("{} {:?} {}", received.event.event_type, received.event.causationid, received.event.data)
                })
                .collect();
            panic!("{what} did not come; what came:\n{}", seen.join("\n"))
        })
    }
}
