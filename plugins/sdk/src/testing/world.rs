//! The world of a test: time that stands still until it is moved, and chance that is always the same.
//!
//! Up: [`super::Tester`]. Down: [`crate::Environment`].

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

use crate::{Clock, Entropy, contract::Timestamp};

/// When every test begins: 2026-01-01T00:00:00Z.
const BEGINNING: i64 = 1_767_225_600;

/// A clock that moves only when it is told to.
#[derive(Debug)]
pub struct FrozenClock(Mutex<Timestamp>);

impl FrozenClock {
    /// Moves the clock; backwards too, for tests of that.
    pub fn set(&self, now: Timestamp) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

impl Default for FrozenClock {
    fn default() -> Self {
        Self(Mutex::new(Timestamp::from_timestamp(BEGINNING, 0).expect("2026 is within range")))
    }
}

impl Clock for FrozenClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Random numbers that come out the same in every run: the seed counts the calls.
#[derive(Debug, Default)]
pub struct SeededEntropy(AtomicU64);

impl Entropy for SeededEntropy {
    fn generator(&self) -> ChaCha20Rng {
        ChaCha20Rng::seed_from_u64(self.0.fetch_add(1, Ordering::Relaxed))
    }
}
