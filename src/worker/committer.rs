//! Group commit: what many handlers have finished is written in one transaction and published in one go.
//!
//! It takes what has gathered and never waits for more, so a lone command is not delayed and a flood is batched. Two
//! batches are in flight, so that database and broker work at the same time. It knows no commands: a [`Unit`] comes in,
//! what became of it goes back. A lane is never held by a unit whose row another transaction has locked
//! ([`super::contended`]). Called by [`super::settle`] and [`super::serial`]. Calls [`Store::commit_groups`], then
//! [`Bus::publish`].

use std::{collections::HashSet, sync::Arc};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use super::{
    answer::{message_of_stored, to_events, to_reply},
    contended::{Contended, First},
    envelope::Envelope,
    marking::Marks,
    patience::Patience,
    trouble::Trouble,
};
use crate::{
    bus::{Bus, Outgoing, Published},
    failpoint::failpoint,
    store::{Committed, OutboxEvent, RowKey, Store, StoreError, Unit},
    telemetry::measures,
};

/// What became of a unit.
#[derive(Debug)]
pub(super) enum Settled {
    /// Stored, and its events are confirmed by the broker.
    Published,
    /// The key was used before by the very same command; its stored events are confirmed by the broker again.
    Repeated,
    /// The key was used before by another command; nothing was written.
    Conflict,
    /// What the handler saw has changed meanwhile; nothing was written. Run it again.
    Stale,
    /// Somebody else is attempting the command at this time; nothing was written.
    InFlight,
    /// A rejection for a community that does not exist; nothing was written, so it is not remembered.
    NoCommunity,
    /// The database refuses the unit for good; nothing was written.
    Refused(StoreError),
    /// It refuses the group for good, and any of its units may be the reason; nothing was written. Run it again, and commit
    /// it by itself.
    Parted,
    /// The worker is going down; the delivery stays unacknowledged and comes again.
    Closed,
}

/// What one command wants written, with whom it answers.
pub(super) type Part = (Unit, Arc<Envelope>);

/// Parts that are written together or not at all.
pub(super) struct Work {
    group: Vec<Part>,
    done: oneshot::Sender<Vec<Settled>>,
}

/// The way in: cheap to clone, shared by every handler.
#[derive(Clone)]
pub(super) struct Committer {
    work: mpsc::Sender<Work>,
}

/// How large batches grow, and how many are under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchLimits {
    /// Units in one transaction.
    pub(super) batch: usize,
    /// Transactions and publications under way at the same time.
    pub(super) in_flight: usize,
}

impl Committer {
    /// Starts the committer; it ends when its last handle is dropped, or at once when `abort` is cancelled.
    #[must_use]
    pub(super) fn start(
        store: Store,
        bus: Bus,
        limits: BatchLimits,
        trouble: Arc<Trouble>,
        tasks: &TaskTracker,
        abort: CancellationToken,
    ) -> Self {
        let (work, mut gathered) = mpsc::channel::<Work>(limits.batch * limits.in_flight * 2);
        let tracker = tasks.clone();
        let desk = Arc::new(Desk { store, bus, trouble, contended: Contended::default(), abort });
        let waiting = Arc::clone(&desk);
        let side = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move { waiting.try_contended().await }));
        tasks.spawn(async move {
            let _side = side;
            let lanes = Arc::new(Semaphore::new(limits.in_flight));
            let mut open = true;
            loop {
                if !open && desk.contended.is_empty() {
                    // A unit that comes to wait for a locked row meanwhile is not left behind.
                    let all = u32::try_from(limits.in_flight).unwrap_or(u32::MAX);
                    let Ok(_ended) = lanes.acquire_many(all).await else { return };
                    if desk.contended.is_empty() {
                        return;
                    }
                }
                // The lane first: while both are busy, more gathers, and the next batch is larger.
                let Ok(lane) = Arc::clone(&lanes).acquire_owned().await else { return };
                let mut batch = desk.contended.take_free(limits.batch);
                if batch.is_empty() {
                    tokio::select! {
                        () = desk.abort.cancelled() => return,
                        received = gathered.recv_many(&mut batch, limits.batch), if open => open = received > 0,
                        () = desk.contended.freed() => {}
                    }
                }
                let batch = desk.contended.keep_back(batch);
                if batch.is_empty() {
                    continue;
                }
                let desk = Arc::clone(&desk);
                tracker.spawn(async move {
                    desk.settle(batch).await;
                    drop(lane);
                });
            }
        });
        Self { work }
    }

    /// Stores a unit and publishes its events; comes back when the broker has confirmed them.
    pub(super) async fn commit(&self, unit: Unit, envelope: Arc<Envelope>) -> Settled {
        let mut settled = self.commit_group(vec![(unit, envelope)]).await;
        settled.pop().unwrap_or(Settled::Closed)
    }

    /// The same for units that are written together or not at all. Where one of them cannot be written, the others are
    /// [`Settled::Stale`]. There are no answers where the worker goes down.
    pub(super) async fn commit_group(&self, group: Vec<Part>) -> Vec<Settled> {
        let (done, settled) = oneshot::channel();
        if self.work.send(Work { group, done }).await.is_err() {
            return Vec::new();
        }
        settled.await.unwrap_or_default()
    }
}

