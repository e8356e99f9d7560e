//! Makes every frame that a broker forwards one that lapin can read.
//!
//! A driver writes the properties and headers of its messages, and RabbitMQ forwards them as they are. Four things in them
//! are more than lapin bears: short texts that are not UTF-8 and frames over the agreed size end the connection, again at
//! each delivery; a frame that is too large for its buffer stands still; and values that nest too deeply overflow the
//! stack of its thread, which ends the whole process. So each frame with properties is rewritten before lapin sees it:
//!
//! | what is sent | what lapin reads |
//! |---|---|
//! | a byte that is not UTF-8, in a short text | the character SUBSTITUTE (U+001A), which no identifier may contain |
//! | a table or list deeper than [`DEEPEST`], or one that cannot be read | the same bytes as a byte array |
//! | more headers than the agreed frame has room for | the service's and the broker's, then the shortest |
//! | headers that end too early | those that come before |
//!
//! All other properties stay, so a message is the same message: deduplicated, answered and dead-lettered as any other.
//! It knows the layout of frames and no connection. Up: [`super::frames`]. Down: nothing.

use std::ops::Range;

use lapin::types::AMQPType;

/// The bytes before a frame's payload: kind, channel, size.
pub(super) const HEAD: usize = 7;
pub(super) const METHOD: u8 = 1;
pub(super) const HEADER: u8 = 2;

/// Tables in tables in tables. RabbitMQ's own (`x-death`) are three deep.
const DEEPEST: usize = 16;
/// The type of a byte array.
const BYTES: u8 = b'x';
/// What takes the place of a byte that is not UTF-8.
const SUBSTITUTE: u8 = 0x1a;
/// lapin agrees to nothing smaller, nor does RabbitMQ since 4.0.
const SMALLEST_FRAME_MAX: usize = 8192;

/// The broker allows only frames that are too small for lapin, which would ask for larger ones and be turned away.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("frames of {0} bytes at most")]
pub(super) struct SmallFrames(pub(super) usize);

/// Rewrites frames, and remembers how large they may be.
#[derive(Debug)]
pub(super) struct Sanitiser {
    frame_max: usize,
    too_small: Option<SmallFrames>,
}

impl Sanitiser {
    /// `frame_max` is what the client asks for; the broker may lower it.
    pub(super) fn new(frame_max: u32) -> Self {
        Self { frame_max: frame_max as usize, too_small: None }
    }

    /// Whether nothing can be agreed on with this broker.
    pub(super) fn too_small(&self) -> Option<SmallFrames> {
        self.too_small
    }

    /// Rewrites one whole frame, from its kind to the byte that ends it. `None` where it ends too early or too late,
    /// which no broker forwards: lapin says what is wrong with it then, and drops the connection.
    pub(super) fn clean(&mut self, frame: &mut Vec<u8>) -> Option<()> {
        let end = frame.len().checked_sub(1)?;
        let kind = *frame.first()?;
        let mut payload = Part { bytes: frame.get_mut(HEAD..end)?, at: 0 };
        match kind {
            METHOD => self.method(&mut payload),
            HEADER => {
                let headers = payload.properties()?;
                if !headers.whole || frame.len() > self.frame_max {
                    headers.shorten(frame, self.frame_max);
                }
                Some(())
            }
            _ => Some(()),
        }
    }

    fn method(&mut self, payload: &mut Part<'_>) -> Option<()> {
        match (payload.number(2)?, payload.number(2)?) {
            // connection.tune: most channels, largest frame, heartbeat
            (10, 30) => {
                payload.skip(2)?;
                let theirs = payload.number(4).filter(|theirs| *theirs > 0)?;
                self.too_small = (theirs < SMALLEST_FRAME_MAX).then_some(SmallFrames(theirs));
                self.frame_max = self.frame_max.min(theirs).max(SMALLEST_FRAME_MAX);
                Some(())
            }
            // connection.close, channel.close: code, text
            (10, 50) | (20, 40) => {
                payload.skip(2)?;
                payload.short()
            }
            // basic.return: code, text, exchange, routing key
            (60, 50) => {
                payload.skip(2)?;
                payload.short()?;
                payload.short()?;
                payload.short()
            }
            // basic.deliver: consumer tag, delivery tag, redelivered, exchange, routing key
            (60, 60) => {
                payload.short()?;
                payload.skip(9)?;
                payload.short()?;
                payload.short()
            }
            // basic.get-ok: delivery tag, redelivered, exchange, routing key
            (60, 71) => {
                payload.skip(9)?;
                payload.short()?;
                payload.short()
            }
            _ => Some(()),
        }
    }
}

/// Where the headers of a message are, counted from the first byte of the payload.
#[derive(Debug)]
struct Headers {
    all: Range<usize>,
    each: Vec<Range<usize>>,
    /// Whether nothing follows the last of them.
    whole: bool,
}

