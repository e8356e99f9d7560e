//! Governance processes: what a step of the plugin makes of a record.
//!
//! Pure functions from a record and what its plugin answered to the next record. A terminal record never changes again.
//! Called by [`super::process`], [`super::starting`], [`super::webhook`] and [`super::lifecycle`].

use metagov_sdk::{
    Error, Progress, Snapshot, SteppedProcess,
    contract::{EventBody, Problem, ProcessRecord, ProcessStatus, Timestamp},
};

use crate::store::{Change, Process};

/// Whether a step that changed nothing visible makes an event all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Always,
    IfChanged,
}

/// A process after a step, with its next version.
pub(super) struct Moved {
    pub(super) process: Process,
    /// Whether drivers hear of it.
    pub(super) is_visible: bool,
}

/// The record after a step of its plugin; `None` where nothing changed and nobody waits for an answer.
pub(super) fn advance(
    process: &Process,
    result: Result<SteppedProcess, Error>,
    now: Timestamp,
    answer: Answer,
) -> Option<Moved> {
    let before = &process.record;
    let mut after = process.clone();
    match result {
        Ok(SteppedProcess { snapshot, progress }) => {
            after.record.errors.clear();
            let Snapshot { state, closes_at, poll_every, webhook_key } = snapshot;
            (after.state, after.poll_every, after.webhook_key) = (state, poll_every, webhook_key);
            after.record.closes_at = closes_at;
            match progress {
                Progress::Unchanged => {}
                Progress::Updated(outcome) => after.record.outcome = outcome,
                Progress::Completed(outcome) => {
                    after.record.outcome = outcome;
                    end(&mut after.record, ProcessStatus::Completed, now);
                }
            }
        }
        Err(error) => after.record.errors = vec![error.problem().clone()],
    }
    let visible = after.record.status != before.status
        || after.record.outcome != before.outcome
        || after.record.errors != before.errors;
    if !visible && answer == Answer::IfChanged && after == *process {
        return None;
    }
    after.record.version += 1;
    after.record.updated_at = now;
    Some(Moved { process: after, is_visible: visible || answer == Answer::Always })
}

/// A process that ends because its plugin goes away.
pub(super) fn abandon(mut process: Process, problem: Problem, now: Timestamp) -> (Change, EventBody) {
    let expected = process.record.version;
    process.record.version += 1;
    process.record.problem = Some(problem);
    end(&mut process.record, ProcessStatus::Failed, now);
    let body = EventBody::ProcessFailed(process.record.clone());
    (Change::UpdateProcess { process: Box::new(process), expected }, body)
}

pub(super) fn end(record: &mut ProcessRecord, status: ProcessStatus, now: Timestamp) {
    record.status = status;
    record.updated_at = now;
    record.closed_at = Some(now);
}
