//! What the broker refuses: a message that will not do, a place that is forbidden, a driver's queue that is full.
//!
//! The first two cost the channel, and the error says which. A full queue (`x-overflow: reject-publish`) costs a nack,
//! which says of which message it is and nothing else: neither which of its queues is full, nor that others have it, nor
//! whether it is a passing fault of a queue instead. So a nacked message is never waited for here; the caller that published it
//! knows what it is worth to try it again later. Up: [`super::publisher`]. Down: the log and the figures.

use std::{fmt::Display, time::Duration};

use lapin::{
    ErrorKind,
    protocol::{AMQPErrorKind, AMQPSoftError},
};
use tokio::time::Instant;

use crate::{
    bus::{Destination, Outgoing, Refusal},
    telemetry::measures,
};

/// Full queues that stay full are logged once in this time.
const ONCE_IN: Duration = Duration::from_secs(30);

/// What the broker has against the one message of a channel. An exchange that is missing is nothing against the message:
/// it waits for the topology.
pub(super) fn refusal(error: &lapin::Error) -> Option<Refusal> {
    let ErrorKind::ProtocolError(error) = error.kind() else { return None };
    match error.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => Some(Refusal::Unacceptable),
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Some(Refusal::Forbidden),
        _ => None,
    }
}

/// Whether none but drivers' own queues can have turned this away; in ours there has to be room again.
pub(super) fn is_for_drivers(outgoing: &Outgoing) -> bool {
    matches!(outgoing.to, Destination::Events | Destination::Reply { .. })
}

/// Counts a message that the broker refuses for a reason that the error names, and logs it.
pub(super) fn refused(outgoing: &Outgoing, refusal: Refusal, error: &dyn Display) {
    count(refusal);
    let message = &outgoing.message;
    tracing::error!(
        to = ?outgoing.to,
        routing_key = message.routing_key.chars().take(255).collect::<String>(),
        message.id = message.properties.message_id,
        bytes = message.body.len(),
        %error,
        "the broker refuses this message; what was published with it goes on"
    );
}

fn count(refusal: Refusal) {
    metrics::counter!(measures::REFUSED, "reason" => refusal.as_str()).increment(1);
}

/// Full queues, logged once in a while: one of them refuses every event that is published while it is full.
#[derive(Debug, Default)]
pub(super) struct FullQueues {
    logged: Option<Instant>,
    unlogged: u64,
}

impl FullQueues {
    /// Counts a message that a driver's queue has no room for.
    pub(super) fn refused(&mut self, outgoing: &Outgoing) {
        count(Refusal::Full);
        if self.logged.is_some_and(|logged| logged.elapsed() < ONCE_IN) {
            self.unlogged += 1;
            return;
        }
        self.logged = Some(Instant::now());
        tracing::warn!(
            to = ?outgoing.to,
            routing_key = outgoing.message.routing_key.chars().take(255).collect::<String>(),
            others = std::mem::take(&mut self.unlogged),
            "a driver's queue that is bound to this is full and refuses it; a reply is dropped, an event is published \
             again later, the more often it is refused the later; what was published with it goes on"
        );
    }
}
