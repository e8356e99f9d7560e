//! A dead letter: a message that could not be handled, set aside with the reason for a person to decide on.
//!
//! It knows what broker and service wrote into its headers, not how it is stored. Up: [`super::Bus::dead_letters`].
//! Down: `metagov dead`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    ATTEMPT_HEADER, Destination, EXPIRES_HEADER, Message, Outgoing, REASON_HEADER, SUSPECT_HEADER, THROTTLED_HEADER,
};

/// The broker's header that says of what a message died the first time.
pub(super) const FIRST_DEATH_REASON: &str = "x-first-death-reason";
const LAST_DEATH_REASON: &str = "x-last-death-reason";
const LAST_DEATH_QUEUE: &str = "x-last-death-queue";

/// A message that was set aside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The message under its original routing key.
    pub message: Message,
}

/// What is to become of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadVerdict {
    /// It stays where it is.
    Keep,
    /// It is published as a command once more, with its attempts forgotten.
    Retry,
    /// It is deleted.
    Discard,
}

impl DeadLetter {
    /// What a person calls it by: its `message_id`; where it has none, a UUID made from routing key and body.
    #[must_use]
    pub fn id(&self) -> String {
        self.message.properties.message_id.clone().unwrap_or_else(|| {
            let content = [self.message.routing_key.as_bytes(), b"\n", &self.message.body].concat();
            Uuid::new_v5(&Uuid::NAMESPACE_OID, &content).to_string()
        })
    }

    /// Why it is here: the service's words, else the broker's (`delivery_limit`, `rejected`, `expired`).
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        let headers = &self.message.properties.headers;
        headers.get(REASON_HEADER).or_else(|| headers.get(LAST_DEATH_REASON)).map(String::as_str)
    }

    /// The queue that the broker took it from, where it was the broker.
    #[must_use]
    pub fn queue(&self) -> Option<&str> {
        self.message.properties.headers.get(LAST_DEATH_QUEUE).map(String::as_str)
    }

    /// The command to publish again: without the traces of its death, so that it gets all its attempts.
    pub(super) fn revived(&self) -> Outgoing {
        let mut message = self.message.clone();
        message.properties.expiration = None;
        // It stays its author's, and nobody's where there is none: it must not become that of whoever retries it.
        message.properties.user_id.get_or_insert_default();
        message.properties.headers.retain(|name, _| !is_trace(name));
        Outgoing { to: Destination::Commands, message }
    }
}

/// Whether this header tells of its death, or of what was tried before.
pub(super) fn is_trace(header: &str) -> bool {
    [ATTEMPT_HEADER, EXPIRES_HEADER, REASON_HEADER, SUSPECT_HEADER, THROTTLED_HEADER].contains(&header)
        || is_brokers_note(header)
}

/// Writes into a message why and where it died last. RabbitMQ 4 does so itself; older ones say it in `x-death` only.
pub(super) fn note(message: &mut Message, reason: &str, queue: &str) {
    message.properties.headers.entry(FIRST_DEATH_REASON.to_owned()).or_insert_with(|| reason.to_owned());
    message.properties.headers.insert(LAST_DEATH_REASON.to_owned(), reason.to_owned());
    message.properties.headers.insert(LAST_DEATH_QUEUE.to_owned(), queue.to_owned());
}

/// Whether the broker took this message from its queue because its time was over there.
#[must_use]
pub fn has_expired(message: &Message) -> bool {
    message.properties.headers.get(LAST_DEATH_REASON).is_some_and(|reason| reason == "expired")
}

/// Whether the broker writes this header. They are not published again: a retry that went through a delay queue must
/// not look as if it had died there when it dies of something else later.
pub(super) fn is_brokers_note(header: &str) -> bool {
    header == "x-death"
        || header == "x-delivery-count"
        || header.starts_with("x-first-death-")
        || header.starts_with("x-last-death-")
}
