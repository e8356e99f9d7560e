//! A consumer: one queue, one channel with its own prefetch, rebuilt for ever.
//!
//! Whatever ends the stream of deliveries (a lost connection, a deleted queue, a channel that the broker closed for a
//! late acknowledgement) ends this channel and begins a new one; other consumers notice nothing. Bodies are not read
//! here. Up: [`super::session`]. Down: [`crate::bus::Deliveries`], and [`super::acknowledger`] on the way back.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use lapin::{
    Channel, Consumer as Stream,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Declaring, acknowledger,
    declare::{Refused, name},
    outage::Outage,
    session::{Link, Session},
    standing::Line,
    wire,
};
use crate::bus::{Delivery, Queue, Receipt, delivery::is_last_chance};

/// For the broker's answer that it delivers no more.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// How many consumers were asked for, and how many are at their queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Census {
    pub(super) wanted: usize,
    pub(super) consuming: usize,
}

/// Everything that a consumer needs.
pub(super) struct Consumer {
    pub(super) session: Session,
    pub(super) queue: Queue,
    pub(super) prefetch: u16,
    pub(super) declaring: Arc<Declaring>,
    pub(super) outgoing: mpsc::Sender<Delivery>,
    pub(super) census: Arc<watch::Sender<Census>>,
    pub(super) tasks: TaskTracker,
    /// Deliver no more.
    pub(super) stopped: CancellationToken,
    /// Send what is acknowledged by now, then nothing.
    pub(super) closed: CancellationToken,
}

/// How consuming ends in peace.
enum End {
    /// Nobody wants deliveries any more.
    Ended,
    /// The prefetch may be the full one again, which takes a new consumer.
    NoLongerCareful,
}

/// Why a consumer has to be rebuilt.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("no such queue; `metagov topology apply` declares it")]
    NoQueue(#[source] lapin::Error),
    #[error("cannot consume")]
    Consume(#[source] lapin::Error),
    #[error("the channel broke")]
    Channel(#[source] lapin::Error),
    #[error("the broker cancelled the consumer; was its queue deleted? `metagov topology apply` declares it")]
    Cancelled,
    #[error("the connection is lost")]
    Link,
}

impl Consumer {
    /// From now on it is wanted and not at its queue, which the notice says until it is.
    pub(super) fn announce(&self, notice: Line) -> Outage {
        self.census.send_modify(|census| census.wanted += 1);
        let outage = Outage::of(format!("the consumer of {}", self.declaring.names.queue(&self.queue))).told_on(notice);
        outage.begin();
        outage
    }

    /// Runs until the bus stops consuming or the deliveries are dropped; see [`Self::announce`].
    pub(super) async fn run(self, mut outage: Outage) {
        loop {
            let link = tokio::select! {
                biased;
                () = self.ended() => break,
                link = self.session.link() => link,
            };
            let Some(link) = link else { break };
            match self.consume(&link, &mut outage).await {
                Ok(End::Ended) => break,
                Ok(End::NoLongerCareful) => {}
                Err(lost) => tokio::select! {
                    biased;
                    () = self.ended() => break,
                    () = outage.failed(&lost) => {}
                },
            }
        }
        self.census.send_modify(|census| census.wanted -= 1);
    }

    async fn ended(&self) {
        tokio::select! {
            () = self.stopped.cancelled() => {}
            () = self.outgoing.closed() => {}
        }
    }

    async fn consume(&self, link: &Link, outage: &mut Outage) -> Result<End, Lost> {
        let careful_until = link.careful_until();
        let prefetch = if careful_until.is_some() { 1 } else { self.prefetch };
        let (channel, mut stream) = tokio::select! {
            biased;
            () = self.ended() => return Ok(End::Ended),
            () = link.broken() => return Err(Lost::Link),
            opened = self.open(link, prefetch) => opened?,
        };
        outage.over();
        let _consuming = Consuming::count(&self.census);

        // The acknowledger lives on for the receipts in hand when this function has long returned.
        let (settlements, settled) = mpsc::unbounded_channel();
        let broken = CancellationToken::new();
        let acknowledging = acknowledger::run(link.clone(), channel.clone(), settled, self.closed.clone());
        self.tasks.spawn(broken.clone().run_until_cancelled_owned(acknowledging));

        let careful = async {
            match careful_until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(careful);
        let end = loop {
            let delivery = tokio::select! {
                biased;
                () = self.ended() => break End::Ended,
                () = &mut careful => break End::NoLongerCareful,
                () = link.broken() => return Err(Lost::Link),
                delivery = stream.next() => match delivery.ok_or(Lost::Cancelled)? {
                    Ok(delivery) => delivery,
                    Err(error) => {
                        // Whatever this channel has delivered comes again on the next one: its receipts turn stale.
                        broken.cancel();
                        return Err(Lost::Channel(error));
                    }
                },
            };
            let mut delivery = receive(delivery, &settlements, self.declaring.delivery_limit);
            self.declaring.authors.read(&mut delivery.message.properties);
            tokio::select! {
                biased;
                // Full only of what a lost connection has left there, until the worker comes to throw it away.
                sent = self.outgoing.send(delivery) => if let Err(mpsc::error::SendError(delivery)) = sent {
                    delivery.receipt.give_back();
                },
                () = self.stopped.cancelled() => {}
                () = link.broken() => return Err(Lost::Link),
            }
        };
        let cancelled = channel.basic_cancel(stream.tag(), BasicCancelOptions::default());
        if let Ok(Ok(())) = timeout(CANCEL_TIMEOUT, cancelled).await {
            while let Some(Ok(delivery)) = stream.next().await {
                receive(delivery, &settlements, self.declaring.delivery_limit).receipt.give_back();
            }
        }
        Ok(end)
    }

    async fn open(&self, link: &Link, prefetch: u16) -> Result<(Channel, Stream), Lost> {
        let channel = link.create_channel().await.map_err(Lost::Consume)?;
        self.declaring.queue(&channel, &self.queue).await?;
        let queue = name(&self.declaring.names.queue(&self.queue));
        let look = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.clone(), look, FieldTable::default()).await.map_err(Lost::NoQueue)?;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await.map_err(Lost::Consume)?;
        let stream = channel
            .basic_consume(queue, "".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await
            .map_err(Lost::Consume)?;
        Ok((channel, stream))
    }
}

fn receive(
    mut delivery: lapin::message::Delivery,
    settlements: &mpsc::UnboundedSender<super::Settlement>,
    limit: u32,
) -> Delivery {
    let delivery_count = wire::delivery_count(&delivery.properties);
    Delivery {
        message: wire::message(&mut delivery),
        redelivered: delivery.redelivered,
        delivery_count,
        last_chance: is_last_chance(delivery_count, limit),
        receipt: Receipt::new(delivery.delivery_tag, settlements.clone()),
    }
}

/// Counts a consumer while it is at its queue.
struct Consuming(Arc<watch::Sender<Census>>);

impl Consuming {
    fn count(census: &Arc<watch::Sender<Census>>) -> Self {
        census.send_modify(|census| census.consuming += 1);
        Self(Arc::clone(census))
    }
}

impl Drop for Consuming {
    fn drop(&mut self) {
        self.0.send_modify(|census| census.consuming -= 1);
    }
}
