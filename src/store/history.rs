//! Events that were stored before, to be published once more.
//!
//! Read page by page in the order of their commits, each page from where the one before ended, so that a million events
//! take no more memory than one page. Nothing is changed but the mark of an event that found no queue at first. Up:
//! [`super::outbox`], which wrote them. Down: `metagov events replay`.

use metagov_sdk::contract::{CommunitySlug, Timestamp};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::Expr};
use uuid::Uuid;

use super::{
    OutboxEvent, Store, StoreError, clock,
    entity::outbox::{Column, Entity, Model},
    keys,
    transaction::bounded,
};

/// Which events of a community; the default is all of them.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// From this time on.
    pub since: Option<Timestamp>,
    /// Up to this time, itself not included.
    pub until: Option<Timestamp>,
    /// Those of this plugin, or of `core`.
    pub plugin: Option<String>,
    /// Those of these CloudEvents types; empty for every type.
    pub types: Vec<String>,
    /// Those with these ids; empty for every id.
    pub ids: Vec<Uuid>,
    /// Those that no queue was bound for.
    pub unrouted: bool,
    /// Those that the command with this `message_id` has caused.
    pub caused_by: Option<String>,
}

/// Where in the history of a community an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    created_at: Timestamp,
    position: i32,
    id: Uuid,
}

/// An event that was stored before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastEvent {
    /// Byte for byte what was stored.
    pub event: OutboxEvent,
    /// When it was stored.
    pub stored_at: Timestamp,
    /// Whether no queue was bound for it.
    pub unrouted: bool,
    /// Where the next page begins after it.
    pub place: Place,
}

impl Store {
    /// A page of a community's stored events, in the order of their commits, from after `after` on.
    ///
    /// # Errors
    /// Of the database.
    pub async fn events(
        &self,
        community: &CommunitySlug,
        selection: &Selection,
        after: Option<Place>,
        limit: u64,
    ) -> Result<Vec<PastEvent>, StoreError> {
        let reader = self.connections.reader.clone();
        let backend = reader.get_database_backend();
        let mut wanted = Condition::all().add(Column::Community.eq(community.as_str()));
        let Selection { since, until, plugin, types, ids, unrouted, caused_by } = selection;
        wanted = wanted
            .add_option(since.map(|since| Column::CreatedAt.gte(clock::storable(since))))
            .add_option(until.map(|until| Column::CreatedAt.lt(clock::storable(until))))
            .add_option(plugin.as_ref().map(|plugin| Column::Plugin.eq(plugin.as_str())))
            .add_option((!types.is_empty()).then(|| Column::EventType.is_in(types.iter().cloned())))
            .add_option((!ids.is_empty()).then(|| keys::one_of(backend, Column::Id, ids)))
            .add_option(unrouted.then(|| Column::Unrouted.eq(true)))
            .add_option(caused_by.as_ref().map(|id| Column::CausationId.eq(id.as_str())))
            .add_option(after.map(beyond));
        let page = Entity::find()
            .filter(wanted)
            .order_by_asc(Column::CreatedAt)
            .order_by_asc(Column::Position)
            .order_by_asc(Column::Id)
            .limit(limit);
        let rows = bounded(async move { Ok(page.all(&reader).await?) }).await?;
        rows.into_iter().map(PastEvent::from_row).collect()
    }

    /// The place of a community's event in its history; `None` where it has none with this id.
    ///
    /// # Errors
    /// Of the database.
    pub async fn place_of(&self, community: &CommunitySlug, id: Uuid) -> Result<Option<Place>, StoreError> {
        let reader = self.connections.reader.clone();
        let one = Entity::find_by_id(id).filter(Column::Community.eq(community.as_str()));
        let row = bounded(async move { Ok(one.one(&reader).await?) }).await?;
        Ok(row.map(|row| Place { created_at: row.created_at, position: row.position, id: row.id }))
    }

    /// Takes the mark of having found no queue off events of a community that have found one since.
    ///
    /// # Errors
    /// Of the database. They are then found as unrouted once more.
    pub async fn mark_routed(&self, community: &CommunitySlug, ids: &[Uuid]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let writer = self.connections.writer.clone();
        let routed = Entity::update_many()
            .col_expr(Column::Unrouted, Expr::val(false))
            .filter(Column::Community.eq(community.as_str()))
            .filter(keys::one_of(writer.get_database_backend(), Column::Id, ids));
        bounded(async move {
            routed.exec(&writer).await?;
            Ok(())
        })
        .await
    }
}

/// What stands behind this place. The first condition is for the index; several events have the same time.
fn beyond(place: Place) -> Condition {
    let Place { created_at, position, id } = place;
    let same_position = Condition::all().add(Column::Position.eq(position)).add(Column::Id.gt(id));
    let later =
        Condition::any().add(Column::CreatedAt.gt(created_at)).add(Column::Position.gt(position)).add(same_position);
    Condition::all().add(Column::CreatedAt.gte(created_at)).add(later)
}

impl PastEvent {
    fn from_row(row: Model) -> Result<Self, StoreError> {
        let place = Place { created_at: row.created_at, position: row.position, id: row.id };
        let (stored_at, unrouted) = (row.created_at, row.unrouted);
        Ok(Self { event: OutboxEvent::from_row(row)?, stored_at, unrouted, place })
    }
}
