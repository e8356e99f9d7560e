//! A crowd: everybody votes at once, for one process, or changes what one plugin remembers. Losing a race for a row is no
//! outcome: every vote counts, however many come and whatever dies meanwhile, and no neighbour waits for it.

use std::time::Duration;

use rand::Rng;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use uuid::Uuid;

use crate::{
    cast::{Place, all_taken},
    checker::Tally,
    driver::{Command, quantile},
    heard::Sum,
    rig::{COMMUNITY, QUIET, Rig, Service, Setup, Size},
    table::Row,
    vote::Cast,
};

/// Where the crowd is.
const HERE: Place = Place { community: COMMUNITY, team: None };
/// The community that hopes to notice nothing.
const OTHER: &str = "other";
/// How many webhooks or actions a second must be got through.
const FAST: usize = 1_000;

/// One vote, and the webhooks for it.
struct Crowd {
    process: Uuid,
    start: Command,
    hooks: Vec<Command>,
    /// What they come to.
    cast: Sum,
}

/// What came of a crowd.
struct Counted {
    tally: Tally,
    outcome: Sum,
    completed: usize,
}

impl Crowd {
    /// Starts the vote; nothing is cast yet. `tells` has each vote announced as an event.
    async fn gather(service: &Service, count: usize, tells: bool) -> Self {
        const KEY: &str = "crowd";
        let process = Uuid::new_v4();
        let start = HERE.start(process, &json!({ "key": KEY }));
        service.driver.send(std::slice::from_ref(&start)).await;
        service.answered(std::slice::from_ref(&start), 1).await;
        let numbers = 1..=u64::try_from(count).expect("it is small");
        let cast = Sum { times: *numbers.end(), sum: numbers.clone().sum() };
        let hooks = numbers.map(|number| HERE.hook(Some(KEY), &Cast { number, tells })).collect();
        Self { process, start, hooks, cast }
    }

    /// How the vote stands, as far as the driver has heard.
    fn standing(&self, service: &Service) -> Sum {
        let book = service.driver.book();
        let outcome = book.heard.record(self.process).map(|record| record["outcome"].clone()).unwrap_or_default();
        Sum { times: outcome["times"].as_u64().unwrap_or(0), sum: outcome["sum"].as_u64().unwrap_or(0) }
    }

