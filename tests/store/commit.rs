//! The group commit: what becomes of each unit of a batch.

use std::{collections::BTreeSet, time::Duration};

use metagov::store::{Begun, Change, Committed, InstanceVersion, Seen, Store, StoreError, Unit};
use serde_json::json;
use uuid::Uuid;

use crate::{
    database::{Database, On, on_both},
    sample::{
        attempt, changing, community, config, entry, event, fence, insert, message_id, moved_on, new_instance, process,
        pure, slug, update,
    },
};

on_both!(
    a_new_key_is_stored_and_a_repeated_one_answers_with_its_events,
    the_same_key_with_another_body_is_a_conflict,
    the_same_key_in_two_communities_is_two_keys,
    of_two_units_with_one_key_in_a_batch_the_second_is_repeated,
    of_two_concurrent_commits_with_one_key_one_is_stored,
    batches_that_share_keys_in_any_order_store_each_once,
    a_unit_that_saw_an_old_instance_is_stale_and_leaves_nothing,
    a_repeated_key_is_repeated_even_where_its_state_has_moved,
    a_bad_unit_does_not_sink_its_batch,
    a_unit_that_the_database_will_not_have_is_refused_alone,
    a_process_is_set_only_over_the_version_that_was_read,
    an_instance_is_set_only_over_the_version_that_was_read,
    two_units_of_a_batch_cannot_both_change_a_process,
    a_failing_unit_leaves_none_of_its_changes,
    a_key_under_attempt_is_in_flight_for_others,
    a_lost_fence_writes_nothing,
    a_batch_larger_than_one_statement_is_stored_whole,
    a_commit_that_nobody_waits_for_is_still_whole,
    a_group_is_written_whole_with_one_change_of_the_row_that_its_commands_share,
    of_a_group_with_one_unit_that_cannot_be_written_nothing_is,
    a_group_with_the_key_of_an_earlier_group_is_answered_after_it,
    a_group_that_breaks_a_constraint_does_not_sink_its_batch,
);

async fn commit_one(store: &Store, unit: Unit) -> Committed {
    store.commit(vec![unit]).await.expect("the database answers").remove(0)
}

async fn a_new_key_is_stored_and_a_repeated_one_answers_with_its_events(database: &Database) {
    let store = database.store().await;
    let mut unit = pure("a", "k1");
    unit.events.insert(0, event("a", "k1", "first"));
    unit.events.insert(1, event("a", "k1", "second"));
    assert!(matches!(commit_one(&store, unit.clone()).await, Committed::Stored));

    let Committed::Repeated(events) = commit_one(&store, unit.clone()).await else { panic!("it must be repeated") };
    assert_eq!(events, unit.events, "all of them, in their order");

    let seen = store.seen(&slug("a"), &message_id("k1")).await.expect("the database answers");
    let Some(Seen::Finished { fingerprint, events }) = seen else { panic!("it must be finished") };
    assert_eq!((fingerprint, events), ([1; 32], unit.events));
    assert!(store.seen(&slug("a"), &message_id("k2")).await.expect("the database answers").is_none());
}

async fn the_same_key_with_another_body_is_a_conflict(database: &Database) {
    let store = database.store().await;
    commit_one(&store, pure("a", "k")).await;
    let other = Unit { inbox: Some(entry("a", "k", 2)), events: vec![event("a", "k", "other")], ..Unit::default() };
    assert!(matches!(commit_one(&store, other).await, Committed::Conflict));
    assert_eq!(
        store
            .events(&slug("a"), &metagov::store::Selection::default(), None, 10)
            .await
            .expect("the database answers")
            .len(),
        1
    );
}

async fn the_same_key_in_two_communities_is_two_keys(database: &Database) {
    let store = database.store().await;
    let answers = store.commit(vec![pure("a", "k"), pure("b", "k")]).await.expect("the database answers");
    assert!(matches!(answers[..], [Committed::Stored, Committed::Stored]), "{answers:?}");
}

async fn of_two_units_with_one_key_in_a_batch_the_second_is_repeated(database: &Database) {
    let store = database.store().await;
    let mut other_body = pure("a", "k1");
    other_body.inbox = Some(entry("a", "k1", 9));
    let batch = vec![pure("a", "k1"), pure("a", "k2"), pure("a", "k1"), other_body];
    let answers = store.commit(batch).await.expect("the database answers");
    let [Committed::Stored, Committed::Stored, Committed::Repeated(events), Committed::Conflict] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert_eq!(*events, pure("a", "k1").events);
}

