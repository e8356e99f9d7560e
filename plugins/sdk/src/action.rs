//! Actions: one call with one outcome.
//!
//! Mostly written with [`macro@crate::action`], which expands to an implementation of [`Action`]. It does not say how
//! an action is repeated after a crash, only what it may be told about that: [`Effect`]. Up:
//! [`crate::Registrar::action`]. Down: the platform.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{Cx, Payload, Plugin, Result};

/// Something a driver can ask of plugin `P`. The implementing type is the request: its fields are the parameters, its
/// doc comment is the description.
pub trait Action<P: Plugin>: Payload {
    /// The name on the wire, `[a-z0-9][a-z0-9-]{0,62}`; never derived from a Rust name, so that a rename breaks nobody.
    const NAME: &'static str;

    /// What happens when the action is called twice. Without a word about it, it is not safe.
    const EFFECT: Effect = Effect::Unsafe;

    /// What the action answers.
    type Output: Payload;

    /// How long one call may take; `None` for the service's own limit (30 s unless set otherwise).
    #[must_use]
    fn deadline() -> Option<Duration> {
        None
    }

    /// Does it. Called once for each attempt, after the parameters have passed their schema.
    ///
    /// What the call set as state or emitted is stored together with an `Ok` and dropped with an error.
    fn run(self, cx: &Cx<P>) -> impl Future<Output = Result<Self::Output>> + Send;
}

/// What happens when an action is called twice, which decides what the service does after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It only looks, or only computes. Repeated freely.
    Pure,
    /// Doing it twice is the same as doing it once. Repeated freely.
    Idempotent,
    /// The platform takes [`Cx::idempotency_key`] and does it once. Repeated under the same key.
    Keyed,
    /// Doing it twice does it twice. Never repeated after it may have happened: it ends as `uncertain`.
    Unsafe,
}

impl Effect {
    /// The word in manifests and in the attribute.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::Idempotent => "idempotent",
            Self::Keyed => "keyed",
            Self::Unsafe => "unsafe",
        }
    }

    /// Whether an action of this effect may change the plugin's state: not where nothing is to happen, and not where a
    /// conflict with another change could not be solved by running the action again.
    #[must_use]
    pub const fn may_keep_state(self) -> bool {
        matches!(self, Self::Idempotent | Self::Keyed)
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
