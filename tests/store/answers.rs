//! Answers: the first one of a command is the answer, a rejection too, whoever comes later with another.

use std::time::Duration;

use metagov::store::{
    AttemptStatus, AttemptView, Begun, Change, Committed, InstanceVersion, Keep, OutboxEvent, Seen, Store, Unit,
};
use serde_json::json;
use uuid::Uuid;

use crate::{
    database::{Database, on_both},
    sample::{attempt, changing, community, entry, event, fence, insert, message_id, process, pure, slug},
};

on_both!(
    a_rejection_is_stored_and_repeated_like_every_outcome,
    a_rejection_for_no_community_leaves_nothing,
    a_key_whose_attempt_is_over_is_taken_over,
    a_unit_without_a_key_is_recognised_by_its_events,
    of_copies_without_a_key_at_the_same_time_one_has_the_word,
);

async fn commit_one(store: &Store, unit: Unit) -> Committed {
    store.commit(vec![unit]).await.expect("the database answers").remove(0)
}

/// What a command writes that is rejected: its key and the answer.
fn rejected(community: &str, key: &str, body: &str) -> Unit {
    Unit { run: None, rejected: true, events: vec![event(community, key, body)], ..pure(community, key) }
}

async fn a_rejection_is_stored_and_repeated_like_every_outcome(database: &Database) {
    let store = database.store().await;
    community(&store, "a").await;
    assert!(matches!(commit_one(&store, rejected("a", "k", "no")).await, Committed::Stored));
    for later in [rejected("a", "k", "no, and later"), pure("a", "k")] {
        let Committed::Repeated(events) = commit_one(&store, later).await else { panic!("it has its answer") };
        assert_eq!(events, rejected("a", "k", "no").events);
    }

    // The attempt that decides so has the key; one that has lost it decides nothing.
    let lost = begin(&store, "attempted", Duration::ZERO).await;
    let ours = begin(&store, "attempted", Duration::from_mins(1)).await;
    store.save_step(&entry("a", "attempted", 1), ours, "posted", &json!(1)).await.expect("the database answers");
    let late = Unit { fence: Some(lost), ..rejected("a", "attempted", "late") };
    assert!(matches!(commit_one(&store, late).await, Committed::LostFence));
    let answer = Unit { fence: Some(ours), ..rejected("a", "attempted", "no") };
    assert!(matches!(commit_one(&store, answer.clone()).await, Committed::Stored));
    let Committed::Repeated(events) = commit_one(&store, pure("a", "attempted")).await else {
        panic!("it is answered")
    };
    assert_eq!(events, answer.events);
    let (steps, runs) = what_is_left(&store, "attempted").await;
    assert!(steps.is_empty() && runs.is_none_or(|view| view.status == AttemptStatus::Completed), "{steps:?}, {runs:?}");
}

async fn a_rejection_for_no_community_leaves_nothing(database: &Database) {
    let store = database.store().await;
    community(&store, "a").await;
    let batch = vec![rejected("a", "k", "no"), rejected("nowhere", "k", "no"), pure("nowhere", "other")];
    let answers = store.commit(batch).await.expect("the database answers");
    assert!(matches!(answers[..], [Committed::Stored, Committed::NoCommunity, Committed::Stored]), "{answers:?}");
    assert!(store.seen(&slug("nowhere"), &message_id("k")).await.expect("the database answers").is_none());

    let entry = entry("nowhere", "attempted", 1);
    let begun = store.begin_attempt(&entry, &attempt(), fence(), Duration::from_mins(1)).await;
    let Ok(Begun::Fresh { fence: ours }) = begun else { panic!("{begun:?}") };
    let answer = Unit { fence: Some(ours), ..rejected("nowhere", "attempted", "no") };
    assert!(matches!(commit_one(&store, answer.clone()).await, Committed::NoCommunity));
    assert!(store.seen(&slug("nowhere"), &message_id("attempted")).await.expect("the database answers").is_none());
    assert!(matches!(commit_one(&store, answer).await, Committed::LostFence), "who has lost it says nothing");
    // What was answered while there was a community stays the answer.
    let saw = store.community(&slug("a")).await.expect("the database answers").expect("it is there");
    let delete = Change::DeleteCommunity { slug: slug("a"), expected: saw.version };
    assert!(matches!(commit_one(&store, changing(vec![delete])).await, Committed::Stored));
    assert!(matches!(commit_one(&store, rejected("a", "k", "gone")).await, Committed::Repeated(_)));
}

async fn begin(store: &Store, key: &str, lease: Duration) -> i64 {
    match store.begin_attempt(&entry("a", key, 1), &attempt(), fence(), lease).await {
        Ok(Begun::Fresh { fence } | Begun::Again { fence, .. }) => fence,
        other => panic!("{other:?}"),
    }
}

