//! The broker goes away, hangs, loses a queue, or closes a channel.

use std::{net::SocketAddr, time::Duration};

use serde_json::json;
use tokio::time::Instant;

use crate::{
    driver::Command,
    mix::Mix,
    proxy::Proxy,
    ready::{free_address, says},
    rig::{Rig, Service, Setup, Size, declare},
    table::Row,
    workers::{Process, Role},
};

/// What a worker logs when it is connected again.
const BACK: &str = "the connection for consuming is back";
/// How soon after commits have stopped a worker must say that it is not ready.
const UNREADY: Duration = Duration::from_secs(5);
/// How soon after the broker is back the service must be, too: the longest pause between two attempts.
const SOON: Duration = Duration::from_secs(5);

/// Commands of every kind of way through the worker.
fn mixed(service: &Service, count: usize) -> Vec<Command> {
    let script = json!({ "deeds": ["succeed"], "calls": true });
    let mut commands = service.commands(count / 2, "pure", &script);
    commands.extend(service.commands(count - count / 2, "keyed", &script));
    commands
}

/// How long the slowest worker takes, from the moment that the port answers, to be connected again; `None` where one is
/// not within a minute. `from` are the lengths of the logs before the fault.
async fn all_back(rig: &Rig, service: &Service, from: &[u64]) -> Option<Duration> {
    rig.broker.answers().await;
    let began = Instant::now();
    for (process, from) in service.processes.iter().zip(from) {
        process.logs_after(*from, BACK, Duration::from_mins(1)).await?;
    }
    Some(began.elapsed())
}

/// How much each process has logged so far.
pub(crate) fn log_lengths(service: &Service) -> Vec<u64> {
    service.processes.iter().map(Process::log_length).collect()
}

/// How often each worker was connected again; the least of them.
fn reconnects(service: &Service) -> usize {
    service.processes.iter().map(|process| process.log_from(0).matches(BACK).count()).min().unwrap_or(0)
}

/// The broker stops and starts, by turns as an application, in a crash and as a whole, in the middle of a stream of commands.
pub(crate) async fn t08(rig: &mut Rig, size: Size) -> Row {
    let (rounds, count) = (size.of(12, 3), size.of(5_000, 700));
    let mut service = rig.service(Setup { workers: 2, schedulers: 1, ..Setup::default() }).await;
    let mixing = Mix::begin(rig, &service).await.go_on();
    let mut commands = Vec::new();
    let mut slowest = Some(Duration::ZERO);
    for round in 0..rounds {
        let part = mixed(&service, count);
        let sending = service.send(&part);
        service.answered(&part, count / 4).await;
        let from = log_lengths(&service);
        if round % 3 == 0 {
            rig.broker.ctl(&["stop_app"]).await;
        } else if round % 3 == 1 {
            rig.broker.kill().await;
        } else {
            rig.broker.stop().await;
        }
        let again = async {
            if round % 3 == 0 {
                rig.broker.ctl(&["start_app"]).await;
            } else {
                rig.broker.start_again().await;
            }
        };
        let took = tokio::join!(again, all_back(rig, &service, &from)).1;
        slowest = slowest.zip(took).map(|(slowest, took)| slowest.max(took));
        sending.done().await;
        service.answered(&part, count).await;
        commands.extend(part);
    }
    let (tally, mixed) = mixing.end().await.settle(&mut service, &commands, &["action.completed"]).await;
    let row = Row::new(
        "T08",
        format!("RabbitMQ restarted {rounds} ×, by turns `stop_app`, `kill -9` and stopped as a whole"),
    )
    .counts(tally)
    .at_least("reconnects of each process", reconnects(&service), rounds)
    .within("consuming again after", slowest, SOON);
    mixed.judge(row)
}

/// The broker stays away for longer than lapin's own recovery would try.
pub(crate) async fn t09(rig: &mut Rig, size: Size) -> Row {
    let (away, count) = (size.of(Duration::from_mins(15), Duration::from_secs(20)), size.of(10_000, 1_000));
    let mut service = rig.service(Setup { workers: 2, schedulers: 1, ..Setup::default() }).await;
    let commands = mixed(&service, count);
    let sending = service.send(&commands);
    service.answered(&commands, count / 4).await;
    let from = log_lengths(&service);
    rig.broker.stop().await;
    tokio::time::sleep(away).await;
    let ((), took) = tokio::join!(rig.broker.start_again(), all_back(rig, &service, &from));
    sending.done().await;
    let tally = service.settle(&commands, &["action.completed"]).await;
    Row::new("T09", format!("RabbitMQ away for {} s", away.as_secs())).counts(tally).within(
        "consuming again after",
        took,
        Duration::from_secs(30),
    )
}

