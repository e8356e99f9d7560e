//! Communities: the tenants, by slug.
//!
//! Up: [`super::Change`] creates and changes them. Down: the table `communities`.

use std::{
    collections::{BTreeSet, HashSet},
    str::FromStr,
};

use metagov_sdk::contract::{CommunitySlug, InvalidName, Timestamp};
use sea_orm::{ColumnTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::{Committed, Store, StoreError, Unit, entity::communities as table, keys, transaction::bounded};

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
    pub async fn communities(
        &self,
        after: Option<&CommunitySlug>,
        limit: u64,
    ) -> Result<Vec<StoredCommunity>, StoreError> {
        let reader = self.connections.reader.clone();
        let mut all = table::Entity::find().order_by_asc(table::Column::Slug).limit(limit);
        if let Some(after) = after {
            all = all.filter(table::Column::Slug.gt(after.as_str()));
        }
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

/// Gives the verdict [`Committed::NoCommunity`] on each rejection whose community does not exist. Nothing is locked: a
/// rejection that is stored in the moment in which its community goes harms nobody.
pub(super) async fn check(
    transaction: &DatabaseTransaction,
    units: &[Unit],
    verdicts: &mut [Option<Committed>],
) -> Result<(), StoreError> {
    let slug =
        |unit: &Unit| unit.inbox.as_ref().filter(|_| unit.rejected).map(|entry| entry.community.as_str().to_owned());
    let named = units.iter().zip(&*verdicts).filter(|(_, verdict)| verdict.is_none());
    let named: Vec<String> = named.filter_map(|(unit, _)| slug(unit)).collect::<BTreeSet<_>>().into_iter().collect();
    let mut existing = HashSet::new();
    for chunk in named.chunks(keys::CHUNK) {
        let slugs = table::Entity::find().select_only().column(table::Column::Slug);
        let slugs = slugs.filter(table::Column::Slug.is_in(chunk)).into_tuple::<String>();
        existing.extend(slugs.all(transaction).await?);
    }
    for (unit, verdict) in units.iter().zip(verdicts).filter(|(_, verdict)| verdict.is_none()) {
        if slug(unit).is_some_and(|slug| !existing.contains(&slug)) {
            *verdict = Some(Committed::NoCommunity);
        }
    }
    Ok(())
}

/// A word that was checked before it was stored.
pub(super) fn word<T: FromStr<Err = InvalidName>>(what: &'static str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|error: InvalidName| StoreError::Corrupt { what, reason: error.to_string() })
}
