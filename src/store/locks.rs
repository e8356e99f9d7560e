//! Compare: what the units saw or want to change is read with locks, and must be as they expect.
//!
//! Units for which that does not hold are left out of the batch. The rows stay locked, so that [`super::changes`] can
//! set without a further look. Locks are taken in one order, each sorted, so that two batches wait for each other
//! instead of blocking each other. Nobody waits for long: where a row stays locked by somebody else, the units that need
//! it are left out as well, and may be committed again.
//!
//! Up: [`super::commit`]. Down: the tables `communities`, `plugin_instances`, `processes`, and [`super::leases`].

use std::collections::{BTreeSet, HashMap, HashSet};

use metagov_sdk::contract::Timestamp;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, FromQueryResult, QueryFilter, QueryOrder,
    QuerySelect, Select,
    sea_query::{LockBehavior, LockType},
};
use uuid::Uuid;

use super::{
    Change, Committed, Process, RowKey, StoreError, Unit,
    entity::{communities, plugin_instances, processes},
    keys, leases,
    processes::status,
};

/// What is done about a row that somebody else has locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnLock {
    /// It is waited for, as long as the server lets anybody wait.
    Wait,
    /// The units that need it are left out of the batch.
    LeaveOut,
}

impl OnLock {
    pub(super) fn lock<E: EntityTrait>(self, select: Select<E>, lock: LockType) -> Select<E> {
        match self {
            Self::Wait => select.lock(lock),
            Self::LeaveOut => select.lock_with_behavior(lock, LockBehavior::SkipLocked),
        }
    }
}

/// The answer to a unit that is left out for a row which somebody else has locked.
pub(super) fn contended() -> Committed {
    Committed::Refused(StoreError::Contended("somebody else has locked a row that this needs".into()))
}

/// The rows that the units want to change, as they are.
pub(super) struct Rows {
    on_lock: OnLock,
    /// Those that somebody else has locked.
    locked: HashSet<LockedKey>,
    communities: HashMap<String, i64>,
    instances: HashMap<Uuid, InstanceRow>,
    seen: HashMap<Uuid, i64>,
    processes: HashMap<(String, Uuid), ProcessRow>,
    /// The workers that have leases on them.
    holders: HashMap<(String, Uuid), Uuid>,
}

/// A row that somebody else has locked, as the database names it.
#[derive(PartialEq, Eq, Hash)]
enum LockedKey {
    Community(String),
    Instance(Uuid),
    Process(String, Uuid),
}

#[derive(FromQueryResult)]
struct CommunityRow {
    slug: String,
    version: i64,
}

#[derive(FromQueryResult)]
pub(super) struct InstanceRow {
    id: Uuid,
    community: String,
    version: i64,
    pub(super) tick_every_ms: Option<i64>,
}

#[derive(FromQueryResult)]
pub(super) struct ProcessRow {
    community: String,
    id: Uuid,
    status: String,
    version: i64,
    pub(super) due_at: Option<Timestamp>,
    pub(super) closes_at: Option<Timestamp>,
}

