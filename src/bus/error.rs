//! What can go wrong at the bus, one variant for each operation that a caller may await.
//!
//! A broker that is away is no error: sessions are rebuilt for ever and calls wait. Only what waiting cannot heal gets
//! here. Messages never repeat a credential or a body. Up: [`super::Bus`], which returns these. Down: the broker.

use std::io;

use thiserror::Error;

/// Why a call on the [`super::Bus`] gave up.
#[derive(Debug, Error)]
pub enum BusError {
    /// The broker's address cannot be used, whatever the broker does.
    #[error("broker.url cannot be used: {reason}; write amqp://user:password@host:5672/vhost or `memory`")]
    Url {
        /// What is wrong with it, without its password.
        reason: String,
    },
    /// The bus was closed while, or before, the call waited.
    #[error("the bus is shut down")]
    Closed,
    /// [`super::Bus::subscribe`]: the queue could not be declared, bound or consumed.
    #[error("cannot subscribe to events")]
    Subscribe(#[source] BrokerError),
    /// [`super::Bus::apply_topology`]: the broker refused a declaration.
    #[error("cannot declare `{entity}`; where it exists with other arguments, delete it once it is empty")]
    Declare {
        /// The exchange or queue.
        entity: String,
        /// The broker's words.
        source: BrokerError,
    },
    /// [`super::Bus::dead_letters`]: the dead letters could not be read or settled; those that were not settled stay.
    #[error("cannot read the dead letters")]
    DeadLetters(#[source] BrokerError),
    /// [`super::Bus::serve`]: the socket of a running `metagov dev` cannot accept connections.
    #[error("cannot serve the bus on its socket")]
    Serve(#[source] io::Error),
    /// A call over the socket of a running `metagov dev` failed.
    #[error("cannot use the bus of the running `metagov dev`; is it still there?")]
    Socket(#[source] SocketError),
}

/// What the broker, or the way to it, said.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct BrokerError(Box<dyn std::error::Error + Send + Sync>);

impl BrokerError {
    pub(super) fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// What went wrong on the socket.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Nobody listens there, or the connection broke.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// A line that is not of the protocol.
    #[error("a line is not of this protocol; are both sides the same version?")]
    Protocol(#[from] serde_json::Error),
    /// A line over the limit.
    #[error("a line is longer than {limit} bytes")]
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// The other side closed the connection in the middle of a call; a wrong token looks like this, too.
    #[error("the other side hung up")]
    HungUp,
    /// The other side refused the call.
    #[error("{0}")]
    Refused(String),
}
