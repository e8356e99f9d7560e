//! Governance processes: the record that drivers see, and the state that only the plugin sees.
//!
//! Up: [`super::Change`] starts them and moves them on, always against the version that was read. Down: the table
//! `processes`. When a process is looked at next is the business of [`super::due`].

use std::time::Duration;

use metagov_sdk::contract::{CommunitySlug, Name, ProcessRecord, ProcessStatus};
use serde_json::Value;
use uuid::Uuid;

use super::{Store, StoreError};

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
    /// At most so many.
    pub limit: u64,
}

impl Default for ProcessFilter {
    fn default() -> Self {
        Self { plugin: None, name: None, status: None, limit: 100 }
    }
}

impl Store {
    /// One process, if it is of this community.
    ///
    /// # Errors
    /// Of the database.
    pub async fn process(&self, community: &CommunitySlug, id: Uuid) -> Result<Option<Process>, StoreError> {
        todo!()
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
        todo!()
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
        todo!()
    }
}
