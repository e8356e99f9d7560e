//! What crosses the bus: a message, where it goes, and what became of it. No broker type appears here.
//!
//! A message is what any AMQP client may have sent, so nothing in it is trusted: every property is optional, and the
//! body is bytes. What it means is for [`metagov_sdk::contract`] to say. Up: [`super::rabbitmq`] and
//! [`super::in_process`] build messages. Down: the worker reads them.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Header of a delayed copy: how many attempts the service has made so far, in decimal.
pub const ATTEMPT_HEADER: &str = "x-metagov-attempt";
/// Header of a copy that waits because its community is over its share: how often it was parked, in decimal.
pub const THROTTLED_HEADER: &str = "x-metagov-throttled";
/// Header of a copy of a delivery that was in hand before, which the broker does not know of the copy.
pub const SUSPECT_HEADER: &str = "x-metagov-suspect";
/// Header of a copy that waits and has not been handled yet: when it expires, in milliseconds since 1970. The broker
/// forgets a message's own `expiration` in a delay queue.
pub const EXPIRES_HEADER: &str = "x-metagov-expires";
/// Header of a dead letter that the service itself set aside: why, in words.
pub const REASON_HEADER: &str = "x-metagov-reason";

/// Header of an event that was published before and is published again for whoever lost it: `true`.
pub const REPLAYED_HEADER: &str = "x-metagov-replayed";

/// A message, as it was received or as it is to be published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The key that it was, or is to be, published under; at most 255 bytes (AMQP 0-9-1, short string).
    pub routing_key: String,
    /// The body, unread.
    #[serde(with = "base64_bytes")]
    pub body: Bytes,
    /// Properties and headers.
    #[serde(default)]
    pub properties: Properties,
}

/// The AMQP properties that the contract speaks of; the others are not carried.
///
/// Texts are at most 255 bytes (AMQP 0-9-1, short string).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Properties {
    /// MIME type of the body.
    pub content_type: Option<String>,
    /// The idempotency key of a command, the id of an event.
    pub message_id: Option<String>,
    /// What the answer is to be recognised by.
    pub correlation_id: Option<String>,
    /// The queue that wants the answer.
    pub reply_to: Option<String>,
    /// The AMQP property `type`: the `CloudEvents` type of an event.
    pub message_type: Option<String>,
    /// Seconds since 1970, as the publisher's clock had it.
    pub timestamp: Option<u64>,
    /// The broker's user who published it, vouched for by the broker; of a copy that the service made, who published the
    /// first. Published as the author of a copy only, with tenancy.
    pub user_id: Option<String>,
    /// How long it may wait in its queue, in whole milliseconds. Delays and dead letters have their own.
    pub expiration: Option<Duration>,
    /// The headers whose values are text, numbers or booleans, as text. Tables, arrays and text that is not UTF-8 are
    /// left out.
    pub headers: BTreeMap<String, String>,
}

/// Where a message is published to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// The exchange of commands. What no plugin wants reaches [`super::Queue::Unrouted`].
    Commands,
    /// The exchange of events.
    Events,
    /// A driver's own queue. A name that [`is_reply_queue`] refuses is not published to and counts as
    /// [`Published::Unrouted`]. Direct reply-to is always [`Published::Routed`]: the broker does not tell whether the
    /// driver still listens.
    Reply {
        /// The queue, as the command's `reply_to` had it.
        queue: String,
    },
    /// A step of the delay ladder: comes back to [`Destination::Commands`] under its own routing key, no sooner than
    /// the step says and at most a quarter later.
    Delay(DelayStep),
    /// The dead letters.
    Dead,
}

/// Whether replies may be sent to this queue: a driver's own queue, one whose name the broker made up for it (`amq.gen-…`), or
/// direct reply-to. Other names that begin with `amq.` belong to the broker, and an empty one would publish under the
/// default exchange's own rules.
///
/// <https://www.rabbitmq.com/docs/direct-reply-to>
#[must_use]
pub fn is_reply_queue(queue: &str) -> bool {
    !queue.is_empty() && (!queue.starts_with("amq.") || queue.starts_with("amq.gen-") || is_direct_reply(queue))
}

/// Whether this is a client's channel in the guise of a queue.
pub(super) fn is_direct_reply(queue: &str) -> bool {
    queue.starts_with("amq.rabbitmq.reply-to")
}

