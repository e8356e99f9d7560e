//! Listens to everything that anybody publishes, by the broker's own tracing: whatever goes where it should not is heard,
//! whether a queue is bound for it or not.
//!
//! It says where messages were published to, not what became of them. Up: scenarios that judge where answers go.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use futures::StreamExt;
use lapin::{
    Connection, ConnectionProperties,
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use tokio_util::task::AbortOnDropHandle;

use crate::servers::Server;

/// Publications by exchange (empty for the default one) and routing key.
pub(crate) type Heard = BTreeMap<(String, String), usize>;

/// A wiretap; it ends with [`Self::end`].
pub(crate) struct Wiretap {
    broker: Server,
    heard: Arc<Mutex<Heard>>,
    _listener: AbortOnDropHandle<()>,
}

impl Wiretap {
    /// Listens from now on.
    ///
    /// # Panics
    /// Where the broker does not let us.
    pub(crate) async fn start(broker: &Server) -> Self {
        let connection = Connection::connect(&broker.url, ConnectionProperties::default()).await;
        let connection = connection.expect("the broker answers");
        let channel = connection.create_channel().await.expect("the broker answers");
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare("".into(), exclusive, FieldTable::default()).await;
        let queue = queue.expect("a queue of one's own can be declared").name().clone();
        let (exchange, options) = ("amq.rabbitmq.trace".into(), QueueBindOptions::default());
        channel
            .queue_bind(queue.clone(), exchange, "publish.#".into(), options, FieldTable::default())
            .await
            .expect("the exchange of traces is always there");
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let mut traces =
            channel.basic_consume(queue, "".into(), options, FieldTable::default()).await.expect("it is ours");
        broker.ctl(&["trace_on"]).await;
        let heard = Arc::<Mutex<Heard>>::default();
        let kept = Arc::clone(&heard);
        let listener = AbortOnDropHandle::new(tokio::spawn(async move {
            let _connection = connection;
            while let Some(Ok(trace)) = traces.next().await {
                let headers = trace.properties.headers().clone().unwrap_or_default();
                let place = (text(headers.inner().get("exchange_name")), text(headers.inner().get("routing_keys")));
                *kept.lock().expect("nobody panics while holding it").entry(place).or_default() += 1;
            }
        }));
        Self { broker: broker.clone(), heard, _listener: listener }
    }

    /// What was heard so far.
    pub(crate) fn heard(&self) -> Heard {
        self.heard.lock().expect("nobody panics while holding it").clone()
    }

    /// Lets the broker be.
    pub(crate) async fn end(self) -> Heard {
        self.broker.ctl(&["trace_off"]).await;
        self.heard()
    }
}

/// A name, or the first of a list of names.
fn text(value: Option<&AMQPValue>) -> String {
    match value {
        Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        Some(AMQPValue::FieldArray(list)) => text(list.as_slice().first()),
        _ => String::new(),
    }
}
