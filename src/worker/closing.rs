//! Closing by the clock: the time of an open process is over, and a poll says so.
//!
//! However many polls it takes, it is one piece of work, with a key of its own: its platform is given one idempotency
//! key, and what one poll has finished the next one does not repeat, until the process has ended or has another time to
//! close at. When the time is over is the scheduler's to say. Up: [`super::process`]. Down: the plugin, through
//! [`super::guard`], and [`super::attempt`], which keeps the steps.

use metagov_sdk::{
    Progress, SteppedProcess,
    contract::{Timestamp, event::derive_uuid},
};

use super::{
    attempt::{Attempt, decide, without_run},
    envelope::Envelope,
    guard::guarded,
    handle::{Handlers, Step},
    process::or_the_next,
    serial::Turn,
    verdict::Verdict,
};
use crate::store::Process;

impl Handlers {
    /// Closes a process whose time is over; where that cannot be done now, the next poll goes on.
    pub(super) async fn close_by_the_clock(
        &self,
        poll: &Envelope,
        process: Process,
        closes_at: Timestamp,
        turn: &Turn,
    ) -> Step {
        let record = &process.record;
        let (community, id, time) =
            (&record.community, record.id.to_string(), closes_at.timestamp_micros().to_string());
        let closing = poll.on_behalf_of(derive_uuid(&["closing", community.as_str(), &id, &time]));
        let new = without_run(&closing, &process.plugin);
        let attempt = self.begin_at_first_step(&closing, new, self.deadline).await?;
        let decided = decide(self.attempt_close_by_the_clock(poll, &closing, process, &attempt, turn)).await;
        match decided {
            Ok(Verdict::Commit { ref unit, .. }) if unit.inbox == closing.inbox() => {
                self.end(&closing, &attempt, None, decided).await
            }
            // Still open.
            decided => self.leave(&attempt, decided).await,
        }
    }

    async fn attempt_close_by_the_clock(
        &self,
        poll: &Envelope,
        closing: &Envelope,
        process: Process,
        attempt: &Attempt,
        turn: &Turn,
    ) -> Step {
        let open = match self.open(process, turn).await {
            Ok(open) => open,
            Err(detour) => return or_the_next(detour),
        };
        let request = Self::request_of(closing, attempt, open.process.record.initiator.clone());
        let call = self.host.call(&open.instance, request);
        let handling = open.definition()?.close(call, open.process.state.clone());
        let finished = guarded(poll, handling, self.deadline).await.into_finished();
        let ends = matches!(&finished.result, Ok(SteppedProcess { progress: Progress::Completed(_), .. }));
        self.look(if ends { closing } else { poll }, &open, finished).await
    }
}
