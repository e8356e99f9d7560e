//! What a driver hears, and how it tells whether it was answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard},
};

use metagov::bus::{Bus, Destination, Message, Outgoing, Properties};
use metagov_sdk::contract::Event;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::play::{Act, Play};

/// Everything that was heard.
#[derive(Default)]
pub(crate) struct Heard {
    events: Mutex<Vec<Event>>,
    news: Notify,
}

impl Heard {
    /// Listens, until the bus is no more.
    pub(crate) async fn listen(&self, bus: &Bus, ready: impl FnOnce()) {
        let mut events = bus.subscribe(&["#".to_owned()]).await.expect("events can be subscribed to");
        ready();
        while let Some(message) = events.recv().await {
            let event = serde_json::from_slice(&message.body).expect("every message is an event");
            self.events().push(event);
            self.news.notify_waiters();
        }
    }

    /// Waits until all that was published before this is heard: a last event comes after the others, and is none of them.
    pub(crate) async fn everything(&self, bus: &Bus) {
        let Some(first) = self.events().first().cloned() else { return };
        let last = Event { id: Uuid::new_v4(), causationid: None, sequence: None, ..first };
        let message = Message {
            routing_key: "the.end".to_owned(),
            body: last.to_json().into(),
            properties: Properties::default(),
        };
        let published = bus.publish(vec![Outgoing { to: Destination::Events, message }]).await;
        published.expect("the bus is open");
        loop {
            let news = self.news.notified();
            let has_come = {
                let mut events = self.events();
                let all = events.len();
                events.retain(|event| event.id != last.id);
                events.len() < all
            };
            if has_come {
                return;
            }
            news.await;
        }
    }

    /// What was heard so far.
    pub(crate) fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().expect("nobody panics over it")
    }

    /// Waits until everything in this act is answered.
    pub(crate) async fn all(&self, play: &Play, act: usize) {
        let news = self.news.notified();
        tokio::pin!(news);
        loop {
            news.as_mut().enable();
            if is_answered(play, act, &answers(&self.events())) {
                return;
            }
            news.as_mut().await;
            news.set(self.news.notified());
        }
    }
}

fn is_answered(play: &Play, act: usize, answers: &Answers) -> bool {
    match &play.acts[act] {
        Act::Poll => answers.values().flatten().any(|(kind, _)| kind == "process.updated"),
        Act::Commands(commands) => commands.iter().all(|command| {
            let wanted = play.expected.get(&command.id).map_or(0, |expected| match act {
                // The key that is used again, for another command, is answered a second time later.
                0 => 1,
                _ => expected.len(),
            });
            answers.get(&command.id).map_or(0, BTreeSet::len) >= wanted
        }),
    }
}

/// The different answers to each command: kind and id.
pub(crate) type Answers = BTreeMap<String, BTreeSet<(String, String)>>;

/// Finds the answers among events; what a plugin emits is none.
pub(crate) fn answers(events: &[Event]) -> Answers {
    let mut answers = Answers::new();
    for event in events {
        let kind = event.event_type.trim_start_matches("org.metagov.").to_owned();
        if let Some(cause) = event.causationid.clone().filter(|_| !kind.starts_with("plugin.")) {
            answers.entry(cause).or_default().insert((kind, event.id.to_string()));
        }
    }
    answers
}
