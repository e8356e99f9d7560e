//! The in-process bus of a running `metagov dev`, for other processes: one JSON document on each line, over a loopback
//! socket, for whoever knows its random token.
//!
//! One connection for one call: hello with the token, request, answer, and for a subscription the messages as they
//! come. [`server`] lends the bus, [`client`] stands in for it in `metagov action`, `events`, `dead` and their like.
//! Consuming is not lent: workers belong to `dev` itself. Up: [`super::Bus`] there. Down: [`super::Bus`] here.

mod client;
mod server;

use futures::{SinkExt, StreamExt};
use metagov_sdk::contract::Name;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::net::TcpStream;
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};

use super::{DeadLetter, DeadVerdict, Message, Outgoing, Published, SocketError};

pub(super) use client::Client;
pub(super) use server::serve;

/// The longest line of somebody who has not shown the token.
const HELLO_LIMIT: usize = 1024;
/// The longest line after that: a list of many dead letters.
const LINE_LIMIT: usize = 64 * 1024 * 1024;

/// The first line of a connection.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    token: String,
}

/// The second line: what is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    /// Only whether the token is right.
    Greet,
    Publish(Vec<Outgoing>),
    Subscribe(Vec<String>),
    ApplyTopology(Vec<Name>),
    /// Answered by the letters; then [`Verdicts`] are expected.
    DeadLetters,
}

/// The third line of a call about dead letters, one verdict for each letter.
#[derive(Debug, Serialize, Deserialize)]
struct Verdicts(Vec<DeadVerdict>);

/// The lines that come back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Response {
    Done,
    Published(Vec<Published>),
    Subscribed { queue: String },
    Message(Box<Message>),
    DeadLetters(Vec<DeadLetter>),
    Failed(String),
}

/// A connection that speaks in lines.
struct Lines(Framed<TcpStream, LinesCodec>);

impl Lines {
    fn new(stream: TcpStream, limit: usize) -> Self {
        Self(Framed::new(stream, LinesCodec::new_with_max_length(limit)))
    }

    fn with_limit(self, limit: usize) -> Self {
        Self(self.0.map_codec(|_| LinesCodec::new_with_max_length(limit)))
    }

    async fn send(&mut self, line: &impl Serialize) -> Result<(), SocketError> {
        self.0.send(serde_json::to_string(line)?).await.map_err(failure)
    }

    /// The next line. Safe to cancel.
    async fn next<T: DeserializeOwned>(&mut self) -> Result<T, SocketError> {
        let line = self.0.next().await.ok_or(SocketError::HungUp)?.map_err(failure)?;
        Ok(serde_json::from_str(&line)?)
    }
}

fn failure(error: LinesCodecError) -> SocketError {
    match error {
        LinesCodecError::MaxLineLengthExceeded => SocketError::TooLong { limit: LINE_LIMIT },
        LinesCodecError::Io(error) => SocketError::Io(error),
    }
}
