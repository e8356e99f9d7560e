//! One community's or driver's trouble, and those beside it: a locked row, a long history that is deleted, a full queue,
//! large bodies. What is judged is what the neighbours notice, and that the trouble itself ends well.
//!
//! Up: the list of scenarios. Down: the rig.

use std::time::Duration;

use futures::StreamExt;
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{BasicAckOptions, BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use sea_orm::{ConnectionTrait, TransactionTrait};
use serde_json::json;
use tokio::time::{Instant, interval, timeout};

use crate::{
    driver::{Command, quantile},
    rig::{COMMUNITY, Rig, Service, Setup, Size, command},
    rows,
    table::Row,
};

/// The community in trouble; the neighbours are in [`COMMUNITY`].
const TROUBLED: &str = "troubled";
/// What the neighbours may wait for the trouble of another, their slowest one.
const UNANSWERED: Duration = Duration::from_secs(1);
const P99: Duration = Duration::from_millis(100);

async fn service(rig: &mut Rig, workers: usize, settings: Vec<(&'static str, String)>) -> Service {
    let communities = vec![COMMUNITY.to_owned(), TROUBLED.to_owned()];
    rig.service(Setup { workers, settings, communities, ..Setup::default() }).await
}

fn script() -> serde_json::Value {
    json!({ "deeds": ["succeed"], "calls": false })
}

/// So many commands of the neighbours.
fn neighbours(service: &Service, count: usize) -> Vec<Command> {
    service.commands(count, "pure", &script())
}

fn troubled(service: &Service, action: &str, count: usize) -> Vec<Command> {
    (0..count).map(|_| service.command_in(TROUBLED, action, &script())).collect()
}

/// The limits of what neighbours notice, which are times: in the full size they decide.
fn judged(row: Row, size: Size, name: &str, latencies: &[Duration]) -> Row {
    let (p99, slowest) = (quantile(latencies, 990), latencies.last().copied().unwrap_or_default());
    match size {
        Size::Full => row.within(&format!("p99 of the neighbours, {name}"), p99, P99).within(
            &format!("the slowest of them, {name}"),
            slowest,
            UNANSWERED,
        ),
        Size::Ci => row
            .note(&format!("p99 of the neighbours, {name}"), format!("{p99:.1?}"))
            .note(&format!("the slowest of them, {name}"), format!("{slowest:.1?}")),
    }
}

/// Somebody holds the row of one instance for long, while commands for it and for others come in.
pub(crate) async fn t66(rig: &mut Rig, size: Size) -> Row {
    const PER_SECOND: u32 = 20;
    let held = size.of(60, 8);
    let mut row = Row::new("T66", format!("one instance's row held for {held} s, neighbours with {PER_SECOND}/s"));
    for workers in [1, 2] {
        let mut service = service(rig, workers, Vec::new()).await;
        let beside = neighbours(&service, held * usize::try_from(PER_SECOND).expect("it is small"));
        let stuck: Vec<_> = ["pure", "keyed"].iter().flat_map(|action| troubled(&service, action, held * 5)).collect();
        let somebody = rows::open(&service.database_url).await;
        let holding = somebody.begin().await.expect("a transaction");
        let lock = format!("SELECT 1 FROM plugin_instances WHERE community = '{TROUBLED}' FOR UPDATE");
        holding.execute_unprepared(&lock).await.expect("the row is free");
        let began = Instant::now();
        let (one, two) = (
            service.driver.send_at_in_background(PER_SECOND, &beside),
            service.driver.send_at_in_background(PER_SECOND / 2, &stuck),
        );
        one.done().await;
        service.answered(&beside, beside.len()).await;
        let (beside_in, early) = (began.elapsed(), service.driver.answered(&stuck));
        two.done().await;
        holding.rollback().await.expect("it ends");
        let free = Instant::now();
        service.answered(&stuck, stuck.len()).await;
        let after = free.elapsed();
        let latencies = service.driver.latencies(&beside);
        let tally = service.settle(&[beside.clone(), stuck].concat(), &["action.completed"]).await;
        let name = format!("{workers} worker(s)");
        row = judged(row.counts(tally), size, &name, &latencies)
            .note(&format!("neighbours all answered after, {name}"), format!("{beside_in:.1?}"))
            .exactly(&format!("neighbours unanswered while it was held, {name}"), beside.len() - latencies.len(), 0)
            .note(&format!("answered on the held row, {name}"), early.to_string())
            .within(&format!("the others answered after it was free, {name}"), after, Duration::from_secs(30));
    }
    row
}

/// A community with a long history is deleted beside others that work.
pub(crate) async fn t67(rig: &mut Rig, size: Size) -> Row {
    const PER_SECOND: u32 = 20;
    let runs = size.of(10_000_000, 20_000);
    let mut row = Row::new("T67", format!("community.delete with {runs} runs, neighbours with {PER_SECOND}/s"));
    for workers in [1, 2] {
        let mut service = service(rig, workers, Vec::new()).await;
        let fill = format!(
            "INSERT INTO action_runs (id, community, message_id, plugin, action, effect, status, attempts) \
             SELECT gen_random_uuid(), '{TROUBLED}', 'old-' || n, 'puppet', 'pure', 'pure', 'completed', 1 \
             FROM generate_series(1, {runs}) AS n"
        );
        let somebody = rows::open(&service.database_url).await;
        somebody.execute_unprepared(&fill).await.expect("the rows go in");
        somebody.execute_unprepared("ANALYZE action_runs").await.expect("the table is there");
        let delete = [command("community.delete", &json!({ "slug": TROUBLED }))];
        service.driver.send(&delete).await;
        let (began, mut beside) = (Instant::now(), Vec::new());
        while service.driver.answered(&delete) == 0 && began.elapsed() < Duration::from_mins(15) {
            let part = neighbours(&service, usize::try_from(PER_SECOND).expect("it is small"));
            service.driver.send_at(PER_SECOND, &part).await;
            beside.extend(part);
        }
        let took = began.elapsed();
        service.answered(&beside, beside.len()).await;
        let latencies = service.driver.latencies(&beside);
        let left = service.sql(&format!("SELECT COUNT(*) FROM action_runs WHERE community = '{TROUBLED}'")).await;
        let gone = service.driver.answered(&delete);
        let tally = service.settle(&beside, &["action.completed"]).await;
        let name = format!("{workers} worker(s)");
        row = judged(row.counts(tally), size, &name, &latencies)
            .note(&format!("the deletion took, {name}"), format!("{took:.1?}"))
            .exactly(&format!("deletions answered, {name}"), gone, 1)
            .exactly(&format!("runs left, {name}"), left, 0);
    }
    row
}

/// A driver's queue for the events of one community, which refuses what it has no room for.
struct Full {
    _connection: Connection,
    channel: Channel,
    queue: String,
}

impl Full {
    async fn declare(rig: &Rig, service: &Service, community: &str, room: i32) -> Self {
        let connection = Connection::connect(&rig.broker.url, ConnectionProperties::default()).await;
        let connection = connection.expect("the broker answers");
        let channel = connection.create_channel().await.expect("a channel");
        let queue = format!("{}.of-{community}", service.prefix);
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(room));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.as_str().into(), durable, arguments).await.expect("it is declared");
        let (events, key) = (format!("{}.events", service.prefix), format!("{community}.*.action.#"));
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        channel.queue_bind(queue.as_str().into(), events.into(), key.into(), options, none).await.expect("it is bound");
        Self { _connection: connection, channel, queue }
    }

    /// Takes what comes, until nothing has come for so long; how many messages, and when the last new event came.
    async fn drain(&self, wanted: usize, patience: Duration) -> (usize, Duration) {
        let none = FieldTable::default();
        let consumed =
            self.channel.basic_consume(self.queue.as_str().into(), "".into(), BasicConsumeOptions::default(), none);
        let mut stream = consumed.await.expect("it is there");
        let (began, mut seen, mut last) = (Instant::now(), std::collections::HashSet::new(), Duration::ZERO);
        while seen.len() < wanted
            && let Ok(Some(Ok(delivery))) = timeout(patience, stream.next()).await
        {
            let event: serde_json::Value = serde_json::from_slice(&delivery.data).expect("an event");
            if seen.insert(event["id"].to_string()) {
                last = began.elapsed();
            }
            delivery.ack(BasicAckOptions::default()).await.expect("the channel stands");
        }
        (seen.len(), last)
    }
}

