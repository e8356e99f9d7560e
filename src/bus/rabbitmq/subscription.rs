//! A subscription: an exclusive queue of its own, bound to events, that goes when its subscriber goes.
//!
//! It is for eyes and tests, not for a driver that must not miss anything: such a one declares a durable queue. Messages
//! are acknowledged by being delivered. Up: [`super::session`]. Down: [`crate::bus::Subscription`].

use std::sync::Arc;

use futures::StreamExt;
use lapin::{
    Channel, Consumer as Stream,
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Declaring,
    declare::name,
    outage::Outage,
    session::{Link, Session},
    wire,
};
use crate::bus::{BrokerError, BusError, Message, Subscription};

/// How many messages a subscriber that does not read holds here; lapin holds the others.
const BUFFER: usize = 64;

/// Everything that a subscription needs.
pub(super) struct Subscriber {
    pub(super) session: Session,
    pub(super) declaring: Arc<Declaring>,
    pub(super) patterns: Vec<String>,
    pub(super) closed: CancellationToken,
}

/// Why a subscription could not be made.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Refused(#[from] super::declare::Refused),
    #[error("cannot declare, bind or consume its queue")]
    Amqp(#[from] lapin::Error),
    #[error("a pattern is longer than 255 bytes")]
    Pattern,
    #[error("its stream ended")]
    Ended,
}

impl Failed {
    /// Whether the broker has said no, so that asking again is in vain. A closed connection is not such a no.
    fn is_final(&self) -> bool {
        match self {
            Self::Refused(refused) => refused.error.is_amqp_soft_error(),
            Self::Amqp(error) => error.is_amqp_soft_error(),
            Self::Pattern => true,
            Self::Ended => false,
        }
    }
}

impl Subscriber {
    /// Subscribes; returns when the queue is bound.
    pub(super) async fn start(self) -> Result<(Subscription, impl Future<Output = ()> + Send + 'static), BusError> {
        let queue = self.declaring.names.subscription();
        let mut outage = Outage::of("the subscription");
        let established = async {
            loop {
                let link = self.session.link().await.ok_or(BusError::Closed)?;
                match self.open(&link, &queue).await {
                    Ok(opened) => return Ok((link, opened)),
                    Err(failed) if failed.is_final() => return Err(BusError::Subscribe(BrokerError::new(failed))),
                    Err(failed) => outage.failed(&failed).await,
                }
            }
        };
        let opened = tokio::select! {
            opened = established => opened?,
            () = self.closed.cancelled() => return Err(BusError::Closed),
        };
        let (outgoing, incoming) = mpsc::channel(BUFFER);
        let subscription = Subscription::new(queue.clone(), incoming);
        let life = async move {
            tokio::select! {
                () = self.closed.cancelled() => {}
                () = outgoing.closed() => {}
                () = self.follow(queue, opened, &outgoing) => {}
            }
        };
        Ok((subscription, life))
    }

    async fn follow(&self, queue: String, first: (Link, (Channel, Stream)), outgoing: &mpsc::Sender<Message>) {
        let mut outage = Outage::of("the subscription");
        let mut current = Some(first);
        loop {
            let failed = if let Some((link, (channel, stream))) = current.take() {
                let failed = forward(&link, stream, outgoing).await;
                tracing::warn!("what is published until the subscription is back is missing from it");
                drop(channel);
                failed
            } else {
                let Some(link) = self.session.link().await else { return };
                match self.open(&link, &queue).await {
                    Ok(opened) => {
                        outage.over();
                        current = Some((link, opened));
                        continue;
                    }
                    Err(failed) => failed,
                }
            };
            outage.failed(&failed).await;
        }
    }

    async fn open(&self, link: &Link, queue: &str) -> Result<(Channel, Stream), Failed> {
        let channel = link.create_channel().await?;
        self.declaring.shared(&channel).await?;
        let options = QueueDeclareOptions::exclusive().auto_delete();
        channel.queue_declare(name(queue), options, FieldTable::default()).await?;
        for pattern in &self.patterns {
            let pattern = ShortString::try_new(pattern.as_str()).map_err(|_| Failed::Pattern)?;
            let events = name(&self.declaring.names.events());
            channel
                .queue_bind(name(queue), events, pattern, QueueBindOptions::default(), FieldTable::default())
                .await?;
        }
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let stream = channel.basic_consume(name(queue), "".into(), options, FieldTable::default()).await?;
        Ok((channel, stream))
    }
}

async fn forward(link: &Link, mut stream: Stream, outgoing: &mpsc::Sender<Message>) -> Failed {
    loop {
        let next = tokio::select! {
            next = stream.next() => next,
            () = link.broken() => return Failed::Ended,
        };
        match next {
            Some(Ok(mut delivery)) => {
                if outgoing.send(wire::message(&mut delivery)).await.is_err() {
                    return Failed::Ended;
                }
            }
            Some(Err(error)) => return Failed::Amqp(error),
            None => return Failed::Ended,
        }
    }
}
