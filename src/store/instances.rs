//! Plugin instances: a plugin that is enabled in one community, with its config and its state.
//!
//! Config and state share one version, so that a handler that read both knows whether either has changed. Up:
//! [`super::Change`] enables, changes and disables. Down: the table `plugin_instances`.

use std::time::Duration;

use metagov_sdk::contract::{CommunitySlug, Name, Timestamp};
use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select};
use serde_json::Value;
use uuid::Uuid;

use super::{
    Store, StoreError, clock,
    communities::word,
    entity::plugin_instances::{ActiveModel, Column, Entity, Model},
    json,
    transaction::bounded,
};
use crate::vault::SealedConfig;

/// A plugin instance as it is stored. Its state must not be logged.
#[derive(Clone, PartialEq)]
pub struct Instance {
    /// Its id.
    pub id: Uuid,
    /// The community it is enabled in.
    pub community: CommunitySlug,
    /// The plugin.
    pub plugin: Name,
    /// The platform's own id of the community.
    pub platform_id: Option<String>,
    /// The config, defaults filled in, secrets sealed.
    pub config: SealedConfig,
    /// What the plugin keeps between calls.
    pub state: Option<Value>,
    /// Grows by one with each change of config or state.
    pub version: i64,
    /// When it was enabled, by the database's clock.
    pub created_at: Timestamp,
    /// When its config was last changed, by the database's clock.
    pub updated_at: Timestamp,
    /// How often the plugin ticks.
    pub tick_every: Option<Duration>,
}

/// A plugin instance to be created. Its state must not be logged.
#[derive(Clone, PartialEq)]
pub struct NewInstance {
    /// Its id.
    pub id: Uuid,
    /// The community to enable it in.
    pub community: CommunitySlug,
    /// The plugin.
    pub plugin: Name,
    /// The platform's own id of the community.
    pub platform_id: Option<String>,
    /// The config, defaults filled in, secrets sealed.
    pub config: SealedConfig,
    /// What the plugin keeps between calls.
    pub state: Option<Value>,
    /// When it was enabled, as its event tells.
    pub created_at: Timestamp,
    /// How often the plugin ticks; the first tick comes after that time.
    pub tick_every: Option<Duration>,
}

