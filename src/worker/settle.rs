//! Carries out a verdict, then acknowledges: never the other way round.
//!
//! This is the only place that acknowledges a delivery, and the only one that logs how a command ended. Up:
//! [`super::Worker`], which took the delivery. Down: [`super::committer`] and the publisher in `src/bus`.

use std::{sync::Arc, time::Duration};

use metagov_sdk::contract::{Problem, ProblemKind};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, error, field, info, info_span, warn};

use super::{
    answer::{to_events, to_reply},
    committer::{Committer, Settled, patience, republish},
    envelope::{Envelope, Limits, Opened, open},
    handle::{Handlers, conflict},
    verdict::Verdict,
};
use crate::{
    bus::{ATTEMPT_HEADER, Bus, DelayStep, Delivery, Destination, Message, Outgoing, REASON_HEADER},
    store::Store,
};

/// How often a command is run again on fresh state before it goes to the delay ladder.
const MOST_RERUNS: u32 = 20;

/// Handles deliveries from first to last.
pub(super) struct Settler {
    /// Decides.
    pub(super) handlers: Handlers,
    /// Stores and publishes.
    pub(super) committer: Committer,
    /// Publishes what is not stored.
    pub(super) bus: Bus,
    /// Marks what is published again.
    pub(super) store: Store,
    /// What is too large, and where answers must not go.
    pub(super) limits: Limits,
    /// The worker is going down now; what is not finished comes again.
    pub(super) abort: CancellationToken,
}

impl Settler {
    /// Handles one delivery: decide, carry out, acknowledge.
    pub(super) async fn settle(&self, delivery: Delivery) {
        let opened = open(&delivery.message, &self.limits);
        let span = span(&opened.envelope);
        async {
            let started = Instant::now();
            let finished = self.carry_out(opened, &delivery).await;
            Span::current().record("elapsed_ms", u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
            if finished {
                delivery.receipt.ack();
                debug!("settled");
            }
        }
        .instrument(span)
        .await;
    }

    /// `false` where the delivery must come again.
    async fn carry_out(&self, mut opened: Opened, delivery: &Delivery) -> bool {
        let mut delays = patience();
        let mut reruns = 0;
        loop {
            let verdict = tokio::select! {
                () = self.abort.cancelled() => return false,
                handled = self.handlers.handle(&opened, delivery.redelivered) => handled,
            };
            let verdict = match verdict {
                Ok(verdict) => verdict,
                Err(error) if error.is_passing() => {
                    let delay = delays.next().unwrap_or(Duration::from_secs(5));
                    warn!(%error, "cannot read from the database, trying again in {delay:?}");
                    tokio::select! {
                        () = self.abort.cancelled() => return false,
                        () = tokio::time::sleep(delay) => continue,
                    }
                }
                Err(error) => {
                    error!(%error, "the database refuses; the command goes to the dead letters");
                    return self.bury(&delivery.message, "the database refuses").await;
                }
            };
            Span::current().record("verdict", verdict.as_str());
            let envelope = Arc::new(opened.envelope);
            let unit = match verdict {
                Verdict::Done => return true,
                Verdict::Reject(problem) => return self.reject(&envelope, *problem, &delivery.message).await,
                Verdict::Repeat(events) => {
                    info!("handled before; its stored events are published again");
                    return republish(&self.store, &self.bus, &events, &envelope, &self.abort).await;
                }
                Verdict::Later { after, counted } => {
                    return self.later(&envelope, &delivery.message, after, counted).await;
                }
                Verdict::Commit(unit) => unit,
            };
            let failed = unit.events.iter().find(|event| event.last && event.event_type.ends_with(".failed"));
            let failed = failed.map(|event| event.event_type.clone());
            match self.committer.commit(*unit, Arc::clone(&envelope)).await {
                Settled::Published => {
                    if let Some(outcome) = failed {
                        warn!(outcome, "the command failed");
                    }
                    return true;
                }
                Settled::Repeated => return true,
                Settled::Conflict => return self.reject(&envelope, conflict(), &delivery.message).await,
                Settled::Stale if reruns < MOST_RERUNS => {
                    reruns += 1;
                    debug!(reruns, "somebody changed what this saw; it runs again");
                    if let Some(community) = &envelope.community {
                        self.handlers.instances.forget(community);
                    }
                }
                Settled::InFlight | Settled::Stale => {
                    return self.later(&envelope, &delivery.message, Duration::from_secs(1), false).await;
                }
                Settled::Refused(error) => {
                    error!(%error, "the database refuses; the command goes to the dead letters");
                    return self.bury(&delivery.message, "the database refuses").await;
                }
                Settled::Closed => return false,
            }
            opened.envelope = Arc::unwrap_or_clone(envelope);
        }
    }

    async fn reject(&self, envelope: &Envelope, problem: Problem, message: &Message) -> bool {
        // Unreadable, and nobody could tie the answer to it: somebody should be able to look at it.
        let unreadable = matches!(problem.kind, ProblemKind::InvalidJson | ProblemKind::TooLarge);
        let reason = (unreadable && !envelope.is_answerable()).then(|| problem.kind.slug());
        info!(%problem, "rejected");
        let answer = envelope.rejection(problem, self.handlers.now());
        let mut outgoing: Vec<_> = to_reply(&answer, envelope).into_iter().collect();
        outgoing.push(to_events(answer));
        outgoing.extend(reason.map(|reason| dead(message, reason)));
        self.publish(outgoing).await
    }

    async fn later(&self, envelope: &Envelope, message: &Message, after: Duration, counted: bool) -> bool {
        let step = DelayStep::at_least(after);
        let attempt = envelope.attempt + u32::from(counted);
        info!(attempt, step = step.name(), "tried again later");
        let mut copy = message.clone();
        copy.properties.headers.insert(ATTEMPT_HEADER.to_owned(), attempt.to_string());
        self.publish(vec![Outgoing { to: Destination::Delay(step), message: copy }]).await
    }

    async fn bury(&self, message: &Message, reason: &str) -> bool {
        self.publish(vec![dead(message, reason)]).await
    }

    async fn publish(&self, outgoing: Vec<Outgoing>) -> bool {
        tokio::select! {
            () = self.abort.cancelled() => false,
            published = self.bus.publish(outgoing) => published.is_ok(),
        }
    }
}

fn dead(message: &Message, reason: &str) -> Outgoing {
    let mut message = message.clone();
    message.properties.headers.insert(REASON_HEADER.to_owned(), reason.to_owned());
    Outgoing { to: Destination::Dead, message }
}

fn span(envelope: &Envelope) -> Span {
    info_span!(
        "message",
        message.id = envelope.message_id.as_ref().map(field::display),
        community = envelope.community.as_ref().map(field::display),
        plugin = envelope.plugin.as_ref().map(field::display),
        routing_key = %envelope.routing_key.chars().take(255).collect::<String>(),
        trace.id = envelope.trace.trace_id(),
        attempt = envelope.attempt,
        verdict = field::Empty,
        elapsed_ms = field::Empty,
    )
}