/// The queue of one driver stays full while thousands of its events come; that of another is full for a moment.
pub(crate) async fn t68(rig: &mut Rig, size: Size) -> Row {
    const PER_SECOND: u32 = 20;
    const OTHER: &str = "other";
    let (full_for, events, few) = size.of((600, 10_000, 200), (20, 500, 50));
    let communities = [COMMUNITY, TROUBLED, OTHER].map(str::to_owned).to_vec();
    let mut service = rig.service(Setup { communities, ..Setup::default() }).await;
    let calm = neighbours(&service, 10 * usize::try_from(PER_SECOND).expect("it is small"));
    service.driver.send_at(PER_SECOND, &calm).await;
    service.answered(&calm, calm.len()).await;

    let (a, b) = (Full::declare(rig, &service, TROUBLED, 1).await, Full::declare(rig, &service, OTHER, 1).await);
    let refused = troubled(&service, "pure", events);
    let moment: Vec<_> = (0..few).map(|_| service.command_in(OTHER, "pure", &script())).collect();
    let beside = neighbours(&service, full_for * usize::try_from(PER_SECOND).expect("it is small"));
    let began = Instant::now();
    let one = service.driver.send_at_in_background(PER_SECOND, &beside);
    let two = service
        .driver
        .send_at_in_background(u32::try_from(events / full_for).expect("it is small").max(1) * 2, &refused);
    service.driver.send(&moment).await;
    service.answered(&moment, few).await;
    // B stays full for half of the time, so that its events have been refused as often as they will be.
    let mut ticks = interval(Duration::from_millis(100));
    while began.elapsed() < Duration::from_secs(full_for as u64) / 2 {
        ticks.tick().await;
    }
    let (of_b, b_took) = b.drain(few, Duration::from_secs(100)).await;
    one.done().await;
    two.done().await;
    service.answered(&beside, beside.len()).await;
    service.answered(&refused, refused.len()).await;
    let log = service.processes[0].log_from(0);
    let (lines, p50) = (log.matches("is full and refuses it").count(), |all: &[Command]| {
        quantile(&service.driver.latencies(all), 500)
    });
    let (solo, during) = (p50(&calm), p50(&beside));
    let most = service.sql("SELECT COALESCE(MAX(refusals), 0)::bigint FROM outbox").await;
    let (of_a, a_took) = a.drain(refused.len(), Duration::from_secs(100)).await;
    let commands = [calm, beside, refused, moment].concat();
    let tally = service.settle(&commands, &["action.completed"]).await;
    let longest = usize::try_from(began.elapsed().as_secs()).expect("it is small");
    let row =
        Row::new("T68", format!("a driver's queue full for {full_for} s with {events} events, another's for a moment"))
            .counts(tally)
            .exactly("events of the other driver", of_b, few)
            .within("all of them out after it had room", b_took, Duration::from_secs(90))
            .exactly("events of the full one, in the end", of_a, events)
            .within("all of them out after it had room", a_took, Duration::from_secs(90))
            .at_least("refusals of one event", most, 1)
            // 5, 10, 20, 40 seconds, then each minute.
            .at_most("refusals of one event", most, 5 + longest / 60)
            .at_most("lines of the log about it", lines, 2 + longest / 30)
            .note("p50 of the neighbours alone", format!("{solo:.1?}"));
    match size {
        Size::Full => row.within("p50 of the neighbours", during, solo * 2 + Duration::from_millis(25)),
        Size::Ci => row.note("p50 of the neighbours", format!("{during:.1?}")),
    }
}

