//! The inbox: which commands were seen, so that one key has one effect.
//!
//! A row is the promise that the command's effect and events are stored with it. Rows outlive their community. Up:
//! [`super::commit`] and [`super::attempts`], which write rows. Down: the table `inbox`.

use metagov_sdk::contract::{CommunitySlug, MessageId};

use super::{OutboxEvent, Store, StoreError};

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
        todo!()
    }
}
