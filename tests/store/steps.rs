//! Steps: kept under the fence of their attempt, gone with the end of their command.

use std::time::Duration;

use metagov::store::{Begun, Change, Committed, Keep, KeptStep, RunStatus, Store};
use serde_json::{Value, json};

use crate::{
    database::{Database, on_both},
    sample::{attempt, changing, community, entry, fence, message_id, pure, slug},
};

on_both!(
    a_step_is_kept_for_the_next_attempt_and_only_for_that_command,
    a_worker_that_lost_its_fence_keeps_nothing,
    steps_go_with_the_commit_that_ends_their_command,
    steps_of_an_uncertain_run_stay,
    a_refused_command_leaves_no_step,
    steps_and_commits_of_the_same_keys_do_not_block_each_other,
    steps_outlive_their_community_until_their_command_ends,
);

const LEASE: Duration = Duration::from_mins(1);

async fn begin(store: &Store, key: &str, lease: Duration) -> i64 {
    match store.begin_attempt(&entry("a", key, 1), &attempt(), fence(), lease).await.expect("the database answers") {
        Begun::Fresh { fence } | Begun::Again { fence, .. } => fence,
        other => panic!("{other:?}"),
    }
}

async fn save(store: &Store, key: &str, fence: i64, name: &str, result: &Value) -> bool {
    store.save_step(&entry("a", key, 1), fence, name, result).await.expect("the database answers")
}

async fn step(store: &Store, key: &str, fence: i64, name: &str) -> KeptStep {
    store.step(&entry("a", key, 1), fence, name).await.expect("the database answers")
}

async fn names(store: &Store, key: &str) -> Vec<String> {
    let steps = store.steps(&slug("a"), &message_id(key)).await.expect("the database answers");
    steps.into_iter().map(|(name, _)| name).collect()
}

async fn a_step_is_kept_for_the_next_attempt_and_only_for_that_command(database: &Database) {
    let store = database.store().await;
    let (one, two) = (begin(&store, "one", Duration::ZERO).await, begin(&store, "two", LEASE).await);
    assert_eq!(step(&store, "one", one, "post").await, KeptStep::Unfinished);
    assert!(save(&store, "one", one, "post", &json!({"id": "\u{0}7"})).await);
    assert!(save(&store, "one", one, "post", &json!("again")).await, "whoever lost the answer may ask again");
    let again = begin(&store, "one", LEASE).await;
    assert_eq!(step(&store, "one", again, "post").await, KeptStep::Finished(json!({"id": "\u{0}7"})));
    assert_eq!(step(&store, "one", again, "pin").await, KeptStep::Unfinished);
    assert_eq!(step(&store, "two", two, "post").await, KeptStep::Unfinished);
}

async fn a_worker_that_lost_its_fence_keeps_nothing(database: &Database) {
    let store = database.store().await;
    let lost = begin(&store, "k", Duration::ZERO).await;
    let ours = begin(&store, "k", LEASE).await;
    assert!(!save(&store, "k", lost, "post", &json!(1)).await);
    assert_eq!(step(&store, "k", lost, "post").await, KeptStep::LostFence);
    assert_eq!(step(&store, "k", ours, "post").await, KeptStep::Unfinished);
    let mut unit = pure("a", "k");
    unit.fence = Some(ours);
    store.commit(vec![unit]).await.expect("the database answers");
    assert!(!save(&store, "k", ours, "post", &json!(1)).await, "what is finished is nobody's any more");
    assert_eq!(step(&store, "k", ours, "post").await, KeptStep::LostFence);
    assert!(!save(&store, "unknown", 1, "post", &json!(1)).await);
    assert_eq!(names(&store, "k").await, [""; 0]);
}

