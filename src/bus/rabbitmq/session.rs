//! A session: one connection with the broker, kept up for ever by a task of its own.
//!
//! There are two, one for consuming and one for publishing: a broker that runs out of memory blocks a publishing
//! connection altogether, and acknowledgements must go out nevertheless
//! (<https://www.rabbitmq.com/docs/connections#flow-control-blocks>). lapin's own recovery stays off: it gives up after
//! some minutes, has no jitter, and leaves consumers waiting for ever after a channel error. Whatever goes wrong here,
//! the whole connection is dropped and built again, and with it all that was opened on it. Up: the broker. Down:
//! [`super::consumer`] and [`super::publisher`], which open channels on the current [`Link`].

use std::{ops::Deref, sync::Arc, time::Duration};

use futures::StreamExt;
use lapin::{Connection, Event};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    outage::Outage,
    standing::{Board, Part},
    transport::{Address, Unreachable},
};
use crate::telemetry::measures;

/// For the farewell; whoever does not answer is left.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// lapin tells of most ends of a connection by an event; the others are seen by looking.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A handle on a session; clones share the connection.
#[derive(Debug, Clone)]
pub(super) struct Session {
    links: watch::Receiver<Option<Link>>,
}

/// A connection that stands, or did a moment ago.
#[derive(Debug, Clone)]
pub(super) struct Link {
    connection: Arc<Connection>,
    broken: CancellationToken,
}

/// Why a session lost its connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    #[error("the connection broke")]
    Broken(#[source] lapin::Error),
    #[error("the connection was closed")]
    Closed,
    #[error("the connection was given up, for it no longer answered")]
    GivenUp,
}

impl Session {
    /// Starts to connect. The returned future is the session's life: spawn it; it ends after `closed`.
    pub(super) fn new(
        address: Address,
        role: &'static str,
        board: &Board,
        closed: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (publish, links) = watch::channel(None);
        let outage = Outage::of(format!("the connection for {role}")).told_on(board.line(Part::Broker));
        outage.begin();
        (Self { links }, supervise(address, role, outage, publish, closed))
    }

    /// The current link, waiting for one. `None` once the session is closed for good. Safe to cancel.
    pub(super) async fn link(&self) -> Option<Link> {
        let mut links = self.links.clone();
        links.wait_for(|link| link.as_ref().is_some_and(|link| !link.broken.is_cancelled())).await.ok()?.clone()
    }

    /// Whether the broker has said that it takes no messages on this connection for now.
    pub(super) fn is_blocked(&self) -> bool {
        self.links.borrow().as_ref().is_some_and(|link| link.status().blocked())
    }

    pub(super) fn is_connected(&self) -> bool {
        self.links.borrow().as_ref().is_some_and(|link| link.status().connected())
    }
}

impl Link {
    /// Resolves once the connection is lost.
    pub(super) async fn broken(&self) {
        self.broken.cancelled().await;
    }

    /// Has the connection dropped and built again: it accepts what is sent and never answers.
    pub(super) fn give_up(&self) {
        self.broken.cancel();
    }
}

impl Deref for Link {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

async fn supervise(
    address: Address,
    role: &'static str,
    mut outage: Outage,
    links: watch::Sender<Option<Link>>,
    closed: CancellationToken,
) {
    let life = async {
        let mut stood = false;
        loop {
            let lost = match address.connect(role).await {
                Ok(connection) => {
                    let connection = Arc::new(connection);
                    let link = Link { connection, broken: CancellationToken::new() };
                    tracing::debug!(role, "connected");
                    if std::mem::replace(&mut stood, true) {
                        metrics::counter!(measures::AMQP_RECONNECTS, "connection" => role).increment(1);
                    }
                    outage.over();
                    links.send_replace(Some(link.clone()));
                    let lost = watch_over(&link).await;
                    if link.status().blocked() {
                        tell_blocked(false);
                    }
                    links.send_replace(None);
                    link.broken.cancel();
                    part(&link).await;
                    lost
                }
                Err(unreachable) => unreachable.into(),
            };
            outage.failed(&lost).await;
        }
    };
    tokio::select! {
        () = closed.cancelled() => {}
        () = life => {}
    }
    if let Some(link) = links.send_replace(None) {
        link.broken.cancel();
        part(&link).await;
    }
}

/// Returns when the connection is no more. A heartbeat that stays away is one of lapin's errors.
async fn watch_over(link: &Link) -> Lost {
    let mut events = Box::pin(link.events_listener());
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            () = link.broken() => return Lost::GivenUp,
            event = events.next() => match event {
                // A channel's error is reported here, too: it ends the connection only if the status says so.
                Some(Event::Error(error)) if !link.status().connected() => return Lost::Broken(error),
                Some(Event::ConnectionBlocked(reason)) => {
                    tracing::warn!(reason, "the broker is short of resources and takes no messages for now");
                    tell_blocked(true);
                }
                Some(Event::ConnectionUnblocked) => {
                    tracing::info!("the broker takes messages again");
                    tell_blocked(false);
                }
                Some(_) => {}
                None => return Lost::Closed,
            },
            _ = looks.tick() => if !link.status().connected() {
                return Lost::Closed;
            },
        }
    }
}

fn tell_blocked(blocked: bool) {
    metrics::gauge!(measures::AMQP_BLOCKED).set(if blocked { 1.0 } else { 0.0 });
}

async fn part(link: &Link) {
    if link.status().connected() {
        // Nothing depends on the answer: what was not confirmed or acknowledged by now is repeated.
        let _ = timeout(CLOSE_TIMEOUT, link.close(200, "bye".into())).await;
    }
}
