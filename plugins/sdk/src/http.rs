//! The HTTP client that plugins are handed: bounded in time and size, no redirects, no way inside.
//!
//! A thin layer over `reqwest`: rustls with ring, Mozilla's root certificates, no proxies, no cookies, no decompression.
//! It does not retry: a repeated `POST` is the plugin's decision. A host that fails again and again is left alone for a
//! while ([`crate::breaker`]). Up: [`crate::Cx::http`]. Down: [`crate::egress`].

mod error;
mod response;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use reqwest::{Method, Url, redirect};
use serde::Serialize;

pub use self::{error::HttpError, response::Response};
use crate::{
    Egress, Result, Secret,
    breaker::{Breakers, Permit},
    egress::{FilteringResolver, Lookup},
};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request may take as a whole, its answer included.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(20);
/// How large an answer may be, in bytes, where the request does not say.
const LARGE_ANSWER: usize = 1024 * 1024;
/// How large an answer may be, whatever the request says.
const LARGEST_ANSWER: usize = 8 * 1024 * 1024;

/// Makes requests. Cheap to clone; clones share their connections and what they know of broken platforms.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: reqwest::Client,
    egress: Egress,
    breakers: Breakers,
    /// The plugin that it was lent to; nobody's at first.
    owner: &'static str,
}

impl HttpClient {
    /// A client with connections of its own.
    ///
    /// # Panics
    /// Never: everything that it is made from is part of the program.
    #[must_use]
    pub fn new(egress: Egress) -> Self {
        Self::resolving(egress, Lookup::system())
    }

    fn resolving(egress: Egress, lookup: Lookup) -> Self {
        let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring supports the default versions of TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(FilteringResolver { egress: egress.clone(), lookup })
            // A redirect would be followed without looking at where it leads.
            .redirect(redirect::Policy::none())
            // A proxy of the environment would be asked instead of our resolver.
            .no_proxy()
            // A kilobyte may unpack to a gigabyte. Off already, unless another crate turns reqwest's features on.
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TOTAL_TIMEOUT)
            .user_agent(concat!("metagov/", env!("CARGO_PKG_VERSION")))
            .build()
            .expect("a client made from constants builds");
        Self { client, egress, breakers: Breakers::default(), owner: "" }
    }

    /// The same client for the calls of one plugin: what it finds broken is no other plugin's business.
    pub(crate) fn lent_to(&self, plugin: &'static str) -> Self {
        Self { owner: plugin, ..self.clone() }
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
            let address = format!("{host}:{}", url.port_or_known_default()?);
            Some(Prepared { host, address, request: self.client.request(method, url) })
        });
        Request { prepared, from: self.clone(), largest_answer: LARGE_ANSWER }
    }
}

/// A request in the making.
#[derive(Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct Request {
    /// `None` where the address is not usable.
    prepared: Option<Prepared>,
    from: HttpClient,
    largest_answer: usize,
}

#[derive(Debug)]
struct Prepared {
    host: String,
    /// Host and port.
    address: String,
    request: reqwest::RequestBuilder,
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

    /// A shorter time-out than the client's 20 seconds, for the whole of request and answer.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|request| request.timeout(timeout.min(TOTAL_TIMEOUT)))
    }

    /// How many bytes the answer may have: 1 MiB where this is not said, 8 MiB at most.
    pub fn largest_answer(mut self, bytes: usize) -> Self {
        self.largest_answer = bytes.min(LARGEST_ANSWER);
        self
    }

    /// Sends the request and reads the whole answer, whatever its status.
    ///
    /// # Errors
    /// [`HttpError`] where there was no answer within bounds. `?` makes it a failure, `.or_retry()?` passing trouble;
    /// [`HttpError::Refused`] and [`HttpError::LeftAlone`] say themselves which of the two they are.
    pub async fn send(self) -> Result<Response, HttpError> {
        let Prepared { host, address, request } = self.prepared.ok_or(HttpError::InvalidUrl)?;
        if let Err(source) = self.from.egress.check_literal(&host) {
            return Err(HttpError::Refused { host, source });
        }
        let permit = match self.from.breakers.admit(self.from.owner, &address) {
            Ok(permit) => permit,
            Err(after) => return Err(HttpError::LeftAlone { host: address, after }),
        };
        let result = read(&host, request, self.largest_answer).await;
        tell(permit, &result);
        result
    }

    fn with(mut self, change: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder) -> Self {
        self.prepared = self.prepared.map(|prepared| Prepared { request: change(prepared.request), ..prepared });
        self
    }
}

async fn read(host: &str, request: reqwest::RequestBuilder, limit: usize) -> Result<Response, HttpError> {
    let failed = |error| HttpError::of(host, error);
    let too_large = || HttpError::TooLarge { host: host.to_owned(), limit };
    let mut response = request.send().await.map_err(failed)?;
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    let headers = std::mem::take(response.headers_mut());
    Ok(Response { host: host.to_owned(), status: response.status(), headers, body })
}

/// What a call says about the platform. 429 is the answer of one that works; a body without end is an answer too.
fn tell(permit: Permit, result: &Result<Response, HttpError>) {
    match result {
        Ok(response) if response.status.is_server_error() => permit.failed(),
        Ok(_) | Err(HttpError::TooLarge { .. } | HttpError::NotJson { .. }) => permit.answered(),
        // A header that is none: it never got as far as the platform.
        Err(HttpError::Failed { source, .. }) if source.is_builder() => permit.not_made(),
        Err(HttpError::TimedOut { .. } | HttpError::Failed { .. }) => permit.failed(),
        Err(HttpError::InvalidUrl | HttpError::Refused { .. } | HttpError::LeftAlone { .. }) => permit.not_made(),
    }
}
