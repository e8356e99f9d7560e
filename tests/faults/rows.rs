//! Where the rows of a service lie: its database is made, migrated and asked. Up: the rig, and scenarios that look or lock
//! behind the service's back. Down: SeaORM, and the service's own migrations.

use std::path::Path;

use metagov::store::{Settings, Store};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, Statement};
use uuid::Uuid;

use crate::servers::Server;

/// A file of SQLite, which is made by whoever opens it first.
pub(crate) fn in_file(directory: &Path, name: &str) -> String {
    format!("sqlite:{}", directory.join(format!("{name}.db")).display())
}

/// A database of PostgreSQL.
pub(crate) async fn on_server(server: &Server, name: &str) -> String {
    let connection = open(&server.url).await;
    connection.execute_unprepared(&format!("CREATE DATABASE {name}")).await.expect("the rig may create databases");
    let (base, _) = server.url.rsplit_once('/').expect("the URL names a database");
    format!("{base}/{name}")
}

/// Makes the tables.
pub(crate) async fn migrate(url: &str) {
    store(url, 1).await.migrate().await.expect("the schema can be made");
}

/// The service's own way to its rows.
pub(crate) async fn store(url: &str, max_connections: u32) -> Store {
    Store::connect(&Settings { url: url.to_owned(), max_connections }).await.expect("the database answers")
}

/// A way past the service.
pub(crate) async fn open(url: &str) -> DatabaseConnection {
    Database::connect(url).await.expect("the database answers")
}

/// The one number that a query answers.
pub(crate) async fn number(url: &str, query: &str) -> usize {
    let connection = open(url).await;
    let statement = Statement::from_string(connection.get_database_backend(), query);
    let row = connection.query_one_raw(statement).await.expect("the query is right").expect("it answers one row");
    let number: i64 = row.try_get_by_index(0).expect("the answer is a number");
    let _ = connection.close().await;
    usize::try_from(number).expect("it counts something")
}

/// The id of every event that is stored.
pub(crate) async fn events(url: &str) -> Vec<Uuid> {
    let connection = open(url).await;
    let statement = Statement::from_string(connection.get_database_backend(), "SELECT id FROM outbox");
    let rows = connection.query_all_raw(statement).await.expect("the query is right");
    let _ = connection.close().await;
    rows.iter().map(|row| row.try_get_by_index(0).expect("it is an id")).collect()
}
