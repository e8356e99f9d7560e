//! What can be wrong with the AMQP properties of a command.
//!
//! Called by [`super::envelope`]. Asks [`super::tenancy`].

use metagov_sdk::contract::{Problem, ProblemKind};

use super::tenancy::Tenancy;
use crate::bus::is_reply_queue;

/// What is wrong with a `message_id`: its kind, for its sender may not know what their client has made of it.
pub(super) fn unusable(id: &str) -> String {
    let is = match id.chars().find(|c| !c.is_ascii_graphic()) {
        _ if id.is_empty() => "is empty".to_owned(),
        None => format!("has {} characters", id.len()),
        Some(' ') => "holds a space".to_owned(),
        Some(c) if c.is_control() => "holds a control character".to_owned(),
        Some(_) => "holds a character beyond ASCII".to_owned(),
    };
    format!("message_id {is}; it must be 1 to 128 visible ASCII characters, and a UUID is best")
}

/// The queue for the answer.
///
/// # Errors
/// What is wrong with it, where no answer goes there: neither to queues of the service, which begin with its prefix, nor to
/// what the user may not be answered at.
pub(super) fn check_reply_to(
    queue: String,
    prefix: &str,
    tenancy: &Tenancy,
    user: Option<&str>,
) -> Result<String, Problem> {
    let ours = queue.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
    if queue.len() > 255 || !is_reply_queue(&queue) || ours {
        let detail = "reply_to must be a queue of your own or amq.rabbitmq.reply-to, of at most 255 bytes";
        return Err(Problem::new(ProblemKind::InvalidReplyTo, detail));
    }
    if !tenancy.may_be_answered_at(user, &queue) {
        let detail = "reply_to must be a queue whose name begins with your user and a dot, or amq.rabbitmq.reply-to";
        return Err(Problem::new(ProblemKind::InvalidReplyTo, detail));
    }
    Ok(queue)
}
