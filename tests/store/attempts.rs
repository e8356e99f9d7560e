//! Attempts: what is known of an action that must not simply be repeated.

use std::time::Duration;

use metagov::store::{AttemptStatus, AttemptView, Begun, Committed, Keep, NewAttempt, RunStatus, Store, Unit};

use crate::{
    database::{Database, on_both},
    sample::{attempt, entry, fence, message_id, pure, slug},
};

on_both!(
    a_second_worker_learns_that_an_attempt_is_running,
    an_attempt_whose_worker_died_is_taken_over_after_its_lease,
    an_attempt_that_gave_up_for_a_retry_may_begin_again_at_once,
    an_attempt_that_lost_a_race_does_not_count,
    a_command_with_nothing_to_do_leaves_its_key_free,
    a_finished_attempt_answers_with_its_events,
    another_body_under_the_key_of_an_attempt_is_a_conflict,
    of_many_workers_one_attempts,
    who_was_not_told_that_its_attempt_had_begun_is_told_so,
    a_retry_of_a_repeatable_action_is_visible_and_takes_no_key,
    the_start_of_a_process_leaves_no_run,
    a_lease_from_before_a_clock_jumped_back_ends_as_if_taken_now,
);

const LEASE: Duration = Duration::from_mins(1);

async fn begin(store: &Store, key: &str, lease: Duration) -> Begun {
    store.begin_attempt(&entry("a", key, 1), &attempt(), fence(), lease).await.expect("the database answers")
}

/// The fence of the first attempt.
async fn begin_fresh(store: &Store, key: &str, lease: Duration) -> i64 {
    let begun = begin(store, key, lease).await;
    let Begun::Fresh { fence } = begun else { panic!("{begun:?}") };
    fence
}

async fn view(store: &Store, key: &str) -> Option<(u32, AttemptStatus)> {
    let view = store.attempts(&slug("a"), &message_id(key)).await.expect("the database answers");
    view.map(|AttemptView { attempts, status }| (attempts, status))
}

async fn a_second_worker_learns_that_an_attempt_is_running(database: &Database) {
    let store = database.store().await;
    let before = store.now().await.expect("the clock");
    begin_fresh(&store, "k", LEASE).await;
    let Begun::Running { until } = begin(&store, "k", LEASE).await else { panic!("it must be running") };
    assert!(until >= before + LEASE && until <= store.now().await.expect("the clock") + LEASE);
    assert_eq!(view(&store, "k").await, Some((1, AttemptStatus::Running)));
    assert_eq!(view(&store, "other").await, None);
}

async fn an_attempt_whose_worker_died_is_taken_over_after_its_lease(database: &Database) {
    let store = database.store().await;
    let dead = begin_fresh(&store, "k", Duration::ZERO).await;
    assert!(matches!(begin(&store, "k", LEASE).await, Begun::Again { attempts: 2, died: true, .. }));
    assert!(matches!(begin(&store, "k", LEASE).await, Begun::Running { .. }));
    for keep in [Keep::Nothing, Keep::ForRetry] {
        let released = store.release_attempt(&entry("a", "k", 1), dead, keep).await.expect("the database answers");
        assert!(!released, "{keep:?}: whatever the dead one decides is dropped");
    }
    assert!(matches!(begin(&store, "k", LEASE).await, Begun::Running { .. }), "the dead one has no say any more");
    assert_eq!(view(&store, "k").await, Some((2, AttemptStatus::Running)));
}

async fn an_attempt_that_gave_up_for_a_retry_may_begin_again_at_once(database: &Database) {
    let store = database.store().await;
    let first = begin_fresh(&store, "k", LEASE).await;
    store.release_attempt(&entry("a", "k", 1), first, Keep::ForRetry).await.expect("the database answers");
    assert_eq!(view(&store, "k").await, Some((1, AttemptStatus::Retrying)));
    assert!(matches!(begin(&store, "k", LEASE).await, Begun::Again { attempts: 2, died: false, .. }));
    assert_eq!(view(&store, "k").await, Some((2, AttemptStatus::Running)));
}

