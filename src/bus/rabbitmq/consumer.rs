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
    types::{AMQPValue, FieldTable},
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
use crate::bus::{
    Delivery, Queue, Receipt,
    delivery::is_last_chance,
    room::{Gear, Hold, Share},
};

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
    /// Consumers of lower priority get what this one has no room for.
    pub(super) priority: u8,
    /// What the bodies may take.
    pub(super) share: Option<Share>,
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
    /// The prefetch is to be another one, which takes a new consumer.
    OtherPrefetch,
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
        let mut gear = self.share.as_ref().map(|share| Gear::first(self.prefetch, share));
        loop {
            let link = tokio::select! {
                biased;
                () = self.ended() => break,
                link = self.link() => link,
            };
            let Some(link) = link else { break };
            match self.consume(&link, &mut outage, &mut gear).await {
                Ok(End::Ended) => break,
                Ok(End::OtherPrefetch) => {}
                Err(lost) => tokio::select! {
                    biased;
                    () = self.ended() => break,
                    () = outage.failed(&lost) => {}
                },
            }
        }
        self.census.send_modify(|census| census.wanted -= 1);
    }

    /// The link with the broker, once there is room for what comes over it.
    async fn link(&self) -> Option<Link> {
        if let Some(share) = &self.share {
            share.is_half_free().await;
        }
        self.session.link().await
    }

    async fn ended(&self) {
        tokio::select! {
            () = self.stopped.cancelled() => {}
            () = self.outgoing.closed() => {}
        }
    }

    async fn consume(&self, link: &Link, outage: &mut Outage, gear: &mut Option<Gear>) -> Result<End, Lost> {
        let prefetch = gear.as_ref().map_or(self.prefetch, Gear::prefetch);
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

        let end = loop {
            let delivery = tokio::select! {
                biased;
                () = self.ended() => break End::Ended,
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
            let hold = self.share.as_ref().map(|share| share.hold(delivery.data.len()));
            let shifts = match (&self.share, &hold, gear.as_mut()) {
                (Some(share), Some(hold), Some(gear)) => gear.shift(hold, share),
                _ => false,
            };
            let delivery = self.receive(delivery, hold, &settlements);
            tokio::select! {
                biased;
                // Full only of what a lost connection has left there, until the worker comes to throw it away.
                sent = self.outgoing.send(delivery) => if let Err(mpsc::error::SendError(delivery)) = sent {
                    delivery.receipt.give_back();
                },
                () = self.stopped.cancelled() => {}
                () = link.broken() => return Err(Lost::Link),
            }
            if shifts {
                break End::OtherPrefetch;
            }
        };
        let cancelled = channel.basic_cancel(stream.tag(), BasicCancelOptions::default());
        if let Ok(Ok(())) = timeout(CANCEL_TIMEOUT, cancelled).await {
            while let Some(Ok(delivery)) = stream.next().await {
                self.receive_late(delivery, &end, &settlements);
            }
        }
        Ok(end)
    }

    /// Takes what comes after the consumer was cancelled: it stays where the worker goes on and there is room.
    fn receive_late(
        &self,
        delivery: lapin::message::Delivery,
        end: &End,
        settlements: &mpsc::UnboundedSender<super::Settlement>,
    ) {
        let hold = self.share.as_ref().map(|share| share.hold(delivery.data.len()));
        let stays = matches!(end, End::OtherPrefetch) && self.share.as_ref().is_none_or(Share::is_enough);
        let delivery = self.receive(delivery, hold, settlements);
        if !stays {
            delivery.receipt.give_back();
        } else if let Err(unwanted) = self.outgoing.try_send(delivery) {
            unwanted.into_inner().receipt.give_back();
        }
    }

    fn receive(
        &self,
        mut delivery: lapin::message::Delivery,
        hold: Option<Hold>,
        settlements: &mpsc::UnboundedSender<super::Settlement>,
    ) -> Delivery {
        let delivery_count = wire::delivery_count(&delivery.properties);
        let mut message = wire::message(&mut delivery);
        self.declaring.authors.read(&mut message.properties);
        Delivery {
            message,
            redelivered: delivery.redelivered,
            delivery_count,
            last_chance: is_last_chance(delivery_count, self.declaring.delivery_limit),
            receipt: Receipt::new(delivery.delivery_tag, settlements.clone(), hold),
        }
    }

    async fn open(&self, link: &Link, prefetch: u16) -> Result<(Channel, Stream), Lost> {
        let channel = link.create_channel().await.map_err(Lost::Consume)?;
        self.declaring.queue(&channel, &self.queue).await?;
        let queue = name(&self.declaring.names.queue(&self.queue));
        let look = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.clone(), look, FieldTable::default()).await.map_err(Lost::NoQueue)?;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await.map_err(Lost::Consume)?;
        let mut arguments = FieldTable::default();
        if self.priority > 0 {
            arguments.insert("x-priority".into(), AMQPValue::LongInt(i32::from(self.priority)));
        }
        let stream = channel
            .basic_consume(queue, "".into(), BasicConsumeOptions::default(), arguments)
            .await
            .map_err(Lost::Consume)?;
        Ok((channel, stream))
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
