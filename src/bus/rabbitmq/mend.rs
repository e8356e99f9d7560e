//! Lets lapin read messages whose short texts are not UTF-8.
//!
//! AMQP wants UTF-8 there, RabbitMQ does not check it, and lapin drops the connection at a frame that it cannot read. A
//! worker need not read such a message: it comes back until the broker sets it aside. But whoever looks at what was set
//! aside must see it, and what lies behind it. So the dead letters are read through a relay on loopback, which passes
//! every byte but those that are no UTF-8: each of them becomes a question mark. Nothing changes its length, so no frame
//! has to be built anew. Up: the broker. Down: [`super::dead_letters`].

use std::io;

use lapin::uri::{AMQPScheme, AMQPUri};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const HEARTBEAT: u8 = 8;
/// More than any broker agrees to; what claims to be larger is no frame.
const LARGEST_FRAME: u32 = 64 * 1024 * 1024;
/// Tables in tables in tables; deeper ones stay as they are.
const DEEPEST: usize = 32;

/// The address of a relay to the broker, good for one connection; the relay ends with it. `None` where the connection is
/// encrypted, for then nobody in between can read it.
pub(super) async fn relay(uri: &AMQPUri) -> io::Result<Option<AMQPUri>> {
    if uri.scheme != AMQPScheme::AMQP {
        return Ok(None);
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let near = listener.local_addr()?;
    let far = (uri.authority.host.clone(), uri.authority.port);
    tokio::spawn(async move {
        let (client, _) = listener.accept().await?;
        drop(listener);
        let broker = TcpStream::connect(far).await?;
        let ((mut said, mut told), (mut answered, mut asked)) = (client.into_split(), broker.into_split());
        tokio::select! {
            done = copy(&mut said, &mut asked) => done.map(|_| ()),
            done = pass(&mut answered, &mut told) => done,
        }
    });
    let mut relayed = uri.clone();
    relayed.authority.host = near.ip().to_string();
    relayed.authority.port = near.port();
    Ok(Some(relayed))
}

/// Passes frames on, mended.
async fn pass(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    loop {
        let mut head = [0; 7];
        from.read_exact(&mut head).await?;
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        to.write_all(&head).await?;
        if head[0] > HEARTBEAT || size > LARGEST_FRAME {
            // The broker speaks another version and says so: that is for the client to understand.
            return copy(from, to).await.map(|_| ());
        }
        // With the byte that ends a frame.
        let mut payload = vec![0; size as usize + 1];
        from.read_exact(&mut payload).await?;
        // What ends too early stays as it is from there on; lapin says what is wrong with it.
        let _ = mend(head[0], &mut payload);
        to.write_all(&payload).await?;
    }
}

fn mend(kind: u8, payload: &mut [u8]) -> Option<()> {
    let mut frame = Frame { bytes: payload, at: 0 };
    match kind {
        METHOD => match (frame.number(2)?, frame.number(2)?) {
            // basic.deliver: consumer tag, delivery tag, redelivered, exchange, routing key
            (60, 60) => {
                frame.short()?;
                frame.skip(9)?;
                frame.short()?;
                frame.short()
            }
            // basic.get-ok: delivery tag, redelivered, exchange, routing key
            (60, 71) => {
                frame.skip(9)?;
                frame.short()?;
                frame.short()
            }
            _ => Some(()),
        },
        HEADER => {
            // Class, weight, size of the body.
            frame.skip(12)?;
            let flags = frame.number(2)?;
            frame.properties(flags)
        }
        _ => Some(()),
    }
}

/// A walk through the payload of a frame; `None` where it ends too early.
struct Frame<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Frame<'_> {
    fn take(&mut self, length: usize) -> Option<&mut [u8]> {
        let from = self.at;
        self.at = from.checked_add(length)?;
        self.bytes.get_mut(from..self.at)
    }

    fn skip(&mut self, length: usize) -> Option<()> {
        self.take(length).map(|_| ())
    }

    fn number(&mut self, width: usize) -> Option<usize> {
        Some(self.take(width)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// A text with its length in one byte: the only kind that has to be UTF-8.
    fn short(&mut self) -> Option<()> {
        let length = self.number(1)?;
        let text = self.take(length)?;
        while let Err(error) = std::str::from_utf8(text) {
            let from = error.valid_up_to();
            let to = error.error_len().map_or(text.len(), |length| from + length);
            text[from..to].fill(b'?');
        }
        Some(())
    }

    /// The properties of a message, as far as the flags say that they are there, from the highest bit down.
    fn properties(&mut self, flags: usize) -> Option<()> {
        type Read = fn(&mut Frame<'_>) -> Option<()>;
        let (short, table, octet, time): (Read, Read, Read, Read) =
            (|frame| frame.short(), |frame| frame.table(0), |frame| frame.skip(1), |frame| frame.skip(8));
        // content_type, content_encoding, headers, delivery_mode, priority, correlation_id, reply_to, expiration,
        // message_id, timestamp, type, user_id, app_id, cluster_id
        let reads = [short, short, table, octet, octet, short, short, short, short, time, short, short, short, short];
        for (place, read) in reads.into_iter().enumerate() {
            if flags & (0x8000 >> place) != 0 {
                read(self)?;
            }
        }
        Some(())
    }

    fn table(&mut self, depth: usize) -> Option<()> {
        let length = self.number(4)?;
        let end = self.at.checked_add(length)?;
        while self.at < end {
            self.short()?;
            self.value(depth)?;
        }
        Some(())
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        match self.number(1).and_then(|kind| u8::try_from(kind).ok())? {
            b'V' => Some(()),
            b't' | b'b' | b'B' => self.skip(1),
            b's' | b'u' | b'U' => self.skip(2),
            b'I' | b'i' | b'f' => self.skip(4),
            b'D' => self.skip(5),
            b'L' | b'l' | b'd' | b'T' => self.skip(8),
            b'S' | b'x' => {
                let length = self.number(4)?;
                self.skip(length)
            }
            b'F' if depth < DEEPEST => self.table(depth + 1),
            b'A' if depth < DEEPEST => {
                let length = self.number(4)?;
                let end = self.at.checked_add(length)?;
                while self.at < end {
                    self.value(depth + 1)?;
                }
                Some(())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A content header with these flags and properties.
    fn header(flags: u16, properties: &[u8]) -> Vec<u8> {
        [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2][..], &flags.to_be_bytes(), properties].concat()
    }

    #[test]
    fn every_short_text_of_a_header_becomes_utf8_and_nothing_else_changes() {
        // content_type, headers {key: long string, table: {key: true}, list: [int]}, message_id
        let properties = |c: &[u8], k: &[u8], inner: &[u8], id: &[u8]| {
            let inner = [&[2][..], inner, b"t\x01"].concat();
            let list = [b"I".as_slice(), &[0, 0, 0, 7]].concat();
            let table = [
                &[2],
                k,
                b"S\0\0\0\x02\xff\xfe",
                b"\x01tF",
                &u32::try_from(inner.len()).expect("small").to_be_bytes(),
                &inner,
                b"\x01lA",
                &u32::try_from(list.len()).expect("small").to_be_bytes(),
                &list,
            ]
            .concat();
            let length = u32::try_from(table.len()).expect("small").to_be_bytes();
            [&[3], c, &length, &table, &[4], id, b"\xce"].concat()
        };
        let flags = 0x8000 | 0x2000 | 0x0080;
        let mut bad = header(flags, &properties(b"a\xffb", b"\xc3\x28", b"k\x80", b"\xf0\x9f\x98\xff"));
        let good = header(flags, &properties(b"a?b", b"?(", b"k?", b"????"));
        mend(HEADER, &mut bad).expect("it is whole");
        assert_eq!(bad.len(), good.len());
        assert_eq!(String::from_utf8_lossy(&bad), String::from_utf8_lossy(&good));
        let untouched = good.clone();
        let mut again = good;
        mend(HEADER, &mut again).expect("it is whole");
        assert_eq!(again, untouched, "what is UTF-8 stays");
    }

    #[test]
    fn what_ends_too_early_or_nests_too_deep_is_left_alone() {
        for length in 0..20 {
            let mut cut = header(0x8000, b"\x10abc");
            cut.truncate(length);
            let before = cut.clone();
            let _ = mend(HEADER, &mut cut);
            assert_eq!(cut, before);
        }
        let mut deep = header(0x2000, &b"\0\0\xff\xff\0F".repeat(10_000));
        let _ = mend(HEADER, &mut deep);
    }
}
