//! Shows the dead letters, one after the other, and settles each as it is decided.
//!
//! It has a connection of its own, so that nobody's messages wait behind it. All letters are held by one channel until the
//! end: what is kept goes back, in its old order, when the channel closes. So two people who look
//! at the same time see different letters. Up: the broker. Down: `metagov dead`.

use std::time::Duration;

use lapin::{
    Channel,
    message::Delivery,
    options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::time::timeout;

use super::{
    Declaring,
    declare::name,
    transport::{Address, Unreachable},
    wire,
};
use crate::bus::{BrokerError, BusError, DeadLetter, DeadVerdict};

/// For the confirm of a letter that is published again.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the dead letters cannot be read or settled.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Connect(#[from] Unreachable),
    #[error(transparent)]
    Amqp(#[from] lapin::Error),
    #[error("the broker did not take a letter that was to be retried; it stays")]
    NotTaken,
}

pub(super) async fn settle(
    address: &Address,
    declaring: &Declaring,
    decide: &mut (dyn FnMut(&DeadLetter) -> DeadVerdict + Send),
) -> Result<Vec<DeadLetter>, BusError> {
    look(address, declaring, decide).await.map_err(|failed| BusError::DeadLetters(BrokerError::new(failed)))
}

async fn look(
    address: &Address,
    declaring: &Declaring,
    decide: &mut (dyn FnMut(&DeadLetter) -> DeadVerdict + Send),
) -> Result<Vec<DeadLetter>, Failed> {
    let connection = address.connect("dead letters").await?;
    let channel = connection.create_channel().await?;
    let publishing = connection.create_channel().await?;
    publishing.confirm_select(ConfirmSelectOptions::default()).await?;
    let queue = name(&declaring.names.dead());
    let mut shown = Vec::new();
    while let Some(got) = channel.basic_get(queue.clone(), BasicGetOptions::default()).await? {
        let mut delivery = got.delivery;
        let mut letter = DeadLetter { message: wire::dead_letter(&mut delivery) };
        declaring.authors.read(&mut letter.message.properties);
        let settled = match decide(&letter) {
            DeadVerdict::Keep => false,
            DeadVerdict::Retry => {
                // First the copy, then the original: a crash in between leaves two, not none.
                retry(&publishing, declaring, &letter, &delivery).await?;
                true
            }
            DeadVerdict::Discard => true,
        };
        if settled {
            channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await?;
        }
        shown.push(letter);
    }
    // The answer says that the broker has seen the acknowledgements and taken back the rest.
    channel.close(200, "done".into()).await?;
    // Nothing depends on this farewell.
    let _ = connection.close(200, "done".into()).await;
    Ok(shown)
}

/// Publishes a letter as a command, with all that its sender wrote: also what we have no word for.
async fn retry(
    channel: &Channel,
    declaring: &Declaring,
    letter: &DeadLetter,
    delivery: &Delivery,
) -> Result<(), Failed> {
    let properties = declaring.authors.sign(&letter.revived(), wire::revived(&delivery.properties));
    let confirm = channel
        .basic_publish(
            name(&declaring.names.commands()),
            delivery.routing_key.clone(),
            BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() },
            &letter.message.body,
            properties,
        )
        .await?;
    match timeout(CONFIRM_TIMEOUT, confirm).await {
        // Returned: not even the queue of what nobody wants is there.
        Ok(Ok(taken)) if taken.is_ack() => match taken.take_message() {
            None => Ok(()),
            Some(_) => Err(Failed::NotTaken),
        },
        Ok(Err(error)) => Err(error.into()),
        Ok(Ok(_)) | Err(_) => Err(Failed::NotTaken),
    }
}
