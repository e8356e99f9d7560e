//! Communities: the tenants, by slug.
//!
//! Up: [`super::Change`] creates and changes them. Down: the table `communities`.

use std::str::FromStr;

use metagov_sdk::contract::{CommunitySlug, InvalidName, Timestamp};
use sea_orm::{EntityTrait, QueryOrder};

use super::{Store, StoreError, entity::communities as table, transaction::bounded};

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
        let reader = self.connections.reader.clone();
        let one = table::Entity::find_by_id(slug.as_str());
        let row = bounded(async move { Ok(one.one(&reader).await?) }).await?;
        row.map(StoredCommunity::from_row).transpose()
    }

    /// Every community, by slug.
    ///
    /// # Errors
    /// Of the database.
    pub async fn communities(&self) -> Result<Vec<StoredCommunity>, StoreError> {
        let reader = self.connections.reader.clone();
        let all = table::Entity::find().order_by_asc(table::Column::Slug);
        let rows = bounded(async move { Ok(all.all(&reader).await?) }).await?;
        rows.into_iter().map(StoredCommunity::from_row).collect()
    }
}

impl StoredCommunity {
    fn from_row(row: table::Model) -> Result<Self, StoreError> {
        Ok(Self {
            slug: word("communities.slug", &row.slug)?,
            readable_name: row.readable_name,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// A word that was checked before it was stored.
pub(super) fn word<T: FromStr<Err = InvalidName>>(what: &'static str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|error: InvalidName| StoreError::Corrupt { what, reason: error.to_string() })
}
