//! Units that wait for a row which somebody else has locked, outside of the commit lanes.
//!
//! A row may be locked for a minute: by a worker that was frozen in the middle of a transaction, by an operator, by a
//! backup. Whatever needs it waits here, in the order of its coming, behind the first one; whatever does not goes on.
//! The first of each line is tried again and again, ever less often, without waiting in the database. Once it is
//! through, the others of its line go back to the lanes. So a locked row costs the others nothing but these tries,
//! however many wait for it.
//!
//! Up: [`super::committer`], whose lanes hand over what they may not wait for. Down: nothing; it knows no database.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{committer::Work, patience::Patience};
use crate::store::RowKey;

/// The longest time between two tries: so much longer than the lock does a line wait at most.
const LONGEST: Duration = Duration::from_secs(1);
/// The most lines that are tried at once: a key that somebody else is writing is waited for, one after the other.
const TRIED_AT_ONCE: usize = 10;

/// The lines, and what has come back from them.
#[derive(Default)]
pub(super) struct Contended {
    state: Mutex<State>,
    /// Somebody came, or went.
    changed: Notify,
    /// Some are free to go.
    freed: Notify,
}

#[derive(Default)]
struct State {
    lines: Vec<Line>,
    free: VecDeque<Work>,
    lines_ever: u64,
}

/// Those who wait for the same rows.
struct Line {
    id: u64,
    rows: HashSet<RowKey>,
    works: VecDeque<Work>,
    due: Instant,
    patience: Patience,
    /// The first one is being tried.
    trying: bool,
}

impl State {
    /// The line that waits for one of these rows.
    fn line(&mut self, rows: &HashSet<RowKey>) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| !line.rows.is_disjoint(rows))
    }
}

/// The first of a line, while it is tried.
pub(super) struct First {
    pub(super) line: u64,
    pub(super) work: Work,
}

impl Contended {
    /// Keeps back what needs a row that others wait for already; the rest may go on.
    pub(super) fn keep_back(&self, batch: Vec<Work>) -> Vec<Work> {
        let mut state = self.state();
        if state.lines.is_empty() {
            return batch;
        }
        let mut rest = Vec::with_capacity(batch.len());
        for work in batch {
            let rows = work.rows();
            match state.line(&rows) {
                Some(line) => line.join(work, rows),
                None => rest.push(work),
            }
        }
        rest
    }

    /// Takes a unit whose row is locked.
    pub(super) fn wait(&self, work: Work) {
        let rows = work.rows();
        let mut state = self.state();
        if let Some(line) = state.line(&rows) {
            line.join(work, rows);
            return;
        }
        state.lines_ever += 1;
        let mut patience = Patience::new();
        let (id, due) = (state.lines_ever, Instant::now() + patience.next_wait().min(LONGEST));
        state.lines.push(Line { id, rows, works: [work].into(), due, patience, trying: false });
        drop(state);
        self.changed.notify_one();
    }

    /// The first of each line whose time has come; waits until there is one.
    pub(super) async fn due(&self) -> Vec<First> {
        loop {
            let next = {
                let mut state = self.state();
                let due = state.take_due(Instant::now());
                if !due.is_empty() {
                    return due;
                }
                state.lines.iter().filter(|line| !line.trying).map(|line| line.due).min()
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = until(next) => {}
            }
        }
    }

    /// The row is still locked: the line waits on.
    pub(super) fn still(&self, First { line, work }: First) {
        let mut state = self.state();
        if let Some(line) = state.lines.iter_mut().find(|known| known.id == line) {
            line.works.push_front(work);
            line.trying = false;
            line.due = Instant::now() + line.patience.next_wait().min(LONGEST);
        }
    }

    /// The first one is through: the others of its line may go on.
    pub(super) fn through(&self, line: u64) {
        let mut state = self.state();
        if let Some(place) = state.lines.iter().position(|known| known.id == line) {
            let line = state.lines.swap_remove(place);
            state.free.extend(line.works);
        }
        drop(state);
        self.changed.notify_one();
        self.freed.notify_one();
    }

    /// So many of those that may go on.
    pub(super) fn take_free(&self, most: usize) -> Vec<Work> {
        let mut state = self.state();
        let count = state.free.len().min(most);
        state.free.drain(..count).collect()
    }

    /// Waits until some may go on.
    pub(super) async fn freed(&self) {
        while self.state().free.is_empty() {
            self.freed.notified().await;
        }
    }

    /// Whether nobody waits, and nobody is about to go on.
    pub(super) fn is_empty(&self) -> bool {
        let state = self.state();
        state.lines.is_empty() && state.free.is_empty()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_due(&mut self, now: Instant) -> Vec<First> {
        let is_due = |line: &&mut Line| !line.trying && line.due <= now;
        self.lines.iter_mut().filter(is_due).take(TRIED_AT_ONCE).filter_map(Line::begin).collect()
    }
}

impl Line {
    fn join(&mut self, work: Work, rows: HashSet<RowKey>) {
        self.rows.extend(rows);
        self.works.push_back(work);
    }

    fn begin(&mut self) -> Option<First> {
        let work = self.works.pop_front()?;
        self.trying = true;
        Some(First { line: self.id, work })
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
