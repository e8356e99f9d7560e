//! Writes down what became of published events: out, come back unrouted, or refused and put off.
//!
//! What the broker forbids, and what a driver's queue has no room for, stays unmarked: the relay publishes it again when
//! its time has come, until it is taken. Up: [`super::committer`] and [`super::sweeper`], which publish. Down: the outbox
//! in `src/store`.

use metrics::counter;
use tracing::warn;
use uuid::Uuid;

use crate::{
    bus::{Published, Refusal},
    store::Store,
    telemetry::measures,
};

/// What is to be written of published events.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// Out; `true` for those that no queue is bound for.
    published: Vec<(Uuid, bool)>,
    /// To be published again later.
    refused: Vec<Uuid>,
}

impl Marks {
    /// The marks for these events, by what became of each.
    pub(super) fn of(events: &[(Uuid, Published)]) -> Self {
        let mut marks = Self::default();
        for (id, fate) in events {
            match fate {
                Published::Refused(Refusal::Forbidden | Refusal::Full) => marks.refused.push(*id),
                fate => marks.published.push((*id, *fate != Published::Routed)),
            }
        }
        let unrouted = events.iter().filter(|(_, fate)| *fate == Published::Unrouted).count();
        counter!(measures::UNROUTED).increment(unrouted as u64);
        marks
    }

    /// How many events are out.
    pub(super) fn published(&self) -> usize {
        self.published.len()
    }

    /// How many events are put off.
    pub(super) fn refused(&self) -> usize {
        self.refused.len()
    }

    /// Writes the marks. An event that is out but not marked goes out once more under the same id: harmless, so no reason
    /// to wait for a database that is away.
    pub(super) async fn write(&self, store: &Store) {
        if let Err(error) = store.mark_published(&self.published).await {
            warn!(%error, events = self.published(), "published events could not be marked; they will be published again");
        }
        if let Err(error) = store.put_off(&self.refused).await {
            warn!(%error, events = self.refused(), "refused events could not be put off; they are tried again in a minute");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reached_nobody_keeps_that_mark_and_what_may_be_taken_later_is_published_again() {
        let fates = [
            Published::Routed,
            Published::Unrouted,
            Published::Refused(Refusal::Unacceptable),
            Published::Refused(Refusal::Forbidden),
            Published::Refused(Refusal::Full),
        ];
        let id = Uuid::from_u128;
        let events: Vec<_> = (0..).map(id).zip(fates).collect();
        let published = vec![(id(0), false), (id(1), true), (id(2), true)];
        assert_eq!(Marks::of(&events), Marks { published, refused: vec![id(3), id(4)] });
    }
}
