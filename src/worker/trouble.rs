//! Trouble with the database, told once in a while: a database that is away fails every command, again and again.
//!
//! It counts and it logs, and knows no remedy. Up: [`super::settle`] and [`super::committer`], which try again. Down: the
//! log.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::warn;

use crate::store::StoreError;

/// Trouble that lasts is told once in this time.
const ONCE_IN: Duration = Duration::from_secs(30);

/// One for all that a worker does with its database.
#[derive(Debug, Default)]
pub(super) struct Trouble(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    told: Option<Instant>,
    untold: u64,
}

impl Trouble {
    /// Another try has failed.
    pub(super) fn met(&self, error: &StoreError) {
        if let Some(untold) = self.to_be_told(Instant::now()) {
            warn!(%error, untold, "the database is in trouble; commands are held and tried again until it is over");
        }
    }

    /// How many tries have failed in silence, where it is time to speak.
    fn to_be_told(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.told.is_some_and(|told| now.duration_since(told) < ONCE_IN) {
            state.untold += 1;
            return None;
        }
        state.told = Some(now);
        Some(std::mem::take(&mut state.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_that_lasts_is_told_once_in_half_a_minute() {
        let (trouble, began) = (Trouble::default(), Instant::now());
        let told: Vec<_> =
            (0..=120).map(|half| trouble.to_be_told(began + Duration::from_millis(500) * half)).collect();
        let spoken: Vec<_> = told.iter().enumerate().filter_map(|(half, told)| Some((half, (*told)?))).collect();
        assert_eq!(spoken, [(0, 0), (60, 59), (120, 59)]);
    }
}
