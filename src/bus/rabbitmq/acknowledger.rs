//! Sends the acknowledgements of one channel, coalesced: acknowledging one by one costs the client six times as much
//! and the broker twice (`multiple` on a batch of 100).
//!
//! One task for each channel takes what its receipts have left and sends as few frames as possible. It lives as long
//! as any receipt, also after its consumer has stopped, and then closes the channel, by which the broker takes back
//! what nobody acknowledged. Up: [`crate::bus::Receipt`]. Down: the broker.

use std::{collections::BTreeSet, time::Duration};

use futures::future::try_join_all;
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicNackOptions},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::session::Link;
use crate::bus::delivery::Settlement;

/// The most that one round looks at; more only waits for the next round.
const ROUND: usize = 1024;
/// Between the last acknowledgement and the end of its channel: some writes of the queue's log.
const LINGER: Duration = Duration::from_millis(200);
/// For the broker's answer that the channel is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs until the last receipt is gone, the link breaks or the bus closes. A broken link ends it in silence: the
/// broker redelivers what was not acknowledged.
pub(super) async fn run(
    link: Link,
    channel: Channel,
    mut settled: mpsc::UnboundedReceiver<Settlement>,
    closed: CancellationToken,
) {
    let mut window = Window::default();
    let mut round = Vec::with_capacity(ROUND);
    loop {
        let received = tokio::select! {
            biased;
            () = link.broken() => return,
            received = settled.recv_many(&mut round, ROUND) => received,
            // Only when nothing waits: what was acknowledged before the bus was closed still goes out.
            () = closed.cancelled() => {
                settled.close();
                continue;
            }
        };
        if received == 0 {
            break;
        }
        // An error is the end of the channel: every receipt of it turns stale when `settled` is dropped.
        if send(&channel, window.settle(round.drain(..))).await.is_err() {
            return;
        }
    }
    // With many acknowledgements in a row a channel of RabbitMQ holds some back until its quorum queue has applied those
    // before, and forgets them when it is closed: they would be delivered again although they were sent.
    tokio::time::sleep(LINGER).await;
    let _ = timeout(CLOSE_TIMEOUT, channel.close(200, "done".into())).await;
}

async fn send(channel: &Channel, frames: Vec<Frame>) -> lapin::Result<()> {
    // Joined, not one after the other: lapin's thread is woken once for all of them.
    try_join_all(frames.into_iter().map(|frame| async move {
        match frame {
            Frame::Ack { tag, multiple } => channel.basic_ack(tag, BasicAckOptions { multiple }).await,
            Frame::Return { tag } => channel.basic_nack(tag, BasicNackOptions { multiple: false, requeue: true }).await,
        }
    }))
    .await?;
    Ok(())
}

/// What goes to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frame {
    Ack { tag: u64, multiple: bool },
    Return { tag: u64 },
}

/// The delivery tags of one channel: 1, 2, 3, … in the order of delivery, settled in any order.
#[derive(Debug)]
struct Window {
    /// The lowest tag that is not settled.
    first_open: u64,
    /// Settled tags above it.
    settled_ahead: BTreeSet<u64>,
}

impl Default for Window {
    fn default() -> Self {
        Self { first_open: 1, settled_ahead: BTreeSet::new() }
    }
}

impl Window {
    /// The fewest frames that settle these tags and nothing else.
    fn settle(&mut self, settlements: impl Iterator<Item = Settlement>) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut fresh = BTreeSet::new();
        for settlement in settlements {
            match settlement {
                Settlement::Ack(tag) => {
                    fresh.insert(tag);
                }
                Settlement::Return(tag) => {
                    frames.push(Frame::Return { tag });
                    self.settled_ahead.insert(tag);
                }
            }
        }

        let mut last_fresh = None;
        loop {
            if fresh.remove(&self.first_open) {
                last_fresh = Some(self.first_open);
            } else if !self.settled_ahead.remove(&self.first_open) {
                break;
            }
            self.first_open += 1;
        }
        // `multiple` names a tag that is still open with the broker, never one that was settled before: looking for
        // such a one the broker would run past it, and close the channel.
        if let Some(tag) = last_fresh {
            frames.push(Frame::Ack { tag, multiple: true });
        }
        frames.extend(fresh.iter().map(|&tag| Frame::Ack { tag, multiple: false }));
        self.settled_ahead.append(&mut fresh);
        frames
    }
}

#[cfg(test)]
#[path = "acknowledger/tests.rs"]
mod tests;
