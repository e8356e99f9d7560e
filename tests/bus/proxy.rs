//! A TCP proxy between the service and one of its servers, which can cut every connection, swallow what passes, or slow
//! it down. `tests/faults` uses it too.

use std::{net::SocketAddr, sync::Arc, time::Duration};

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
    /// What is asked gets through, what is answered does not.
    Mute,
    /// Everything arrives so much later.
    Delay(Duration),
    /// At most so many bytes pass in a second, in each direction of each connection.
    Throttle(u32),
}

/// Which way bytes flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Asked,
    Answered,
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
                tokio::spawn(pipe(Flow::Asked, near_read, far_write, state.subscribe(), needle));
                tokio::spawn(pipe(Flow::Answered, far_read, near_write, state.subscribe(), None));
            }
        });
        proxy
    }

    /// Ends every connection; new ones are accepted.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|(_, cuts)| *cuts += 1);
    }

    /// Swallows both directions.
    pub(crate) fn swallow(&self) {
        self.set(Mode::Swallow);
    }

    /// Swallows what is answered: confirms, for one.
    pub(crate) fn mute(&self) {
        self.set(Mode::Mute);
    }

    /// Everything arrives so much later.
    pub(crate) fn delay(&self, time: Duration) {
        self.set(Mode::Delay(time));
    }

    /// At most so many bytes pass in a second, in each direction of each connection.
    pub(crate) fn throttle(&self, bytes_per_second: u32) {
        self.set(Mode::Throttle(bytes_per_second));
    }

    /// Everything gets through again.
    pub(crate) fn pass(&self) {
        self.set(Mode::Pass);
    }

    fn set(&self, mode: Mode) {
        self.state.send_modify(|(current, _)| *current = mode);
    }
}

async fn pipe(
    flow: Flow,
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    mut state: watch::Receiver<(Mode, u64)>,
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
        let (mode, cuts_by_now) = *state.borrow();
        if cuts_by_now != cuts {
            // What was read as the connection was cut, under the mode of those that follow.
            return;
        }
        match mode {
            Mode::Delay(time) => tokio::time::sleep(time).await,
            Mode::Throttle(per_second) => {
                let length = u32::try_from(length).expect("the buffer is small");
                tokio::time::sleep(Duration::from_secs(1) * length / per_second).await;
            }
            Mode::Pass | Mode::Swallow | Mode::Mute => {}
        }
        let swallowed = mode == Mode::Swallow || mode == Mode::Mute && flow == Flow::Answered;
        if !swallowed && to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
