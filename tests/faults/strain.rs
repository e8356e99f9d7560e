//! Callers that give up, and rows that somebody else holds: the database is there, and it is slow.

use std::{net::SocketAddr, time::Duration};

use futures::future::join_all;
use metagov::store::{Committed, InboxEntry, StoreError, Unit};
use sea_orm::{ConnectionTrait, DatabaseTransaction, TransactionTrait};
use serde_json::json;
use tokio::time::{Instant, interval, timeout};

use crate::{
    driver::quantile,
    proxy::Proxy,
    ready::{free_address, report},
    rig::{COMMUNITY, Rig, Service, Setup, Size},
    rows,
    table::Row,
};

/// The community whose row nobody holds.
const OTHER: &str = "other";

/// A key and nothing else: the smallest thing that a transaction writes.
fn key(message_id: &str) -> Unit {
    let inbox = InboxEntry {
        community: COMMUNITY.parse().expect("a slug"),
        message_id: message_id.parse().expect("a message id"),
        fingerprint: [0; 32],
        routing_key: "action.puppet.pure".to_owned(),
    };
    Unit { inbox: Some(inbox), ..Unit::default() }
}

fn is_stored(answer: &Result<Vec<Committed>, StoreError>) -> bool {
    matches!(answer.as_deref(), Ok([Committed::Stored]))
}

/// Callers give up while their `BEGIN` is on the wire, on every connection of a pool, again and again. No connection comes
/// back to the pool within a transaction.
///
/// The callers are the store's, for no command gives up within 100 ms.
pub(crate) async fn t21(rig: &mut Rig, size: Size) -> Row {
    const POOL: u32 = 20;
    const PATIENCE: Duration = Duration::from_millis(100);
    const IDLE: &str = "SELECT COUNT(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    let rounds = size.of(50, 5);
    let service = rig.service(Setup { workers: 0, communities: Vec::new(), ..Setup::default() }).await;
    let proxy = Proxy::to(rig.database.address()).await;
    let url = service.database_url.replace(&rig.database.address(), &proxy.address.to_string());
    let (store, before) = (rows::store(&url, POOL).await, rig.database.log().len());
    let all =
        async |word: &str| join_all((0..POOL).map(|caller| store.commit(vec![key(&format!("{word}-{caller}"))]))).await;
    let (mut gave_up, mut refused) = (0, Vec::new());
    for round in 0..rounds {
        // Every connection is opened and used, so that the next thing on each of them is a BEGIN.
        refused.extend(all(&format!("calm-{round}")).await.into_iter().filter(|answer| !is_stored(answer)));
        proxy.delay(Duration::from_millis(500));
        let callers = (0..POOL).map(|caller| {
            let unit = key(&format!("late-{round}-{caller}"));
            timeout(PATIENCE, store.commit(vec![unit]))
        });
        gave_up += join_all(callers).await.iter().filter(|ended| ended.is_err()).count();
        proxy.pass();
    }
    let last = Instant::now();
    while service.sql(IDLE).await > 0 && last.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let calm = last.elapsed();
    for turn in 0..5 {
        refused.extend(all(&format!("after-{turn}")).await.into_iter().filter(|answer| !is_stored(answer)));
    }
    for answer in &refused {
        eprintln!("a later call: {answer:?}");
    }
    let log = rig.database.log().split_off(before);
    let aborted = log.matches("current transaction is aborted").count();
    let told = refused.iter().filter(|answer| format!("{answer:?}").contains("25P02")).count();
    let carried_out = service.sql("SELECT COUNT(*) FROM inbox WHERE message_id LIKE 'late-%'").await;
    let wanted = rounds * POOL as usize;
    Row::new("T21", format!("{wanted} callers give up after {PATIENCE:?}, with 500 ms each way to PostgreSQL"))
        .exactly("gave up", gave_up, wanted)
        .at_least("transactions that were under way", carried_out, wanted / 2)
        .within("no session idle in a transaction after", calm, Duration::from_secs(10))
        .exactly("transactions begun within another", log.matches("already a transaction in progress").count(), 0)
        .exactly("25P02", aborted + told, 0)
        .exactly("later calls refused", refused.len(), 0)
}

/// How a worker's readiness was while a row was held.
#[derive(Debug, Default)]
struct Readiness {
    asked: usize,
    denied: usize,
}

impl Readiness {
    async fn ask(&mut self, address: SocketAddr) {
        self.asked += 1;
        let holds = report(address).await.is_some_and(|(_, said)| said["checks"]["database"]["ok"] == true);
        self.denied += usize::from(!holds);
    }
}

/// Holds the row of the plugin's instance in one community; no commit that has seen the instance goes through.
async fn hold(service: &Service) -> DatabaseTransaction {
    let somebody = rows::open(&service.database_url).await;
    let holding = somebody.begin().await.expect("a transaction");
    let lock = format!("SELECT 1 FROM plugin_instances WHERE community = '{COMMUNITY}' FOR UPDATE");
    holding.execute_unprepared(&lock).await.expect("the row is free");
    holding
}

