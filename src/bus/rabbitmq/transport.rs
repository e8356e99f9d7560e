//! The way to the broker: from an address to a connection that lapin can use, with one clear line for each way to fail.
//!
//! lapin would connect by itself, but only so can its input be sanitised ([`super::frames`]), TLS use the settings'
//! certificates, and a refused connection be distinguished from a wrong name at once. Nothing is tried twice here. Up:
//! [`super::session`] and [`super::dead_letters`]. Down: the socket.

use std::{
    fmt,
    future::ready,
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_rs::{Runtime, Tokio, traits::Reactor, util::RuntimeParts};
use backon::ExponentialBuilder;
use futures::{
    Stream,
    io::{AsyncRead as FuturesRead, AsyncWrite as FuturesWrite},
};
use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties, ErrorKind,
    uri::{AMQPScheme, AMQPUri},
};
use rustls::{
    CertificateError,
    pki_types::{InvalidDnsNameError, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use super::{frames::Frames, sanitiser::SmallFrames};
use crate::bus::tls::{Tls, Unusable};

/// For TCP, TLS and AMQP handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a frame may hold unless the URL says otherwise: what RabbitMQ offers by default.
const FRAME_MAX: u32 = 128 * 1024;
/// lapin keeps 64 frames of the agreed size in memory for each connection, so it is not given all that a broker offers.
const LARGEST_FRAME_MAX: u32 = 1024 * 1024;

/// The codes of AMQP for a user who is not let in, and for a virtual host that is not there or not theirs.
const ACCESS_REFUSED: u16 = 403;
const NOT_ALLOWED: u16 = 530;

/// Where the broker is, and whom to trust there.
#[derive(Debug, Clone)]
pub(super) struct Address {
    pub(super) uri: AMQPUri,
    tls: Tls,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreachable {
    #[error("the name {host} has no address: {reason}")]
    Name { host: String, reason: io::Error },
    #[error("nothing listens at {at}; is the broker running, and are host and port of broker.url right?")]
    Closed { at: String },
    #[error("{at} cannot be reached: {reason}")]
    Network { at: String, reason: io::Error },
    #[error("no connection with {at} within {} s", CONNECT_TIMEOUT.as_secs())]
    TimedOut { at: String },
    #[error(transparent)]
    Settings(#[from] Unusable),
    #[error("{host} is no name that a certificate could be for")]
    ServerName { host: String, source: InvalidDnsNameError },
    #[error("TLS with {at} failed: {}", tls_words(reason))]
    Tls { at: String, reason: io::Error },
    #[error("{at} hung up after the TLS handshake; does it want another certificate than broker.tls_certificate_pem?")]
    HungUp { at: String },
    #[error("{at} ended the handshake of AMQP; is it a port for TLS (amqps://)?")]
    NotAmqp { at: String },
    #[error(
        "{at} allows frames of {most} bytes, and it takes 8192: raise frame_max in its rabbitmq.conf (131072 is usual)"
    )]
    SmallFrames { at: String, most: usize },
    #[error("the broker refuses user and password of broker.url: {words}")]
    Login { words: String },
    #[error("the virtual host '{vhost}' of broker.url is not there or not for this user: {words}{}", hint(vhost))]
    Vhost { vhost: String, words: String },
    #[error("the broker at {at} refuses the connection")]
    Handshake { at: String, source: lapin::Error },
}

impl Address {
    /// The frames of this URL are made as large as lapin's buffers can be.
    pub(super) fn new(mut uri: AMQPUri, tls: Tls) -> Self {
        let wanted = uri.query.frame_max.filter(|wanted| *wanted > 0).unwrap_or(FRAME_MAX);
        uri.query.frame_max = Some(wanted.min(LARGEST_FRAME_MAX));
        Self { uri, tls }
    }

    fn frame_max(&self) -> u32 {
        self.uri.query.frame_max.unwrap_or(FRAME_MAX)
    }

    /// Connects once.
    pub(super) async fn connect(&self, role: &str) -> Result<Connection, Unreachable> {
        let connected = async { self.handshake(self.open().await?, role).await };
        timeout(CONNECT_TIMEOUT, connected).await.map_err(|_| Unreachable::TimedOut { at: self.to_string() })?
    }

    async fn open(&self) -> Result<Wire, Unreachable> {
        let (host, at) = (&self.uri.authority.host, || self.to_string());
        let found = tokio::net::lookup_host((host.as_str(), self.uri.authority.port)).await;
        let addresses = found.map_err(|reason| Unreachable::Name { host: host.clone(), reason })?;
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        let mut connected = None;
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    connected = Some(stream);
                    break;
                }
                Err(error) => last = error,
            }
        }
        let stream = connected.ok_or_else(|| match last.kind() {
            io::ErrorKind::ConnectionRefused => Unreachable::Closed { at: at() },
            _ => Unreachable::Network { at: at(), reason: last },
        })?;
        stream.set_nodelay(true).map_err(|reason| Unreachable::Network { at: at(), reason })?;
        if self.uri.scheme == AMQPScheme::AMQP {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(host.clone())
            .map_err(|source| Unreachable::ServerName { host: host.clone(), source })?;
        let tls = self.tls.clone();
        let client = tokio::task::spawn_blocking(move || tls.client()).await.expect("reading files does not panic")?;
        let stream = TlsConnector::from(Arc::new(client)).connect(name, stream).await;
        Ok(Box::new(stream.map_err(|reason| Unreachable::Tls { at: at(), reason })?))
    }

    /// Says who we are, in AMQP.
    async fn handshake(&self, wire: Wire, role: &str) -> Result<Connection, Unreachable> {
        let stream = Mutex::new(Some(Frames::new(wire, self.frame_max()).compat()));
        let take = async move |_, _| {
            let taken = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            taken.map(AsyncTcpStream::Plain).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected).into())
        };
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("metagov {role}").into())
            // It must not try again what a session tries again.
            .with_backoff(ExponentialBuilder::default().with_max_times(0));
        let runtime = Runtime::new(RuntimeParts::new(Tokio::current(), Sockets(Tokio::current())));
        // It is large, and would make everything large that waits for it.
        let connecting = Box::pin(Connection::connector(self.uri.clone(), runtime, take, properties));
        connecting.await.map_err(|error| self.refused(error))
    }

    fn refused(&self, error: lapin::Error) -> Unreachable {
        let at = self.to_string();
        match error.kind() {
            ErrorKind::ProtocolError(refusal) => {
                let words = refusal.get_message().to_string();
                match refusal.get_id() {
                    ACCESS_REFUSED => Unreachable::Login { words },
                    NOT_ALLOWED => Unreachable::Vhost { vhost: self.uri.vhost.clone(), words },
                    _ => Unreachable::Handshake { at, source: error },
                }
            }
            ErrorKind::IOError(reason) if cause::<rustls::Error>(reason).is_some() => {
                Unreachable::Tls { at, reason: io::Error::other(Arc::clone(reason)) }
            }
            ErrorKind::IOError(reason) if let Some(SmallFrames(most)) = cause(reason) => {
                Unreachable::SmallFrames { at, most: *most }
            }
            ErrorKind::IOError(_) if self.uri.scheme == AMQPScheme::AMQPS => Unreachable::HungUp { at },
            ErrorKind::ParsingError(_) | ErrorKind::IOError(_) | ErrorKind::InvalidConnectionState(_) => {
                Unreachable::NotAmqp { at }
            }
            _ => Unreachable::Handshake { at, source: error },
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uri.authority.host, self.uri.authority.port)
    }
}

