//! A database for one test, on either server, and the macro that runs a story on both.

use metagov::store::{Settings, Store};
use metagov_sdk::contract::Timestamp;
use sea_orm::{ConnectionTrait, Database as SeaOrm, DatabaseConnection, Statement};
use uuid::Uuid;

/// Which database a story runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    Sqlite,
    Postgres,
}

/// A database of the test's own, gone at the end.
pub(crate) struct Database {
    pub(crate) on: On,
    pub(crate) url: String,
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
                Self { on, url: format!("sqlite:{}", file.display()), place: Place::Directory(directory) }
            }
            On::Postgres => {
                let url = std::env::var("METAGOV_TEST_DATABASE_URL").expect(
                    "METAGOV_TEST_DATABASE_URL is not set: run tests/run, which starts a throw-away server, or set it \
                     to postgres://user@host:port/postgres with a user who may create databases",
                );
                let name = format!("metagov_test_{}", Uuid::now_v7().simple());
                let server = SeaOrm::connect(&url).await.expect("the server of METAGOV_TEST_DATABASE_URL answers");
                server.execute_unprepared(&format!("CREATE DATABASE {name}")).await.expect("a database can be created");
                server.close().await.expect("the connection closes");
                let (base, _) = url.rsplit_once('/').expect("a URL has a path");
                let own = format!("{base}/{name}");
                Self { on, url: own, place: Place::Server { url, name } }
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
        SeaOrm::connect(&self.url).await.expect("the database opens")
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

/// Runs each story, an `async fn(&Database)`, on both databases.
macro_rules! on_both {
    ($($story:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $story() {
                let database = crate::database::Database::create(crate::database::On::Sqlite).await;
                super::$story(&database).await;
                database.drop().await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $story() {
                let database = crate::database::Database::create(crate::database::On::Postgres).await;
                super::$story(&database).await;
                database.drop().await;
            })*
        }
    };
}
pub(crate) use on_both;
