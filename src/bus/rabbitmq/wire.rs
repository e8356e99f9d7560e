//! Between lapin's types and ours: reads whatever a foreign client has sent, writes what the contract says.
//!
//! Reading never fails: a header that is no text becomes text or is left out. Writing fails only where a text does not
//! fit into 255 bytes. Up: the broker's frames. Down: [`Message`].

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use lapin::{
    BasicProperties,
    message::Delivery,
    types::{AMQPValue, FieldTable, ShortString},
};

use crate::bus::{
    Destination, Message, Outgoing, Properties, dead_letter, is_reply_queue, message::is_direct_reply, topology::Names,
};

/// Persistent, in the words of AMQP.
const PERSISTENT: u8 = 2;

/// All headers of a message go into one frame, and one that is larger than agreed upon (RabbitMQ: 128 KiB) costs the whole
/// connection, again each time. A driver may have come close to that with its own, so that a copy with ours is too large:
/// beyond this, copies go without the driver's.
const MOST_HEADERS: usize = 64 * 1024;

/// Our view of a delivered message.
pub(super) fn message(delivery: &mut Delivery) -> Message {
    let properties = &delivery.properties;
    let mut message = Message {
        routing_key: delivery.routing_key.to_string(),
        body: Bytes::from(std::mem::take(&mut delivery.data)),
        properties: Properties {
            content_type: text(properties.content_type().as_ref()),
            message_id: text(properties.message_id().as_ref()),
            correlation_id: text(properties.correlation_id().as_ref()),
            reply_to: text(properties.reply_to().as_ref()),
            message_type: text(properties.kind().as_ref()),
            timestamp: *properties.timestamp(),
            user_id: text(properties.user_id().as_ref()),
            expiration: properties
                .expiration()
                .as_ref()
                .and_then(|millis| millis.as_str().parse().ok())
                .map(Duration::from_millis),
            headers: properties.headers().as_ref().map(headers).unwrap_or_default(),
        },
    };
    if let Some((reason, queue)) = properties.headers().as_ref().and_then(last_death) {
        dead_letter::note(&mut message, &reason, &queue);
    }
    message
}

/// Our view of a dead letter: with everything in its headers that can be shown, for nobody acts on it.
pub(super) fn dead_letter(delivery: &mut Delivery) -> Message {
    let raw = delivery.properties.headers().clone().unwrap_or_default();
    let mut message = message(delivery);
    for (name, value) in raw.inner() {
        if let Some(bytes) = bytes(value) {
            let text = String::from_utf8_lossy(bytes).into_owned();
            message.properties.headers.entry(name.to_string()).or_insert(text);
        }
    }
    message
}

/// The properties of a dead letter that is published as a command again: as they are, without the traces of its death,
/// so that it gets all its attempts. What was sent by somebody else cannot be sent under their name.
pub(super) fn revived(properties: &BasicProperties) -> BasicProperties {
    type Setter = fn(BasicProperties, ShortString) -> BasicProperties;
    let texts: [(&Option<ShortString>, Setter); 7] = [
        (properties.content_type(), BasicProperties::with_content_type),
        (properties.content_encoding(), BasicProperties::with_content_encoding),
        (properties.correlation_id(), BasicProperties::with_correlation_id),
        (properties.reply_to(), BasicProperties::with_reply_to),
        (properties.message_id(), BasicProperties::with_message_id),
        (properties.kind(), BasicProperties::with_type),
        (properties.app_id(), BasicProperties::with_app_id),
    ];
    let mut revived = BasicProperties::default().with_delivery_mode(PERSISTENT);
    for (text, set) in texts {
        if let Some(text) = text {
            revived = set(revived, text.clone());
        }
    }
    if let Some(priority) = *properties.priority() {
        revived = revived.with_priority(priority);
    }
    if let Some(timestamp) = *properties.timestamp() {
        revived = revived.with_timestamp(timestamp);
    }
    let mut headers = FieldTable::default();
    for (name, value) in properties.headers().iter().flat_map(FieldTable::inner) {
        if !dead_letter::is_trace(name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    if headers.inner().is_empty() { revived } else { revived.with_headers(headers) }
}

/// How often the broker has handed it out before, where it counts that.
pub(super) fn delivery_count(properties: &BasicProperties) -> Option<u64> {
    let value = properties.headers().as_ref()?.inner().get("x-delivery-count")?;
    scalar(value)?.parse().ok()
}

fn text(property: Option<&ShortString>) -> Option<String> {
    property.map(ToString::to_string)
}

fn headers(table: &FieldTable) -> BTreeMap<String, String> {
    table.inner().iter().filter_map(|(name, value)| Some((name.to_string(), scalar(value)?))).collect()
}

/// Clients differ in how they send the same thing: a text may come as either kind of string or as bytes, a number in
/// any width.
fn scalar(value: &AMQPValue) -> Option<String> {
    Some(match value {
        AMQPValue::LongString(_) | AMQPValue::ByteArray(_) => std::str::from_utf8(bytes(value)?).ok()?.to_owned(),
        AMQPValue::ShortString(text) => text.to_string(),
        AMQPValue::Boolean(value) => value.to_string(),
        AMQPValue::ShortShortInt(number) => number.to_string(),
        AMQPValue::ShortShortUInt(number) => number.to_string(),
        AMQPValue::ShortInt(number) => number.to_string(),
        AMQPValue::ShortUInt(number) => number.to_string(),
        AMQPValue::LongInt(number) => number.to_string(),
        AMQPValue::LongUInt(number) => number.to_string(),
        AMQPValue::LongLongInt(number) => number.to_string(),
        AMQPValue::Timestamp(number) => number.to_string(),
        AMQPValue::Float(number) => number.to_string(),
        AMQPValue::Double(number) => number.to_string(),
        AMQPValue::DecimalValue(_) | AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) | AMQPValue::Void => {
            return None;
        }
    })
}

fn bytes(value: &AMQPValue) -> Option<&[u8]> {
    match value {
        AMQPValue::LongString(text) => Some(text.as_bytes()),
        AMQPValue::ByteArray(bytes) => Some(bytes.as_slice()),
        _ => None,
    }
}

/// Reason and queue of the latest entry of `x-death`, which the broker keeps newest first.
///
/// <https://www.rabbitmq.com/docs/dlx#effects>
fn last_death(headers: &FieldTable) -> Option<(String, String)> {
    let AMQPValue::FieldArray(deaths) = headers.inner().get("x-death")? else { return None };
    let AMQPValue::FieldTable(death) = deaths.as_slice().first()? else { return None };
    Some((scalar(death.inner().get("reason")?)?, scalar(death.inner().get("queue")?)?))
}

/// A message as `basic.publish` wants it.
#[derive(Debug)]
pub(super) struct Envelope<'a> {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) body: &'a [u8],
    pub(super) mandatory: bool,
}

