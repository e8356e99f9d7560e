//! Serial execution: commands that change the same process or the same plugin instance take turns.
//!
//! Thousands of people vote in the same minute. If each vote read its process, counted, and then compared and set, all but
//! one would lose the race and run again. So the commands that one worker has for a row run one after another, each on what
//! the one before has made of the row in memory, and what has gathered is written in one transaction: each command with its
//! own key, the row once. While one group is written the next one gathers.
//!
//! Memory is never trusted: a group is written only if the row has the version that it began with. Where another worker was
//! faster, the group and everything that has built on it run again on what the database has, and from then on the workers
//! take turns as well ([`leases`]). A command that decides something without writing (a refusal) waits until what it has
//! read is written.
//!
//! [`rows`] has the rules, [`group`] what is written. Called by the commands of processes, webhooks and stateful actions.
//! Calls [`super::committer`].

mod group;
mod leases;
mod rows;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use metagov_sdk::contract::{CommunitySlug, Name};
use tokio::{
    sync::{OwnedMutexGuard, oneshot},
    time::{Instant, sleep},
};
use uuid::Uuid;

use self::{
    group::{Contents, Member, parts},
    leases::{Leases, OTHERS_FIRST, Standing},
    rows::{Change, Joining, Ready, Rows},
};
pub(super) use self::{
    group::{Report, state_change},
    rows::{Placement, RowKey},
};
use super::{
    committer::{Committer, Settled},
    envelope::{Envelope, Run},
    handle::{Detour, Step},
    verdict::Verdict,
};
use crate::{
    host::LoadedInstance,
    store::{Process, Store, StoreError, Unit},
};

/// How often it is looked whether a lease has to be renewed, or is not needed any more.
const LOOKED_AFTER: Duration = Duration::from_millis(50);

/// Which handlers of a plugin: those that have changed its state before take turns where somebody else does, too.
pub(super) type Handler = (Name, String);

/// The turns of one worker.
pub(super) struct Serial {
    committer: Committer,
    rows: Mutex<Rows<Contents, Member>>,
    stateful: Mutex<HashSet<Handler>>,
    leases: Leases,
}

/// A command's turn at some rows: while it is held nobody else of this worker reads or changes them.
pub(super) struct Turn {
    serial: Arc<Serial>,
    places: Vec<Place>,
}

/// A place in the queue of one row.
struct Place {
    serial: Arc<Serial>,
    row: RowKey,
    generation: u64,
    /// `None` while it waits.
    turn: Option<OwnedMutexGuard<()>>,
}

/// What a command makes of the rows of its turn.
#[derive(Debug)]
pub(super) struct Shared {
    /// Where it is stored; set by [`Turn::end`].
    turn: Option<Turn>,
    /// The processes that it changes, as they are to be, each with its next version.
    pub(super) processes: Vec<Process>,
    /// The instance with its new state.
    pub(super) instance: Option<Arc<LoadedInstance>>,
    /// The processes whose change drivers hear of.
    pub(super) reports: Vec<Report>,
    /// Who may be stored with it.
    pub(super) placement: Placement,
}

impl Serial {
    /// Turns whose groups this committer writes.
    pub(super) fn new(committer: Committer, store: Store) -> Self {
        let leases = Leases::new(store);
        Self { committer, rows: Mutex::new(Rows::new()), stateful: Mutex::default(), leases }
    }

    /// Waits for a command's turn at these rows; the order of arrival is kept at each of them.
    pub(super) async fn turn(self: &Arc<Self>, rows: BTreeSet<RowKey>) -> Turn {
        let mut turn = Turn { serial: Arc::clone(self), places: Vec::with_capacity(rows.len()) };
        // In one order for all, so that no two commands wait for each other.
        for row in rows {
            let mut place = self.place(row).await;
            self.lease(&place.row).await;
            place.generation = self.rows().read(&place.row).0;
            turn.places.push(place);
        }
        turn
    }

    /// The same at one row, if at any.
    pub(super) async fn turn_at(self: &Arc<Self>, row: Option<RowKey>) -> Option<Turn> {
        match row {
            Some(row) => Some(self.turn([row].into()).await),
            None => None,
        }
    }

    /// Waits until no other command of this worker is at a row.
    async fn place(self: &Arc<Self>, row: RowKey) -> Place {
        let lock = self.rows().enter(&row);
        let mut place = Place { serial: Arc::clone(self), row, generation: 0, turn: None };
        place.turn = Some(lock.lock_owned().await);
        place
    }

