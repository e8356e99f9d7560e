//! The outbox: stored byte for byte, published once by whoever, found again.

use std::{collections::BTreeSet, time::Duration};

use metagov::store::{OutboxEvent, Selection, Unit};
use metagov_sdk::contract::Timestamp;
use sea_orm::{ConnectionTrait, Statement};
use uuid::Uuid;

use crate::{
    database::{Database, on_both},
    sample::{event, pure, slug},
};

on_both!(
    an_event_is_stored_byte_for_byte,
    what_is_marked_is_not_taken,
    two_relays_do_not_take_the_same,
    what_is_refused_is_put_off_the_longer_the_more_often_and_lets_others_through,
    what_is_from_before_a_clock_jumped_back_is_swept_at_once,
    events_are_found_by_what_they_are,
    pages_miss_nothing_and_repeat_nothing_where_many_events_have_the_same_time,
    the_mark_of_having_found_no_queue_is_taken_off_in_its_own_community_only,
);

async fn an_event_is_stored_byte_for_byte(database: &Database) {
    let store = database.store().await;
    let body =
        "{ \"b\" : 1.0,\"a\":\"\\u0000 ü \\\"quoted\\\"\", \"a2\":1e2,\n\t\"big\":123456789012345678901234567890}";
    let whole = OutboxEvent {
        process_id: Some(Uuid::new_v4()),
        sequence: Some(3),
        last: false,
        correlation_id: None,
        traceparent: None,
        ..event("a", "k", body)
    };
    let unit = Unit { events: vec![whole.clone()], run: None, ..pure("a", "k") };
    store.commit(vec![unit]).await.expect("the database answers");
    let stored = store.events(&slug("a"), &Selection::default(), None, 10).await.expect("the database answers");
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].event, whole);
    assert_eq!(&*stored[0].event.body, body);
}

async fn what_is_from_before_a_clock_jumped_back_is_swept_at_once(database: &Database) {
    let store = database.store().await;
    store.commit(vec![pure("a", "k")]).await.expect("the database answers");
    let ahead = store.now().await.expect("the clock") + Duration::from_hours(1);
    database.set_time("outbox", "created_at", "inbox_key = 'k'", ahead).await;
    assert_eq!(store.unpublished(Duration::from_mins(1), 10).await.expect("the database answers").len(), 1);
    assert!(store.unpublished(Duration::from_mins(1), 10).await.expect("the database answers").is_empty(), "claimed");
    database.set_time("outbox", "claimed_until", "inbox_key = 'k'", ahead).await;
    assert_eq!(store.unpublished(Duration::from_mins(1), 10).await.expect("the database answers").len(), 1);
}

async fn what_is_marked_is_not_taken(database: &Database) {
    let store = database.store().await;
    let units: Vec<Unit> = (0..4).map(|n| pure("a", &format!("k{n}"))).collect();
    let ids: Vec<Uuid> = units.iter().map(|unit| unit.events[0].id).collect();
    store.commit(units).await.expect("the database answers");
    store.mark_published(&[(ids[0], false), (ids[2], true)]).await.expect("the database answers");
    store.mark_published(&[]).await.expect("the database answers");
    let raw = database.raw().await;
    let question = "SELECT id FROM outbox WHERE unrouted AND published_at IS NOT NULL";
    let kept = raw.query_all_raw(Statement::from_string(raw.get_database_backend(), question)).await.expect("rows");
    let kept: Vec<Uuid> = kept.iter().map(|row| row.try_get("", "id").expect("an id")).collect();
    assert_eq!(kept, [ids[2]], "what came back is kept with that mark");
    raw.close().await.expect("the connection closes");
    assert!(
        store.unpublished(Duration::from_hours(1), 10).await.expect("the database answers").is_empty(),
        "too young"
    );
    let swept = store.unpublished(Duration::ZERO, 10).await.expect("the database answers");
    assert_eq!(swept.iter().map(|event| event.id).collect::<Vec<_>>(), [ids[1], ids[3]]);
}

async fn what_is_refused_is_put_off_the_longer_the_more_often_and_lets_others_through(database: &Database) {
    let store = database.store().await;
    let units: Vec<Unit> = (0..4).map(|n| pure("a", &format!("k{n}"))).collect();
    let ids: Vec<Uuid> = units.iter().map(|unit| unit.events[0].id).collect();
    store.commit(units).await.expect("the database answers");
    let refused = &ids[..3];
    let mut waits = Vec::new();
    for _ in 0..6 {
        let now = store.now().await.expect("the clock");
        store.put_off(refused).await.expect("the database answers");
        let raw = database.raw().await;
        let question = "SELECT claimed_until FROM outbox WHERE inbox_key = 'k0'";
        let row = raw.query_one_raw(Statement::from_string(raw.get_database_backend(), question)).await;
        let due: Timestamp = row.expect("it is there").expect("a row").try_get("", "claimed_until").expect("a time");
        raw.close().await.expect("the connection closes");
        waits.push((due - now).as_seconds_f64().round());
    }
    assert_eq!(waits, [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]);
    let taken = store.unpublished(Duration::ZERO, 2).await.expect("the database answers");
    assert_eq!(taken.iter().map(|event| event.id).collect::<Vec<_>>(), [ids[3]], "the oldest three have no turn");
    let past = store.now().await.expect("the clock") - Duration::from_secs(1);
    database.set_time("outbox", "claimed_until", "inbox_key = 'k1'", past).await;
    let taken = store.unpublished(Duration::from_hours(1), 2).await.expect("the database answers");
    assert_eq!(taken.iter().map(|event| event.id).collect::<Vec<_>>(), [ids[1]], "it is due, however young");
    store.mark_published(&[(ids[0], false)]).await.expect("the database answers");
    store.put_off(&[]).await.expect("the database answers");
}

