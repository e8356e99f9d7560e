//! The outbox: every event, written with the state that it describes, published afterwards.
//!
//! The body is kept byte for byte, so that a repetition is the same event. A row that stays unmarked is published by the
//! relay ([`super::overdue`]); a marked one can be replayed ([`super::history`]). Up: [`super::commit`], which writes rows. Down: the table `outbox`, and
//! whoever publishes.

use std::{collections::HashMap, sync::Arc};

use metagov_sdk::contract::{CommunitySlug, Timestamp};
use sea_orm::{
    ActiveValue::{self, NotSet, Set},
    ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder,
    sea_query::OnConflict,
};
use uuid::Uuid;

use super::{
    Committed, Store, StoreError, Unit, clock,
    communities::word,
    entity::outbox::{ActiveModel, Column, Entity, Model},
    keys,
    transaction::bounded,
};

/// An event as it is stored and published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEvent {
    /// The id of the event, the same however often its command is handled.
    pub id: Uuid,
    /// The community it belongs to.
    pub community: CommunitySlug,
    /// The plugin, or `core`.
    pub plugin: String,
    /// Where on the events exchange.
    pub routing_key: String,
    /// The CloudEvents type.
    pub event_type: String,
    /// The whole event as JSON, byte for byte.
    pub body: Arc<str>,
    /// The driver's correlation id.
    pub correlation_id: Option<String>,
    /// The W3C trace context to publish it with.
    pub traceparent: Option<String>,
    /// The `message_id` of the command that caused it.
    pub causation_id: Option<String>,
    /// The process it tells about.
    pub process_id: Option<Uuid>,
    /// The version of that process.
    pub sequence: Option<i64>,
    /// Whether it is the command's final event, the one that a reply gets.
    pub last: bool,
}

impl Store {
    /// Marks events as published and confirmed, by one statement. The flag says that the event came back because no
    /// queue is bound for it.
    ///
    /// # Errors
    /// Of the database. The events are then published once more by the relay, under the same ids.
    pub async fn mark_published(&self, events: &[(Uuid, bool)]) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = events.iter().map(|(id, _)| *id).collect();
        let unrouted: Vec<Uuid> = events.iter().filter(|(_, unrouted)| *unrouted).map(|(id, _)| *id).collect();
        let writer = self.connections.writer.clone();
        let backend = writer.get_database_backend();
        let mut update = Entity::update_many().col_expr(Column::PublishedAt, clock::now(backend));
        if !unrouted.is_empty() {
            update = update.col_expr(Column::Unrouted, keys::one_of(backend, Column::Id, &unrouted));
        }
        // A statement alone needs no transaction around it.
        let update = update.filter(keys::one_of(backend, Column::Id, &ids));
        bounded(async move {
            update.exec(&writer).await?;
            Ok(())
        })
        .await
    }

    /// The stored ones of these events of a community, in the order in which they were written.
    ///
    /// # Errors
    /// Of the database.
    pub async fn stored_events(&self, community: &CommunitySlug, ids: &[Uuid]) -> Result<Vec<OutboxEvent>, StoreError> {
        let (reader, ids) = (self.connections.reader.clone(), ids.to_vec());
        let mut events = bounded(async move { with_ids(&reader, &ids).await }).await?;
        events.retain(|event| event.community == *community);
        Ok(events)
    }
}

/// The events of commands, by community and key, each list in its order.
pub(super) async fn of_keys<'k>(
    connection: &impl ConnectionTrait,
    pairs: impl IntoIterator<Item = (&'k str, &'k str)>,
) -> Result<HashMap<(String, String), Vec<OutboxEvent>>, StoreError> {
    let pairs: Vec<_> = pairs.into_iter().collect();
    let mut found: HashMap<_, Vec<_>> = HashMap::new();
    for chunk in pairs.chunks(keys::CHUNK) {
        let rows = Entity::find()
            .filter(keys::any_of(Column::Community, Column::InboxKey, chunk.iter().copied()))
            .order_by_asc(Column::Position)
            .all(connection)
            .await?;
        for mut row in rows {
            let key = (row.community.clone(), row.inbox_key.take().unwrap_or_default());
            found.entry(key).or_default().push(OutboxEvent::from_row(row)?);
        }
    }
    Ok(found)
}