    /// Waits until each is counted, or until nothing comes any more.
    async fn counted(&self, service: &Service) {
        let (mut last, mut since) = (0, Instant::now());
        while since.elapsed() < QUIET {
            let counted = usize::try_from(self.standing(service).times).expect("it is small");
            if counted >= self.hooks.len() {
                return;
            }
            if counted > last {
                (last, since) = (counted, Instant::now());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Closes the vote and counts all of it.
    async fn close(self, service: &mut Service) -> (Self, Counted) {
        let close = HERE.close(self.process);
        service.driver.send(std::slice::from_ref(&close)).await;
        let counted = self.end(service, close).await;
        (self, counted)
    }

    /// Counts all of it, once the close that was sent is answered.
    async fn end(&self, service: &mut Service, close: Command) -> Counted {
        let taken = all_taken(service, &self.hooks).await;
        let commands = [self.start.clone(), close];
        let settled = service.settle(&commands, &["process.started", "process.completed"]).await;
        let completed = settled.kinds.get("process.completed").copied().unwrap_or(0);
        let tally = Tally::of_hooks(&service.driver.book(), &self.hooks, taken).and(settled);
        Counted { tally, outcome: self.standing(service), completed }
    }
}

fn number(number: u64) -> usize {
    usize::try_from(number).expect("it is small")
}

/// How many a second.
fn rate(count: usize, took: Duration) -> usize {
    let millis = usize::try_from(took.as_millis()).expect("it is short").max(1);
    count * 1_000 / millis
}

/// The figures that every crowd must have, whatever was done to it.
fn all_counted(row: Row, cast: Sum, outcome: Sum) -> Row {
    row.exactly("counted", number(outcome.times), number(cast.times)).exactly(
        "their sum",
        number(outcome.sum),
        number(cast.sum),
    )
}

/// All at once, on either database, for more and more workers.
pub(crate) async fn t60(rig: &mut Rig, size: Size) -> Row {
    let count = size.of(20_000, 400);
    let stages = size.of(&[(false, 1), (false, 2), (false, 4), (true, 1)][..], &[(false, 2), (true, 1)]);
    let (mut tally, mut cast, mut outcome, mut rates) = (Tally::default(), Sum::default(), Sum::default(), Vec::new());
    for (sqlite, workers) in stages.iter().copied() {
        let mut service = rig.service(Setup { workers, sqlite, ..Setup::default() }).await;
        let crowd = Crowd::gather(&service, count, false).await;
        let began = Instant::now();
        service.driver.send(&crowd.hooks).await;
        crowd.counted(&service).await;
        rates.push((sqlite, workers, rate(count, began.elapsed())));
        let (crowd, counted) = crowd.close(&mut service).await;
        tally = tally.and(counted.tally);
        (cast, outcome) = (cast.and(crowd.cast), outcome.and(counted.outcome));
    }
    let mut row = all_counted(Row::new("T60", format!("{count} webhooks at once for one process")), cast, outcome);
    for (sqlite, workers, rate) in rates {
        let database = if sqlite { "SQLite" } else { "PostgreSQL" };
        row = row.at_rate(&format!("a second on {database} with {workers} of the workers"), rate, FAST);
    }
    row.counts(tally)
}

/// The same, and every few seconds a worker dies in the middle of it. In CI they are fewer than what makes a webhook that was
/// there each time a poison.
pub(crate) async fn t61(rig: &mut Rig, size: Size) -> Row {
    const DEATHS: usize = 3;
    let (workers, count, every, most) =
        size.of((4, 60_000, Duration::from_secs(5), 20), (2, 800, Duration::from_millis(500), DEATHS - 1));
    let settings = vec![("worker.deadline_seconds", "5".to_owned())];
    let mut service = rig.service(Setup { workers, settings, ..Setup::default() }).await;
    let crowd = Crowd::gather(&service, count, false).await;
    let (began, sending) = (Instant::now(), service.send(&crowd.hooks));
    let (mut kills, mut ticks) = (0, interval(every));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    while number(crowd.standing(&service).times) < count * 9 / 10 && kills < most {
        ticks.tick().await;
        service.replace(rig.random.random_range(0..workers));
        kills += 1;
    }
    sending.done().await;
    crowd.counted(&service).await;
    let took = began.elapsed();
    let (crowd, counted) = crowd.close(&mut service).await;
    let done = format!("{count} webhooks at once for one process, {kills} × `kill -9` of one of {workers} workers");
    all_counted(Row::new("T61", done), crowd.cast, counted.outcome)
        .at_least("kills", kills, 1)
        .note("a second", rate(count, took).to_string())
        .counts(counted.tally)
}

/// The database is away while people vote; what they cast waits, and counts when it is back.
pub(crate) async fn t62(rig: &mut Rig, size: Size) -> Row {
    const PER_SECOND: u32 = 40;
    let (workers, away) = size.of((4, 120), (2, 4));
    let mut service = rig.service(Setup { workers, ..Setup::default() }).await;
    let count = usize::try_from(PER_SECOND).expect("it is small") * (away + 4);
    let crowd = Crowd::gather(&service, count, false).await;
    let sending = service.driver.send_at_in_background(PER_SECOND, &crowd.hooks);
    sleep(Duration::from_secs(2)).await;
    rig.database.kill().await;
    sleep(Duration::from_secs(u64::try_from(away).expect("it is small"))).await;
    rig.database.start_again().await;
    let back = Instant::now();
    sending.done().await;
    crowd.counted(&service).await;
    let took = back.elapsed();
    let (crowd, counted) = crowd.close(&mut service).await;
    let done = format!("PostgreSQL away for {away} s under {PER_SECOND} webhooks/s for one process, {workers} workers");
    all_counted(Row::new("T62", done), crowd.cast, counted.outcome)
        .within("all counted after its return", took, Duration::from_mins(1))
        .counts(counted.tally)
}

/// What the neighbour sends, so many a second, in the background.
fn neighbours(service: &Service, count: usize) -> Vec<Command> {
    let script = json!({ "deeds": ["succeed"], "calls": false });
    (0..count).map(|_| service.command_in(OTHER, "keyed", &script)).collect()
}

/// Everybody changes what one plugin remembers, and then a vote is closed in the middle of a crowd, beside a neighbour.
pub(crate) async fn t63(rig: &mut Rig, size: Size) -> Row {
    const PER_SECOND: u32 = 20;
    let (workers, actions, votes, time) = size.of((4, 5_000, 20_000, 30), (2, 200, 400, 3));
    let communities = vec![COMMUNITY.to_owned(), OTHER.to_owned()];
    let mut service = rig.service(Setup { workers, communities, ..Setup::default() }).await;
    let calm = neighbours(&service, usize::try_from(PER_SECOND).expect("it is small") * time);
    service.driver.send_at(PER_SECOND, &calm).await;
    service.answered(&calm, calm.len()).await;

    let beside = neighbours(&service, calm.len());
    let sending = service.driver.send_at_in_background(PER_SECOND, &beside);
    let numbers = 1..=u64::try_from(actions).expect("it is small");
    let (sum, counts) = (numbers.clone().sum::<u64>(), numbers.map(|number| HERE.count(number)).collect::<Vec<_>>());
    let began = Instant::now();
    service.driver.send(&counts).await;
    service.driver.wait_for(&counts, counts.len(), QUIET).await;
    let per_second = rate(actions, began.elapsed());
    let memory = HERE.memory(&service).await;

    let crowd = Crowd::gather(&service, votes, true).await;
    let close = HERE.close(crowd.process);
    let (before, after) = crowd.hooks.split_at(votes / 2);
    service.driver.send(&[before, std::slice::from_ref(&close), after].concat()).await;
    let counted = crowd.end(&mut service, close).await;
    sending.done().await;
    let announced = service.driver.book().heard.announced("crowd");

    let commands = [calm.clone(), beside.clone(), counts].concat();
    let tally = service.settle(&commands, &["action.completed"]).await;
    let p99 = |commands: &[Command]| quantile(&service.driver.latencies(commands), 990);
    let solo = p99(&calm);
    Row::new("T63", format!("{actions} actions at once that change one state, and a close in a crowd of {votes} votes"))
        .exactly("times that the plugin remembers", number(memory.times), actions)
        .exactly("their sum", number(memory.sum), number(sum))
        .at_rate("actions a second", per_second, FAST)
        .exactly("votes closed", counted.completed, 1)
        .at_least("counted by the close", number(counted.outcome.times), 1)
        .exactly("counted and not accepted, or accepted and not counted", apart(announced, counted.outcome), 0)
        .note("p99 of the neighbour alone", format!("{solo:.1?}"))
        .within("p99 of the neighbour", p99(&beside), solo * 2 + Duration::from_millis(50))
        .counts(counted.tally.and(tally))
}

/// By how many votes two counts differ; by one where only their sums do.
fn apart(one: Sum, other: Sum) -> usize {
    number(one.times.abs_diff(other.times)).max(usize::from(one.sum != other.sum))
}
