//! Publishes what was stored and never marked as published: the second net under a crash between commit and publication.
//!
//! The first net is the redelivered command, which publishes its stored events again; this one also catches commands
//! that have no key. Any number of workers sweep; a claim keeps them apart for a while, and an event that goes out twice
//! has the same id. Up: the outbox in `src/store`. Down: the publisher in `src/bus`.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    answer::{message_of_stored, to_events},
    committer::marks_of,
};
use crate::{
    bus::Bus,
    store::{OutboxEvent, Store},
    telemetry::measures,
};

/// How often the outbox is looked at.
const EVERY: Duration = Duration::from_secs(10);

/// Younger events are on their way: a commit is published within moments, unless the broker is away.
const OVERDUE: Duration = Duration::from_mins(1);

/// How many events are claimed at once.
const BATCH: u64 = 200;

/// Sweeps until `stop` is cancelled.
pub(super) async fn sweep(store: Store, bus: Bus, stop: CancellationToken) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match store.overdue(OVERDUE).await {
            // A figure this large is rounded; nobody minds.
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
            Ok(overdue) => metrics::gauge!(measures::OUTBOX_OVERDUE).set(overdue as f64),
            Err(error) => debug!(%error, "overdue events cannot be counted"),
        }
        // While the broker is away everything is overdue, and whoever waits for it will publish.
        if !bus.is_connected() {
            continue;
        }
        match store.unpublished(OVERDUE, BATCH).await {
            Ok(events) if events.is_empty() => {}
            Ok(events) => publish(&store, &bus, &events, &stop).await,
            Err(error) => warn!(%error, "the outbox cannot be looked at; it is tried again in {EVERY:?}"),
        }
    }
}

async fn publish(store: &Store, bus: &Bus, events: &[OutboxEvent], stop: &CancellationToken) {
    let outgoing = events.iter().map(|event| to_events(message_of_stored(event))).collect();
    let published = tokio::select! {
        () = stop.cancelled() => return,
        published = bus.publish(outgoing) => published,
    };
    let Ok(published) = published else { return };
    let fates: Vec<_> = events.iter().map(|event| event.id).zip(published).collect();
    let marks = marks_of(&fates);
    match store.mark_published(&marks).await {
        Ok(()) => info!(events = marks.len(), "overdue events are published"),
        Err(error) => warn!(%error, "overdue events could not be marked; they will be published again"),
    }
}
