//! The message bus: commands in, events out, through RabbitMQ or in memory, behind one small handle.
//!
//! The rest of the service knows [`Bus`] and plain data, no AMQP. [`rabbitmq`] is the real thing, [`in_process`] has
//! the same semantics without a broker, and [`socket`] lends the in-process bus of a running `metagov dev` to other
//! commands. What is promised: a published message is confirmed or published again; a delivery is acknowledged by its
//! receipt or comes again; a lost connection is rebuilt for ever. What is not: exactly-once, which is the inbox's
//! affair. Up: drivers, at the broker. Down: the worker, which consumes [`Deliveries`].

mod dead_letter;
mod delivery;
mod error;
pub mod in_process;
mod message;
pub mod permissions;
pub mod rabbitmq;
mod room;
pub mod socket;
mod tls;
pub mod topology;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use metagov_sdk::contract::Name;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use dead_letter::{DeadLetter, DeadVerdict, has_expired};
pub use delivery::{Deliveries, Delivery, Receipt, Subscription};
pub use error::{BrokerError, BusError, SocketError};
pub use message::{
    ATTEMPT_HEADER, DelayStep, Destination, EXPIRES_HEADER, Message, Outgoing, Properties, Published, REASON_HEADER,
    REPLAYED_HEADER, Refusal, SUSPECT_HEADER, THROTTLED_HEADER, is_reply_queue,
};
pub use room::Room;
pub use tls::Tls;
pub use topology::{Queue, Topology};

use in_process::InProcess;
use rabbitmq::RabbitMq;
use socket::Client;

/// Which bus, and how to use it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `amqp://user:password@host:port/vhost`, `amqps://…`, or `memory` for the in-process bus.
    pub url: SecretString,
    /// First word of every exchange and queue.
    pub prefix: String,
    /// Both sides take the link for dead after two of these without a sign of life.
    pub heartbeat: Duration,
    /// Whether sessions declare what they need. Otherwise they only look, and `metagov topology apply` declares.
    pub declare: bool,
    /// After how many returns a message is set aside; see [`Topology`].
    pub delivery_limit: u32,
    /// The users whose word about the author of a command counts, our own among them; none without tenancy.
    pub service_users: BTreeSet<String>,
    /// Whom `amqps://…` trusts.
    pub tls: Tls,
}

/// Whom a URL connects, and to what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The broker's user.
    pub user: String,
    /// The virtual host.
    pub vhost: String,
    /// `amqp` or `amqps`.
    pub protocol: &'static str,
    /// Host and port.
    pub host: String,
}

impl Login {
    /// `None` for the bus in memory, which has no users.
    ///
    /// # Errors
    /// [`BusError::Url`] where it is no URL of a broker.
    pub fn of(url: &SecretString) -> Result<Option<Self>, BusError> {
        if url.expose_secret() == MEMORY { Ok(None) } else { rabbitmq::login(url).map(Some) }
    }
}

/// The URL of the bus in memory.
const MEMORY: &str = "memory";

/// On what terms a queue is consumed.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// Deliveries that are not acknowledged, at most; at least 1.
    pub prefetch: u16,
    /// Consumers of lower priority get only what those of higher priority have no room for.
    pub priority: u8,
    /// What the bodies may take; without it, as much as they take.
    pub room: Option<Room>,
}

/// What is at a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Messages that no consumer has been handed.
    pub waiting: u32,
    /// Consumers.
    pub consumers: u32,
}

/// What stands, and where something does not: what is wrong, in words for whoever runs the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Both connections are there, and the broker takes messages.
    pub broker: Result<(), String>,
    /// Every consumer is at its queue.
    pub queues: Result<(), String>,
}

impl Standing {
    fn of(broker: &[String], queues: &[String]) -> Self {
        let said = |wrong: &[String]| if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) };
        Self { broker: said(broker), queues: said(queues) }
    }
}

/// A handle on the bus; clones are cheap and share the connections.
#[derive(Debug, Clone)]
pub struct Bus(Kind);

#[derive(Debug, Clone)]
enum Kind {
    RabbitMq(Arc<RabbitMq>),
    InProcess(Arc<InProcess>),
    Socket(Arc<Client>),
}

