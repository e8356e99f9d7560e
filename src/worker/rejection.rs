//! Rejections: the answer of a command of which nothing was executed, or of which nobody can keep the outcome.
//!
//! A rejection is an outcome like every other. Where the command has a key in a community that exists, it is committed
//! under that key, and under the fence of the attempt that decided so: the first final answer of a key is the answer, and
//! an attempt that comes later, or decided otherwise, publishes it. A key that was used for another command is answered
//! with a `conflict`, which has a key of its own. What has no key, or names no existing community, is only published; and the
//! refusal of a webhook not even that ([`super::refusal`]).
//!
//! A flood of rejected commands is bounded: each has its community's turn and rate like all others ([`super::shares`]), it
//! writes one row to the inbox and one to the outbox as a `pure` action does, in the same batches, and what it says is cut
//! at [`LARGEST_PROBLEM`] bytes. Up: [`super::settle`]. Down: [`super::committer`], else the publisher.

use std::sync::Arc;

use metagov_sdk::contract::{
    CommandRejected, Event, EventBody, MessageId, Problem, ProblemKind, Timestamp, event::derive_uuid,
};
use tracing::error;
use uuid::Uuid;

use super::{
    answer::{message_of, to_events, to_reply},
    committer::Settled,
    envelope::Envelope,
    handle::conflict,
    settle::{Next, Settler, dead},
    verdict::Ending,
};
use crate::{
    bus::Message,
    store::{InboxEntry, Seen, StoreError, Unit},
};

/// The most that a rejection says, in bytes of its texts.
const LARGEST_PROBLEM: usize = 16 * 1024;

/// Added to what is said of a command that was begun before.
pub(super) const MAY_HAVE_HAPPENED: &str = "; an attempt before this one may have reached the platform";

impl Envelope {
    /// The rejection as it is stored. `None` where it cannot be remembered, or must not be: the next delivery of a webhook
    /// that was refused may count.
    pub(super) fn rejected(&self, problem: Problem, time: Timestamp) -> Option<Unit> {
        let entry = self.inbox().filter(|_| !self.is_webhook())?;
        Some(self.rejected_under(entry, problem, time))
    }

    /// The rejection of a command whose key was used for another one.
    fn in_conflict(&self, time: Timestamp) -> Option<Unit> {
        let entry = self.inbox()?;
        let fingerprint = self.fingerprint_id().to_string();
        let key = derive_uuid(&["conflict", entry.community.as_str(), entry.message_id.as_str(), &fingerprint]);
        let message_id = MessageId::new(&key.to_string()).expect("a UUID is a key");
        Some(self.rejected_under(InboxEntry { message_id, ..entry }, conflict(), time))
    }

    fn rejected_under(&self, entry: InboxEntry, problem: Problem, time: Timestamp) -> Unit {
        let (kind, body) = self.rejection_event(problem);
        let event = self.last_event(&self.scope(self.plugin.as_ref(), time), &kind, &body);
        Unit { inbox: Some(entry), rejected: true, events: vec![event], ..Unit::default() }
    }

    /// The rejection as it is published where it is not stored.
    pub(super) fn rejection(&self, problem: Problem, time: Timestamp) -> Message {
        let (kind, body) = self.rejection_event(problem);
        let scope = self.scope(self.plugin.as_ref(), time);
        message_of(&Event::new(self.event_id(&scope, &kind), &scope, &body), body.routing_key(&scope))
    }

    /// Its id covers the body, so that a conflict differs from the answer to the command that used the key first.
    fn rejection_event(&self, problem: Problem) -> (String, EventBody) {
        let body = CommandRejected { routing_key: self.routing_key.clone(), problem: brief(problem) };
        (format!("command.rejected/{}", self.fingerprint_id()), EventBody::CommandRejected(body))
    }

    fn fingerprint_id(&self) -> Uuid {
        Uuid::new_v5(&Uuid::NAMESPACE_OID, &self.fingerprint)
    }
}

impl Settler {
    /// Answers that nothing was executed, unless the very same command has its answer: then that stands, whatever has
    /// become of community, plugin or schema since.
    pub(super) async fn reject(&self, envelope: &Envelope, mut problem: Box<Problem>, message: &Message) -> Next {
        if let Some(entry) = envelope.inbox().filter(|_| !envelope.is_webhook()) {
            let seen = tokio::select! {
                () = self.abort.cancelled() => return Next::End(Ending::Unfinished),
                seen = self.seen(&entry) => seen,
            };
            match seen {
                Some(Seen::Finished { fingerprint, events }) if fingerprint == entry.fingerprint => {
                    return Next::End(self.repeat(&events, envelope).await);
                }
                Some(Seen::Running) => problem.detail.push_str(MAY_HAVE_HAPPENED),
                Some(Seen::Finished { .. }) | None => {}
            }
        }
        match envelope.rejected((*problem).clone(), self.handlers.now()) {
            Some(unit) => self.commit_rejection(envelope, message, unit, problem).await,
            None => Next::End(self.only_publish(envelope, problem, message).await),
        }
    }

