//! What is due: processes to be polled or closed, instances to be ticked.
//!
//! A claim and the next due time are one transaction, and rows that another scheduler is claiming are passed over, so
//! any number of schedulers may ask at once. The clock is the database's. A claim whose command is lost comes again
//! with the next interval.
//!
//! Up: the scheduler's scan, each second. Down: the tables `processes` and `plugin_instances`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use metagov_sdk::contract::{CommunitySlug, Name, ProcessStatus, Timestamp};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, ExprTrait, LockBehavior, LockType},
};
use uuid::Uuid;

use super::{
    Process, Store, StoreError, clock,
    communities::word,
    entity::{plugin_instances, processes},
    instances::from_millis,
    keys,
    transaction::bounded,
};

/// When to try again to close a process whose time is over and that is not polled.
pub(super) const CLOSE_AGAIN: Duration = Duration::from_secs(30);

/// A process that was due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueProcess {
    /// Its community.
    pub community: CommunitySlug,
    /// The plugin.
    pub plugin: Name,
    /// Its name within the plugin.
    pub process: Name,
    /// Its id.
    pub id: Uuid,
    /// When it was due.
    pub due_at: Timestamp,
}

/// A plugin instance whose tick was due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueTick {
    /// Its community.
    pub community: CommunitySlug,
    /// The plugin.
    pub plugin: Name,
    /// The instance.
    pub instance_id: Uuid,
    /// When it was due.
    pub due_at: Timestamp,
}

impl Store {
    /// The plugins of which something is due.
    ///
    /// # Errors
    /// Of the database.
    pub async fn due_plugins(&self) -> Result<BTreeSet<Name>, StoreError> {
        let reader = self.connections.reader.clone();
        bounded(async move { due_plugins(&reader).await }).await
    }

    /// Claims processes that are due, the longest due first, and moves each to its next due time. Those of the plugins
    /// that are held back stay as they are.
    ///
    /// # Errors
    /// Of the database; nothing is claimed then.
    pub async fn claim_due_processes(&self, limit: u64, held_back: &[Name]) -> Result<Vec<DueProcess>, StoreError> {
        use processes::{Column, Entity};
        let held_back = words(held_back);
        self.transaction(move |transaction| {
            Box::pin(async move {
                let now = clock::read(transaction).await?;
                let rows = Entity::find()
                    .filter(Column::Status.eq(ProcessStatus::Pending.as_str()))
                    .filter(Column::DueAt.lte(now))
                    .filter(Column::Plugin.is_not_in(held_back))
                    .order_by_asc(Column::DueAt)
                    .limit(limit)
                    .lock_with_behavior(LockType::NoKeyUpdate, LockBehavior::SkipLocked)
                    .all(transaction)
                    .await?;
                // Most share the interval of their plugin, so most go to the same time.
                let mut moved: BTreeMap<Option<Timestamp>, Vec<(&str, Uuid)>> = BTreeMap::new();
                for row in &rows {
                    let next = after_claim(now, row.poll_every_ms.map(from_millis), row.closes_at);
                    moved.entry(next).or_default().push((&row.community, row.id));
                }
                for (due_at, pairs) in moved {
                    for chunk in pairs.chunks(keys::CHUNK) {
                        Entity::update_many()
                            .col_expr(Column::DueAt, Expr::val(due_at))
                            .filter(keys::any_of(Column::Community, Column::Id, chunk.iter().copied()))
                            .exec(transaction)
                            .await?;
                    }
                }
                rows.into_iter()
                    .map(|row| {
                        Ok(DueProcess {
                            community: word("processes.community", &row.community)?,
                            plugin: word("processes.plugin", &row.plugin)?,
                            process: word("processes.process", &row.process)?,
                            id: row.id,
                            due_at: row.due_at.unwrap_or(now),
                        })
                    })
                    .collect()
            })
        })
        .await
    }

    /// Claims ticks that are due, as [`Store::claim_due_processes`] does processes.
    ///
    /// # Errors
    /// Of the database; nothing is claimed then.
    pub async fn claim_due_ticks(&self, limit: u64, held_back: &[Name]) -> Result<Vec<DueTick>, StoreError> {
        use plugin_instances::{Column, Entity};
        let held_back = words(held_back);
        self.transaction(move |transaction| {
            Box::pin(async move {
                let backend = transaction.get_database_backend();
                let now = clock::read(transaction).await?;
                let rows = Entity::find()
                    .filter(Column::DueAt.lte(now))
                    .filter(Column::Plugin.is_not_in(held_back))
                    .order_by_asc(Column::DueAt)
                    .limit(limit)
                    .lock_with_behavior(LockType::NoKeyUpdate, LockBehavior::SkipLocked)
                    .all(transaction)
                    .await?;
                let mut moved: BTreeMap<Option<i64>, Vec<Uuid>> = BTreeMap::new();
                for row in &rows {
                    moved.entry(row.tick_every_ms).or_default().push(row.id);
                }
                for (every, ids) in moved {
                    let due_at = every.map(|every| clock::later(now, from_millis(every)));
                    for chunk in ids.chunks(keys::CHUNK) {
                        Entity::update_many()
                            .col_expr(Column::DueAt, Expr::val(due_at))
                            .filter(keys::one_of(backend, Column::Id, chunk))
                            .exec(transaction)
                            .await?;
                    }
                }
                rows.into_iter()
                    .map(|row| {
                        Ok(DueTick {
                            community: word("plugin_instances.community", &row.community)?,
                            plugin: word("plugin_instances.plugin", &row.plugin)?,
                            instance_id: row.id,
                            due_at: row.due_at.unwrap_or(now),
                        })
                    })
                    .collect()
            })
        })
        .await
    }

