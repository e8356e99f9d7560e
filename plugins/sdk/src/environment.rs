//! Time, randomness and HTTP: the only ways in which a plugin meets the world.
//!
//! Production takes them from the machine, the test kit from itself; handlers cannot tell. Up: whoever builds a
//! [`crate::Call`]. Down: [`crate::Cx`].

use std::{fmt, sync::Arc};

use chrono::SubsecRound as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

use crate::{Egress, HttpClient, contract::Timestamp};

/// Tells the time.
pub trait Clock: Send + Sync {
    /// The current instant.
    fn now(&self) -> Timestamp;
}

/// Makes random numbers.
pub trait Entropy: Send + Sync {
    /// A generator for one call of a handler.
    fn generator(&self) -> ChaCha20Rng;
}

/// What a call may use of the world.
#[derive(Clone)]
pub struct Environment {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Random numbers.
    pub entropy: Arc<dyn Entropy>,
    /// HTTP with time-outs and an egress policy.
    pub http: HttpClient,
}

impl Environment {
    /// The machine's own clock and randomness, and HTTP to public addresses only.
    #[must_use]
    pub fn system() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            http: HttpClient::new(Egress::PublicOnly),
        }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").finish_non_exhaustive()
    }
}

/// The one precision of all times in records and events: what every database keeps and every reader understands.
pub(crate) fn whole_millis(time: Timestamp) -> Timestamp {
    time.trunc_subsecs(3)
}

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        whole_millis(chrono::Utc::now())
    }
}

/// A generator seeded by the operating system, for each call anew.
#[derive(Debug, Clone, Copy)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn generator(&self) -> ChaCha20Rng {
        ChaCha20Rng::from_os_rng()
    }
}