/// Large bodies by the hundred, at a worker that has less room than they take.
pub(crate) async fn t69(rig: &mut Rig, size: Size) -> Row {
    const MIB: usize = 1024 * 1024;
    let (count, room) = size.of((512, 256), (96, 64));
    let settings = vec![("worker.prefetch_bytes", (room * MIB).to_string())];
    // As in `deploy/Dockerfile`.
    let allocator = [("MMAP_THRESHOLD_", "65536"), ("TRIM_THRESHOLD_", "131072"), ("ARENA_MAX", "2")];
    let environment = allocator.map(|(name, value)| (format!("MALLOC_{name}"), value.to_owned())).to_vec();
    let communities = vec![COMMUNITY.to_owned(), TROUBLED.to_owned()];
    let mut service = rig.service(Setup { settings, environment, communities, ..Setup::default() }).await;
    let small = neighbours(&service, 2_000);
    service.driver.send(&small).await;
    service.answered(&small, small.len()).await;
    let before = service.processes[0].resident_kib();
    // Just under the limit, and all of it goes into the run and the event.
    let initiator = json!({ "user_id": "u", "provider": "p", "note": "x".repeat(MIB - 1024) });
    let parameters = json!({ "deeds": [{ "wait": 500 }], "calls": false });
    let body = json!({ "community": TROUBLED, "parameters": parameters, "initiator": initiator });
    let large: Vec<_> = (0..count).map(|_| command("action.puppet.pure", &body)).collect();
    let sending = service.send(&large);
    let (mut most, mut looks, began) = (before, interval(Duration::from_millis(20)), Instant::now());
    while service.driver.answered(&large) < large.len() && began.elapsed() < Duration::from_mins(5) {
        looks.tick().await;
        most = most.max(service.processes[0].resident_kib());
    }
    sending.done().await;
    let again = neighbours(&service, 2_000);
    service.driver.send(&again).await;
    service.answered(&again, again.len()).await;
    let left = service.processes[0].resident_kib();
    let tally = service.settle(&[small, large, again].concat(), &["action.completed"]).await;
    let grown = |now: u64| usize::try_from(now.saturating_sub(before) / 1024).expect("it is small");
    Row::new("T69", format!("{count} bodies of 1 MiB at a worker with room for {room} MiB of them"))
        .counts(tally)
        // In the small size, what a worker takes besides bodies is not little beside them.
        .at_most("MiB grown at most", grown(most), size.of(room, room * 2))
        .at_most("MiB grown in the end", grown(left), room / 2)
}
