//! Patience with a database that is away: it is asked again, for as long as it takes.
//!
//! It decides nothing: what the database refuses for good goes back to whoever asked. Who has to end early, for the
//! worker goes down or a handler's time is over, drops the asking. Up: all of the worker that reads or writes.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::sleep;

use crate::store::StoreError;

const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// After a lost race: little, for the workers take turns at the row then ([`super::serial`]).
const SHORTEST_AFTER_A_RACE: Duration = Duration::from_millis(2);
const LONGEST_AFTER_A_RACE: Duration = Duration::from_millis(50);

/// The waits between tries: longer from one to the next, jittered, without end.
#[derive(Debug)]
pub(super) struct Patience(ExponentialBackoff);

impl Patience {
    /// That of somebody who has not waited yet.
    pub(super) fn new() -> Self {
        Self::between(SHORTEST, LONGEST)
    }

    /// The waits of a command that lost a race for a row: the more often, the more it lets the others go first.
    pub(super) fn after_a_race() -> Self {
        Self::between(SHORTEST_AFTER_A_RACE, LONGEST_AFTER_A_RACE)
    }

    fn between(shortest: Duration, longest: Duration) -> Self {
        let waits = ExponentialBuilder::default().with_min_delay(shortest).with_max_delay(longest);
        Self(waits.with_jitter().without_max_times().build())
    }

    /// Asks until the database answers or refuses for good.
    ///
    /// # Errors
    /// What it refuses with.
    pub(super) async fn insist<T, F>(&mut self, mut ask: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        loop {
            match ask().await {
                Err(error) if error.is_passing() => self.wait().await,
                answer => return answer,
            }
        }
    }

    /// Until the next try, for whoever has more to do between two tries than to wait.
    pub(super) async fn wait(&mut self) {
        sleep(self.next_wait()).await;
    }

    /// How long until the next try.
    pub(super) fn next_wait(&mut self) -> Duration {
        self.0.next().unwrap_or(LONGEST)
    }
}