async fn a_command_with_nothing_to_do_leaves_its_key_free(database: &Database) {
    let store = database.store().await;
    let idle = begin_fresh(&store, "k", LEASE).await;
    let release = || async {
        store.release_attempt(&entry("a", "k", 1), idle, Keep::Nothing).await.expect("the database answers")
    };
    assert!(release().await, "it was ours");
    assert_eq!(view(&store, "k").await, None);
    assert!(store.seen(&slug("a"), &message_id("k")).await.expect("the database answers").is_none());
    begin_fresh(&store, "k", LEASE).await;
    assert!(!release().await, "it is somebody else's");
    let running = Some((1, AttemptStatus::Running));
    assert_eq!(view(&store, "k").await, running, "who was not told that it gave up does not give up the next one");
}

async fn an_attempt_that_lost_a_race_does_not_count(database: &Database) {
    let store = database.store().await;
    let first = begin_fresh(&store, "k", LEASE).await;
    store.release_attempt(&entry("a", "k", 1), first, Keep::ForRerun).await.expect("the database answers");
    let Begun::Again { fence, attempts, died } = begin(&store, "k", LEASE).await else { panic!("it may begin again") };
    assert_eq!((attempts, died), (1, false), "it is the first still");
    store.release_attempt(&entry("a", "k", 1), fence, Keep::ForRetry).await.expect("the database answers");
    let again = begin(&store, "k", LEASE).await;
    assert!(matches!(again, Begun::Again { attempts: 2, died: false, .. }), "a retry counts: {again:?}");
}

async fn a_finished_attempt_answers_with_its_events(database: &Database) {
    let store = database.store().await;
    let mut unit = pure("a", "k");
    let fence = begin_fresh(&store, "k", LEASE).await;
    unit.fence = Some(fence);
    unit.run.as_mut().expect("a run").status = RunStatus::Uncertain;
    let answers = store.commit(vec![unit.clone()]).await.expect("the database answers");
    assert!(matches!(answers[..], [Committed::Stored]), "{answers:?}");
    let Begun::Finished(events) = begin(&store, "k", LEASE).await else { panic!("it must be finished") };
    assert_eq!(events, unit.events);
    assert_eq!(view(&store, "k").await, Some((1, AttemptStatus::Uncertain)));
    store.release_attempt(&entry("a", "k", 1), fence, Keep::Nothing).await.expect("the database answers");
    assert!(matches!(begin(&store, "k", LEASE).await, Begun::Finished(_)), "what is finished stays");
}

async fn another_body_under_the_key_of_an_attempt_is_a_conflict(database: &Database) {
    let store = database.store().await;
    begin(&store, "k", LEASE).await;
    let other =
        store.begin_attempt(&entry("a", "k", 2), &attempt(), fence(), LEASE).await.expect("the database answers");
    assert!(matches!(other, Begun::Conflict));
}

async fn of_many_workers_one_attempts(database: &Database) {
    let (one, two) = (database.store().await, database.store().await);
    let begins = (0..16).map(|n| {
        let store = if n % 2 == 0 { &one } else { &two };
        begin(store, "k", LEASE)
    });
    let begun = futures::future::join_all(begins).await;
    let fresh = begun.iter().filter(|begun| matches!(begun, Begun::Fresh { .. })).count();
    let running = begun.iter().filter(|begun| matches!(begun, Begun::Running { .. })).count();
    assert_eq!((fresh, running), (1, 15), "{begun:?}");
}

