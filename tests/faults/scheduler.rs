//! Schedulers: two at once, killed, stopped in the middle of a claim, cut off from the database; and many processes due
//! in one second.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    checker::Tally,
    driver::{Command, quantile},
    polls::Polls,
    proxy::Proxy,
    rig::{COMMUNITY, Rig, Service, Setup, Size, command},
    table::Row,
    workers::Role,
};

/// The most that a scheduler claims at once, and so the most that its death swallows until the next interval.
const BATCH: usize = 500;
/// Longer than any process here lives after its last disturbance.
const PATIENCE: Duration = Duration::from_mins(3);

/// Commands that start processes, each polled so often at this interval.
pub(crate) fn ballots(count: usize, polls: usize, every: Duration) -> Vec<Command> {
    let every_ms = u64::try_from(every.as_millis()).expect("it is short");
    let parameters = json!({ "until": polls, "every_ms": every_ms, "deeds": ["succeed"], "calls": true });
    let body = json!({ "community": COMMUNITY, "parameters": parameters });
    (0..count).map(|_| command("process.puppet.ballot.start", &body)).collect()
}

async fn open(service: &Service) -> usize {
    service.sql("SELECT COUNT(*) FROM processes WHERE status = 'pending'").await
}

/// Waits until every process has ended, and counts what became of their starts.
pub(crate) async fn ended(service: &mut Service, starts: &[Command], after: Duration) -> Tally {
    service.answered(starts, starts.len()).await;
    let all = async {
        while open(service).await > 0 {
            sleep(Duration::from_millis(250)).await;
        }
    };
    timeout(after + PATIENCE, all).await.expect("every process is polled to its end");
    service.settle(starts, &["process.started"]).await
}

