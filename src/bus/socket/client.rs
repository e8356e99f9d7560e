//! The other process's end of the socket: each call opens a connection, asks, and reads the answer.
//!
//! Nothing is tried again here: if `metagov dev` is gone, so is everything in its bus. Up: the command line. Down:
//! [`super::server`].

use std::{io, net::SocketAddr, time::Duration};

use metagov_sdk::contract::Name;
use secrecy::{ExposeSecret, SecretString};
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{Hello, LINE_LIMIT, Lines, Request, Response, Verdicts};
use crate::bus::{BusError, DeadLetter, DeadVerdict, Deliveries, Outgoing, Published, SocketError, Subscription};

/// How many messages a subscriber that does not read holds here; the socket holds the others.
const SUBSCRIPTION_BUFFER: usize = 64;

/// How long the other process may take to answer: everything is in its memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// The bus of another process.
#[derive(Debug)]
pub(in crate::bus) struct Client {
    address: SocketAddr,
    token: SecretString,
}

impl Client {
    pub(in crate::bus) async fn connect(address: SocketAddr, token: SecretString) -> Result<Self, BusError> {
        let client = Self { address, token };
        client.call(&Request::Greet).await.map_err(BusError::Socket)?;
        Ok(client)
    }

    pub(in crate::bus) async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<Published>, BusError> {
        match self.call(&Request::Publish(messages)).await.map_err(BusError::Socket)? {
            (_, Response::Published(published)) => Ok(published),
            (_, other) => Err(BusError::Socket(unexpected(&other))),
        }
    }

    pub(in crate::bus) fn consume(&self) -> Deliveries {
        tracing::warn!(address = %self.address, "the bus of `metagov dev` is not consumed through its socket");
        let (_, incoming) = mpsc::channel(1);
        Deliveries::new(incoming, CancellationToken::new())
    }

    pub(in crate::bus) async fn subscribe(&self, patterns: &[String]) -> Result<Subscription, BusError> {
        let (mut lines, queue) =
            match self.call(&Request::Subscribe(patterns.to_vec())).await.map_err(BusError::Socket)? {
                (lines, Response::Subscribed { queue }) => (lines, queue),
                (_, other) => return Err(BusError::Socket(unexpected(&other))),
            };
        let (outgoing, incoming) = mpsc::channel(SUBSCRIPTION_BUFFER);
        tokio::spawn(async move {
            loop {
                let line = tokio::select! {
                    () = outgoing.closed() => return,
                    line = lines.next::<Response>() => line,
                };
                let Ok(Response::Message(message)) = line else { return };
                if outgoing.send(*message).await.is_err() {
                    return;
                }
            }
        });
        Ok(Subscription::new(queue, incoming))
    }

    pub(in crate::bus) async fn apply_topology(&self, plugins: &[Name]) -> Result<(), BusError> {
        self.call(&Request::ApplyTopology(plugins.to_vec())).await.map_err(BusError::Socket)?;
        Ok(())
    }

    pub(in crate::bus) async fn dead_letters(
        &self,
        decide: &mut (dyn FnMut(&DeadLetter) -> DeadVerdict + Send),
    ) -> Result<Vec<DeadLetter>, BusError> {
        let (mut lines, letters) = match self.call(&Request::DeadLetters).await.map_err(BusError::Socket)? {
            (lines, Response::DeadLetters(letters)) => (lines, letters),
            (_, other) => return Err(BusError::Socket(unexpected(&other))),
        };
        let verdicts = Verdicts(letters.iter().map(decide).collect());
        lines.send(&verdicts).await.map_err(BusError::Socket)?;
        answer(&mut lines).await.map_err(BusError::Socket)?;
        Ok(letters)
    }

    async fn call(&self, request: &Request) -> Result<(Lines, Response), SocketError> {
        let late =
            |_| SocketError::Io(io::Error::new(io::ErrorKind::TimedOut, "it takes connections and does not answer"));
        timeout(PATIENCE, self.ask(request)).await.map_err(late)?
    }

    async fn ask(&self, request: &Request) -> Result<(Lines, Response), SocketError> {
        let mut lines = Lines::new(TcpStream::connect(self.address).await?, LINE_LIMIT);
        lines.send(&Hello { token: self.token.expose_secret().to_owned() }).await?;
        lines.send(request).await?;
        let response = answer(&mut lines).await?;
        Ok((lines, response))
    }
}

async fn answer(lines: &mut Lines) -> Result<Response, SocketError> {
    match lines.next().await? {
        Response::Failed(reason) => Err(SocketError::Refused(reason)),
        response => Ok(response),
    }
}

fn unexpected(response: &Response) -> SocketError {
    let kind = match response {
        Response::Done => "done",
        Response::Published(_) => "published",
        Response::Subscribed { .. } => "subscribed",
        Response::Message(_) => "message",
        Response::DeadLetters(_) => "dead_letters",
        Response::Failed(_) => "failed",
    };
    SocketError::Refused(format!("it answered `{kind}` to something else; are both sides the same version?"))
}
