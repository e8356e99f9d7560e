use lapin::types::{DecimalValue, FieldArray, LongString};

use super::*;
use crate::bus::DelayStep;

fn delivery(properties: BasicProperties) -> Delivery {
    let mut delivery = Delivery::mock(1, "exchange".into(), "some.key".into(), false, b"body".to_vec());
    delivery.properties = properties;
    delivery
}

fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

fn outgoing(to: Destination) -> Outgoing {
    let properties = Properties { expiration: Some(Duration::from_millis(5)), ..Properties::default() };
    Outgoing { to, message: Message { routing_key: "a.b".to_owned(), body: Bytes::from_static(b"{}"), properties } }
}

#[test]
fn headers_are_read_whatever_type_a_client_gives_them() {
    let headers = table([
        ("long", AMQPValue::LongString("text".into())),
        ("short", AMQPValue::ShortString("text".into())),
        ("bytes", AMQPValue::ByteArray(b"text".to_vec().into())),
        ("latin-1", AMQPValue::LongString(LongString::from(vec![0xe4]))),
        ("true", AMQPValue::Boolean(true)),
        ("number", AMQPValue::LongLongInt(-7)),
        ("double", AMQPValue::Double(1.5)),
        ("decimal", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 100 })),
        ("nothing", AMQPValue::Void),
        ("list", AMQPValue::FieldArray(FieldArray::default())),
        ("table", AMQPValue::FieldTable(FieldTable::default())),
        ("x-delivery-count", AMQPValue::LongInt(3)),
    ]);
    let mut delivery = delivery(BasicProperties::default().with_headers(headers).with_expiration("soon".into()));
    assert_eq!(delivery_count(&delivery.properties), Some(3));
    let read = message(&mut delivery).properties;
    let read_headers: Vec<(&str, &str)> =
        read.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        read_headers,
        [
            ("bytes", "text"),
            ("double", "1.5"),
            ("long", "text"),
            ("number", "-7"),
            ("short", "text"),
            ("true", "true"),
            ("x-delivery-count", "3"),
        ]
    );
    assert_eq!(read.expiration, None, "no number of milliseconds");
}

#[test]
fn the_latest_death_is_the_one_that_counts() {
    let death = |reason: &str, queue: &str| {
        AMQPValue::FieldTable(table([
            ("reason", AMQPValue::LongString(reason.into())),
            ("queue", AMQPValue::LongString(queue.into())),
        ]))
    };
    let deaths = vec![death("delivery_limit", "the-queue"), death("expired", "the-delay")];
    let headers = table([
        ("x-first-death-reason", AMQPValue::LongString("expired".into())),
        ("x-death", AMQPValue::FieldArray(deaths.into())),
    ]);
    let letter =
        crate::bus::DeadLetter { message: message(&mut delivery(BasicProperties::default().with_headers(headers))) };
    assert_eq!((letter.reason(), letter.queue()), (Some("delivery_limit"), Some("the-queue")));
}

#[test]
fn delays_and_dead_letters_do_not_keep_the_drivers_expiration() {
    let names = Names::new("test");
    let expiration = |to| {
        let outgoing = outgoing(to);
        let envelope = envelope(&names, &outgoing).expect("it fits");
        envelope.properties.expiration().as_ref().map(|millis| millis.as_str().parse::<u64>().expect("a number"))
    };
    assert_eq!(expiration(Destination::Commands), Some(5));
    assert_eq!(expiration(Destination::Dead), None);
    let waits = expiration(Destination::Delay(DelayStep::OneSecond)).expect("it has one");
    assert!((1000..=1250).contains(&waits), "{waits}");
}

#[test]
fn what_the_broker_wrote_and_the_user_are_not_published_again() {
    let mut outgoing = outgoing(Destination::Commands);
    outgoing.message.properties.user_id = Some("a-driver".to_owned());
    for header in ["x-delivery-count", "x-first-death-queue", "x-last-death-reason", "traceparent"] {
        outgoing.message.properties.headers.insert(header.to_owned(), "1".to_owned());
    }
    let envelope = envelope(&Names::new("test"), &outgoing).expect("it fits");
    assert_eq!(envelope.properties.user_id(), &None);
    assert_eq!(*envelope.properties.delivery_mode(), Some(PERSISTENT));
    let headers = envelope.properties.headers().as_ref().expect("one is left").inner();
    assert_eq!(headers.keys().map(ShortString::as_str).collect::<Vec<_>>(), ["traceparent"]);
}

#[test]
fn texts_that_do_not_fit_are_refused_and_never_a_panic() {
    let long = "ä".repeat(128);
    let mut key = outgoing(Destination::Commands);
    key.message.routing_key.clone_from(&long);
    let mut id = outgoing(Destination::Commands);
    id.message.properties.message_id = Some(long.clone());
    let mut header = outgoing(Destination::Commands);
    header.message.properties.headers.insert(long.clone(), String::new());
    let queue = outgoing(Destination::Reply { queue: long });
    for refused in [key, id, header, queue] {
        assert!(envelope(&Names::new("test"), &refused).is_none());
    }
}
