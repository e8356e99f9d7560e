//! A driver that does everything right: a durable queue for its events, confirms for its commands, and a new connection
//! whenever the old one is lost. It uses the AMQP client directly, as a stranger would.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;
use tokio::{sync::Notify, time::timeout};

/// What a driver knows at the end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Commands that were sent.
    pub(crate) attempted: usize,
    /// Commands without an outcome.
    pub(crate) lost: usize,
    /// Commands with two outcomes that differ, whatever their ids.
    pub(crate) doubled: usize,
    /// Commands whose outcome came under several ids.
    pub(crate) several_ids: usize,
}

/// The final events of one command, by id and body: one, if all is well.
type Finals = HashSet<(String, Vec<u8>)>;

#[derive(Clone)]
pub(crate) struct Driver {
    url: String,
    prefix: String,
    /// By command.
    finals: Arc<Mutex<HashMap<String, Finals>>>,
    news: Arc<Notify>,
}

impl Driver {
    pub(crate) async fn connect(url: &str, prefix: &str) -> Self {
        let driver =
            Self { url: url.to_owned(), prefix: prefix.to_owned(), finals: Arc::default(), news: Arc::default() };
        // The queue stands before the first command, so that no event can be missed.
        driver.channel().await.expect("the broker answers");
        let listener = driver.clone();
        tokio::spawn(async move {
            loop {
                let _ = listener.listen().await;
                listener.pause().await;
            }
        });
        driver
    }

    async fn channel(&self) -> lapin::Result<(Connection, Channel)> {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare("driver".into(), options, arguments).await?;
        let exchange = format!("{}.events", self.prefix);
        channel
            .queue_bind(
                "driver".into(),
                exchange.into(),
                "#".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
        Ok((connection, channel))
    }

    async fn listen(&self) -> lapin::Result<()> {
        let (_connection, channel) = self.channel().await?;
        let options = BasicConsumeOptions::default();
        let mut events = channel.basic_consume("driver".into(), "".into(), options, FieldTable::default()).await?;
        while let Some(delivery) = events.next().await {
            let delivery = delivery?;
            let event: Value = serde_json::from_slice(&delivery.data).expect("every message is an event");
            let kind = event["type"].as_str().expect("a type");
            if ["completed", "failed", "uncertain", "rejected", "applied"].iter().any(|last| kind.ends_with(last))
                && let Some(cause) = event["causationid"].as_str()
            {
                let id = event["id"].as_str().expect("an id").to_owned();
                self.finals
                    .lock()
                    .expect("nobody panics here")
                    .entry(cause.to_owned())
                    .or_default()
                    .insert((id, delivery.data.clone()));
                self.news.notify_waiters();
            }
            delivery.ack(BasicAckOptions::default()).await?;
        }
        Ok(())
    }

    /// Waits until the broker may be back; not for a state of the service.
    async fn pause(&self) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    /// Publishes each command until it is confirmed.
    pub(crate) async fn publish(&self, commands: &[(String, String, Vec<u8>)]) {
        let mut open = commands;
        while !open.is_empty() {
            let done = self.publish_some(open).await;
            open = &open[done..];
            if !open.is_empty() {
                self.pause().await;
            }
        }
    }

    /// Publishes until something fails; how many were confirmed.
    async fn publish_some(&self, commands: &[(String, String, Vec<u8>)]) -> usize {
        let Ok((_connection, channel)) = self.channel().await else { return 0 };
        for (done, (id, key, body)) in commands.iter().enumerate() {
            let properties = BasicProperties::default()
                .with_message_id(id.as_str().into())
                .with_delivery_mode(2)
                .with_content_type("application/json".into());
            let exchange = format!("{}.commands", self.prefix);
            let published = channel
                .basic_publish(exchange.into(), key.as_str().into(), BasicPublishOptions::default(), body, properties)
                .await;
            let Ok(confirm) = published else { return done };
            if !confirm.await.is_ok_and(|confirmation| confirmation.is_ack()) {
                return done;
            }
        }
        commands.len()
    }

    /// How many of these commands have their final event.
    pub(crate) fn answered(&self, ids: &[String]) -> usize {
        let finals = self.finals.lock().expect("nobody panics here");
        ids.iter().filter(|id| finals.contains_key(*id)).count()
    }

    /// Waits until this many of the commands have their final event; gives up after two minutes.
    pub(crate) async fn wait_for(&self, ids: &[String], count: usize) {
        let all = async {
            loop {
                let news = self.news.notified();
                if self.answered(ids) >= count {
                    return;
                }
                news.await;
            }
        };
        if timeout(Duration::from_mins(2), all).await.is_err() {
            eprintln!("after two minutes {} of {count} are answered", self.answered(ids));
        }
    }

    /// The four figures.
    pub(crate) fn figures(&self, ids: &[String]) -> Figures {
        let finals = self.finals.lock().expect("nobody panics here");
        let of = |id: &String| finals.get(id).cloned().unwrap_or_default();
        let completed = |events: &Finals| {
            events.iter().any(|(_, body)| String::from_utf8_lossy(body).contains("org.metagov.action.completed"))
        };
        Figures {
            attempted: ids.len(),
            lost: ids.iter().filter(|id| !completed(&of(id))).count(),
            doubled: ids
                .iter()
                .filter(|id| of(id).into_iter().map(|(_, body)| body).collect::<HashSet<_>>().len() > 1)
                .count(),
            several_ids: ids
                .iter()
                .filter(|id| of(id).into_iter().map(|(id, _)| id).collect::<HashSet<_>>().len() > 1)
                .count(),
        }
    }
}
