//! Due rows: claimed once, whoever asks, and due again later.

use std::{collections::BTreeSet, time::Duration};

use metagov::store::{Change, Process, Store};
use metagov_sdk::contract::ProcessStatus;

use crate::{
    database::{Database, on_both},
    sample::{changing, community, community_with, config, insert, moved_on, new_instance, process, slug, update},
};

on_both!(
    two_schedulers_claim_each_due_process_once,
    a_process_is_due_at_its_interval_and_again_after_it,
    a_process_that_only_waits_is_due_when_it_closes,
    what_has_ended_is_never_due,
    a_tick_is_claimed_once_for_each_interval,
    a_change_does_not_put_off_a_poll,
    what_a_clock_that_jumped_back_has_left_behind_is_due_at_once,
);

async fn commit(store: &Store, changes: Vec<Change>) {
    let answers = store.commit(vec![changing(changes)]).await.expect("the database answers");
    assert!(matches!(answers[..], [metagov::store::Committed::Stored]), "{answers:?}");
}

async fn two_schedulers_claim_each_due_process_once(database: &Database) {
    let (one, two) = (database.store().await, database.store().await);
    let saw = community(&one, "a").await;
    let now = one.now().await.expect("the clock");
    let over = |n: u64| {
        let mut process = process("a", saw.id, now);
        process.record.closes_at = Some(now - Duration::from_secs(n));
        process
    };
    let processes: Vec<Process> = (1..=120).map(over).collect();
    commit(&one, processes.iter().map(insert).collect()).await;

    let mut claimed = Vec::new();
    loop {
        let (left, right) = tokio::join!(one.claim_due_processes(20, &[]), two.claim_due_processes(20, &[]));
        let (left, right) = (left.expect("the database answers"), right.expect("the database answers"));
        if left.is_empty() && right.is_empty() {
            break;
        }
        assert!(left.len() <= 20 && right.len() <= 20);
        assert!(left.is_sorted_by_key(|due| due.due_at), "the longest due first");
        claimed.extend(left.into_iter().chain(right));
    }
    let ids: BTreeSet<_> = claimed.iter().map(|due| due.id).collect();
    assert_eq!((claimed.len(), ids.len()), (120, 120));
    let due = &claimed[0];
    assert_eq!((due.community.as_str(), due.plugin.as_str()), ("a", "randomness"));
    assert_eq!(due.process.as_str(), "delayed-stochastic-vote");
}

async fn a_process_is_due_at_its_interval_and_again_after_it(database: &Database) {
    let store = database.store().await;
    let saw = community(&store, "a").await;
    let now = store.now().await.expect("the clock");
    let mut often = process("a", saw.id, now);
    often.poll_every = Some(Duration::ZERO);
    let mut seldom = process("a", saw.id, now);
    seldom.poll_every = Some(Duration::from_hours(1));
    let never = process("a", saw.id, now);
    commit(&store, vec![insert(&often), insert(&seldom), insert(&never)]).await;
    for _ in 0..3 {
        let due = store.claim_due_processes(10, &[]).await.expect("the database answers");
        assert_eq!(due.iter().map(|due| due.id).collect::<Vec<_>>(), [often.record.id]);
    }
}

async fn a_process_that_only_waits_is_due_when_it_closes(database: &Database) {
    let store = database.store().await;
    let saw = community(&store, "a").await;
    let now = store.now().await.expect("the clock");
    let mut over = process("a", saw.id, now);
    over.record.closes_at = Some(now - Duration::from_secs(1));
    let mut later = process("a", saw.id, now);
    later.record.closes_at = Some(now + Duration::from_hours(1));
    commit(&store, vec![insert(&over), insert(&later)]).await;
    let due = store.claim_due_processes(10, &[]).await.expect("the database answers");
    assert_eq!(
        due.iter().map(|due| (due.id, Some(due.due_at))).collect::<Vec<_>>(),
        [(over.record.id, over.record.closes_at)]
    );
    assert!(
        store.claim_due_processes(10, &[]).await.expect("the database answers").is_empty(),
        "not before half a minute"
    );

    // Closing it sooner makes it due at once.
    let mut sooner = moved_on(&later);
    sooner.record.closes_at = Some(now);
    commit(&store, vec![update(&sooner, 1)]).await;
    assert_eq!(store.claim_due_processes(10, &[]).await.expect("the database answers").len(), 1);
}

