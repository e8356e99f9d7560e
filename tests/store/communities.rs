//! Communities and the plugins enabled in them.

use std::time::Duration;

use metagov::store::{Change, Committed, Instance, InstanceVersion, NewInstance, ProcessFilter, Store, Unit};
use metagov::vault::SealedConfig;
use metagov_sdk::contract::ProcessStatus;
use sea_orm::{ConnectionTrait, Statement};
use serde_json::json;
use uuid::Uuid;

use crate::{
    database::{Database, on_both},
    sample::{changing, community, config, insert, moved_on, name, new_instance, process, pure, slug, update},
};

on_both!(
    a_community_is_created_changed_and_listed,
    a_deleted_community_leaves_its_inbox_and_events_only,
    an_instance_is_found_by_community_plugin_and_platform,
    a_new_config_keeps_the_state,
    a_config_is_sealed_anew_only_where_nothing_has_changed,
    a_plugin_is_disabled_only_when_its_processes_have_ended,
    a_process_is_never_left_behind_by_a_plugin_that_is_disabled_meanwhile,
    a_long_history_goes_in_parts_and_only_that_of_its_community,
);

async fn commit_one(store: &Store, unit: Unit) -> Committed {
    store.commit(vec![unit]).await.expect("the database answers").remove(0)
}

