//! Processes that end themselves between two steps of a command's handling, at each of the places that
//! `src/failpoint.rs` marks.

use std::time::Duration;

use rand::Rng;
use serde_json::{Value, json};

use crate::{
    checker::Tally,
    driver::Command,
    mix::{Mix, Mixed},
    rig::{Rig, Service, Setup, Size},
    table::Row,
};

/// The places on a keyed action's way, in their order.
const PLACES: [&str; 8] = [
    "worker::taken",
    "worker::begun",
    "worker::called",
    "store::committing",
    "worker::committed",
    "worker::published",
    "worker::marked",
    "worker::acknowledged",
];

const CONCURRENCY: usize = 16;

fn setup() -> Setup {
    let settings = vec![("worker.concurrency", CONCURRENCY.to_string()), ("worker.deadline_seconds", "1".to_owned())];
    Setup { settings, ..Setup::default() }
}

/// Lets a worker die at a place, and starts one that does not; `beside` is what else is sent each time. Returns what was
/// sent meanwhile.
async fn die_at(
    rig: &mut Rig,
    service: &mut Service,
    place: &str,
    (action, script): (&str, &Value),
    mut beside: impl AsyncFnMut(),
) -> Vec<Command> {
    let mut commands = Vec::new();
    let passages = rig.random.random_range(0..4);
    service.set("FAILPOINTS", Some(&format!("{place}={passages}*off->return")));
    service.replace(0);
    for tries in 0.. {
        assert!(tries < 600, "a worker passes {place} and lives: {}", service.processes[0].log_from(0));
        let part = service.commands(rig.random.random_range(1..8), action, script);
        service.driver.send(&part).await;
        beside().await;
        commands.extend(part);
        if service.processes[0].ended_within(Duration::from_millis(200)).await.is_some() {
            break;
        }
    }
    service.set("FAILPOINTS", None);
    service.replace(0);
    commands
}

/// Whichever step is the last one, the next worker finishes what was begun. What has met a death is answered before the
/// next one comes: a command that three workers die of is a poison, and another scenario's.
pub(crate) async fn t03(rig: &mut Rig, size: Size) -> Row {
    let times = size.of(100, 2);
    let script = json!({ "deeds": ["succeed"], "calls": true });
    // One service for each place, so that all of them wait for the leases of the dead at the same time.
    let mut services = Vec::new();
    for place in PLACES {
        let service = rig.service(Setup { schedulers: 1, ..setup() }).await;
        let mix = Mix::begin(rig, &service).await;
        services.push((place, service, mix, Vec::new()));
    }
    for _ in 0..times {
        for (place, service, mix, commands) in &mut services {
            commands.extend(die_at(rig, service, place, ("keyed", &script), async || mix.turn().await).await);
        }
        for (_, service, mix, commands) in &services {
            service.answered(commands, commands.len()).await;
            mix.calm(service).await;
        }
    }
    let (mut tally, mut all, mut sent) = (Tally::default(), Mixed::default(), 0);
    for (_, mut service, mix, commands) in services {
        sent += commands.len();
        let (counted, mixed) = mix.settle(&mut service, &commands, &["action.completed"]).await;
        (tally, all) = (tally.and(counted), all.and(mixed));
    }
    let (keys, extra, deaths) = (tally.keys, tally.extra_calls, PLACES.len() * times);
    let row = Row::new("T03", format!("{times} × `abort()` at each of {} places", PLACES.len()))
        .counts(tally)
        .exactly("keys at the platform", keys, sent)
        .at_most("calls repeated", extra, deaths * 2 * CONCURRENCY);
    all.judge(row)
}

/// Between publication and mark: the events go out twice, under the same ids.
pub(crate) async fn t04(rig: &mut Rig, size: Size) -> Row {
    let times = size.of(200, 5);
    let mut service = rig.service(setup()).await;
    let script = json!({ "deeds": ["succeed"], "calls": false });
    let mut commands = Vec::new();
    for _ in 0..times {
        commands.extend(die_at(rig, &mut service, "worker::published", ("pure", &script), async || ()).await);
        service.answered(&commands, commands.len()).await;
    }
    let tally = service.settle(&commands, &["action.completed"]).await;
    let copies = tally.copies;
    Row::new("T04", format!("{times} × `abort()` between the confirm of events and their mark")).counts(tally).at_least(
        "copies on the wire, all of the same id",
        copies,
        times,
    )
}
