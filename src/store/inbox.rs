//! The inbox: which commands were seen, so that one key has one effect.
//!
//! A row is the promise that the command's effect and events are stored with it. Rows outlive their community. Up:
//! [`super::commit`] and [`super::attempts`], which write rows. Down: the table `inbox`.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use metagov_sdk::contract::{CommunitySlug, MessageId, Timestamp};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder,
    sea_query::{Expr, LockType, OnConflict},
};

use super::{
    Committed, OutboxEvent, RunStatus, Store, StoreError, Unit,
    attempts::LONGER_LEASES,
    clock,
    entity::inbox::{ActiveModel, Column, Entity, Model},
    keys,
    locks::{OnLock, contended},
    outbox, steps,
    transaction::bounded,
};

/// The status of a key that is being attempted.
pub(super) const RUNNING: &str = "running";
/// The status of a key whose effect is stored.
pub(super) const FINISHED: &str = "finished";

/// No attempt takes a longer lease: no handler may run for longer than a day.
const LONGEST_LEASE: Duration = Duration::from_hours(25);

/// The key of a command, and what tells it from another command under the same key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxEntry {
    /// The community that the key belongs to.
    pub community: CommunitySlug,
    /// The command's `message_id`.
    pub message_id: MessageId,
    /// SHA-256 over what the command asks for.
    pub fingerprint: [u8; 32],
    /// Its routing key, for people.
    pub routing_key: String,
}

/// A key that was seen before.
#[derive(Debug, Clone)]
pub enum Seen {
    /// Its effect is stored.
    Finished {
        /// Of the command that used the key.
        fingerprint: [u8; 32],
        /// The events it had.
        events: Vec<OutboxEvent>,
    },
    /// It is being attempted, or its attempt died.
    Running,
}

impl Store {
    /// Whether this key was seen before.
    ///
    /// # Errors
    /// Of the database.
    pub async fn seen(&self, community: &CommunitySlug, message_id: &MessageId) -> Result<Option<Seen>, StoreError> {
        let key = (community.clone(), message_id.clone());
        Ok(self.seen_of(std::slice::from_ref(&key)).await?.remove(&key))
    }

    /// Which of these keys were seen before.
    ///
    /// # Errors
    /// Of the database.
    pub async fn seen_of(
        &self,
        keys: &[(CommunitySlug, MessageId)],
    ) -> Result<HashMap<(CommunitySlug, MessageId), Seen>, StoreError> {
        let mut seen = HashMap::new();
        for chunk in keys.chunks(keys::CHUNK) {
            let (reader, chunk) = (self.connections.reader.clone(), chunk.to_vec());
            seen.extend(bounded(async move { of_chunk(&reader, chunk).await }).await?);
        }
        Ok(seen)
    }
}

async fn of_chunk(
    reader: &impl ConnectionTrait,
    keys: Vec<(CommunitySlug, MessageId)>,
) -> Result<Vec<((CommunitySlug, MessageId), Seen)>, StoreError> {
    let pairs = keys.iter().map(|(community, message_id)| (community.as_str(), message_id.as_str()));
    let mut rows = find(reader, pairs, None).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let finished = rows.values().filter(|row| row.status == FINISHED);
    let mut events =
        outbox::of_keys(reader, finished.map(|row| (row.community.as_str(), row.message_id.as_str()))).await?;
    let mut seen = Vec::with_capacity(rows.len());
    for key in keys {
        let pair = owned((key.0.as_str(), key.1.as_str()));
        match rows.remove(&pair) {
            None => {}
            Some(row) if row.status != FINISHED => seen.push((key, Seen::Running)),
            Some(row) => {
                let events = events.remove(&pair).unwrap_or_default();
                seen.push((key, Seen::Finished { fingerprint: fingerprint(&row)?, events }));
            }
        }
    }
    Ok(seen)
}

impl InboxEntry {
    pub(super) fn key(&self) -> (&str, &str) {
        (self.community.as_str(), self.message_id.as_str())
    }

    pub(super) fn to_row(&self, connection: &impl ConnectionTrait) -> ActiveModel {
        ActiveModel {
            community: Set(self.community.as_str().to_owned()),
            message_id: Set(self.message_id.as_str().to_owned()),
            fingerprint: Set(self.fingerprint.to_vec()),
            routing_key: Set(self.routing_key.clone()),
            status: Set(FINISHED.to_owned()),
            fence: Set(0),
            attempts: Set(1),
            lease_until: NotSet,
            after_death: NotSet,
            created_at: clock::stamp(connection.get_database_backend()),
        }
    }
}