impl Headers {
    /// Takes out of the frame what cannot be read, and as many headers as it takes to be no larger than agreed.
    fn shorten(self, frame: &mut Vec<u8>, frame_max: usize) {
        let bytes = |header: &Range<usize>| &frame[HEAD + header.start..HEAD + header.end];
        let mut room = frame_max.saturating_sub(frame.len() - self.all.len());
        let mut kept = self.each;
        kept.sort_by_key(|header| (!is_ours(bytes(header)), header.len()));
        kept.retain(|header| {
            let left = room.checked_sub(header.len());
            room = left.unwrap_or(room);
            left.is_some()
        });
        kept.sort_by_key(|header| header.start);
        let content: Vec<u8> = kept.iter().flat_map(|header| bytes(header).iter().copied()).collect();
        let table = number(content.len()).into_iter().chain(content);
        frame.splice(HEAD + self.all.start - 4..HEAD + self.all.end, table).for_each(drop);
        let size = number(frame.len() - HEAD - 1);
        frame[HEAD - size.len()..HEAD].copy_from_slice(&size);
    }
}

/// Whether the broker or the service has written this header: it counts deliveries, or says why something died.
fn is_ours(header: &[u8]) -> bool {
    let name = header.get(1..).unwrap_or_default();
    name.starts_with(b"x-") || name.starts_with(b"traceparent")
}

/// A number as frames and tables carry their length.
fn number(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("it is shorter than the frame that it was cut from").to_be_bytes()
}

/// A walk through some bytes of a frame; `None` where they end too early.
struct Part<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Part<'_> {
    fn take(&mut self, length: usize) -> Option<&mut [u8]> {
        let from = self.at;
        let to = from.checked_add(length)?;
        let taken = self.bytes.get_mut(from..to)?;
        self.at = to;
        Some(taken)
    }

    fn skip(&mut self, length: usize) -> Option<()> {
        self.take(length).map(|_| ())
    }

    fn number(&mut self, width: usize) -> Option<usize> {
        Some(self.take(width)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// A text with its length in one byte: the only kind that has to be UTF-8.
    fn short(&mut self) -> Option<()> {
        let length = self.number(1)?;
        let text = self.take(length)?;
        while let Err(error) = std::str::from_utf8(text) {
            let from = error.valid_up_to();
            let to = error.error_len().map_or(text.len(), |length| from + length);
            text[from..to].fill(SUBSTITUTE);
        }
        Some(())
    }

    /// Something with its length in four bytes.
    fn long(&mut self) -> Option<Part<'_>> {
        let length = self.number(4)?;
        Some(Part { bytes: self.take(length)?, at: 0 })
    }

    /// The properties of a message, as far as the flags say that they are there, from the highest bit down.
    fn properties(&mut self) -> Option<Headers> {
        // Class, weight, size of the body.
        self.skip(12)?;
        let flags = self.number(2)?;
        let mut headers = Headers { all: 0..0, each: Vec::new(), whole: true };
        for place in (0..14).filter(|place| flags & (0x8000 >> place) != 0) {
            match place {
                2 => headers = self.headers()?,
                // delivery_mode, priority
                3 | 4 => self.skip(1)?,
                // timestamp
                9 => self.skip(8)?,
                // content_type, content_encoding, correlation_id, reply_to, expiration, message_id, type, user_id, app_id,
                // cluster_id
                _ => self.short()?,
            }
        }
        self.is_at_end().then_some(headers)
    }

    fn headers(&mut self) -> Option<Headers> {
        let start = self.at + 4;
        let mut inside = self.long()?;
        let mut each = Vec::new();
        let mut before = 0;
        while !inside.is_at_end() && inside.short().and_then(|()| inside.value(1)).is_some() {
            each.push(start + before..start + inside.at);
            before = inside.at;
        }
        let whole = before == inside.bytes.len();
        Some(Headers { all: start..self.at, each, whole })
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        let at = self.at;
        let kind = AMQPType::from_id(char::from(self.take(1)?[0]))?;
        match kind {
            AMQPType::Void => {}
            AMQPType::Boolean | AMQPType::ShortShortInt | AMQPType::ShortShortUInt => self.skip(1)?,
            AMQPType::ShortInt | AMQPType::ShortUInt => self.skip(2)?,
            AMQPType::LongInt | AMQPType::LongUInt | AMQPType::Float => self.skip(4)?,
            AMQPType::DecimalValue => self.skip(5)?,
            AMQPType::LongLongInt | AMQPType::LongLongUInt | AMQPType::Double | AMQPType::Timestamp => self.skip(8)?,
            AMQPType::LongString | AMQPType::ByteArray => self.long().map(|_| ())?,
            AMQPType::FieldArray | AMQPType::FieldTable => {
                let named = kind == AMQPType::FieldTable;
                let mut inside = self.long()?;
                if depth > DEEPEST || inside.values(named, depth + 1).is_none() {
                    self.bytes[at] = BYTES;
                }
            }
            AMQPType::ShortString => return None,
        }
        Some(())
    }

    fn values(&mut self, named: bool, depth: usize) -> Option<()> {
        while !self.is_at_end() {
            if named {
                self.short()?;
            }
            self.value(depth)?;
        }
        Some(())
    }
}

#[cfg(test)]
#[path = "sanitiser/tests.rs"]
mod tests;