/// Which instance a handler read, and in which version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceVersion {
    /// The instance.
    pub id: Uuid,
    /// Its version; `None` where only its being there matters.
    pub version: Option<i64>,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance")
            .field("id", &self.id)
            .field("community", &self.community)
            .field("plugin", &self.plugin)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for NewInstance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewInstance")
            .field("id", &self.id)
            .field("community", &self.community)
            .field("plugin", &self.plugin)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Every plugin instance of a community, by plugin and platform id.
    ///
    /// # Errors
    /// Of the database.
    pub async fn instances(&self, community: &CommunitySlug) -> Result<Vec<Instance>, StoreError> {
        self.load(Entity::find().filter(Column::Community.eq(community.as_str()))).await
    }

    /// The instances of one plugin in a community, by platform id.
    ///
    /// # Errors
    /// Of the database.
    pub async fn instances_of(&self, community: &CommunitySlug, plugin: &Name) -> Result<Vec<Instance>, StoreError> {
        let of_community = Entity::find().filter(Column::Community.eq(community.as_str()));
        self.load(of_community.filter(Column::Plugin.eq(plugin.as_str()))).await
    }

    /// One instance, if it is of this community.
    ///
    /// # Errors
    /// Of the database.
    pub async fn instance(&self, community: &CommunitySlug, id: Uuid) -> Result<Option<Instance>, StoreError> {
        let of_community = Entity::find().filter(Column::Community.eq(community.as_str()));
        Ok(self.load(of_community.filter(Column::Id.eq(id))).await?.pop())
    }

    /// The instances that a webhook of a whole platform concerns, in any community: the one call that crosses
    /// communities, because the platform does not know them.
    ///
    /// # Errors
    /// Of the database.
    pub async fn instances_by_platform_id(
        &self,
        plugin: &Name,
        platform_id: &str,
    ) -> Result<Vec<Instance>, StoreError> {
        let of_plugin = Entity::find().filter(Column::Plugin.eq(plugin.as_str()));
        self.load(of_plugin.filter(Column::PlatformId.eq(platform_id))).await
    }

    /// Plugin instances of every community in the order of their ids, those after `after`; for whoever seals them anew.
    ///
    /// # Errors
    /// Of the database.
    pub async fn every_instance(&self, after: Option<Uuid>, limit: u64) -> Result<Vec<Instance>, StoreError> {
        let mut select = Entity::find().order_by_asc(Column::Id).limit(limit);
        if let Some(after) = after {
            select = select.filter(Column::Id.gt(after));
        }
        let reader = self.connections.reader.clone();
        let rows = bounded(async move { Ok(select.all(&reader).await?) }).await?;
        rows.into_iter().map(Instance::from_row).collect()
    }

    /// Writes configs that say the same under another key: the version stays, for nobody needs to look again. Where an
    /// instance has changed since it was read, or is gone, it is left as it is. Returns how many were written.
    ///
    /// # Errors
    /// Of the database; none is written then.
    pub async fn reseal(&self, resealed: Vec<(Instance, SealedConfig)>) -> Result<u64, StoreError> {
        self.transaction(move |transaction| {
            Box::pin(async move {
                let mut written = 0;
                for (read, config) in &resealed {
                    let row = ActiveModel { config: Set(json::write(config)?), ..ActiveModel::default() };
                    let update = Entity::update_many()
                        .set(row)
                        .filter(Column::Community.eq(read.community.as_str()))
                        .filter(Column::Id.eq(read.id))
                        .filter(Column::Version.eq(read.version));
                    written += update.exec(transaction).await?.rows_affected;
                }
                Ok(written)
            })
        })
        .await
    }

    async fn load(&self, select: Select<Entity>) -> Result<Vec<Instance>, StoreError> {
        let ordered =
            select.order_by_asc(Column::Plugin).order_by_asc(Column::PlatformId).order_by_asc(Column::Community);
        let reader = self.connections.reader.clone();
        let rows = bounded(async move { Ok(ordered.all(&reader).await?) }).await?;
        rows.into_iter().map(Instance::from_row).collect()
    }
}

impl Instance {
    fn from_row(row: Model) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id,
            community: word("plugin_instances.community", &row.community)?,
            plugin: word("plugin_instances.plugin", &row.plugin)?,
            platform_id: row.platform_id,
            config: json::read("plugin_instances.config", &row.config)?,
            state: json::read_optional("plugin_instances.state", row.state.as_deref())?,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
            tick_every: row.tick_every_ms.map(from_millis),
        })
    }
}

impl NewInstance {
    /// The row of a first version.
    pub(super) fn to_row(&self, now: Timestamp) -> Result<ActiveModel, StoreError> {
        Ok(ActiveModel {
            id: Set(self.id),
            community: Set(self.community.as_str().to_owned()),
            plugin: Set(self.plugin.as_str().to_owned()),
            platform_id: Set(self.platform_id.clone()),
            config: Set(json::write(&self.config)?),
            state: Set(json::write_optional(self.state.as_ref())?),
            version: Set(1),
            tick_every_ms: Set(self.tick_every.map(to_millis)),
            due_at: Set(self.tick_every.map(|every| clock::later(now, every))),
            created_at: Set(clock::storable(self.created_at)),
            updated_at: Set(clock::storable(self.created_at)),
        })
    }
}

/// A duration as it is stored: whole milliseconds.
pub(super) fn to_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A stored duration.
pub(super) fn from_millis(millis: i64) -> Duration {
    Duration::from_millis(millis.try_into().unwrap_or(0))
}
