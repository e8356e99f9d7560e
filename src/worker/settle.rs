//! Carries out a verdict, then acknowledges: never the other way round.
//!
//! This is the only place that acknowledges a delivery, and the only one that logs how a command ended. Up:
//! [`super::Worker`], which took the delivery. Down: [`super::committer`] and the publisher in `src/bus`.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use metagov_sdk::contract::Problem;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, error, field, info, info_span, warn};

use super::{
    attempt::panicked,
    committer::{Committer, Settled, republish},
    envelope::{Envelope, Limits, NONCE_HEADER, Opened, Run, keep_expiry},
    handle::{Handlers, conflict},
    intake::Taken,
    patience::Patience,
    serial::Shared,
    suspects::{Suspect, Suspects},
    verdict::{Ending, Verdict},
    wait::DUE_HEADER,
};
use crate::{
    bus::{
        ATTEMPT_HEADER, Bus, DelayStep, Destination, EXPIRES_HEADER, Message, Outgoing, Published, REASON_HEADER,
        SUSPECT_HEADER, THROTTLED_HEADER,
    },
    failpoint::failpoint,
    store::{InboxEntry, Keep, OutboxEvent, Seen, Store, Unit},
    telemetry::measures,
};

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
    /// Finds out which command kills its workers.
    pub(super) suspects: Suspects,
    /// The worker is going down now; what is not finished comes again.
    pub(super) abort: CancellationToken,
}

/// Why a convicted command is among the dead letters.
const KILLED_ITS_WORKER: &str = "killed-its-worker";

/// What carrying out a verdict leads to.
pub(super) enum Next {
    /// The command has come to its end.
    End(Ending),
    /// Somebody changed what the handler saw: it is called again on fresh state.
    Rerun,
    /// The same, and its outcome is stored by itself: with others it was refused.
    RerunAlone,
}

impl Settler {
    /// Handles one delivery: decide, carry out, acknowledge.
    pub(super) async fn settle(&self, taken: Taken) {
        let started = Instant::now();
        let span = span(&taken.opened.envelope);
        async {
            let Taken { delivery, mut opened, .. } = taken;
            failpoint!("worker::taken");
            let message = &delivery.message;
            if !opened.envelope.suspect {
                let ending = self.handle(&mut opened, message).await;
                log(&ending, started);
                if !matches!(ending, Ending::Unfinished) {
                    delivery.receipt.ack();
                    failpoint!("worker::acknowledged");
                }
                return;
            }
            let (run, ending) = match self.suspects.begin(&opened.envelope, &self.abort).await {
                Suspect::Unfinished => return,
                Suspect::Convicted => {
                    opened.envelope.convicted = true;
                    let ending = self.handle(&mut opened, message).await;
                    (None, self.set_aside(ending, message).await)
                }
                Suspect::Handle(run) => {
                    let ending = tokio::select! {
                        ending = self.handle(&mut opened, message) => ending,
                        () = self.suspects.watch(&run, &delivery.receipt) => Ending::Unfinished,
                    };
                    (Some(run), ending)
                }
            };
            log(&ending, started);
            // A copy that waits for a lease has been handled by nobody yet: what is held against it stands.
            let waits = matches!(ending, Ending::Unfinished | Ending::Retried(None));
            if !matches!(ending, Ending::Unfinished) {
                delivery.receipt.ack();
                failpoint!("worker::acknowledged");
            }
            if !waits {
                self.suspects.acquit(&opened.envelope).await;
            } else if let Some(run) = run {
                self.suspects.end(run).await;
            }
        }
        .instrument(span)
        .await;
    }

    async fn handle(&self, opened: &mut Opened, message: &Message) -> Ending {
        // Handlers have a net of their own; this one is under what plugins do while they are only asked something.
        match AssertUnwindSafe(self.carry_out(opened, message)).catch_unwind().await {
            Ok(ending) => ending,
            Err(_panic) => {
                let problem = Box::new(panicked());
                loop {
                    if let Next::End(ending) = self.reject(&opened.envelope, problem.clone(), message).await {
                        return ending;
                    }
                }
            }
        }
    }

    /// Keeps a convicted command, once it is answered, for somebody to look at.
    async fn set_aside(&self, ending: Ending, message: &Message) -> Ending {
        if matches!(ending, Ending::Unfinished | Ending::Retried(_)) {
            return ending;
        }
        let kept = self.publish(vec![dead(message, KILLED_ITS_WORKER)]).await;
        if kept { Ending::Dead(KILLED_ITS_WORKER) } else { Ending::Unfinished }
    }

