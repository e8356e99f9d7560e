//! Leases: of several workers that change one row, one has it for a moment.

use std::time::Duration;

use metagov::store::{Change, Committed, Process, Store, Unit};
use metagov_sdk::contract::Timestamp;
use uuid::Uuid;

use crate::{
    database::{Database, on_both},
    sample::{community, insert, process, pure, slug},
};

on_both!(
    one_worker_has_the_lease_until_it_gives_it_back_or_its_time_is_over,
    what_another_worker_has_the_lease_on_is_not_written,
    a_deleted_community_leaves_no_lease,
);

const LONG: Duration = Duration::from_secs(50);

async fn take(store: &Store, community: &str, row: Uuid, holder: Uuid, lease: Duration) -> bool {
    store.take_lease(&slug(community), row, holder, lease).await.expect("the database answers")
}

async fn commit_one(store: &Store, unit: Unit) -> Committed {
    store.commit(vec![unit]).await.expect("the database answers").remove(0)
}

async fn one_worker_has_the_lease_until_it_gives_it_back_or_its_time_is_over(database: &Database) {
    let store = database.store().await;
    let (row, one, other) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    assert!(take(&store, "a", row, one, LONG).await);
    assert!(take(&store, "a", row, one, LONG).await, "it is renewed");
    assert!(!take(&store, "a", row, other, LONG).await, "another one has it");
    assert!(take(&store, "b", row, other, LONG).await, "the other community's process has the same id by chance");

    store.give_back_lease(&slug("a"), row, other).await.expect("the database answers");
    assert!(!take(&store, "a", row, other, LONG).await, "only who has it gives it back");
    store.give_back_lease(&slug("a"), row, one).await.expect("the database answers");
    assert!(take(&store, "a", row, other, Duration::ZERO).await);
    assert!(take(&store, "a", row, one, LONG).await, "the time of the other one is over");

    let far = store.now().await.expect("the clock") + Duration::from_hours(24);
    database.set_time("row_leases", "until", "community = 'a'", far).await;
    assert!(take(&store, "a", row, other, LONG).await, "nobody takes a lease for a day: the clock has jumped back");
    let past = Timestamp::UNIX_EPOCH;
    database.set_time("row_leases", "until", "community = 'b'", past).await;
    store.give_back_lease(&slug("a"), row, other).await.expect("the database answers");
    assert_eq!(database.count("row_leases", "TRUE").await, 0, "what dead workers have left goes, too");
}

async fn what_another_worker_has_the_lease_on_is_not_written(database: &Database) {
    let store = database.store().await;
    let saw = community(&store, "a").await;
    let started = process("a", saw.id, store.now().await.expect("the clock"));
    let start = Unit { saw: Some(saw), changes: vec![insert(&started)], ..pure("a", "start") };
    assert!(matches!(commit_one(&store, start).await, Committed::Stored));

    let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
    assert!(take(&store, "a", started.record.id, one, LONG).await);
    let vote =
        |key: &str, holder, expected| Unit { changes: vec![moved(&started, expected)], holder, ..pure("a", key) };
    assert!(matches!(commit_one(&store, vote("1", Some(other), 1)).await, Committed::Stale), "it waits for its turn");
    assert!(matches!(commit_one(&store, vote("1", Some(one), 1)).await, Committed::Stored));
    assert!(matches!(commit_one(&store, vote("2", Some(one), 1)).await, Committed::Stale), "the version decides");
    assert!(matches!(commit_one(&store, vote("2", None, 2)).await, Committed::Stored), "who heeds no lease needs none");
    store.give_back_lease(&slug("a"), started.record.id, one).await.expect("the database answers");
    assert!(matches!(commit_one(&store, vote("3", Some(other), 3)).await, Committed::Stored));
}

async fn a_deleted_community_leaves_no_lease(database: &Database) {
    let store = database.store().await;
    community(&store, "a").await;
    assert!(take(&store, "a", Uuid::new_v4(), Uuid::new_v4(), LONG).await);
    let delete = Change::DeleteCommunity { slug: slug("a"), expected: 1 };
    let answer = commit_one(&store, Unit { changes: vec![delete], ..Unit::default() }).await;
    assert!(matches!(answer, Committed::Stored), "{answer:?}");
    assert_eq!(database.count("row_leases", "TRUE").await, 0);
}

/// The process with its next version.
fn moved(process: &Process, expected: i64) -> Change {
    let mut process = process.clone();
    process.record.version = expected + 1;
    Change::UpdateProcess { process: Box::new(process), expected }
}
