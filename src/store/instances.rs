//! Plugin instances: a plugin that is enabled in one community, with its config and its state.
//!
//! Config and state share one version, so that a handler that read both knows whether either has changed. Up:
//! [`super::Change`] enables, changes and disables. Down: the table `plugin_instances`.

use std::time::Duration;

use metagov_sdk::contract::{CommunitySlug, Name, Timestamp};
use serde_json::Value;
use uuid::Uuid;

use super::{Store, StoreError};

/// A plugin instance as it is stored. The config is unmasked: it must not be logged.
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
    /// The config, defaults filled in, secrets included.
    pub config: Value,
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

/// A plugin instance to be created. The config is unmasked: it must not be logged.
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
    /// The config, defaults filled in, secrets included.
    pub config: Value,
    /// What the plugin keeps between calls.
    pub state: Option<Value>,
    /// How often the plugin ticks; the first tick comes after that time.
    pub tick_every: Option<Duration>,
}

/// Which version of which instance a handler read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceVersion {
    /// The instance.
    pub id: Uuid,
    /// Its version.
    pub version: i64,
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
        todo!()
    }

    /// The instances of one plugin in a community, by platform id.
    ///
    /// # Errors
    /// Of the database.
    pub async fn instances_of(&self, community: &CommunitySlug, plugin: &Name) -> Result<Vec<Instance>, StoreError> {
        todo!()
    }

    /// One instance, if it is of this community.
    ///
    /// # Errors
    /// Of the database.
    pub async fn instance(&self, community: &CommunitySlug, id: Uuid) -> Result<Option<Instance>, StoreError> {
        todo!()
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
        todo!()
    }
}
