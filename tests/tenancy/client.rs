//! A user of the broker, as a stranger's program is one: it uses the AMQP client directly.

use std::time::Duration;

use futures::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer,
    options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use serde_json::Value;
use uuid::Uuid;

use crate::PREFIX;

/// Longer than anything here takes, so that a failure says what it waited for.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct Client {
    connection: Connection,
    user: String,
}

/// A command as a driver may send it, or forge it.
pub(crate) struct Command {
    pub(crate) routing_key: &'static str,
    pub(crate) body: Value,
    pub(crate) user_id: Option<&'static str>,
    pub(crate) message_id: String,
    pub(crate) reply_to: Option<&'static str>,
    /// The header of the service's own copies.
    pub(crate) forged_author: Option<&'static str>,
}

impl Command {
    pub(crate) fn new(user: &'static str, routing_key: &'static str, body: Value) -> Self {
        let message_id = Uuid::new_v4().to_string();
        Self { routing_key, body, user_id: Some(user), message_id, reply_to: None, forged_author: None }
    }
}

impl Client {
    pub(crate) async fn connect(url: &str, user: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.expect("the user may log in");
        Self { connection, user: user.to_owned() }
    }

    pub(crate) async fn channel(&self) -> Channel {
        let channel = self.connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        channel
    }

    /// Declares a queue of this user's own.
    pub(crate) async fn declare(&self, queue: &str) -> lapin::Result<()> {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        self.channel().await.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments).await.map(|_| ())
    }

    pub(crate) async fn bind(&self, queue: &str, pattern: &str) -> lapin::Result<()> {
        let (exchange, options) = (format!("{PREFIX}.events"), QueueBindOptions::default());
        let channel = self.channel().await;
        channel.queue_bind(queue.into(), exchange.into(), pattern.into(), options, FieldTable::default()).await
    }

    pub(crate) async fn consume(&self, queue: &str) -> lapin::Result<Inbox> {
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let channel = self.channel().await;
        let stream = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
        Ok(Inbox { stream, _channel: channel })
    }

    /// Publishes and waits for the confirm, or for the broker's refusal.
    pub(crate) async fn publish(
        &self,
        exchange: &str,
        key: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> lapin::Result<()> {
        let channel = self.channel().await;
        let options = BasicPublishOptions::default();
        let confirm = channel.basic_publish(exchange.into(), key.into(), options, body, properties).await?;
        confirm.await?;
        Ok(())
    }

    pub(crate) async fn send(&self, command: &Command) -> lapin::Result<()> {
        let mut properties = BasicProperties::default().with_message_id(command.message_id.as_str().into());
        if let Some(user) = command.user_id {
            properties = properties.with_user_id(user.into());
        }
        if let Some(queue) = command.reply_to {
            properties = properties.with_reply_to(queue.into());
        }
        if let Some(author) = command.forged_author {
            let mut headers = FieldTable::default();
            headers.insert("x-metagov-user".into(), AMQPValue::LongString(author.into()));
            properties = properties.with_headers(headers);
        }
        let exchange = format!("{PREFIX}.commands");
        self.publish(&exchange, command.routing_key, properties, command.body.to_string().as_bytes()).await
    }

    pub(crate) fn user(&self) -> &str {
        &self.user
    }
}

/// A queue that is listened to.
pub(crate) struct Inbox {
    stream: Consumer,
    _channel: Channel,
}

/// What came into it.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) routing_key: String,
    pub(crate) event: Value,
}

impl Inbox {
    /// The next event.
    pub(crate) async fn next(&mut self) -> Received {
        let next = tokio::time::timeout(PATIENCE, self.stream.next()).await.expect("an event comes in time");
        let delivery = next.expect("the consumer lives").expect("the channel lives");
        Received {
            routing_key: ShortString::to_string(&delivery.routing_key),
            event: serde_json::from_slice(&delivery.data).expect("every message is an event"),
        }
    }

    /// The events up to the final one that this command caused; that one is the last.
    pub(crate) async fn until_answered(&mut self, command: &Command) -> Vec<Received> {
        let mut seen = Vec::new();
        loop {
            let received = self.next().await;
            let kind = received.event["type"].as_str().unwrap_or_default().to_owned();
            let is_ours = received.event["causationid"] == command.message_id.as_str();
            seen.push(received);
            if is_ours && !kind.starts_with("org.metagov.plugin.") {
                return seen;
            }
        }
    }
}

/// The broker said no, in these words.
pub(crate) fn assert_refused<T>(what: &str, result: lapin::Result<T>, words: &str) {
    let Err(error) = result else { panic!("{what} was not refused") };
    let said = format!("{error:?}");
    assert!(said.contains(words), "{what}: {said}");
}
