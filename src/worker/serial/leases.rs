//! Leases: where several workers change one row, they take turns, too.
//!
//! A group that was prepared on a row which another worker has changed meanwhile is prepared in vain. Among four workers
//! most would be. So a worker that has lost such a race takes a lease on the row before it goes on: while it has it, groups
//! of others are not written, and those others ask for the lease. It gives the lease back after a burst, so that each gets
//! its turn, or once it has nothing more for the row. Where nobody else has asked for a while there is no lease.
//!
//! A lease decides nothing: the row's version does. A lease that ends too early, because its worker stood still, costs a
//! repetition and no vote; one whose worker died is waited for as long as it lasts.
//!
//! Called by [`super::Serial`]. Calls [`Store::take_lease`].

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::Rng as _;
use tokio::time::{Instant, sleep};
use tracing::debug;
use uuid::Uuid;

use super::rows::RowKey;
use crate::store::Store;

/// How long a lease lasts that nobody renews.
const LEASE: Duration = Duration::from_secs(1);
/// How often it is renewed while the row is used.
const RENEWAL: Duration = Duration::from_millis(300);
/// How long a worker goes on before the others come first.
const BURST: Duration = Duration::from_millis(250);
/// How often a worker that waits asks for it, in milliseconds.
const ASKING: Range<u64> = 10..30;
/// How long the others come first: each of them asks within that time.
pub(super) const OTHERS_FIRST: Duration = Duration::from_millis(40);
/// For so long after another worker was met the row is only changed under a lease.
const CONTENDED: Duration = Duration::from_secs(2);

/// The leases of one worker.
pub(super) struct Leases {
    store: Store,
    holder: Uuid,
    rows: Mutex<HashMap<RowKey, Contention>>,
}

/// What is known of a row at which another worker was met.
struct Contention {
    until: Instant,
    held: Option<Held>,
}

#[derive(Clone, Copy)]
struct Held {
    since: Instant,
    renewed: Instant,
}

/// What a worker has to do about a lease before it uses a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing: nobody else was met at the row, or the lease is ours.
    Free,
    /// It has to take one.
    Wanted,
    /// It has had its burst: it gives the lease back, and the others come first.
    Over,
}

impl Leases {
    /// No leases yet.
    pub(super) fn new(store: Store) -> Self {
        Self { store, holder: Uuid::new_v4(), rows: Mutex::default() }
    }

    /// The name of this worker in leases and in units.
    pub(super) fn holder(&self) -> Uuid {
        self.holder
    }

    /// Another worker was faster at these rows, and may have their leases.
    pub(super) fn note_contention<'r>(&self, rows: impl IntoIterator<Item = &'r RowKey>) {
        let until = Instant::now() + CONTENDED;
        let mut known = self.rows();
        known.retain(|_, row| row.held.is_some() || row.until > Instant::now());
        for row in rows {
            known.insert(row.clone(), Contention { until, held: None });
        }
    }

    /// Whether another worker was met at this row lately.
    pub(super) fn is_contended(&self, row: &RowKey) -> bool {
        self.rows().get(row).is_some_and(|row| row.until > Instant::now())
    }

    /// What has to be done before this row is used.
    pub(super) fn standing(&self, row: &RowKey) -> Standing {
        match self.rows().get(row) {
            Some(Contention { held: Some(held), .. }) if held.since.elapsed() > BURST => Standing::Over,
            Some(Contention { held: None, until }) if *until > Instant::now() => Standing::Wanted,
            _ => Standing::Free,
        }
    }

    /// Waits for the lease on a row; since when it is held. `None` where the database has no leases for us: then rows are
    /// compared and set without.
    pub(super) async fn take(&self, row: &RowKey) -> Option<Instant> {
        loop {
            match self.store.take_lease(row.community(), row.id(), self.holder, LEASE).await {
                Ok(true) => {
                    let now = Instant::now();
                    let held = Some(Held { since: now, renewed: now });
                    self.rows().entry(row.clone()).or_insert(Contention { until: now, held: None }).held = held;
                    return Some(now);
                }
                Ok(false) => self.note_contention([row]),
                Err(error) if error.is_passing() => debug!(%error, "a lease on a row could not be taken, asking again"),
                Err(error) => {
                    debug!(%error, "a lease on a row could not be taken, going on without");
                    return None;
                }
            }
            let pause = rand::rng().random_range(ASKING);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Renews a lease that is held since then, where it is time; `false` where it is not held any more.
    pub(super) async fn renew(&self, row: &RowKey, since: Instant) -> bool {
        let Some(held) = self.held(row, since) else { return false };
        if held.renewed.elapsed() < RENEWAL {
            return true;
        }
        // Where it was lost, or the database is away, the next group finds out.
        let renewed = self.store.take_lease(row.community(), row.id(), self.holder, LEASE).await;
        if matches!(renewed, Ok(true))
            && let Some(Contention { held: Some(held), .. }) = self.rows().get_mut(row)
        {
            held.renewed = Instant::now();
        }
        true
    }

    /// Gives back a lease.
    pub(super) async fn give_back(&self, row: &RowKey) {
        if let Some(row) = self.rows().get_mut(row) {
            row.held = None;
        }
        if let Err(error) = self.store.give_back_lease(row.community(), row.id(), self.holder).await {
            debug!(%error, "a lease on a row could not be given back; it ends by itself");
        }
    }

    fn held(&self, row: &RowKey, since: Instant) -> Option<Held> {
        self.rows().get(row)?.held.filter(|held| held.since == since)
    }

    fn rows(&self) -> MutexGuard<'_, HashMap<RowKey, Contention>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
