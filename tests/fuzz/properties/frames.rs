//! Frames: what a broker sends over the socket, up to the envelope that a worker opens.
//!
//! The first byte says how the others are meant. Either they are a script by which a driver writes its properties: these are
//! well-formed, as RabbitMQ forwards them, however odd, and exactly one message must arrive, with its key and its body. Or
//! they are the bytes themselves, of which nothing is known: they may end the connection, and nothing else.

use metagov::{
    bus::{Message, rabbitmq::forwarded::messages},
    worker::key_of,
};

/// The stack of the thread that lapin reads on.
const STACK: usize = 2 << 20;
/// The smallest frames, the usual ones, and those of a broker that has no limit.
const SIZES: [u32; 3] = [8192, 131_072, u32::MAX];
/// As many bytes of one value, and of all headers, as are of interest.
const VALUE: usize = 40_000;
const HEADERS: usize = 1 << 20;

/// Panics where the property does not hold.
pub(crate) fn holds(input: &[u8]) {
    let input = input.to_vec();
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(move || hold(&input));
    if let Err(panic) = thread.expect("a thread can be started").join() {
        std::panic::resume_unwind(panic);
    }
}

fn hold(input: &[u8]) {
    let Some((mode, rest)) = input.split_first() else { return };
    let frame_max = SIZES[usize::from(mode >> 1) % SIZES.len()];
    if mode & 1 == 0 {
        let (read, _) = messages(rest, frame_max);
        read.iter().for_each(opens);
        return;
    }
    let sent = Sent::by(&mut Script(rest));
    let (read, ended) = messages(&sent.bytes(), frame_max);
    assert_eq!(ended, None, "lapin ends the connection over what RabbitMQ forwards");
    let [message] = &read[..] else { panic!("{} messages", read.len()) };
    assert_eq!(&message.body[..], sent.body);
    assert_eq!(message.properties.message_id.as_deref(), Some(readable(&sent.message_id).as_str()));
    assert_eq!(message.routing_key, readable(&sent.routing_key));
    opens(message);
}

/// A worker reads it; a key that it takes is the one that was sent.
fn opens(message: &Message) {
    if let Some(key) = key_of(message) {
        assert!(key.len() <= 128 && key.bytes().all(|byte| byte.is_ascii_graphic()), "{key:?}");
    }
}

/// A short text as it arrives: each byte that is not UTF-8 is SUBSTITUTE.
fn readable(text: &[u8]) -> String {
    let mut readable = String::new();
    for chunk in text.utf8_chunks() {
        readable.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|_| readable.push('\u{1a}'));
    }
    readable
}

/// A message as a driver may have sent it.
struct Sent {
    routing_key: Vec<u8>,
    headers: Vec<u8>,
    message_id: Vec<u8>,
    body: Vec<u8>,
}

impl Sent {
    fn by(script: &mut Script<'_>) -> Self {
        let (routing_key, message_id, body) = (script.text(), script.text(), script.text());
        let mut headers = Vec::new();
        while !script.0.is_empty() && headers.len() < HEADERS {
            headers.extend(short(&script.text()));
            headers.extend(script.value());
        }
        Self { routing_key, headers, message_id, body }
    }

    fn bytes(&self) -> Vec<u8> {
        let deliver = [
            &[0, 60, 0, 60][..],
            &short(b"tag"),
            &[0, 0, 0, 0, 0, 0, 0, 1, 0],
            &short(b"metagov.commands"),
            &short(&self.routing_key),
        ];
        let size = (self.body.len() as u64).to_be_bytes();
        // Headers and message id.
        let header =
            [&[0, 60, 0, 0][..], &size, &0x2080_u16.to_be_bytes(), &long(&self.headers), &short(&self.message_id)];
        let mut bytes = [frame(1, &deliver.concat()), frame(2, &header.concat())].concat();
        if !self.body.is_empty() {
            bytes.extend(frame(3, &self.body));
        }
        bytes
    }
}

/// Bytes that say what to write, until they are used up.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    fn bytes(&mut self, many: usize) -> Vec<u8> {
        (0..many).map(|_| self.byte()).collect()
    }

    fn text(&mut self) -> Vec<u8> {
        let length = usize::from(self.byte()).min(self.0.len());
        self.bytes(length)
    }

    /// A value with its kind, of any depth.
    fn value(&mut self) -> Vec<u8> {
        const FIXED: [(u8, usize); 12] = [
            (b't', 1),
            (b'b', 1),
            (b'B', 1),
            (b's', 2),
            (b'u', 2),
            (b'I', 4),
            (b'i', 4),
            (b'l', 8),
            (b'f', 4),
            (b'd', 8),
            (b'D', 5),
            (b'T', 8),
        ];
        let what = usize::from(self.byte()) % 18;
        let deep = |innermost: Vec<u8>, levels: usize, wrap: fn(&[u8]) -> Vec<u8>| {
            // Written from within: what is as deep as a frame allows is no test of this page's own stack.
            (0..levels).fold(innermost, |inner, _| if inner.len() < VALUE { wrap(&inner) } else { inner })
        };
        match what {
            0..12 => [vec![FIXED[what].0], self.bytes(FIXED[what].1)].concat(),
            12 => vec![b'V'],
            13 => [&b"S"[..], &long(&self.text())].concat(),
            14 => [&b"x"[..], &long(&self.text())].concat(),
            // A text of some length, so that frames become larger than was agreed on.
            15 => [&b"S"[..], &long(&vec![b'.'; 257 * usize::from(self.byte())])].concat(),
            16 => {
                let levels = 32 * usize::from(self.byte());
                deep(vec![b'V'], levels, |inner| [&b"A"[..], &long(inner)].concat())
            }
            _ => {
                let levels = 32 * usize::from(self.byte());
                deep(vec![b'V'], levels, |inner| [&b"F"[..], &long(&[&short(b"k\xff")[..], inner].concat())].concat())
            }
        }
    }
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("a text of a script is short")][..], text].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("an input is small").to_be_bytes()[..], bytes].concat()
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 0, 1][..], &long(payload), &[0xce]].concat()
}
