//! A driver that writes its frames byte by byte, so that it can send what no client library would.

use lapin::uri::AMQPUri;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A content header may hold these.
pub(crate) const HEADERS: u16 = 0x2000;
pub(crate) const MESSAGE_ID: u16 = 0x0080;

pub(crate) struct RawDriver(TcpStream);

impl RawDriver {
    /// Connects, and agrees to frames as large as the broker's largest.
    pub(crate) async fn connect(url: &str) -> Self {
        let uri: AMQPUri = url.parse().expect("a URL");
        let stream = TcpStream::connect((uri.authority.host.as_str(), uri.authority.port)).await.expect("it listens");
        let mut driver = Self(stream);
        driver.0.write_all(b"AMQP\0\0\x09\x01").await.expect("it is sent");
        driver.answer(10, 10).await;
        let login = [&b"\0"[..], uri.authority.userinfo.username.as_bytes(), b"\0", b"guest"].concat();
        driver.method(0, 10, 11, &[&long(b"")[..], &short(b"PLAIN"), &long(&login), &short(b"en_US")].concat()).await;
        let tune = driver.answer(10, 30).await;
        driver.method(0, 10, 31, &tune).await;
        driver.method(0, 10, 40, &[&short(uri.vhost.as_bytes())[..], &short(b""), &[0]].concat()).await;
        driver.answer(10, 41).await;
        driver.method(1, 20, 10, &short(b"")).await;
        driver.answer(20, 11).await;
        driver
    }

    /// Publishes a message with properties as they are given, and comes back when the broker has it.
    pub(crate) async fn publish(&mut self, exchange: &str, routing_key: &str, flags: u16, properties: &[u8]) {
        self.method(1, 85, 10, &[0]).await;
        self.answer(85, 11).await;
        let to = [&[0, 0][..], &short(exchange.as_bytes()), &short(routing_key.as_bytes()), &[0]].concat();
        self.method(1, 60, 40, &to).await;
        let fixed = [&[0, 60, 0, 0][..], &2_u64.to_be_bytes(), &flags.to_be_bytes()].concat();
        self.frame(2, 1, &[&fixed, properties].concat()).await;
        self.frame(3, 1, b"{}").await;
        self.answer(60, 80).await;
    }

    async fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.frame(1, channel, &payload).await;
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let head = [&[kind][..], &channel.to_be_bytes()].concat();
        self.0.write_all(&[&head[..], &long(payload), &[0xce]].concat()).await.expect("it is sent");
    }

    /// The arguments of this method, which must be what the broker says next.
    async fn answer(&mut self, class: u16, method: u16) -> Vec<u8> {
        loop {
            let mut head = [0; 7];
            self.0.read_exact(&mut head).await.expect("the broker answers");
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
            let mut payload = vec![0; size as usize + 1];
            self.0.read_exact(&mut payload).await.expect("the frame is whole");
            if head[0] == 8 {
                continue;
            }
            let wanted = [class.to_be_bytes(), method.to_be_bytes()].concat();
            assert_eq!(payload[..4], wanted, "{}", String::from_utf8_lossy(&payload));
            return payload[4..payload.len() - 1].to_vec();
        }
    }
}

pub(crate) fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("short")][..], text].concat()
}

pub(crate) fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("it fits a frame").to_be_bytes()[..], bytes].concat()
}

/// A table with one list in it, which has lists in lists, so many levels deep.
pub(crate) fn nested(levels: usize) -> Vec<u8> {
    // From the outside inwards: copying each level into the next would take the square of their number.
    let size = |level: usize| u32::try_from(5 * level).expect("it fits a frame").to_be_bytes();
    let list: Vec<u8> = (0..levels).rev().flat_map(|inner| [&b"A"[..], &size(inner)].concat()).collect();
    [short(b"deep"), list].concat()
}
