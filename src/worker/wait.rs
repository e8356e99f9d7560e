//! Waits that a platform named: never shorter but for those of more than an hour, and hardly longer.
//!
//! The steps of the delay ladder are few, and each is as long as its jitter says. So a copy that has to be back at a
//! certain time carries that time, by the database's clock, and goes up steps that are surely short enough until little
//! is left. Up: [`super::settle`]. Down: the ladder, and the database's clock.

use std::time::Duration;

use metagov_sdk::contract::{Problem, Timestamp};
use tokio::time::sleep;
use tracing::warn;

use super::{
    envelope::Envelope,
    patience::Patience,
    settle::{Settler, next_attempt},
    verdict::Ending,
};
use crate::bus::{DelayStep, Message};

/// The header that says before which time a copy is not to be handled, in milliseconds since 1970.
pub(super) const DUE_HEADER: &str = "x-metagov-due";

/// Nobody makes us wait longer, neither a platform nor whoever writes our header.
pub(super) const LONGEST: Duration = Duration::from_hours(1);

/// So little is waited for in the worker; the shortest step would overshoot by more than that.
const LITTLE: Duration = Duration::from_millis(500);

impl Settler {
    /// Publishes a copy that comes back at the very time that a platform asked for.
    pub(super) async fn later_on_time(
        &self,
        envelope: &Envelope,
        message: &Message,
        asked: Duration,
        problem: Option<Box<Problem>>,
    ) -> Ending {
        let Some(now) = self.time().await else { return Ending::Unfinished };
        let (due, step) = begin(asked, now);
        let mut copy = next_attempt(envelope, message, problem.is_some());
        copy.properties.headers.insert(DUE_HEADER.to_owned(), write(due));
        self.park(copy, step, problem).await
    }

    /// Sees to it that what is not due yet waits on. `None` once it may be handled.
    pub(super) async fn not_before_time(&self, envelope: &Envelope, message: &Message) -> Option<Ending> {
        let due = envelope.due?;
        let Some(now) = self.time().await else { return Some(Ending::Unfinished) };
        match Left::until(due, now) {
            Left::Nothing => None,
            Left::Little(left) => tokio::select! {
                () = self.abort.cancelled() => Some(Ending::Unfinished),
                () = sleep(left) => None,
            },
            Left::Much(step) => Some(self.park(message.clone(), step, None).await),
        }
    }

    /// What time the database has, however long it takes to tell; `None` where the worker goes down meanwhile.
    async fn time(&self) -> Option<Timestamp> {
        let mut patience = Patience::new();
        loop {
            let delay = patience.next_wait();
            match self.store.now().await {
                Ok(now) => return Some(now),
                Err(error) => warn!(%error, "the database does not tell the time, asking again in {delay:?}"),
            }
            tokio::select! {
                () = self.abort.cancelled() => return None,
                () = sleep(delay) => {}
            }
        }
    }
}

/// What is left of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// The time has come.
    Nothing,
    /// It is worth waiting for here.
    Little(Duration),
    /// It is spent on this step of the ladder, and looked at again.
    Much(DelayStep),
}

impl Left {
    /// What is left until then.
    fn until(due: Timestamp, now: Timestamp) -> Self {
        match (due - now).to_std() {
            Ok(left) if left.is_zero() || left > LONGEST => Self::Nothing,
            Ok(left) if left <= LITTLE => Self::Little(left),
            Ok(left) => Self::Much(step(left)),
            Err(_past) => Self::Nothing,
        }
    }
}

/// When a wait that begins now is over, and its first step.
fn begin(asked: Duration, now: Timestamp) -> (Timestamp, DelayStep) {
    let wait = asked.min(LONGEST);
    (now + wait, step(wait))
}

/// The longest step that is over in time; the shortest where none is.
fn step(left: Duration) -> DelayStep {
    DelayStep::ALL.into_iter().rev().find(|step| step.longest() <= left).unwrap_or(DelayStep::OneSecond)
}

/// What the header says.
#[must_use]
pub(super) fn read(header: &str) -> Option<Timestamp> {
    Timestamp::from_timestamp_millis(header.parse().ok()?)
}

/// What the header is to say: the next whole millisecond.
fn write(due: Timestamp) -> String {
    due.timestamp_millis().saturating_add(1).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::UNIX_EPOCH + Duration::from_millis(millis)
    }

    proptest! {
        #[test]
        fn a_wait_is_kept_to_the_second(asked in 250..=3_600_000_u64, jitter in proptest::collection::vec(0.0..=1.0, 64)) {
            let begun = at(1_700_000_000_000);
            let asked = Duration::from_millis(asked);
            let (due, mut step) = begin(asked, begun);
            let mut now = begun;
            let mut parked = 0;
            for share in jitter {
                parked += 1;
                now += step.delay().mul_f64(1.0 + share / 4.0);
                match Left::until(due, now) {
                    Left::Nothing => break,
                    Left::Little(rest) => {
                        now += rest;
                        break;
                    }
                    Left::Much(next) => step = next,
                }
            }
            prop_assert!(now >= due && now - due <= chrono::TimeDelta::seconds(1), "{:?}", now - due);
            prop_assert!(parked <= 24, "{parked} copies");
        }
    }

    #[test]
    fn nobody_makes_us_wait_for_more_than_an_hour() {
        let (due, _) = begin(Duration::MAX, at(0));
        assert_eq!(due, at(3_600_000));
        for due in [at(3_600_001), at(u64::from(u32::MAX) * 1000), Timestamp::MAX_UTC, Timestamp::MIN_UTC] {
            assert_eq!(Left::until(due, at(0)), Left::Nothing, "{due}");
        }
        assert_eq!(Left::until(at(3_600_000), at(0)), Left::Much(DelayStep::TenMinutes));
    }

    #[test]
    fn what_was_written_is_read_and_never_earlier() {
        let due = at(1_700_000_000_123) + Duration::from_micros(456);
        assert_eq!(read(&write(due)), Some(at(1_700_000_000_124)));
        for other in ["", "soon", "1e9", "99999999999999999999", "9223372036854775807"] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
