//! The bus on RabbitMQ: two supervised connections, and what lives on them. The only place that knows lapin.
//!
//! [`session`] keeps a connection up, which [`transport`] opens and [`sanitiser`] keeps readable; [`consumer`] with its [`acknowledger`], [`publisher`] and [`subscription`] rebuild
//! themselves on it; [`declare`] puts the topology there; [`wire`] translates messages; what does not stand is written on
//! the board of [`standing`]. Nothing is remembered here: what
//! is not confirmed or acknowledged when a connection dies is published or delivered again. Up: the broker. Down:
//! [`super::Bus`].

mod acknowledger;
mod author;
mod consumer;
mod dead_letters;
mod declare;
#[cfg(feature = "failpoints")]
pub mod forwarded;
mod frames;
mod outage;
mod publisher;
mod refusals;
mod sanitiser;
mod session;
mod standing;
mod subscription;
mod transport;
mod wire;

use std::{sync::Arc, time::Duration};

use lapin::{
    Channel,
    uri::{AMQPScheme, AMQPUri},
};
use metagov_sdk::contract::Name;
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    BrokerError, BusError, DeadLetter, DeadVerdict, Deliveries, Depth, Login, Outgoing, Published, Queue, Settings,
    Standing, Subscription, Terms, Topology, delivery::Settlement, topology::Names,
};
use author::Authors;
use consumer::{Census, Consumer};
use declare::Refused;
use publisher::Publisher;
use session::Session;
use standing::{Board, Part};
use subscription::Subscriber;
use transport::Address;

/// Directives for the log filter. lapin logs the whole of each returned message, body and all, as a warning, and as
/// errors what the sessions report themselves, in their words and once.
pub const LOG_DIRECTIVES: &str = "lapin=off";

/// For acknowledgements that are under way when the bus closes.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the log says that the first connection is still awaited.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What an alarm means to us, and what to do about it.
const BLOCKED: &str = "RabbitMQ is short of memory or disk and takes no messages: publishing waits, acknowledging goes \
                       on; `rabbitmq-diagnostics alarms` says what is short";

/// The bus on RabbitMQ.
#[derive(Debug)]
pub struct RabbitMq {
    address: Address,
    consuming: Session,
    publishing: Session,
    publisher: Publisher,
    declaring: Arc<Declaring>,
    board: Board,
    census: Arc<watch::Sender<Census>>,
    /// Consumers, acknowledgers, subscriptions: those that may have something to say before the connections close.
    tasks: TaskTracker,
    sessions: TaskTracker,
    stopped: CancellationToken,
    closed: CancellationToken,
    /// The connections may go.
    gone: CancellationToken,
}

/// Whether, and what, sessions declare before they use it.
#[derive(Debug)]
struct Declaring {
    names: Names,
    prefix: String,
    delivery_limit: u32,
    wanted: bool,
    authors: Authors,
}

impl Declaring {
    /// What everybody shares.
    async fn shared(&self, channel: &Channel) -> Result<(), Refused> {
        self.declare(channel, &[]).await
    }

    /// What this queue needs.
    async fn queue(&self, channel: &Channel, queue: &Queue) -> Result<(), Refused> {
        match queue {
            Queue::Plugin(plugin) | Queue::Poll(plugin) => self.declare(channel, std::slice::from_ref(plugin)).await,
            Queue::Core | Queue::Unrouted | Queue::Expired => self.shared(channel).await,
        }
    }

    async fn declare(&self, channel: &Channel, plugins: &[Name]) -> Result<(), Refused> {
        if self.wanted { declare::declare(channel, &self.topology(plugins)).await } else { Ok(()) }
    }

    fn topology(&self, plugins: &[Name]) -> Topology {
        Topology::new(&self.prefix, plugins, self.delivery_limit)
    }
}