async fn of_two_concurrent_commits_with_one_key_one_is_stored(database: &Database) {
    let (one, two) = (database.store().await, database.store().await);
    for round in 0..20 {
        let unit = pure("a", &format!("k{round}"));
        let (left, right) = tokio::join!(commit_one(&one, unit.clone()), commit_one(&two, unit.clone()));
        match (left, right) {
            (Committed::Stored, Committed::Repeated(events)) | (Committed::Repeated(events), Committed::Stored) => {
                assert_eq!(events, unit.events);
            }
            other => panic!("one must be stored and one repeated: {other:?}"),
        }
    }
}

async fn batches_that_share_keys_in_any_order_store_each_once(database: &Database) {
    let stores = [database.store().await, database.store().await, database.store().await];
    let keys: Vec<String> = (0..100).map(|key| format!("k{key}")).collect();
    let commits = stores.iter().enumerate().map(|(shift, store)| {
        let mut keys = keys.clone();
        keys.rotate_left(shift * 33);
        if shift == 1 {
            keys.reverse();
        }
        let batch = keys.iter().map(|key| pure("a", key)).collect();
        async move { store.commit(batch).await.expect("the database answers") }
    });
    let answers = futures::future::join_all(commits).await.concat();
    let new = answers.iter().filter(|answer| matches!(answer, Committed::Stored)).count();
    let repeated = answers.iter().filter(|answer| matches!(answer, Committed::Repeated(events) if events.len() == 1));
    assert_eq!((new, repeated.count()), (100, 200));
}

async fn a_unit_that_saw_an_old_instance_is_stale_and_leaves_nothing(database: &Database) {
    let store = database.store().await;
    let saw = community(&store, "a").await;
    let old = InstanceVersion { version: Some(0), ..saw };
    let gone = InstanceVersion { id: Uuid::new_v4(), version: Some(1) };
    let seeing = |key: &str, saw| Unit { saw: Some(saw), ..pure("a", key) };
    let batch = vec![seeing("k1", saw), seeing("k2", old), seeing("k3", gone), seeing("k4", saw)];
    let answers = store.commit(batch).await.expect("the database answers");
    assert!(
        matches!(answers[..], [Committed::Stored, Committed::Stale, Committed::Stale, Committed::Stored]),
        "{answers:?}"
    );
    assert!(store.seen(&slug("a"), &message_id("k2")).await.expect("the database answers").is_none());
    assert_eq!(
        store
            .events(&slug("a"), &metagov::store::Selection::default(), None, 10)
            .await
            .expect("the database answers")
            .len(),
        2
    );

    assert!(matches!(commit_one(&store, seeing("k2", saw)).await, Committed::Stored), "on fresh state it succeeds");
}

async fn a_repeated_key_is_repeated_even_where_its_state_has_moved(database: &Database) {
    let store = database.store().await;
    let saw = community(&store, "a").await;
    let started = process("a", saw.id, store.now().await.expect("the clock"));
    let start = Unit { saw: Some(saw), changes: vec![insert(&started)], run: None, ..pure("a", "start") };
    assert!(matches!(commit_one(&store, start.clone()).await, Committed::Stored));
    assert!(matches!(commit_one(&store, start).await, Committed::Repeated(_)), "not stale, though the process exists");
}

async fn a_bad_unit_does_not_sink_its_batch(database: &Database) {
    let store = database.store().await;
    community(&store, "a").await;
    // The unique index finds this only when it is written, after the checks.
    let second = Unit { changes: vec![Change::InsertInstance(new_instance("a", None))], ..pure("a", "bad") };
    let batch = vec![pure("a", "k1"), second, pure("a", "k2"), pure("a", "k1")];
    let answers = store.commit(batch).await.expect("the database answers");
    assert!(
        matches!(answers[..], [Committed::Stored, Committed::Stale, Committed::Stored, Committed::Repeated(_)]),
        "{answers:?}"
    );
    assert!(store.seen(&slug("a"), &message_id("bad")).await.expect("the database answers").is_none());
}

async fn a_unit_that_the_database_will_not_have_is_refused_alone(database: &Database) {
    let store = database.store().await;
    // PostgreSQL's text holds no NUL, SQLite's does: there another row has to do.
    let mut bad = pure("a", "bad");
    bad.events[0].correlation_id = Some("a\0b".into());
    let answers = store.commit(vec![pure("a", "k1"), bad, pure("a", "k2")]).await.expect("the database answers");
    if database.on == On::Sqlite {
        assert!(matches!(answers[..], [Committed::Stored, Committed::Stored, Committed::Stored]), "{answers:?}");
    } else {
        let [Committed::Stored, Committed::Refused(error), Committed::Stored] = &answers[..] else {
            panic!("{answers:?}");
        };
        assert!(!error.is_passing(), "{error}");
    }
}

