//! What becomes of a command: the one table of the service.
//!
//! | the handler says | action | process start | close by a driver | poll, close by the clock | webhook | tick |
//! |---|---|---|---|---|---|---|
//! | ok | `action.completed` | `process.started` | `process.completed`, or `process.updated` while it is open | the change, if there is one | the changes, if there are any | the same |
//! | `Rejected` | `command.rejected` | `command.rejected` | `command.rejected` | kept in the record's `errors` | refused: no event, counted | logged; the next tick comes |
//! | `Retry`, attempts left | up the delay ladder | up the delay ladder | up the delay ladder | done; the next poll comes, when the platform wants to be asked again | up the delay ladder | logged; the same for the next tick |
//! | `Retry`, none left | `action.failed` | `process.failed` | kept in `errors`, `process.updated` | – | refused | – |
//! | `Failed`, panic, deadline | `action.failed` | `process.failed` | kept in `errors`, `process.updated` | kept in `errors`, `process.updated` | of the plugin or of all processes: refused; of some of them: kept in their `errors`; a deadline is a `Retry` | logged |
//! | panic or deadline of an `unsafe` action | `action.uncertain` | | | | | |
//! | nothing: its worker died | `keyed`: called again; `unsafe`: `action.uncertain`; else as if for the first time | called again | as if for the first time | the next poll comes | as if for the first time | the next tick comes |
//! | whatever, where what it has read was changed meanwhile | run again on fresh state, as often as it takes, and no attempt is counted | the same | the same | the same | the same | the same |
//! | whatever, after another attempt took over | dropped; a copy of the command finds out what the other says | dropped | dropped | | | |
//! | (not called: three workers died of it, or the broker is about to give it up) | `action.failed`, or `action.uncertain` where it is `unsafe`; and `metagov.dead` | `process.failed`; and `metagov.dead` | kept in `errors`, `process.updated`; and `metagov.dead` | the same | refused; and `metagov.dead` | `command.rejected`; and `metagov.dead` |
//! | (not begun: its community is over its share) | parked on the delay ladder, no attempt counted | the same | the same | the same | the same | the same |
//! | (not called: this worker does not run its plugin) | passed on to one that does, no attempt counted; `command.rejected` where there is none | the same | the same | the same | the same, but refused where there is none | the same as an action |
//! | (not begun: its `expiration` was over, in its queue or on the ladder) | `command.rejected` with `expired` | the same | the same | the same | the same | the same |
//! | `command.rejected`, and the key is in a community that exists | stored like every outcome: it is the answer from then on | the same | the same | the same | never: its next delivery may count | the same |
//! | cannot be read | `command.rejected`; where nobody could recognise that answer, also `metagov.dead` | | | | | |
//!
//! Called again means under the same idempotency key and with the finished steps at hand; so are all polls by which the
//! clock closes a process. `action.uncertain` is the last
//! event of its command: what an operator decides with `metagov uncertain` is kept for people, or is a command of its own.
//!
//! Before the handler is called its instance's config is opened. Where this worker lacks the key to it, that is its
//! operator's fault and never answered as the driver's: the command goes up the delay ladder, as often as it takes and
//! without a further attempt in its header (the row of a `keyed` or `unsafe` action counts on), until it meets a worker that
//! has the key; a poll and a tick are done, for the next ones come. Only what replaces or removes such a config, `plugin.enable`, `plugin.disable` and their like, goes on
//! without it once the attempts are used up, so that a lost key locks nobody in. A sealed text that was changed or moved is
//! a row that cannot be read: `command.rejected` with `internal-error`, and `metagov.dead`. A config with secrets and no
//! key to seal them with is refused with `internal-error`, before its plugin is called.
//!
//! Whatever the row, the delivery is acknowledged last, and only after what the row says is confirmed. Up:
//! [`super::handle`], which decides. Down: [`super::settle`], which carries it out.

use std::{collections::BTreeSet, time::Duration};

use metagov_sdk::contract::{Name, Problem, ProblemKind};

use super::serial::Shared;
use crate::{
    bus::DelayStep,
    store::{OutboxEvent, StoreError, Unit},
};

/// What becomes of a command.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Store this, publish its events, acknowledge.
    Commit {
        /// What is to be stored.
        unit: Box<Unit>,
        /// What is to be stored together with that of other commands, where it was this one's turn.
        shared: Option<Box<Shared>>,
        /// What went wrong, where the outcome is that something did; for the log.
        problem: Option<Box<Problem>>,
    },
    /// It was handled before: publish its stored events again, acknowledge.
    Repeat(Vec<OutboxEvent>),
    /// Nothing was executed: store the answer `command.rejected`, publish it, acknowledge.
    Reject(Box<Problem>),
    /// Publish a copy to the delay ladder, acknowledge.
    Later {
        /// How long at least.
        after: Duration,
        /// Whether the platform named this time: then hardly longer, too.
        asked: bool,
        /// Why, where the handler was called, so that the next time is another attempt.
        problem: Option<Box<Problem>>,
    },
    /// Other workers have these plugins: pass a copy on to them, acknowledge.
    Elsewhere(BTreeSet<Name>),
    /// What it has read was never written: run it again on fresh state.
    Rerun,
    /// Nothing to tell: acknowledge.
    Done,
}

impl Verdict {
    /// Refuses with this problem.
    #[must_use]
    pub(super) fn reject(problem: Problem) -> Self {
        Self::Reject(Box::new(problem))
    }

    /// Stores this; nothing went wrong.
    #[must_use]
    pub(super) fn commit(unit: Unit) -> Self {
        Self::Commit { unit: Box::new(unit), shared: None, problem: None }
    }
}

/// How a command ended, in the words of the log.
#[derive(Debug)]
pub(super) enum Ending {
    /// Its effect is stored and told.
    Completed,
    /// It is stored and told that it failed, or that something of it did.
    Failed(Box<Problem>),
    /// It was handled before, and that is told again.
    Repeated,
    /// Nothing was executed.
    Rejected(Box<Problem>),
    /// It will be tried again.
    Retried(Option<Box<Problem>>),
    /// There was nothing to do.
    Ignored,
    /// It cannot be handled and is kept with its reason.
    Dead(&'static str),
    /// The worker went down meanwhile; the delivery comes again.
    Unfinished,
}

impl Ending {
    /// The value of the log's field `verdict`.
    #[must_use]
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed(problem) if problem.kind == ProblemKind::OutcomeUncertain => "uncertain",
            Self::Failed(_) => "failed",
            Self::Repeated => "repeated",
            Self::Rejected(_) => "rejected",
            Self::Retried(_) => "retried",
            Self::Ignored => "ignored",
            Self::Dead(_) => "dead",
            Self::Unfinished => "unfinished",
        }
    }
}

/// What handling a command gives: a verdict, or the database's trouble, which is never the driver's fault.
pub(super) type Handled = Result<Verdict, StoreError>;

/// When to try again, where nobody asked for a time: a step of the ladder for each attempt.
#[must_use]
pub(super) fn backoff(attempt: u32) -> Duration {
    DelayStep::ALL[(attempt.max(1) as usize - 1).min(DelayStep::ALL.len() - 1)].delay()
}
