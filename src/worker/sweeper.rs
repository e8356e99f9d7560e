//! The relay: publishes what was stored and is not marked as published.
//!
//! It is the second net under a crash between commit and publication. The first is the redelivered command, which
//! publishes its stored events again; this one also catches commands that have no key. And it publishes again what the
//! broker has refused, each event when its own time has come: a driver's full queue costs the events of nobody else their
//! turn. Any number of workers sweep; a claim keeps them apart for a while, and an event that goes out twice has the same
//! id. Up: the outbox in `src/store`. Down: the publisher in `src/bus`.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    answer::{message_of_stored, to_events},
    marking::Marks,
};
use crate::{
    bus::Bus,
    store::{OutboxEvent, Store},
    telemetry::measures,
};

/// How often the outbox is looked at: as long as the shortest time that a refused event is put off.
const EVERY: Duration = Duration::from_secs(5);

/// Younger events that were never refused are on their way: a commit is published within moments, unless the broker is
/// away.
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
        // While there is more, it goes on at once.
        while sweep_some(&store, &bus, &stop).await {}
    }
}

/// Publishes a batch of what is due; whether there may be more.
async fn sweep_some(store: &Store, bus: &Bus, stop: &CancellationToken) -> bool {
    match store.unpublished(OVERDUE, BATCH).await {
        Ok(events) if events.is_empty() => false,
        Ok(events) => publish(store, bus, &events, stop).await && events.len() as u64 == BATCH,
        Err(error) => {
            warn!(%error, "the outbox cannot be looked at; it is tried again in {EVERY:?}");
            false
        }
    }
}

/// Publishes events and marks them. `false` where the worker stops meanwhile.
async fn publish(store: &Store, bus: &Bus, events: &[OutboxEvent], stop: &CancellationToken) -> bool {
    let outgoing = events.iter().map(|event| to_events(message_of_stored(event))).collect();
    let published = tokio::select! {
        () = stop.cancelled() => return false,
        published = bus.publish(outgoing) => published,
    };
    let Ok(published) = published else { return false };
    let fates: Vec<_> = events.iter().map(|event| event.id).zip(published).collect();
    let marks = Marks::of(&fates);
    marks.write(store).await;
    info!(published = marks.published(), put_off = marks.refused(), "the relay has published what was due");
    true
}