/// What a link that has fallen silent costs, whether the broker hangs or the network swallows everything.
struct Silence {
    heartbeat: u32,
    time: Duration,
    from: Vec<u64>,
    /// Where the first worker says whether it is ready.
    health: SocketAddr,
}

/// How long a scenario asks whether a worker is still ready.
const ASKED: Duration = Duration::from_mins(1);

impl Silence {
    fn of(size: Size) -> Self {
        Self {
            heartbeat: size.of(10, 2),
            time: size.of(Duration::from_mins(1), Duration::from_secs(15)),
            from: Vec::new(),
            health: free_address(),
        }
    }

    /// Two workers, of which the first can be asked.
    async fn service(&self, rig: &mut Rig, broker_url: Option<String>) -> Service {
        let settings =
            vec![("broker.heartbeat_seconds", self.heartbeat.to_string()), ("health.address", self.health.to_string())];
        let mut service = rig.service(Setup { settings, broker_url, ..Setup::default() }).await;
        service.set("METAGOV__HEALTH__ADDRESS", None);
        service.start(Role::Worker);
        service.processes[1].logs_within("the worker takes commands", ASKED).await.expect("a worker starts");
        says(self.health, 200, ASKED).await.expect("the worker becomes ready");
        service
    }

    /// Sits the silence out; how long it took until the slowest worker had noticed, and until the first one said that it is
    /// not ready.
    async fn sit_out(&mut self, service: &Service) -> [Option<Duration>; 2] {
        let began = Instant::now();
        let noticed = async {
            for (process, from) in service.processes.iter().zip(&self.from) {
                process.logs_after(*from, "lost the connection for consuming", self.time).await?;
            }
            Some(began.elapsed())
        };
        let (noticed, denied) = tokio::join!(noticed, says(self.health, 503, self.time));
        tokio::time::sleep(self.time.saturating_sub(began.elapsed())).await;
        [noticed, denied]
    }

    /// Two heartbeats, and some time to see that they did not come.
    fn limit(&self) -> Duration {
        Duration::from_secs(1) * (2 * self.heartbeat + 5)
    }
}

/// The broker hangs.
pub(crate) async fn t10(rig: &mut Rig, size: Size) -> Row {
    let (count, mut silence) = (size.of(10_000, 1_000), Silence::of(size));
    let mut service = silence.service(rig, None).await;
    let commands = mixed(&service, count);
    let sending = service.send(&commands);
    service.answered(&commands, count / 4).await;
    silence.from = log_lengths(&service);
    rig.broker.pause().await;
    let [noticed, denied] = silence.sit_out(&service).await;
    rig.broker.resume().await;
    let took = all_back(rig, &service, &silence.from).await;
    sending.done().await;
    let tally = service.settle(&commands, &["action.completed"]).await;
    Row::new(
        "T10",
        format!("RabbitMQ frozen by SIGSTOP for {} s, heartbeat {} s", silence.time.as_secs(), silence.heartbeat),
    )
    .counts(tally)
    .within("not ready after", denied, UNREADY)
    .within("noticed after", noticed, silence.limit())
    .within("consuming again after", took, Duration::from_secs(15))
}

/// The network swallows both directions, and every connection stays open.
pub(crate) async fn t11(rig: &mut Rig, size: Size) -> Row {
    let (count, mut silence) = (size.of(10_000, 1_000), Silence::of(size));
    let proxy = Proxy::to(rig.broker.address()).await;
    let broker_url = Some(rig.broker.url_through(proxy.address));
    let mut service = silence.service(rig, broker_url).await;
    let commands = mixed(&service, count);
    let sending = service.send(&commands);
    service.answered(&commands, count / 4).await;
    silence.from = log_lengths(&service);
    proxy.swallow();
    let [noticed, denied] = silence.sit_out(&service).await;
    proxy.pass();
    let took = all_back(rig, &service, &silence.from).await;
    sending.done().await;
    let tally = service.settle(&commands, &["action.completed"]).await;
    Row::new(
        "T11",
        format!("half-open link to RabbitMQ for {} s, heartbeat {} s", silence.time.as_secs(), silence.heartbeat),
    )
    .counts(tally)
    .within("not ready after", denied, UNREADY)
    .within("noticed after", noticed, silence.limit())
    .within("consuming again after", took, Duration::from_secs(15))
}

