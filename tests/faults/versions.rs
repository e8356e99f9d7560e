//! Two versions at the same time, as in every rolling update: of the schema, and of a plugin that declares an action
//! otherwise than before.
//!
//! [`tests/migrations.rs`](../migrations.rs) has the steps one by one; here they are taken under load. Up: the list of
//! scenarios. Down: the rig.

use std::time::Duration;

use futures::future::join_all;
use metagov::store::Store;
use sea_orm::ConnectionTrait;
use serde_json::json;
use tokio::time::interval;

use crate::{
    puppet::LATER,
    rig::{Rig, Setup, Size},
    rows,
    table::Row,
    workers::Role,
};

/// What a newer version does to the schema that older ones can live with, and what they cannot.
const NEWER: [&str; 2] = [
    "ALTER TABLE outbox ADD COLUMN newer TEXT",
    "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m29990101_000000_newer', 0)",
];
const BREAKING: &str =
    "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m29990101_000001_newer_breaking', 0)";

/// Workers of the older version die in the middle of what those of the newer one have to finish, while the schema changes
/// under both.
pub(crate) async fn t25(rig: &mut Rig, size: Size) -> Row {
    const OLDER: usize = 2;
    let (count, kills) = size.of((20_000, 30), (600, 3));
    let settings = vec![("worker.concurrency", "32".to_owned()), ("worker.deadline_seconds", "1".to_owned())];
    let mut service = rig.service(Setup { workers: OLDER, settings, ..Setup::default() }).await;
    service.set(LATER, Some("yes"));
    for _ in 0..2 {
        service.start(Role::Worker);
    }
    service.set(LATER, None);
    let commands = service.commands(count, "keyed", &json!({ "deeds": [{ "wait": 500 }], "calls": true }));
    let sending = service.send(&commands);
    let mut ticks = interval(Duration::from_secs(1));
    for kill in 0..kills {
        ticks.tick().await;
        // Also from the newer schema on: the one in its place is of the older version.
        service.replace(kill % OLDER);
        if kill == kills / 2 {
            let newer = rows::open(&service.database_url).await;
            for statement in NEWER {
                newer.execute_unprepared(statement).await.expect("the newer version can do it");
            }
        }
    }
    // The update is complete: what the older ones have begun is left to the newer ones.
    for older in &mut service.processes[..OLDER] {
        older.kill();
    }
    let open = count - service.driver.answered(&commands);
    sending.done().await;
    service.answered(&commands, commands.len()).await;
    let tally = service.settle(&commands, &["action.completed"]).await;

    let breaking = rows::open(&service.database_url).await;
    breaking.execute_unprepared(BREAKING).await.expect("the newer version can do it");
    service.start(Role::Worker);
    let refused = service.processes.last_mut().expect("it was just started");
    let ended = refused.ended_within(Duration::from_secs(30)).await.is_some_and(|status| !status.success());
    let says_why = refused.log_from(0).contains("m29990101_000001_newer_breaking");
    let keys = tally.keys;
    Row::new(
        "T25",
        format!("two versions of schema and plugin under {count} commands, {kills} × `kill -9` of the older"),
    )
    .counts(tally)
    .at_least("open when the last of the older ones was gone", open, 1)
    .exactly("keys at the platform", keys, count)
    .exactly("of three that migrate at once, those that have something to do", migrate_at_once(rig).await, 1)
    .holds("an older one ends where a newer schema breaks with it", ended)
    .holds("and says why", says_why)
}

/// How many of three programs that find an empty database have migrated it.
async fn migrate_at_once(rig: &Rig) -> usize {
    let url = rows::on_server(&rig.database, "versions").await;
    let stores = join_all((0..3).map(|_| rows::store(&url, 1))).await;
    let applied = join_all(stores.iter().map(Store::migrate)).await;
    applied.into_iter().filter(|applied| !applied.as_ref().expect("each waits for the others").is_empty()).count()
}