async fn a_process_is_set_only_over_the_version_that_was_read(database: &Database) {
    let store = database.store().await;
    let saw = community(&store, "a").await;
    let first = process("a", saw.id, store.now().await.expect("the clock"));
    commit_one(&store, changing(vec![insert(&first)])).await;
    assert!(matches!(commit_one(&store, changing(vec![insert(&first)])).await, Committed::Stale), "the id is taken");

    let second = moved_on(&first);
    let (webhook, poll) = tokio::join!(
        commit_one(&store, changing(vec![update(&second, 1)])),
        commit_one(&store, changing(vec![update(&second, 1)]))
    );
    assert!(
        matches!((&webhook, &poll), (Committed::Stored, Committed::Stale) | (Committed::Stale, Committed::Stored)),
        "{webhook:?} {poll:?}"
    );
    assert!(matches!(commit_one(&store, changing(vec![update(&moved_on(&second), 2)])).await, Committed::Stored));

    let mut elsewhere = moved_on(&moved_on(&second));
    elsewhere.record.community = slug("b");
    assert!(matches!(commit_one(&store, changing(vec![update(&elsewhere, 3)])).await, Committed::Stale));
}

async fn an_instance_is_set_only_over_the_version_that_was_read(database: &Database) {
    let store = database.store().await;
    let saw = community(&store, "a").await;
    let count = |community: &str, expected, count: i64| {
        changing(vec![Change::UpdateInstance {
            updated_at: chrono::Utc::now(),
            id: saw.id,
            community: slug(community),
            expected,
            platform_id: None,
            config: None,
            state: Some(json!({ "count": count })),
            tick_every: None,
        }])
    };
    assert!(matches!(commit_one(&store, count("b", 1, 0)).await, Committed::Stale), "another community's");
    let answers = store.commit(vec![count("a", 1, 1), count("a", 1, 2)]).await.expect("the database answers");
    assert!(matches!(answers[..], [Committed::Stored, Committed::Stale]), "{answers:?}");
    assert!(matches!(commit_one(&store, count("a", 1, 3)).await, Committed::Stale));
    assert!(matches!(commit_one(&store, count("a", 2, 4)).await, Committed::Stored));
    let instance = store.instance(&slug("a"), saw.id).await.expect("the database answers").expect("it is there");
    assert_eq!((instance.version, instance.state), (3, Some(json!({"count": 4}))));
    assert_eq!(instance.config, config(&json!({"low": 1, "high": 6})), "the config stays");
    assert_eq!(instance.updated_at, instance.created_at, "which tells of the config");
}

async fn two_units_of_a_batch_cannot_both_change_a_process(database: &Database) {
    let store = database.store().await;
    let saw = community(&store, "a").await;
    let first = process("a", saw.id, store.now().await.expect("the clock"));
    let twice = store.commit(vec![changing(vec![insert(&first)]), changing(vec![insert(&first)])]).await;
    let twice = twice.expect("the database answers");
    assert!(matches!(twice[..], [Committed::Stored, Committed::Stale]), "{twice:?}");
    let webhook = Unit { changes: vec![update(&moved_on(&first), 1)], ..pure("a", "hook") };
    let poll = Unit { changes: vec![update(&moved_on(&first), 1)], ..pure("a", "poll") };
    let answers = store.commit(vec![webhook, poll]).await.expect("the database answers");
    assert!(matches!(answers[..], [Committed::Stored, Committed::Stale]), "{answers:?}");
}

async fn a_failing_unit_leaves_none_of_its_changes(database: &Database) {
    let store = database.store().await;
    community(&store, "a").await;
    let instance = new_instance("b", None);
    let taken = new_instance("a", None);
    let unit = Unit {
        changes: vec![
            Change::InsertCommunity { slug: slug("b"), readable_name: None },
            Change::InsertInstance(instance),
            Change::InsertInstance(taken),
        ],
        ..pure("b", "apply")
    };
    assert!(matches!(commit_one(&store, unit).await, Committed::Stale));
    assert!(store.community(&slug("b")).await.expect("the database answers").is_none());
    assert!(store.instances(&slug("b")).await.expect("the database answers").is_empty());
    assert!(
        store
            .events(&slug("b"), &metagov::store::Selection::default(), None, 10)
            .await
            .expect("the database answers")
            .is_empty()
    );
}