/// Gives the verdict [`Committed::Repeated`] on each unit without a key whose events are there: it was written before, and
/// the answer that said so was lost.
pub(super) async fn recognise(
    transaction: &DatabaseTransaction,
    units: &[Unit],
    verdicts: &mut [Option<Committed>],
) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = units.iter().filter(|unit| unit.inbox.is_none()).flat_map(Unit::event_ids).collect();
    let mut stored: HashMap<Uuid, OutboxEvent> =
        with_ids(transaction, &ids).await?.into_iter().map(|event| (event.id, event)).collect();
    if stored.is_empty() {
        return Ok(());
    }
    for (unit, verdict) in units.iter().zip(verdicts).filter(|(unit, _)| unit.inbox.is_none()) {
        let events: Vec<_> = unit.event_ids().filter_map(|id| stored.remove(&id)).collect();
        if !events.is_empty() {
            *verdict = Some(Committed::Repeated(events));
        }
    }
    Ok(())
}

/// The stored ones of these events, in the order in which they were written.
async fn with_ids(connection: &impl ConnectionTrait, ids: &[Uuid]) -> Result<Vec<OutboxEvent>, StoreError> {
    let mut found = Vec::new();
    for chunk in ids.chunks(keys::CHUNK) {
        let of_chunk = keys::one_of(connection.get_database_backend(), Column::Id, chunk);
        let rows = Entity::find().filter(of_chunk).order_by_asc(Column::CreatedAt).order_by_asc(Column::Position);
        for row in rows.all(connection).await? {
            found.push(OutboxEvent::from_row(row)?);
        }
    }
    Ok(found)
}

/// Writes the events of the units. An event with the id of a stored one is the same event, and that stays as it was.
///
/// # Errors
/// [`StoreError::Constraint`] where a unit without a key has such an event: another copy of its command was faster, in this
/// batch or elsewhere, and what that one says is to be published. [`recognise`] finds it the next time.
pub(super) async fn insert(transaction: &DatabaseTransaction, units: &[&Unit]) -> Result<(), StoreError> {
    let created_at = clock::stamp(transaction.get_database_backend());
    let of_units = units.iter().flat_map(|unit| unit.events.iter().map(move |event| (*unit, event)));
    let rows = of_units.zip(0..).map(|((unit, event), position)| event.to_row(unit, position, created_at.clone()));
    let (keyed, keyless): (Vec<_>, Vec<_>) = rows.partition(|row| row.inbox_key.as_ref().is_some());
    for chunk in keyed.chunks(keys::CHUNK) {
        let insert =
            Entity::insert_many(chunk.to_vec()).on_conflict(OnConflict::column(Column::Id).do_nothing().to_owned());
        insert.exec_without_returning(transaction).await?;
    }
    for chunk in keyless.chunks(keys::CHUNK) {
        Entity::insert_many(chunk.to_vec()).exec_without_returning(transaction).await?;
    }
    Ok(())
}

impl OutboxEvent {
    fn to_row(&self, unit: &Unit, position: i32, created_at: ActiveValue<Timestamp>) -> ActiveModel {
        ActiveModel {
            id: Set(self.id),
            community: Set(self.community.as_str().to_owned()),
            inbox_key: Set(unit.inbox.as_ref().map(|entry| entry.message_id.as_str().to_owned())),
            position: Set(position),
            plugin: Set(self.plugin.clone()),
            routing_key: Set(self.routing_key.clone()),
            event_type: Set(self.event_type.clone()),
            body: Set(self.body.as_ref().to_owned()),
            correlation_id: Set(self.correlation_id.clone()),
            traceparent: Set(self.traceparent.clone()),
            causation_id: Set(self.causation_id.clone()),
            process_id: Set(self.process_id),
            sequence: Set(self.sequence),
            last: Set(self.last),
            unrouted: NotSet,
            published_at: NotSet,
            claimed_until: NotSet,
            refusals: NotSet,
            created_at,
        }
    }

    pub(super) fn from_row(row: Model) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id,
            community: word("outbox.community", &row.community)?,
            plugin: row.plugin,
            routing_key: row.routing_key,
            event_type: row.event_type,
            body: row.body.into(),
            correlation_id: row.correlation_id,
            traceparent: row.traceparent,
            causation_id: row.causation_id,
            process_id: row.process_id,
            sequence: row.sequence,
            last: row.last,
        })
    }
}
