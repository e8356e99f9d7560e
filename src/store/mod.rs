//! The database, on SQLite and PostgreSQL with one code.
//!
//! The store keeps communities, plugin instances, processes and action runs, and with them inbox and outbox, so that a
//! command's effect and its events are written together ([`Store::commit`]). It knows no broker and runs no plugin.
//! SeaORM does not show outside this module; every call names its community, or is named with its reason in
//! `tests/floors/tenants.rs`.
//!
//! Up the message path: `src/worker` and `src/scheduler`. Down: `migrations`, which makes the tables.

mod attempts;
mod changes;
mod clearing;
mod clock;
mod commit;
mod communities;
mod connection;
mod due;
mod entity;
mod error;
mod history;
mod inbox;
mod instances;
mod json;
mod keys;
mod leases;
mod locks;
mod migrate;
mod outbox;
mod overdue;
mod pool;
mod postgres;
mod processes;
mod runs;
mod sessions;
mod steps;
mod stranded;
mod suspects;
mod transaction;
mod uncertain;
mod unit;

use metagov_sdk::contract::Timestamp;
use sea_orm::{ConnectionTrait, DbBackend};

use self::connection::Connections;

pub use attempts::{AttemptStatus, AttemptView, Begun, Keep, NewAttempt};
#[cfg(feature = "failpoints")]
pub use clock::FAKE as FAKE_CLOCK;
pub use communities::StoredCommunity;
pub use due::{DueProcess, DueTick};
pub use error::StoreError;
pub use history::{PastEvent, Place, Selection};
pub use inbox::{InboxEntry, Seen};
pub use instances::{Instance, InstanceVersion, NewInstance};
pub use outbox::OutboxEvent;
pub use processes::{Process, ProcessFilter};
pub use runs::{ActionRun, RunStatus};
pub use steps::KeptStep;
pub use uncertain::{Decided, Decision, KeptCommand, RunVerdict, UncertainFilter, UncertainRun};
pub use unit::{Change, Committed, RowKey, Unit};

/// What the service writes to.
const TABLES: [&str; 10] = [
    "action_runs",
    "communities",
    "inbox",
    "outbox",
    "plugin_instances",
    "processes",
    "row_leases",
    "steps",
    "suspects",
    "uncertain_runs",
];

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
pub struct Store {
    connections: Connections,
}

impl Store {
    /// Opens the database. A SQLite file is created where it is missing, with its directory.
    ///
    /// # Errors
    /// An unusable URL, or a database that does not answer.
    pub async fn connect(settings: &Settings) -> Result<Self, StoreError> {
        Ok(Self { connections: Connections::open(settings).await? })
    }

    /// Whether the database takes what the service writes: on PostgreSQL, nothing is written into each table. A standby, a
    /// missing table and a missing right are found by it, and nothing is locked but against changes of the schema. SQLite
    /// has one writer, which nobody waits for here: it is read.
    ///
    /// # Errors
    /// Of the database.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let pool = self.connections.reader.clone();
        transaction::bounded(async move {
            let postgres = pool.get_database_backend() == DbBackend::Postgres;
            let ask = |table: &&str| {
                let nothing = format!("SELECT * FROM {table} WHERE FALSE;");
                if postgres { format!("INSERT INTO {table} {nothing}") } else { nothing }
            };
            pool.execute_unprepared(&TABLES.iter().map(ask).collect::<String>()).await?;
            Ok(())
        })
        .await
    }

    /// What time it is by the database's clock.
    ///
    /// # Errors
    /// Of the database.
    pub async fn now(&self) -> Result<Timestamp, StoreError> {
        let reader = self.connections.reader.clone();
        transaction::bounded(async move { clock::read(&reader).await }).await
    }
}
