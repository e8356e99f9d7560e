//! Governance processes: the record that drivers see, and the state that only the plugin sees.
//!
//! Up: [`super::Change`] starts them and moves them on, always against the version that was read. Down: the table
//! `processes`. When a process is looked at next is the business of [`super::due`].

use std::time::Duration;

use metagov_sdk::contract::{CommunitySlug, Name, ProcessRecord, ProcessStatus, Timestamp};
use sea_orm::{ActiveValue::Set, ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select};
use serde_json::Value;
use uuid::Uuid;

use super::{
    Store, StoreError, clock,
    communities::word,
    entity::processes::{ActiveModel, Column, Entity, Model},
    instances::{from_millis, to_millis},
    json, keys,
    transaction::bounded,
};

/// The statuses of processes that have not ended.
pub(super) const OPEN: [&str; 2] = [ProcessStatus::Created.as_str(), ProcessStatus::Pending.as_str()];

/// A governance process as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// What drivers see. Its `version` is the one to compare and set. Times are kept to the microsecond.
    pub record: ProcessRecord,
    /// The plugin.
    pub plugin: Name,
    /// The process's name within the plugin.
    pub process: Name,
    /// The instance that runs it.
    pub instance_id: Uuid,
    /// What the plugin keeps between calls.
    pub state: Value,
    /// How often it is polled; `None`: never.
    pub poll_every: Option<Duration>,
    /// Which webhooks are about it.
    pub webhook_key: Option<String>,
    /// What its driver recognises all of its events by: the correlation id of the command that started it.
    pub correlation_id: Option<String>,
}

/// Which processes of a community to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessFilter {
    /// Only this plugin's.
    pub plugin: Option<Name>,
    /// Only those of this name within their plugin.
    pub name: Option<Name>,
    /// Only those that stand so.
    pub status: Option<ProcessStatus>,
    /// Only those that come after this one in the list.
    pub after: Option<Uuid>,
    /// At most so many.
    pub limit: u64,
}

impl Default for ProcessFilter {
    fn default() -> Self {
        Self { plugin: None, name: None, status: None, after: None, limit: 100 }
    }
}

impl Store {
    /// One process, if it is of this community.
    ///
    /// # Errors
    /// Of the database.
    pub async fn process(&self, community: &CommunitySlug, id: Uuid) -> Result<Option<Process>, StoreError> {
        let key = (community.as_str().to_owned(), id);
        let reader = self.connections.reader.clone();
        let row = bounded(async move { Ok(Entity::find_by_id(key).one(&reader).await?) }).await?;
        row.map(Process::from_row).transpose()
    }

    /// Processes of a community, the newest first.
    ///
    /// # Errors
    /// Of the database.
    pub async fn processes(
        &self,
        community: &CommunitySlug,
        filter: ProcessFilter,
    ) -> Result<Vec<Process>, StoreError> {
        let mut select = Entity::find().filter(Column::Community.eq(community.as_str()));
        if let Some(plugin) = &filter.plugin {
            select = select.filter(Column::Plugin.eq(plugin.as_str()));
        }
        if let Some(name) = &filter.name {
            select = select.filter(Column::Process.eq(name.as_str()));
        }
        if let Some(status) = filter.status {
            select = select.filter(Column::Status.eq(status.as_str()));
        }
        let newest = select.order_by_desc(Column::CreatedAt).order_by_asc(Column::Id).limit(filter.limit);
        let reader = self.connections.reader.clone();
        let (last, of) = (filter.after, community.as_str().to_owned());
        let rows = bounded(async move {
            let newest = match last {
                None => newest,
                Some(id) => {
                    let last = Entity::find_by_id((of, id)).one(&reader).await?;
                    let Some(last) = last else { return Ok(Vec::new()) };
                    let same = Condition::all().add(Column::CreatedAt.eq(last.created_at)).add(Column::Id.gt(id));
                    newest.filter(Condition::any().add(Column::CreatedAt.lt(last.created_at)).add(same))
                }
            };
            Ok(newest.all(&reader).await?)
        })
        .await?;
        rows.into_iter().map(Process::from_row).collect()
    }

    /// The processes of an instance that have not ended, the oldest first; only those with this webhook key where one
    /// is given.
    ///
    /// # Errors
    /// Of the database.
    pub async fn open_processes(
        &self,
        community: &CommunitySlug,
        instance_id: Uuid,
        webhook_key: Option<&str>,
    ) -> Result<Vec<Process>, StoreError> {
        let oldest = oldest_open(community, instance_id, webhook_key);
        let reader = self.connections.reader.clone();
        let rows = bounded(async move { Ok(oldest.all(&reader).await?) }).await?;
        rows.into_iter().map(Process::from_row).collect()
    }