/// A figure of a queue, as the broker tells it; 0 where there is no such queue.
pub(crate) async fn queue(rig: &Rig, service: &Service, name: &str, column: &str) -> usize {
    let name = format!("{}.{name}", service.prefix);
    let table = rig.broker.ctl(&["list_queues", "--quiet", "--no-table-headers", "name", column]).await;
    let line = table.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix('\t'));
    line.and_then(|figure| figure.trim().parse().ok()).unwrap_or(0)
}

/// Somebody deletes the queue of a plugin under its consumer. What was in it is gone, so it is empty here.
pub(crate) async fn t14(rig: &mut Rig, size: Size) -> Row {
    let count = size.of(2_000, 200);
    let health = free_address();
    let settings = vec![("broker.declare", "false".to_owned()), ("health.address", health.to_string())];
    let mut service = rig.service(Setup { settings, ..Setup::default() }).await;
    service.set("METAGOV__HEALTH__ADDRESS", None);
    service.start(Role::Worker);
    service.processes[1].logs_within("the worker takes commands", ASKED).await.expect("a worker starts");
    says(health, 200, ASKED).await.expect("the worker becomes ready");
    let mut commands = mixed(&service, count);
    service.driver.send(&commands).await;
    service.answered(&commands, count).await;
    let name = format!("{}.plugin.puppet", service.prefix);
    let from = log_lengths(&service);
    let deleted = Instant::now();
    service.driver.delete_queue(&name).await;
    let denied = says(health, 503, ASKED).await;
    let mut told = Some(Duration::ZERO);
    for (process, from) in service.processes.iter().zip(&from) {
        let lost = format!("lost the consumer of {name}");
        told = told.zip(process.logs_after(*from, &lost, Duration::from_secs(30)).await).map(|_| deleted.elapsed());
    }
    let log = service.processes[0].log_from(from[0]);
    let remedy = log.lines().any(|line| line.contains(&name) && line.contains("metagov topology apply"));
    let restored = Instant::now();
    declare(&rig.broker.url, &service.prefix).await;
    let mut back = Some(Duration::ZERO);
    for (process, from) in service.processes.iter().zip(&from) {
        let line = format!("the consumer of {name} is back");
        back = back.zip(process.logs_after(*from, &line, Duration::from_secs(30)).await).map(|_| restored.elapsed());
    }
    let more = mixed(&service, count);
    service.driver.send(&more).await;
    commands.extend(more);
    let tally = service.settle(&commands, &["action.completed"]).await;
    Row::new("T14", "queue of a plugin deleted under its consumers, then `topology apply`")
        .counts(tally)
        .within("not ready after", denied, UNREADY)
        .within("told after", told, SOON)
        .holds("the log names the queue and the remedy", remedy)
        .within("consuming again after", back, SOON)
}

/// The broker closes a channel whose delivery was not acknowledged in time. The other channels do not notice.
pub(crate) async fn t15(rig: &mut Rig, size: Size) -> Row {
    let (limit_ms, slow_ms) = size.of((60_000, 130_000), (2_000, 8_000));
    set(rig, "consumer_timeout", limit_ms).await;
    set(rig, "channel_tick_interval", size.of(60_000, 500)).await;
    let settings = vec![("worker.deadline_seconds", "150".to_owned())];
    let mut service = rig.service(Setup { settings, ..Setup::default() }).await;
    let name = format!("{}.plugin.puppet", service.prefix);
    let mut commands = service.commands(1, "keyed", &json!({ "deeds": [{ "wait": slow_ms }], "calls": true }));
    service.driver.send(&commands).await;
    let patience = Duration::from_millis(slow_ms);
    let process = &service.processes[0];
    let closed = process.logs_within(&format!("lost the consumer of {name}"), patience).await;
    let back = process.logs_within(&format!("the consumer of {name} is back"), Duration::from_secs(30)).await;
    let quick = mixed(&service, 200);
    service.driver.send(&quick).await;
    service.answered(&quick, quick.len()).await;
    let slowest = service.driver.latencies(&quick).last().copied();
    let others = service.processes[0].log_from(0).matches("lost the consumer of").count() - 1;
    commands.extend(quick);
    let tally = service.settle(&commands, &["action.completed"]).await;
    let extra = tally.extra_calls;
    set(rig, "consumer_timeout", 1_800_000).await;
    set(rig, "channel_tick_interval", 60_000).await;
    Row::new("T15", format!("channel closed for a late acknowledgement: {slow_ms} ms, where {limit_ms} ms are allowed"))
        .counts(tally)
        .holds("the error is seen", closed.is_some())
        .within("new channel after", back, Duration::from_secs(2))
        .exactly("other consumers disturbed", others, 0)
        .exactly("calls repeated", extra, 0)
        .within("slowest of the commands behind it", slowest, SOON)
}