fn fingerprint(row: &Model) -> Result<[u8; 32], StoreError> {
    row.fingerprint.as_slice().try_into().map_err(|_| StoreError::Corrupt {
        what: "inbox.fingerprint",
        reason: format!("it has {} bytes instead of 32", row.fingerprint.len()),
    })
}

/// Inserts the keys of the units that have no fence, and gives a verdict on each whose key was there before. The places
/// of those come back that take their key over, for the attempt that had it is over: they are to be finished.
///
/// This one statement is the deduplication: the keys go in sorted, so that two batches with the same keys wait for
/// each other instead of blocking each other.
pub(super) async fn insert(
    transaction: &DatabaseTransaction,
    units: &[Unit],
    verdicts: &mut [Option<Committed>],
) -> Result<HashSet<usize>, StoreError> {
    let mut entries: Vec<(usize, &InboxEntry)> = units
        .iter()
        .enumerate()
        .filter(|(_, unit)| unit.fence.is_none())
        .filter_map(|(index, unit)| unit.inbox.as_ref().map(|entry| (index, entry)))
        .collect();
    entries.sort_unstable_by_key(|(_, entry)| entry.key());
    let mut fresh: HashSet<(String, String)> = HashSet::with_capacity(entries.len());
    for chunk in entries.chunks(keys::CHUNK) {
        let rows = chunk.iter().map(|(_, entry)| entry.to_row(transaction));
        let conflict = OnConflict::columns([Column::Community, Column::MessageId]).do_nothing().to_owned();
        fresh.extend(Entity::insert_many(rows).on_conflict(conflict).exec_with_returning_keys(transaction).await?);
    }
    entries.retain(|(_, entry)| !fresh.contains(&owned(entry.key())));
    let mut taken_over = HashSet::new();
    if entries.is_empty() {
        return Ok(taken_over);
    }
    let mut rows = find(transaction, entries.iter().map(|(_, entry)| entry.key()), None).await?;
    let free = lock_free(transaction, &mut rows).await?;
    let finished = rows.values().filter(|row| row.status == FINISHED);
    let mut events =
        outbox::of_keys(transaction, finished.map(|row| (row.community.as_str(), row.message_id.as_str()))).await?;
    for (index, entry) in entries {
        let key = owned(entry.key());
        verdicts[index] = Some(match rows.remove(&key) {
            // It was given up between the two statements.
            None => Committed::Stale,
            Some(row) if fingerprint(&row)? != entry.fingerprint => Committed::Conflict,
            Some(row) if row.status == FINISHED => Committed::Repeated(events.remove(&key).unwrap_or_default()),
            Some(_) if free.contains(&key) => {
                taken_over.insert(index);
                continue;
            }
            Some(_) => Committed::InFlight,
        });
    }
    Ok(taken_over)
}

/// Locks the rows whose attempts seem to be over, reads them once more, and says which of them are free: their lease has
/// run out, or was given back. They were left by an action that was declared otherwise then, or by a command that is
/// rejected now before it begins.
async fn lock_free(
    transaction: &DatabaseTransaction,
    rows: &mut HashMap<(String, String), Model>,
) -> Result<HashSet<(String, String)>, StoreError> {
    if rows.values().all(|row| row.status == FINISHED) {
        return Ok(HashSet::new());
    }
    let now = clock::read(transaction).await?;
    let mut seem: Vec<_> = rows.iter().filter(|(_, row)| !is_under_way(row, now)).map(|(key, _)| key.clone()).collect();
    seem.sort_unstable();
    let seem = seem.iter().map(|(community, message_id)| (community.as_str(), message_id.as_str()));
    let locked = find(transaction, seem.clone(), Some(OnLock::Wait)).await?;
    for (community, message_id) in seem {
        rows.remove(&(community.to_owned(), message_id.to_owned()));
    }
    // The locks may have been waited for, and somebody may have begun, or finished, meanwhile.
    let now = clock::read_precisely(transaction).await?;
    let (mut free, mut stranded) = (HashSet::new(), Vec::new());
    for (key, row) in &locked {
        if row.status == RUNNING && row.lease_until.is_none_or(|until| until <= now) {
            free.insert(key.clone());
        } else if !is_under_way(row, now) {
            stranded.push((key.0.as_str(), key.1.as_str()));
        }
    }
    if !stranded.is_empty() {
        Entity::update_many()
            .col_expr(Column::LeaseUntil, Expr::val(clock::later(now, LONGER_LEASES)))
            .filter(keys::any_of(Column::Community, Column::MessageId, stranded))
            .exec(transaction)
            .await?;
    }
    rows.extend(locked);
    Ok(free)
}

