//! A start without a key, recognised all the same: by the process that it starts.
//!
//! A command without `message_id` is handled at least once, with no attempt on record and no row in the inbox. But a
//! process is there once, so a start that comes again, or whose commit was not answered, would find its own process and be
//! rejected. The ids of its events follow from what the same start has every time: instance, process id and body. So the
//! commit finds what was stored before, and a rejection gives way to it. Called by [`super::starting`]. Reads the outbox.

use metagov_sdk::contract::{CommunitySlug, ProcessStart};
use uuid::Uuid;

use super::{
    envelope::Envelope,
    handle::{Detour, Handlers, Step},
    verdict::Verdict,
};

/// The id of the process that is to be started.
pub(super) fn process_id(envelope: &Envelope, body: &ProcessStart) -> Uuid {
    body.process_id.unwrap_or_else(|| envelope.derive("process"))
}

/// What tells the events of a start apart.
pub(super) fn start_event(place: usize) -> String {
    format!("start/{place}")
}

impl Envelope {
    /// The same command; where it has no key, its events have the ids that every delivery of this start gives them.
    #[must_use]
    pub(super) fn as_start_of(&self, process: Uuid, instance: Uuid) -> Self {
        let start = [process.as_bytes().as_slice(), &self.fingerprint].concat();
        self.with_nonce(Uuid::new_v5(&instance, &start))
    }
}

impl Handlers {
    /// Gives a rejection up where this very start, without a key, has started its process before: that has its answer.
    pub(super) async fn unless_started_before(
        &self,
        envelope: &Envelope,
        community: &CommunitySlug,
        process: Uuid,
        ended: Step,
    ) -> Step {
        let is_rejected = matches!(&ended, Ok(Verdict::Reject(_)) | Err(Detour::Verdict(Verdict::Reject(_))));
        if !is_rejected || envelope.message_id.is_some() {
            return ended;
        }
        let Some(found) = self.store.process(community, process).await? else { return ended };
        let envelope = envelope.as_start_of(process, found.instance_id);
        let scope = envelope.scope(None, self.now());
        let ids = [0, 1].map(|place| envelope.event_id(&scope, &start_event(place)).0);
        let events = self.store.stored_events(community, &ids).await?;
        if events.is_empty() { ended } else { Ok(Verdict::Repeat(events)) }
    }
}
