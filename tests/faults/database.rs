//! The database goes away, or throws its sessions out.

use std::time::Duration;

use rand::Rng;
use sea_orm::{ConnectionTrait, Database, DbBackend, Statement};
use serde_json::json;
use tokio::time::{Instant, interval};

use crate::{
    mix::Mix,
    rig::{Rig, Setup, Size},
    table::Row,
};

/// PostgreSQL ends as in a crash and comes back, in the middle of a stream of commands.
pub(crate) async fn t19(rig: &mut Rig, size: Size) -> Row {
    let (rounds, count) = (size.of(5, 2), size.of(10_000, 1_000));
    let mut service = rig.service(Setup { workers: 2, schedulers: 1, ..Setup::default() }).await;
    let mixing = Mix::begin(rig, &service).await.go_on();
    let mut commands = Vec::new();
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        let script = json!({ "deeds": ["succeed"], "calls": true });
        let part = service.commands(count, if round % 2 == 0 { "keyed" } else { "pure" }, &script);
        let sending = service.send(&part);
        service.answered(&part, count / 4).await;
        rig.database.kill().await;
        rig.database.start_again().await;
        let (began, before) = (Instant::now(), service.driver.answered(&part));
        service.answered(&part, (before + 1).min(count)).await;
        slowest = slowest.max(began.elapsed());
        sending.done().await;
        service.answered(&part, count).await;
        commands.extend(part);
    }
    let (tally, mixed) = mixing.end().await.settle(&mut service, &commands, &["action.completed"]).await;
    let (keys, sent) = (tally.keys, commands.len());
    let row = Row::new("T19", format!("PostgreSQL ended `-m immediate` and started again {rounds} ×"))
        .counts(tally)
        .exactly("keys at the platform", keys, sent)
        .within("committing again after", slowest, Duration::from_secs(5));
    mixed.judge(row)
}

/// Sessions are thrown out at random, five in a second.
pub(crate) async fn t20(rig: &mut Rig, size: Size) -> Row {
    const THROW_OUT: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE datname = current_database() AND application_name = 'metagov' ORDER BY random() LIMIT 1";
    let time = size.of(Duration::from_mins(2), Duration::from_secs(10));
    let mut service = rig.service(Setup { workers: 2, schedulers: 1, ..Setup::default() }).await;
    let admin = Database::connect(&service.database_url).await.expect("the database answers");
    let mixing = Mix::begin(rig, &service).await.go_on();
    let (began, mut ticks) = (Instant::now(), interval(Duration::from_millis(200)));
    let (mut commands, mut thrown) = (Vec::new(), 0);
    while began.elapsed() < time {
        ticks.tick().await;
        let part =
            service.commands(rig.random.random_range(10..50), "keyed", &json!({ "deeds": ["succeed"], "calls": true }));
        service.driver.send(&part).await;
        commands.extend(part);
        let one = admin.query_one_raw(Statement::from_string(DbBackend::Postgres, THROW_OUT)).await;
        // None is there at a moment at which the workers build theirs again.
        thrown += usize::from(one.expect("the database answers").is_some());
    }
    let (stopped, last) =
        (Instant::now(), service.commands(50, "keyed", &json!({ "deeds": ["succeed"], "calls": true })));
    service.driver.send(&last).await;
    service.answered(&last, last.len()).await;
    let calm = stopped.elapsed();
    commands.extend(last);
    let (tally, mixed) = mixing.end().await.settle(&mut service, &commands, &["action.completed"]).await;
    let row = Row::new("T20", format!("`pg_terminate_backend` of one session every 200 ms for {} s", time.as_secs()))
        .counts(tally)
        .at_least("sessions thrown out", thrown, 20)
        .within("answering as always after", calm, Duration::from_secs(2));
    mixed.judge(row)
}