    /// Puts off the next look at an open process, for its platform asked for so much time. Never to a time after it
    /// closes, and never to an earlier one than is set.
    ///
    /// # Errors
    /// Of the database.
    pub async fn put_off_process(&self, community: &CommunitySlug, id: Uuid, wait: Duration) -> Result<(), StoreError> {
        use processes::{Column, Entity};
        let key = (community.as_str().to_owned(), id);
        self.transaction(move |transaction| {
            Box::pin(async move {
                let now = clock::read(transaction).await?;
                let Some(row) = Entity::find_by_id(key).lock_exclusive().one(transaction).await? else { return Ok(()) };
                let due_at = after_claim(now, Some(wait), row.closes_at);
                if row.due_at.is_some() && row.due_at < due_at {
                    let put_off = Entity::update_many().col_expr(Column::DueAt, Expr::val(due_at));
                    let of_row = Column::Community.eq(row.community).and(Column::Id.eq(row.id));
                    put_off.filter(of_row).exec(transaction).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Puts off the next tick of an instance, for its platform asked for so much time; never to an earlier time than is
    /// set.
    ///
    /// # Errors
    /// Of the database.
    pub async fn put_off_tick(&self, community: &CommunitySlug, id: Uuid, wait: Duration) -> Result<(), StoreError> {
        use plugin_instances::{Column, Entity};
        let of_row = Column::Community.eq(community.as_str()).and(Column::Id.eq(id));
        self.transaction(move |transaction| {
            Box::pin(async move {
                let due_at = clock::later(clock::read(transaction).await?, wait);
                let put_off = Entity::update_many().col_expr(Column::DueAt, Expr::val(due_at));
                put_off.filter(of_row.and(Column::DueAt.lt(due_at))).exec(transaction).await?;
                Ok(())
            })
        })
        .await
    }
}

async fn due_plugins(reader: &impl ConnectionTrait) -> Result<BTreeSet<Name>, StoreError> {
    let now = clock::read(reader).await?;
    let of_processes = processes::Entity::find()
        .select_only()
        .column(processes::Column::Plugin)
        .distinct()
        .filter(processes::Column::Status.eq(ProcessStatus::Pending.as_str()))
        .filter(processes::Column::DueAt.lte(now));
    let of_ticks = plugin_instances::Entity::find()
        .select_only()
        .column(plugin_instances::Column::Plugin)
        .distinct()
        .filter(plugin_instances::Column::DueAt.lte(now));
    let mut plugins: Vec<String> = of_processes.into_tuple().all(reader).await?;
    plugins.extend(of_ticks.into_tuple::<String>().all(reader).await?);
    plugins.iter().map(|plugin| word("plugin", plugin)).collect()
}

fn words(plugins: &[Name]) -> Vec<String> {
    plugins.iter().map(ToString::to_string).collect()
}

/// What a process waited for before it was changed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Before {
    pub(super) due_at: Option<Timestamp>,
    pub(super) closes_at: Option<Timestamp>,
}

/// When a new process is first looked at: after its interval, or when it closes.
pub(super) fn first(process: &Process, now: Timestamp) -> Option<Timestamp> {
    next(process, Before::default(), now)
}

/// When a process is looked at next after a change. A poll that was coming is never put off by the change, or a vote
/// with many webhooks would never be polled.
pub(super) fn next(process: &Process, before: Before, now: Timestamp) -> Option<Timestamp> {
    if process.record.status != ProcessStatus::Pending {
        return None;
    }
    let closes_at = process.record.closes_at.map(clock::storable);
    // Where the time is over and was so before, closing was tried: the claim has set when to try again.
    let closing = closes_at.filter(|closes_at| *closes_at > now || before.closes_at != Some(*closes_at));
    let polling = process.poll_every.map(|every| clock::later(now, every));
    match (polling, closing) {
        (None, Some(closing)) => Some(closing),
        (None, None) if closes_at.is_none() => None,
        (None, None) => Some(before.due_at.unwrap_or_else(|| clock::later(now, CLOSE_AGAIN))),
        (polling, closing) => [before.due_at, polling, closing].into_iter().flatten().min(),
    }
}

/// When a process that was claimed is looked at again.
fn after_claim(now: Timestamp, poll_every: Option<Duration>, closes_at: Option<Timestamp>) -> Option<Timestamp> {
    let closing = closes_at.filter(|closes_at| *closes_at > now);
    match poll_every {
        Some(every) => [Some(clock::later(now, every)), closing].into_iter().flatten().min(),
        None => closing.or_else(|| Some(clock::later(now, CLOSE_AGAIN))),
    }
}

#[cfg(test)]
#[path = "due/tests.rs"]
mod tests;