/// `None` where the message cannot be published at all: a reply queue that is not the driver's, or a text that AMQP
/// has no room for. Nobody can have bound a queue for such a message.
pub(super) fn envelope<'a>(names: &Names, outgoing: &'a Outgoing) -> Option<Envelope<'a>> {
    let message = &outgoing.message;
    let own_key = message.routing_key.as_str();
    let (exchange, routing_key, expiration) = match &outgoing.to {
        Destination::Commands => (names.commands(), own_key, message.properties.expiration),
        Destination::Events => (names.events(), own_key, message.properties.expiration),
        Destination::Dead => (names.dead(), own_key, None),
        Destination::Delay(step) => (names.delay(*step), own_key, Some(step.jittered())),
        Destination::Reply { queue } if is_reply_queue(queue) => {
            (String::new(), queue.as_str(), message.properties.expiration)
        }
        Destination::Reply { .. } => return None,
    };
    Some(Envelope {
        exchange: ShortString::try_new(exchange).ok()?,
        routing_key: ShortString::try_new(routing_key).ok()?,
        properties: basic_properties(&message.properties, expiration)?,
        body: &message.body,
        // Direct reply-to is no queue: with `mandatory` the broker delivers to it and returns the message all the same.
        mandatory: !matches!(&outgoing.to, Destination::Reply { queue } if is_direct_reply(queue)),
    })
}

fn basic_properties(properties: &Properties, expiration: Option<Duration>) -> Option<BasicProperties> {
    type Setter = fn(BasicProperties, ShortString) -> BasicProperties;
    // Not `user_id`: the broker closes the channel where it is not the user of this very connection, and a copy of a
    // driver's message carries the driver's.
    let texts: [(&Option<String>, Setter); 5] = [
        (&properties.content_type, BasicProperties::with_content_type),
        (&properties.message_id, BasicProperties::with_message_id),
        (&properties.correlation_id, BasicProperties::with_correlation_id),
        (&properties.reply_to, BasicProperties::with_reply_to),
        (&properties.message_type, BasicProperties::with_type),
    ];
    let mut basic = BasicProperties::default().with_delivery_mode(PERSISTENT);
    for (text, set) in texts {
        if let Some(text) = text {
            basic = set(basic, ShortString::try_new(text.as_str()).ok()?);
        }
    }
    if let Some(timestamp) = properties.timestamp {
        basic = basic.with_timestamp(timestamp);
    }
    if let Some(wait) = expiration {
        basic = basic.with_expiration(wait.as_millis().to_string().into());
    }
    let mut headers = FieldTable::default();
    let bytes: usize = properties.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    for (name, value) in &properties.headers {
        let fits = bytes <= MOST_HEADERS || name.starts_with("x-metagov-") || name == "traceparent";
        if fits && !dead_letter::is_brokers_note(name) {
            headers.insert(ShortString::try_new(name.as_str()).ok()?, AMQPValue::LongString(value.as_str().into()));
        }
    }
    Some(if headers.inner().is_empty() { basic } else { basic.with_headers(headers) })
}

#[cfg(test)]
#[path = "wire/tests.rs"]
mod tests;