impl Bus {
    /// Starts the sessions with the broker, or the in-process bus for the URL `memory`. A broker that is away is no
    /// error: the sessions try for ever. `shutdown` closes the bus at once; see [`Bus::close`] for the gentle way.
    ///
    /// # Errors
    /// [`BusError::Url`] where the URL cannot be used at all.
    #[expect(clippy::unused_async, reason = "the sessions are tasks: the signature says that a runtime is needed")]
    pub async fn connect(settings: &Settings, shutdown: CancellationToken) -> Result<Self, BusError> {
        Ok(Self(if settings.url.expose_secret() == MEMORY {
            Kind::InProcess(InProcess::start(&settings.prefix, settings.delivery_limit, &shutdown))
        } else {
            Kind::RabbitMq(RabbitMq::start(settings, shutdown)?)
        }))
    }

    /// A bus in memory: for tests and `metagov dev`. Everything in it ends with the process.
    #[must_use]
    pub fn in_process(prefix: &str) -> Self {
        const DELIVERY_LIMIT: u32 = 100;
        Self(Kind::InProcess(InProcess::start(prefix, DELIVERY_LIMIT, &CancellationToken::new())))
    }

    /// The in-process bus of a running `metagov dev`, through its socket.
    ///
    /// # Errors
    /// [`BusError::Socket`] where nobody listens there or the token is not the right one.
    pub async fn connect_socket(address: SocketAddr, token: SecretString) -> Result<Self, BusError> {
        Ok(Self(Kind::Socket(Arc::new(Client::connect(address, token).await?))))
    }

    /// Lends this bus to other processes that know the token, until the bus is closed. For a loopback address only:
    /// nothing is encrypted.
    ///
    /// # Errors
    /// [`BusError::Serve`] where the listener fails.
    pub async fn serve(&self, listener: TcpListener, token: SecretString) -> Result<(), BusError> {
        socket::serve(self, listener, token).await
    }

    /// Publishes all messages in their order and waits until the broker has taken responsibility for each, publishing
    /// again over new sessions as often as it takes. A message whose fate is unknown is published twice rather than
    /// lost; then the order may differ. The answers are in the order of the messages.
    ///
    /// # Errors
    /// [`BusError::Closed`] once the bus is closed: the fate of all messages of this call is unknown. Over a socket also
    /// [`BusError::Socket`].
    pub async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<Published>, BusError> {
        match &self.0 {
            Kind::RabbitMq(bus) => bus.publish(messages).await,
            Kind::InProcess(bus) => bus.publish(messages),
            Kind::Socket(bus) => bus.publish(messages).await,
        }
    }

    /// Consumes a queue with at most `prefetch` deliveries that are not acknowledged (at least 1). The consumer is
    /// rebuilt for ever, whatever becomes of connection, channel or queue. Over a socket it ends at once.
    #[must_use]
    pub fn consume(&self, queue: Queue, prefetch: u16) -> Deliveries {
        self.consume_on(queue, Terms { prefetch, ..Terms::default() })
    }

    /// The same on further terms. The in-process bus knows the prefetch only: whatever it has is in memory, and there is
    /// one worker.
    #[must_use]
    pub fn consume_on(&self, queue: Queue, terms: Terms) -> Deliveries {
        let terms = Terms { prefetch: terms.prefetch.max(1), ..terms };
        match &self.0 {
            Kind::RabbitMq(bus) => bus.consume(queue, terms),
            Kind::InProcess(bus) => bus.consume(&queue, terms.prefetch),
            Kind::Socket(bus) => bus.consume(),
        }
    }

    /// Subscribes to the events whose routing keys match one of the patterns; returns once the queue is bound, so that
    /// nothing published afterwards is missed. Without patterns it is a queue for replies only.
    ///
    /// # Errors
    /// [`BusError::Subscribe`] where the broker refuses, [`BusError::Closed`] once the bus is closed.
    pub async fn subscribe(&self, patterns: &[String]) -> Result<Subscription, BusError> {
        match &self.0 {
            Kind::RabbitMq(bus) => bus.subscribe(patterns).await,
            Kind::InProcess(bus) => bus.subscribe(patterns),
            Kind::Socket(bus) => bus.subscribe(patterns).await,
        }
    }

