//! What a broker's bytes become, by the steps that a connection takes and without one. For tests only, which throw at it
//! what strangers may have sent.
//!
//! The bytes pass [`Frames`], then the parser that lapin has for them, then [`super::wire`]. Up: `tests/fuzz`, with the
//! feature `failpoints`. Down: those three.

use amq_protocol::frame::{AMQPFrame, parse_frame};
use futures::FutureExt;
use lapin::{
    message::Delivery,
    protocol::{AMQPClass, basic::AMQPMethod},
};
use tokio::io::AsyncReadExt;

use super::{frames::Frames, wire};
use crate::bus::Message;

/// The messages in bytes that a broker sends over a connection which has been opened, and what lapin would end that
/// connection for. `frame_max` is the size that was agreed on.
///
/// # Panics
/// Where what is tested does.
#[must_use]
pub fn messages(bytes: &[u8], frame_max: u32) -> (Vec<Message>, Option<String>) {
    let mut cleaned = Vec::new();
    let read = Frames::new(bytes, frame_max).read_to_end(&mut cleaned).now_or_never();
    let unreadable = read.expect("all bytes are there").err().map(|error| error.to_string());
    let (mut rest, mut messages) = (&cleaned[..], Vec::new());
    let mut coming: Option<Coming> = None;
    while !rest.is_empty() {
        let (after, frame) = match parse_frame(rest) {
            Ok(parsed) => parsed,
            // As of a connection that ends in the middle.
            Err(error) if error.is_incomplete() => break,
            Err(error) => return (messages, Some(format!("{error:?}"))),
        };
        let size = rest.len() - after.len();
        if size > frame_max as usize {
            return (messages, Some(format!("a frame of {size} bytes")));
        }
        rest = after;
        match frame {
            AMQPFrame::Method(_, AMQPClass::Basic(AMQPMethod::Deliver(deliver))) => {
                let (tag, data) = (deliver.delivery_tag, Vec::new());
                let delivery = Delivery::mock(tag, deliver.exchange, deliver.routing_key, deliver.redelivered, data);
                coming = Some(Coming { delivery, lacks: None });
            }
            AMQPFrame::Header(_, header) => {
                if let Some(coming) = &mut coming {
                    coming.delivery.properties = header.properties;
                    coming.lacks = Some(header.body_size);
                }
            }
            AMQPFrame::Body(_, data) => {
                if let Some(Coming { delivery, lacks: Some(lacks) }) = &mut coming {
                    *lacks = lacks.saturating_sub(data.len() as u64);
                    delivery.data.extend(data);
                }
            }
            _ => {}
        }
        if coming.as_ref().is_some_and(|coming| coming.lacks == Some(0)) {
            messages.extend(coming.take().map(|mut coming| wire::message(&mut coming.delivery)));
        }
    }
    (messages, unreadable)
}

/// A message that is not whole yet.
struct Coming {
    delivery: Delivery,
    /// How many bytes of the body are still to come; `None` before its header.
    lacks: Option<u64>,
}
