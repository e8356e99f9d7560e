//! An answer that was read whole: status, headers, body, and whether trying again is safe.
//!
//! Up: [`super::Request::send`]. Down: the plugin.

use std::{fmt, time::Duration};

use reqwest::{StatusCode, header};
use serde::de::DeserializeOwned;

use super::HttpError;
use crate::{Clock as _, Error, Result, SystemClock};

/// An answer, read whole.
pub struct Response {
    pub(super) host: String,
    pub(super) status: StatusCode,
    pub(super) headers: header::HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Response {
    /// The status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// A header, where it is there and readable.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body, as it came over the wire: nothing is decompressed, and nothing compressed is asked for.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// [`HttpError::NotJson`], which does not repeat the body.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, HttpError> {
        serde_json::from_slice(&self.body).map_err(|error| HttpError::NotJson {
            host: self.host.clone(),
            line: error.line(),
            column: error.column(),
        })
    }

    /// The answer, if it is one: a status of 2xx.
    ///
    /// # Errors
    /// [`Error::Retry`] for 429 and 503, which say that the request was not handled, after the `Retry-After` of the
    /// answer; [`Error::Failed`] for every other status.
    pub fn success(self) -> Result<Self> {
        if self.status.is_success() {
            return Ok(self);
        }
        let detail = format!("{} answered with status {}", self.host, self.status());
        if !matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            return Err(Error::failed(detail));
        }
        Err(match self.retry_after() {
            Some(after) => Error::retry_after(after, detail),
            None => Error::retry(detail),
        })
    }

    /// How long the platform asks to wait, in seconds or until a date
    /// (<https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3>).
    fn retry_after(&self) -> Option<Duration> {
        let value = self.header("retry-after")?.trim();
        if let Ok(seconds) = value.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let until = httpdate::parse_http_date(value).ok()?;
        // By the platform's own clock, which need not agree with ours.
        let date = self.header("date").and_then(|date| httpdate::parse_http_date(date).ok());
        Some(until.duration_since(date.unwrap_or_else(|| SystemClock.now().into())).unwrap_or_default())
    }
}

/// Bodies and headers of platforms hold what nobody should read in a log.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response").field("host", &self.host).field("status", &self.status).finish_non_exhaustive()
    }
}