/// A setting of the broker for the channels and queues that are opened from now on.
async fn set(rig: &Rig, name: &str, value: u64) {
    rig.broker.ctl(&["eval", &format!("application:set_env(rabbit, {name}, {value}).")]).await;
}

/// The connection is cut after the outcomes were published and before their confirms arrived, again and again.
///
/// Each outcome then goes out up to three times under the same id: the publisher repeats what was not confirmed, and the
/// command, which was not acknowledged either, comes again and has its stored events published.
pub(crate) async fn t17(rig: &mut Rig, size: Size) -> Row {
    const PART: usize = 5;
    let cuts = size.of(1_000, 10);
    let proxy = Proxy::to(rig.broker.address()).await;
    let setup = Setup { broker_url: Some(rig.broker.url_through(proxy.address)), ..Setup::default() };
    let mut service = rig.service(setup).await;
    let mut commands = Vec::new();
    for _ in 0..cuts {
        // The platform is called before the answers fall silent, the outcome is published after.
        let part = service.commands(PART, "idempotent", &json!({ "deeds": [{ "wait": 200 }], "calls": true }));
        let (before, from) = (rig.platform.calls().len(), service.processes[0].log_length());
        service.driver.send(&part).await;
        while rig.platform.calls().len() < before + PART {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        proxy.mute();
        tokio::time::sleep(Duration::from_millis(400)).await;
        proxy.cut();
        proxy.pass();
        // The next cut must not find this one's copies on their way.
        let repeated = |log: &str| log.matches("verdict=\"repeated\"").count() == PART;
        let calm = service.processes[0].logs_until(from, repeated, Duration::from_secs(30)).await;
        assert!(calm.is_some(), "what was not acknowledged did not come again");
        commands.extend(part);
    }
    let tally = service.settle(&commands, &["action.completed"]).await;
    let copies = tally.copies;
    Row::new("T17", format!("connection cut between publication and confirm {cuts} ×, {PART} outcomes each"))
        .counts(tally)
        .at_least("copies on the wire, all of the same id", copies, commands.len())
        .at_most("copies on the wire", copies, 2 * commands.len())
}

/// The queue of dead letters is missing when messages are set aside: they wait in their queue until it is there.
pub(crate) async fn t18(rig: &mut Rig, size: Size) -> Row {
    let count = size.of(1_000, 50);
    // How long the broker waits before it tries again to set messages aside.
    set(rig, "dead_letter_worker_publisher_confirm_timeout", 1_000).await;
    let mut service = rig.service(Setup::default()).await;
    service.processes[0].kill();
    service.driver.delete_queue(&format!("{}.dead", service.prefix)).await;
    let commands = service.commands(count, "pure", &json!({ "deeds": ["succeed"], "calls": false }));
    service.driver.send(&commands).await;
    let name = format!("{}.plugin.puppet", service.prefix);
    let returns = service.driver.give_back_all(&name).await;
    let kept = queue(rig, &service, "plugin.puppet", "messages").await;
    let restored = Instant::now();
    declare(&rig.broker.url, &service.prefix).await;
    let mut arrived = 0;
    while arrived < count && restored.elapsed() < Duration::from_mins(2) {
        arrived = queue(rig, &service, "dead", "messages").await;
    }
    set(rig, "dead_letter_worker_publisher_confirm_timeout", 10_000).await;
    Row::new("T18", format!("queue of dead letters missing while {count} messages are set aside"))
        .at_least("returns", returns, count * 20)
        .exactly("kept meanwhile", kept, count)
        .exactly("arrived afterwards", arrived, count)
        .note("arrived within", format!("{:.1?}", restored.elapsed()))
}