/// A message on its way out. It is always persistent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outgoing {
    /// Where to.
    pub to: Destination,
    /// What.
    pub message: Message,
}

/// What became of a published message, once the broker has taken responsibility.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Published {
    /// At least one queue has it.
    Routed,
    /// No queue wants it; nobody will ever see it.
    Unrouted,
    /// The broker refuses it. Publishing it again does not help unless somebody changes something.
    Refused(Refusal),
}

/// Why the broker refuses a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The message itself will not do: it is larger than the broker's `max_message_size`, for instance.
    Unacceptable,
    /// The service's user may not publish there; whoever runs the broker can change that.
    Forbidden,
    /// A queue of a driver's own is full and turns it away (`x-overflow: reject-publish`). Other queues may have it.
    Full,
}

impl Refusal {
    /// The label of the figures.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unacceptable => "unacceptable",
            Self::Forbidden => "forbidden",
            Self::Full => "full",
        }
    }
}

/// A step of the delay ladder, shortest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DelayStep {
    /// `1s`
    OneSecond,
    /// `5s`
    FiveSeconds,
    /// `30s`
    ThirtySeconds,
    /// `2m`
    TwoMinutes,
    /// `10m`
    TenMinutes,
}

impl DelayStep {
    /// All steps, shortest first.
    pub const ALL: [Self; 5] =
        [Self::OneSecond, Self::FiveSeconds, Self::ThirtySeconds, Self::TwoMinutes, Self::TenMinutes];

    /// The last word of its exchange and queue: `1s`, `5s`, `30s`, `2m`, `10m`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OneSecond => "1s",
            Self::FiveSeconds => "5s",
            Self::ThirtySeconds => "30s",
            Self::TwoMinutes => "2m",
            Self::TenMinutes => "10m",
        }
    }

    /// The shortest time that a copy waits here.
    #[must_use]
    pub fn delay(self) -> Duration {
        Duration::from_secs(match self {
            Self::OneSecond => 1,
            Self::FiveSeconds => 5,
            Self::ThirtySeconds => 30,
            Self::TwoMinutes => 120,
            Self::TenMinutes => 600,
        })
    }

    /// The longest time that a copy waits here: a quarter more, the room for jitter.
    #[must_use]
    pub fn longest(self) -> Duration {
        self.delay() + self.delay() / 4
    }

    /// The shortest step that waits at least this long; the longest step where none does.
    #[must_use]
    pub fn at_least(wanted: Duration) -> Self {
        Self::ALL.into_iter().find(|step| step.delay() >= wanted).unwrap_or(Self::TenMinutes)
    }

    /// The waiting time of one copy: jitter keeps what failed together from coming back together.
    pub(super) fn jittered(self) -> Duration {
        rand::Rng::random_range(&mut rand::rng(), self.delay()..=self.longest())
    }
}

/// Bodies are bytes, JSON has none.
mod base64_bytes {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(body: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(body))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map(Bytes::from).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_takes_the_shortest_step_that_is_long_enough() {
        assert_eq!(DelayStep::at_least(Duration::ZERO), DelayStep::OneSecond);
        assert_eq!(DelayStep::at_least(Duration::from_secs(1)), DelayStep::OneSecond);
        assert_eq!(DelayStep::at_least(Duration::from_millis(1001)), DelayStep::FiveSeconds);
        assert_eq!(DelayStep::at_least(Duration::from_hours(24)), DelayStep::TenMinutes);
    }

    #[test]
    fn jitter_never_shortens_a_delay() {
        for step in DelayStep::ALL {
            for _ in 0..100 {
                let wait = step.jittered();
                assert!(wait >= step.delay() && wait <= step.longest(), "{wait:?} in {}", step.name());
            }
        }
    }

    #[test]
    fn replies_go_to_a_drivers_own_queue_or_by_direct_reply_to() {
        for good in ["my-queue", "amq.gen-JzTY20BRgKO", "amq.rabbitmq.reply-to", "amq.rabbitmq.reply-to.g1h2.abc=="] {
            assert!(is_reply_queue(good), "{good}");
        }
        for bad in ["", "amq.genuine", "amq.topic", "amq.", "amq.rabbitmq.trace"] {
            assert!(!is_reply_queue(bad), "{bad}");
        }
    }
}
