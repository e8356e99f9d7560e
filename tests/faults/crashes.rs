//! Processes that are killed, asked to go, or restarted.

use std::time::Duration;

use rand::Rng;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::{
    driver::{Command, quantile},
    mix::Mix,
    rig::{Rig, Service, Setup, Size},
    table::Row,
    workers::Role,
};

const WORKERS: usize = 4;
/// Handlers at once in each worker; its prefetch is twice that.
const CONCURRENCY: usize = 32;
/// The rhythm of the killer.
const EVERY: Duration = Duration::from_secs(2);

/// `kill -9` for one of the workers every two seconds until nearly everything is answered, but not more often than that.
/// How many were killed.
async fn kill_workers(rig: &mut Rig, service: &mut Service, commands: &[Command], most: usize) -> usize {
    let mut kills = 0;
    let mut ticks = interval(EVERY);
    ticks.tick().await;
    // The last ones wait for the leases of the dead; killing on would only make them wait for others.
    while kills < most && service.driver.answered(commands) < commands.len() * 95 / 100 {
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
    let count = size.of(50_000, 2_000);
    let mut service = rig.service(Setup { schedulers: 1, ..setup() }).await;
    let commands = service.commands(count, "keyed", &json!({ "deeds": [{ "wait": SLOWLY }], "calls": true }));
    let mixing = Mix::begin(rig, &service).await.go_on();
    let sending = service.send(&commands);
    let kills = kill_workers(rig, &mut service, &commands, size.of(500, 5)).await;
    sending.done().await;
    let (tally, mixed) = mixing.end().await.settle(&mut service, &commands, &["action.completed"]).await;
    let (keys, extra) = (tally.keys, tally.extra_calls);
    let row = Row::new("T01", format!("{kills} × `kill -9` of one of {WORKERS} workers, one every 2 s, keyed action"))
        .counts(tally)
        .at_least("kills", kills, 2)
        .exactly("keys at the platform", keys, count)
        .at_most("calls repeated", extra, kills * 2 * CONCURRENCY);
    mixed.judge(row)
}

/// An unsafe action is never repeated: what may have happened ends as uncertain.
pub(crate) async fn t02(rig: &mut Rig, size: Size) -> Row {
    let count = size.of(50_000, 2_000);
    let mut service = rig.service(setup()).await;
    let commands = service.commands(count, "unsafe", &json!({ "deeds": [{ "wait": SLOWLY }], "calls": true }));
    let sending = service.send(&commands);
    let kills = kill_workers(rig, &mut service, &commands, size.of(500, 5)).await;
    sending.done().await;
    let tally = service.settle(&commands, &["action.completed", "action.uncertain"]).await;
    let (extra, uncertain) = (tally.extra_calls, tally.kinds.get("action.uncertain").copied().unwrap_or(0));
    let listed = service.sql("SELECT COUNT(*) FROM uncertain_runs").await;
    Row::new("T02", format!("{kills} × `kill -9` of one of {WORKERS} workers, one every 2 s, unsafe action"))
        .counts(tally)
        .at_least("kills", kills, 2)
        .exactly("calls repeated", extra, 0)
        .at_most("uncertain", uncertain, kills * CONCURRENCY)
        .exactly("of them on the operators' list", listed, uncertain)
}

/// How many calls the platform has seen.
fn calls(rig: &Rig) -> usize {
    rig.platform.calls().values().map(Vec::len).sum()
}

/// Waits until the platform has seen so many calls.
async fn called(rig: &Rig, count: usize) {
    let seen = async {
        while calls(rig) < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_mins(1), seen).await.expect("the handlers are called");
}

/// A worker that is asked to go finishes what it has begun and begins nothing; asked twice it goes.
pub(crate) async fn t05(rig: &mut Rig, size: Size) -> Row {
    const HANDS: usize = 64;
    let queued = size.of(10_000, 500);
    let settings = vec![("worker.concurrency", HANDS.to_string()), ("worker.deadline_seconds", "15".to_owned())];
    let mut service = rig.service(Setup { settings, ..Setup::default() }).await;
    let slow = json!({ "deeds": [{ "wait": 2000 }], "calls": true });
    let quick = json!({ "deeds": ["succeed"], "calls": true });
    let mut commands = service.commands(HANDS, "keyed", &slow);
    commands.extend(service.commands(queued, "keyed", &quick));

    let sending = service.send(&commands);
    called(rig, HANDS).await;
    let asked = Instant::now();
    service.processes[0].signal("TERM");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = calls(rig);
    let status = service.processes[0].ended_within(Duration::from_mins(1)).await;
    let (drained, begun_late) = (status.map(|_| asked.elapsed()), calls(rig) - begun);
    let in_order = status.is_some_and(|status| status.success());
    sending.done().await;
    service.start(Role::Worker);
    service.answered(&commands, commands.len()).await;
    let repeated = calls(rig) - commands.len();

    let slower = service.commands(HANDS, "keyed", &json!({ "deeds": [{ "wait": 10_000 }], "calls": true }));
    service.driver.send(&slower).await;
    commands.extend(slower);
    called(rig, commands.len()).await;
    service.processes[1].signal("TERM");
    let asked = Instant::now();
    // The first one has to be heard before the second: two of a kind that wait are one.
    service.processes[1].logs_within("a second signal ends it", Duration::from_secs(5)).await;
    service.processes[1].signal("TERM");
    let status = service.processes[1].ended_within(Duration::from_mins(1)).await;
    let left = status.map(|_| asked.elapsed());
    service.start(Role::Worker);
    let tally = service.settle(&commands, &["action.completed"]).await;
    let again = tally.extra_calls;
    Row::new("T05", format!("SIGTERM with {HANDS} handlers at work for 2 s and {queued} commands queued; then twice"))
        .counts(tally)
        .exactly("begun later than 200 ms after", begun_late, 0)
        .holds("exit code 0", in_order)
        .within("gone after", drained, Duration::from_secs(25))
        .exactly("calls repeated", repeated, 0)
        .within("gone after a second SIGTERM", left, Duration::from_secs(1))
        .at_most("calls repeated after it", again, HANDS)
}

/// Workers are replaced one after the other, as a deployment does it, and drivers hardly notice.
pub(crate) async fn t06(rig: &mut Rig, size: Size) -> Row {
    const PER_SECOND: u32 = 300;
    // A platform asks a new worker for its readiness once a second at the most, so none replaces them faster.
    const EACH: Duration = Duration::from_secs(1);
    let time = size.of(120_u32, 20);
    let mut service = rig.service(Setup { workers: WORKERS, ..Setup::default() }).await;
    let script = json!({ "deeds": ["succeed"], "calls": true });
    let count = usize::try_from(PER_SECOND * time).expect("it is small");
    let calm = service.commands(count / 2, "keyed", &script);
    service.driver.send_at(PER_SECOND, &calm).await;
    service.answered(&calm, calm.len()).await;
    let undisturbed = quantile(&service.driver.latencies(&calm), 990);

    let mut commands = service.commands(count, "keyed", &script);
    let (driver, sent) = (service.driver.clone(), commands.clone());
    let sending = tokio::spawn(async move { driver.send_at(PER_SECOND, &sent).await });
    let mut restarts = 0;
    let mut turns = interval(EACH);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !sending.is_finished() {
        turns.tick().await;
        // The new one first, as every platform does it.
        service.start(Role::Worker);
        let newest = service.processes.last().expect("it was just started");
        newest.logs_within("the worker takes commands", Duration::from_secs(30)).await;
        let mut oldest = service.processes.remove(0);
        oldest.signal("TERM");
        oldest.ended_within(Duration::from_secs(30)).await.expect("it drains");
        restarts += 1;
    }
    sending.await.expect("the driver does not panic");
    service.answered(&commands, commands.len()).await;
    let disturbed = quantile(&service.driver.latencies(&commands), 990);
    commands.extend(calm);
    let tally = service.settle(&commands, &["action.completed"]).await;
    let extra = tally.extra_calls;
    Row::new(
        "T06",
        format!("{WORKERS} workers restarted in turn, {restarts} × in {time} s, under {PER_SECOND} commands/s"),
    )
    .counts(tally)
    .at_least("restarts", restarts, WORKERS)
    .exactly("calls repeated", extra, 0)
    .note("p99 undisturbed", format!("{undisturbed:.1?}"))
    .within("p99", disturbed, (undisturbed * 3).min(Duration::from_millis(250)))
}

/// `metagov dev` on SQLite is killed while it writes. The file stays whole and forgets nothing that was told. What has met a
/// death is answered before the next one comes: a command that three processes die of is a poison, and another scenario's.
pub(crate) async fn t07(rig: &mut Rig, size: Size) -> Row {
    const PART: usize = 40;
    const WHOLE: &str = "SELECT COUNT(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'";
    let kills = size.of(500, 20);
    let mut service = rig.service(Setup { workers: 0, devs: 1, sqlite: true, ..Setup::default() }).await;
    let (mut commands, mut whole, mut forgotten) = (Vec::new(), 0, 0);
    for _ in 0..kills {
        service.answered(&commands, commands.len()).await;
        let part = service.commands(PART, "pure", &json!({ "deeds": [{ "wait": 5 }], "calls": false }));
        service.driver.send(&part).await;
        commands.extend(part.iter().cloned());
        service.answered(&part, 1).await;
        tokio::time::sleep(Duration::from_millis(rig.random.random_range(0..100))).await;
        service.processes[0].kill();
        let told = service.driver.answered(&commands);
        whole += service.sql(WHOLE).await;
        forgotten += told.saturating_sub(service.sql("SELECT COUNT(*) FROM action_runs").await);
        service.replace_by(0, Role::Dev);
    }
    let tally = service.settle(&commands, &["action.completed"]).await;
    let present = service.sql("SELECT COUNT(*) FROM action_runs WHERE status = 'completed'").await;
    Row::new("T07", format!("{kills} × `kill -9` of `metagov dev` with SQLite while it writes"))
        .counts(tally)
        .exactly("`integrity_check` ok", whole, kills)
        .exactly("told and not in the file", forgotten, 0)
        .exactly("commands present", present, commands.len())
}
