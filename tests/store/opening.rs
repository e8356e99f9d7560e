//! Opening a database, and writing to it from many sides.

use std::time::Duration;

use metagov::store::{Begun, Change, Committed, Selection, Settings, Store, StoreError};
use sea_orm::{ConnectionTrait, TransactionTrait};
use serde_json::json;

use crate::{
    database::{Database, On, on_both},
    sample::{attempt, changing, community, entry, fence, pure, slug},
};

on_both!(writers_on_all_sides_never_fail, the_clock_is_near_ours);

async fn the_clock_is_near_ours(database: &Database) {
    let now = database.store().await.now().await.expect("the clock");
    assert!((now - chrono::Utc::now()).abs() < chrono::TimeDelta::seconds(5));
}

/// Each reads a counter and writes it one higher, against the version it read: on SQLite this is what fails with
/// "database is locked" unless a transaction is a writer from its beginning.
async fn writers_on_all_sides_never_fail(database: &Database) {
    const WRITERS: u16 = 32;
    const EACH: u16 = 5;
    let stores = [database.store().await, database.store().await];
    let id = community(&stores[0], "a").await.id;
    let writers = (0..WRITERS).map(|writer| {
        let store = stores[usize::from(writer % 2)].clone();
        tokio::spawn(async move {
            for n in 0..EACH {
                loop {
                    let instance = store.instance(&slug("a"), id).await.expect("a read never fails").expect("there");
                    let before = instance.state.and_then(|state| state.as_i64()).unwrap_or(0);
                    let mut unit = pure("a", &format!("{writer}-{n}"));
                    unit.changes = changing(vec![Change::UpdateInstance {
                        updated_at: chrono::Utc::now(),
                        id,
                        community: slug("a"),
                        expected: instance.version,
                        platform_id: None,
                        config: None,
                        state: Some(json!(before + 1)),
                        tick_every: None,
                    }])
                    .changes;
                    match store.commit(vec![unit]).await.expect("a commit never fails").remove(0) {
                        Committed::Stored => break,
                        Committed::Stale => {}
                        // Too many before it in line: it may come again.
                        Committed::Refused(error) if error.is_passing() => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.expect("no writer fails");
    }
    let instance = stores[0].instance(&slug("a"), id).await.expect("the database answers").expect("it is there");
    assert_eq!(instance.state, Some(json!(WRITERS * EACH)));
}

/// As where two programs are started at once on a new machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_sqlite_file_that_somebody_else_holds_is_waited_for() {
    let database = Database::create(On::Sqlite).await;
    let file = database.url.strip_prefix("sqlite:").expect("a file");
    let directory = std::path::Path::new(file).parent().expect("a directory");
    std::fs::create_dir_all(directory).expect("it can be made");
    let holder = sea_orm::Database::connect(format!("sqlite:{file}?mode=rwc")).await.expect("the file is made");
    let held = holder.get_sqlite_connection_pool().acquire().await.expect("a connection");
    let mut held = held.detach();
    sea_orm::sqlx::query("BEGIN EXCLUSIVE").execute(&mut held).await.expect("nobody else holds it");
    let settings = Settings { url: database.url.clone(), max_connections: 4 };
    let mut opening = tokio::spawn(async move { Store::connect(&settings).await.map(drop) });
    let early = tokio::time::timeout(Duration::from_millis(500), &mut opening).await;
    assert!(early.is_err(), "it does not wait: {early:?}");
    sea_orm::sqlx::query("COMMIT").execute(&mut held).await.expect("it is ours");
    opening.await.expect("no panic").expect("the file opens once it is free");
}

#[cfg(unix)]
#[tokio::test]
async fn a_sqlite_file_is_created_for_its_owner_only() {
    use std::{os::unix::fs::PermissionsExt, path::Path};

    let database = Database::create(On::Sqlite).await;
    let store = database.store().await;
    store.commit(vec![pure("a", "k")]).await.expect("the database answers");
    let file = Path::new(database.url.strip_prefix("sqlite:").expect("a file"));
    let directory = file.parent().expect("a directory");
    for entry in std::fs::read_dir(directory).expect("the directory can be read") {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("its metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", entry.path().display());
    }
    assert_eq!(std::fs::metadata(directory).expect("its metadata").permissions().mode() & 0o777, 0o700);
    drop(store);
    database.drop().await;
}

#[tokio::test]
async fn a_database_in_memory_lives_as_long_as_its_store() {
    let store =
        Store::connect(&Settings { url: "sqlite::memory:".into(), max_connections: 8 }).await.expect("it opens");
    store.migrate().await.expect("the migrations apply");
    store.commit(vec![pure("a", "k")]).await.expect("the database answers");
    assert_eq!(store.events(&slug("a"), &Selection::default(), None, 10).await.expect("the database answers").len(), 1);
}

#[tokio::test]
async fn an_unusable_url_is_refused_and_not_repeated() {
    for url in ["mysql://u:geheim@h/d", "geheim", "postgres://u:geheim@h:port/d"] {
        let settings = Settings { url: url.into(), max_connections: 1 };
        assert!(!format!("{settings:?}").contains("geheim"));
        let error = Store::connect(&settings).await.expect_err("it is unusable");
        assert!(matches!(error, StoreError::InvalidUrl { .. }) && !error.is_passing(), "{error}");
        assert!(!format!("{error} {error:?}").contains("geheim"), "{error}");
    }
    let nowhere = Settings { url: "sqlite:/proc/nowhere/metagov.db".into(), max_connections: 1 };
    assert!(matches!(Store::connect(&nowhere).await, Err(StoreError::Create { .. })));
}

/// The one test that waits: as long as the server lets a session wait for a lock.
#[tokio::test]
async fn a_row_that_somebody_holds_is_given_up_after_a_while() {
    for on in [On::Postgres, On::Pooled] {
        a_held_row_is_given_up(Database::create(on).await).await;
    }
}

async fn a_held_row_is_given_up(database: Database) {
    let store = database.store().await;
    let begin = || async { store.begin_attempt(&entry("a", "k", 1), &attempt(), fence(), Duration::ZERO).await };
    begin().await.expect("the first attempt begins");
    let raw = database.raw().await;
    let holding = raw.begin().await.expect("a transaction");
    holding.execute_unprepared("SELECT 1 FROM inbox FOR UPDATE").await.expect("the row is held");

    let error = begin().await.expect_err("the row is held");
    assert!(matches!(error, StoreError::Contended(_)) && error.is_passing(), "{error}");
    holding.rollback().await.expect("the row is free");
    assert!(matches!(begin().await, Ok(Begun::Again { .. })));
    raw.close().await.expect("the connection closes");
    database.drop().await;
}

#[tokio::test]
async fn a_connection_that_the_server_ended_is_passing_trouble() {
    for on in [On::Postgres, On::Pooled] {
        ended_connections_are_passing_trouble(Database::create(on).await).await;
    }
}

async fn ended_connections_are_passing_trouble(database: Database) {
    let store = database.store().await;
    let raw = database.raw().await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE application_name = 'metagov' AND datname = current_database()";
    raw.execute_unprepared(end).await.expect("the sessions end");
    for key in ["k1", "k2", "k3", "k4", "k5"] {
        // A connection that was used a moment ago is not pinged, so this may fail, once for each.
        let answers = loop {
            match store.commit(vec![pure("a", key)]).await {
                Ok(answers) => break answers,
                Err(error) => assert!(error.is_passing(), "{error}"),
            }
        };
        assert!(matches!(answers[..], [Committed::Stored]), "{answers:?}");
    }
    raw.close().await.expect("the connection closes");
    database.drop().await;
}
