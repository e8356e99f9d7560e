//! Leases on rows that several workers contend for: which of them may change the row now.
//!
//! A process or a plugin instance is compared and set, so it is right without any lease. But where workers change one row at
//! the same time, each change of one throws away what the others have prepared. So a worker that has lost such a race may
//! take the row for a moment, and whatever other workers prepare for it meanwhile is [`Committed::Stale`](super::Committed)
//! before it is written. A lease ends by itself by the database's clock; then the comparison of versions decides alone.
//!
//! Up: the worker's turns, and [`super::locks`]. Down: the table `row_leases`.

use std::{collections::HashMap, time::Duration};

use metagov_sdk::contract::CommunitySlug;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, DbBackend, EntityTrait, QueryFilter, QuerySelect,
    sea_query::{Expr, ExprTrait, OnConflict, Query},
};
use uuid::Uuid;

use super::{
    Store, StoreError, clock,
    entity::row_leases::{Column, Entity},
    keys,
    transaction::bounded,
};

/// No lease is longer: what ends later was taken before the clock jumped back, and counts no more.
const LONGEST: Duration = Duration::from_mins(1);

impl Store {
    /// Takes or renews the lease of `holder`, a worker, on a process or a plugin instance of this community, for at most a
    /// minute. `false` where another worker has it.
    ///
    /// # Errors
    /// Of the database.
    pub async fn take_lease(
        &self,
        community: &CommunitySlug,
        row: Uuid,
        holder: Uuid,
        lease: Duration,
    ) -> Result<bool, StoreError> {
        let writer = self.connections.writer.clone();
        let backend = writer.get_database_backend();
        let theirs = held(backend).add(ExprTrait::ne(Expr::col((Entity, Column::Holder)), holder));
        let mut unless_theirs = OnConflict::columns([Column::Community, Column::RowId]);
        unless_theirs.update_columns([Column::Holder, Column::Until]).action_cond_where(theirs.not());
        let insert = Query::insert()
            .into_table(Entity)
            .columns([Column::Community, Column::RowId, Column::Holder, Column::Until])
            .values_panic([
                community.as_str().into(),
                row.into(),
                holder.into(),
                clock::after(backend, lease.min(LONGEST)),
            ])
            .on_conflict(unless_theirs)
            .to_owned();
        bounded(async move { Ok(writer.execute(&insert).await?.rows_affected() == 1) }).await
    }

    /// Ends the lease of `holder`, so that another worker need not wait for its end, and takes away what dead workers have
    /// left.
    ///
    /// # Errors
    /// Of the database.
    pub async fn give_back_lease(&self, community: &CommunitySlug, row: Uuid, holder: Uuid) -> Result<(), StoreError> {
        let writer = self.connections.writer.clone();
        let ours = Condition::all()
            .add(Column::Community.eq(community.as_str()))
            .add(Column::RowId.eq(row))
            .add(Column::Holder.eq(holder));
        let delete =
            Entity::delete_many().filter(Condition::any().add(ours).add(held(writer.get_database_backend()).not()));
        bounded(async move {
            delete.exec(&writer).await?;
            Ok(())
        })
        .await
    }
}

/// That a lease counts.
fn held(backend: DbBackend) -> Condition {
    let until = || Expr::col((Entity, Column::Until));
    Condition::all().add(until().gt(clock::now(backend))).add(until().lte(clock::after(backend, LONGEST)))
}

/// Who holds which of these rows.
pub(super) async fn holders(
    transaction: &DatabaseTransaction,
    rows: impl IntoIterator<Item = (&str, Uuid)>,
) -> Result<HashMap<(String, Uuid), Uuid>, StoreError> {
    let rows: Vec<_> = rows.into_iter().collect();
    let mut holders = HashMap::new();
    for chunk in rows.chunks(keys::CHUNK) {
        let leases: Vec<(String, Uuid, Uuid)> = Entity::find()
            .select_only()
            .columns([Column::Community, Column::RowId, Column::Holder])
            .filter(keys::any_of(Column::Community, Column::RowId, chunk.iter().copied()))
            .filter(held(transaction.get_database_backend()))
            .into_tuple()
            .all(transaction)
            .await?;
        holders.extend(leases.into_iter().map(|(community, row, holder)| ((community, row), holder)));
    }
    Ok(holders)
}
