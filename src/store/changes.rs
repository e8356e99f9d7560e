//! Changes of communities, instances and processes: compare, then set.
//!
//! [`lock`] reads the versions of everything the units saw or want to change, with locks, and leaves out the units for
//! which they no longer hold. [`apply`] then writes without a further look: nobody else can have changed the rows.
//!
//! Up: [`super::commit`]. Down: the tables `communities`, `plugin_instances`, `processes`.

use std::collections::{BTreeSet, HashMap};

use metagov_sdk::contract::Timestamp;
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, FromQueryResult, Iterable, PaginatorTrait,
    QueryFilter, QueryOrder, QuerySelect, Select,
    sea_query::{Expr, ExprTrait, LockType, OnConflict},
};
use uuid::Uuid;

use super::{
    Change, Committed, NewInstance, Process, StoreError, Unit, clock, due,
    entity::{action_runs, communities, plugin_instances, processes},
    instances::to_millis,
    json, keys,
    processes::{OPEN, status},
};

/// The rows that the units want to change, as they are.
#[derive(Default)]
pub(super) struct Rows {
    communities: HashMap<String, i64>,
    instances: HashMap<Uuid, InstanceRow>,
    seen: HashMap<Uuid, i64>,
    processes: HashMap<(String, Uuid), ProcessRow>,
}

#[derive(FromQueryResult)]
struct CommunityRow {
    slug: String,
    version: i64,
}

#[derive(FromQueryResult)]
struct InstanceRow {
    id: Uuid,
    community: String,
    version: i64,
    tick_every_ms: Option<i64>,
    due_at: Option<Timestamp>,
}

#[derive(FromQueryResult)]
struct ProcessRow {
    community: String,
    id: Uuid,
    status: String,
    version: i64,
    due_at: Option<Timestamp>,
    closes_at: Option<Timestamp>,
}

