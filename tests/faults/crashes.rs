//! Processes that are killed, asked to go, or restarted.

use std::time::Duration;

use rand::Rng;
use serde_json::json;
use tokio::time::interval;

use crate::{
    driver::Command,
    rig::{Rig, Service, Setup, Size},
    table::Row,
};

const WORKERS: usize = 4;
/// Handlers at once in each worker; its prefetch is twice that.
const CONCURRENCY: usize = 32;
/// The rhythm of the killer.
const EVERY: Duration = Duration::from_secs(2);

/// `kill -9` for one of the workers every two seconds until everything is answered. How many were killed.
async fn kill_workers(rig: &mut Rig, service: &mut Service, commands: &[Command]) -> usize {
    let mut kills = 0;
    let mut ticks = interval(EVERY);
    ticks.tick().await;
    // The last ones wait for the leases of the dead; killing on would only make them wait for others.
    while service.driver.answered(commands) < commands.len() * 95 / 100 {
        ticks.tick().await;
        service.replace(rig.random.random_range(0..WORKERS));
        kills += 1;
    }
    kills
}

fn setup() -> Setup {
    let settings = vec![("worker.concurrency", CONCURRENCY.to_string()), ("worker.deadline_seconds", "5".to_owned())];
    Setup { workers: WORKERS, settings, ..Setup::default() }
}

/// Long enough that a killer finds handlers in the middle of their work.
const SLOWLY: u64 = 50;

/// A keyed action is repeated under its key, and under no other.
pub(crate) async fn t01(rig: &mut Rig, size: Size) -> Row {
    let count = size.of(50_000, 3_000);
    let mut service = rig.service(setup()).await;
    let commands = service.commands(count, "keyed", &json!({ "deeds": [{ "wait": SLOWLY }], "calls": true }));
    let sending = service.send(&commands);
    let kills = kill_workers(rig, &mut service, &commands).await;
    sending.done().await;
    let tally = service.settle(&commands, &["action.completed"]).await;
    let (keys, extra) = (tally.keys, tally.extra_calls);
    Row::new("T01", format!("{kills} × `kill -9` of one of {WORKERS} workers, one every 2 s, keyed action"))
        .counts(tally)
        .at_least("kills", kills, 2)
        .exactly("keys at the platform", keys, count)
        .at_most("calls repeated", extra, kills * 2 * CONCURRENCY)
}

/// An unsafe action is never repeated: what may have happened ends as uncertain.
pub(crate) async fn t02(rig: &mut Rig, size: Size) -> Row {
    let count = size.of(50_000, 3_000);
    let mut service = rig.service(setup()).await;
    let commands = service.commands(count, "unsafe", &json!({ "deeds": [{ "wait": SLOWLY }], "calls": true }));
    let sending = service.send(&commands);
    let kills = kill_workers(rig, &mut service, &commands).await;
    sending.done().await;
    let tally = service.settle(&commands, &["action.completed", "action.uncertain"]).await;
    let (extra, uncertain) = (tally.extra_calls, tally.kinds.get("action.uncertain").copied().unwrap_or(0));
    Row::new("T02", format!("{kills} × `kill -9` of one of {WORKERS} workers, one every 2 s, unsafe action"))
        .counts(tally)
        .at_least("kills", kills, 2)
        .exactly("calls repeated", extra, 0)
        .at_most("uncertain", uncertain, kills * CONCURRENCY)
}
