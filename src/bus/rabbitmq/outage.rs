//! One outage, from the first failure to the recovery: said once when it begins, once when it is over, with growing,
//! jittered pauses in between and no end to the attempts.
//!
//! It waits, logs and keeps its line on the [`Board`](super::standing::Board); what failed and how it is tried again is
//! its owner's business. Up and down: [`super::session`], [`super::consumer`], [`super::publisher`].

use std::{error::Error, fmt, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

use super::standing::Line;

/// The first pause. backon adds up to as much again at random, so that a fleet does not come back in step.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause before jitter: what is back is found within twice this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The state of one thing that is to be kept up.
#[derive(Debug)]
pub(super) struct Outage {
    what: String,
    pauses: ExponentialBackoff,
    since: Option<Instant>,
    line: Option<Line>,
}

impl Outage {
    /// Of something that nobody's readiness depends on.
    pub(super) fn of(what: impl Into<String>) -> Self {
        Self { what: what.into(), pauses: pauses(), since: None, line: None }
    }

    /// Tells on this line why it does not stand.
    pub(super) fn told_on(mut self, line: Line) -> Self {
        self.line = Some(line);
        self
    }

    /// It has never stood, and should.
    pub(super) fn begin(&self) {
        if let Some(line) = &self.line {
            line.write(format!("{} is not there yet", self.what));
        }
    }

    /// An attempt failed, or what stood broke. Waits for the time of the next attempt.
    pub(super) async fn failed(&mut self, error: &(dyn Error + Sync)) {
        if let Some(line) = &self.line {
            line.write_failure(&self.what, Chain(error).to_string());
        }
        if self.since.is_none() {
            tracing::warn!(error = %Chain(error), "lost {}; trying again until it is back", self.what);
            self.since = Some(Instant::now());
        } else {
            tracing::debug!(error = %Chain(error), "still no {}", self.what);
        }
        tokio::time::sleep(self.pauses.next().unwrap_or(LONGEST_PAUSE)).await;
    }

    /// It stands.
    pub(super) fn over(&mut self) {
        if let Some(line) = &self.line {
            line.wipe();
        }
        if let Some(since) = self.since.take() {
            let outage_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(outage_ms, "{} is back", self.what);
        }
        self.pauses = pauses();
    }
}

fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .with_jitter()
        .without_max_times()
        .build()
}

/// An error with its causes, on one line.
struct Chain<'a>(&'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_an_absence_of_hours_the_next_attempt_is_seconds_away() {
        let (mut waited, mut longest) = (Duration::ZERO, Duration::ZERO);
        for pause in pauses() {
            waited += pause;
            longest = longest.max(pause);
            if waited > Duration::from_hours(5) {
                break;
            }
        }
        assert!(waited > Duration::from_hours(5), "it gave up after {waited:?}");
        assert!(longest <= Duration::from_secs(4), "a broker that is back is found after {longest:?} only");
    }

    #[test]
    fn pauses_grow_to_a_bound_and_never_end() {
        let pauses: Vec<Duration> = pauses().take(1000).collect();
        assert_eq!(pauses.len(), 1000);
        assert!(pauses[0] < 2 * FIRST_PAUSE + Duration::from_millis(1));
        assert!(pauses.iter().all(|pause| *pause >= FIRST_PAUSE && *pause <= 2 * LONGEST_PAUSE));
        assert!(pauses[999] >= LONGEST_PAUSE);
    }
}