impl RabbitMq {
    pub(super) fn start(settings: &Settings, shutdown: CancellationToken) -> Result<Arc<Self>, BusError> {
        let address = address(settings)?;
        let declaring = Arc::new(Declaring {
            names: Names::new(&settings.prefix),
            prefix: settings.prefix.clone(),
            delivery_limit: settings.delivery_limit,
            wanted: settings.declare,
            authors: Authors::new(&address.uri.authority.userinfo.username, &settings.service_users),
        });
        let (stopped, closed, gone) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let (tasks, sessions) = (TaskTracker::new(), TaskTracker::new());

        let board = Board::default();
        let (consuming, life) = Session::new(address.clone(), "consuming", &board, gone.clone());
        sessions.spawn(life);
        let (publishing, life) = Session::new(address.clone(), "publishing", &board, gone.clone());
        sessions.spawn(life);
        let notices = [board.line(Part::Broker), board.line(Part::Broker)];
        let (publisher, life) = Publisher::new(publishing.clone(), Arc::clone(&declaring), notices, closed.clone());
        tasks.spawn(life);

        let bus = Arc::new(Self {
            address,
            consuming,
            publishing,
            publisher,
            declaring,
            board,
            census: Arc::default(),
            tasks,
            sessions,
            stopped,
            closed,
            gone,
        });
        let watched = Arc::downgrade(&bus);
        tokio::spawn(async move {
            shutdown.cancelled().await;
            if let Some(bus) = watched.upgrade() {
                bus.close().await;
            }
        });
        Ok(bus)
    }

    pub(super) async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<Published>, BusError> {
        self.publisher.publish(messages).await
    }

    pub(super) fn consume(&self, queue: Queue, terms: Terms) -> Deliveries {
        let (outgoing, incoming) = mpsc::channel(usize::from(terms.prefetch));
        let consumer = Consumer {
            session: self.consuming.clone(),
            queue,
            prefetch: terms.prefetch,
            priority: terms.priority,
            share: terms.room.map(|room| room.share()),
            declaring: Arc::clone(&self.declaring),
            outgoing,
            census: Arc::clone(&self.census),
            tasks: self.tasks.clone(),
            stopped: self.stopped.clone(),
            closed: self.closed.clone(),
        };
        // Here and not in its task: whoever waits for all consumers next must not overlook this one.
        let outage = consumer.announce(self.board.line(Part::Queues));
        self.tasks.spawn(consumer.run(outage));
        Deliveries::new(incoming, self.stopped.clone())
    }

    pub(super) async fn subscribe(&self, patterns: &[String]) -> Result<Subscription, BusError> {
        let subscriber = Subscriber {
            session: self.consuming.clone(),
            declaring: Arc::clone(&self.declaring),
            patterns: patterns.to_vec(),
            closed: self.closed.clone(),
        };
        let (subscription, life) = subscriber.start().await?;
        self.tasks.spawn(life);
        Ok(subscription)
    }