    /// Commits a rejection, and publishes it then.
    pub(super) async fn commit_rejection(
        &self,
        envelope: &Envelope,
        message: &Message,
        unit: Unit,
        problem: Box<Problem>,
    ) -> Next {
        let mut settled = self.committer.commit(unit, Arc::new(envelope.clone())).await;
        let mut problem = problem;
        if let (Settled::Conflict, Some(unit)) = (&settled, envelope.in_conflict(self.handlers.now())) {
            problem = Box::new(conflict());
            settled = self.committer.commit(unit, Arc::new(envelope.clone())).await;
        }
        Next::End(match settled {
            Settled::Published => Ending::Rejected(problem),
            Settled::Repeated => Ending::Repeated,
            Settled::NoCommunity | Settled::Conflict => self.only_publish(envelope, problem, message).await,
            Settled::Refused(error) => {
                error!(%error, "the database refuses to keep a rejection; it is only published");
                self.only_publish(envelope, problem, message).await
            }
            Settled::InFlight => self.look_again(envelope, message).await,
            Settled::Stale | Settled::Parted => return Next::Rerun,
            Settled::Closed => Ending::Unfinished,
        })
    }

    /// Keeps what the database will never take, and says so to the driver that waits for it, unless another attempt has the
    /// answer.
    pub(super) async fn bury(
        &self,
        envelope: &Envelope,
        message: &Message,
        error: &StoreError,
        fence: Option<i64>,
    ) -> Next {
        error!(%error, "the database refuses for good");
        if !self.publish(vec![dead(message, ProblemKind::InternalError.slug())]).await {
            return Next::End(Ending::Unfinished);
        }
        let detail = "the service cannot keep this; if it was an action it may have been executed. Its operators find \
                      the message among the dead letters";
        let problem = Problem::new(ProblemKind::InternalError, detail);
        let ended = match envelope.rejected(problem.clone(), self.handlers.now()) {
            Some(unit) => self.commit_rejection(envelope, message, Unit { fence, ..unit }, Box::new(problem)).await,
            None => Next::End(self.only_publish(envelope, Box::new(problem), message).await),
        };
        match ended {
            Next::End(Ending::Rejected(_)) => Next::End(Ending::Dead("the database refuses")),
            ended => ended,
        }
    }

    /// Publishes a rejection that is not stored.
    async fn only_publish(&self, envelope: &Envelope, problem: Box<Problem>, message: &Message) -> Ending {
        if self.is_refusal(envelope, &problem) {
            return self.refuse(envelope, problem).await;
        }
        // Unreadable, and nobody could tie the answer to it: somebody should be able to look at it.
        let unreadable = matches!(problem.kind, ProblemKind::InvalidJson | ProblemKind::TooLarge);
        let reason = (unreadable && !envelope.is_answerable()).then(|| problem.kind.slug());
        let answer = envelope.rejection((*problem).clone(), self.handlers.now());
        let mut outgoing: Vec<_> = to_reply(&answer, envelope).into_iter().collect();
        outgoing.push(to_events(answer));
        outgoing.extend(reason.map(|reason| dead(message, reason)));
        if self.publish(outgoing).await { Ending::Rejected(problem) } else { Ending::Unfinished }
    }
}

/// Cuts what a rejection says: each text, then the list of violations.
fn brief(mut problem: Problem) -> Problem {
    let mut left = LARGEST_PROBLEM;
    let mut cut = |text: &mut String, most: usize| {
        text.truncate(text.floor_char_boundary(most.min(left)));
        left -= text.len();
    };
    cut(&mut problem.detail, LARGEST_PROBLEM / 2);
    problem.errors.retain_mut(|error| {
        for text in [&mut error.pointer, &mut error.keyword, &mut error.message] {
            cut(text, LARGEST_PROBLEM / 16);
        }
        !error.message.is_empty()
    });
    problem
}

#[cfg(test)]
mod tests {
    use metagov_sdk::contract::Violation;

    use super::*;

    #[test]
    fn what_a_rejection_says_is_bounded_whatever_its_plugin_says() {
        let text = || "ä".repeat(100_000);
        let error = Violation { pointer: text(), keyword: text(), message: text() };
        let problem = Problem::new(ProblemKind::InvalidParameters, text()).with_errors(vec![error; 100]);
        let brief = brief(problem);
        let said = |error: &Violation| error.pointer.len() + error.keyword.len() + error.message.len();
        let bytes = brief.detail.len() + brief.errors.iter().map(said).sum::<usize>();
        assert!((LARGEST_PROBLEM / 2..=LARGEST_PROBLEM).contains(&bytes), "{bytes}");
        assert!(brief.errors.len() > 1 && brief.errors.iter().all(|error| !error.message.is_empty()));
    }

    #[test]
    fn a_rejection_of_a_usual_size_is_left_as_it_is() {
        let error = Violation { pointer: "/a".into(), keyword: "type".into(), message: "no number".into() };
        let problem = Problem::new(ProblemKind::InvalidParameters, "not acceptable").with_errors(vec![error; 20]);
        assert_eq!(brief(problem.clone()), problem);
    }
}
