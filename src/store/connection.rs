//! Opening the database: one pool on PostgreSQL, a writer and its readers on SQLite.
//!
//! SQLite has one writer at a time, whatever is asked of it; a pool of one connection makes writers wait in line in
//! this process instead of failing with "database is locked". Up: [`Store::connect`](super::Store::connect). Down:
//! [`Pool`], SeaORM's connections.

use std::{
    path::Path,
    str::FromStr,
    time::{Duration, Instant},
};

use sea_orm::{
    ConnectOptions, Database,
    sqlx::{
        self, Connection as _, SqliteConnection,
        sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
    },
};

use tokio::time::sleep;

use super::{
    Settings, StoreError,
    pool::{Pool, Way},
    postgres,
};

/// How long a call waits for a free connection.
pub(super) const ACQUIRE: Duration = Duration::from_secs(10);

/// A connection that was idle for longer is pinged before it is used: the server may have been restarted.
const PING_AFTER: Duration = Duration::from_secs(1);

/// How long SQLite waits for a writer in another process.
const BUSY: Duration = Duration::from_secs(10);

/// The connections of a store.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    /// Where transactions run.
    pub(super) writer: Pool,
    /// Where single reads run.
    pub(super) reader: Pool,
}

impl Connections {
    pub(super) async fn open(settings: &Settings) -> Result<Self, StoreError> {
        if settings.url.starts_with("sqlite:") {
            sqlite(settings).await
        } else if settings.url.starts_with("postgres://") || settings.url.starts_with("postgresql://") {
            let pool = postgres::open(settings).await?;
            Ok(Self { writer: pool.clone(), reader: pool })
        } else {
            Err(StoreError::InvalidUrl { reason: "it must begin with sqlite: or postgres://".into() })
        }
    }
}

pub(super) fn options(url: &str, connections: u32) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(connections.max(1))
        .acquire_timeout(ACQUIRE)
        .test_before_acquire_if_idle_for(PING_AFTER)
        // Statements carry configs and states.
        .sqlx_logging(false)
        .record_stmt_in_spans(false);
    options
}

async fn sqlite(settings: &Settings) -> Result<Connections, StoreError> {
    let parsed = SqliteConnectOptions::from_str(&settings.url).map_err(|_| StoreError::InvalidUrl {
        reason: "it is not of the form sqlite:<file> or sqlite::memory:".into(),
    })?;
    let in_memory = settings.url.contains(":memory:") || settings.url.contains("mode=memory");
    if !in_memory {
        create_file(parsed.get_filename()).map_err(|error| StoreError::Create { kind: error.kind() })?;
    }
    let mut writing = options(&settings.url, 1);
    writing.map_sqlx_sqlite_opts(pragmas);
    if in_memory {
        // The database is its connection, which therefore has to live.
        writing.min_connections(1).idle_timeout(None).max_lifetime(None);
    } else {
        writing.map_sqlx_sqlite_pool_opts(|pool| pool.after_release(|connection, _| Box::pin(is_at_rest(connection))));
    }
    let writer = open_sqlite(writing).await?;
    if in_memory {
        return Ok(Connections { reader: writer.clone(), writer });
    }
    let mut reading = options(&settings.url, settings.max_connections.saturating_sub(1));
    reading.map_sqlx_sqlite_opts(|options| pragmas(options).pragma("query_only", "on"));
    let reader = open_sqlite(reading).await?;
    Ok(Connections { writer, reader })
}

/// Whether a connection may go back to its pool. Where the disk is full SQLite rolls back by itself, and the rollback that
/// follows fails; sqlx (0.9.0) then counts one transaction too many, and makes each that follows a part of one that nobody
/// commits.
async fn is_at_rest(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    // A rollback that was begun as the transaction was dropped has ended with the answer.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

/// Opens a pool on a file that others may be opening for the first time as well: while one of them switches it to WAL,
/// SQLite may answer that it is busy without having waited.
async fn open_sqlite(options: ConnectOptions) -> Result<Pool, StoreError> {
    let started = Instant::now();
    loop {
        match Database::connect(options.clone()).await.map_err(StoreError::from) {
            Err(StoreError::Contended(_)) if started.elapsed() < BUSY => sleep(Duration::from_millis(20)).await,
            opened => return opened.map(|connections| Pool::new(connections, Way::Straight)),
        }
    }
}

/// Set on every connection of a pool, not on the first one only.
fn pragmas(options: SqliteConnectOptions) -> SqliteConnectOptions {
    options
        .journal_mode(SqliteJournalMode::Wal)
        // The file is the only store there is: what was acknowledged survives a power cut.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY)
}

/// Creates the file, readable by its owner only: it holds configs with their secrets. SQLite gives its side files the
/// same mode.
fn create_file(path: &Path) -> std::io::Result<()> {
    let mut directory = std::fs::DirBuilder::new();
    let mut file = std::fs::OpenOptions::new();
    directory.recursive(true);
    file.append(true).create(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        directory.mode(0o700);
        file.mode(0o600);
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        directory.create(parent)?;
    }
    file.open(path).map(drop)
}
