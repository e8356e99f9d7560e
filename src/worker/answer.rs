//! From events to messages: the copy on the events exchange, and the copy for `reply_to`.
//!
//! Up: [`super::committer`], which has stored the events, and [`super::verdict`], which refuses. Down: the publisher
//! in `src/bus`.

use std::collections::BTreeMap;

use bytes::Bytes;
use metagov_sdk::contract::{Event, event::CONTENT_TYPE};

use super::envelope::Envelope;
use crate::{
    bus::{Destination, Message, Outgoing, Properties},
    store::OutboxEvent,
};

/// The message of an event that is not stored.
#[must_use]
pub(super) fn message_of(event: &Event, routing_key: String) -> Message {
    Message {
        routing_key,
        body: Bytes::from(event.to_json()),
        properties: properties(
            event.id.to_string(),
            &event.event_type,
            event.correlationid.clone(),
            event.traceparent.clone(),
        ),
    }
}

/// The message of a stored event: byte for byte what was stored.
#[must_use]
pub fn message_of_stored(event: &OutboxEvent) -> Message {
    Message {
        routing_key: event.routing_key.clone(),
        body: Bytes::copy_from_slice(event.body.as_bytes()),
        properties: properties(
            event.id.to_string(),
            &event.event_type,
            event.correlation_id.clone(),
            event.traceparent.clone(),
        ),
    }
}

fn properties(id: String, event_type: &str, correlation: Option<String>, trace: Option<String>) -> Properties {
    Properties {
        content_type: Some(CONTENT_TYPE.to_owned()),
        message_id: Some(id),
        correlation_id: correlation,
        message_type: Some(event_type.to_owned()),
        headers: trace.map(|trace| ("traceparent".to_owned(), trace)).into_iter().collect::<BTreeMap<_, _>>(),
        ..Properties::default()
    }
}

/// The copy on the events exchange.
#[must_use]
pub(super) fn to_events(message: Message) -> Outgoing {
    Outgoing { to: Destination::Events, message }
}

/// The copy for the queue that asked, where one did: the same event with the command's own `correlation_id`.
#[must_use]
pub(super) fn to_reply(message: &Message, envelope: &Envelope) -> Option<Outgoing> {
    let queue = envelope.reply_to.clone()?;
    let mut message = message.clone();
    message.properties.correlation_id.clone_from(&envelope.correlation_id);
    Some(Outgoing { to: Destination::Reply { queue }, message })
}