/// Whether a key is finished, or has an attempt whose lease holds. One that reaches farther than any was taken before the
/// clock jumped back: it ends as if it was taken now.
fn is_under_way(row: &Model, now: Timestamp) -> bool {
    let holds = |until| until > now && until <= clock::later(now, LONGEST_LEASE);
    row.status == FINISHED || row.lease_until.is_some_and(holds)
}

/// Gives a verdict on each unit whose fence is no longer its own, and keeps the others' from being taken.
pub(super) async fn check_fences(
    transaction: &DatabaseTransaction,
    units: &[Unit],
    verdicts: &mut [Option<Committed>],
    on_lock: OnLock,
) -> Result<(), StoreError> {
    let fenced: Vec<(usize, &InboxEntry, i64)> =
        units.iter().enumerate().filter_map(|(index, unit)| Some((index, unit.inbox.as_ref()?, unit.fence?))).collect();
    if fenced.is_empty() {
        return Ok(());
    }
    let rows = find(transaction, fenced.iter().map(|(_, entry, _)| entry.key()), Some(on_lock)).await?;
    let mut left_out = Vec::new();
    for fenced @ (index, entry, fence) in fenced {
        match rows.get(&owned(entry.key())) {
            Some(row) if row.status == RUNNING && row.fence == fence => {}
            None if on_lock == OnLock::LeaveOut => left_out.push(fenced),
            _ => verdicts[index] = Some(Committed::LostFence),
        }
    }
    let locked = find(transaction, left_out.iter().map(|(_, entry, _)| entry.key()), None).await?;
    for (index, entry, _) in left_out {
        let is_there = locked.contains_key(&owned(entry.key()));
        verdicts[index] = Some(if is_there { contended() } else { Committed::LostFence });
    }
    Ok(())
}

/// Marks the keys of these attempts as finished and takes away their steps; those of an uncertain run stay to be looked
/// at.
pub(super) async fn finish(transaction: &DatabaseTransaction, units: &[&Unit]) -> Result<(), StoreError> {
    let keys: Vec<_> = units.iter().filter_map(|unit| unit.inbox.as_ref()).map(InboxEntry::key).collect();
    for chunk in keys.chunks(keys::CHUNK) {
        Entity::update_many()
            .col_expr(Column::Status, Expr::val(FINISHED))
            .filter(keys::any_of(Column::Community, Column::MessageId, chunk.iter().copied()))
            .exec(transaction)
            .await?;
    }
    let is_certain = |unit: &&&Unit| unit.run.as_ref().is_none_or(|run| run.status != RunStatus::Uncertain);
    let certain = units.iter().filter(is_certain);
    let keys: Vec<_> = certain.filter_map(|unit| unit.inbox.as_ref()).map(InboxEntry::key).collect();
    steps::forget(transaction, &keys).await
}

/// Takes back the keys of units that are not written after all, with the steps of their attempts.
pub(super) async fn take_back(transaction: &DatabaseTransaction, entries: &[&InboxEntry]) -> Result<(), StoreError> {
    for chunk in entries.chunks(keys::CHUNK) {
        Entity::delete_many()
            .filter(keys::any_of(Column::Community, Column::MessageId, chunk.iter().map(|entry| entry.key())))
            .exec(transaction)
            .await?;
    }
    let keys: Vec<_> = entries.iter().map(|entry| entry.key()).collect();
    steps::forget(transaction, &keys).await
}

async fn find<'k>(
    connection: &impl ConnectionTrait,
    pairs: impl IntoIterator<Item = (&'k str, &'k str)>,
    lock: Option<OnLock>,
) -> Result<HashMap<(String, String), Model>, StoreError> {
    let pairs: Vec<_> = pairs.into_iter().collect();
    let mut found = HashMap::with_capacity(pairs.len());
    for chunk in pairs.chunks(keys::CHUNK) {
        let mut select = Entity::find()
            .filter(keys::any_of(Column::Community, Column::MessageId, chunk.iter().copied()))
            .order_by_asc(Column::Community)
            .order_by_asc(Column::MessageId);
        if let Some(on_lock) = lock {
            select = on_lock.lock(select, LockType::Update);
        }
        let rows = select.all(connection).await?;
        found.extend(rows.into_iter().map(|row| ((row.community.clone(), row.message_id.clone()), row)));
    }
    Ok(found)
}

fn owned((community, message_id): (&str, &str)) -> (String, String) {
    (community.to_owned(), message_id.to_owned())
}
