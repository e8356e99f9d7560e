//! Shows the dead letters, one after the other, and settles each as it is decided.
//!
//! All are held by one channel until the end: what is kept goes back, in its old order, when the channel closes. So two
//! people who look at the same time see different letters. Up: [`super::session`]. Down: `metagov dead`.

use lapin::options::{BasicAckOptions, BasicGetOptions};

use super::{Declaring, declare::name, publisher::Publisher, session::Link, wire};
use crate::bus::{BrokerError, BusError, DeadLetter, DeadVerdict};

pub(super) async fn settle(
    link: &Link,
    declaring: &Declaring,
    publisher: &Publisher,
    decide: &mut (dyn FnMut(&DeadLetter) -> DeadVerdict + Send),
) -> Result<Vec<DeadLetter>, BusError> {
    let failed = |error: lapin::Error| BusError::DeadLetters(BrokerError::new(error));
    let channel = link.create_channel().await.map_err(failed)?;
    let queue = name(&declaring.names.dead());
    let mut shown = Vec::new();
    while let Some(mut got) = channel.basic_get(queue.clone(), BasicGetOptions::default()).await.map_err(failed)? {
        let mut letter = DeadLetter { message: wire::message(&mut got.delivery) };
        declaring.authors.read(&mut letter.message.properties);
        let settled = match decide(&letter) {
            DeadVerdict::Keep => false,
            DeadVerdict::Retry => {
                // First the copy, then the original: a crash in between leaves two, not none.
                publisher.publish(vec![letter.revived()]).await?;
                true
            }
            DeadVerdict::Discard => true,
        };
        if settled {
            channel.basic_ack(got.delivery.delivery_tag, BasicAckOptions::default()).await.map_err(failed)?;
        }
        shown.push(letter);
    }
    // The answer says that the broker has seen the acknowledgements and taken back the rest.
    channel.close(200, "done".into()).await.map_err(failed)?;
    Ok(shown)
}
