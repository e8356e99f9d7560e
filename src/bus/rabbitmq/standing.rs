//! What does not stand at this moment, and why: a board that every session, consumer and publisher writes its own line
//! on, for whoever asks whether the service is ready.
//!
//! It knows no broker and decides nothing. Up: [`super::outage`], which writes. Down: [`crate::bus::Bus::standing`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Which of the questions a line answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// Whether there are connections, and they take messages.
    Broker,
    /// Whether every consumer is at its queue.
    Queues,
}

/// The lines of everything that does not stand.
#[derive(Debug, Clone, Default)]
pub(super) struct Board(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    next: u64,
    wrong: BTreeMap<(Part, u64), Wrong>,
}

#[derive(Debug)]
struct Wrong {
    words: String,
    /// Why the last attempt failed, where there was one.
    cause: Option<String>,
}

/// The line of one thing; gone when it is dropped.
#[derive(Debug)]
pub(super) struct Line {
    board: Board,
    key: (Part, u64),
}

impl Board {
    /// A line that is empty yet.
    pub(super) fn line(&self, part: Part) -> Line {
        let mut lines = self.lines();
        lines.next += 1;
        Line { board: self.clone(), key: (part, lines.next) }
    }

    /// What is wrong, in words.
    pub(super) fn wrong(&self, part: Part) -> Vec<String> {
        let lines = self.lines();
        lines.wrong.iter().filter(|((of, _), _)| *of == part).map(|(_, wrong)| wrong.words.clone()).collect()
    }

    /// Why attempts failed, each reason once.
    pub(super) fn causes(&self, part: Part) -> BTreeSet<String> {
        let lines = self.lines();
        lines.wrong.iter().filter(|((of, _), _)| *of == part).filter_map(|(_, wrong)| wrong.cause.clone()).collect()
    }

    // A poisoned lock only says that a task panicked elsewhere: the map is whole between statements.
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// It does not stand yet, in these words.
    pub(super) fn write(&self, words: String) {
        self.board.lines().wrong.insert(self.key, Wrong { words, cause: None });
    }

    /// It was tried, and failed for this reason.
    pub(super) fn write_failure(&self, what: &str, cause: String) {
        let wrong = Wrong { words: format!("lost {what}: {cause}"), cause: Some(cause) };
        self.board.lines().wrong.insert(self.key, wrong);
    }

    /// It stands.
    pub(super) fn wipe(&self) {
        self.board.lines().wrong.remove(&self.key);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.wipe();
    }
}
