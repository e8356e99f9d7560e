//! An HTTP request of a platform, as a plugin sees it.
//!
//! The body is the very bytes that were signed. Whether they are to be trusted says
//! [`crate::Plugin::verify_webhook`], not this module. Up: [`crate::contract::WebhookCommand`]. Down:
//! [`crate::Plugin::receive_webhook`] and [`crate::Process::receive_webhook`].

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::de::DeserializeOwned;

use crate::{
    Result,
    contract::{Problem, ProblemKind, Timestamp, Violation, WebhookCommand},
};

/// An HTTP request of a platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// `POST`, mostly.
    pub method: String,
    /// The path of the address.
    pub path: String,
    /// The query string without its question mark; may be empty.
    pub query: String,
    /// The headers in their order, names as they came.
    pub headers: Vec<(String, String)>,
    /// The raw body.
    pub body: Vec<u8>,
    /// When the gateway received it.
    pub received_at: Timestamp,
    /// The platform's own id of this delivery.
    pub delivery_id: Option<String>,
}

impl Webhook {
    /// The request inside a command.
    ///
    /// # Errors
    /// A problem `invalid-command` where the body is not base64.
    pub fn from_command(command: &WebhookCommand) -> Result<Self, Problem> {
        let request = &command.request;
        let body = STANDARD.decode(&request.body_base64).map_err(|_| {
            let violation = Violation {
                pointer: "/request/body_base64".to_owned(),
                keyword: "contentEncoding".to_owned(),
                message: "must be base64 with padding (RFC 4648)".to_owned(),
            };
            Problem::new(ProblemKind::InvalidCommand, "the body of the webhook cannot be decoded")
                .with_errors(vec![violation])
        })?;
        Ok(Self {
            method: request.method.clone(),
            path: request.path.clone(),
            query: request.query.clone(),
            headers: request.headers.clone(),
            body,
            received_at: command.received_at,
            delivery_id: command.delivery_id.clone(),
        })
    }

    /// The first header of this name, in whatever case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// [`crate::Error::Rejected`] where it is not what the plugin understands.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| {
            crate::Error::rejected(format!(
                "the webhook's body is not the JSON that was expected (line {}, column {})",
                error.line(),
                error.column()
            ))
        })
    }
}

#[cfg(feature = "testing")]
impl Webhook {
    /// A `POST` with a JSON body, for tests. Add headers to [`Webhook::headers`].
    #[must_use]
    pub fn post_json(path: &str, body: &serde_json::Value) -> Self {
        Self {
            method: "POST".to_owned(),
            path: path.to_owned(),
            query: String::new(),
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: body.to_string().into_bytes(),
            received_at: Timestamp::UNIX_EPOCH,
            delivery_id: None,
        }
    }
}
