//! What is due: processes to be polled or closed, instances to be ticked.
//!
//! A claim and the next due time are one transaction, and rows that another scheduler is claiming are passed over, so
//! any number of schedulers may ask at once. The clock is the database's. A claim whose command is lost comes again
//! with the next interval.
//!
//! Up: the scheduler's scan, each second. Down: the tables `processes` and `plugin_instances`.

use metagov_sdk::contract::{CommunitySlug, Name, Timestamp};
use uuid::Uuid;

use super::{Store, StoreError};

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
    /// Claims processes that are due, the longest due first, and moves each to its next due time.
    ///
    /// # Errors
    /// Of the database; nothing is claimed then.
    pub async fn claim_due_processes(&self, limit: u64) -> Result<Vec<DueProcess>, StoreError> {
        todo!()
    }

    /// Claims ticks that are due, the longest due first, and moves each to its next due time.
    ///
    /// # Errors
    /// Of the database; nothing is claimed then.
    pub async fn claim_due_ticks(&self, limit: u64) -> Result<Vec<DueTick>, StoreError> {
        todo!()
    }
}
