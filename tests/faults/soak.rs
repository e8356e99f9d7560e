//! Everything at once and for long: workers, RabbitMQ and PostgreSQL fail by lots, at half the load that the service can
//! bear, and one worker and the scheduler live through all of it and must not grow.
//!
//! The load is sent and awaited minute by minute, so that the harness, which shares the cores, has little to walk through.

use std::time::Duration;

use rand::{Rng, seq::SliceRandom};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    dead::dead_letters,
    driver::{Command, quantile},
    mix::Mix,
    rig::{COMMUNITY, Rig, Service, Setup, Size},
    scheduler::{ballots, ended},
    table::Row,
    workers::Process,
};

const WORKERS: usize = 4;
/// Never killed, so that its memory can be followed.
const SPARED: usize = 0;
/// The place of the scheduler, which is never killed either.
const SCHEDULER: usize = WORKERS;
/// The community that sends commands; another one has processes that are polled.
const BUSY: &str = "busy";
/// Longer than anything is parked for, and handled afterwards.
const PATIENCE: Duration = Duration::from_mins(4);
const MINUTE: Duration = Duration::from_mins(1);
/// How much more files and sockets may be open in the end: the pools of connections are not always as full.
const SOME_FILES: usize = 8;

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Worker,
    Broker,
    Database,
}

/// Faults by lots, some time apart.
struct Faults {
    /// Each kind once, in an order by lot, and then again.
    deck: Vec<Fault>,
    apart: [u64; 2],
    next: Instant,
    struck: Vec<Fault>,
}

impl Faults {
    fn new(rig: &mut Rig, apart: [u64; 2]) -> Self {
        let mut faults = Self { deck: Vec::new(), apart, next: Instant::now(), struck: Vec::new() };
        faults.wait(rig);
        faults
    }

    fn wait(&mut self, rig: &mut Rig) {
        let [least, most] = self.apart;
        self.next = Instant::now() + Duration::from_secs(rig.random.random_range(least..=most));
    }

    /// Breaks something, if it is time.
    async fn strike(&mut self, rig: &mut Rig, service: &mut Service) {
        if Instant::now() < self.next {
            return;
        }
        if self.deck.is_empty() {
            self.deck = vec![Fault::Worker, Fault::Broker, Fault::Database];
            self.deck.shuffle(&mut rig.random);
        }
        let fault = self.deck.pop().expect("it was filled");
        match fault {
            Fault::Worker => service.replace(rig.random.random_range(SPARED + 1..WORKERS)),
            Fault::Broker => match rig.random.random_range(0..3) {
                0 => {
                    rig.broker.ctl(&["stop_app"]).await;
                    rig.broker.ctl(&["start_app"]).await;
                }
                1 => {
                    rig.broker.kill().await;
                    rig.broker.start_again().await;
                }
                _ => rig.broker.restart().await,
            },
            Fault::Database => {
                rig.database.kill().await;
                rig.database.start_again().await;
            }
        }
        self.struck.push(fault);
        self.wait(rig);
    }

    fn count(&self, kind: Fault) -> usize {
        self.struck.iter().filter(|fault| **fault == kind).count()
    }
}

/// What a process took at one moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    second: i64,
    kib: i64,
    files: usize,
}

impl Sample {
    fn of(process: &Process, second: u64) -> Self {
        let signed = |number: u64| i64::try_from(number).expect("it is small");
        Self { second: signed(second), kib: signed(process.resident_kib()), files: process.open_files() }
    }
}

/// How many KiB are added in a minute, by least squares; none where it becomes less.
fn growth(samples: &[Sample]) -> usize {
    let sum = |of: fn(&Sample) -> i64| samples.iter().map(of).sum::<i64>();
    let count = i64::try_from(samples.len()).expect("it is small");
    let (seconds, sizes) = (sum(|sample| sample.second), sum(|sample| sample.kib));
    let above = count * sum(|sample| sample.second * sample.kib) - seconds * sizes;
    let below = count * sum(|sample| sample.second * sample.second) - seconds * seconds;
    usize::try_from(60 * above / below.max(1)).unwrap_or(0)
}

/// The files that are open, in the first and in the last quarter of the time.
fn files(samples: &[Sample]) -> (usize, usize) {
    let middle = |part: &[Sample]| {
        let mut files: Vec<_> = part.iter().map(|sample| sample.files).collect();
        files.sort_unstable();
        files.get(files.len() / 2).copied().unwrap_or(0)
    };
    let quarter = samples.len() / 4;
    (middle(&samples[..quarter]), middle(&samples[samples.len() - quarter..]))
}

/// Commands of every kind of way through the worker; some take a while, so that a killer finds them at work.
fn mixed(service: &Service, count: usize) -> Vec<Command> {
    let quickly = json!({ "deeds": ["succeed"], "calls": true });
    let slowly = json!({ "deeds": [{ "wait": 50 }], "calls": true });
    let kinds = [("pure", &quickly), ("keyed", &slowly), ("idempotent", &quickly), ("keyed", &quickly)];
    kinds.iter().cycle().take(count).map(|(action, script)| service.command_in(BUSY, action, script)).collect()
}

