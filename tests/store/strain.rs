//! Strain: callers that give up, rows that others hold, a network that is slow or silent, many writers at once.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures::future::join_all;
use metagov::store::{Change, Committed, Settings, Store, StoreError, Unit};
use sea_orm::{ConnectionTrait, Statement, TransactionTrait};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    database::{Database, On},
    sample::{changing, community, insert, message_id, process, pure, slug},
};

/// A way to the database on which everything takes so much longer; `None` is silence.
struct Way {
    address: SocketAddr,
    delay: watch::Sender<Option<Duration>>,
}

impl Way {
    async fn to(database: &Database, delay: Duration) -> Self {
        let (_, place) = database.url.rsplit_once('@').expect("the URL names a user");
        let target = place.split('/').next().expect("the URL names a host").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let delay = watch::Sender::new(Some(delay));
        let way = Self { address, delay: delay.clone() };
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&target).await.expect("the server listens");
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                tokio::spawn(pass(near_read, far_write, delay.subscribe()));
                tokio::spawn(pass(far_read, near_write, delay.subscribe()));
            }
        });
        way
    }

    /// A store that reaches the database on this way.
    async fn store(&self, database: &Database, max_connections: u32) -> Store {
        let (user, place) = database.url.rsplit_once('@').expect("the URL names a user");
        let (_, name) = place.split_once('/').expect("the URL names a database");
        let url = format!("{user}@{}/{name}", self.address);
        Store::connect(&Settings { url, max_connections }).await.expect("the database opens")
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut delay: watch::Receiver<Option<Duration>>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let Ok(Some(delay)) = delay.wait_for(Option::is_some).await.map(|delay| *delay) else { return };
        sleep(delay).await;
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

async fn figure(database: &Database, sql: &str) -> i64 {
    let connection = database.raw().await;
    let statement = Statement::from_string(connection.get_database_backend(), sql);
    let row = connection.query_one_raw(statement).await.expect("it answers").expect("one row");
    row.try_get_by_index(0).expect("a number")
}

/// Commits, as a worker does: again while the trouble passes.
async fn commit(store: &Store, unit: Unit) -> Committed {
    loop {
        match store.commit(vec![unit.clone()]).await {
            Ok(mut answers) => match answers.remove(0) {
                Committed::Refused(error) if error.is_passing() => {}
                answer => return answer,
            },
            Err(error) => assert!(error.is_passing(), "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_give_up_leave_no_transaction_open() {
    const CALLERS: usize = 1_000;
    const IDLE: &str = "SELECT COUNT(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    let database = Database::create(On::Postgres).await;
    community(&database.store().await, "a").await;
    let way = Way::to(&database, Duration::from_millis(50)).await;
    let store = way.store(&database, 20).await;
    for calls in 0..CALLERS / 20 {
        let callers = (0..20).map(|caller| {
            let unit = pure("a", &format!("k-{calls}-{caller}"));
            timeout(Duration::from_millis(10), store.commit(vec![unit]))
        });
        let ended = join_all(callers).await;
        assert!(ended.iter().all(Result::is_err), "nobody waits long enough");
    }
    way.delay.send_replace(Some(Duration::ZERO));
    let deadline = Instant::now() + Duration::from_mins(2);
    while figure(&database, IDLE).await > 0 {
        assert!(Instant::now() < deadline, "{} sessions are idle in transaction", figure(&database, IDLE).await);
    }
    // Every connection of the pool, several times: none is in a transaction that it did not begin.
    let after = join_all((0..100).map(|n| {
        let (store, unit) = (store.clone(), pure("a", &format!("after-{n}")));
        async move { store.commit(vec![unit]).await }
    }))
    .await;
    assert!(after.iter().all(|answer| matches!(answer.as_deref(), Ok([Committed::Stored]))), "{after:?}");
    assert_eq!(figure(&database, "SELECT COUNT(*) FROM inbox WHERE message_id LIKE 'after-%'").await, 100);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_falls_silent_ends_the_wait() {
    let database = Database::create(On::Postgres).await;
    database.store().await;
    let way = Way::to(&database, Duration::ZERO).await;
    let store = way.store(&database, 4).await;
    store.now().await.expect("the database answers");
    way.delay.send_replace(None);
    let began = Instant::now();
    let no_change = [(uuid::Uuid::new_v4(), false)];
    let (key, a) = (message_id("k"), slug("a"));
    let (read, write, claim) =
        tokio::join!(store.seen(&a, &key), store.mark_published(&no_change), store.claim_due_processes(10, &[]));
    for error in [read.err(), write.err(), claim.err()] {
        assert!(matches!(error, Some(StoreError::Unavailable(_))), "{error:?}");
    }
    println!("three waits for a silent network ended after {:?}", began.elapsed());
    way.delay.send_replace(Some(Duration::ZERO));
    store.claim_due_processes(10, &[]).await.expect("the next scan runs");
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_somebody_holds_is_waited_for_and_nothing_is_lost() {
    let database = Database::create(On::Postgres).await;
    let store = database.store().await;
    let saw = community(&store, "a").await;
    let somebody = database.raw().await;
    let holding = somebody.begin().await.expect("a transaction");
    holding.execute_unprepared("SELECT 1 FROM plugin_instances FOR UPDATE").await.expect("the row is free");
    let began = Instant::now();
    let release = async {
        // Longer than `lock_timeout`, so that some are refused and come again.
        sleep(Duration::from_secs(6)).await;
        holding.rollback().await.expect("it ends");
    };
    let commands = join_all((0..64).map(|n| commit(&store, Unit { saw: Some(saw), ..pure("a", &format!("k-{n}")) })));
    let (answers, ()) = tokio::join!(commands, release);
    assert!(answers.iter().all(|answer| matches!(answer, Committed::Stored | Committed::Repeated(_))), "{answers:?}");
    println!("64 commands on 4 connections, a row held for 6 s: {:?}", began.elapsed());
    assert_eq!(figure(&database, "SELECT COUNT(*) FROM action_runs").await, 64);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_somebody_holds_keeps_back_only_those_that_need_it() {
    let database = Database::create(On::Postgres).await;
    let store = database.store().await;
    let (held, free) = (community(&store, "a").await, community(&store, "b").await);
    let somebody = database.raw().await;
    let holding = somebody.begin().await.expect("a transaction");
    let lock = "SELECT 1 FROM plugin_instances WHERE community = 'a' FOR UPDATE";
    holding.execute_unprepared(lock).await.expect("the row is free");
    let units = || {
        let unit = |n: usize| match n % 4 {
            0 => Unit { saw: Some(held), ..pure("a", &format!("k{n}")) },
            _ => Unit { saw: Some(free), ..pure("b", &format!("k{n}")) },
        };
        (0..40).map(unit).collect::<Vec<_>>()
    };
    let waits = |answer: &Committed| matches!(answer, Committed::Refused(error) if error.is_passing());
    let began = Instant::now();
    let answers = store.commit(units()).await.expect("the database answers");
    println!("40 commands, a quarter of them on a row that is held: {:?}", began.elapsed());
    for (n, answer) in answers.iter().enumerate() {
        assert!(if n % 4 == 0 { waits(answer) } else { matches!(answer, Committed::Stored) }, "{n}: {answer:?}");
    }
    let groups = vec![vec![Unit { saw: Some(held), ..pure("a", "g1") }, pure("a", "g2")], vec![pure("b", "g3")]];
    let answers = store.commit_groups_unless_locked(groups).await.expect("the database answers");
    assert!(answers[0].iter().all(waits) && matches!(answers[1][..], [Committed::Stored]), "{answers:?}");
    let keys = "SELECT COUNT(*) FROM inbox WHERE community = 'a'";
    assert_eq!(figure(&database, keys).await, 0, "what waits has left nothing");
    holding.rollback().await.expect("it ends");
    let answers = store.commit(units()).await.expect("the database answers");
    assert!(answers.iter().step_by(4).all(|answer| matches!(answer, Committed::Stored)), "{answers:?}");
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_community_is_deleted_however_long_its_runs_take_to_go() {
    let database = Database::create(On::Postgres).await;
    let store = database.store().await;
    community(&store, "a").await;
    assert!(matches!(commit(&store, pure("a", "k")).await, Committed::Stored));
    // As if there were millions of runs: longer than `statement_timeout`.
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN PERFORM pg_sleep(16); RETURN NULL; END $$; \
        CREATE TRIGGER slow AFTER DELETE ON action_runs FOR EACH STATEMENT EXECUTE FUNCTION slow()";
    database.raw().await.execute_unprepared(slow).await.expect("the statements are correct");
    let delete = changing(vec![Change::DeleteCommunity { slug: slug("a"), expected: 1 }]);
    let answers = store.commit(vec![delete]).await.expect("nothing is cut off");
    assert!(matches!(answers[..], [Committed::Stored]), "{answers:?}");
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_read_and_then_write_never_find_sqlite_locked() {
    const TASKS: usize = 32;
    const EACH: usize = 625;
    let database = Database::create(On::Sqlite).await;
    let store = database.store().await;
    community(&store, "a").await;
    let tasks = (0..TASKS).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut took = Vec::with_capacity(EACH);
            for n in 0..EACH {
                let key = format!("k-{task}-{n}");
                let began = Instant::now();
                let seen = store.seen(&slug("a"), &message_id(&key)).await.expect("it is never locked");
                assert!(seen.is_none());
                let answers = store.commit(vec![pure("a", &key)]).await.expect("it is never locked");
                assert!(matches!(answers[..], [Committed::Stored]), "{answers:?}");
                took.push(began.elapsed());
            }
            took
        })
    });
    let mut took: Vec<_> = join_all(tasks).await.into_iter().flat_map(|took| took.expect("no task panics")).collect();
    took.sort();
    println!("{} transactions by {TASKS} tasks: p99 {:?}", took.len(), took[took.len() * 99 / 100]);
    assert_eq!(figure(&database, "SELECT COUNT(*) FROM inbox").await, i64::try_from(TASKS * EACH).expect("it fits"));
    database.drop().await;
}

/// SQLite rolls a transaction back by itself where the disk is full; a trigger makes it do so on any disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_sqlite_has_rolled_back_swallows_nothing_that_follows() {
    const TRIGGER: &str = "CREATE TRIGGER refusal BEFORE INSERT ON inbox WHEN NEW.message_id LIKE 'no-%' BEGIN \
        SELECT CASE NEW.message_id WHEN 'no-transaction' THEN RAISE(ROLLBACK, 'full') ELSE RAISE(ABORT, 'wrong') END; \
        END";
    let database = Database::create(On::Sqlite).await;
    let store = database.store().await;
    community(&store, "a").await;
    database.raw().await.execute_unprepared(TRIGGER).await.expect("the trigger is right");
    for key in ["no-transaction", "no-row", "no-transaction", "no-row"] {
        let answers = store.commit(vec![pure("a", key)]).await;
        assert!(matches!(answers.as_deref(), Ok([Committed::Refused(_)])), "{key}: {answers:?}");
        let answers = store.commit(vec![pure("a", &format!("after-{key}"))]).await;
        assert!(matches!(answers.as_deref(), Ok([Committed::Stored | Committed::Repeated(_)])), "{answers:?}");
        // What is in the file, not what is in the transaction that wrote it.
        let sql = format!("SELECT COUNT(*) FROM inbox WHERE message_id = 'after-{key}'");
        assert_eq!(figure(&database, &sql).await, 1, "after {key}");
    }
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_that_are_due_at_once_are_claimed_once_and_soon() {
    const DUE: usize = 5_000;
    for on in [On::Sqlite, On::Postgres] {
        let database = Database::create(on).await;
        let store = database.store().await;
        let saw = community(&store, "a").await;
        let now = store.now().await.expect("the clock");
        let due = || {
            let mut process = process("a", saw.id, now);
            process.record.closes_at = Some(now - Duration::from_secs(1));
            insert(&process)
        };
        for _ in 0..10 {
            store.commit(vec![changing((0..DUE / 10).map(|_| due()).collect())]).await.expect("they can be stored");
        }
        let began = Instant::now();
        let mut claimed = std::collections::BTreeSet::new();
        loop {
            let batch = store.claim_due_processes(500, &[]).await.expect("the database answers");
            if batch.is_empty() {
                break;
            }
            for due in batch {
                assert!(claimed.insert(due.id), "claimed twice");
            }
        }
        println!("{on:?}: {DUE} due at once, the last claimed after {:?}", began.elapsed());
        assert_eq!(claimed.len(), DUE);
        database.drop().await;
    }
}
