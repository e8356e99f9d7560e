//! Set: the changes of the units are written over rows that [`super::locks`] has compared and holds.
//!
//! Changes of one kind are written together, in an order that makes an instance go after its processes have ended and a
//! community after its instances. A constraint that does not hold fails the whole, and the units are then tried alone.
//!
//! Up: [`super::commit`]. Down: the tables `communities`, `plugin_instances`, `processes`.

use metagov_sdk::contract::Timestamp;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseTransaction, DbBackend, EntityTrait, Iterable,
    PaginatorTrait, QueryFilter, sea_query::OnConflict,
};
use uuid::Uuid;

use super::{
    Change, StoreError, Unit, clock, due,
    entity::{action_runs, communities, plugin_instances, processes, row_leases},
    instances::to_millis,
    json, keys,
    locks::Rows,
    processes::OPEN,
    uncertain,
};

/// Writes the changes of the units.
pub(super) async fn apply(transaction: &DatabaseTransaction, units: &[&Unit], rows: &Rows) -> Result<(), StoreError> {
    if units.iter().all(|unit| unit.changes.is_empty()) {
        return Ok(());
    }
    let now = clock::read(transaction).await?;
    let mut writes = Writes::default();
    for change in units.iter().flat_map(|unit| &unit.changes) {
        writes.add(change, rows, now)?;
    }
    writes.write(transaction).await
}

/// The changes by kind, in the order in which they are written.
#[derive(Default)]
struct Writes<'c> {
    new_communities: Vec<communities::ActiveModel>,
    changed_communities: Vec<(&'c str, communities::ActiveModel)>,
    new_processes: Vec<processes::ActiveModel>,
    moved_processes: Vec<processes::ActiveModel>,
    gone_instances: Vec<Uuid>,
    changed_instances: Vec<(Uuid, plugin_instances::ActiveModel)>,
    new_instances: Vec<plugin_instances::ActiveModel>,
    gone_communities: Vec<&'c str>,
}

impl<'c> Writes<'c> {
    fn add(&mut self, change: &'c Change, rows: &Rows, now: Timestamp) -> Result<(), StoreError> {
        match change {
            Change::InsertCommunity { slug, readable_name } => self.new_communities.push(communities::ActiveModel {
                slug: Set(slug.as_str().to_owned()),
                readable_name: Set(readable_name.clone()),
                version: Set(1),
                created_at: Set(now),
                updated_at: Set(now),
            }),
            Change::UpdateCommunity { slug, readable_name, expected } => {
                let row = communities::ActiveModel {
                    readable_name: Set(readable_name.clone()),
                    version: Set(expected + 1),
                    updated_at: Set(now),
                    ..communities::ActiveModel::default()
                };
                self.changed_communities.push((slug.as_str(), row));
            }
            Change::DeleteCommunity { slug, .. } => self.gone_communities.push(slug.as_str()),
            Change::InsertInstance(instance) => self.new_instances.push(instance.to_row(now)?),
            Change::UpdateInstance { id, expected, platform_id, config, state, tick_every, updated_at, .. } => {
                let mut row = plugin_instances::ActiveModel {
                    version: Set(expected + 1),
                    ..plugin_instances::ActiveModel::default()
                };
                if let Some(config) = config {
                    let every = tick_every.map(to_millis);
                    row.config = Set(json::write(config)?);
                    row.platform_id = Set(platform_id.clone());
                    row.updated_at = Set(clock::storable(*updated_at));
                    row.tick_every_ms = Set(every);
                    // A config that is saved often must not put off the ticks.
                    if rows.instance(*id).is_none_or(|before| before.tick_every_ms != every) {
                        row.due_at = Set(tick_every.map(|every| clock::later(now, every)));
                    }
                }
                if let Some(state) = state {
                    row.state = Set(Some(json::write(state)?));
                }
                self.changed_instances.push((*id, row));
            }
            Change::DeleteInstance { id, .. } => self.gone_instances.push(*id),
            Change::InsertProcess(process) => {
                self.new_processes.push(process.to_row(due::first(process, now))?);
            }
            Change::UpdateProcess { process, .. } => {
                let row = rows.process(process);
                let before = due::Before {
                    due_at: row.and_then(|row| row.due_at),
                    closes_at: row.and_then(|row| row.closes_at),
                };
                self.moved_processes.push(process.to_row(due::next(process, before, now))?);
            }
        }
        Ok(())
    }

