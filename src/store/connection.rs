//! Opening the database: one pool on PostgreSQL, a writer and its readers on SQLite.
//!
//! SQLite has one writer at a time, whatever is asked of it; a pool of one connection makes writers wait in line in
//! this process instead of failing with "database is locked". Up: [`Store::connect`](super::Store::connect). Down:
//! SeaORM's connections.

use std::{
    io,
    path::Path,
    str::FromStr,
    time::{Duration, Instant},
};

use sea_orm::{
    ConnectOptions, Database, DatabaseConnection,
    sqlx::{
        self, Connection as _, PgConnection, Row as _, SqliteConnection,
        postgres::PgConnectOptions,
        sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
    },
};

use tokio::time::{sleep, timeout};

use super::{Settings, StoreError, sessions};

/// How long a call waits for a free connection.
const ACQUIRE: Duration = Duration::from_secs(10);

/// A connection that was idle for longer is pinged before it is used: the server may have been restarted.
const PING_AFTER: Duration = Duration::from_secs(1);

/// How long SQLite waits for a writer in another process.
const BUSY: Duration = Duration::from_secs(10);

/// What the server itself cuts short, in milliseconds: a worker that lost its connection must not hold locks.
const POSTGRES_SESSION: [(&str, &str); 3] =
    [("statement_timeout", "15000"), ("lock_timeout", "100"), ("idle_in_transaction_session_timeout", "10000")];

/// The connections of a store.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    /// Where transactions run.
    pub(super) writer: DatabaseConnection,
    /// Where single reads run.
    pub(super) reader: DatabaseConnection,
}

impl Connections {
    pub(super) async fn open(settings: &Settings) -> Result<Self, StoreError> {
        if settings.url.starts_with("sqlite:") {
            sqlite(settings).await
        } else if settings.url.starts_with("postgres://") || settings.url.starts_with("postgresql://") {
            postgres(settings).await
        } else {
            Err(StoreError::InvalidUrl { reason: "it must begin with sqlite: or postgres://".into() })
        }
    }
}

fn options(url: &str, connections: u32) -> ConnectOptions {
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

async fn postgres(settings: &Settings) -> Result<Connections, StoreError> {
    let invalid = |reason: &str| StoreError::InvalidUrl { reason: reason.into() };
    // sqlx knows no encrypted keys, and would write the password into the log.
    if settings.url.contains("sslpassword=") {
        return Err(invalid("sslpassword is not supported; name a key without a password in sslkey"));
    }
    // The parser's own words may quote the URL, which holds a password.
    let parsed = PgConnectOptions::from_str(&settings.url)
        .map_err(|_| invalid("it is not of the form postgres://user:password@host:port/database"))?;
    try_once(&prepared(parsed)).await?;
    let mut options = options(&settings.url, settings.max_connections);
    options.map_sqlx_postgres_opts(prepared).map_sqlx_postgres_pool_opts(|pool| {
        pool.before_acquire(|_, session| Box::pin(async move { Ok(sessions::may_be_used(session.age)) }))
    });
    let pool = Database::connect(options).await?;
    Ok(Connections { writer: pool.clone(), reader: pool })
}

fn prepared(options: PgConnectOptions) -> PgConnectOptions {
    // A URL puts brackets around an address of IP version 6, and nothing else does.
    let host = options.get_host().trim_start_matches('[').trim_end_matches(']').to_owned();
    options
        .host(&host)
        .application_name("metagov")
        .options(POSTGRES_SESSION)
        // A multi-row insert is another statement for each number of rows.
        .statement_cache_capacity(256)
}

/// Connects once, for a pool tries again what is refused until its time is up, and then does not say what was refused.
async fn try_once(options: &PgConnectOptions) -> Result<(), StoreError> {
    let trial = async {
        let mut connection = PgConnection::connect_with(options).await?;
        let encoding: String = sqlx::query("SHOW server_encoding").fetch_one(&mut connection).await?.try_get(0)?;
        connection.close().await?;
        Ok::<_, sqlx::Error>(encoding)
    };
    let to = format!("{}:{}", options.get_host(), options.get_port());
    let encoding = match timeout(ACQUIRE, trial).await {
        Ok(Ok(encoding)) => encoding,
        Ok(Err(error)) => return Err(unreachable(&to, error)),
        Err(_) => return Err(StoreError::Unavailable(format!("no answer from {to} within {} s", ACQUIRE.as_secs()))),
    };
    if encoding == "UTF8" {
        return Ok(());
    }
    Err(StoreError::InvalidUrl {
        reason: format!("the encoding of the database is {encoding}; create one with ENCODING 'UTF8'"),
    })
}

/// What is wrong on the way to the database, in one line.
fn unreachable(to: &str, error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            StoreError::Unavailable(format!("nothing listens at {to}; is the database running?"))
        }
        sqlx::Error::Io(error) => StoreError::Unavailable(format!("{to} cannot be reached: {error}")),
        sqlx::Error::Tls(error) => StoreError::Unavailable(format!("TLS with {to} failed: {error}")),
        sqlx::Error::Database(refusal) => StoreError::Unavailable(format!(
            "{to} refuses the connection: {} (code {})",
            refusal.message(),
            refusal.code().unwrap_or_default()
        )),
        other => StoreError::Unavailable(format!("{to}: {other}")),
    }
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
async fn open_sqlite(options: ConnectOptions) -> Result<DatabaseConnection, StoreError> {
    let started = Instant::now();
    loop {
        match Database::connect(options.clone()).await.map_err(StoreError::from) {
            Err(StoreError::Contended(_)) if started.elapsed() < BUSY => sleep(Duration::from_millis(20)).await,
            opened => return opened,
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