    /// Sees to it that this worker may change a row that others change as well, in a place at that row.
    async fn lease(self: &Arc<Self>, row: &RowKey) {
        match self.leases.standing(row) {
            Standing::Free => return,
            Standing::Wanted => {}
            Standing::Over => {
                self.until_written(row).await;
                self.leases.give_back(row).await;
                sleep(OTHERS_FIRST).await;
                if !self.leases.is_contended(row) {
                    return;
                }
            }
        }
        if let Some(since) = self.leases.take(row).await {
            tokio::spawn(Arc::clone(self).look_after(row.clone(), since));
        }
    }

    /// Renews a lease while its row is used, and gives it back afterwards.
    async fn look_after(self: Arc<Self>, row: RowKey, since: Instant) {
        loop {
            sleep(LOOKED_AFTER).await;
            if !self.leases.renew(&row, since).await {
                return;
            }
            if !self.rows().contains(&row) {
                // In a place of its own, so that nobody begins with the lease while it goes.
                let place = self.place(row.clone()).await;
                if self.rows().has_one_user(&place.row) && self.leases.renew(&row, since).await {
                    self.leases.give_back(&row).await;
                }
            }
        }
    }

    async fn until_written(&self, row: &RowKey) {
        let witnesses = {
            let mut rows = self.rows();
            let generation = rows.read(row).0;
            rows.witness(&[(row.clone(), generation)])
        };
        all_written(witnesses).await;
    }

    /// Whether this handler should take turns at its instance: it has changed the plugin's state before, and somebody is
    /// changing it now, here or elsewhere.
    pub(super) fn is_contended(&self, instance: &RowKey, handler: &Handler) -> bool {
        self.is_stateful(handler) && (self.rows().contains(instance) || self.leases.is_contended(instance))
    }

    /// Whether this handler has changed the plugin's state before.
    pub(super) fn is_stateful(&self, handler: &Handler) -> bool {
        self.stateful.lock().unwrap_or_else(PoisonError::into_inner).contains(handler)
    }

    /// Notes that this handler changes the plugin's state.
    pub(super) fn note_stateful(&self, handler: &Handler) {
        if !self.is_stateful(handler) {
            self.stateful.lock().unwrap_or_else(PoisonError::into_inner).insert(handler.clone());
        }
    }

    fn rows(&self) -> MutexGuard<'_, Rows<Contents, Member>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a group, then the groups that waited for it.
    fn write(self: &Arc<Self>, ready: Ready<Contents, Member>) {
        let serial = Arc::clone(self);
        tokio::spawn(async move {
            let Ready { group, members, changed } = ready;
            let size = members.len();
            let rows: Vec<_> = changed.keys().cloned().collect();
            let (parts, answers) = parts(members, changed, serial.leases.holder());
            let settled = serial.committer.commit_group(parts).await;
            // There are no answers where the worker goes down.
            let all = |is: fn(&Settled) -> bool| settled.len() == size && settled.iter().all(is);
            if all(|settled| matches!(settled, Settled::Published)) {
                let next = serial.rows().written(group);
                for ready in next {
                    serial.write(ready);
                }
            } else {
                if all(|settled| matches!(settled, Settled::Stale)) {
                    serial.leases.note_contention(&rows);
                }
                let dropped = serial.rows().dropped(group);
                for member in dropped {
                    let _ = member.done.send(Settled::Stale);
                }
            }
            let is_refused = size > 1 && settled.iter().any(|settled| matches!(settled, Settled::Refused(_)));
            for (answer, settled) in answers.into_iter().zip(settled) {
                // One of them is at fault, and the others must not share its fate. An error is a command that has gone.
                let _ = answer.send(if is_refused { Settled::Parted } else { settled });
            }
        });
    }
}

impl Turn {
    /// The processes with these ids that are there, as the command before has left them, or as the database has them.
    ///
    /// # Errors
    /// Of the database.
    pub(super) async fn processes(
        &self,
        store: &Store,
        community: &CommunitySlug,
        ids: &[Uuid],
    ) -> Result<Vec<Process>, StoreError> {
        let mut found = HashMap::with_capacity(ids.len());
        let mut missing = Vec::new();
        for id in ids {
            match self.serial.rows().read(&RowKey::Process(community.clone(), *id)).1 {
                Some(Contents::Process(process)) => _ = found.insert(*id, Arc::unwrap_or_clone(process)),
                _ => missing.push(*id),
            }
        }
        if !missing.is_empty() {
            let stored = store.processes_of_ids(community, &missing).await?;
            found.extend(stored.into_iter().map(|process| (process.record.id, process)));
        }
        Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
    }

