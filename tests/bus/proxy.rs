//! A TCP proxy between the bus and its broker, which can cut every connection, or swallow what passes.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    /// Connections stay open, nothing gets through: a half-open link.
    Swallow,
    /// What the target answers does not get through.
    SwallowAnswers,
}

#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// Mode, and how often all connections were cut.
    state: Arc<watch::Sender<(Mode, u64)>>,
}

impl Proxy {
    pub(crate) async fn to(target: String) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.expect("a free port"), target)
    }

    pub(crate) fn on(listener: TcpListener, target: String) -> Self {
        Self::start(listener, target, None)
    }

    /// Turns these bytes into some that are no UTF-8, on their way to the target.
    pub(crate) async fn corrupting(needle: &'static [u8], target: String) -> Self {
        Self::start(TcpListener::bind("127.0.0.1:0").await.expect("a free port"), target, Some(needle))
    }

    fn start(listener: TcpListener, target: String, needle: Option<&'static [u8]>) -> Self {
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(watch::Sender::new((Mode::Pass, 0)));
        let proxy = Self { address, state: Arc::clone(&state) };
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(&target).await else { continue };
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                tokio::spawn(pipe(near_read, far_write, state.subscribe(), &[Mode::Swallow], needle));
                let swallowed = &[Mode::Swallow, Mode::SwallowAnswers];
                tokio::spawn(pipe(far_read, near_write, state.subscribe(), swallowed, None));
            }
        });
        proxy
    }

    /// Ends every connection; new ones are accepted.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|(_, cuts)| *cuts += 1);
    }

    pub(crate) fn swallow(&self) {
        self.state.send_modify(|(mode, _)| *mode = Mode::Swallow);
    }

    pub(crate) fn swallow_answers(&self) {
        self.state.send_modify(|(mode, _)| *mode = Mode::SwallowAnswers);
    }

    pub(crate) fn pass(&self) {
        self.state.send_modify(|(mode, _)| *mode = Mode::Pass);
    }
}

async fn pipe(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    mut state: watch::Receiver<(Mode, u64)>,
    swallowed: &[Mode],
    needle: Option<&[u8]>,
) {
    let (_, cuts) = *state.borrow_and_update();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = tokio::select! {
            changed = state.changed() => {
                if changed.is_err() || state.borrow().1 != cuts {
                    return;
                }
                continue;
            }
            read = from.read(&mut buffer) => read,
        };
        let Ok(length @ 1..) = read else { return };
        if let Some(needle) = needle
            && let Some(at) = buffer[..length].windows(needle.len()).position(|window| window == needle)
        {
            buffer[at..at + needle.len()].fill(0xff);
        }
        let swallowing = swallowed.contains(&state.borrow().0);
        if !swallowing && to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