    async fn write(self, transaction: &DatabaseTransaction) -> Result<(), StoreError> {
        for chunk in self.new_communities.chunks(keys::CHUNK) {
            communities::Entity::insert_many(chunk.to_vec()).exec_without_returning(transaction).await?;
        }
        for (slug, row) in self.changed_communities {
            let update = communities::Entity::update_many().set(row).filter(communities::Column::Slug.eq(slug));
            update.exec(transaction).await?;
        }
        insert_processes(transaction, &self.new_processes).await?;
        move_processes(transaction, &self.moved_processes).await?;
        delete_instances(transaction, &self.gone_instances).await?;
        for (id, row) in self.changed_instances {
            let update = plugin_instances::Entity::update_many().set(row).filter(plugin_instances::Column::Id.eq(id));
            update.exec(transaction).await?;
        }
        for chunk in self.new_instances.chunks(keys::CHUNK) {
            plugin_instances::Entity::insert_many(chunk.to_vec()).exec_without_returning(transaction).await?;
        }
        for slug in self.gone_communities {
            delete_community(transaction, slug).await?;
        }
        Ok(())
    }
}

async fn insert_processes(
    transaction: &DatabaseTransaction,
    rows: &[processes::ActiveModel],
) -> Result<(), StoreError> {
    for chunk in rows.chunks(keys::CHUNK) {
        processes::Entity::insert_many(chunk.to_vec()).exec_without_returning(transaction).await?;
    }
    Ok(())
}

/// Every row is there and locked, so this is an update of many rows with different values in one statement.
async fn move_processes(transaction: &DatabaseTransaction, rows: &[processes::ActiveModel]) -> Result<(), StoreError> {
    use processes::{Column, Entity};
    let columns = Column::iter().filter(|column| !matches!(column, Column::Community | Column::Id | Column::CreatedAt));
    let replace = OnConflict::columns([Column::Community, Column::Id]).update_columns(columns).to_owned();
    for chunk in rows.chunks(keys::CHUNK) {
        let insert = Entity::insert_many(chunk.to_vec()).on_conflict(replace.clone());
        insert.exec_without_returning(transaction).await?;
    }
    Ok(())
}

async fn delete_instances(transaction: &DatabaseTransaction, ids: &[Uuid]) -> Result<(), StoreError> {
    let backend = transaction.get_database_backend();
    for chunk in ids.chunks(keys::CHUNK) {
        let open = processes::Entity::find()
            .filter(keys::one_of(backend, processes::Column::InstanceId, chunk))
            .filter(processes::Column::Status.is_in(OPEN));
        if open.count(transaction).await? > 0 {
            return Err(StoreError::Constraint("an instance to be deleted has open processes".into()));
        }
        let of_ids = keys::one_of(backend, plugin_instances::Column::Id, chunk);
        plugin_instances::Entity::delete_many().filter(of_ids).exec(transaction).await?;
    }
    Ok(())
}

async fn delete_community(transaction: &DatabaseTransaction, slug: &str) -> Result<(), StoreError> {
    if transaction.get_database_backend() == DbBackend::Postgres {
        // However many runs there are: cut off, it would be tried again for ever.
        transaction.execute_unprepared("SET LOCAL statement_timeout = 0").await?;
    }
    let of_community = plugin_instances::Column::Community.eq(slug);
    plugin_instances::Entity::delete_many().filter(of_community).exec(transaction).await?;
    processes::Entity::delete_many().filter(processes::Column::Community.eq(slug)).exec(transaction).await?;
    row_leases::Entity::delete_many().filter(row_leases::Column::Community.eq(slug)).exec(transaction).await?;
    uncertain::delete_of(transaction, slug).await?;
    action_runs::Entity::delete_many().filter(action_runs::Column::Community.eq(slug)).exec(transaction).await?;
    communities::Entity::delete_many().filter(communities::Column::Slug.eq(slug)).exec(transaction).await?;
    Ok(())
}