/// Locks what the units want to change and gives the verdict [`Committed::Stale`] on those that come too late.
pub(super) async fn lock(
    transaction: &DatabaseTransaction,
    units: &[Unit],
    verdicts: &mut [Option<Committed>],
    on_lock: OnLock,
) -> Result<Rows, StoreError> {
    let live = || units.iter().zip(&*verdicts).filter(|(_, verdict)| verdict.is_none()).map(|(unit, _)| unit);
    let mut communities: BTreeSet<&str> = BTreeSet::new();
    let mut updated: BTreeSet<Uuid> = BTreeSet::new();
    let mut deleted: BTreeSet<Uuid> = BTreeSet::new();
    let mut processes: BTreeSet<(&str, Uuid)> = BTreeSet::new();
    for change in live().flat_map(|unit| &unit.changes) {
        match change {
            Change::InsertCommunity { slug, .. }
            | Change::UpdateCommunity { slug, .. }
            | Change::DeleteCommunity { slug, .. } => {
                communities.insert(slug.as_str());
            }
            Change::InsertInstance(_) => {}
            Change::UpdateInstance { id, .. } => {
                updated.insert(*id);
            }
            Change::DeleteInstance { id, .. } => {
                deleted.insert(*id);
            }
            Change::InsertProcess(process) | Change::UpdateProcess { process, .. } => {
                processes.insert(process_key(process));
            }
        }
    }
    updated.retain(|id| !deleted.contains(id));
    let seen: BTreeSet<Uuid> = live().filter_map(|unit| unit.saw).map(|saw| saw.id).collect();

    let mut rows = Rows::none(on_lock);
    rows.lock_communities(transaction, communities).await?;
    rows.lock_instances(transaction, deleted, LockType::Update).await?;
    rows.lock_instances(transaction, updated, LockType::NoKeyUpdate).await?;
    // Lighter than the locks above: it waits for nobody but those who delete, and lets nobody but them wait. So a
    // process is never started in an instance that is being disabled.
    rows.see_instances(transaction, seen).await?;
    rows.lock_processes(transaction, processes).await?;
    let heeds = live().filter(|unit| unit.holder.is_some()).flat_map(|unit| &unit.changes);
    rows.holders = leases::holders(transaction, heeds.filter_map(Change::leasable)).await?;

    let mut claimed = BTreeSet::new();
    for (unit, verdict) in units.iter().zip(verdicts).filter(|(_, verdict)| verdict.is_none()) {
        if !rows.locked.is_empty() && unit.rows().any(|row| rows.is_locked(&row)) {
            *verdict = Some(contended());
            continue;
        }
        let saw_holds = unit.saw.is_none_or(|saw| {
            rows.seen.get(&saw.id).is_some_and(|version| saw.version.is_none_or(|expected| expected == *version))
        });
        // Of two units that change the same row, the second has not seen what the first makes of it.
        let changes_hold = unit.changes.iter().all(|change| rows.holds(change) && claimed.insert(change.row()));
        if !(saw_holds && changes_hold) || rows.are_leased_to_another(unit) {
            *verdict = Some(Committed::Stale);
        }
    }
    Ok(rows)
}

fn process_key(process: &Process) -> (&str, Uuid) {
    (process.record.community.as_str(), process.record.id)
}

impl Rows {
    fn none(on_lock: OnLock) -> Self {
        Self {
            on_lock,
            locked: HashSet::new(),
            communities: HashMap::new(),
            instances: HashMap::new(),
            seen: HashMap::new(),
            processes: HashMap::new(),
            holders: HashMap::new(),
        }
    }

    /// The rows that a question finds, locked; those that it finds and that somebody else has locked are noted.
    async fn take<E: EntityTrait, R: FromQueryResult + Send + Sync>(
        &mut self,
        transaction: &DatabaseTransaction,
        question: Select<E>,
        lock: LockType,
        key: impl Fn(&R) -> LockedKey,
    ) -> Result<Vec<R>, StoreError> {
        let taken: Vec<R> = self.on_lock.lock(question.clone(), lock).into_model().all(transaction).await?;
        if self.on_lock == OnLock::LeaveOut {
            let ours: HashSet<LockedKey> = taken.iter().map(&key).collect();
            let there: Vec<R> = question.into_model().all(transaction).await?;
            self.locked.extend(there.iter().map(&key).filter(|row| !ours.contains(row)));
        }
        Ok(taken)
    }

    fn is_locked(&self, row: &RowKey) -> bool {
        self.locked.contains(&match row {
            RowKey::Key(..) => return false,
            RowKey::Community(slug) => LockedKey::Community(slug.as_str().to_owned()),
            RowKey::Instance(id) => LockedKey::Instance(*id),
            RowKey::Process(slug, id) => LockedKey::Process(slug.as_str().to_owned(), *id),
        })
    }

    async fn lock_communities(
        &mut self,
        transaction: &DatabaseTransaction,
        slugs: BTreeSet<&str>,
    ) -> Result<(), StoreError> {
        use communities::{Column, Entity};
        let slugs: Vec<&str> = slugs.into_iter().collect();
        for chunk in slugs.chunks(keys::CHUNK) {
            let question = Entity::find()
                .select_only()
                .columns([Column::Slug, Column::Version])
                .filter(Column::Slug.is_in(chunk.iter().copied()))
                .order_by_asc(Column::Slug);
            let key = |row: &CommunityRow| LockedKey::Community(row.slug.clone());
            let rows = self.take(transaction, question, LockType::Update, key).await?;
            self.communities.extend(rows.into_iter().map(|row| (row.slug, row.version)));
        }
        Ok(())
    }