async fn a_community_is_created_changed_and_listed(database: &Database) {
    let store = database.store().await;
    for text in ["b", "a"] {
        let new = Change::InsertCommunity { slug: slug(text), readable_name: None };
        assert!(matches!(commit_one(&store, changing(vec![new])).await, Committed::Stored));
    }
    let again = Change::InsertCommunity { slug: slug("a"), readable_name: None };
    assert!(matches!(commit_one(&store, changing(vec![again])).await, Committed::Stale));
    let rename = |expected| Change::UpdateCommunity { slug: slug("a"), readable_name: Some("Ä".into()), expected };
    assert!(matches!(commit_one(&store, changing(vec![rename(2)])).await, Committed::Stale));
    assert!(matches!(commit_one(&store, changing(vec![rename(1)])).await, Committed::Stored));

    let all = store.communities(None, 100).await.expect("the database answers");
    assert_eq!(all.iter().map(|community| community.slug.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let one = store.community(&slug("a")).await.expect("the database answers").expect("it is there");
    assert_eq!((one.readable_name.as_deref(), one.version), (Some("Ä"), 2));
    assert!(one.updated_at > one.created_at);
    assert!(store.community(&slug("c")).await.expect("the database answers").is_none());
}

async fn a_deleted_community_leaves_its_inbox_and_events_only(database: &Database) {
    let store = database.store().await;
    let now = store.now().await.expect("the clock");
    for text in ["a", "b"] {
        let saw = community(&store, text).await;
        let open = Unit { changes: vec![insert(&process(text, saw.id, now))], ..pure(text, "start") };
        assert!(matches!(commit_one(&store, open).await, Committed::Stored));
    }
    let delete = |expected| Unit {
        changes: vec![Change::DeleteCommunity { slug: slug("a"), expected }],
        run: None,
        ..pure("a", "delete")
    };
    assert!(matches!(commit_one(&store, delete(7)).await, Committed::Stale));
    assert!(matches!(commit_one(&store, delete(1)).await, Committed::Stored));

    let left = |text: &'static str| {
        let store = store.clone();
        async move {
            (
                store.community(&slug(text)).await.expect("the database answers").is_some(),
                store.instances(&slug(text)).await.expect("the database answers").len(),
                store.processes(&slug(text), ProcessFilter::default()).await.expect("the database answers").len(),
                store
                    .events(&slug(text), &metagov::store::Selection::default(), None, 10)
                    .await
                    .expect("the database answers")
                    .len(),
            )
        }
    };
    assert_eq!(left("a").await, (false, 0, 0, 2));
    assert_eq!(left("b").await, (true, 1, 1, 1));
    assert!(matches!(commit_one(&store, pure("a", "start")).await, Committed::Repeated(_)));
}

async fn an_instance_is_found_by_community_plugin_and_platform(database: &Database) {
    let store = database.store().await;
    let first = community(&store, "a").await;
    community(&store, "b").await;
    let on_team = |community: &str, team: &str| {
        let platform_id = Some(team.to_owned());
        Change::InsertInstance(NewInstance { platform_id, plugin: name("slack"), ..new_instance(community, None) })
    };
    let more = vec![on_team("a", "T2"), on_team("a", "T1"), on_team("b", "T1")];
    assert!(matches!(commit_one(&store, changing(more)).await, Committed::Stored));
    assert!(matches!(commit_one(&store, changing(vec![on_team("a", "T1")])).await, Committed::Stale), "once only");
    assert!(matches!(commit_one(&store, changing(vec![on_team("nobody", "T1")])).await, Committed::Stale));

    assert_eq!(store.instances(&slug("a")).await.expect("the database answers").len(), 3);
    let teams = store.instances_of(&slug("a"), &name("slack")).await.expect("the database answers");
    assert_eq!(teams.iter().map(|team| team.platform_id.as_deref()).collect::<Vec<_>>(), [Some("T1"), Some("T2")]);
    let everywhere = store.instances_by_platform_id(&name("slack"), "T1").await.expect("the database answers");
    assert_eq!(everywhere.iter().map(|team| team.community.as_str()).collect::<Vec<_>>(), ["a", "b"]);

    let one = store.instance(&slug("a"), first.id).await.expect("the database answers").expect("it is there");
    assert_eq!((one.plugin, one.version, one.state), (name("randomness"), 1, None));
    assert!(store.instance(&slug("b"), first.id).await.expect("the database answers").is_none(), "not another's");
}

async fn a_new_config_keeps_the_state(database: &Database) {
    let store = database.store().await;
    let saw = community(&store, "a").await;
    let change = |expected, config: Option<SealedConfig>, state| {
        changing(vec![Change::UpdateInstance {
            updated_at: chrono::Utc::now(),
            id: saw.id,
            community: slug("a"),
            expected,
            platform_id: Some("T1".into()),
            config,
            state,
            tick_every: Some(Duration::from_mins(1)),
        }])
    };
    commit_one(&store, change(1, None, Some(json!({"cursor": "\u{0}"})))).await;
    let one = store.instance(&slug("a"), saw.id).await.expect("the database answers").expect("it is there");
    assert_eq!((one.platform_id, one.tick_every), (None, None), "they go with the config");
    commit_one(&store, change(2, Some(config(&json!({"secret": "s"}))), None)).await;
    let one = store.instance(&slug("a"), saw.id).await.expect("the database answers").expect("it is there");
    assert_eq!((one.platform_id.as_deref(), one.tick_every), (Some("T1"), Some(Duration::from_mins(1))));
    assert_eq!((&one.config, &one.state), (&config(&json!({"secret": "s"})), &Some(json!({"cursor": "\u{0}"}))));
    assert_eq!(one.version, 3);
    assert!(one.updated_at > one.created_at);
    assert!(!format!("{one:?}").contains("secret"), "a config is not printed");
}

async fn a_config_is_sealed_anew_only_where_nothing_has_changed(database: &Database) {
    let store = database.store().await;
    for slug in ["a", "b", "c"] {
        community(&store, slug).await;
    }
    let read = store.every_instance(None, 10).await.expect("the database answers");
    assert_eq!(read.len(), 3, "of every community");
    let (first, rest) = (store.every_instance(None, 2).await, store.every_instance(Some(read[1].id), 2).await);
    assert_eq!(first.expect("the database answers"), read[..2], "page by page");
    assert_eq!(rest.expect("the database answers"), read[2..]);

    // One changes, one goes, one stays.
    let change = |instance: &Instance| Change::UpdateInstance {
        updated_at: chrono::Utc::now(),
        id: instance.id,
        community: instance.community.clone(),
        expected: 1,
        platform_id: None,
        config: Some(config(&json!({"new": true}))),
        state: None,
        tick_every: None,
    };
    commit_one(&store, changing(vec![change(&read[0])])).await;
    let gone = Change::DeleteInstance { id: read[1].id, community: read[1].community.clone(), expected: 1 };
    commit_one(&store, changing(vec![gone])).await;
    let sealed = config(&json!({"sealed": "anew"}));
    let resealed = read.iter().map(|instance| (instance.clone(), sealed.clone())).collect();
    assert_eq!(store.reseal(resealed).await.expect("the database answers"), 1);
    let left = store.every_instance(None, 10).await.expect("the database answers");
    let [changed, stayed] = &left[..] else { panic!("one has gone: {left:?}") };
    assert_eq!((&changed.config, changed.version), (&config(&json!({"new": true})), 2));
    assert_eq!((&stayed.config, stayed.version), (&sealed, 1), "nobody needs to look again");
    assert_eq!(stayed.updated_at, read[2].updated_at);
}

async fn a_plugin_is_disabled_only_when_its_processes_have_ended(database: &Database) {
    let store = database.store().await;
    let saw = community(&store, "a").await;
    let open = process("a", saw.id, store.now().await.expect("the clock"));
    commit_one(&store, changing(vec![insert(&open)])).await;
    let disable = Change::DeleteInstance { id: saw.id, community: slug("a"), expected: 1 };
    assert!(matches!(commit_one(&store, changing(vec![disable.clone()])).await, Committed::Stale));

    let mut ended = moved_on(&open);
    ended.record.status = ProcessStatus::Failed;
    assert!(matches!(commit_one(&store, changing(vec![disable, update(&ended, 1)])).await, Committed::Stored));
    assert!(store.instances(&slug("a")).await.expect("the database answers").is_empty());
    let kept = store.process(&slug("a"), open.record.id).await.expect("the database answers").expect("it is history");
    assert_eq!(kept.record.status, ProcessStatus::Failed);
}

async fn a_process_is_never_left_behind_by_a_plugin_that_is_disabled_meanwhile(database: &Database) {
    let (one, two) = (database.store().await, database.store().await);
    let now = one.now().await.expect("the clock");
    for round in 0..20 {
        let text = format!("c{round}");
        let saw = community(&one, &text).await;
        let start = Unit {
            saw: Some(InstanceVersion { ..saw }),
            changes: vec![insert(&process(&text, saw.id, now))],
            ..Unit::default()
        };
        let disable = changing(vec![Change::DeleteInstance { id: saw.id, community: slug(&text), expected: 1 }]);
        let (started, disabled) = tokio::join!(commit_one(&one, start), commit_one(&two, disable));
        assert!(
            matches!(
                (&started, &disabled),
                (Committed::Stored, Committed::Stale) | (Committed::Stale, Committed::Stored)
            ),
            "{started:?} {disabled:?}"
        );
    }
    assert!(one.instance(&slug("c0"), Uuid::nil()).await.expect("the database answers").is_none());
}

async fn a_long_history_goes_in_parts_and_only_that_of_its_community(database: &Database) {
    let store = database.store().await;
    let (of_a, of_b) = (community(&store, "a").await, community(&store, "b").await);
    for part in 0..5 {
        let keys = (0..500).map(|n| (if n % 5 == 0 { "b" } else { "a" }, format!("k{part}-{n}")));
        let units = keys.map(|(slug, key)| pure(slug, &key)).collect();
        store.commit(units).await.expect("the database answers");
    }
    let raw = database.raw().await;
    raw.execute_unprepared("UPDATE action_runs SET message_id = NULL WHERE message_id LIKE 'k4-%'")
        .await
        .expect("rows");
    let now = store.now().await.expect("the clock");
    let (open, mut ended) = (process("a", of_a.id, now), process("a", of_a.id, now));
    let elsewhere = process("b", of_b.id, now);
    ended.record.status = ProcessStatus::Completed;
    let changes = vec![insert(&open), insert(&ended), insert(&elsewhere)];
    store.commit(vec![Unit { changes, ..Unit::default() }]).await.expect("the database answers");

    assert_eq!(store.clear_history(&slug("a")).await.expect("the database answers"), 2001, "2000 runs and a process");
    assert_eq!(store.clear_history(&slug("a")).await.expect("the database answers"), 0);
    for (question, left) in [
        ("SELECT COUNT(*) AS n FROM action_runs WHERE community = 'a'", 0_i64),
        ("SELECT COUNT(*) AS n FROM action_runs WHERE community = 'b'", 500),
        ("SELECT COUNT(*) AS n FROM processes WHERE community = 'a'", 1),
        ("SELECT COUNT(*) AS n FROM processes", 2),
        ("SELECT COUNT(*) AS n FROM inbox WHERE community = 'a'", 2000),
    ] {
        let row = raw.query_one_raw(Statement::from_string(raw.get_database_backend(), question)).await;
        let count: i64 = row.expect("it answers").expect("a row").try_get("", "n").expect("a number");
        assert_eq!(count, left, "{question}");
    }
    raw.close().await.expect("the connection closes");
}
