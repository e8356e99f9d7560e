//! The database's clock, which leases and due times go by: the clocks of workers differ.
//!
//! SQLite runs in this process and has no clock of its own, so there it is the machine's; a test may put one in its place.
//! Up: whoever writes a time that another process compares. Down: `now()`, the start of the transaction on PostgreSQL.

#[cfg(feature = "failpoints")]
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{SubsecRound, TimeDelta, Utc};
use metagov_sdk::contract::Timestamp;
use sea_orm::{
    ActiveValue::{self, NotSet, Set},
    ConnectionTrait, DbBackend, FromQueryResult, Statement,
    sea_query::Expr,
};

use super::StoreError;

/// Now, as an expression within a statement.
pub(super) fn now(backend: DbBackend) -> Expr {
    match backend {
        DbBackend::Postgres => Expr::cust("now()"),
        _ => Expr::val(machine()),
    }
}

/// That much after now, as an expression within a statement.
pub(super) fn after(backend: DbBackend, duration: Duration) -> Expr {
    match backend {
        DbBackend::Postgres => {
            Expr::cust_with_values("now() + make_interval(secs => $1::double precision)", [duration.as_secs_f64()])
        }
        _ => Expr::val(later(machine(), duration)),
    }
}

/// Now, as the value of a column in a row to be inserted: on PostgreSQL the column's default.
pub(super) fn stamp(backend: DbBackend) -> ActiveValue<Timestamp> {
    match backend {
        DbBackend::Postgres => NotSet,
        _ => Set(machine()),
    }
}

/// Asks the database what time it is; within a transaction, when that began.
pub(super) async fn read(connection: &impl ConnectionTrait) -> Result<Timestamp, StoreError> {
    ask(connection, "SELECT now() AS now").await
}

/// Asks the database what time it is, within a transaction too.
pub(super) async fn read_precisely(connection: &impl ConnectionTrait) -> Result<Timestamp, StoreError> {
    ask(connection, "SELECT clock_timestamp() AS now").await
}

async fn ask(connection: &impl ConnectionTrait, question: &str) -> Result<Timestamp, StoreError> {
    #[derive(FromQueryResult)]
    struct Row {
        now: Timestamp,
    }
    let backend = connection.get_database_backend();
    if backend != DbBackend::Postgres {
        return Ok(machine());
    }
    let row = Row::find_by_statement(Statement::from_string(backend, question)).one(connection).await?;
    row.map(|row| row.now).ok_or_else(|| StoreError::Unavailable("the database does not tell the time".into()))
}

/// Adds a duration, as far as calendars go.
pub(super) fn later(time: Timestamp, duration: Duration) -> Timestamp {
    TimeDelta::from_std(duration).ok().and_then(|delta| time.checked_add_signed(delta)).unwrap_or(Timestamp::MAX_UTC)
}

/// Takes away a duration, as far as calendars go.
pub(super) fn earlier(time: Timestamp, duration: Duration) -> Timestamp {
    TimeDelta::from_std(duration).ok().and_then(|delta| time.checked_sub_signed(delta)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// What both databases can hold: microseconds.
pub(super) fn storable(time: Timestamp) -> Timestamp {
    time.trunc_subsecs(6)
}

/// What SQLite takes for the machine's clock where a test says so, in microseconds since 1970; 0 is the machine's own.
#[cfg(feature = "failpoints")]
pub static FAKE: AtomicI64 = AtomicI64::new(0);

fn machine() -> Timestamp {
    #[cfg(feature = "failpoints")]
    if let fake @ 1.. = FAKE.load(Ordering::SeqCst) {
        return Timestamp::from_timestamp_micros(fake).unwrap_or_default();
    }
    storable(Utc::now())
}