/// Where a virtual host was meant by what AMQP's URLs write otherwise.
fn hint(vhost: &str) -> &'static str {
    if vhost.is_empty() { "; the one that is called `/` is written %2f" } else { "" }
}

/// What our side of the wire ended the connection for.
fn cause<E: std::error::Error + 'static>(error: &io::Error) -> Option<&E> {
    let inner = error.get_ref()?;
    inner.downcast_ref::<E>().or_else(|| inner.downcast_ref::<Arc<io::Error>>().and_then(|inner| cause(inner)))
}

fn tls_words(error: &io::Error) -> String {
    use CertificateError as Bad;
    use rustls::Error as Tls;
    match cause(error) {
        Some(Tls::InvalidCertificate(Bad::UnknownIssuer)) => {
            "no authority that we know has signed the broker's certificate; name its own in broker.tls_ca_pem"
                .to_owned()
        }
        Some(Tls::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. })) => {
            "the broker's certificate has expired".to_owned()
        }
        Some(Tls::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. })) => {
            "the broker's certificate is for another name than the host of broker.url".to_owned()
        }
        Some(Tls::InvalidMessage(_)) => "what answers there speaks no TLS; is it a port for amqp://?".to_owned(),
        Some(Tls::AlertReceived(alert)) => {
            format!("the broker refuses our certificate, or wants one ({alert:?}); see broker.tls_certificate_pem")
        }
        Some(other) => other.to_string(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it hung up in the middle; is it a port for amqp://?".to_owned()
        }
        None => error.to_string(),
    }
}

/// Bytes in both directions, with TLS or without.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
type Wire = Box<dyn Duplex>;

/// lapin's reactor, tokio's but for its sockets: they are ours.
#[derive(Debug, Clone)]
struct Sockets(Tokio);

impl Reactor for Sockets {
    type TcpStream = Compat<Frames<Wire>>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: io::Read + io::Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl FuturesRead + FuturesWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    /// lapin is given a stream that is connected already.
    fn tcp_connect_addr(&self, _: SocketAddr) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        ready(Err(io::ErrorKind::Unsupported.into()))
    }
}