async fn a_key_under_attempt_is_in_flight_for_others(database: &Database) {
    let store = database.store().await;
    let lease = Duration::from_mins(1);
    let begun =
        store.begin_attempt(&entry("a", "k", 1), &attempt(), fence(), lease).await.expect("the database answers");
    let Begun::Fresh { fence } = begun else { panic!("{begun:?}") };
    assert!(matches!(commit_one(&store, pure("a", "k")).await, Committed::InFlight));
    let other = Unit { inbox: Some(entry("a", "k", 2)), ..Unit::default() };
    assert!(matches!(commit_one(&store, other).await, Committed::Conflict));
    assert!(matches!(
        store.seen(&slug("a"), &message_id("k")).await.expect("the database answers"),
        Some(Seen::Running)
    ));

    let ours = Unit { fence: Some(fence), ..pure("a", "k") };
    assert!(matches!(commit_one(&store, ours.clone()).await, Committed::Stored));
    assert!(matches!(commit_one(&store, ours).await, Committed::LostFence), "it is finished");
    assert!(matches!(commit_one(&store, pure("a", "k")).await, Committed::Repeated(events) if events.len() == 1));
}

async fn a_lost_fence_writes_nothing(database: &Database) {
    let store = database.store().await;
    let hung = store
        .begin_attempt(&entry("a", "k", 1), &attempt(), fence(), Duration::ZERO)
        .await
        .expect("the database answers");
    let Begun::Fresh { fence: first } = hung else { panic!("{hung:?}") };
    let taken = store.begin_attempt(&entry("a", "k", 1), &attempt(), fence(), Duration::from_mins(1)).await;
    let Begun::Again { fence: second, attempts: 2, died: true } = taken.expect("the database answers") else {
        panic!("the lease is over, so it can be taken")
    };
    let with = |fence| Unit { fence: Some(fence), ..pure("a", "k") };
    let answers = store.commit(vec![with(first), pure("a", "other")]).await.expect("the database answers");
    assert!(matches!(answers[..], [Committed::LostFence, Committed::Stored]), "{answers:?}");
    assert!(matches!(commit_one(&store, with(second)).await, Committed::Stored));
}

async fn a_batch_larger_than_one_statement_is_stored_whole(database: &Database) {
    let store = database.store().await;
    let saw = community(&store, "a").await;
    let now = store.now().await.expect("the clock");
    let batch: Vec<Unit> = (0..1200)
        .map(|n| Unit { changes: vec![insert(&process("a", saw.id, now))], ..pure("a", &format!("k{n}")) })
        .collect();
    let answers = store.commit(batch.clone()).await.expect("the database answers");
    assert!(answers.iter().all(|answer| matches!(answer, Committed::Stored)));
    let ids: BTreeSet<Uuid> = batch.iter().flat_map(|unit| &unit.events).map(|event| event.id).collect();
    assert_eq!(ids.len(), 1200);
    let answers = store.commit(batch).await.expect("the database answers");
    assert!(answers.iter().all(|answer| matches!(answer, Committed::Repeated(events) if events.len() == 1)));
    let open = store.open_processes(&slug("a"), saw.id, None).await.expect("the database answers");
    assert_eq!(open.len(), 1200);
}

async fn a_commit_that_nobody_waits_for_is_still_whole(database: &Database) {
    let store = database.store().await;
    for round in 0..50 {
        let commit = store.commit((0..10).map(|n| pure("a", &format!("k{round}-{n}"))).collect());
        // Polled once, so that its transaction begins, and dropped.
        assert!(futures::poll!(std::pin::pin!(commit)).is_pending());
    }
    // With as many connections as transactions were dropped, a poisoned one would be found here.
    let again: Vec<Unit> =
        (0..50).flat_map(|round| (0..10).map(move |n| pure("a", &format!("k{round}-{n}")))).collect();
    let answers = store.commit(again).await.expect("the database answers");
    let whole = answers.chunks(10).all(|batch| {
        let stored = batch.iter().filter(|answer| matches!(answer, Committed::Stored)).count();
        stored == 0 || stored == 10
    });
    assert!(whole, "{answers:?}");
}

#[tokio::test]
async fn a_database_that_is_away_is_passing_trouble() {
    let settings = metagov::store::Settings { url: "postgres://nobody@127.0.0.1:1/nothing".into(), max_connections: 1 };
    let error = Store::connect(&settings).await.expect_err("nobody listens there");
    assert!(matches!(error, StoreError::Unavailable(_)) && error.is_passing(), "{error}");
}

