//! Opening a pool on PostgreSQL, and saying in one line why it cannot be opened.
//!
//! The first connection is made once, by itself: a pool tries again what is refused until its time is up, and then does
//! not say what was refused. It also finds out whether a pooler lies in between ([`Way`]). Up: [`super::connection`].
//! Down: sqlx, SeaORM's connections.

mod tls;

use std::{io, str::FromStr};

use sea_orm::{
    Database,
    sqlx::{self, AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _, postgres::PgConnectOptions},
};
use tokio::time::timeout;

use super::{
    Settings, StoreError,
    connection::{ACQUIRE, options},
    pool::{Pool, Way, at_the_beginning},
    sessions,
};

/// What the server itself cuts short, in milliseconds: a worker that lost its connection must not hold locks.
pub(super) const LIMITS: [(&str, &str); 3] =
    [("statement_timeout", "15000"), ("lock_timeout", "100"), ("idle_in_transaction_session_timeout", "10000")];

/// Opens a pool.
pub(super) async fn open(settings: &Settings) -> Result<Pool, StoreError> {
    let invalid = |reason: &str| StoreError::InvalidUrl { reason: reason.into() };
    // sqlx knows no encrypted keys, and would write the password into the log.
    if settings.url.contains("sslpassword=") {
        return Err(invalid("sslpassword is not supported; name a key without a password in sslkey"));
    }
    // The parser's own words may quote the URL, which holds a password.
    let parsed = PgConnectOptions::from_str(&settings.url)
        .map_err(|_| invalid("it is not of the form postgres://user:password@host:port/database"))?;
    tls::refuse(&settings.url, &parsed).map_err(|reason| invalid(&reason))?;
    let way = find_way(&parsed).await?;
    let mut options = options(&settings.url, settings.max_connections);
    options.map_sqlx_postgres_opts(move |options| prepared(options, way)).map_sqlx_postgres_pool_opts(|pool| {
        pool.before_acquire(|_, session| Box::pin(async move { Ok(sessions::may_be_used(session.age)) }))
    });
    Ok(Pool::new(Database::connect(options).await?, way))
}

fn prepared(options: PgConnectOptions, way: Way) -> PgConnectOptions {
    // A URL puts brackets around an address of IP version 6, and nothing else does.
    let host = options.get_host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let options = options
        .host(&host)
        .application_name("metagov")
        // Poolers refuse it, and it is the default since PostgreSQL 12.
        .extra_float_digits(None);
    match way {
        // A multi-row insert is another statement for each number of rows.
        Way::Straight => options.options(LIMITS).statement_cache_capacity(256),
        Way::Pooler => options.statement_cache_capacity(0),
    }
}

/// Finds out whether what we set for our sessions reaches them: a pooler refuses such a parameter, or leaves it out.
async fn find_way(options: &PgConnectOptions) -> Result<Way, StoreError> {
    let options_of = |way| prepared(options.clone(), way);
    let straight = options_of(Way::Straight);
    let to = format!("{}:{}", straight.get_host(), straight.get_port());
    let trials = async {
        match try_once(&straight, Way::Straight).await {
            Err(sqlx::Error::Database(refusal)) if is_about_a_parameter(&refusal.code().unwrap_or_default()) => {}
            Ok(session) if session.has_our_limits => return Ok((Way::Straight, session)),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        Ok((Way::Pooler, try_once(&options_of(Way::Pooler), Way::Pooler).await?))
    };
    let (way, session) = match timeout(ACQUIRE, trials).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Err(unreachable(&to, error)),
        Err(_) => return Err(StoreError::Unavailable(format!("no answer from {to} within {} s", ACQUIRE.as_secs()))),
    };
    if session.encoding != "UTF8" {
        let reason = format!("the encoding of the database is {}; create one with ENCODING 'UTF8'", session.encoding);
        return Err(StoreError::InvalidUrl { reason });
    }
    if way == Way::Pooler {
        tracing::info!(
            database = to,
            "the database is reached through a pooler; limits are set in each transaction, and no statement stays prepared"
        );
    }
    Ok(way)
}

/// Protocol violation, as `PgBouncer` says it; feature not supported, as others do.
fn is_about_a_parameter(code: &str) -> bool {
    code.starts_with("08P") || code.starts_with("0A")
}

/// What a first session is like.
struct Session {
    encoding: String,
    has_our_limits: bool,
}

async fn try_once(options: &PgConnectOptions, way: Way) -> Result<Session, sqlx::Error> {
    let mut connection = PgConnection::connect_with(options).await?;
    if way == Way::Pooler {
        // A pooler of statements refuses transactions, and we cannot do without.
        connection.execute(sqlx::raw_sql(AssertSqlSafe(format!("BEGIN; {}", at_the_beginning())))).await?;
    }
    let encoding = show(&mut connection, "SHOW server_encoding").await?;
    // PostgreSQL writes it with the largest unit that fits.
    let has_our_limits = show(&mut connection, "SHOW statement_timeout").await? == "15s";
    if way == Way::Pooler {
        connection.execute(sqlx::raw_sql("COMMIT")).await?;
    }
    connection.close().await?;
    Ok(Session { encoding, has_our_limits })
}

async fn show(connection: &mut PgConnection, question: &'static str) -> Result<String, sqlx::Error> {
    connection.fetch_one(sqlx::raw_sql(question)).await?.try_get(0)
}

/// What is wrong on the way to the database, in one line.
fn unreachable(to: &str, error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            StoreError::Unavailable(format!("nothing listens at {to}; is the database running?"))
        }
        sqlx::Error::Io(error) => StoreError::Unavailable(match tls::words(&error) {
            Some(words) => format!("TLS with {to} failed: {words}"),
            None => format!("{to} cannot be reached: {error}"),
        }),
        sqlx::Error::Tls(error) => StoreError::Unavailable(format!("TLS with {to} failed: {error}")),
        sqlx::Error::Database(refusal) => StoreError::Unavailable(format!(
            "{to} refuses the connection: {} (code {})",
            refusal.message(),
            refusal.code().unwrap_or_default()
        )),
        other => StoreError::Unavailable(format!("{to}: {other}")),
    }
}
