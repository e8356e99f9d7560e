//! Publishes: mandatory, persistent, confirmed, and again until confirmed.
//!
//! One task owns the one channel and takes what has gathered as a batch: it writes all of it, waits for all confirms,
//! then answers. So the order of calls is the order on the wire, many small calls share their round trips, and what is
//! unconfirmed is bounded. And only so can an unroutable message be told from its neighbours: the broker sends it back
//! before its confirm, but lapin attaches it to whichever confirm comes next, which need not be its own; after the whole
//! batch is confirmed all returned messages are at hand and are matched by what they say.
//!
//! A message that the broker refuses costs the channel, and with it the fate of the whole batch. Then the rest of it goes
//! out one by one, until the culprit is found and answered for; nothing waits behind it. Nor does anything wait for room
//! in a driver's own queue that is full and says so ([`super::refusals`]). Up: [`crate::bus::Bus`]. Down: the broker.

use std::{sync::Arc, task::Poll, time::Duration};

use futures::poll;
use lapin::{
    BasicProperties, Channel, ErrorKind,
    message::BasicReturnMessage,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Declaring,
    outage::Outage,
    refusals::{FullQueues, is_for_drivers, refusal, refused},
    session::{Link, Session},
    standing::Line,
    wire,
};
use crate::{
    bus::{BusError, Outgoing, Published, Refusal},
    telemetry::measures,
};

/// The most messages that are unconfirmed at a time.
const BATCH: usize = 1000;
/// Calls that wait for the batch before them; further callers wait at the door.
const WAITING_CALLS: usize = 1024;
/// While a confirm takes longer, the service is not ready.
const LATE: Duration = Duration::from_secs(3);
/// A confirm that takes longer will not come: the connection is given up and the message published again.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

/// The callers' end.
#[derive(Debug, Clone)]
pub(super) struct Publisher {
    calls: mpsc::Sender<Call>,
}

#[derive(Debug)]
struct Call {
    messages: Vec<Outgoing>,
    answer: oneshot::Sender<Vec<Published>>,
}

impl Publisher {
    /// The returned future is the publisher's life: spawn it; it ends after `closed`.
    pub(super) fn new(
        session: Session,
        declaring: Arc<Declaring>,
        [notice, late]: [Line; 2],
        closed: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (calls, called) = mpsc::channel(WAITING_CALLS);
        let outage = Outage::of("the publishing channel").told_on(notice);
        let late = Arc::new(late);
        let full = FullQueues::default();
        let work = Work { session, declaring, channel: None, declared: false, outage, late, full };
        let life = async move {
            tokio::select! {
                () = closed.cancelled() => {}
                () = work.run(called) => {}
            }
        };
        (Self { calls }, life)
    }

    /// See [`crate::bus::Bus::publish`]. A call that is dropped is still carried out.
    pub(super) async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<Published>, BusError> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let (answer, answered) = oneshot::channel();
        self.calls.send(Call { messages, answer }).await.map_err(|_| BusError::Closed)?;
        answered.await.map_err(|_| BusError::Closed)
    }
}

struct Work {
    session: Session,
    declaring: Arc<Declaring>,
    channel: Option<(Link, Channel)>,
    /// What is published to was declared, and nothing has happened since that says otherwise.
    declared: bool,
    outage: Outage,
    /// Says so while the broker confirms nothing.
    late: Arc<Line>,
    full: FullQueues,
}

