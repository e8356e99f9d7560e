//! Governance processes: what goes in comes out, and is found.

use std::time::Duration;

use metagov::store::{Committed, ProcessFilter, Store, Unit};
use metagov_sdk::contract::{Initiator, Problem, ProblemKind, ProcessStatus};
use serde_json::json;

use crate::{
    database::{Database, on_both},
    sample::{changing, community, insert, moved_on, name, process, slug, update},
};

on_both!(
    a_process_comes_back_as_it_was_stored,
    two_communities_may_choose_the_same_id,
    processes_are_listed_by_what_is_asked_for,
    a_webhook_finds_the_open_processes_it_is_about,
    what_has_ended_never_changes_again,
);

async fn commit_one(store: &Store, unit: Unit) -> Committed {
    store.commit(vec![unit]).await.expect("the database answers").remove(0)
}

async fn a_process_comes_back_as_it_was_stored(database: &Database) {
    let store = database.store().await;
    let saw = community(&store, "a").await;
    let now = store.now().await.expect("the clock");
    let mut full = process("a", saw.id, now);
    full.record.community_platform_id = Some("T1".into());
    full.record.parameters = json!({"text": "nul \u{0} and ünïcode", "big": 9_007_199_254_740_993_u64, "f": 0.1});
    full.record.outcome = json!({"votes": {"a": 1}});
    // A newer version beside this one knows kinds that this one does not.
    let later = json!({"type": "https://metagov.org/problems/later", "title": "T", "status": 418, "detail": "d"});
    let later = serde_json::from_value(later).expect("it is a problem");
    full.record.errors = vec![Problem::new(ProblemKind::PlatformError, "it was away"), later];
    full.record.initiator =
        Some(Initiator { user_id: "u".into(), provider: "slack".into(), more: serde_json::Map::new() });
    full.record.callback_url = Some("https://example.org/callback".into());
    full.record.closes_at = Some(now + Duration::from_mins(10));
    full.poll_every = Some(Duration::from_millis(1500));
    full.webhook_key = Some("poll/7".into());
    commit_one(&store, changing(vec![insert(&full)])).await;
    let stored = store.process(&slug("a"), full.record.id).await.expect("the database answers");
    assert_eq!(stored, Some(full.clone()));

    let mut ended = moved_on(&full);
    ended.record.status = ProcessStatus::Failed;
    ended.record.problem = Some(Problem::new(ProblemKind::Timeout, "it took too long"));
    ended.record.closed_at = Some(now + Duration::from_secs(1));
    ended.record.url = None;
    ended.state = json!(null);
    commit_one(&store, changing(vec![update(&ended, 1)])).await;
    let stored = store.process(&slug("a"), full.record.id).await.expect("the database answers");
    assert_eq!(stored, Some(ended));
}

async fn two_communities_may_choose_the_same_id(database: &Database) {
    let store = database.store().await;
    let now = store.now().await.expect("the clock");
    let (a, b) = (community(&store, "a").await, community(&store, "b").await);
    let first = process("a", a.id, now);
    let mut second = process("b", b.id, now);
    second.record.id = first.record.id;
    let answers = store.commit(vec![changing(vec![insert(&first)]), changing(vec![insert(&second)])]).await;
    let answers = answers.expect("the database answers");
    assert!(matches!(answers[..], [Committed::Stored, Committed::Stored]), "{answers:?}");
    assert_eq!(store.process(&slug("b"), first.record.id).await.expect("the database answers"), Some(second));
    assert_eq!(store.process(&slug("c"), first.record.id).await.expect("the database answers"), None);
}

async fn processes_are_listed_by_what_is_asked_for(database: &Database) {
    let store = database.store().await;
    let saw = community(&store, "a").await;
    let now = store.now().await.expect("the clock");
    let mut changes = Vec::new();
    for age in 0..6_u32 {
        let mut process = process("a", saw.id, now - Duration::from_mins(1) * age);
        if age % 2 == 1 {
            process.record.status = ProcessStatus::Completed;
        }
        if age >= 4 {
            process.process = name("other");
        }
        process.state = json!(age);
        changes.push(insert(&process));
    }
    commit_one(&store, changing(changes)).await;
    let ages = |filter| {
        let store = store.clone();
        async move {
            let found = store.processes(&slug("a"), filter).await.expect("the database answers");
            found.iter().map(|process| process.state.as_u64().expect("an age")).collect::<Vec<_>>()
        }
    };
    let all = ProcessFilter::default();
    assert_eq!(ages(all.clone()).await, [0, 1, 2, 3, 4, 5], "the newest first");
    assert_eq!(ages(ProcessFilter { limit: 2, ..all.clone() }).await, [0, 1]);
    assert_eq!(ages(ProcessFilter { status: Some(ProcessStatus::Completed), ..all.clone() }).await, [1, 3, 5]);
    assert_eq!(ages(ProcessFilter { name: Some(name("other")), ..all.clone() }).await, [4, 5]);
    assert_eq!(ages(ProcessFilter { plugin: Some(name("other")), ..all }).await, [0; 0]);
}

async fn a_webhook_finds_the_open_processes_it_is_about(database: &Database) {
    let store = database.store().await;
    let saw = community(&store, "a").await;
    let now = store.now().await.expect("the clock");
    let keyed = |key: Option<&str>, status| {
        let mut process = process("a", saw.id, now);
        process.webhook_key = key.map(str::to_owned);
        process.record.status = status;
        process
    };
    let created = keyed(Some("7"), ProcessStatus::Created);
    let pending = keyed(None, ProcessStatus::Pending);
    let ended = keyed(Some("7"), ProcessStatus::Completed);
    commit_one(&store, changing(vec![insert(&created), insert(&pending), insert(&ended)])).await;
    let about = store.open_processes(&slug("a"), saw.id, Some("7")).await.expect("the database answers");
    assert_eq!(about, [created]);
    assert_eq!(store.open_processes(&slug("a"), saw.id, None).await.expect("the database answers").len(), 2);
    assert!(store.open_processes(&slug("b"), saw.id, None).await.expect("the database answers").is_empty());
}

async fn what_has_ended_never_changes_again(database: &Database) {
    let store = database.store().await;
    let saw = community(&store, "a").await;
    let mut ended = process("a", saw.id, store.now().await.expect("the clock"));
    ended.record.status = ProcessStatus::Completed;
    commit_one(&store, changing(vec![insert(&ended)])).await;
    let mut reopened = moved_on(&ended);
    reopened.record.status = ProcessStatus::Pending;
    assert!(matches!(commit_one(&store, changing(vec![update(&reopened, 1)])).await, Committed::Stale));
}
