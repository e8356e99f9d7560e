//! The HTTP client that plugins are handed: bounded in time and size, no redirects, no way inside.
//!
//! A thin layer over `reqwest`: rustls with ring, Mozilla's root certificates, no proxies, no cookies. It does not
//! retry: a repeated `POST` is the plugin's decision. Up: [`crate::Cx::http`]. Down: [`crate::egress`].

use std::{fmt, sync::Arc, time::Duration};

use reqwest::{Method, StatusCode, Url, header, redirect};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::{
    Egress, Error, Result, Secret,
    egress::{FilteringResolver, NotPublic},
};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request may take as a whole, its answer included.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(20);
/// How large an answer may be, in bytes.
const LARGEST_ANSWER: usize = 8 * 1024 * 1024;

/// Makes requests. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: reqwest::Client,
    egress: Egress,
}

/// Why a request got no answer. The texts name neither the address's path nor its query, which may hold a secret.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The address cannot be used at all.
    #[error("the address is not an http or https URL with a host")]
    InvalidUrl,
    /// The address lies where plugins may not go.
    #[error("{host} was refused")]
    Refused {
        /// The host of the address.
        host: String,
        /// Why.
        source: NotPublic,
    },
    /// It took longer than it may.
    #[error("{host} did not answer in time")]
    TimedOut {
        /// The host of the address.
        host: String,
    },
    /// The answer is larger than it may be.
    #[error("the answer of {host} is larger than {LARGEST_ANSWER} bytes")]
    TooLarge {
        /// The host of the address.
        host: String,
    },
    /// The answer is not the JSON that was expected.
    #[error("the answer of {host} is not the JSON that was expected (line {line}, column {column})")]
    NotJson {
        /// The host of the address.
        host: String,
        /// Where it differs.
        line: usize,
        /// Where it differs.
        column: usize,
    },
    /// Everything else: no connection, a broken one, a header that is none.
    #[error("{host} cannot be asked")]
    Failed {
        /// The host of the address.
        host: String,
        /// What happened, without the address.
        source: reqwest::Error,
    },
}

impl HttpClient {
    /// A client with connections of its own.
    ///
    /// # Panics
    /// Never: everything that it is made from is part of the program.
    #[must_use]
    pub fn new(egress: Egress) -> Self {
        let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring supports the default versions of TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(FilteringResolver(egress))
            // A redirect would be followed without looking at where it leads.
            .redirect(redirect::Policy::none())
            // A proxy of the environment would be asked instead of our resolver.
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TOTAL_TIMEOUT)
            .user_agent(concat!("metagov/", env!("CARGO_PKG_VERSION")))
            .build()
            .expect("a client made from constants builds");
        Self { client, egress }
    }

    /// A `GET` request.
    pub fn get(&self, url: &str) -> Request {
        self.request(Method::GET, url)
    }

    /// A `POST` request.
    pub fn post(&self, url: &str) -> Request {
        self.request(Method::POST, url)
    }

    /// A request of any method. What is wrong with the address is told by [`Request::send`].
    pub fn request(&self, method: Method, url: &str) -> Request {
        let prepared = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https")).and_then(|url| {
            let host = url.host_str()?.to_owned();
            Some((host, self.client.request(method, url)))
        });
        Request { prepared, egress: self.egress }
    }
}

/// A request in the making.
#[derive(Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct Request {
    /// Host and request; `None` where the address is not usable.
    prepared: Option<(String, reqwest::RequestBuilder)>,
    egress: Egress,
}

impl Request {
    /// Adds a header.
    pub fn header(self, name: &str, value: &str) -> Self {
        self.with(|request| request.header(name, value))
    }

    /// Authorises with a bearer token, kept out of debug output.
    pub fn bearer(self, token: &Secret) -> Self {
        self.with(|request| request.bearer_auth(token.expose()))
    }

    /// Sends a JSON body.
    pub fn json<T: Serialize + ?Sized>(self, body: &T) -> Self {
        self.with(|request| request.json(body))
    }

    /// Sends a body of any other kind; set its `content-type` with [`Request::header`].
    pub fn body(self, body: Vec<u8>) -> Self {
        self.with(|request| request.body(body))
    }

    /// A shorter time-out than the client's.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|request| request.timeout(timeout.min(TOTAL_TIMEOUT)))
    }

    /// Sends the request and reads the whole answer, whatever its status.
    ///
    /// # Errors
    /// [`HttpError`] where there was no answer within bounds. `?` makes it a failure, `.or_retry()?` passing trouble.
    pub async fn send(self) -> Result<Response, HttpError> {
        let (host, request) = self.prepared.ok_or(HttpError::InvalidUrl)?;
        if let Err(source) = self.egress.check_literal(&host) {
            return Err(HttpError::Refused { host, source });
        }
        let mut response = request.send().await.map_err(|error| failed(&host, error))?;
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| failed(&host, error))? {
            if body.len() + chunk.len() > LARGEST_ANSWER {
                return Err(HttpError::TooLarge { host });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Response { host, status, headers, body })
    }

    fn with(mut self, change: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder) -> Self {
        self.prepared = self.prepared.map(|(host, request)| (host, change(request)));
        self
    }
}

fn failed(host: &str, error: reqwest::Error) -> HttpError {
    let host = host.to_owned();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(source) = current.downcast_ref::<NotPublic>() {
            return HttpError::Refused { host, source: *source };
        }
        cause = current.source();
    }
    if error.is_timeout() {
        HttpError::TimedOut { host }
    } else {
        HttpError::Failed { host, source: error.without_url() }
    }
}

/// An answer, read whole.
pub struct Response {
    host: String,
    status: StatusCode,
    headers: header::HeaderMap,
    body: Vec<u8>,
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

    /// The body.
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
        let seconds = self.header("retry-after").and_then(|value| value.trim().parse().ok());
        Err(match seconds {
            Some(seconds) => Error::retry_after(Duration::from_secs(seconds), detail),
            None => Error::retry(detail),
        })
    }
}

/// Bodies and headers of platforms hold what nobody should read in a log.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response").field("host", &self.host).field("status", &self.status).finish_non_exhaustive()
    }
}
