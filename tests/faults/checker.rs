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
//! Beside them: `stuck`, rows that are not at their end although everything is quiet, and the calls that the platform saw
//! for each key.

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
    /// Commands by the kind of their outcome.
    pub(crate) kinds: BTreeMap<String, usize>,
    /// Final events beyond the first of each command: harmless, but somebody has to throw them away.
    pub(crate) copies: usize,
    /// Keys that the platform saw.
    pub(crate) keys: usize,
    /// Calls beyond the first of each key.
    pub(crate) extra_calls: usize,
}

/// What the database holds more of than it should.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stored {
    /// Commands with more than one run, or more than one last event.
    pub(crate) duplicated: usize,
    /// Rows that are not at their end.
    pub(crate) stuck: usize,
}

/// Counts. `allowed` are the kinds of outcome that the scenario expects.
pub(crate) fn count(book: &Book, commands: &[Command], calls: &Calls, stored: Stored, allowed: &[&str]) -> Tally {
    let mut tally = Tally {
        duplicated: stored.duplicated,
        stuck: stored.stuck,
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
        self.copies += other.copies;
        for (kind, count) in other.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
        Self { keys: other.keys, extra_calls: other.extra_calls, ..self }
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
