//! The outbox: stored byte for byte, published once by whoever, found again.

use std::{collections::BTreeSet, time::Duration};

use metagov::store::{OutboxEvent, Unit};
use sea_orm::{ConnectionTrait, Statement};
use uuid::Uuid;

use crate::{
    database::{Database, on_both},
    sample::{event, pure, slug},
};

on_both!(
    an_event_is_stored_byte_for_byte,
    what_is_marked_is_not_swept,
    two_sweepers_do_not_take_the_same,
    events_are_found_by_time_and_id,
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
    let stored = store.events(&slug("a"), None, &[], 10).await.expect("the database answers");
    assert_eq!(stored, [whole]);
    assert_eq!(&*stored[0].body, body);
}

async fn what_is_marked_is_not_swept(database: &Database) {
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

async fn two_sweepers_do_not_take_the_same(database: &Database) {
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

async fn events_are_found_by_time_and_id(database: &Database) {
    let store = database.store().await;
    let bodies = |events: Vec<OutboxEvent>| events.iter().map(|event| event.body.to_string()).collect::<Vec<_>>();
    let writes = |key: &str| Unit { events: vec![event("a", key, key)], run: None, ..pure("a", key) };
    store.commit(vec![writes("1"), writes("2")]).await.expect("the database answers");
    let between = store.now().await.expect("the clock");
    store.commit(vec![writes("3"), pure("b", "4")]).await.expect("the database answers");

    let all = store.events(&slug("a"), None, &[], 10).await.expect("the database answers");
    let first = all[0].id;
    assert_eq!(bodies(all), ["1", "2", "3"]);
    assert_eq!(bodies(store.events(&slug("a"), None, &[], 2).await.expect("the database answers")), ["1", "2"]);
    let since = store.events(&slug("a"), Some(between), &[], 10).await.expect("the database answers");
    assert_eq!(bodies(since), ["3"]);
    let one = store.events(&slug("a"), None, &[first], 10).await.expect("the database answers");
    assert_eq!(bodies(one), ["1"]);
    assert!(store.events(&slug("b"), None, &[first], 10).await.expect("the database answers").is_empty());
}
