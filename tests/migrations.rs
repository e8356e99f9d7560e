//! Migrations on tables that hold rows: up, down, up again, and from several programs at once.

#[path = "store/database.rs"]
#[expect(dead_code, reason = "the store's own stories use the rest")]
mod database;
#[path = "store/sample.rs"]
#[expect(dead_code, reason = "the store's own stories use the rest")]
mod sample;

use metagov::store::{Change, Committed, Store, StoreError, Unit};
use metagov_migrations::Migrator;
use sea_orm::{ConnectionTrait, Statement};
use sea_orm_migration::MigratorTrait;

use crate::{
    database::{Database, on_both},
    sample::{community, event, insert, process, pure, slug},
};

on_both!(
    every_step_goes_down_and_up_again_on_tables_with_rows,
    what_is_pending_is_told_without_changing_anything,
    of_programs_that_migrate_at_once_one_does,
    beside_a_newer_version_an_older_one_goes_on,
    a_newer_version_that_breaks_with_older_ones_is_refused_by_them,
);

/// Rows in every table.
async fn fill(database: &Database) {
    let store = database.store().await;
    let saw = community(&store, "a").await;
    let started = process("a", saw.id, store.now().await.expect("the clock"));
    let unit = Unit {
        saw: Some(saw),
        changes: vec![insert(&started), Change::InsertCommunity { slug: slug("b"), readable_name: None }],
        events: vec![event("a", "k", "{}")],
        ..pure("a", "k")
    };
    let answers = store.commit(vec![unit]).await.expect("the database answers");
    assert!(matches!(answers[..], [Committed::Stored]), "{answers:?}");
}

async fn every_step_goes_down_and_up_again_on_tables_with_rows(database: &Database) {
    fill(database).await;
    let raw = database.raw().await;
    let steps = Migrator::migrations().len();
    for step in 1..=steps {
        Migrator::down(&raw, Some(1)).await.expect("the step goes down");
        assert_eq!(Migrator::get_pending_migrations(&raw).await.expect("the list").len(), step);
        Migrator::up(&raw, Some(1)).await.expect("the step goes up again");
        Migrator::down(&raw, Some(1)).await.expect("and down once more");
    }
    for table in [
        "communities",
        "plugin_instances",
        "processes",
        "action_runs",
        "inbox",
        "outbox",
        "row_leases",
        "steps",
        "suspects",
        "uncertain_runs",
    ] {
        let select = Statement::from_string(raw.get_database_backend(), format!("SELECT 1 FROM {table}"));
        raw.query_all_raw(select).await.expect_err("the table is gone");
    }
    raw.close().await.expect("the connection closes");
    assert_eq!(database.connect().await.migrate().await.expect("the migrations apply").len(), steps);
    fill(database).await;
}

async fn what_is_pending_is_told_without_changing_anything(database: &Database) {
    let store = database.connect().await;
    let pending = store.pending_migrations().await.expect("the list");
    assert_eq!(pending.len(), Migrator::migrations().len());
    assert!(pending.is_sorted(), "{pending:?}");
    assert_eq!(store.pending_migrations().await.expect("the list"), pending);
    assert_eq!(store.migrate().await.expect("the migrations apply"), pending);
    assert_eq!(store.pending_migrations().await.expect("the list"), [""; 0]);
    assert_eq!(store.migrate().await.expect("nothing is left to do"), [""; 0]);
}

async fn of_programs_that_migrate_at_once_one_does(database: &Database) {
    let (one, two, three) = tokio::join!(database.connect(), database.connect(), database.connect());
    let (one, two, three) = tokio::join!(one.migrate(), two.migrate(), three.migrate());
    let mut applied = [one, two, three].map(|applied| applied.expect("it waits for the others").len());
    applied.sort_unstable();
    assert_eq!(applied, [0, 0, Migrator::migrations().len()]);
}

/// The database as a newer version leaves it, whose step is called so.
async fn newer(database: &Database, step: &str) -> Store {
    let store = database.store().await;
    let raw = database.raw().await;
    let row = format!("INSERT INTO seaql_migrations (version, applied_at) VALUES ('{step}', 0)");
    for statement in [row.as_str(), "ALTER TABLE outbox ADD COLUMN newer TEXT", "CREATE TABLE newer (id TEXT)"] {
        raw.execute_unprepared(statement).await.expect("the newer version can do it");
    }
    raw.close().await.expect("the connection closes");
    store
}

async fn beside_a_newer_version_an_older_one_goes_on(database: &Database) {
    let running = newer(database, "m29990101_000000_newer").await;
    let restarted = database.connect().await;
    for store in [running, restarted] {
        assert_eq!(store.pending_migrations().await.expect("it can live with it"), [""; 0]);
        assert_eq!(store.migrate().await.expect("there is nothing to do"), [""; 0]);
        store.ping().await.expect("it can be written to");
    }
    fill(database).await;
}

async fn a_newer_version_that_breaks_with_older_ones_is_refused_by_them(database: &Database) {
    let store = newer(database, "m29990101_000000_newer_breaking").await;
    for refused in [store.migrate().await, store.pending_migrations().await] {
        assert!(matches!(refused, Err(StoreError::Newer(_))), "{refused:?}");
    }
}
