//! How a handler fails: three kinds, and what the service makes of each.
//!
//! | kind | meaning | the service |
//! |---|---|---|
//! | [`Error::Rejected`] | the caller's fault | answers with the problem; nothing but the answer is stored |
//! | [`Error::Retry`] | passing trouble | tries again later, until the attempts are used up |
//! | [`Error::Failed`] | everything else | ends it as failed |
//!
//! `?` on any error makes a `Failed`, never a `Retry`: what posts to a platform must not be repeated because of an
//! error that nobody knows. [`OrRetry::or_retry`] says where it is safe. The one exception is a platform that is left
//! alone ([`HttpError::LeftAlone`]): nothing was sent. Up: handlers. Down: `src/worker`.

use std::{any::Any, fmt, time::Duration};

use crate::{
    HttpError,
    contract::{Problem, ProblemKind, Violation},
};

/// The result of a handler.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a handler did not succeed. The texts reach the driver: no secrets in them. Secrets of the config are masked where
/// one of them stands in a text as it is.
///
/// Not a [`std::error::Error`], so that `?` can turn every one of those into it.
#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// The caller asked for something that cannot be had.
    Rejected(Box<Problem>),
    /// It may work later.
    Retry {
        /// How long to wait at least, where the platform says so.
        after: Option<Duration>,
        /// What the driver is told when the attempts are used up.
        problem: Box<Problem>,
    },
    /// It did not work, and trying again is not known to be safe or useful.
    Failed(Box<Problem>),
}

impl Error {
    /// The caller's fault: the parameters, or in [`crate::Plugin::enabled`] the config, are not acceptable.
    #[must_use]
    pub fn rejected(detail: impl Into<String>) -> Self {
        Self::Rejected(Box::new(Problem::new(ProblemKind::InvalidParameters, detail)))
    }

    /// The same with the place, as a JSON Pointer from the root of the command's body such as `/parameters/low`.
    #[must_use]
    pub fn rejected_at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let message = detail.into();
        let violation = Violation { pointer: pointer.into(), keyword: "rejected".to_owned(), message: message.clone() };
        let problem = Problem::new(ProblemKind::InvalidParameters, message).with_errors(vec![violation]);
        Self::Rejected(Box::new(problem))
    }

    /// Passing trouble; the service knows when to try again.
    #[must_use]
    pub fn retry(detail: impl Into<String>) -> Self {
        Self::Retry { after: None, problem: Box::new(Problem::new(ProblemKind::PlatformError, detail)) }
    }

    /// Passing trouble, and the platform says how long to wait.
    #[must_use]
    pub fn retry_after(after: Duration, detail: impl Into<String>) -> Self {
        Self::Retry { after: Some(after), problem: Box::new(Problem::new(ProblemKind::PlatformError, detail)) }
    }

    /// It did not work.
    #[must_use]
    pub fn failed(detail: impl Into<String>) -> Self {
        Self::Failed(Box::new(Problem::new(ProblemKind::PlatformError, detail)))
    }

    /// The process ends by itself and cannot be ended by hand.
    #[must_use]
    pub fn not_closable() -> Self {
        let detail = "this process ends by itself and cannot be closed by hand";
        Self::Rejected(Box::new(Problem::new(ProblemKind::NotClosable, detail)))
    }

    /// The webhook does not come from the platform, or was changed on its way.
    #[must_use]
    pub fn invalid_signature(detail: impl Into<String>) -> Self {
        Self::Rejected(Box::new(Problem::new(ProblemKind::InvalidSignature, detail)))
    }

    /// What the driver is told.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        match self {
            Self::Rejected(problem) | Self::Retry { problem, .. } | Self::Failed(problem) => problem,
        }
    }

    pub(crate) fn problem_mut(&mut self) -> &mut Problem {
        match self {
            Self::Rejected(problem) | Self::Retry { problem, .. } | Self::Failed(problem) => problem,
        }
    }

    /// The same problem as passing trouble.
    fn into_retry(self, after: Option<Duration>) -> Self {
        match self {
            // The address will not be a better one.
            Self::Failed(problem) if problem.kind == ProblemKind::EgressDenied => Self::Failed(problem),
            Self::Rejected(problem) | Self::Failed(problem) => Self::Retry { after, problem },
            Self::Retry { after: known, problem } => Self::Retry { after: after.or(known), problem },
        }
    }

    /// What is wrong with a request is wrong with the config where the config is all that was sent.
    pub(crate) fn about_config(mut self) -> Self {
        if let Self::Rejected(problem) = &mut self
            && problem.kind == ProblemKind::InvalidParameters
        {
            let errors = std::mem::take(&mut problem.errors);
            let detail = std::mem::take(&mut problem.detail);
            **problem = Problem::new(ProblemKind::InvalidConfig, detail).with_errors(errors);
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Rejected(_) => "rejected",
            Self::Retry { .. } => "to be retried",
            Self::Failed(_) => "failed",
        };
        write!(f, "{kind}: {}", self.problem())
    }
}

/// What `?` makes: a failure with the whole chain of causes. A [`Problem`] stays the problem that it is.
impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        if let Some(problem) = (&error as &dyn Any).downcast_ref::<Problem>() {
            return Self::Failed(Box::new(problem.clone()));
        }
        let mut detail = error.to_string();
        let mut cause = error.source();
        while let Some(next) = cause {
            let text = next.to_string();
            // Many errors repeat their cause in their own text.
            if !detail.contains(&text) {
                detail.push_str(": ");
                detail.push_str(&text);
            }
            cause = next.source();
        }
        HttpError::verdict(&error, &detail).unwrap_or_else(|| Self::failed(detail))
    }
}

/// Says of a failure that trying again is safe.
pub trait OrRetry<T> {
    /// Tries again when the service sees fit.
    ///
    /// # Errors
    /// [`Error::Retry`] where there was an error.
    fn or_retry(self) -> Result<T>;

    /// Tries again after this time at the earliest.
    ///
    /// # Errors
    /// [`Error::Retry`] where there was an error.
    fn or_retry_after(self, after: Duration) -> Result<T>;
}

impl<T, E: Into<Error>> OrRetry<T> for std::result::Result<T, E> {
    fn or_retry(self) -> Result<T> {
        self.map_err(|error| error.into().into_retry(None))
    }

    fn or_retry_after(self, after: Duration) -> Result<T> {
        self.map_err(|error| error.into().into_retry(Some(after)))
    }
}

/// Returns [`Error::rejected`] from the handler unless the condition holds; the rest is as in [`format!`].
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return ::core::result::Result::Err($crate::Error::rejected(::std::format!($($message)+)));
        }
    };
}