    async fn lock_instances(
        &mut self,
        transaction: &DatabaseTransaction,
        ids: BTreeSet<Uuid>,
        lock: LockType,
    ) -> Result<(), StoreError> {
        for row in self.instance_rows(transaction, ids, lock).await? {
            self.instances.insert(row.id, row);
        }
        Ok(())
    }

    async fn see_instances(
        &mut self,
        transaction: &DatabaseTransaction,
        ids: BTreeSet<Uuid>,
    ) -> Result<(), StoreError> {
        let rows = self.instance_rows(transaction, ids, LockType::KeyShare).await?;
        self.seen.extend(rows.into_iter().map(|row| (row.id, row.version)));
        Ok(())
    }

    async fn instance_rows(
        &mut self,
        transaction: &DatabaseTransaction,
        ids: BTreeSet<Uuid>,
        lock: LockType,
    ) -> Result<Vec<InstanceRow>, StoreError> {
        use plugin_instances::{Column, Entity};
        let ids: Vec<Uuid> = ids.into_iter().collect();
        let mut rows = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(keys::CHUNK) {
            let question = Entity::find()
                .select_only()
                .columns([Column::Id, Column::Community, Column::Version, Column::TickEveryMs])
                .filter(keys::one_of(transaction.get_database_backend(), Column::Id, chunk))
                .order_by_asc(Column::Id);
            let key = |row: &InstanceRow| LockedKey::Instance(row.id);
            rows.extend(self.take(transaction, question, lock, key).await?);
        }
        Ok(rows)
    }

    async fn lock_processes(
        &mut self,
        transaction: &DatabaseTransaction,
        pairs: BTreeSet<(&str, Uuid)>,
    ) -> Result<(), StoreError> {
        use processes::{Column, Entity};
        let pairs: Vec<(&str, Uuid)> = pairs.into_iter().collect();
        for chunk in pairs.chunks(keys::CHUNK) {
            let question = Entity::find()
                .select_only()
                .columns([
                    Column::Community,
                    Column::Id,
                    Column::Status,
                    Column::Version,
                    Column::DueAt,
                    Column::ClosesAt,
                ])
                .filter(keys::any_of(Column::Community, Column::Id, chunk.iter().copied()))
                .order_by_asc(Column::Community)
                .order_by_asc(Column::Id);
            let key = |row: &ProcessRow| LockedKey::Process(row.community.clone(), row.id);
            let rows = self.take(transaction, question, LockType::NoKeyUpdate, key).await?;
            self.processes.extend(rows.into_iter().map(|row| ((row.community.clone(), row.id), row)));
        }
        Ok(())
    }

    fn are_leased_to_another(&self, unit: &Unit) -> bool {
        let Some(holder) = unit.holder else { return false };
        let mut leased = unit.changes.iter().filter_map(Change::leasable);
        !self.holders.is_empty()
            && leased.any(|(community, id)| {
                self.holders.get(&(community.to_owned(), id)).is_some_and(|other| *other != holder)
            })
    }

    /// Whether what the change expects is so.
    fn holds(&self, change: &Change) -> bool {
        match change {
            Change::InsertCommunity { slug, .. } => !self.communities.contains_key(slug.as_str()),
            Change::UpdateCommunity { slug, expected, .. } | Change::DeleteCommunity { slug, expected } => {
                self.communities.get(slug.as_str()) == Some(expected)
            }
            // That its key is free is left to the unique index.
            Change::InsertInstance(_) => true,
            Change::UpdateInstance { id, community, expected, .. }
            | Change::DeleteInstance { id, community, expected } => {
                let row = self.instances.get(id);
                row.is_some_and(|row| row.community == community.as_str() && row.version == *expected)
            }
            Change::InsertProcess(process) => self.process(process).is_none(),
            Change::UpdateProcess { process, expected } => self.process(process).is_some_and(|row| {
                // What has ended never changes again, whatever version the caller expects.
                row.version == *expected && status(&row.status).is_ok_and(|status| !status.is_terminal())
            }),
        }
    }

    pub(super) fn instance(&self, id: Uuid) -> Option<&InstanceRow> {
        self.instances.get(&id)
    }

    pub(super) fn process(&self, process: &Process) -> Option<&ProcessRow> {
        let (community, id) = process_key(process);
        self.processes.get(&(community.to_owned(), id))
    }
}
