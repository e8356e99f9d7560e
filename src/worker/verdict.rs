//! What becomes of a command: the one table of the service.
//!
//! | the handler says | action | process start | close by a driver | poll, close by the clock | webhook, tick |
//! |---|---|---|---|---|---|
//! | ok | `action.completed` | `process.started` | `process.completed`, or `process.updated` while it is open | the change, if there is one | the changes, if there are any |
//! | `Rejected` | `command.rejected` | `command.rejected` | `command.rejected` | kept in the record's `errors` | `command.rejected` |
//! | `Retry`, attempts left | up the delay ladder | up the delay ladder | up the delay ladder | done; the next poll comes | up the delay ladder |
//! | `Retry`, none left | `action.failed` | `process.failed` | kept in `errors`, `process.updated` | – | `command.rejected` |
//! | `Failed`, panic, deadline | `action.failed` | `process.failed` | kept in `errors`, `process.updated` | kept in `errors`, `process.updated` | `command.rejected` |
//! | panic or deadline of an `unsafe` action | `action.uncertain` | | | | |
//! | cannot be read | `command.rejected`; where nobody could recognise that answer, also `metagov.dead` | | | | |
//!
//! Whatever the row, the delivery is acknowledged last, and only after what the row says is confirmed. Up:
//! [`super::handle`], which decides. Down: [`super::settle`], which carries it out.

use std::time::Duration;

use metagov_sdk::contract::Problem;

use crate::{
    bus::DelayStep,
    store::{OutboxEvent, StoreError, Unit},
};

/// What becomes of a command.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Store this, publish its events, acknowledge.
    Commit(Box<Unit>),
    /// It was handled before: publish its stored events again, acknowledge.
    Repeat(Vec<OutboxEvent>),
    /// Nothing was executed: answer `command.rejected`, acknowledge.
    Reject(Box<Problem>),
    /// Publish a copy to the delay ladder, acknowledge.
    Later {
        /// How long at least.
        after: Duration,
        /// Whether the handler was called, so that the next time is another attempt.
        counted: bool,
    },
    /// Nothing to tell: acknowledge.
    Done,
}

impl Verdict {
    /// The word for logs.
    #[must_use]
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::Commit(_) => "commit",
            Self::Repeat(_) => "repeat",
            Self::Reject(_) => "reject",
            Self::Later { .. } => "later",
            Self::Done => "done",
        }
    }

    /// Refuses with this problem.
    #[must_use]
    pub(super) fn reject(problem: Problem) -> Self {
        Self::Reject(Box::new(problem))
    }
}

/// What handling a command gives: a verdict, or the database's trouble, which is never the driver's fault.
pub(super) type Handled = Result<Verdict, StoreError>;

/// When to try again: what the platform asked for, else a step of the ladder for each attempt.
#[must_use]
pub(super) fn backoff(attempt: u32, asked: Option<Duration>) -> Duration {
    const LADDER: [DelayStep; 5] = [
        DelayStep::OneSecond,
        DelayStep::FiveSeconds,
        DelayStep::ThirtySeconds,
        DelayStep::TwoMinutes,
        DelayStep::TenMinutes,
    ];
    let step = LADDER[(attempt.max(1) as usize - 1).min(LADDER.len() - 1)];
    asked.unwrap_or_else(|| step.delay())
}
