//! Puts a [`Topology`] onto the broker, or looks whether it stands there.
//!
//! Declaring is harmless where the same thing stands already, and refused (406) where it stands with other arguments.
//! Up: [`crate::bus::topology`], the data. Down: the broker.

use lapin::{
    Channel, Connection, ExchangeKind as LapinKind,
    options::{ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};

use crate::bus::{
    Depth,
    topology::{Argument, ArgumentValue, Binding, ExchangeKind, Forward, Topology},
};

/// A declaration that failed; the channel is closed by it.
#[derive(Debug, thiserror::Error)]
#[error("`{entity}` cannot be declared; where it has other arguments, delete it once it is empty")]
pub(super) struct Refused {
    pub(super) entity: String,
    #[source]
    pub(super) error: lapin::Error,
}

/// Declares all of it.
pub(super) async fn declare(channel: &Channel, topology: &Topology) -> Result<(), Refused> {
    for exchange in &topology.exchanges {
        let kind = match exchange.kind {
            ExchangeKind::Topic => LapinKind::Topic,
            ExchangeKind::Fanout => LapinKind::Fanout,
            ExchangeKind::Headers => LapinKind::Headers,
        };
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let declared = channel.exchange_declare(name(&exchange.name), kind, options, table(&exchange.arguments));
        declared.await.map_err(|error| Refused { entity: exchange.name.clone(), error })?;
    }
    for queue in &topology.queues {
        let declared =
            channel.queue_declare(name(&queue.name), QueueDeclareOptions::durable(), table(&queue.arguments));
        declared.await.map_err(|error| Refused { entity: queue.name.clone(), error })?;
    }
    for binding in &topology.bindings {
        let bound = channel.queue_bind(
            name(&binding.queue),
            name(&binding.exchange),
            name(&binding.pattern),
            QueueBindOptions::default(),
            table(&binding.arguments),
        );
        bound.await.map_err(|error| Refused { entity: binding.queue.clone(), error })?;
    }
    for Forward { from, to, .. } in &topology.forwards {
        let (none, options) = (FieldTable::default(), ExchangeBindOptions::default());
        let bound = channel.exchange_bind(name(to), name(from), "".into(), options, none);
        bound.await.map_err(|error| Refused { entity: to.clone(), error })?;
    }
    // Last: in between a message may reach two queues, and never none. A binding that is not there is no error.
    for Binding { exchange, queue, pattern, .. } in &topology.retired {
        let taken = channel.queue_unbind(name(queue), name(exchange), name(pattern), FieldTable::default());
        taken.await.map_err(|error| Refused { entity: queue.clone(), error })?;
    }
    Ok(())
}

/// What is at a queue, on a channel of its own: where the queue is missing, the channel is closed by the question.
pub(super) async fn look(connection: &Connection, queue: ShortString) -> lapin::Result<Depth> {
    let channel = connection.create_channel().await?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(queue, passive, FieldTable::default()).await?;
    let depth = Depth { waiting: queue.message_count(), consumers: queue.consumer_count() };
    channel.close(200, "done".into()).await?;
    Ok(depth)
}

/// A name of the topology. A prefix so long that the names do not fit is cut, and then refused by the broker, rather
/// than ending the process.
pub(super) fn name(text: &str) -> ShortString {
    ShortString::try_new(text).unwrap_or_else(|_| {
        let fitting: String = text.chars().take(60).collect();
        ShortString::from(fitting)
    })
}

fn table(arguments: &[Argument]) -> FieldTable {
    let mut table = FieldTable::default();
    for argument in arguments {
        let value = match &argument.value {
            ArgumentValue::Text(text) => AMQPValue::LongString(text.as_str().into()),
            ArgumentValue::Number(number) => AMQPValue::LongLongInt((*number).into()),
        };
        table.insert(argument.name.into(), value);
    }
    table
}
