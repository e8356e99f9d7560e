//! What is counted and timed: every name with its meaning, once, and the recorder that keeps the figures.
//!
//! Whoever has something to count does so with the `metrics` crate under one of these names; nobody who counts knows
//! who reads. Up: [`crate::bus`] and [`crate::worker`], which count. Down: `/metrics` in [`crate::health`], as text for
//! Prometheus.

use std::sync::OnceLock;

use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Connections that were built again; label `connection`: `consuming` or `publishing`.
pub const AMQP_RECONNECTS: &str = "metagov_amqp_reconnects_total";
/// 1 while the broker takes no messages, for it is short of memory or disk.
pub const AMQP_BLOCKED: &str = "metagov_amqp_blocked";
/// Messages that a worker was handed; label `queue`: `plugin`, `poll`, `core`, `unrouted` or `expired`.
pub const DELIVERIES: &str = "metagov_deliveries_total";
/// Deliveries that came to an end; label `verdict`, as in the log.
pub const SETTLED: &str = "metagov_settled_total";
/// Outcomes in one transaction.
pub const COMMIT_BATCH: &str = "metagov_commit_batch_units";
/// From the begin of a commit to its end, waits for a database that is away included.
pub const COMMIT_SECONDS: &str = "metagov_commit_duration_seconds";
/// From the first try to publish a batch until the broker has confirmed all of it.
pub const CONFIRM_SECONDS: &str = "metagov_publish_confirm_seconds";
/// Events that are committed and, a minute later, still not published.
pub const OUTBOX_OVERDUE: &str = "metagov_outbox_overdue";
/// Events that no queue was bound for.
pub const UNROUTED: &str = "metagov_events_unrouted_total";
/// Messages that the broker refused; label `reason`: `forbidden` or `unacceptable`.
pub const REFUSED: &str = "metagov_publish_refused_total";
/// Messages that this process set aside; label `reason`.
pub const DEAD_LETTERS: &str = "metagov_dead_letters_total";
/// Webhooks that were refused and make no event; labels `plugin` and `reason`, the kind of the problem.
pub const WEBHOOKS_REFUSED: &str = "metagov_webhooks_refused_total";
/// Runs of commands that were repeated on fresh state, for another command was faster at their row.
pub const RERUNS: &str = "metagov_reruns_total";
/// Commands that were over their community's share and wait; label `plugin`.
pub const THROTTLED: &str = "metagov_throttled_total";
/// Handlers that never yielded and held their thread past the deadline; label `plugin`.
pub const BLOCKED_HANDLERS: &str = "metagov_blocked_handlers_total";
/// Lines of the log that were dropped, for its reader did not keep up.
pub const LOG_LINES_DROPPED: &str = "metagov_log_lines_dropped_total";
/// Due polls and ticks that wait for room in their queue, or for a worker of their plugin; label `plugin`.
pub const HELD_BACK: &str = "metagov_polls_held_back";
/// 1 where a check of `/readyz` holds; label `check`.
pub const READY: &str = "metagov_ready";

const COUNTERS: [(&str, &str); 11] = [
    (AMQP_RECONNECTS, "Connections to the broker that were built again"),
    (DELIVERIES, "Messages that a worker was handed"),
    (SETTLED, "Deliveries that came to an end, by verdict"),
    (UNROUTED, "Events that no queue was bound for"),
    (REFUSED, "Messages that the broker refused"),
    (DEAD_LETTERS, "Messages that this process set aside"),
    (WEBHOOKS_REFUSED, "Webhooks that were refused and make no event"),
    (RERUNS, "Runs of commands that were repeated on fresh state"),
    (THROTTLED, "Commands that were over their community's share and wait"),
    (BLOCKED_HANDLERS, "Handlers that held their thread past the deadline"),
    (LOG_LINES_DROPPED, "Lines of the log that were dropped, for its reader did not keep up"),
];

const GAUGES: [(&str, &str); 4] = [
    (AMQP_BLOCKED, "1 while the broker takes no messages"),
    (OUTBOX_OVERDUE, "Events that are committed and still not published after a minute"),
    (HELD_BACK, "1 while due polls of a plugin wait for room in their queue, or for a worker"),
    (READY, "1 where a check of readiness holds"),
];

const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0];
const UNITS: [f64; 8] = [1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 200.0];

const HISTOGRAMS: [(&str, &str, &[f64]); 3] = [
    (COMMIT_BATCH, "Outcomes in one transaction", &UNITS),
    (COMMIT_SECONDS, "Duration of a commit", &SECONDS),
    (CONFIRM_SECONDS, "From the first try to publish a batch to its last confirm", &SECONDS),
];

/// Every name.
pub fn names() -> impl Iterator<Item = &'static str> {
    COUNTERS.iter().chain(&GAUGES).map(|(name, _)| *name).chain(HISTOGRAMS.iter().map(|(name, ..)| *name))
}

/// Begins to keep figures, the first time that it is called; from then on it hands out the same figures. In a program
/// that brought a recorder of its own, that one keeps them, and these stay empty.
///
/// # Panics
/// Never: no histogram has an empty list of bounds.
#[must_use]
pub fn record() -> PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER
        .get_or_init(|| {
            let mut builder = PrometheusBuilder::new();
            for (name, _, bounds) in HISTOGRAMS {
                let matcher = Matcher::Full(name.to_owned());
                builder = builder.set_buckets_for_metric(matcher, bounds).expect("there are bounds");
            }
            let recorder = builder.build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("this program keeps its figures itself; /metrics stays empty");
            }
            describe();
            handle
        })
        .clone()
}

fn describe() {
    for (name, help) in COUNTERS {
        describe_counter!(name, help);
    }
    for (name, help) in GAUGES {
        describe_gauge!(name, help);
    }
    for (name, help, _) in HISTOGRAMS {
        describe_histogram!(name, help);
    }
}