/// What lanes work with.
struct Desk {
    store: Store,
    bus: Bus,
    trouble: Arc<Trouble>,
    contended: Contended,
    abort: CancellationToken,
}

impl Desk {
    /// Commits for as long as the database is only away: all units, then those that it could not take for the time being.
    /// Each is answered as soon as it is stored, whatever becomes of its neighbours. Who needs a row that somebody else has
    /// locked waits elsewhere.
    async fn settle(&self, batch: Vec<Work>) {
        let begun = Instant::now();
        metrics::histogram!(measures::COMMIT_BATCH).record(u32::try_from(batch.len()).unwrap_or(u32::MAX));
        let (mut open, mut patience) = (batch, Patience::new());
        loop {
            let error = match self.store.commit_groups(units(&open)).await {
                Ok(committed) => {
                    let (mut settled, mut left, mut away) = (Vec::with_capacity(open.len()), Vec::new(), None);
                    for (work, committed) in open.into_iter().zip(committed) {
                        match committed.first() {
                            Some(Committed::Refused(error @ StoreError::Contended(_))) => {
                                self.trouble.met(error);
                                self.contended.wait(work);
                            }
                            Some(Committed::Refused(error)) if error.is_passing() => {
                                away = Some(error.clone());
                                left.push(work);
                            }
                            _ => settled.push((work, committed)),
                        }
                    }
                    metrics::histogram!(measures::COMMIT_SECONDS).record(begun.elapsed());
                    tell(&self.store, &self.bus, settled, &self.abort).await;
                    let Some(error) = away else { return };
                    open = left;
                    error
                }
                Err(error) if error.is_passing() => error,
                Err(error) => return end_all(open, || Settled::Refused(error.clone())),
            };
            self.trouble.met(&error);
            // What is being committed is not given up half-way: only the wait ends early.
            tokio::select! {
                () = self.abort.cancelled() => return end_all(open, || Settled::Closed),
                () = patience.wait() => {}
            }
        }
    }

    /// Tries those who wait for locked rows, for ever.
    async fn try_contended(&self) {
        loop {
            let firsts = self.contended.due().await;
            let groups = firsts.iter().map(|first| units_of(&first.work)).collect();
            let committed = match self.store.commit_groups_unless_locked(groups).await {
                Ok(committed) => committed,
                Err(error) => {
                    self.trouble.met(&error);
                    for first in firsts {
                        self.contended.still(first);
                    }
                    continue;
                }
            };
            let (mut settled, mut through) = (Vec::with_capacity(firsts.len()), Vec::with_capacity(firsts.len()));
            for (first, committed) in firsts.into_iter().zip(committed) {
                if let Some(Committed::Refused(error)) = committed.first().filter(|answer| waits(answer)) {
                    self.trouble.met(error);
                    self.contended.still(first);
                } else {
                    let First { line, work } = first;
                    settled.push((work, committed));
                    through.push(line);
                }
            }
            tell(&self.store, &self.bus, settled, &self.abort).await;
            for line in through {
                self.contended.through(line);
            }
        }
    }
}

fn waits(committed: &Committed) -> bool {
    matches!(committed, Committed::Refused(error) if error.is_passing())
}

fn units(works: &[Work]) -> Vec<Vec<Unit>> {
    works.iter().map(units_of).collect()
}

fn units_of(work: &Work) -> Vec<Unit> {
    work.group.iter().map(|(unit, _)| unit.clone()).collect()
}