/// How many of these commands are answered in a second, when all are there at once.
async fn maximum(service: &Service, commands: &[Command]) -> u32 {
    service.driver.send(commands).await;
    service.answered(commands, commands.len()).await;
    let book = service.driver.book();
    let mut answered: Vec<_> = commands.iter().filter_map(|command| book.entries[&command.id].answered).collect();
    answered.sort_unstable();
    let time = answered[answered.len() - 1].duration_since(answered[0]);
    let count = u128::try_from(answered.len()).expect("it is small");
    u32::try_from(count * 1000 / time.as_millis().max(1)).expect("nobody is that fast")
}

/// The whole service for an hour, with a fault every half minute.
pub(crate) async fn t56(rig: &mut Rig, size: Size) -> Row {
    let (minutes, warm_up) = (size.of(60, 1), size.of(600, 0));
    let settings = vec![("worker.concurrency", "32".to_owned()), ("worker.deadline_seconds", "5".to_owned())];
    let communities = vec![COMMUNITY.to_owned(), BUSY.to_owned()];
    let setup = Setup { workers: WORKERS, schedulers: 1, settings, communities, ..Setup::default() };
    let mut service = rig.service(setup).await;
    for process in &service.processes[..WORKERS] {
        let up = process.logs_within("the worker takes commands", Duration::from_secs(30)).await;
        up.expect("a worker starts");
    }
    let burst = size.of(6_000, 1_000);
    let mut commands = mixed(&service, burst);
    let most = maximum(&service, &commands).await;
    // In tens, which the driver spreads evenly over a second.
    let rate = (most / 20 * 10).max(10);
    let in_a_minute = usize::try_from(rate * 60).expect("it is small");
    // Two thirds of the time, for no interval is made up for that fell into an outage.
    let starts = ballots(10, 20 * minutes, Duration::from_secs(2));
    service.driver.send(&starts).await;

    let mixing = Mix::begin(rig, &service).await.go_on();
    let mut faults = Faults::new(rig, size.of([20, 40], [6, 12]));
    let (began, mut ticks) = (Instant::now(), interval(Duration::from_secs(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut worker, mut scheduler) = (Vec::new(), Vec::new());
    let mut last: Vec<Command> = Vec::new();
    let mut told = true;
    for _ in 0..minutes {
        let part = mixed(&service, in_a_minute);
        let sending = service.driver.send_at_in_background(rate, &part);
        let until = Instant::now() + MINUTE;
        while Instant::now() < until {
            ticks.tick().await;
            faults.strike(rig, &mut service).await;
            let second = began.elapsed().as_secs();
            worker.push(Sample::of(&service.processes[SPARED], second));
            scheduler.push(Sample::of(&service.processes[SCHEDULER], second));
        }
        sending.done().await;
        told = service.driver.wait_for(&last, last.len(), PATIENCE).await;
        commands.extend(std::mem::replace(&mut last, part));
        if !told {
            // What is missing is counted; the rest of the hour would not bring it back.
            break;
        }
    }
    told = told && service.driver.wait_for(&last, last.len(), PATIENCE).await;
    commands.extend(last);
    told = told && service.driver.wait_for(&starts, starts.len(), PATIENCE).await;
    if told {
        ended(&mut service, &starts, Duration::ZERO).await;
    }
    let (count, latencies) = (commands.len(), service.driver.latencies(&commands[burst..]));
    commands.extend(starts);
    let (tally, mixed) =
        mixing.end().await.settle(&mut service, &commands, &["action.completed", "process.started"]).await;
    let dead = dead_letters(rig, &service).await;
    let keys = rig.platform.calls().into_values().filter(|calls| calls[0].community == BUSY).count();

    let kinds = [Fault::Worker, Fault::Broker, Fault::Database].map(|kind| faults.count(kind));
    let [kills, restarts, crashes] = kinds;
    let done = format!(
        "{minutes} min at {rate} of {most} commands/s; by lots {kills} × `kill -9` of a worker, {restarts} × RabbitMQ \
         killed or restarted, {crashes} × PostgreSQL ended `-m immediate`"
    );
    let mut row = Row::new("T56", done)
        .counts(tally)
        .holds("each minute was answered", told)
        .at_least("faults of each kind", kinds.into_iter().min().unwrap_or(0), (minutes / 3).max(1))
        .exactly("keys at the platform", keys, count)
        .exactly("dead letters", dead.len(), 0)
        .within("p50", quantile(&latencies, 500), Duration::from_secs(1))
        // An outage of the broker or of the database, and the way back.
        .within("p99", quantile(&latencies, 990), Duration::from_mins(1));
    for (name, samples) in [("worker", worker), ("scheduler", scheduler)] {
        let from = samples.partition_point(|sample| sample.second < warm_up);
        let samples = &samples[from..];
        let (kib, (first, then)) = (growth(samples), files(samples));
        row = match size {
            Size::Full => row.at_most(&format!("KiB a minute that the {name} grows"), kib, 1024),
            // It still warms up.
            Size::Ci => row.note(&format!("KiB a minute that the {name} grows"), kib.to_string()),
        };
        row = row.at_most(&format!("files of the {name} in the end"), then, first + SOME_FILES);
    }
    mixed.judge(row)
}