    /// The processes of a community that have these ids, in no order; ids that are not there are left out.
    ///
    /// # Errors
    /// Of the database.
    pub async fn processes_of_ids(&self, community: &CommunitySlug, ids: &[Uuid]) -> Result<Vec<Process>, StoreError> {
        let mut found = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(keys::CHUNK) {
            let reader = self.connections.reader.clone();
            let of_ids = keys::one_of(reader.get_database_backend(), Column::Id, chunk);
            let select = Entity::find().filter(Column::Community.eq(community.as_str())).filter(of_ids);
            found.extend(bounded(async move { Ok(select.all(&reader).await?) }).await?);
        }
        found.into_iter().map(Process::from_row).collect()
    }

    /// The ids of the processes of [`Self::open_processes`], the oldest first: what a webhook concerns, without what the
    /// processes hold.
    ///
    /// # Errors
    /// Of the database.
    pub async fn open_process_ids(
        &self,
        community: &CommunitySlug,
        instance_id: Uuid,
        webhook_key: Option<&str>,
    ) -> Result<Vec<Uuid>, StoreError> {
        let select = oldest_open(community, instance_id, webhook_key).select_only().column(Column::Id);
        let reader = self.connections.reader.clone();
        bounded(async move { Ok(select.into_tuple().all(&reader).await?) }).await
    }
}

fn oldest_open(community: &CommunitySlug, instance_id: Uuid, webhook_key: Option<&str>) -> Select<Entity> {
    let mut select = Entity::find()
        .filter(Column::InstanceId.eq(instance_id))
        .filter(Column::Community.eq(community.as_str()))
        .filter(Column::Status.is_in(OPEN));
    if let Some(key) = webhook_key {
        select = select.filter(Column::WebhookKey.eq(key));
    }
    select.order_by_asc(Column::CreatedAt).order_by_asc(Column::Id)
}

impl Process {
    /// The whole row; `due_at` is the business of [`super::due`].
    pub(super) fn to_row(&self, due_at: Option<Timestamp>) -> Result<ActiveModel, StoreError> {
        let record = &self.record;
        Ok(ActiveModel {
            community: Set(record.community.as_str().to_owned()),
            id: Set(record.id),
            plugin: Set(self.plugin.as_str().to_owned()),
            process: Set(self.process.as_str().to_owned()),
            instance_id: Set(self.instance_id),
            platform_id: Set(record.community_platform_id.clone()),
            status: Set(record.status.as_str().to_owned()),
            url: Set(record.url.clone()),
            parameters: Set(json::write(&record.parameters)?),
            outcome: Set(json::write(&record.outcome)?),
            errors: Set(json::write(&record.errors)?),
            problem: Set(json::write_optional(record.problem.as_ref())?),
            initiator: Set(json::write_optional(record.initiator.as_ref())?),
            callback_url: Set(record.callback_url.clone()),
            state: Set(json::write(&self.state)?),
            version: Set(record.version),
            poll_every_ms: Set(self.poll_every.map(to_millis)),
            webhook_key: Set(self.webhook_key.clone()),
            correlation_id: Set(self.correlation_id.clone()),
            due_at: Set(due_at),
            created_at: Set(clock::storable(record.created_at)),
            updated_at: Set(clock::storable(record.updated_at)),
            closes_at: Set(record.closes_at.map(clock::storable)),
            closed_at: Set(record.closed_at.map(clock::storable)),
        })
    }

    fn from_row(row: Model) -> Result<Self, StoreError> {
        Ok(Self {
            record: ProcessRecord {
                id: row.id,
                name: format!("{}.{}", row.plugin, row.process),
                community: word("processes.community", &row.community)?,
                community_platform_id: row.platform_id,
                status: status(&row.status)?,
                url: row.url,
                parameters: json::read("processes.parameters", &row.parameters)?,
                outcome: json::read("processes.outcome", &row.outcome)?,
                errors: json::read("processes.errors", &row.errors)?,
                problem: json::read_optional("processes.problem", row.problem.as_deref())?,
                initiator: json::read_optional("processes.initiator", row.initiator.as_deref())?,
                callback_url: row.callback_url,
                version: row.version,
                created_at: row.created_at,
                updated_at: row.updated_at,
                closes_at: row.closes_at,
                closed_at: row.closed_at,
            },
            plugin: word("processes.plugin", &row.plugin)?,
            process: word("processes.process", &row.process)?,
            instance_id: row.instance_id,
            state: json::read("processes.state", &row.state)?,
            poll_every: row.poll_every_ms.map(from_millis),
            webhook_key: row.webhook_key,
            correlation_id: row.correlation_id,
        })
    }
}

/// The status that a word stands for.
pub(super) fn status(word: &str) -> Result<ProcessStatus, StoreError> {
    use ProcessStatus::{Completed, Created, Failed, Pending};
    [Created, Pending, Completed, Failed]
        .into_iter()
        .find(|status| status.as_str() == word)
        .ok_or_else(|| StoreError::Corrupt { what: "processes.status", reason: "there is no such status".into() })
}