    async fn carry_out(&self, opened: &mut Opened, message: &Message) -> Ending {
        if let Some(ending) = self.not_before_time(&opened.envelope, message).await {
            return ending;
        }
        let (mut patience, mut lost) = (Patience::new(), Patience::after_a_race());
        loop {
            let handled = loop {
                let handled = tokio::select! {
                    () = self.abort.cancelled() => return Ending::Unfinished,
                    handled = self.handlers.handle(opened) => handled,
                };
                match handled {
                    Ok(verdict) => break Ok(verdict),
                    Err(error) if error.is_passing() => {
                        self.handlers.trouble.met(&error);
                        tokio::select! {
                            () = self.abort.cancelled() => return Ending::Unfinished,
                            () = patience.wait() => {}
                        }
                    }
                    Err(error) => break Err(error),
                }
            };
            let next = match handled {
                Ok(verdict) => self.follow(&opened.envelope, message, verdict).await,
                Err(error) => self.bury(&opened.envelope, message, &error, None).await,
            };
            match next {
                Next::End(ending) => return ending,
                Next::Rerun if opened.envelope.run == Run::Alone => {}
                Next::Rerun => opened.envelope.run = Run::Again,
                Next::RerunAlone => opened.envelope.run = Run::Alone,
            }
            // As often as it takes: to lose a race is no outcome.
            debug!("another command changed what this one has read; it runs again");
            metrics::counter!(measures::RERUNS).increment(1);
            if let Some(community) = &opened.envelope.community {
                self.handlers.instances.forget(community);
            }
            tokio::select! {
                () = self.abort.cancelled() => return Ending::Unfinished,
                () = lost.wait() => {}
            }
        }
    }

    async fn follow(&self, envelope: &Envelope, message: &Message, verdict: Verdict) -> Next {
        Next::End(match verdict {
            Verdict::Done => Ending::Ignored,
            Verdict::Reject(problem) => return self.reject(envelope, problem, message).await,
            Verdict::Repeat(events) => self.repeat(&events, envelope).await,
            Verdict::Later { after, asked: false, problem } => self.later(envelope, message, after, problem).await,
            Verdict::Later { after, asked: true, problem } => {
                self.later_on_time(envelope, message, after, problem).await
            }
            Verdict::Elsewhere(missing) => return self.pass_on(envelope, message, &missing).await,
            Verdict::Rerun => return Next::Rerun,
            Verdict::Commit { unit, problem: Some(problem), .. } if unit.rejected => {
                return self.commit_rejection(envelope, message, *unit, problem).await;
            }
            Verdict::Commit { unit, shared, problem } => {
                return self.commit(envelope, message, *unit, shared, problem).await;
            }
        })
    }

    /// Publishes the stored events of a command that was handled before.
    pub(super) async fn repeat(&self, events: &[OutboxEvent], envelope: &Envelope) -> Ending {
        let again = republish(&self.store, &self.bus, events, envelope, &self.abort).await;
        if again { Ending::Repeated } else { Ending::Unfinished }
    }

    async fn commit(
        &self,
        envelope: &Envelope,
        message: &Message,
        unit: Unit,
        shared: Option<Box<Shared>>,
        problem: Option<Box<Problem>>,
    ) -> Next {
        let attempt = unit.fence.zip(unit.inbox.clone());
        let settled = match shared {
            Some(shared) => shared.commit(unit, Arc::new(envelope.clone())).await,
            None => self.committer.commit(unit, Arc::new(envelope.clone())).await,
        };
        Next::End(match settled {
            Settled::Published => problem.map_or(Ending::Completed, Ending::Failed),
            Settled::Repeated => Ending::Repeated,
            Settled::Conflict | Settled::NoCommunity => {
                return self.reject(envelope, Box::new(conflict()), message).await;
            }
            Settled::InFlight => self.look_again(envelope, message).await,
            Settled::Refused(error) => {
                // What stays under another key than the command's own ends with its lease.
                let fence =
                    attempt.filter(|(_, entry)| Some(entry) == envelope.inbox().as_ref()).map(|(fence, _)| fence);
                return self.bury(envelope, message, &error, fence).await;
            }
            Settled::Stale | Settled::Parted => {
                if let Some((fence, entry)) = attempt {
                    // Its own lease must not keep the next run from beginning.
                    self.let_go(&entry, fence).await;
                }
                return if matches!(settled, Settled::Parted) { Next::RerunAlone } else { Next::Rerun };
            }
            Settled::Closed => Ending::Unfinished,
        })
    }

    async fn let_go(&self, entry: &InboxEntry, fence: i64) {
        let released = self.handlers.release(entry, fence, Keep::ForRerun);
        tokio::select! {
            () = self.abort.cancelled() => {}
            released = released => if let Err(error) = released {
                warn!(%error, "an attempt could not be given up; it ends with its lease");
            }
        }
    }

    pub(super) async fn seen(&self, entry: &InboxEntry) -> Option<Seen> {
        let seen = Patience::new().insist(|| self.store.seen(&entry.community, &entry.message_id)).await;
        seen.ok().flatten()
    }