async fn what_has_ended_is_never_due(database: &Database) {
    let store = database.store().await;
    let saw = community(&store, "a").await;
    let mut open = process("a", saw.id, store.now().await.expect("the clock"));
    open.poll_every = Some(Duration::ZERO);
    commit(&store, vec![insert(&open)]).await;
    let mut ended = moved_on(&open);
    ended.record.status = ProcessStatus::Completed;
    commit(&store, vec![update(&ended, 1)]).await;
    assert!(store.claim_due_processes(10, &[]).await.expect("the database answers").is_empty());
}

async fn a_tick_is_claimed_once_for_each_interval(database: &Database) {
    let (one, two) = (database.store().await, database.store().await);
    let often = community_with(&one, "a", new_instance("a", Some(Duration::ZERO))).await;
    community_with(&one, "b", new_instance("b", Some(Duration::from_hours(1)))).await;
    community(&one, "c").await;
    let due = two.claim_due_ticks(10, &[]).await.expect("the database answers");
    assert_eq!(
        due.iter().map(|due| (due.community.clone(), due.instance_id)).collect::<Vec<_>>(),
        [(slug("a"), often.id)]
    );
    assert_eq!(one.claim_due_ticks(10, &[]).await.expect("the database answers").len(), 1, "and again");
    assert_eq!(due[0].plugin.as_str(), "randomness");

    let seldom = Change::UpdateInstance {
        updated_at: chrono::Utc::now(),
        id: often.id,
        community: slug("a"),
        expected: 1,
        platform_id: None,
        config: Some(config(&serde_json::json!({}))),
        state: None,
        tick_every: Some(Duration::from_hours(1)),
    };
    commit(&one, vec![seldom]).await;
    assert!(one.claim_due_ticks(10, &[]).await.expect("the database answers").is_empty());
}

async fn a_change_does_not_put_off_a_poll(database: &Database) {
    let store = database.store().await;
    let saw = community(&store, "a").await;
    let mut voted = process("a", saw.id, store.now().await.expect("the clock"));
    voted.poll_every = Some(Duration::ZERO);
    commit(&store, vec![insert(&voted)]).await;
    let mut webhook = moved_on(&voted);
    webhook.poll_every = Some(Duration::from_hours(1));
    commit(&store, vec![update(&webhook, 1)]).await;
    assert_eq!(store.claim_due_processes(10, &[]).await.expect("the database answers").len(), 1);
    assert!(
        store.claim_due_processes(10, &[]).await.expect("the database answers").is_empty(),
        "from now on each hour"
    );
}

async fn what_a_clock_that_jumped_back_has_left_behind_is_due_at_once(database: &Database) {
    let store = database.store().await;
    let saw = community_with(&store, "a", new_instance("a", Some(Duration::from_mins(5)))).await;
    let now = store.now().await.expect("the clock");
    let polled = |every: u64| {
        let mut process = process("a", saw.id, now);
        process.poll_every = Some(Duration::from_mins(every));
        process
    };
    let (often, seldom, mut closing) = (polled(5), polled(90), process("a", saw.id, now));
    closing.record.closes_at = Some(now + Duration::from_hours(3));
    commit(&store, [&often, &seldom, &closing].map(insert).into()).await;
    assert_eq!(
        store.set_right_due_times().await.expect("the database answers"),
        0,
        "nothing is farther than it may be"
    );

    // An hour later by the clock of before, five minutes and ninety from where it is now.
    let ahead = |minutes: u64| now + Duration::from_mins(minutes);
    database.set_time("processes", "due_at", "poll_every_ms = 300000", ahead(65)).await;
    database.set_time("processes", "due_at", "poll_every_ms = 5400000", ahead(89)).await;
    database.set_time("plugin_instances", "due_at", "tick_every_ms = 300000", ahead(65)).await;
    assert_eq!(store.set_right_due_times().await.expect("the database answers"), 2);
    let due = store.claim_due_processes(10, &[]).await.expect("the database answers");
    assert_eq!(due.iter().map(|due| due.id).collect::<Vec<_>>(), [often.record.id], "once, and no other");
    assert_eq!(store.claim_due_ticks(10, &[]).await.expect("the database answers").len(), 1);
    assert!(store.claim_due_processes(10, &[]).await.expect("the database answers").is_empty(), "then as always");
}
