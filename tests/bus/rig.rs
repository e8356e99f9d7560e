//! A bus under test: its own prefix, removed again at the end whatever happens.

use std::time::Duration;

use bytes::Bytes;
use lapin::{Channel, Connection, ConnectionProperties, options::*};
use metagov::bus::{Bus, Deliveries, Delivery, Destination, Message, Outgoing, Properties, Settings, Topology};
use metagov_sdk::contract::Name;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes, so that a failure says what it waited for.
const PATIENCE: Duration = Duration::from_mins(2);

#[derive(Clone, Copy)]
pub(crate) enum On {
    RabbitMq,
    InProcess,
}

#[derive(Clone)]
pub(crate) struct Rig {
    pub(crate) bus: Bus,
    pub(crate) settings: Settings,
}

pub(crate) fn amqp_url() -> String {
    std::env::var("METAGOV_TEST_AMQP_URL")
        .expect("METAGOV_TEST_AMQP_URL is not set: run tests/run, which starts a throw-away broker")
}

pub(crate) fn plugin() -> Name {
    Name::new("randomness").expect("a name")
}

pub(crate) fn settings(url: &str) -> Settings {
    Settings {
        url: SecretString::from(url),
        prefix: format!("test-{}", uuid::Uuid::new_v4().simple()),
        heartbeat: Duration::from_secs(10),
        declare: true,
        delivery_limit: 2,
        service_users: std::collections::BTreeSet::new(),
        tls: metagov::bus::Tls::default(),
    }
}

pub(crate) async fn connect(settings: &Settings) -> Bus {
    Bus::connect(settings, CancellationToken::new()).await.expect("the URL is usable")
}

/// Tells a story on a bus of its own.
pub(crate) async fn tell<F: Future<Output = ()> + Send + 'static>(on: On, story: impl FnOnce(Rig) -> F) {
    let url = match on {
        On::RabbitMq => amqp_url(),
        On::InProcess => "memory".to_owned(),
    };
    let settings = settings(&url);
    let rig = Rig { bus: connect(&settings).await, settings };
    let told = tokio::spawn(story(rig.clone())).await;
    rig.bus.close().await;
    match on {
        On::RabbitMq => remove(&rig.settings.prefix).await,
        On::InProcess => {}
    }
    if let Err(failure) = told {
        std::panic::resume_unwind(failure.into_panic());
    }
}

/// Waits for what should happen soon.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let Ok(value) = tokio::time::timeout(PATIENCE, future).await else {
        panic!("{what} did not happen within {PATIENCE:?}");
    };
    value
}

pub(crate) async fn next(deliveries: &mut Deliveries) -> Delivery {
    soon("a delivery", deliveries.recv()).await.expect("the deliveries go on")
}

/// A raw channel with the broker, as a foreign client has one.
pub(crate) async fn raw_channel() -> (Connection, Channel) {
    raw_channel_to(&amqp_url()).await
}

pub(crate) async fn raw_channel_to(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.expect("the broker answers");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

/// Removes everything under a prefix.
pub(crate) async fn remove(prefix: &str) {
    let (connection, channel) = raw_channel().await;
    let topology = Topology::new(prefix, &[plugin()], 2);
    for queue in topology.queues {
        channel.queue_delete(queue.name.into(), QueueDeleteOptions::default()).await.expect("the queue goes");
    }
    for exchange in topology.exchanges {
        channel.exchange_delete(exchange.name.into(), ExchangeDeleteOptions::default()).await.expect("it goes");
    }
    connection.close(200, "done".into()).await.expect("a farewell");
}

#[expect(clippy::needless_pass_by_value, reason = "stories read better without ampersands")]
pub(crate) fn message(routing_key: &str, id: impl ToString) -> Message {
    Message {
        routing_key: routing_key.to_owned(),
        body: Bytes::from_static(b"{}"),
        properties: Properties { message_id: Some(id.to_string()), ..Properties::default() },
    }
}

pub(crate) fn command(id: impl ToString) -> Outgoing {
    Outgoing { to: Destination::Commands, message: message("action.randomness.random-int", id) }
}

pub(crate) fn event(routing_key: &str, id: impl ToString) -> Outgoing {
    Outgoing { to: Destination::Events, message: message(routing_key, id) }
}

pub(crate) fn id(message: &Message) -> &str {
    message.properties.message_id.as_deref().expect("it has an id")
}
