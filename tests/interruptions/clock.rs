//! A clock that stands still unless a schedule lets time pass: the database's and the plugins'.

use std::{sync::atomic::Ordering, time::Duration};

use metagov::store::FAKE_CLOCK;
use metagov_sdk::{Clock, contract::Timestamp};

/// When every schedule begins: the first of January 2026.
const BEGIN: i64 = 1_767_225_600_000_000;

/// The clock of whoever does not ask the database.
pub(crate) struct StageClock;

impl Clock for StageClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_timestamp_micros(FAKE_CLOCK.load(Ordering::SeqCst)).expect("a time of this era")
    }
}

/// From here on the clock stands at [`BEGIN`].
pub(crate) fn stop() {
    FAKE_CLOCK.store(BEGIN, Ordering::SeqCst);
}

/// Lets so much time pass at once.
pub(crate) fn pass(time: Duration) {
    FAKE_CLOCK.fetch_add(i64::try_from(time.as_micros()).expect("it is short"), Ordering::SeqCst);
}