/// Why the fate of a batch is unknown.
#[derive(Debug, thiserror::Error)]
enum Unknown {
    #[error("cannot open a channel that confirms")]
    Open(#[source] lapin::Error),
    #[error(transparent)]
    Refused(#[from] super::declare::Refused),
    #[error("cannot publish")]
    Publish(#[from] lapin::Error),
    #[error("the broker could not take {0} messages")]
    Nack(usize),
    #[error("no confirm within {} s", CONFIRM_TIMEOUT.as_secs())]
    Timeout,
}

impl Work {
    async fn run(mut self, mut called: mpsc::Receiver<Call>) {
        while let Some(first) = called.recv().await {
            let mut calls = vec![first];
            let mut gathered = calls[0].messages.len();
            while gathered < BATCH
                && let Ok(call) = called.try_recv()
            {
                gathered += call.messages.len();
                calls.push(call);
            }
            let messages: Vec<&Outgoing> = calls.iter().flat_map(|call| &call.messages).collect();
            let mut fates = Vec::with_capacity(messages.len());
            for batch in messages.chunks(BATCH) {
                let Some(batch) = self.publish(batch).await else { return };
                fates.extend(batch);
            }
            let mut fates = fates.into_iter();
            for call in calls {
                let answer = fates.by_ref().take(call.messages.len()).collect();
                // The caller may have left; its messages are out all the same.
                let _ = call.answer.send(answer);
            }
        }
    }

    /// Publishes until the fate of every message is known. `None` once the session is closed.
    async fn publish(&mut self, messages: &[&Outgoing]) -> Option<Vec<Published>> {
        let begun = Instant::now();
        let mut fates: Vec<Option<Published>> = vec![None; messages.len()];
        let mut one_by_one = false;
        while let Some(first) = fates.iter().position(Option::is_none) {
            let end = if one_by_one { first + 1 } else { messages.len() };
            let link = match &self.channel {
                Some((link, _)) => link.clone(),
                None => self.session.link().await?,
            };
            match self.attempt_aloud(&link, &messages[first..end], &mut fates[first..end]).await {
                Ok(()) => self.outage.over(),
                Err(Unknown::Publish(error)) if !one_by_one && may_be_one_messages_fault(&link, &error) => {
                    self.channel = None;
                    one_by_one = true;
                }
                Err(Unknown::Publish(error)) if one_by_one && let Some(refusal) = refusal(&error) => {
                    self.channel = None;
                    fates[first] = Some(Published::Refused(refusal));
                    refused(messages[first], refusal, &error);
                }
                Err(unknown) => {
                    match unknown {
                        Unknown::Nack(_) => {}
                        Unknown::Timeout => {
                            self.channel = None;
                            link.give_up();
                        }
                        Unknown::Open(_) | Unknown::Refused(_) | Unknown::Publish(_) => self.channel = None,
                    }
                    self.declared = false;
                    self.outage.failed(&unknown).await;
                }
            }
        }
        metrics::histogram!(measures::CONFIRM_SECONDS).record(begun.elapsed());
        fates.into_iter().collect()
    }

    async fn open(&mut self, link: &Link) -> Result<Channel, Unknown> {
        if let Some((_, channel)) = self.channel.as_ref().filter(|(_, channel)| channel.status().connected()) {
            return Ok(channel.clone());
        }
        let channel = link.create_channel().await.map_err(Unknown::Open)?;
        if !self.declared {
            self.declaring.shared(&channel).await?;
            self.declared = true;
        }
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(Unknown::Open)?;
        self.channel = Some((link.clone(), channel.clone()));
        Ok(channel)
    }

    /// An attempt that says so where the broker takes its time: long before a heartbeat is missed, nothing gets through.
    async fn attempt_aloud(
        &mut self,
        link: &Link,
        messages: &[&Outgoing],
        fates: &mut [Option<Published>],
    ) -> Result<(), Unknown> {
        let late = Arc::clone(&self.late);
        let mut attempt = Box::pin(self.attempt(link, messages, fates));
        if let Ok(ended) = timeout(LATE, &mut attempt).await {
            return ended;
        }
        late.write(format!("the broker has confirmed nothing for {} s", LATE.as_secs()));
        let ended = attempt.await;
        late.wipe();
        ended
    }

    /// Publishes every message whose fate is open, once. On an error but a nack none of them is known; on a nack,
    /// those are that were not turned away.
    async fn attempt(
        &mut self,
        link: &Link,
        messages: &[&Outgoing],
        fates: &mut [Option<Published>],
    ) -> Result<(), Unknown> {
        let channel = self.open(link).await?;
        let mut writes = Vec::with_capacity(messages.len());
        for (index, outgoing) in messages.iter().enumerate() {
            if fates[index].is_some() {
                continue;
            }
            let Some(envelope) = wire::envelope(&self.declaring.names, outgoing) else {
                tracing::debug!("a message that AMQP has no way for is not published");
                fates[index] = Some(Published::Unrouted);
                continue;
            };
            let sent = Sent::of(index, &envelope);
            let mut write = Box::pin(channel.basic_publish(
                envelope.exchange,
                envelope.routing_key,
                BasicPublishOptions { mandatory: envelope.mandatory, immediate: false },
                envelope.body,
                self.declaring.authors.sign(outgoing, envelope.properties),
            ));
            // lapin queues the frames when it is polled first: this keeps the order, and its thread is woken for many.
            let begun = poll!(&mut write);
            writes.push((sent, begun, write));
        }

        let mut confirms = Vec::with_capacity(writes.len());
        for (sent, begun, write) in writes {
            let confirm = match begun {
                Poll::Ready(confirm) => confirm?,
                Poll::Pending => in_time(link, write).await??,
            };
            confirms.push((sent, confirm));
        }

        let (mut confirmed, mut returned, mut nacked) = (Vec::with_capacity(confirms.len()), Vec::new(), 0);
        for (sent, confirm) in confirms {
            let confirmation = in_time(link, confirm).await??;
            if confirmation.is_ack() {
                confirmed.push(sent);
            } else if is_for_drivers(messages[sent.index]) {
                self.full.refused(messages[sent.index]);
                fates[sent.index] = Some(Published::Refused(Refusal::Full));
            } else {
                nacked += 1;
            }
            returned.extend(confirmation.take_message());
        }
        settle(fates, confirmed, returned);
        if nacked == 0 { Ok(()) } else { Err(Unknown::Nack(nacked)) }
    }
}

/// Whether the channel alone is lost, by something that the broker has against what was published on it.
fn may_be_one_messages_fault(link: &Link, error: &lapin::Error) -> bool {
    // What was not yet written when the broker closed the channel only learns that it is closed.
    let closed = matches!(error.kind(), ErrorKind::InvalidChannelState(..));
    link.status().connected() && (closed || refusal(error).is_some())
}

/// What a published message is recognised by when it is returned.
#[derive(Debug)]
struct Sent {
    index: usize,
    exchange: String,
    routing_key: String,
    message_id: Option<String>,
}

impl Sent {
    fn of(index: usize, envelope: &wire::Envelope<'_>) -> Self {
        Self {
            index,
            exchange: envelope.exchange.to_string(),
            routing_key: envelope.routing_key.to_string(),
            message_id: message_id(&envelope.properties),
        }
    }

    fn is(&self, returned: &BasicReturnMessage) -> bool {
        self.exchange == returned.exchange.as_str()
            && self.routing_key == returned.routing_key.as_str()
            && self.message_id == message_id(&returned.properties)
    }
}

fn message_id(properties: &BasicProperties) -> Option<String> {
    properties.message_id().as_ref().map(ToString::to_string)
}

/// Each returned message marks one of those that it may be; between equal ones the choice makes no difference.
fn settle(fates: &mut [Option<Published>], mut confirmed: Vec<Sent>, returned: Vec<BasicReturnMessage>) {
    for message in returned {
        if let Some(place) = confirmed.iter().position(|sent| sent.is(&message)) {
            fates[confirmed.swap_remove(place).index] = Some(Published::Unrouted);
        }
    }
    for sent in confirmed {
        fates[sent.index] = Some(Published::Routed);
    }
}

/// Waits for the broker, but not for ever. The time in which it has told us to wait does not count: publishing again
/// would only add to what it is short of.
async fn in_time<T>(link: &Link, answer: impl Future<Output = T> + Unpin) -> Result<T, Unknown> {
    let mut answer = answer;
    loop {
        match tokio::time::timeout(CONFIRM_TIMEOUT, &mut answer).await {
            Ok(answer) => return Ok(answer),
            Err(_) if link.status().blocked() => {}
            Err(_) => return Err(Unknown::Timeout),
        }
    }
}
