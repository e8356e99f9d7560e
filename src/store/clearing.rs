//! Takes away what a community's past has left, before the community itself is deleted.
//!
//! There may be millions of runs, and one transaction that deletes them all would hold a commit lane, locks and the disk
//! for as long. So they go in small statements, one after the other in the order of an index: none of them takes long,
//! none looks at rows that are gone already, and half of the time is left to others. What is left for the transaction
//! that deletes the community is what came meanwhile. A deletion that is interrupted begins again and goes on with the rest.
//!
//! Up: the worker, for `community.delete`. Down: the tables `action_runs` and `processes`.

use metagov_sdk::contract::CommunitySlug;
use sea_orm::{
    ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait, TryGetable, Value,
};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{
    Store, StoreError,
    entity::{action_runs, processes},
    processes::OPEN,
    transaction::bounded,
};

/// Rows of one statement: some milliseconds.
const PART: u64 = 1000;

impl Store {
    /// Deletes the runs and the ended processes of a community in small parts; how many rows that were.
    ///
    /// # Errors
    /// Of the database; what is deleted by then stays deleted.
    pub async fn clear_history(&self, community: &CommunitySlug) -> Result<u64, StoreError> {
        let runs = Condition::all().add(action_runs::Column::Community.eq(community.as_str()));
        let ended = Condition::all()
            .add(processes::Column::Community.eq(community.as_str()))
            .add(processes::Column::Status.is_not_in(OPEN));
        let anonymous = self.clear_anonymous_runs(runs.clone()).await?;
        let keyed = self.clear::<action_runs::Entity, String>(runs, action_runs::Column::MessageId).await?;
        Ok(anonymous + keyed + self.clear::<processes::Entity, Uuid>(ended, processes::Column::Id).await?)
    }

    /// Deletes the rows that the condition holds for, in the order of a column by which an index has them.
    async fn clear<E, K>(&self, rows: Condition, key: E::Column) -> Result<u64, StoreError>
    where
        E: EntityTrait,
        K: TryGetable + Into<Value> + Clone + Send + 'static,
    {
        let (mut after, mut deleted) = (None::<K>, 0);
        loop {
            let begun = Instant::now();
            let floor = after.take().map_or_else(|| key.is_not_null(), |after| key.gt(after));
            let rest = rows.clone().add(floor);
            let last = E::find().select_only().column(key).filter(rest.clone()).order_by_asc(key).offset(PART - 1);
            let (reader, writer) = (self.connections.reader.clone(), self.connections.writer.clone());
            let (last, gone) = bounded(async move {
                let last: Option<K> = last.into_tuple().one(&reader).await?;
                let part = last.iter().fold(rest, |rest, last| rest.add(key.lte(last.clone())));
                let gone = E::delete_many().filter(part).exec(&writer).await?.rows_affected;
                Ok((last, gone))
            })
            .await?;
            deleted += gone;
            if last.is_none() {
                return Ok(deleted);
            }
            after = last;
            sleep(begun.elapsed()).await;
        }
    }

    /// The same for runs without a key, of which no index says an order.
    async fn clear_anonymous_runs(&self, runs: Condition) -> Result<u64, StoreError> {
        use action_runs::{Column, Entity};
        let mut deleted = 0;
        loop {
            let begun = Instant::now();
            let some = Entity::find().select_only().column(Column::Id);
            let some = some.filter(runs.clone()).filter(Column::MessageId.is_null()).limit(PART).into_query();
            let delete = Entity::delete_many().filter(Column::Id.in_subquery(some));
            let writer = self.connections.writer.clone();
            let gone = bounded(async move { Ok(delete.exec(&writer).await?.rows_affected) }).await?;
            deleted += gone;
            if gone < PART {
                return Ok(deleted);
            }
            sleep(begun.elapsed()).await;
        }
    }
}
