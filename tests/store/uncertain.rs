//! Uncertain runs: listed, decided once, and gone from the list.

use std::time::Duration;

use metagov::store::{
    Begun, Change, Decided, Decision, KeptCommand, RunStatus, RunVerdict, Store, UncertainFilter, UncertainRun,
};
use serde_json::json;
use uuid::Uuid;

use crate::{
    database::{Database, on_both},
    sample::{attempt, changing, community, entry, fence, message_id, name, pure, slug},
};

on_both!(
    what_ends_as_uncertain_is_listed_with_its_command,
    of_many_decisions_one_counts,
    a_run_that_is_run_again_is_open_until_its_command_is_out,
    the_runs_of_a_community_go_with_it,
);

async fn uncertain(store: &Store, community: &str, key: &str) -> Uuid {
    let begun = store.begin_attempt(&entry(community, key, 1), &attempt(), fence(), Duration::from_mins(1)).await;
    let Ok(Begun::Fresh { fence }) = begun else { panic!("{begun:?}") };
    assert!(store.save_step(&entry(community, key, 1), fence, "post", &json!(1)).await.expect("the database answers"));
    let mut unit = pure(community, key);
    unit.fence = Some(fence);
    let run = unit.run.as_mut().expect("a run");
    run.status = RunStatus::Uncertain;
    run.command = Some(KeptCommand { correlation_id: Some("c".into()), body: json!({"community": community}) });
    store.commit(vec![unit]).await.expect("the database answers");
    let runs = store.uncertain_runs(UncertainFilter { limit: 100, ..UncertainFilter::default() }).await;
    let runs = runs.expect("the database answers");
    runs.iter().find(|run| run.message_id == Some(message_id(key))).expect("it is listed").id
}

async fn run(store: &Store, id: Uuid) -> UncertainRun {
    store.uncertain_run(id).await.expect("the database answers").expect("it is there")
}

async fn decide(store: &Store, id: Uuid, verdict: RunVerdict, by: &str) -> Decided {
    let at = store.now().await.expect("the clock");
    let decision = Decision { verdict, by: by.into(), note: Some("seen".into()), at, is_carried_out: false };
    store.decide(id, &decision).await.expect("the database answers")
}

async fn count(store: &Store, filter: UncertainFilter) -> usize {
    store.uncertain_runs(UncertainFilter { limit: 100, ..filter }).await.expect("the database answers").len()
}

async fn what_ends_as_uncertain_is_listed_with_its_command(database: &Database) {
    let store = database.store().await;
    store.commit(vec![pure("a", "fine")]).await.expect("the database answers");
    let id = uncertain(&store, "a", "one").await;
    uncertain(&store, "b", "two").await;
    let one = run(&store, id).await;
    assert_eq!((one.community.as_str(), one.action.as_str()), ("a", "random-int"));
    assert_eq!((one.command, one.correlation_id.as_deref()), (Some(json!({"community": "a"})), Some("c")));
    assert_eq!(one.decision, None);
    let all = UncertainFilter::default;
    assert_eq!(count(&store, all()).await, 2);
    assert_eq!(count(&store, UncertainFilter { community: Some(slug("a")), ..all() }).await, 1);
    assert_eq!(count(&store, UncertainFilter { plugin: Some(name("randomness")), ..all() }).await, 2);
    assert_eq!(count(&store, UncertainFilter { plugin: Some(name("other")), ..all() }).await, 0);
    assert_eq!(count(&store, UncertainFilter { since: Some(one.at), ..all() }).await, 2);
    let later = store.now().await.expect("the clock") + Duration::from_secs(1);
    assert_eq!(count(&store, UncertainFilter { since: Some(later), ..all() }).await, 0);
}

async fn of_many_decisions_one_counts(database: &Database) {
    let store = database.store().await;
    let id = uncertain(&store, "a", "k").await;
    let decisions = (0..8).map(|n| {
        let verdict = if n % 2 == 0 { RunVerdict::Done(Some(json!(n))) } else { RunVerdict::RunAgain };
        let store = store.clone();
        async move { decide(&store, id, verdict, &format!("operator {n}")).await }
    });
    let decided = futures::future::join_all(decisions).await;
    assert_eq!(decided.iter().filter(|decided| **decided == Decided::Kept).count(), 1, "{decided:?}");
    let kept = run(&store, id).await.decision.expect("a decision");
    for decided in decided {
        assert!(decided == Decided::Kept || decided == Decided::Before(kept.clone()), "{decided:?} {kept:?}");
    }
    assert_eq!(decide(&store, Uuid::new_v4(), RunVerdict::RunAgain, "x").await, Decided::NotUncertain(None));
}

async fn a_run_that_is_run_again_is_open_until_its_command_is_out(database: &Database) {
    let store = database.store().await;
    let id = uncertain(&store, "a", "k").await;
    assert_eq!(decide(&store, id, RunVerdict::RunAgain, "ada").await, Decided::Kept);
    assert_eq!(count(&store, UncertainFilter::default()).await, 1);
    store.note_run_again(id).await.expect("the database answers");
    assert_eq!(count(&store, UncertainFilter::default()).await, 0);
    let run = run(&store, id).await;
    let decision = run.decision.clone().expect("a decision");
    assert!(decision.is_carried_out && decision.by == "ada" && decision.note.as_deref() == Some("seen"));
    // Its steps wait for the command that goes on.
    let steps = |key| {
        let store = store.clone();
        async move { store.steps(&slug("a"), &key).await.expect("the database answers").len() }
    };
    assert_eq!((steps(message_id("k")).await, steps(run.next_message_id()).await), (0, 1));
}

async fn the_runs_of_a_community_go_with_it(database: &Database) {
    let store = database.store().await;
    community(&store, "a").await;
    uncertain(&store, "a", "k").await;
    uncertain(&store, "b", "l").await;
    let delete = changing(vec![Change::DeleteCommunity { slug: slug("a"), expected: 1 }]);
    store.commit(vec![delete]).await.expect("the database answers");
    assert_eq!(count(&store, UncertainFilter::default()).await, 1);
}