/// Locks what the units want to change and gives the verdict [`Committed::Stale`] on those that come too late.
pub(super) async fn lock(
    transaction: &DatabaseTransaction,
    units: &[Unit],
    verdicts: &mut [Option<Committed>],
) -> Result<Rows, StoreError> {
    let live = || units.iter().zip(&*verdicts).filter(|(_, verdict)| verdict.is_none()).map(|(unit, _)| unit);
    let mut communities: BTreeSet<&str> = BTreeSet::new();
    let mut updated: BTreeSet<Uuid> = BTreeSet::new();
    let mut deleted: BTreeSet<Uuid> = BTreeSet::new();
    let mut processes: BTreeSet<(&str, Uuid)> = BTreeSet::new();
    for change in live().flat_map(|unit| &unit.changes) {
        match change {
            Change::InsertCommunity { slug, .. }
            | Change::UpdateCommunity { slug, .. }
            | Change::DeleteCommunity { slug, .. } => {
                communities.insert(slug.as_str());
            }
            Change::InsertInstance(_) => {}
            Change::UpdateInstance { id, .. } => {
                updated.insert(*id);
            }
            Change::DeleteInstance { id, .. } => {
                deleted.insert(*id);
            }
            Change::InsertProcess(process) | Change::UpdateProcess { process, .. } => {
                processes.insert(process_key(process));
            }
        }
    }
    updated.retain(|id| !deleted.contains(id));
    let seen: BTreeSet<Uuid> = live().filter_map(|unit| unit.saw).map(|saw| saw.id).collect();

    let mut rows = Rows::default();
    rows.lock_communities(transaction, communities).await?;
    rows.lock_instances(transaction, deleted, LockType::Update).await?;
    rows.lock_instances(transaction, updated, LockType::NoKeyUpdate).await?;
    // Lighter than the locks above: it waits for nobody but those who delete, and lets nobody but them wait. So a
    // process is never started in an instance that is being disabled.
    rows.see_instances(transaction, seen).await?;
    rows.lock_processes(transaction, processes).await?;

    let mut claimed = BTreeSet::new();
    for (unit, verdict) in units.iter().zip(verdicts).filter(|(_, verdict)| verdict.is_none()) {
        let saw_holds = unit.saw.is_none_or(|saw| rows.seen.get(&saw.id) == Some(&saw.version));
        // Of two units that change the same row, the second has not seen what the first makes of it.
        let changes_hold = unit.changes.iter().all(|change| rows.holds(change) && claimed.insert(target(change)));
        if !(saw_holds && changes_hold) {
            *verdict = Some(Committed::Stale);
        }
    }
    Ok(rows)
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Target<'c> {
    Community(&'c str),
    Instance(Uuid),
    Process(&'c str, Uuid),
}

fn target(change: &Change) -> Target<'_> {
    match change {
        Change::InsertCommunity { slug, .. }
        | Change::UpdateCommunity { slug, .. }
        | Change::DeleteCommunity { slug, .. } => Target::Community(slug.as_str()),
        Change::InsertInstance(NewInstance { id, .. })
        | Change::UpdateInstance { id, .. }
        | Change::DeleteInstance { id, .. } => Target::Instance(*id),
        Change::InsertProcess(process) | Change::UpdateProcess { process, .. } => {
            Target::Process(process.record.community.as_str(), process.record.id)
        }
    }
}

fn process_key(process: &Process) -> (&str, Uuid) {
    (process.record.community.as_str(), process.record.id)
}

impl Rows {
    async fn lock_communities(
        &mut self,
        transaction: &DatabaseTransaction,
        slugs: BTreeSet<&str>,
    ) -> Result<(), StoreError> {
        use communities::{Column, Entity};
        let slugs: Vec<&str> = slugs.into_iter().collect();
        for chunk in slugs.chunks(keys::CHUNK) {
            let rows: Vec<CommunityRow> = Entity::find()
                .select_only()
                .columns([Column::Slug, Column::Version])
                .filter(Column::Slug.is_in(chunk.iter().copied()))
                .order_by_asc(Column::Slug)
                .lock(LockType::Update)
                .into_model()
                .all(transaction)
                .await?;
            self.communities.extend(rows.into_iter().map(|row| (row.slug, row.version)));
        }
        Ok(())
    }

    async fn lock_instances(
        &mut self,
        transaction: &DatabaseTransaction,
        ids: BTreeSet<Uuid>,
        lock: LockType,
    ) -> Result<(), StoreError> {
        for row in instance_rows(transaction, ids, lock).await? {
            self.instances.insert(row.id, row);
        }
        Ok(())
    }

    async fn see_instances(
        &mut self,
        transaction: &DatabaseTransaction,
        ids: BTreeSet<Uuid>,
    ) -> Result<(), StoreError> {
        let rows = instance_rows(transaction, ids, LockType::KeyShare).await?;
        self.seen.extend(rows.into_iter().map(|row| (row.id, row.version)));
        Ok(())
    }

    async fn lock_processes(
        &mut self,
        transaction: &DatabaseTransaction,
        pairs: BTreeSet<(&str, Uuid)>,
    ) -> Result<(), StoreError> {
        use processes::{Column, Entity};
        let pairs: Vec<(&str, Uuid)> = pairs.into_iter().collect();
        for chunk in pairs.chunks(keys::CHUNK) {
            let rows: Vec<ProcessRow> = Entity::find()
                .select_only()
                .columns([
                    Column::Community,
                    Column::Id,
                    Column::Status,
                    Column::Version,
                    Column::DueAt,
                    Column::ClosesAt,
                ])
                .filter(keys::any_of(Column::Community, Column::Id, chunk.iter().copied()))
                .order_by_asc(Column::Community)
                .order_by_asc(Column::Id)
                .lock(LockType::NoKeyUpdate)
                .into_model()
                .all(transaction)
                .await?;
            self.processes.extend(rows.into_iter().map(|row| ((row.community.clone(), row.id), row)));
        }
        Ok(())
    }

    /// Whether what the change expects is so.
    fn holds(&self, change: &Change) -> bool {
        match change {
            Change::InsertCommunity { slug, .. } => !self.communities.contains_key(slug.as_str()),
            Change::UpdateCommunity { slug, expected, .. } | Change::DeleteCommunity { slug, expected } => {
                self.communities.get(slug.as_str()) == Some(expected)
            }
            // That its key is free is left to the unique index.
            Change::InsertInstance(_) => true,
            Change::UpdateInstance { id, community, expected, .. }
            | Change::DeleteInstance { id, community, expected } => {
                let row = self.instances.get(id);
                row.is_some_and(|row| row.community == community.as_str() && row.version == *expected)
            }
            Change::InsertProcess(process) => self.process(process).is_none(),
            Change::UpdateProcess { process, expected } => self.process(process).is_some_and(|row| {
                // What has ended never changes again, whatever version the caller expects.
                row.version == *expected && status(&row.status).is_ok_and(|status| !status.is_terminal())
            }),
        }
    }

    fn process(&self, process: &Process) -> Option<&ProcessRow> {
        let (community, id) = process_key(process);
        self.processes.get(&(community.to_owned(), id))
    }
}

async fn instance_rows(
    transaction: &DatabaseTransaction,
    ids: BTreeSet<Uuid>,
    lock: LockType,
) -> Result<Vec<InstanceRow>, StoreError> {
    use plugin_instances::{Column, Entity};
    let ids: Vec<Uuid> = ids.into_iter().collect();
    let mut rows = Vec::with_capacity(ids.len());
    for chunk in ids.chunks(keys::CHUNK) {
        let select: Select<Entity> = Entity::find()
            .select_only()
            .columns([Column::Id, Column::Community, Column::Version, Column::TickEveryMs, Column::DueAt])
            .filter(keys::one_of(transaction.get_database_backend(), Column::Id, chunk))
            .order_by_asc(Column::Id)
            .lock(lock);
        rows.extend(select.into_model::<InstanceRow>().all(transaction).await?);
    }
    Ok(rows)
}

/// Writes the changes of the units, grouped so that an instance is deleted after its processes have ended.
pub(super) async fn apply(transaction: &DatabaseTransaction, units: &[&Unit], rows: &Rows) -> Result<(), StoreError> {
    let changes: Vec<&Change> = units.iter().flat_map(|unit| &unit.changes).collect();
    if changes.is_empty() {
        return Ok(());
    }
    let now = clock::read(transaction).await?;
    write_communities(transaction, &changes, now).await?;
    write_processes(transaction, &changes, rows, now).await?;
    delete_instances(transaction, &changes).await?;
    write_instances(transaction, &changes, rows, now).await?;
    delete_communities(transaction, &changes).await
}

async fn write_communities(
    transaction: &DatabaseTransaction,
    changes: &[&Change],
    now: Timestamp,
) -> Result<(), StoreError> {
    use communities::{ActiveModel, Column, Entity};
    for change in changes {
        match change {
            Change::InsertCommunity { slug, readable_name } => {
                let row = ActiveModel {
                    slug: Set(slug.as_str().to_owned()),
                    readable_name: Set(readable_name.clone()),
                    version: Set(1),
                    created_at: Set(now),
                    updated_at: Set(now),
                };
                Entity::insert(row).exec_without_returning(transaction).await?;
            }
            Change::UpdateCommunity { slug, readable_name, .. } => {
                Entity::update_many()
                    .col_expr(Column::ReadableName, Expr::val(readable_name.clone()))
                    .col_expr(Column::Version, Expr::col(Column::Version).add(1))
                    .col_expr(Column::UpdatedAt, Expr::val(now))
                    .filter(Column::Slug.eq(slug.as_str()))
                    .exec(transaction)
                    .await?;
            }
            _ => {}
        }
    }
    Ok(())
}

async fn write_processes(
    transaction: &DatabaseTransaction,
    changes: &[&Change],
    rows: &Rows,
    now: Timestamp,
) -> Result<(), StoreError> {
    use processes::{Column, Entity};
    let mut new = Vec::new();
    let mut moved = Vec::new();
    for change in changes {
        match change {
            Change::InsertProcess(process) => new.push(process.to_row(due::first(process, now))?),
            Change::UpdateProcess { process, .. } => {
                let row = rows.process(process);
                let before = due::Before {
                    due_at: row.and_then(|row| row.due_at),
                    closes_at: row.and_then(|row| row.closes_at),
                };
                moved.push(process.to_row(due::next(process, before, now))?);
            }
            _ => {}
        }
    }
    for chunk in new.chunks(keys::CHUNK) {
        Entity::insert_many(chunk.to_vec()).exec_without_returning(transaction).await?;
    }
    // Every row is there and locked, so this is an update of many rows with different values in one statement.
    let columns = Column::iter().filter(|column| !matches!(column, Column::Community | Column::Id | Column::CreatedAt));
    let replace = OnConflict::columns([Column::Community, Column::Id]).update_columns(columns).to_owned();
    for chunk in moved.chunks(keys::CHUNK) {
        let insert = Entity::insert_many(chunk.to_vec()).on_conflict(replace.clone());
        insert.exec_without_returning(transaction).await?;
    }
    Ok(())
}

async fn delete_instances(transaction: &DatabaseTransaction, changes: &[&Change]) -> Result<(), StoreError> {
    use plugin_instances::Entity;
    let ids = changes.iter().filter_map(|change| match change {
        Change::DeleteInstance { id, .. } => Some(*id),
        _ => None,
    });
    let ids: Vec<Uuid> = ids.collect();
    let backend = transaction.get_database_backend();
    for chunk in ids.chunks(keys::CHUNK) {
        let open = processes::Entity::find()
            .filter(keys::one_of(backend, processes::Column::InstanceId, chunk))
            .filter(processes::Column::Status.is_in(OPEN));
        if open.count(transaction).await? > 0 {
            return Err(StoreError::Constraint("an instance to be deleted has open processes".into()));
        }
        let of_ids = keys::one_of(backend, plugin_instances::Column::Id, chunk);
        Entity::delete_many().filter(of_ids).exec(transaction).await?;
    }
    Ok(())
}

async fn write_instances(
    transaction: &DatabaseTransaction,
    changes: &[&Change],
    rows: &Rows,
    now: Timestamp,
) -> Result<(), StoreError> {
    use plugin_instances::{Column, Entity};
    for change in changes {
        match change {
            Change::InsertInstance(instance) => {
                Entity::insert(instance.to_row(now)?).exec_without_returning(transaction).await?;
            }
            Change::UpdateInstance { id, platform_id, config, state, tick_every, .. } => {
                let mut update = Entity::update_many()
                    .col_expr(Column::Version, Expr::col(Column::Version).add(1))
                    .filter(Column::Id.eq(*id));
                if let Some(config) = config {
                    let every = tick_every.map(to_millis);
                    let row = rows.instances.get(id);
                    let due_at = match row {
                        Some(row) if row.tick_every_ms == every => row.due_at,
                        _ => tick_every.map(|every| clock::later(now, every)),
                    };
                    update = update
                        .col_expr(Column::Config, Expr::val(json::write(config)?))
                        .col_expr(Column::PlatformId, Expr::val(platform_id.clone()))
                        .col_expr(Column::TickEveryMs, Expr::val(every))
                        .col_expr(Column::DueAt, Expr::val(due_at))
                        .col_expr(Column::UpdatedAt, Expr::val(now));
                }
                if let Some(state) = state {
                    update = update.col_expr(Column::State, Expr::val(json::write(state)?));
                }
                update.exec(transaction).await?;
            }
            _ => {}
        }
    }
    Ok(())
}

async fn delete_communities(transaction: &DatabaseTransaction, changes: &[&Change]) -> Result<(), StoreError> {
    for change in changes {
        let Change::DeleteCommunity { slug, .. } = change else { continue };
        let slug = slug.as_str();
        plugin_instances::Entity::delete_many()
            .filter(plugin_instances::Column::Community.eq(slug))
            .exec(transaction)
            .await?;
        processes::Entity::delete_many().filter(processes::Column::Community.eq(slug)).exec(transaction).await?;
        action_runs::Entity::delete_many().filter(action_runs::Column::Community.eq(slug)).exec(transaction).await?;
        communities::Entity::delete_many().filter(communities::Column::Slug.eq(slug)).exec(transaction).await?;
    }
    Ok(())
}
