//! A consumer of the in-process bus: hands out up to its prefetch, and takes back what was not acknowledged.
//!
//! Like a channel of RabbitMQ it lives as long as its [`crate::bus::Deliveries`] or any of its receipts; when the last
//! is gone, or its session is lost, whatever is unacknowledged returns to the queue. Up: [`super::queue`]. Down: [`crate::bus::Delivery`].

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{InProcess, MemoryQueue, Stored};
use crate::bus::{
    Delivery, Receipt,
    delivery::{Settlement, is_last_chance},
};

pub(super) async fn run(
    bus: Arc<InProcess>,
    queue: Arc<MemoryQueue>,
    prefetch: u16,
    outgoing: mpsc::Sender<Delivery>,
    session: CancellationToken,
) {
    let (settlements, mut settled) = mpsc::unbounded_channel();
    let mut unacknowledged: BTreeMap<u64, Stored> = BTreeMap::new();
    let mut next_tag = 1;
    // Only a consumer that may still hand something out holds these; afterwards the receipts alone keep it alive.
    let mut open = Some((outgoing, settlements, queue.attend()));

    loop {
        let may_fetch = unacknowledged.len() < usize::from(prefetch);
        let fetch = async {
            match &open {
                Some((outgoing, ..)) => tokio::select! {
                    biased;
                    () = bus.stopped.cancelled() => None,
                    () = outgoing.closed() => None,
                    stored = queue.next(), if may_fetch => Some(stored),
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = bus.closed.cancelled() => return,
            () = session.cancelled() => break,
            settlement = settled.recv() => match settlement {
                Some(Settlement::Ack(tag)) => drop(unacknowledged.remove(&tag)),
                Some(Settlement::Return(tag)) => {
                    if let Some(stored) = unacknowledged.remove(&tag) {
                        bus.take_back(&queue, stored);
                    }
                }
                None => break,
            },
            fetched = fetch => match (fetched, &open) {
                (Some(stored), Some((outgoing, settlements, _))) => {
                    let delivery = Delivery {
                        message: stored.message.clone(),
                        redelivered: stored.returns > 0,
                        delivery_count: Some(stored.returns),
                        last_chance: is_last_chance(Some(stored.returns), bus.delivery_limit),
                        receipt: Receipt::new(next_tag, settlements.clone(), None),
                    };
                    unacknowledged.insert(next_tag, stored);
                    next_tag += 1;
                    // There is room: no more than `prefetch` are out. A receiver that is gone gives up the receipt.
                    let _ = outgoing.try_send(delivery);
                }
                _ => open = None,
            },
        }
    }
    for stored in unacknowledged.into_values() {
        bus.take_back(&queue, stored);
    }
}