fn answers_of(groups: &[Vec<Committed>]) -> Vec<Vec<&'static str>> {
    let word = |committed: &Committed| match committed {
        Committed::Stored => "stored",
        Committed::Repeated(_) => "repeated",
        Committed::Conflict => "conflict",
        Committed::Stale => "stale",
        Committed::InFlight => "in flight",
        Committed::LostFence => "lost fence",
        Committed::NoCommunity => "no community",
        Committed::Refused(_) => "refused",
    };
    groups.iter().map(|group| group.iter().map(word).collect()).collect()
}

async fn keys_of(store: &Store, keys: &[&str]) -> Vec<bool> {
    let seen =
        keys.iter().map(async |key| store.seen(&slug("a"), &message_id(key)).await.expect("it answers").is_some());
    futures::future::join_all(seen).await
}

async fn a_group_is_written_whole_with_one_change_of_the_row_that_its_commands_share(database: &Database) {
    let store = database.store().await;
    let instance = community(&store, "a").await.id;
    let first = process("a", instance, chrono::Utc::now());
    commit_one(&store, changing(vec![insert(&first)])).await;
    let last = Unit { changes: vec![update(&moved_on(&first), 1)], ..pure("a", "k3") };
    let group = vec![pure("a", "k1"), pure("a", "k2"), last];
    let answers = store.commit_groups(vec![group, vec![pure("a", "k4")]]).await.expect("the database answers");
    assert_eq!(answers_of(&answers), [vec!["stored"; 3], vec!["stored"]]);
    let stored = store.process(&slug("a"), first.record.id).await.expect("the database answers").expect("it is there");
    assert_eq!(stored.record.version, 2);
}

async fn of_a_group_with_one_unit_that_cannot_be_written_nothing_is(database: &Database) {
    let store = database.store().await;
    let instance = community(&store, "a").await.id;
    let first = process("a", instance, chrono::Utc::now());
    commit_one(&store, changing(vec![insert(&first)])).await;
    commit_one(&store, pure("a", "before")).await;
    let changed = |key: &str, expected| Unit { changes: vec![update(&moved_on(&first), expected)], ..pure("a", key) };

    let repeated = vec![pure("a", "k1"), pure("a", "before"), changed("k2", 1)];
    let late = vec![pure("a", "k3"), changed("k4", 7)];
    let answers = store.commit_groups(vec![repeated, late, vec![pure("a", "k5")]]).await.expect("the database answers");
    assert_eq!(answers_of(&answers), [vec!["stale", "repeated", "stale"], vec!["stale", "stale"], vec!["stored"]]);
    assert_eq!(keys_of(&store, &["k1", "k2", "k3", "k4", "k5"]).await, [false, false, false, false, true]);
    let stored = store.process(&slug("a"), first.record.id).await.expect("the database answers").expect("it is there");
    assert_eq!(stored.record.version, 1, "the row is as it was");
}

async fn a_group_with_the_key_of_an_earlier_group_is_answered_after_it(database: &Database) {
    let store = database.store().await;
    let groups = vec![vec![pure("a", "k1")], vec![pure("a", "k2"), pure("a", "k1")], vec![pure("a", "k3")]];
    let answers = store.commit_groups(groups).await.expect("the database answers");
    assert_eq!(answers_of(&answers), [vec!["stored"], vec!["stale", "repeated"], vec!["stored"]]);
    assert_eq!(keys_of(&store, &["k1", "k2", "k3"]).await, [true, false, true]);
}

async fn a_group_that_breaks_a_constraint_does_not_sink_its_batch(database: &Database) {
    let store = database.store().await;
    let instance = community(&store, "a").await.id;
    let fine = process("a", instance, chrono::Utc::now());
    // The plugin is enabled already.
    let second = Change::InsertInstance(new_instance("a", None));
    let bad = vec![pure("a", "k1"), Unit { changes: vec![second], ..pure("a", "k2") }];
    let good = vec![pure("a", "k3"), Unit { changes: vec![insert(&fine)], ..pure("a", "k4") }];
    let answers = store.commit_groups(vec![bad, good]).await.expect("the database answers");
    assert_eq!(answers_of(&answers), [vec!["stale", "stale"], vec!["stored", "stored"]]);
    assert_eq!(keys_of(&store, &["k1", "k2", "k3", "k4"]).await, [false, false, true, true]);
}
