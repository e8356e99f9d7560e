//! A command as a driver sends it, and the properties that it says about it: the right ones, strange ones, or none.
//!
//! Down: [`crate::driver`], which sends it, and [`crate::book`], which knows it by its id.

use lapin::BasicProperties;
use uuid::Uuid;

/// What is sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Command {
    /// Its `message_id`, and what the book knows it by.
    pub(crate) id: String,
    /// Its routing key.
    pub(crate) key: String,
    /// Its body.
    pub(crate) body: Vec<u8>,
    /// What AMQP says about it.
    pub(crate) properties: Properties,
}

/// What AMQP says about a command.
#[derive(Debug, Clone, Default)]
pub(crate) enum Properties {
    /// A `message_id`, as it should be.
    #[default]
    Right,
    /// These, and the command's id for `correlation_id`.
    Strange(Strange),
    /// Nothing that an answer could be recognised by.
    Nameless,
}

/// What a driver may say of a command, each only where it is there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Strange {
    pub(crate) message_id: Option<String>,
    pub(crate) reply_to: Option<String>,
    pub(crate) user_id: Option<String>,
}

impl Command {
    /// A command with a fresh `message_id`.
    pub(crate) fn new(key: &str, body: Vec<u8>) -> Self {
        Self { id: Uuid::new_v4().to_string(), key: key.to_owned(), body, properties: Properties::Right }
    }
}

impl Properties {
    /// As AMQP has them; `id` is that of the command.
    pub(crate) fn written(&self, id: &str) -> BasicProperties {
        let properties = BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into());
        match self {
            Self::Right => properties.with_message_id(id.into()),
            Self::Nameless => properties,
            Self::Strange(Strange { message_id, reply_to, user_id }) => {
                let mut properties = properties.with_correlation_id(id.into());
                if let Some(message_id) = message_id {
                    properties = properties.with_message_id(message_id.as_str().into());
                }
                if let Some(queue) = reply_to {
                    properties = properties.with_reply_to(queue.as_str().into());
                }
                match user_id {
                    Some(user) => properties.with_user_id(user.as_str().into()),
                    None => properties,
                }
            }
        }
    }
}
