//! What operators do to a PostgreSQL that is in use: fail over, migrate, take rights away, and mistype an address. Nothing
//! of it is a command's fault.

use std::time::Instant;

use metagov::store::{Committed, Settings, Store, StoreError};
use sea_orm::ConnectionTrait;

use crate::{
    database::{Database, On},
    sample::{community, pure, slug},
};

/// A database, a store on it that has one session, and a session of the operator's.
async fn operated() -> (Database, Store, sea_orm::DatabaseConnection) {
    let database = Database::create(On::Postgres).await;
    community(&database.store().await, "a").await;
    let settings = Settings { url: database.url.clone(), max_connections: 1 };
    let store = Store::connect(&settings).await.expect("it opens");
    let operator = database.raw().await;
    (database, store, operator)
}

async fn does(operator: &sea_orm::DatabaseConnection, what: &str) {
    operator.execute_unprepared(what).await.unwrap_or_else(|error| panic!("{what}: {error}"));
}

/// What a command is told while the trouble lasts: to wait, whole batch and all.
async fn waits(store: &Store, code: &str) -> String {
    let error = store.commit(vec![pure("a", "first"), pure("a", "second")]).await.expect_err("nothing can be written");
    assert!(matches!(error, StoreError::Unavailable(_)) && error.is_passing(), "{error}");
    let ping = store.ping().await.expect_err("readiness asks for what the service needs");
    assert!(ping.is_passing() && ping.to_string().contains(code), "{ping}");
    ping.to_string()
}

async fn goes_on(store: &Store) {
    store.ping().await.expect("it is as before");
    let answers = store.commit(vec![pure("a", "first"), pure("a", "second")]).await.expect("it is as before");
    assert!(matches!(answers[..], [Committed::Stored, Committed::Stored]), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_with_a_server_that_became_a_standby_are_not_used_again() {
    let (database, _, operator) = operated().await;
    let name = database.url.rsplit('/').next().expect("a name").to_owned();
    does(&operator, &format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    let settings = Settings { url: database.url.clone(), max_connections: 4 };
    let store = Store::connect(&settings).await.expect("it opens");
    waits(&store, "25006").await;
    // New sessions write again; those of before would stay read-only for ever.
    does(
        &operator,
        &format!("SET default_transaction_read_only = off; ALTER DATABASE {name} RESET default_transaction_read_only"),
    )
    .await;
    let error = store.ping().await.err().map(|error| error.to_string());
    assert!(error.is_none_or(|error| error.contains("25006")), "the session of before answers once more at most");
    goes_on(&store).await;
    operator.close().await.expect("the connection closes");
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_a_column_or_a_right_that_is_missing_is_waited_for() {
    let (database, store, operator) = operated().await;
    for (take, code, give) in [
        ("ALTER TABLE inbox RENAME TO away", "42P01", "ALTER TABLE away RENAME TO inbox"),
        (
            "ALTER TABLE inbox RENAME COLUMN message_id TO away",
            "42703",
            "ALTER TABLE inbox RENAME COLUMN away TO message_id",
        ),
    ] {
        does(&operator, take).await;
        let error = store.commit(vec![pure("a", "k")]).await.expect_err("nothing can be written");
        assert!(error.is_passing() && error.to_string().contains(code), "{error}");
        assert!(error.to_string().contains("metagov migrate"), "the remedy is told: {error}");
        does(&operator, give).await;
    }
    does(&operator, "ALTER TABLE inbox RENAME TO away").await;
    assert!(waits(&store, "42P01").await.contains("grant"), "the remedy is told");
    does(&operator, "ALTER TABLE away RENAME TO inbox").await;
    goes_on(&store).await;
    operator.close().await.expect("the connection closes");
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_was_prepared_before_the_schema_changed_is_prepared_again() {
    let (database, store, operator) = operated().await;
    let read = || async { store.community(&slug("a")).await };
    read().await.expect("it is there");
    does(&operator, "ALTER TABLE communities ALTER COLUMN readable_name TYPE varchar(200)").await;
    let error = read().await.expect_err("the plan is of the schema of before");
    assert!(error.is_passing() && error.to_string().contains("0A000"), "{error}");
    assert!(read().await.expect("a new session prepares it again").is_some());
    operator.close().await.expect("the connection closes");
    database.drop().await;
}

#[tokio::test]
async fn what_is_wrong_with_an_address_is_told_at_once_and_in_one_line() {
    let url = std::env::var("METAGOV_TEST_DATABASE_URL").expect("tests/run sets it");
    let address = url.rsplit('@').next().and_then(|rest| rest.split('/').next()).expect("host and port").to_owned();
    let port = address.rsplit(':').next().expect("a port");
    let latin1 = format!("metagov_test_latin1_{}", std::process::id());
    let server = sea_orm::Database::connect(&url).await.expect("the server answers");
    does(&server, &format!("CREATE DATABASE {latin1} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")).await;
    for (url, said) in [
        ("postgres://u:hunter2@127.0.0.1:1/d".to_owned(), "nothing listens at 127.0.0.1:1"),
        ("postgres://u:hunter2@[::1]:1/d".to_owned(), "nothing listens at ::1:1"),
        (format!("postgres://nobody:hunter2@{address}/postgres"), "refuses the connection: "),
        (format!("{}/absent", url.rsplit_once('/').expect("a path").0), "(code 3D000)"),
        (format!("postgres://u:hunter2@127.0.0.1:{port}/d?sslmode=require"), "TLS with 127.0.0.1"),
        (format!("{url}?sslpassword=hunter2"), "sslpassword is not supported"),
        (format!("{}/{latin1}", url.rsplit_once('/').expect("a path").0), "the encoding of the database is LATIN1"),
    ] {
        let began = Instant::now();
        let error =
            Store::connect(&Settings { url, max_connections: 2 }).await.expect_err("it cannot be used").to_string();
        println!("{said}: after {:?}", began.elapsed());
        assert!(error.contains(said) && !error.contains("hunter2") && error.lines().count() == 1, "{said}: {error}");
        assert!(!error.contains("timed out"), "{error}");
    }
    does(&server, &format!("DROP DATABASE {latin1}")).await;
    server.close().await.expect("the connection closes");
}
