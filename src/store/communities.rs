//! Communities: the tenants, by slug.
//!
//! Up: [`super::Change`] creates and changes them. Down: the table `communities`.

use metagov_sdk::contract::{CommunitySlug, Timestamp};

use super::{Store, StoreError};

/// A community as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCommunity {
    /// Its address.
    pub slug: CommunitySlug,
    /// Its name for people.
    pub readable_name: Option<String>,
    /// Counts its changes from 1.
    pub version: i64,
    /// When it was created, by the database's clock.
    pub created_at: Timestamp,
    /// When it was last changed, by the database's clock.
    pub updated_at: Timestamp,
}

impl Store {
    /// The community with this slug.
    ///
    /// # Errors
    /// Of the database.
    pub async fn community(&self, slug: &CommunitySlug) -> Result<Option<StoredCommunity>, StoreError> {
        todo!()
    }

    /// Every community, by slug.
    ///
    /// # Errors
    /// Of the database.
    pub async fn communities(&self) -> Result<Vec<StoredCommunity>, StoreError> {
        todo!()
    }
}