async fn what_is_left(store: &Store, key: &str) -> (Vec<(String, serde_json::Value)>, Option<AttemptView>) {
    let steps = store.steps(&slug("a"), &message_id(key)).await.expect("the database answers");
    (steps, store.attempts(&slug("a"), &message_id(key)).await.expect("the database answers"))
}

async fn a_key_whose_attempt_is_over_is_taken_over(database: &Database) {
    let store = database.store().await;
    community(&store, "a").await;
    // An attempt that was declared otherwise, by another version: its worker died, or it gave up for a retry.
    for (key, gives_up) in [("dead", false), ("given-up", true), ("stale", false)] {
        let old = begin(&store, key, if gives_up { Duration::from_mins(1) } else { Duration::ZERO }).await;
        store.save_step(&entry("a", key, 1), old, "posted", &json!(1)).await.expect("the database answers");
        if gives_up {
            store.release_attempt(&entry("a", key, 1), old, Keep::ForRetry).await.expect("the database answers");
        }
        let other = Unit { inbox: Some(entry("a", key, 2)), ..pure("a", key) };
        assert!(matches!(commit_one(&store, other).await, Committed::Conflict), "{key}: not by another command");
        if key == "stale" {
            let saw = Some(InstanceVersion { id: Uuid::nil(), version: None });
            assert!(matches!(commit_one(&store, Unit { saw, ..pure("a", key) }).await, Committed::Stale));
            assert!(matches!(store.seen(&slug("a"), &message_id(key)).await, Ok(Some(Seen::Running))), "it is left");
        }
        assert!(matches!(commit_one(&store, pure("a", key)).await, Committed::Stored), "{key}");
        let Committed::Repeated(events) = commit_one(&store, pure("a", key)).await else { panic!("{key}: finished") };
        assert_eq!(events, pure("a", key).events);
        let late = Unit { fence: Some(old), ..pure("a", key) };
        assert!(matches!(commit_one(&store, late).await, Committed::LostFence), "{key}: it comes late");
        assert!(what_is_left(&store, key).await.0.is_empty(), "{key}: its steps have gone");
    }
    // A lease from before the clock jumped back holds as if it was taken now, not for as long as the jump.
    begin(&store, "jumped", Duration::from_mins(1)).await;
    let now = store.now().await.expect("the clock");
    database.set_time("inbox", "lease_until", "message_id = 'jumped'", now + Duration::from_hours(72)).await;
    assert!(matches!(commit_one(&store, pure("a", "jumped")).await, Committed::InFlight));
    database.set_time("inbox", "lease_until", "lease_until < '9999-01-01'", now).await;
    assert!(matches!(commit_one(&store, pure("a", "jumped")).await, Committed::Stored));
}

async fn a_unit_without_a_key_is_recognised_by_its_events(database: &Database) {
    let store = database.store().await;
    let saw = community(&store, "a").await;
    let started = process("a", saw.id, store.now().await.expect("the clock"));
    let start = |body: &str| {
        // Handled once more, the same event says so with another time.
        let event = OutboxEvent { body: body.into(), ..event("a", "k", "started") };
        Unit { changes: vec![insert(&started)], events: vec![event], ..Unit::default() }
    };
    assert!(matches!(commit_one(&store, start("first")).await, Committed::Stored));
    // The answer to this commit was lost: without its events it would be taken for one that lost a race.
    let Committed::Repeated(events) = commit_one(&store, start("second")).await else { panic!("it was stored") };
    assert_eq!(events, start("first").events, "byte for byte as it was stored");
    let silent = Unit { changes: vec![insert(&started)], ..Unit::default() };
    assert!(matches!(commit_one(&store, silent).await, Committed::Stale));
}

async fn of_copies_without_a_key_at_the_same_time_one_has_the_word(database: &Database) {
    let (store, other) = (database.store().await, database.store().await);
    community(&store, "a").await;
    let copy = |key: &str, body: &str| {
        let event = OutboxEvent { body: body.into(), ..event("a", key, "done") };
        Unit { events: vec![event], ..Unit::default() }
    };
    // In one batch of one worker.
    let answers = store.commit(vec![copy("batch", "first"), copy("batch", "second")]).await.expect("it answers");
    let [Committed::Stored, Committed::Repeated(events)] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(*events, copy("batch", "first").events, "what is published is what is stored");
    // At two workers.
    for round in 0..50 {
        let key = round.to_string();
        let answers = tokio::join!(commit_one(&store, copy(&key, "one")), commit_one(&other, copy(&key, "other")));
        let stored = [&answers.0, &answers.1].into_iter().filter(|answer| matches!(answer, Committed::Stored)).count();
        assert_eq!(stored, 1, "{answers:?}");
        let Committed::Repeated(events) = commit_one(&store, copy(&key, "late")).await else { panic!("it is stored") };
        let words = if matches!(answers.0, Committed::Stored) { "one" } else { "other" };
        assert_eq!(events, copy(&key, words).events);
    }
}
