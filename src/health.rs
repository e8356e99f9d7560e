//! Whether this process lives, whether it is ready, and its figures, by HTTP.
//!
//! | path | 200 | 503 |
//! |---|---|---|
//! | `/livez` | the process answers | |
//! | `/readyz` | every check holds | one does not; the body says which, since when, and what to do about it |
//! | `/metrics` | the figures, as text for Prometheus | |
//!
//! It knows checks by their names and nothing of what they check. They are looked at each second, whether anybody asks
//! or not, so that asking costs nothing and `since` is true. It never restarts or stops anything. Up: whoever runs the
//! process (Kubernetes, Compose, Prometheus). Down: `src/app.rs`, which says what is checked.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderValue, Response, StatusCode, header},
    routing::get,
};
use chrono::Utc;
use futures::{FutureExt, future::BoxFuture, future::join_all};
use metagov_sdk::contract::Timestamp;
use serde::Serialize;
use tokio::{
    net::TcpListener,
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{info, warn};

use crate::telemetry::measures;

/// How often the checks are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// A check that takes longer does not hold.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the figures come from.
type Render = dyn Fn() -> String + Send + Sync;

/// A check: `Err` says what is wrong and what to do about it.
type Check = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// The checks of a process.
#[derive(Default)]
pub struct Health {
    checks: Vec<(&'static str, Check)>,
}

/// What all checks said when they were looked at last.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Whether all of them hold.
    pub ready: bool,
    /// Each by its name.
    pub checks: BTreeMap<&'static str, Finding>,
}

/// What one check said.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// Whether it holds.
    pub ok: bool,
    /// Since when that is so.
    pub since: Timestamp,
    /// Where it does not hold: what is wrong, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What the routes share.
#[derive(Clone)]
struct Shared {
    report: Arc<RwLock<Report>>,
    render: Arc<Render>,
}

impl Health {
    /// Without checks: ready as soon as it is looked at.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check. It is asked each second, and given two seconds to answer.
    #[must_use]
    pub fn check<F>(mut self, name: &'static str, check: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.checks.push((name, Box::new(move || check().boxed())));
        self
    }

    /// Looks at the checks and answers on this listener, for as long as it is polled.
    pub async fn serve(self, listener: TcpListener, render: impl Fn() -> String + Send + Sync + 'static) {
        let shared = Shared { report: Arc::default(), render: Arc::new(render) };
        let routes = Router::new()
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .route("/metrics", get(figures))
            .with_state(shared.clone());
        tokio::select! {
            () = self.look(&shared.report) => {}
            // It ends only by its listener's doing, and retries where that fails.
            _ = axum::serve(listener, routes).into_future() => {}
        }
    }

    async fn look(&self, report: &RwLock<Report>) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let answers = join_all(self.checks.iter().map(|(_, check)| timeout(CHECK_TIMEOUT, check()))).await;
            let before = read(report);
            let mut checks = BTreeMap::new();
            for ((name, _), answer) in self.checks.iter().zip(answers) {
                let late = || Err(format!("no answer within {} s", CHECK_TIMEOUT.as_secs()));
                let finding = Finding::after(before.checks.get(name), answer.unwrap_or_else(|_| late()));
                metrics::gauge!(measures::READY, "check" => *name).set(if finding.ok { 1.0 } else { 0.0 });
                checks.insert(*name, finding);
            }
            let now = Report { ready: checks.values().all(|finding| finding.ok), checks };
            now.tell(&before);
            *report.write().unwrap_or_else(std::sync::PoisonError::into_inner) = now;
        }
    }
}

impl Finding {
    fn after(before: Option<&Self>, answer: Result<(), String>) -> Self {
        let (ok, detail) = (answer.is_ok(), answer.err());
        let since = before.filter(|before| before.ok == ok).map_or_else(Utc::now, |before| before.since);
        Self { ok, since, detail }
    }
}

impl Report {
    /// One line for each change, for those who read logs only.
    fn tell(&self, before: &Self) {
        if self.ready && !before.ready {
            info!("ready");
        }
        for (name, finding) in &self.checks {
            if let Some(detail) = &finding.detail
                && before.checks.get(name).is_none_or(|before| before.ok)
            {
                warn!(check = name, detail, "not ready");
            }
        }
    }
}

fn read(report: &RwLock<Report>) -> Report {
    report.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
}

async fn ready(State(shared): State<Shared>) -> Response<Body> {
    let report = read(&shared.report);
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::to_string(&report).expect("a report is plain data");
    answer(status, "application/json", body)
}

async fn figures(State(shared): State<Shared>) -> Response<Body> {
    answer(StatusCode::OK, "text/plain; version=0.0.4", (shared.render)())
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