async fn who_was_not_told_that_its_attempt_had_begun_is_told_so(database: &Database) {
    let store = database.store().await;
    let (one, two, again) = (fence(), fence(), fence());
    let ask = |fence, lease| {
        let store = store.clone();
        async move {
            store.begin_attempt(&entry("a", "k", 1), &attempt(), fence, lease).await.expect("the database answers")
        }
    };
    for _ in 0..2 {
        assert!(matches!(ask(one, LEASE).await, Begun::Fresh { fence } if fence == one));
        assert!(matches!(ask(two, LEASE).await, Begun::Running { .. }), "it is nobody else's");
    }
    let before = store.now().await.expect("the clock");
    assert!(matches!(ask(one, LEASE).await, Begun::Fresh { .. }));
    let Begun::Running { until } = ask(two, LEASE).await else { panic!("it must be running") };
    assert!(until >= before + LEASE, "its lease begins anew");
    assert_eq!(view(&store, "k").await, Some((1, AttemptStatus::Running)));

    store.release_attempt(&entry("a", "k", 1), one, Keep::ForRetry).await.expect("the database answers");
    for _ in 0..2 {
        let begun = ask(two, Duration::ZERO).await;
        assert!(matches!(begun, Begun::Again { fence, attempts: 2, died: false } if fence == two), "{begun:?}");
    }
    for _ in 0..2 {
        let begun = ask(again, LEASE).await;
        assert!(matches!(begun, Begun::Again { fence, attempts: 3, died: true } if fence == again), "{begun:?}");
    }
    assert_eq!(view(&store, "k").await, Some((3, AttemptStatus::Running)));
}

async fn a_retry_of_a_repeatable_action_is_visible_and_takes_no_key(database: &Database) {
    let store = database.store().await;
    for attempts in 1..=2 {
        store.note_retry(&entry("a", "k", 1), &attempt(), attempts).await.expect("the database answers");
        assert_eq!(view(&store, "k").await, Some((attempts, AttemptStatus::Retrying)));
    }
    assert!(store.seen(&slug("a"), &message_id("k")).await.expect("the database answers").is_none());

    let mut unit = pure("a", "k");
    unit.run.as_mut().expect("a run").attempts = 3;
    let answers = store.commit(vec![unit]).await.expect("the database answers");
    assert!(matches!(answers[..], [Committed::Stored]), "{answers:?}");
    assert_eq!(view(&store, "k").await, Some((3, AttemptStatus::Completed)));
    store.note_retry(&entry("a", "k", 1), &attempt(), 9).await.expect("the database answers");
    assert_eq!(view(&store, "k").await, Some((3, AttemptStatus::Completed)), "what has ended stays");
}

async fn the_start_of_a_process_leaves_no_run(database: &Database) {
    let store = database.store().await;
    let start = NewAttempt { action: None, ..attempt() };
    let begun = store.begin_attempt(&entry("a", "k", 1), &start, fence(), LEASE).await.expect("the database answers");
    let Begun::Fresh { fence: first } = begun else { panic!("{begun:?}") };
    assert_eq!(view(&store, "k").await, Some((1, AttemptStatus::Running)));
    store.release_attempt(&entry("a", "k", 1), first, Keep::ForRetry).await.expect("the database answers");
    assert_eq!(view(&store, "k").await, Some((1, AttemptStatus::Retrying)));
    let again = store.begin_attempt(&entry("a", "k", 1), &start, fence(), LEASE).await.expect("the database answers");
    let Begun::Again { fence: second, .. } = again else { panic!("{again:?}") };
    let unit = Unit { fence: Some(second), run: None, ..pure("a", "k") };
    store.commit(vec![unit]).await.expect("the database answers");
    assert_eq!(view(&store, "k").await, Some((2, AttemptStatus::Completed)));
}

async fn a_lease_from_before_a_clock_jumped_back_ends_as_if_taken_now(database: &Database) {
    let store = database.store().await;
    begin(&store, "k", LEASE).await;
    let before = store.now().await.expect("the clock");
    database.set_time("inbox", "lease_until", "message_id = 'k'", before + Duration::from_hours(1)).await;
    for _ in 0..2 {
        let Begun::Running { until } = begin(&store, "k", LEASE).await else { panic!("its worker may be alive") };
        assert!(until >= before + LEASE && until <= store.now().await.expect("the clock") + LEASE, "{until}");
    }
    assert!(matches!(begin(&store, "k", Duration::ZERO).await, Begun::Running { .. }), "what is left counts");
}
