//! Why a request got no answer, and what that means for the call that made it.
//!
//! The texts name host and port, and neither the address's path nor its query, which may hold a secret. Up:
//! [`super::Request::send`]. Down: [`crate::Error`], which `?` turns this into.

use std::{error::Error as StdError, time::Duration};

use thiserror::Error;

use crate::{
    Error,
    contract::{Problem, ProblemKind},
    egress::NotPublic,
};

/// Why a request got no answer. The texts name neither the address's path nor its query, which may hold a secret.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The address cannot be used at all.
    #[error("the address is not an http or https URL with a host")]
    InvalidUrl,
    /// The address lies where plugins may not go. `?` makes it the problem `egress-denied`, which is never tried again.
    #[error("{host} was refused")]
    Refused {
        /// The host of the address.
        host: String,
        /// Why.
        source: NotPublic,
    },
    /// It has failed again and again, and is left alone for a while. Nothing was sent; `?` makes it passing trouble.
    #[error("{host} has failed again and again and is left alone; it is asked again in {} s", after.as_secs_f64().ceil())]
    LeftAlone {
        /// Host and port of the address.
        host: String,
        /// When it is asked again.
        after: Duration,
    },
    /// It took longer than it may.
    #[error("{host} did not answer in time")]
    TimedOut {
        /// The host of the address.
        host: String,
    },
    /// The answer is larger than it may be.
    #[error("the answer of {host} is larger than {limit} bytes")]
    TooLarge {
        /// The host of the address.
        host: String,
        /// How large it may be; see [`super::Request::largest_answer`].
        limit: usize,
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
    /// Everything else: no connection, a broken one, a certificate that does not hold, a header that is none.
    #[error("{host} cannot be asked")]
    Failed {
        /// The host of the address.
        host: String,
        /// What happened, without the address.
        source: reqwest::Error,
    },
}

impl HttpError {
    /// Sorts what the client says.
    pub(super) fn of(host: &str, error: reqwest::Error) -> Self {
        let host = host.to_owned();
        if let Some(source) = find::<NotPublic>(&error) {
            Self::Refused { host, source: *source }
        } else if error.is_timeout() {
            Self::TimedOut { host }
        } else {
            Self::Failed { host, source: error.without_url() }
        }
    }

    /// What a call ends with that failed because of such an error, told in these words; `None` where it is a failure
    /// like any other.
    pub(crate) fn verdict(error: &(dyn StdError + 'static), detail: &str) -> Option<Error> {
        match find::<Self>(error)? {
            Self::Refused { .. } => Some(Error::Failed(Box::new(Problem::new(ProblemKind::EgressDenied, detail)))),
            Self::LeftAlone { after, .. } => Some(Error::retry_after(*after, detail)),
            _ => None,
        }
    }
}

/// The first error of this type among an error and its causes.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut causes = std::iter::successors(Some(error), |&error: &&'a (dyn StdError + 'static)| error.source());
    causes.find_map(|error| error.downcast_ref())
}
