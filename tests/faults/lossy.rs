//! Ways to a server on which single answers are lost: that of PostgreSQL to a COMMIT, and the acknowledgements of a
//! consumer of RabbitMQ. What is lost was carried out, or handled, and nobody knows.
//!
//! [`crate::proxy`] cuts and swallows whatever passes; this reads it. Up: scenarios, through the URLs of a
//! [`Setup`](crate::rig::Setup). Down: the servers.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream, tcp},
};

/// `COMMIT` as a simple query of PostgreSQL's protocol.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";
/// The number of `basic.ack` in AMQP 0-9-1, at the head of a frame of type 1.
const ACK: &[u8] = &[0, 60, 0, 80];

/// A way to PostgreSQL that loses every so many answers to a COMMIT, and the connection with each.
#[derive(Clone)]
pub(crate) struct Commits {
    pub(crate) address: SocketAddr,
    /// None is lost at 0.
    each: Arc<AtomicUsize>,
    seen: Arc<AtomicUsize>,
    lost: Arc<AtomicUsize>,
}

impl Commits {
    pub(crate) async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let [each, seen, lost] = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
        let commits = Self { address, each, seen, lost };
        let relay = commits.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(&target).await else { continue };
                let relay = relay.clone();
                tokio::spawn(async move { relay.pass(near, far).await });
            }
        });
        commits
    }

    /// From now on one of so many answers is lost; none at 0.
    pub(crate) fn lose_one_of(&self, each: usize) {
        self.each.store(each, Ordering::SeqCst);
    }

    /// How many answers were lost.
    pub(crate) fn lost(&self) -> usize {
        self.lost.load(Ordering::SeqCst)
    }

    async fn pass(&self, mut near: TcpStream, mut far: TcpStream) -> io::Result<()> {
        let (mut asked, mut answered) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
        loop {
            tokio::select! {
                read = near.read(&mut asked) => {
                    let length @ 1.. = read? else { return Ok(()) };
                    far.write_all(&asked[..length]).await?;
                    if asked[..length].ends_with(COMMIT) && self.loses() {
                        // It is carried out once it is answered.
                        let carried_out = far.read(&mut answered).await? > 0;
                        self.lost.fetch_add(usize::from(carried_out), Ordering::SeqCst);
                        return Ok(());
                    }
                }
                read = far.read(&mut answered) => {
                    let length @ 1.. = read? else { return Ok(()) };
                    near.write_all(&answered[..length]).await?;
                }
            }
        }
    }

    fn loses(&self) -> bool {
        let each = self.each.load(Ordering::SeqCst);
        each > 0 && self.seen.fetch_add(1, Ordering::SeqCst).is_multiple_of(each)
    }
}

/// A way to RabbitMQ that loses the acknowledgements of consumers for a while.
#[derive(Clone)]
pub(crate) struct Acknowledgements {
    pub(crate) address: SocketAddr,
    loses: Arc<AtomicBool>,
    lost: Arc<AtomicUsize>,
}

impl Acknowledgements {
    pub(crate) async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let acknowledgements = Self { address, loses: Arc::default(), lost: Arc::default() };
        let relay = acknowledgements.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(&target).await else { continue };
                let ((near_read, mut near_write), (mut far_read, far_write)) = (near.into_split(), far.into_split());
                let relay = relay.clone();
                tokio::spawn(async move { relay.pass(near_read, far_write).await });
                tokio::spawn(async move { copy(&mut far_read, &mut near_write).await });
            }
        });
        acknowledgements
    }

    /// Whether they are lost from now on.
    pub(crate) fn lose(&self, loses: bool) {
        self.loses.store(loses, Ordering::SeqCst);
    }

    /// How many were lost; one may be for several deliveries.
    pub(crate) fn lost(&self) -> usize {
        self.lost.load(Ordering::SeqCst)
    }

    /// Frame by frame: type, channel, size, what it carries, and an octet that ends it.
    async fn pass(&self, mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf) -> io::Result<()> {
        let mut frame = vec![0; 8];
        from.read_exact(&mut frame).await?;
        to.write_all(&frame).await?;
        loop {
            frame.resize(7, 0);
            from.read_exact(&mut frame).await?;
            let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]);
            frame.resize(7 + usize::try_from(size).expect("it is small") + 1, 0);
            from.read_exact(&mut frame[7..]).await?;
            if frame[0] == 1 && frame[7..].starts_with(ACK) && self.loses.load(Ordering::SeqCst) {
                self.lost.fetch_add(1, Ordering::SeqCst);
            } else {
                to.write_all(&frame).await?;
            }
        }
    }
}
