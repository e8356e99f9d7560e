//! Serial execution: commands that change the same process or the same plugin instance take turns.
//!
//! Thousands of people vote in the same minute. If each vote read its process, counted, and then compared and set, all but
//! one would lose the race and run again. So the commands that one worker has for a row run one after another, each on what
//! the one before has made of the row in memory, and what has gathered is written in one transaction: each command with its
//! own key, the row once. While one group is written the next one gathers.
//!
//! Memory is never trusted: a group is written only if the row has the version that it began with. Where another worker was
//! faster, the group and everything that has built on it run again on what the database has. A command that decides
//! something without writing (a refusal) waits until what it has read is written.
//!
//! [`rows`] has the rules, [`group`] what is written. Called by the commands of processes, webhooks and stateful actions.
//! Calls [`super::committer`].

mod group;
mod rows;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use metagov_sdk::contract::{CommunitySlug, Name};
use rand::Rng as _;
use tokio::{
    sync::{OwnedMutexGuard, oneshot},
    time::{Instant, sleep, sleep_until},
};
use uuid::Uuid;

use self::{
    group::{Contents, Member, parts},
    rows::{Change, Joined, Joining, Ready, Rows},
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

/// How long a row rests where another worker was faster: time enough for that to write a group or two.
const SHORTEST_REST: Duration = Duration::from_millis(5);
const LONGEST_REST: Duration = Duration::from_millis(80);
/// For so long after a rest the groups of a row gather, so that each try is for many commands.
const CONTENDED: Duration = Duration::from_millis(500);
/// How long they gather.
const GATHER: Duration = Duration::from_millis(15);

/// Which handlers of a plugin: those that have changed its state before take turns where somebody else does, too.
pub(super) type Handler = (Name, String);

/// The turns of one worker.
pub(super) struct Serial {
    committer: Committer,
    rows: Mutex<Rows<Contents, Member>>,
    stateful: Mutex<HashSet<Handler>>,
    /// Rows that another worker was faster at, and until when they rest.
    resting: Mutex<HashMap<RowKey, Instant>>,
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
    pub(super) fn new(committer: Committer) -> Self {
        Self { committer, rows: Mutex::new(Rows::new()), stateful: Mutex::default(), resting: Mutex::default() }
    }

    /// Waits for a command's turn at these rows; the order of arrival is kept at each of them.
    pub(super) async fn turn(self: &Arc<Self>, rows: BTreeSet<RowKey>) -> Turn {
        let mut turn = Turn { serial: Arc::clone(self), places: Vec::with_capacity(rows.len()) };
        // In one order for all, so that no two commands wait for each other.
        for row in rows {
            let lock = self.rows().enter(&row);
            let mut place = Place { serial: Arc::clone(self), row, generation: 0, turn: None };
            place.turn = Some(lock.lock_owned().await);
            if let Some(until) = self.rests_until(&place.row) {
                sleep_until(until).await;
            }
            place.generation = self.rows().read(&place.row).0;
            turn.places.push(place);
        }
        turn
    }

    /// Whether this handler should take turns at its instance: it has changed the plugin's state before, and somebody is
    /// changing it now.
    pub(super) fn is_contended(&self, instance: Uuid, handler: &Handler) -> bool {
        self.is_stateful(handler) && self.rows().contains(&RowKey::Instance(instance))
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

    /// Leaves rows to the other worker for a moment; what comes for them meanwhile is written together.
    fn rest(&self, rows: Vec<RowKey>) {
        let now = Instant::now();
        let until = now + rand::rng().random_range(SHORTEST_REST..LONGEST_REST);
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        resting.retain(|_, until| *until + CONTENDED > now);
        resting.extend(rows.into_iter().map(|row| (row, until)));
    }

    fn rests_until(&self, row: &RowKey) -> Option<Instant> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner).get(row).copied()
    }

    /// Whether another worker was faster at one of these rows lately.
    fn are_contended(&self, rows: &[(RowKey, u64)]) -> bool {
        let resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        rows.iter().any(|(row, _)| resting.get(row).is_some_and(|until| *until + CONTENDED > now))
    }

    /// Lets a group gather, then writes it.
    fn gather(self: &Arc<Self>, group: u64) {
        let serial = Arc::clone(self);
        tokio::spawn(async move {
            sleep(GATHER).await;
            let gathered = serial.rows().gathered(group);
            if let Some(ready) = gathered {
                serial.write(ready);
            }
        });
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
            let (parts, answers) = parts(members, changed);
            let settled = serial.committer.commit_group(parts).await;
            let is_written =
                settled.len() == size && settled.iter().all(|settled| matches!(settled, Settled::Published));
            if is_written {
                let next = serial.rows().written(group);
                for ready in next {
                    serial.write(ready);
                }
            } else {
                serial.rest(rows);
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

    /// The instance as the command before has left it; `None` where the database knows, or where this turn is not about
    /// it.
    pub(super) fn instance(&self, id: Uuid) -> Option<Arc<LoadedInstance>> {
        match self.serial.rows().read(&RowKey::Instance(id)).1 {
            Some(Contents::Instance(instance)) if self.has_instance() => Some(instance),
            _ => None,
        }
    }

    /// Whether this is a turn at a plugin instance, too.
    pub(super) fn has_instance(&self) -> bool {
        self.places.iter().any(|place| matches!(place.row, RowKey::Instance(_)))
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
            row: RowKey::Instance(instance.stored.id),
            read: instance.stored.version,
            contents: Contents::Instance(instance),
        });
        let rows = self.read();
        let joining = Joining {
            gathers: self.serial.are_contended(&rows),
            rows,
            changes: of_processes.chain(of_instance).collect(),
            message_id: unit.inbox.as_ref().map(|entry| entry.message_id.clone()),
            placement,
            member: Member { unit, envelope, reports, done },
        };
        let joined = self.serial.rows().join(joining);
        match joined {
            Ok(Joined::Ready(ready)) => self.serial.write(ready),
            Ok(Joined::Gathers(group)) => self.serial.gather(group),
            Ok(Joined::Waits) => {}
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