/// Somebody holds a row that every commit of a community needs, for longer than the server lets anybody wait for a lock, and
/// the worker has four connections for 64 commands. Those of another community are answered meanwhile.
pub(crate) async fn t22(rig: &mut Rig, size: Size) -> Row {
    const AT_ONCE: usize = 64;
    /// What waits for the row is tried each second.
    const SOON: Duration = Duration::from_secs(5);
    const BESIDE: usize = 4;
    let holds = size.of(&[6, 6, 6, 6, 6, 6, 11, 16][..], &[11]);
    let address = free_address();
    let settings = vec![
        ("database.max_connections", "4".to_owned()),
        // Of which one community may have three of four: more than all that is sent.
        ("worker.concurrency", (2 * AT_ONCE).to_string()),
        ("health.address", address.to_string()),
    ];
    let communities = vec![COMMUNITY.to_owned(), OTHER.to_owned()];
    let mut service = rig.service(Setup { settings, communities, ..Setup::default() }).await;
    service.processes[0].logs_within("INFO ready", Duration::from_secs(20)).await.expect("the worker becomes ready");
    let before = rig.database.log().len();
    let (mut others, mut missed) = (Vec::new(), 0);
    let (mut commands, mut early, mut readiness, mut slowest) = (Vec::new(), 0, Readiness::default(), Duration::ZERO);
    for held in holds {
        // A commit looks at the instance again where the action ran on what was at hand.
        let script = json!({ "deeds": ["succeed"], "calls": true });
        let part = ["idempotent", "pure"].map(|action| service.commands(AT_ONCE / 2, action, &script)).concat();
        let (holding, began, mut ticks) = (hold(&service).await, Instant::now(), interval(Duration::from_millis(250)));
        service.driver.send(&part).await;
        let mut beside = Vec::new();
        while began.elapsed() < Duration::from_secs(*held) {
            ticks.tick().await;
            let some: Vec<_> = (0..BESIDE).map(|_| service.command_in(OTHER, "pure", &script)).collect();
            service.driver.send(&some).await;
            beside.extend(some);
            readiness.ask(address).await;
        }
        service.driver.wait_for(&beside, beside.len(), Duration::from_secs(5)).await;
        missed += beside.len() - service.driver.answered(&beside);
        others.extend(beside);
        early += service.driver.answered(&part);
        holding.rollback().await.expect("it ends");
        let free = Instant::now();
        service.answered(&part, part.len()).await;
        slowest = slowest.max(free.elapsed());
        commands.extend(part);
    }
    let all = [commands.clone(), others].concat();
    let tally = service.settle(&all, &["action.completed"]).await;
    let refusals = rig.database.log().split_off(before).matches("due to lock timeout").count();
    let (keys, rounds, longest) = (tally.keys, holds.len(), holds.iter().max().expect("there are some"));
    Row::new("T22", format!("{rounds} × {AT_ONCE} commands on 4 connections, their row held for up to {longest} s"))
        .exactly("calls repeated", tally.extra_calls, 0)
        .counts(tally)
        .exactly("keys at the platform", keys, all.len())
        .at_least("waits that `lock_timeout` ended", refusals, rounds)
        .exactly("answered while their row was held", early, 0)
        .exactly("others not answered while it was held", missed, 0)
        .within("all answered after it was free", slowest, SOON)
        .at_least("asked whether its database is", readiness.asked, 4 * rounds)
        .exactly("answered that it is not", readiness.denied, 0)
}

/// Many who read and then write, at once, on SQLite, which has one writer at a time: they wait in line and are never turned
/// away. Whoever writes waits for the disk, so the last in line waits for as many writes as there are tasks.
pub(crate) async fn t23(rig: &mut Rig, size: Size) -> Row {
    const TASKS: usize = 32;
    let each = size.of(625, 60);
    let service = rig.service(Setup { workers: 0, sqlite: true, communities: Vec::new(), ..Setup::default() }).await;
    let store = rows::store(&service.database_url, 8).await;
    let tasks = (0..TASKS).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            let (mut took, mut refused) = (Vec::with_capacity(each), Vec::new());
            for turn in 0..each {
                let unit = key(&format!("k-{task}-{turn}"));
                let entry = unit.inbox.clone().expect("it has a key");
                let began = Instant::now();
                let seen = store.seen(&entry.community, &entry.message_id).await;
                refused.extend(seen.err().map(|error| error.to_string()));
                let answer = store.commit(vec![unit]).await;
                if !is_stored(&answer) {
                    refused.push(format!("{answer:?}"));
                }
                took.push(began.elapsed());
            }
            (took, refused)
        })
    });
    let (mut took, mut refused) = (Vec::new(), Vec::new());
    for ended in join_all(tasks).await {
        let (times, errors) = ended.expect("no task panics");
        took.extend(times);
        refused.extend(errors);
    }
    for error in &refused {
        eprintln!("turned away: {error}");
    }
    took.sort_unstable();
    let stored = service.sql("SELECT COUNT(*) FROM inbox").await;
    Row::new("T23", format!("{TASKS} tasks read and write on SQLite, {} transactions", TASKS * each))
        .exactly("turned away", refused.len(), 0)
        .exactly("stored", stored, TASKS * each)
        .within("p99", quantile(&took, 990), Duration::from_millis(500))
}