    /// Somebody else is at it: a copy finds out what they say.
    pub(super) async fn look_again(&self, envelope: &Envelope, message: &Message) -> Ending {
        self.later(envelope, message, Duration::from_secs(1), None).await
    }

    async fn later(
        &self,
        envelope: &Envelope,
        message: &Message,
        after: Duration,
        problem: Option<Box<Problem>>,
    ) -> Ending {
        let copy = next_attempt(envelope, message, problem.is_some());
        self.park(copy, DelayStep::at_least(after), problem).await
    }

    /// Publishes a copy that comes back after this step.
    pub(super) async fn park(&self, copy: Message, step: DelayStep, problem: Option<Box<Problem>>) -> Ending {
        let waits = self.publish(vec![Outgoing { to: Destination::Delay(step), message: copy }]).await;
        if waits { Ending::Retried(problem) } else { Ending::Unfinished }
    }

    /// Publishes until it is confirmed. A copy that must come back, or be kept, waits for its queue where that is
    /// missing or forbidden; an event or a reply that nobody wants is no error. `false` where the worker goes down
    /// meanwhile.
    pub(super) async fn publish(&self, mut outgoing: Vec<Outgoing>) -> bool {
        let mut patience = Patience::new();
        loop {
            let published = tokio::select! {
                () = self.abort.cancelled() => return false,
                published = self.bus.publish(outgoing.clone()) => published,
            };
            let Ok(published) = published else { return false };
            outgoing = outgoing
                .into_iter()
                .zip(published)
                .filter(|(outgoing, published)| {
                    *published != Published::Routed && matches!(outgoing.to, Destination::Delay(_) | Destination::Dead)
                })
                .map(|(outgoing, _)| outgoing)
                .collect();
            if outgoing.is_empty() {
                return true;
            }
            warn!(
                "no delay or dead letter can be published: its queue is missing, and `metagov topology apply` declares \
                 it, or the broker refuses it"
            );
            tokio::select! {
                () = self.abort.cancelled() => return false,
                () = patience.wait() => {}
            }
        }
    }
}

/// A copy to be handled later; `called` says whether the handler was called this time.
pub(super) fn next_attempt(envelope: &Envelope, message: &Message, called: bool) -> Message {
    let attempt = envelope.attempt + u32::from(called);
    let mut copy = message.clone();
    if !called {
        keep_expiry(&mut copy);
    }
    let headers = &mut copy.properties.headers;
    headers.insert(ATTEMPT_HEADER.to_owned(), attempt.to_string());
    headers.insert(NONCE_HEADER.to_owned(), envelope.nonce().to_string());
    headers.remove(DUE_HEADER);
    headers.remove(THROTTLED_HEADER);
    if called {
        // What has begun is finished, whatever time it had.
        headers.remove(EXPIRES_HEADER);
    }
    if envelope.suspect && !called {
        // Nobody has handled it, and the broker forgets with this delivery that there was one before.
        headers.insert(SUSPECT_HEADER.to_owned(), true.to_string());
    } else {
        headers.remove(SUSPECT_HEADER);
    }
    copy
}

/// A copy for the dead letters.
pub(super) fn dead(message: &Message, reason: &'static str) -> Outgoing {
    metrics::counter!(measures::DEAD_LETTERS, "reason" => reason).increment(1);
    let mut message = message.clone();
    message.properties.headers.insert(REASON_HEADER.to_owned(), reason.to_owned());
    Outgoing { to: Destination::Dead, message }
}

/// One line for each command, at the level that it deserves.
fn log(ending: &Ending, started: Instant) {
    let span = Span::current();
    span.record("verdict", ending.as_str());
    metrics::counter!(measures::SETTLED, "verdict" => ending.as_str()).increment(1);
    span.record("elapsed_ms", u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
    match ending {
        Ending::Completed | Ending::Ignored | Ending::Unfinished => debug!("settled"),
        Ending::Repeated => info!("handled before; its stored events are published again"),
        Ending::Failed(problem) => warn!(error = %problem, "failed"),
        Ending::Rejected(problem) => info!(error = %problem, "rejected"),
        Ending::Retried(Some(problem)) => info!(error = %problem, "tried again later"),
        Ending::Retried(None) => debug!("tried again later"),
        Ending::Dead(reason) => error!(error = reason, "kept as a dead letter"),
    }
}

fn span(envelope: &Envelope) -> Span {
    info_span!(
        "message",
        message.id = envelope.causation_id,
        community = envelope.community.as_ref().map(field::display),
        plugin = envelope.plugin.as_ref().map(field::display),
        routing_key = %envelope.routing_key.chars().take(255).collect::<String>(),
        trace.id = envelope.trace.trace_id(),
        attempt = envelope.attempt,
        verdict = field::Empty,
        elapsed_ms = field::Empty,
    )
}