impl Work {
    /// Every row that it needs.
    pub(super) fn rows(&self) -> HashSet<RowKey> {
        self.group.iter().flat_map(|(unit, _)| unit.rows()).collect()
    }

    fn end(self, settled: Vec<Settled>) {
        // An error is a handler that has gone.
        let _ = self.done.send(settled);
    }
}

fn end_all(works: Vec<Work>, settled: impl Fn() -> Settled) {
    for work in works {
        let settled = work.group.iter().map(|_| settled()).collect();
        work.end(settled);
    }
}

/// Publishes the events of what is stored, then says so.
async fn tell(store: &Store, bus: &Bus, committed: Vec<(Work, Vec<Committed>)>, abort: &CancellationToken) {
    failpoint!("worker::committed");
    let mut outgoing = Vec::new();
    let mut marks = Vec::new();
    let mut settled = Vec::with_capacity(committed.len());
    for (mut work, committed) in committed {
        let (mut outcomes, before) = (Vec::with_capacity(committed.len()), outgoing.len());
        for ((unit, envelope), committed) in work.group.iter_mut().zip(committed) {
            let (outcome, events) = match committed {
                Committed::Stored => (Settled::Published, std::mem::take(&mut unit.events)),
                Committed::Repeated(events) => (Settled::Repeated, events),
                Committed::Conflict => (Settled::Conflict, Vec::new()),
                Committed::InFlight => (Settled::InFlight, Vec::new()),
                Committed::NoCommunity => (Settled::NoCommunity, Vec::new()),
                // After a lost fence the attempt that took over decides; running again finds its answer.
                Committed::Stale | Committed::LostFence => (Settled::Stale, Vec::new()),
                Committed::Refused(error) => (Settled::Refused(error), Vec::new()),
            };
            prepare(&events, envelope, &mut outgoing, &mut marks);
            outcomes.push(outcome);
        }
        if outgoing.len() == before {
            // Nothing to publish, so a broker that takes no messages is not waited for.
            work.end(outcomes);
        } else {
            settled.push((outcomes, work));
        }
    }
    let published = publish(store, bus, outgoing, marks, abort).await;
    for (outcomes, work) in settled {
        work.end(if published { outcomes } else { Vec::new() });
    }
}

/// Puts events on the list of what goes out; `marks` remembers at which place of the list an event stands.
fn prepare(
    events: &[OutboxEvent],
    envelope: &Envelope,
    outgoing: &mut Vec<Outgoing>,
    marks: &mut Vec<(usize, uuid::Uuid)>,
) {
    for event in events {
        let message = message_of_stored(event);
        let reply = if event.last { to_reply(&message, envelope) } else { None };
        marks.push((outgoing.len(), event.id));
        outgoing.push(to_events(message));
        outgoing.extend(reply);
    }
}

/// Publishes events that are stored and marks them. `false` where the worker goes down meanwhile.
async fn publish(
    store: &Store,
    bus: &Bus,
    outgoing: Vec<Outgoing>,
    marks: Vec<(usize, uuid::Uuid)>,
    abort: &CancellationToken,
) -> bool {
    if outgoing.is_empty() {
        return true;
    }
    let published = tokio::select! {
        () = abort.cancelled() => return false,
        published = bus.publish(outgoing) => published,
    };
    let Ok(published) = published else { return false };
    failpoint!("worker::published");
    let events: Vec<_> = marks.into_iter().map(|(place, id)| (id, published[place])).collect();
    let failed = |published: &Published| *published != Published::Routed;
    let dropped =
        published.iter().filter(|p| failed(p)).count() - events.iter().filter(|(_, fate)| failed(fate)).count();
    if dropped > 0 {
        info!(replies = dropped, "replies were dropped, for their queues are gone or full");
    }
    Marks::of(&events).write(store).await;
    failpoint!("worker::marked");
    true
}

/// Publishes the stored events of a command once more.
pub(super) async fn republish(
    store: &Store,
    bus: &Bus,
    events: &[OutboxEvent],
    envelope: &Envelope,
    abort: &CancellationToken,
) -> bool {
    let (mut outgoing, mut marks) = (Vec::new(), Vec::new());
    prepare(events, envelope, &mut outgoing, &mut marks);
    publish(store, bus, outgoing, marks, abort).await
}