    /// The instance of this turn as the command before has left it; `None` where the database knows, or where this turn
    /// is at none.
    pub(super) fn latest_instance(&self) -> Option<Arc<LoadedInstance>> {
        match self.serial.rows().read(self.instance_row()?).1 {
            Some(Contents::Instance(instance)) => Some(instance),
            _ => None,
        }
    }

    /// Whether this is a turn at a plugin instance, too.
    pub(super) fn has_instance(&self) -> bool {
        self.instance_row().is_some()
    }

    fn instance_row(&self) -> Option<&RowKey> {
        self.places.iter().map(|place| &place.row).find(|row| matches!(row, RowKey::Instance(..)))
    }

    /// Ends the turn with what was decided in it. A refusal waits until everything that it has read is written.
    pub(super) async fn end(self, decided: Step) -> Step {
        match decided {
            Ok(Verdict::Commit { unit, shared: Some(mut shared), problem }) => {
                shared.turn = Some(self);
                Ok(Verdict::Commit { unit, shared: Some(shared), problem })
            }
            Ok(Verdict::Reject(_)) | Err(Detour::Verdict(Verdict::Reject(_))) => {
                if self.confirmed().await {
                    decided
                } else {
                    Ok(Verdict::Rerun)
                }
            }
            decided => decided,
        }
    }

    /// Waits, in this turn, until everything that it has read is written; `false` where that will never be.
    pub(super) async fn is_confirmed(&self) -> bool {
        let witnesses = self.serial.rows().witness(&self.read());
        all_written(witnesses).await
    }

    async fn confirmed(self) -> bool {
        let witnesses = self.serial.rows().witness(&self.read());
        drop(self);
        all_written(witnesses).await
    }

    async fn commit(self, unit: Unit, shared: Shared, envelope: Arc<Envelope>) -> Settled {
        let Shared { processes, instance, reports, placement, .. } = shared;
        let placement = if envelope.run == Run::Alone { Placement::Alone } else { placement };
        let (done, settled) = oneshot::channel();
        let of_processes = processes.into_iter().map(|process| Change {
            row: RowKey::Process(process.record.community.clone(), process.record.id),
            // The next version was written into it.
            read: process.record.version - 1,
            contents: Contents::Process(Arc::new(process)),
        });
        let of_instance = instance.map(|instance| Change {
            row: RowKey::Instance(instance.stored.community.clone(), instance.stored.id),
            read: instance.stored.version,
            contents: Contents::Instance(instance),
        });
        let joining = Joining {
            rows: self.read(),
            changes: of_processes.chain(of_instance).collect(),
            message_id: unit.inbox.as_ref().map(|entry| entry.message_id.clone()),
            placement,
            member: Member { unit, envelope, reports, done },
        };
        let joined = self.serial.rows().join(joining);
        match joined {
            Ok(Some(ready)) => self.serial.write(ready),
            Ok(None) => {}
            Err(_) => return Settled::Stale,
        }
        drop(self);
        settled.await.unwrap_or(Settled::Closed)
    }

    fn read(&self) -> Vec<(RowKey, u64)> {
        self.places.iter().map(|place| (place.row.clone(), place.generation)).collect()
    }
}

async fn all_written(witnesses: Vec<oneshot::Receiver<bool>>) -> bool {
    futures::future::join_all(witnesses).await.into_iter().all(|written| written.unwrap_or(false))
}

impl Shared {
    /// What changes nothing yet.
    pub(super) fn new() -> Self {
        Self { turn: None, processes: Vec::new(), instance: None, reports: Vec::new(), placement: Placement::Shared }
    }

    /// Whether it changes nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.processes.is_empty() && self.instance.is_none()
    }

    /// Stores it with the command's own unit; comes back when all of it is stored and published.
    pub(super) async fn commit(mut self, unit: Unit, envelope: Arc<Envelope>) -> Settled {
        match self.turn.take() {
            Some(turn) => turn.commit(unit, self, envelope).await,
            // The turn was lost on the way, and with it what this was made from.
            None => Settled::Stale,
        }
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("rows", &self.read()).finish_non_exhaustive()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.serial.rows().leave(&self.row);
    }
}
