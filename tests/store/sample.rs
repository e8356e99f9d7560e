//! Units and rows to tell stories with.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use metagov::store::{
    ActionRun, Change, InboxEntry, InstanceVersion, NewAttempt, NewInstance, OutboxEvent, Process, RunStatus, Store,
    Unit,
};
use metagov::vault::SealedConfig;
use metagov_sdk::contract::{CommunitySlug, MessageId, Name, ProcessRecord, ProcessStatus, Timestamp};
use serde_json::json;
use uuid::Uuid;

pub(crate) fn slug(text: &str) -> CommunitySlug {
    text.parse().expect("a slug")
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

pub(crate) fn message_id(text: &str) -> MessageId {
    text.parse().expect("a message id")
}

pub(crate) fn entry(community: &str, key: &str, fingerprint: u8) -> InboxEntry {
    InboxEntry {
        community: slug(community),
        message_id: message_id(key),
        fingerprint: [fingerprint; 32],
        routing_key: "action.randomness.random-int".into(),
    }
}

pub(crate) fn event(community: &str, key: &str, body: &str) -> OutboxEvent {
    OutboxEvent {
        id: Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{community}/{key}/{body}").as_bytes()),
        community: slug(community),
        plugin: "randomness".into(),
        routing_key: format!("{community}.randomness.action.random-int.completed"),
        event_type: "org.metagov.action.completed".into(),
        body: body.into(),
        correlation_id: Some("c-1".into()),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        causation_id: Some(key.into()),
        process_id: None,
        sequence: None,
        last: true,
    }
}

/// What a pure action writes: key, run, event.
pub(crate) fn pure(community: &str, key: &str) -> Unit {
    let event = event(community, key, &format!(r#"{{"key":"{key}"}}"#));
    Unit {
        inbox: Some(entry(community, key, 1)),
        run: Some(ActionRun {
            id: Uuid::new_v4(),
            community: slug(community),
            message_id: Some(message_id(key)),
            plugin: name("randomness"),
            action: name("random-int"),
            effect: "pure",
            status: RunStatus::Completed,
            attempts: 1,
            event_id: event.id,
            initiator: Some(json!({"user_id": "u", "provider": "p"})),
            command: None,
        }),
        events: vec![event],
        ..Unit::default()
    }
}

pub(crate) fn attempt() -> NewAttempt {
    NewAttempt {
        run_id: Uuid::new_v4(),
        plugin: name("randomness"),
        action: Some(name("set-lucky-number")),
        effect: "keyed",
        initiator: None,
    }
}

/// A fence that no other attempt has.
pub(crate) fn fence() -> i64 {
    static NEXT: AtomicI64 = AtomicI64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn new_instance(community: &str, tick_every: Option<Duration>) -> NewInstance {
    NewInstance {
        id: Uuid::new_v4(),
        community: slug(community),
        plugin: name("randomness"),
        platform_id: None,
        config: config(&json!({"low": 1, "high": 6})),
        state: None,
        created_at: chrono::Utc::now(),
        tick_every,
    }
}

/// A community with the plugin enabled in it, both in their first version.
pub(crate) async fn community(store: &Store, community: &str) -> InstanceVersion {
    community_with(store, community, new_instance(community, None)).await
}

pub(crate) async fn community_with(store: &Store, community: &str, instance: NewInstance) -> InstanceVersion {
    let id = instance.id;
    let changes = vec![
        Change::InsertInstance(instance),
        Change::InsertCommunity { slug: slug(community), readable_name: Some("A community".into()) },
    ];
    let answers = store.commit(vec![changing(changes)]).await.expect("the community can be made");
    assert!(matches!(answers[..], [metagov::store::Committed::Stored]), "{answers:?}");
    InstanceVersion { id, version: Some(1) }
}

/// A config as it stands in a row.
pub(crate) fn config(value: &serde_json::Value) -> SealedConfig {
    serde_json::from_value(value.clone()).expect("every value may stand in a row")
}

/// A unit that changes and nothing else.
pub(crate) fn changing(changes: Vec<Change>) -> Unit {
    Unit { changes, ..Unit::default() }
}

pub(crate) fn process(community: &str, instance: Uuid, now: Timestamp) -> Process {
    Process {
        record: ProcessRecord {
            id: Uuid::new_v4(),
            name: "randomness.delayed-stochastic-vote".into(),
            community: slug(community),
            community_platform_id: None,
            status: ProcessStatus::Pending,
            url: Some("https://example.org/vote".into()),
            parameters: json!({"options": ["a", "b"]}),
            outcome: json!(null),
            errors: vec![],
            problem: None,
            initiator: None,
            callback_url: None,
            version: 1,
            created_at: now,
            updated_at: now,
            closes_at: None,
            closed_at: None,
        },
        plugin: name("randomness"),
        process: name("delayed-stochastic-vote"),
        instance_id: instance,
        state: json!({"seed": 7}),
        poll_every: None,
        webhook_key: None,
        correlation_id: Some("c-1".into()),
    }
}

/// The same process one version on.
pub(crate) fn moved_on(process: &Process) -> Process {
    let mut process = process.clone();
    process.record.version += 1;
    process
}

pub(crate) fn insert(process: &Process) -> Change {
    Change::InsertProcess(Box::new(process.clone()))
}

pub(crate) fn update(process: &Process, expected: i64) -> Change {
    Change::UpdateProcess { process: Box::new(process.clone()), expected }
}
