//! The lending end of the socket: shows nothing to anybody who does not know the token.
//!
//! Up: the bus of this process. Down: [`super::client`] in another one.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::{HELLO_LIMIT, Hello, LINE_LIMIT, Lines, Request, Response, Verdicts};
use crate::bus::{Bus, BusError, DeadLetter, DeadVerdict, SocketError};

/// For the token to arrive: it is sent at once.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until the bus is closed; connections end with it.
pub(in crate::bus) async fn serve(bus: &Bus, listener: TcpListener, token: SecretString) -> Result<(), BusError> {
    let mut conversations = JoinSet::new();
    loop {
        tokio::select! {
            () = bus.closed() => return Ok(()),
            accepted = listener.accept() => {
                let (stream, _) = accepted.map_err(BusError::Serve)?;
                let (bus, token) = (bus.clone(), token.clone());
                conversations.spawn(async move {
                    if let Err(error) = talk(&bus, stream, &token).await {
                        tracing::debug!(%error, "a conversation on the bus's socket ended early");
                    }
                });
            }
            Some(_) = conversations.join_next() => {}
        }
    }
}

async fn talk(bus: &Bus, stream: TcpStream, token: &SecretString) -> Result<(), SocketError> {
    let mut lines = Lines::new(stream, HELLO_LIMIT);
    let hello: Hello = timeout(HELLO_TIMEOUT, lines.next()).await.map_err(|_| SocketError::HungUp)??;
    // Digests: how long the comparison takes says nothing about the token.
    if Sha256::digest(hello.token.as_bytes()) != Sha256::digest(token.expose_secret().as_bytes()) {
        return lines.send(&Response::Failed("the token is not the right one".to_owned())).await;
    }
    let mut lines = lines.with_limit(LINE_LIMIT);
    let request = lines.next().await?;
    if let Err(error) = answer(bus, &mut lines, request).await? {
        lines.send(&Response::Failed(error.to_string())).await?;
    }
    Ok(())
}

/// The outer error is the socket's: nobody is left to tell. The inner one is the bus's: the client is told.
async fn answer(bus: &Bus, lines: &mut Lines, request: Request) -> Result<Result<(), BusError>, SocketError> {
    let response = match request {
        Request::Greet => Ok(Response::Done),
        Request::Publish(messages) => bus.publish(messages).await.map(Response::Published),
        Request::ApplyTopology(plugins) => bus.apply_topology(&plugins).await.map(|()| Response::Done),
        Request::Subscribe(patterns) => return subscription(bus, lines, &patterns).await,
        Request::DeadLetters => return dead_letters(bus, lines).await,
    };
    match response {
        Ok(response) => lines.send(&response).await.map(Ok),
        Err(error) => Ok(Err(error)),
    }
}

async fn subscription(bus: &Bus, lines: &mut Lines, patterns: &[String]) -> Result<Result<(), BusError>, SocketError> {
    let mut subscription = match bus.subscribe(patterns).await {
        Ok(subscription) => subscription,
        Err(error) => return Ok(Err(error)),
    };
    lines.send(&Response::Subscribed { queue: subscription.queue().to_owned() }).await?;
    loop {
        let message = tokio::select! {
            message = subscription.recv() => message,
            // The client says nothing more; what comes is its farewell.
            _ = lines.next::<serde_json::Value>() => return Ok(Ok(())),
        };
        match message {
            Some(message) => lines.send(&Response::Message(Box::new(message))).await?,
            None => return Ok(Err(BusError::Closed)),
        }
    }
}

async fn dead_letters(bus: &Bus, lines: &mut Lines) -> Result<Result<(), BusError>, SocketError> {
    let shown = match bus.dead_letters(&mut |_| DeadVerdict::Keep).await {
        Ok(shown) => shown,
        Err(error) => return Ok(Err(error)),
    };
    lines.send(&Response::DeadLetters(shown.clone())).await?;
    let Verdicts(verdicts) = lines.next().await?;
    let mut decided: Vec<(DeadLetter, DeadVerdict)> = shown.into_iter().zip(verdicts).collect();
    // What arrived since the list was shown has no verdict and stays.
    let mut decide = |letter: &DeadLetter| match decided.iter().position(|(known, _)| known == letter) {
        Some(place) => decided.swap_remove(place).1,
        None => DeadVerdict::Keep,
    };
    match bus.dead_letters(&mut decide).await {
        Ok(_) => lines.send(&Response::Done).await.map(Ok),
        Err(error) => Ok(Err(error)),
    }
}
