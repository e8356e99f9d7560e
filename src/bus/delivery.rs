//! What a consumer is handed: deliveries with receipts, and the plain messages of a subscription.
//!
//! A receipt is settled at most once and never waits: it drops a note into a channel, and whoever owns the other end
//! (RabbitMQ's acknowledger, the in-process queue) does the rest. Up: [`super::Bus::consume`]. Down: the worker, which
//! acknowledges after its commit.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Message, room::Hold};

/// A message that is this consumer's until its receipt is acknowledged.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// Whether it was handed to a consumer before, which may or may not have handled it.
    pub redelivered: bool,
    /// How often it was handed out before and came back, where the broker counts that (quorum queues). Versions of
    /// RabbitMQ differ in what they count: no base for retries.
    pub delivery_count: Option<u64>,
    /// Whether the broker makes a dead letter of it, and tells nobody, when this delivery comes back or the next.
    pub last_chance: bool,
    /// How it is settled.
    pub receipt: Receipt,
}

/// The right to settle one delivery.
///
/// Dropped without [`Receipt::ack`], the message stays unacknowledged and goes to somebody else once this consumer and
/// all its receipts are gone.
#[derive(Debug)]
#[must_use = "a delivery that is never acknowledged comes again"]
pub struct Receipt {
    tag: u64,
    settlements: mpsc::UnboundedSender<Settlement>,
    /// The room of the body; given back with this.
    _hold: Option<Hold>,
}

/// A note from a receipt to the owner of its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settlement {
    /// Handled; the broker may forget it.
    Ack(u64),
    /// Never begun; somebody else may have it at once.
    Return(u64),
}

/// Whether a message that was handed out so often is near the limit of its queue. Two deliveries before it is over, so
/// that there is one more if nothing comes of this one.
pub(super) fn is_last_chance(delivery_count: Option<u64>, limit: u32) -> bool {
    delivery_count.is_some_and(|count| count > 0 && count + 1 >= u64::from(limit))
}

impl Receipt {
    pub(super) fn new(tag: u64, settlements: mpsc::UnboundedSender<Settlement>, hold: Option<Hold>) -> Self {
        Self { tag, settlements, _hold: hold }
    }

    /// The message is handled. Never blocks. Where its session has died in the meantime nothing happens: the broker
    /// delivers it again, and the inbox recognises it.
    pub fn ack(self) {
        // An error is a session that is gone, see above.
        let _ = self.settlements.send(Settlement::Ack(self.tag));
    }

    /// The message was not begun: hand it to somebody else, at once.
    pub fn give_back(self) {
        // An error is a session that is gone, and with it this message went back already.
        let _ = self.settlements.send(Settlement::Return(self.tag));
    }

    /// Resolves once the session of this receipt is gone.
    pub async fn turns_stale(&self) {
        self.settlements.closed().await;
    }

    /// Whether the session of this receipt is gone: the message is on its way to somebody else.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.settlements.is_closed()
    }
}

/// The deliveries of one queue. Survives lost connections; ends when the bus stops consuming or closes.
///
/// Dropping it cancels the consumer; receipts in hand stay good.
#[derive(Debug)]
pub struct Deliveries {
    incoming: mpsc::Receiver<Delivery>,
    stopped: CancellationToken,
}

impl Deliveries {
    pub(super) fn new(incoming: mpsc::Receiver<Delivery>, stopped: CancellationToken) -> Self {
        Self { incoming, stopped }
    }

    /// The next delivery; `None` for good once the bus stops consuming. What was fetched but not handed out by then is
    /// given back to the queue. Safe to cancel.
    pub async fn recv(&mut self) -> Option<Delivery> {
        loop {
            let delivery = tokio::select! {
                biased;
                () = self.stopped.cancelled() => return self.end(),
                delivery = self.incoming.recv() => delivery?,
            };
            // What a lost session has left here is delivered again: handling it now would only double the work.
            if !delivery.receipt.is_stale() {
                return Some(delivery);
            }
        }
    }

    /// The next delivery, if one has arrived already: how a batch takes what has gathered without waiting.
    pub fn try_recv(&mut self) -> Option<Delivery> {
        if self.stopped.is_cancelled() {
            return self.end();
        }
        std::iter::from_fn(|| self.incoming.try_recv().ok()).find(|delivery| !delivery.receipt.is_stale())
    }

    fn end(&mut self) -> Option<Delivery> {
        self.incoming.close();
        while let Ok(delivery) = self.incoming.try_recv() {
            delivery.receipt.give_back();
        }
        None
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        self.end();
    }
}

/// Events, and whatever else is sent to its queue, as they come; for the command line and for tests.
///
/// The queue is this subscription's own and lives no longer. Where the connection is lost it is made anew under the
/// same name; what was published meanwhile is missing, and a warning says so.
#[derive(Debug)]
pub struct Subscription {
    queue: String,
    incoming: mpsc::Receiver<Message>,
}

impl Subscription {
    pub(super) fn new(queue: String, incoming: mpsc::Receiver<Message>) -> Self {
        Self { queue, incoming }
    }

    /// The name of its queue, good as a command's `reply_to`.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// The next message; `None` once the bus is closed. Safe to cancel.
    pub async fn recv(&mut self) -> Option<Message> {
        self.incoming.recv().await
    }
}