async fn steps_go_with_the_commit_that_ends_their_command(database: &Database) {
    let store = database.store().await;
    let (ended, open) = (begin(&store, "ended", LEASE).await, begin(&store, "open", LEASE).await);
    for name in ["post", "pin"] {
        assert!(save(&store, "ended", ended, name, &json!(1)).await);
        assert!(save(&store, "open", open, name, &json!(1)).await);
    }
    let mut unit = pure("a", "ended");
    unit.fence = Some(ended);
    let answers = store.commit(vec![unit, pure("a", "other")]).await.expect("the database answers");
    assert!(matches!(answers[..], [Committed::Stored, Committed::Stored]), "{answers:?}");
    assert_eq!(names(&store, "ended").await, [""; 0]);
    assert_eq!(names(&store, "open").await.len(), 2);
    store.release_attempt(&entry("a", "open", 1), open, Keep::ForRetry).await.expect("the database answers");
    assert_eq!(names(&store, "open").await.len(), 2, "a retry needs them");
}

async fn steps_of_an_uncertain_run_stay(database: &Database) {
    let store = database.store().await;
    let fence = begin(&store, "k", LEASE).await;
    assert!(save(&store, "k", fence, "post", &json!(1)).await);
    let mut unit = pure("a", "k");
    unit.fence = Some(fence);
    unit.run.as_mut().expect("a run").status = RunStatus::Uncertain;
    store.commit(vec![unit]).await.expect("the database answers");
    assert_eq!(names(&store, "k").await, ["post"]);
}

async fn a_refused_command_leaves_no_step(database: &Database) {
    let store = database.store().await;
    let lost = begin(&store, "k", Duration::ZERO).await;
    assert!(save(&store, "k", lost, "post", &json!(1)).await);
    let ours = begin(&store, "k", LEASE).await;
    store.release_attempt(&entry("a", "k", 1), lost, Keep::Nothing).await.expect("the database answers");
    assert_eq!(names(&store, "k").await, ["post"], "the dead one has no say any more");
    store.release_attempt(&entry("a", "k", 1), ours, Keep::Nothing).await.expect("the database answers");
    assert_eq!(names(&store, "k").await, [""; 0]);
}

async fn steps_and_commits_of_the_same_keys_do_not_block_each_other(database: &Database) {
    let store = database.store().await;
    let keys: Vec<String> = (0..12).map(|n| format!("k{n:02}")).collect();
    for round in 1..=4 {
        let mut fences = Vec::new();
        for key in &keys {
            fences.push(begin(&store, &format!("{key}-{round}"), LEASE).await);
        }
        let key = |n: usize| format!("{}-{round}", keys[n]);
        let saves = (0..keys.len()).rev().map(|n| {
            let (store, key, fence) = (store.clone(), key(n), fences[n]);
            async move { save(&store, &key, fence, "post", &json!(n)).await }
        });
        let units = (0..keys.len()).map(|n| {
            let mut unit = pure("a", &key(n));
            unit.fence = Some(fences[n]);
            unit
        });
        let both = futures::future::join(futures::future::join_all(saves), store.commit(units.collect()));
        let (_, committed) = tokio::time::timeout(Duration::from_mins(2), both).await.expect("nobody waits for ever");
        let committed = committed.expect("the database answers");
        assert!(committed.iter().all(|committed| matches!(committed, Committed::Stored)), "{committed:?}");
        for n in 0..keys.len() {
            assert_eq!(names(&store, &key(n)).await, [""; 0], "no step is left behind by a save beside the commit");
        }
    }
}

async fn steps_outlive_their_community_until_their_command_ends(database: &Database) {
    let store = database.store().await;
    community(&store, "a").await;
    let fence = begin(&store, "k", LEASE).await;
    assert!(save(&store, "k", fence, "post", &json!(1)).await);
    let delete = changing(vec![Change::DeleteCommunity { slug: slug("a"), expected: 1 }]);
    let answers = store.commit(vec![delete]).await.expect("the database answers");
    assert!(matches!(answers[..], [Committed::Stored]), "{answers:?}");
    assert_eq!(step(&store, "k", fence, "post").await, KeptStep::Finished(json!(1)));
    store.release_attempt(&entry("a", "k", 1), fence, Keep::Nothing).await.expect("the database answers");
    assert_eq!(names(&store, "k").await, [""; 0]);
}