/// Waits until so many polls were made.
async fn made(polls: &Polls, count: usize, patience: Duration) -> Option<Duration> {
    let began = Instant::now();
    let reached = async {
        while polls.made() < count {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(patience, reached).await.ok().map(|()| began.elapsed())
}

/// Two schedulers share what is due: each due time has one poll.
pub(crate) async fn t26(rig: &mut Rig, size: Size) -> Row {
    let (count, turns, every) = size.of((10_000, 10, Duration::from_mins(1)), (300, 5, Duration::from_secs(3)));
    let mut service = rig.service(Setup { workers: 2, schedulers: 2, ..Setup::default() }).await;
    let polls = Polls::watch(&rig.broker.url, &service).await;
    let starts = ballots(count, turns, every);
    service.driver.send(&starts).await;
    let tally = ended(&mut service, &starts, size.of(Duration::from_mins(11), Duration::from_secs(20))).await;
    let found = polls.found().await;
    let (keys, again) = (tally.keys, tally.extra_calls);
    Row::new("T26", format!("two schedulers, {count} open processes, each polled {turns} times, every {every:?}"))
        .counts(found.tally(&tally))
        .exactly("polls that reached the platform", keys, count * turns)
        .exactly("of them repeated", again, 0)
        .within("lag p99", quantile(&found.lags, 990), Duration::from_secs(2))
}

/// One of two schedulers dies again and again; the other one goes on, and what the dead one had claimed comes again.
pub(crate) async fn t27(rig: &mut Rig, size: Size) -> Row {
    let (count, turns, kills) = size.of((1_000, 60, 12), (200, 8, 4));
    let (every, rhythm) = (Duration::from_secs(4), size.of(Duration::from_secs(20), Duration::from_secs(5)));
    let mut service = rig.service(Setup { workers: 2, schedulers: 2, ..Setup::default() }).await;
    let polls = Polls::watch(&rig.broker.url, &service).await;
    let starts = ballots(count, turns, every);
    service.driver.send(&starts).await;
    for kill in 0..kills {
        sleep(rhythm).await;
        service.replace_by(2 + kill % 2, Role::Scheduler);
    }
    let left = open(&service).await;
    let tally = ended(&mut service, &starts, size.of(Duration::from_mins(2), Duration::from_mins(1))).await;
    let found = polls.found().await;
    Row::new("T27", format!("{kills} × `kill -9` of one of two schedulers, one every {rhythm:?}, {count} processes"))
        .at_least("processes open at the last kill", left, count)
        .exactly("due times with two polls", found.repeated, 0)
        .exactly("polls that nobody has claimed", found.unclaimed, 0)
        .at_most("claims swallowed until the next interval", found.missed, kills * BATCH)
        .exactly("polls that reached the platform", tally.keys, count * turns)
        .exactly("of them repeated", tally.extra_calls, 0)
        .exactly("starts ok", tally.ok, count)
        .exactly("stuck", tally.stuck, 0)
        .within("longest time without a poll, interval 4 s", found.gap, Duration::from_secs(11))
}

/// A scheduler stands still with a claim in its open transaction and wakes up when everything has moved on.
pub(crate) async fn t28(rig: &mut Rig, size: Size) -> Row {
    let (count, turns) = size.of((2_000, 20), (200, 8));
    let (every, stopped) = (Duration::from_secs(5), size.of(Duration::from_mins(1), Duration::from_secs(20)));
    let mut service = rig.service(Setup { workers: 2, schedulers: 1, ..Setup::default() }).await;
    let polls = Polls::watch(&rig.broker.url, &service).await;
    let starts = ballots(count, turns, every);
    service.driver.send(&starts).await;
    made(&polls, count, PATIENCE).await.expect("every process is polled");
    let gate = polls.hold(&service, 1).await;
    service.processes[2].signal("STOP");
    gate.commit().await.expect("the database answers");
    service.start(Role::Scheduler);
    sleep(stopped).await;
    let (left, heard) = (open(&service).await, service.processes[2].log_length());
    service.processes[2].signal("CONT");
    let refused = service.processes[2].logs_after(heard, "the scan for due work failed", Duration::from_secs(10)).await;
    let tally = ended(&mut service, &starts, size.of(Duration::from_mins(2), Duration::from_mins(1))).await;
    let found = polls.found().await;
    let (keys, again) = (tally.keys, tally.extra_calls);
    Row::new("T28", format!("a scheduler stopped for {stopped:?} in the middle of a claim, {count} processes"))
        .counts(found.tally(&tally))
        .exactly("processes open when it wakes up", left, count)
        .within("its claim is refused", refused, Duration::from_secs(5))
        .exactly("polls that reached the platform", keys, count * turns)
        .exactly("of them repeated", again, 0)
        .within("longest lag", found.lags.last().copied(), Duration::from_secs(15))
}

/// Everything is due in one second, and two schedulers meet in it: each takes what the other one has not.
pub(crate) async fn t30(rig: &mut Rig, size: Size) -> Row {
    const ALL_AT_ONCE: &str = "UPDATE processes SET due_at = date_trunc('second', now()) + interval '2 seconds'";
    let count = size.of(5_000, 1_000);
    let mut service = rig.service(Setup { workers: 2, schedulers: 2, ..Setup::default() }).await;
    let polls = Polls::watch(&rig.broker.url, &service).await;
    let starts = ballots(count, 1, Duration::from_hours(1));
    service.driver.send(&starts).await;
    service.answered(&starts, count).await;
    polls.execute(ALL_AT_ONCE).await;
    let began = Instant::now();
    // Both are in the middle of a claim before either can end it.
    let gate = polls.hold(&service, 2).await;
    gate.commit().await.expect("the database answers");
    let tally = ended(&mut service, &starts, Duration::ZERO).await;
    let last = rig.platform.calls().values().filter_map(|calls| Some(calls.last()?.at - began)).max();
    let found = polls.found().await;
    let (keys, again) = (tally.keys, tally.extra_calls);
    Row::new("T30", format!("{count} processes due in the same second, two schedulers in a claim at once"))
        .counts(found.tally(&tally))
        .exactly("polls that reached the platform", keys, count)
        .exactly("of them repeated", again, 0)
        .within("lag of the last command", found.lags.last().copied(), Duration::from_secs(10))
        // At least one of the two seconds that were left until it was due counts with it.
        .within("the platform has seen the last", last, Duration::from_secs(12))
}

/// A scheduler's link to its database falls silent and stays open.
pub(crate) async fn t31(rig: &mut Rig, size: Size) -> Row {
    const FAILED: &str = "the scan for due work failed";
    let (count, silent) = (50, size.of(Duration::from_mins(10), Duration::from_secs(70)));
    let every = Duration::from_secs(2);
    let mut service = rig.service(Setup { workers: 1, ..Setup::default() }).await;
    let polls = Polls::watch(&rig.broker.url, &service).await;
    let proxy = Proxy::to(rig.database.address()).await;
    let url = rig.database.url_through(proxy.address);
    let (server, _) = url.rsplit_once('/').expect("the URL names a database");
    service.set("METAGOV__DATABASE__URL", Some(&format!("{server}/{}", service.prefix)));
    service.start(Role::Scheduler);
    let starts = ballots(count, 5, every);
    service.driver.send(&starts).await;
    made(&polls, count, PATIENCE).await.expect("every process is polled");
    let began = Instant::now();
    let scheduler = &service.processes[1];
    let heard = scheduler.log_length();
    proxy.swallow();
    let first = scheduler.logs_after(heard, FAILED, Duration::from_mins(2)).await;
    let second = scheduler.logs_after(scheduler.log_length(), FAILED, Duration::from_mins(2)).await;
    sleep(silent.saturating_sub(began.elapsed())).await;
    let before = polls.made();
    proxy.pass();
    proxy.cut();
    let again = made(&polls, before + 1, Duration::from_mins(2)).await;
    let tally = ended(&mut service, &starts, Duration::ZERO).await;
    let found = polls.found().await;
    Row::new("T31", format!("half-open link from a scheduler to PostgreSQL for {silent:?}"))
        .counts(found.tally(&tally))
        .within("the scan is given up after", first, Duration::from_secs(32))
        .within("and the next one after", second, Duration::from_secs(32))
        .within("polling again after", again, Duration::from_secs(12))
}