    pub(super) async fn apply_topology(&self, plugins: &[Name]) -> Result<(), BusError> {
        let topology = self.declaring.topology(plugins);
        self.until_closed(async {
            loop {
                let link = self.consuming.link().await.ok_or(BusError::Closed)?;
                let applied = match link.create_channel().await {
                    Ok(channel) => declare::declare(&channel, &topology).await,
                    Err(error) => Err(Refused { entity: topology.exchanges[0].name.clone(), error }),
                };
                match applied {
                    Ok(()) => return Ok(()),
                    Err(Refused { entity, error }) if error.is_amqp_error() => {
                        return Err(BusError::Declare { entity, source: BrokerError::new(error) });
                    }
                    // The link broke on the way: on the next one, then.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        })
        .await
    }

    pub(super) async fn dead_letters(
        &self,
        decide: &mut (dyn FnMut(&DeadLetter) -> DeadVerdict + Send),
    ) -> Result<Vec<DeadLetter>, BusError> {
        self.until_closed(dead_letters::settle(&self.address, &self.declaring, decide)).await
    }

    pub(super) async fn depth(&self, queue: &Queue) -> Result<Depth, BusError> {
        let queue = declare::name(&self.declaring.names.queue(queue));
        self.until_closed(async {
            loop {
                let link = self.consuming.link().await.ok_or(BusError::Closed)?;
                match declare::look(&link, queue.clone()).await {
                    Ok(depth) => return Ok(depth),
                    Err(error) if error.is_amqp_soft_error() => return Ok(Depth::default()),
                    // The link broke on the way: on the next one, then.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        })
        .await
    }

    async fn until_closed<T>(&self, work: impl Future<Output = Result<T, BusError>>) -> Result<T, BusError> {
        tokio::select! {
            result = work => result,
            () = self.closed.cancelled() => Err(BusError::Closed),
        }
    }

    pub(super) fn stop_consuming(&self) {
        self.stopped.cancel();
    }

    pub(super) fn is_connected(&self) -> bool {
        self.consuming.is_connected() && self.publishing.is_connected()
    }

    pub(super) async fn connected(&self) -> Result<(), String> {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        while !self.is_connected() {
            // Both connections fail for the same reason, or one does for the better one.
            if let Some(cause) = self.board.causes(Part::Broker).pop_first() {
                return Err(cause);
            }
            looks.tick().await;
        }
        Ok(())
    }

    pub(super) fn standing(&self) -> Standing {
        let mut broker = self.board.wrong(Part::Broker);
        if self.publishing.is_blocked() {
            broker.push(BLOCKED.to_owned());
        }
        // lapin takes a moment to tell of a connection that broke.
        if broker.is_empty() && !self.is_connected() {
            broker.push("a connection broke".to_owned());
        }
        Standing::of(&broker, &self.board.wrong(Part::Queues))
    }

    pub(super) async fn wait_until_consuming(&self) {
        let mut census = self.census.subscribe();
        tokio::select! {
            _ = census.wait_for(|census| census.consuming == census.wanted) => {}
            () = self.closed.cancelled() => {}
        }
    }

    pub(super) async fn close(&self) {
        self.stopped.cancel();
        self.closed.cancel();
        self.tasks.close();
        if timeout(DRAIN_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("the broker took too long to take the last acknowledgements; it will deliver again");
        }
        self.gone.cancel();
        self.sessions.close();
        self.sessions.wait().await;
    }

    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

impl Drop for RabbitMq {
    /// The last handle is gone: nothing can be asked of the sessions any more.
    fn drop(&mut self) {
        self.stopped.cancel();
        self.closed.cancel();
        self.gone.cancel();
    }
}

/// Who connects by this URL, and to which virtual host.
///
/// # Errors
/// [`BusError::Url`] where it is none.
pub(super) fn login(url: &SecretString) -> Result<Login, BusError> {
    let AMQPUri { scheme, authority, vhost, .. } = parse(url)?;
    let protocol = if scheme == AMQPScheme::AMQPS { "amqps" } else { "amqp" };
    let host = format!("{}:{}", authority.host, authority.port);
    Ok(Login { user: authority.userinfo.username, vhost, protocol, host })
}

fn parse(url: &SecretString) -> Result<AMQPUri, BusError> {
    let url = url.expose_secret();
    let mut uri: AMQPUri = url.parse().map_err(|reason: String| BusError::Url {
        // One of the parser's messages repeats what it was given, password included.
        reason: if reason.contains(url) { "it is no URL".to_owned() } else { reason },
    })?;
    // The parser takes an address of IP version 6 for no host, and puts localhost in its place.
    let authority = url.split_once("://").and_then(|(_, rest)| rest.split('/').next()).unwrap_or_default();
    let host = authority.rsplit('@').next().and_then(|host| host.strip_prefix('[')?.split_once(']'));
    if let Some((host, _)) = host {
        host.clone_into(&mut uri.authority.host);
    }
    Ok(uri)
}

/// The broker's address, with a heartbeat where the URL has none of its own.
fn address(settings: &Settings) -> Result<Address, BusError> {
    let mut uri = parse(&settings.url)?;
    let heartbeat = u16::try_from(settings.heartbeat.as_secs()).unwrap_or(u16::MAX).max(1);
    uri.query.heartbeat.get_or_insert(heartbeat);
    Ok(Address::new(uri, settings.tls.clone()))
}