async fn two_relays_do_not_take_the_same(database: &Database) {
    let (one, two) = (database.store().await, database.store().await);
    let units: Vec<Unit> = (0..60).map(|n| pure("a", &format!("k{n:02}"))).collect();
    let order: Vec<Uuid> = units.iter().map(|unit| unit.events[0].id).collect();
    one.commit(units).await.expect("the database answers");
    let (left, right) = tokio::join!(one.unpublished(Duration::ZERO, 25), two.unpublished(Duration::ZERO, 25));
    let rest = one.unpublished(Duration::ZERO, 25).await.expect("the database answers");
    assert!(one.unpublished(Duration::ZERO, 25).await.expect("the database answers").is_empty(), "all are taken");
    let taken: Vec<Uuid> = [left.expect("the database answers"), right.expect("the database answers"), rest]
        .iter()
        .flat_map(|events| {
            let places = events.iter().map(|event| order.iter().position(|id| *id == event.id));
            assert!(places.is_sorted(), "in the order of their commit");
            events.iter().map(|event| event.id)
        })
        .collect();
    assert_eq!((taken.len(), taken.iter().collect::<BTreeSet<_>>().len()), (60, 60));
}

async fn events_are_found_by_what_they_are(database: &Database) {
    let store = database.store().await;
    let writes = |key: &str| Unit { events: vec![event("a", key, key)], run: None, ..pure("a", key) };
    store.commit(vec![writes("1"), writes("2")]).await.expect("the database answers");
    let between = store.now().await.expect("the clock");
    store.commit(vec![writes("3"), pure("b", "4")]).await.expect("the database answers");
    let bodies = async |community: &str, selection: Selection| {
        let past = store.events(&slug(community), &selection, None, 10).await.expect("the database answers");
        past.iter().map(|past| past.event.body.to_string()).collect::<Vec<_>>()
    };

    assert_eq!(bodies("a", Selection::default()).await, ["1", "2", "3"]);
    assert_eq!(bodies("a", Selection { since: Some(between), ..Selection::default() }).await, ["3"]);
    assert_eq!(bodies("a", Selection { until: Some(between), ..Selection::default() }).await, ["1", "2"]);
    let first = event("a", "1", "1").id;
    assert_eq!(bodies("a", Selection { ids: vec![first], ..Selection::default() }).await, ["1"]);
    assert!(bodies("b", Selection { ids: vec![first], ..Selection::default() }).await.is_empty());
    let of = |plugin: &str| Selection { plugin: Some(plugin.into()), ..Selection::default() };
    assert_eq!((bodies("a", of("randomness")).await.len(), bodies("a", of("core")).await.len()), (3, 0));
    let typed = |kind: &str| Selection { types: vec![format!("org.metagov.{kind}")], ..Selection::default() };
    assert_eq!(bodies("a", typed("action.completed")).await.len(), 3);
    assert!(bodies("a", typed("action.failed")).await.is_empty());
}

async fn pages_miss_nothing_and_repeat_nothing_where_many_events_have_the_same_time(database: &Database) {
    let store = database.store().await;
    for round in 0..4 {
        // All of a commit have one time; an event more in a unit has the same place in other commits.
        let units = (0..5).map(|n| pure("a", &format!("k{round}{n}"))).collect();
        store.commit(units).await.expect("the database answers");
    }
    let raw = database.raw().await;
    raw.execute_unprepared("UPDATE outbox SET created_at = (SELECT MIN(created_at) FROM outbox)").await.expect("rows");
    raw.close().await.expect("the connection closes");
    let selection = Selection::default();
    let whole = store.events(&slug("a"), &selection, None, 100).await.expect("the database answers");
    for size in [1, 3, 7, 20] {
        let (mut paged, mut after) = (Vec::new(), None);
        loop {
            let page = store.events(&slug("a"), &selection, after, size).await.expect("the database answers");
            let Some(last) = page.last() else { break };
            after = Some(last.place);
            paged.extend(page);
        }
        assert_eq!((paged.len(), &paged), (20, &whole), "pages of {size}");
    }
}

async fn the_mark_of_having_found_no_queue_is_taken_off_in_its_own_community_only(database: &Database) {
    let store = database.store().await;
    let units = vec![pure("a", "1"), pure("a", "2"), pure("b", "3")];
    let ids: Vec<Uuid> = units.iter().map(|unit| unit.events[0].id).collect();
    store.commit(units).await.expect("the database answers");
    store.mark_published(&[(ids[0], true), (ids[1], true), (ids[2], true)]).await.expect("the database answers");
    let unrouted = async |community: &str| {
        let selection = Selection { unrouted: true, ..Selection::default() };
        let past = store.events(&slug(community), &selection, None, 10).await.expect("the database answers");
        assert!(past.iter().all(|past| past.unrouted));
        past.iter().map(|past| past.event.id).collect::<Vec<_>>()
    };
    store.mark_routed(&slug("a"), &[ids[0], ids[2]]).await.expect("the database answers");
    store.mark_routed(&slug("a"), &[]).await.expect("the database answers");
    assert_eq!((unrouted("a").await, unrouted("b").await), (vec![ids[1]], vec![ids[2]]));
}