    /// Declares everything that these plugins need; harmless where it stands already.
    ///
    /// # Errors
    /// [`BusError::Declare`] where something of that name has other arguments or the permission is missing.
    pub async fn apply_topology(&self, plugins: &[Name]) -> Result<(), BusError> {
        match &self.0 {
            Kind::RabbitMq(bus) => bus.apply_topology(plugins).await,
            Kind::InProcess(bus) => {
                bus.apply_topology(plugins);
                Ok(())
            }
            Kind::Socket(bus) => bus.apply_topology(plugins).await,
        }
    }

    /// Shows each dead letter, oldest first, and does with it as `decide` says. Returns those that were shown.
    ///
    /// # Errors
    /// [`BusError::DeadLetters`] where the broker cannot be asked: what was not settled stays. [`BusError::Closed`].
    pub async fn dead_letters(
        &self,
        decide: &mut (dyn FnMut(&DeadLetter) -> DeadVerdict + Send),
    ) -> Result<Vec<DeadLetter>, BusError> {
        match &self.0 {
            Kind::RabbitMq(bus) => bus.dead_letters(decide).await,
            Kind::InProcess(bus) => bus.dead_letters(decide),
            Kind::Socket(bus) => bus.dead_letters(decide).await,
        }
    }

    /// How much waits in a queue, and for how many consumers; a queue that is missing has none of either.
    ///
    /// # Errors
    /// [`BusError::Closed`] once the bus is closed, and always over a socket: workers are the affair of the process that
    /// lends it.
    pub async fn depth(&self, queue: &Queue) -> Result<Depth, BusError> {
        match &self.0 {
            Kind::RabbitMq(bus) => bus.depth(queue).await,
            Kind::InProcess(bus) => bus.depth(queue),
            Kind::Socket(_) => Err(BusError::Closed),
        }
    }

    /// Ends all [`Deliveries`]: what was fetched but not handed out goes back at once, receipts in hand stay good.
    pub fn stop_consuming(&self) {
        match &self.0 {
            Kind::RabbitMq(bus) => bus.stop_consuming(),
            Kind::InProcess(bus) => bus.stop_consuming(),
            Kind::Socket(_) => {}
        }
    }

    /// Ends the session of everybody who consumes now, as a broker does that hears nothing of them for long: what they have
    /// not acknowledged goes to others. On the in-process bus, for tests.
    #[cfg(feature = "failpoints")]
    pub fn lose_consumers(&self) {
        if let Kind::InProcess(bus) = &self.0 {
            bus.lose_consumers();
        }
    }

    /// What stands at this moment, and what does not.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match &self.0 {
            Kind::RabbitMq(bus) => bus.standing(),
            Kind::InProcess(_) | Kind::Socket(_) => Standing::of(&[], &[]),
        }
    }

    /// Waits for the first connection, and comes back with the reason where an attempt failed; the sessions go on trying.
    ///
    /// # Errors
    /// What is wrong, in words for the operator who set the address.
    pub async fn connected(&self) -> Result<(), String> {
        match &self.0 {
            Kind::RabbitMq(bus) => bus.connected().await,
            Kind::InProcess(_) | Kind::Socket(_) => Ok(()),
        }
    }

    /// Whether both sessions with the broker stand.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        match &self.0 {
            Kind::RabbitMq(bus) => bus.is_connected(),
            Kind::InProcess(bus) => bus.is_open(),
            Kind::Socket(_) => true,
        }
    }

    /// Waits until every consumer that was asked for is at its queue, or the bus is closed.
    pub async fn wait_until_consuming(&self) {
        match &self.0 {
            Kind::RabbitMq(bus) => bus.wait_until_consuming().await,
            Kind::InProcess(_) | Kind::Socket(_) => {}
        }
    }

    /// Stops consuming, sends the acknowledgements that are under way, and closes the connections.
    pub async fn close(&self) {
        match &self.0 {
            Kind::RabbitMq(bus) => bus.close().await,
            Kind::InProcess(bus) => bus.close(),
            Kind::Socket(_) => {}
        }
    }

    /// Resolves once the bus is closed.
    pub(crate) async fn closed(&self) {
        match &self.0 {
            Kind::RabbitMq(bus) => bus.closed().await,
            Kind::InProcess(bus) => bus.closed().await,
            Kind::Socket(_) => std::future::pending().await,
        }
    }
}
