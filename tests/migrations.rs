//! Migrations on tables that hold rows: up, down, up again, and from several programs at once.

#[path = "store/database.rs"]
#[expect(dead_code, reason = "the store's own stories use the rest")]
mod database;
#[path = "store/sample.rs"]
#[expect(dead_code, reason = "the store's own stories use the rest")]
mod sample;

use metagov::store::{Change, Committed, StoreError, Unit};
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
    a_database_of_a_newer_version_is_refused,
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
    for table in
        ["communities", "plugin_instances", "processes", "action_runs", "inbox", "outbox", "steps", "uncertain_runs"]
    {
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

async fn a_database_of_a_newer_version_is_refused(database: &Database) {
    let store = database.store().await;
    let raw = database.raw().await;
    let newer = "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m29990101_000000_newer', 0)";
    raw.execute_unprepared(newer).await.expect("the row is written");
    raw.close().await.expect("the connection closes");
    for refused in [store.migrate().await, store.pending_migrations().await] {
        assert!(matches!(refused, Err(StoreError::Newer(_))), "{refused:?}");
    }
}
