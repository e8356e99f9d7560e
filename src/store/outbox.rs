//! The outbox: every event, written with the state that it describes, published afterwards.
//!
//! The body is kept byte for byte, so that a repetition is the same event. A row that stays unmarked is published by a
//! sweeper; a marked one can be replayed. Up: [`super::commit`], which writes rows. Down: the table `outbox`, and
//! whoever publishes.

use std::{sync::Arc, time::Duration};

use metagov_sdk::contract::{CommunitySlug, Timestamp};
use uuid::Uuid;

use super::{Store, StoreError};

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
    /// Of the database. The events are then published once more by the sweeper, under the same ids.
    pub async fn mark_published(&self, events: &[(Uuid, bool)]) -> Result<(), StoreError> {
        todo!()
    }

    /// Takes the oldest events that were committed at least `older_than` ago and are not marked as published. They are
    /// ours for half a minute, so that two sweepers do not publish the same.
    ///
    /// # Errors
    /// Of the database.
    pub async fn unpublished(&self, older_than: Duration, limit: u64) -> Result<Vec<OutboxEvent>, StoreError> {
        todo!()
    }

    /// Stored events of a community in the order of their commits, to be published once more: those from `since` on,
    /// and only those in `ids` unless that is empty.
    ///
    /// # Errors
    /// Of the database.
    pub async fn events(
        &self,
        community: &CommunitySlug,
        since: Option<Timestamp>,
        ids: &[Uuid],
        limit: u64,
    ) -> Result<Vec<OutboxEvent>, StoreError> {
        todo!()
    }
}
