//! A database for one test, on either server, and the macro that runs a story everywhere.

use metagov::store::{Settings, Store};
use metagov_sdk::contract::Timestamp;
use sea_orm::{ConnectionTrait, Database as SeaOrm, DatabaseConnection, Statement};
use uuid::Uuid;

/// Which database a story runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    Sqlite,
    Postgres,
    /// PostgreSQL behind `PgBouncer` in transaction mode.
    Pooled,
}

/// A database of the test's own, gone at the end.
pub(crate) struct Database {
    pub(crate) on: On,
    pub(crate) url: String,
    /// Where nothing lies in between.
    behind: String,
    place: Place,
}

enum Place {
    Directory(tempfile::TempDir),
    Server { url: String, name: String },
}

impl Database {
    pub(crate) async fn create(on: On) -> Self {
        match on {
            On::Sqlite => {
                let directory = tempfile::tempdir().expect("a temporary directory can be made");
                // A directory that is missing is made.
                let file = directory.path().join("data").join("metagov.db");
                let url = format!("sqlite:{}", file.display());
                Self { on, behind: url.clone(), url, place: Place::Directory(directory) }
            }
            On::Postgres | On::Pooled => {
                let url = std::env::var("METAGOV_TEST_DATABASE_URL").expect(
                    "METAGOV_TEST_DATABASE_URL is not set: run tests/run, which starts a throw-away server, or set it \
                     to postgres://user@host:port/postgres with a user who may create databases",
                );
                let name = format!("metagov_test_{}", Uuid::now_v7().simple());
                let server = SeaOrm::connect(&url).await.expect("the server of METAGOV_TEST_DATABASE_URL answers");
                server.execute_unprepared(&format!("CREATE DATABASE {name}")).await.expect("a database can be created");
                server.close().await.expect("the connection closes");
                let own = |server: &str| {
                    let (base, _) = server.rsplit_once('/').expect("a URL has a path");
                    format!("{base}/{name}")
                };
                let behind = own(&url);
                let through = match on {
                    On::Pooled => own(&std::env::var("METAGOV_TEST_POOLER_URL").expect(
                        "METAGOV_TEST_POOLER_URL is not set: run tests/run, or tests/services/pgbouncer and set it",
                    )),
                    _ => behind.clone(),
                };
                Self { on, url: through, behind, place: Place::Server { url, name } }
            }
        }
    }

    /// A store on it, as each of our programs has one.
    pub(crate) async fn connect(&self) -> Store {
        let settings = Settings { url: self.url.clone(), max_connections: 4 };
        Store::connect(&settings).await.expect("the database opens")
    }

    /// A store on it, with every table.
    pub(crate) async fn store(&self) -> Store {
        let store = self.connect().await;
        store.migrate().await.expect("the migrations apply");
        store
    }

    /// A connection of the test's own, to look behind the store.
    pub(crate) async fn raw(&self) -> DatabaseConnection {
        SeaOrm::connect(&self.behind).await.expect("the database opens")
    }

    /// Sets a time behind the store's back, as a clock would that has jumped since.
    pub(crate) async fn set_time(&self, table: &str, column: &str, rows: &str, time: Timestamp) {
        let raw = self.raw().await;
        let sql = format!("UPDATE {table} SET {column} = $1 WHERE {rows}");
        let update = Statement::from_sql_and_values(raw.get_database_backend(), sql, [time.into()]);
        let updated = raw.execute_raw(update).await.expect("the statement is right");
        assert!(updated.rows_affected() > 0, "no row of {table} has {rows}");
        raw.close().await.expect("the connection closes");
    }

    /// How many rows of a table there are for which this holds, seen from behind the store.
    pub(crate) async fn count(&self, table: &str, rows: &str) -> i64 {
        let raw = self.raw().await;
        let sql = format!("SELECT COUNT(*) FROM {table} WHERE {rows}");
        let question = Statement::from_string(raw.get_database_backend(), sql);
        let row = raw.query_one_raw(question).await.expect("the statement is right").expect("a count is one row");
        raw.close().await.expect("the connection closes");
        row.try_get_by_index(0).expect("a count is a number")
    }

    pub(crate) async fn drop(self) {
        match self.place {
            Place::Directory(directory) => directory.close().expect("the directory can be removed"),
            Place::Server { url, name } => {
                let server = SeaOrm::connect(&url).await.expect("the server answers");
                let drop = format!("DROP DATABASE {name} WITH (FORCE)");
                server.execute_unprepared(&drop).await.expect("the database can be dropped");
                server.close().await.expect("the connection closes");
            }
        }
    }
}

/// Runs each story, an `async fn(&Database)`, on both databases, and on PostgreSQL through a pooler, too.
macro_rules! on_both {
    ($($story:ident),* $(,)?) => {
        $crate::database::stories!(sqlite, Sqlite: $($story),*);
        $crate::database::stories!(postgres, Postgres: $($story),*);
        $crate::database::stories!(pooled, Pooled: $($story),*);
    };
}
pub(crate) use on_both;

macro_rules! stories {
    ($module:ident, $on:ident: $($story:ident),*) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $story() {
                let database = $crate::database::Database::create($crate::database::On::$on).await;
                super::$story(&database).await;
                database.drop().await;
            })*
        }
    };
}
pub(crate) use stories;
