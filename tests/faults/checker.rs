//! The counts, in the words of Jepsen's RabbitMQ suite, with a command for an enqueue and its final event for a dequeue.
//!
//! | count | commands … |
//! |---|---|
//! | attempted | that the driver tried to publish |
//! | acknowledged | that the broker confirmed, at whichever try |
//! | ok | with exactly one final event id, one body, and a kind that the scenario allows |
//! | lost | acknowledged, and without a final event when everything has been quiet for long |
//! | duplicated | with two outcomes that differ, by id or by body, on the wire or in the outbox, or with two runs in the database. Copies of one and the same event are none: drivers know them by their id |
//! | recovered | whose first publication was never confirmed, so that nobody knew, and that were answered all the same |
//! | unexpected | with a kind of outcome that the scenario does not allow; and final events that nobody asked for |
//!
//! A final event is one of any kind that answers the command, a rejection included: only the rejection of *another* command
//! for its key is that command's own.
//!
//! Beside them: `stuck`, rows that are not at their end although everything is quiet; of all events, whatever caused them,
//! those that are stored and were never heard, those that differ under one id, and the processes whose sequence has gaps or two ends;
//! and the calls that the platform saw for each key.

use std::collections::{BTreeMap, HashSet};

use crate::{
    book::{Book, Entry},
    driver::Command,
    platform::Calls,
};

/// What came of a scenario's commands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub(crate) attempted: usize,
    pub(crate) acknowledged: usize,
    pub(crate) ok: usize,
    pub(crate) lost: usize,
    pub(crate) duplicated: usize,
    pub(crate) recovered: usize,
    pub(crate) unexpected: usize,
    /// Inbox rows, runs and events that are not at their end.
    pub(crate) stuck: usize,
    /// Events in the outbox that the driver never heard.
    pub(crate) unheard: usize,
    /// Events that came with two bodies under one id.
    pub(crate) differing: usize,
    /// Processes whose sequence has gaps, two events at one place, or two ends.
    pub(crate) gaps: usize,
    /// Commands by the kind of their outcome.
    pub(crate) kinds: BTreeMap<String, usize>,
    /// Final events beyond the first of each command: harmless, but somebody has to throw them away.
    pub(crate) copies: usize,
    /// Keys that the platform saw.
    pub(crate) keys: usize,
    /// Calls beyond the first of each key.
    pub(crate) extra_calls: usize,
}

/// What the database holds that it should not, or that nobody heard.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stored {
    /// Commands with more than one run, or more than one last event.
    pub(crate) duplicated: usize,
    /// Rows that are not at their end.
    pub(crate) stuck: usize,
    /// Events that the driver never heard.
    pub(crate) unheard: usize,
}

/// Counts. `allowed` are the kinds of outcome that the scenario expects.
pub(crate) fn count(book: &Book, commands: &[Command], calls: &Calls, stored: Stored, allowed: &[&str]) -> Tally {
    let mut tally = Tally {
        duplicated: stored.duplicated,
        stuck: stored.stuck,
        unheard: stored.unheard,
        differing: book.heard.differing.len(),
        gaps: book.heard.gaps(),
        unexpected: book.strangers.iter().collect::<HashSet<_>>().len(),
        keys: calls.len(),
        extra_calls: calls.values().map(|calls| calls.len() - 1).sum(),
        ..Tally::default()
    };
    for entry in commands.iter().filter_map(|command| book.entries.get(&command.id)) {
        tally.add(entry, allowed);
    }
    tally
}

impl Tally {
    /// What came of the commands of two services. The platform, which they share, has been counted for both.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.attempted += other.attempted;
        self.acknowledged += other.acknowledged;
        self.ok += other.ok;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.recovered += other.recovered;
        self.unexpected += other.unexpected;
        self.stuck += other.stuck;
        self.unheard += other.unheard;
        self.differing += other.differing;
        self.gaps += other.gaps;
        self.copies += other.copies;
        for (kind, count) in other.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
        Self { keys: other.keys, extra_calls: other.extra_calls, ..self }
    }

    /// What came of webhooks, of which so many were taken: a webhook has no answer. Those that were refused are lost, for
    /// all of these are genuine; those that were rejected like a broken command are unexpected.
    pub(crate) fn of_hooks(book: &Book, hooks: &[Command], taken: usize) -> Self {
        let entries: Vec<_> = hooks.iter().filter_map(|hook| book.entries.get(&hook.id)).collect();
        let acknowledged = entries.iter().filter(|entry| entry.acknowledged).count();
        let rejected = entries.iter().filter(|entry| entry.answered.is_some()).count();
        Self {
            attempted: entries.len(),
            acknowledged,
            ok: taken.min(entries.len()),
            lost: acknowledged.saturating_sub(taken + rejected),
            duplicated: taken.saturating_sub(entries.len()),
            recovered: entries.iter().filter(|entry| entry.tries > 1).count(),
            unexpected: rejected,
            ..Self::default()
        }
    }

    fn add(&mut self, entry: &Entry, allowed: &[&str]) {
        self.attempted += 1;
        self.acknowledged += usize::from(entry.acknowledged);
        let kinds: HashSet<_> = entry.finals.iter().map(|last| last.kind.as_str()).collect();
        for kind in &kinds {
            *self.kinds.entry((*kind).to_owned()).or_default() += 1;
        }
        self.copies += entry.finals.iter().map(|last| last.copies as usize).sum::<usize>().saturating_sub(1);
        self.recovered += usize::from(entry.tries > 1 && !entry.finals.is_empty());
        match entry.finals.as_slice() {
            [] => self.lost += usize::from(entry.acknowledged),
            _ if !kinds.iter().all(|kind| allowed.contains(kind)) => self.unexpected += 1,
            [_] => self.ok += 1,
            _ => self.duplicated += 1,
        }
    }
}
