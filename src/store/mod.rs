//! The database, on SQLite and PostgreSQL with one code.
//!
//! The store keeps communities, plugin instances, processes and action runs, and with them inbox and outbox, so that a
//! command's effect and its events are written together ([`Store::commit`]). It knows no broker and runs no plugin.
//! SeaORM does not show outside this module; every call names its community.
//!
//! Up the message path: `src/worker` and `src/scheduler`. Down: `migrations`, which makes the tables.

mod attempts;
mod commit;
mod communities;
mod due;
mod error;
mod inbox;
mod instances;
mod outbox;
mod processes;
mod runs;
mod unit;

use metagov_sdk::contract::Timestamp;

pub use attempts::{AttemptStatus, AttemptView, Begun, Keep, NewAttempt};
pub use communities::StoredCommunity;
pub use due::{DueProcess, DueTick};
pub use error::StoreError;
pub use inbox::{InboxEntry, Seen};
pub use instances::{Instance, InstanceVersion, NewInstance};
pub use outbox::OutboxEvent;
pub use processes::{Process, ProcessFilter};
pub use runs::{ActionRun, RunStatus};
pub use unit::{Change, Committed, Unit};

/// Which database, and how many connections to it.
#[derive(Clone)]
pub struct Settings {
    /// `sqlite:<file>` or `postgres://user:password@host/database`. `sqlite::memory:` is for tests.
    pub url: String,
    /// At most so many connections at once; on SQLite one of them writes and the others read.
    pub max_connections: u32,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("max_connections", &self.max_connections).finish_non_exhaustive()
    }
}

/// The database; a cheap handle.
#[derive(Clone, Debug)]
pub struct Store {}

impl Store {
    /// Opens the database. A SQLite file is created where it is missing, with its directory.
    ///
    /// # Errors
    /// An unusable URL, or a database that does not answer.
    pub async fn connect(settings: &Settings) -> Result<Self, StoreError> {
        todo!()
    }

    /// Applies the migrations that are pending and names them. Several programs may do so at once: one applies, the
    /// others wait for it.
    ///
    /// # Errors
    /// Of the database; nothing is applied then.
    pub async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        todo!()
    }

    /// The migrations that [`Store::migrate`] would apply. Changes nothing.
    ///
    /// # Errors
    /// Of the database.
    pub async fn pending_migrations(&self) -> Result<Vec<String>, StoreError> {
        todo!()
    }

    /// What time it is by the database's clock.
    ///
    /// # Errors
    /// Of the database.
    pub async fn now(&self) -> Result<Timestamp, StoreError> {
        todo!()
    }
}
