//! Governance processes: decisions that take time and end in an outcome.
//!
//! ```text
//!            start                 poll, receive_webhook, close
//!  (created) ─────▶ pending ─────▶ Unchanged | Updated(outcome) ──┐
//!      │              ▲  └────────────────────────────────────────┘
//!      │              └─ until Completed(outcome) ─────▶ completed
//!      └─ an error at the start, or the plugin is disabled ─▶ failed
//! ```
//!
//! The implementing type is what is remembered between calls; the service saves it after every call that returns `Ok`.
//! It does not decide when it is called: the scheduler, a webhook or a driver does. Up: [`crate::Registrar::process`].
//! Down: the platform.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{Cx, Error, Payload, Plugin, Result, Webhook, contract::Timestamp};

/// A governance process of plugin `P`.
pub trait Process<P: Plugin>: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The name on the wire, `[a-z0-9][a-z0-9-]{0,62}`.
    const NAME: &'static str;

    /// What it decides, for people; the doc comment of `Parameters` where this is empty.
    const DESCRIPTION: &'static str = "";

    /// What it is started with; [`crate::Empty`] where it takes nothing.
    type Parameters: Payload;

    /// What it ends with, and what is known on the way there.
    type Outcome: Payload;

    /// Starts it on the platform and returns at once. An error means that there is no such process.
    fn start(cx: &Cx<P>, parameters: Self::Parameters) -> impl Future<Output = Result<Started<Self>>> + Send;

    /// Looks how things stand. Called at the pace of [`Process::poll_every`] while the process is open; a process
    /// without a `poll` of its own is left alone after its first one.
    fn poll(&mut self, cx: &Cx<P>) -> impl Future<Output = Result<Progress<Self::Outcome>>> + Send {
        cx.note_nothing_to_poll();
        async { Ok(Progress::Unchanged) }
    }

    /// A verified webhook that concerns this process arrived while it is open. Where every process that it concerns
    /// answers with an error, the webhook is refused and nothing of it is kept; else an error stands in the record.
    fn receive_webhook(
        &mut self,
        cx: &Cx<P>,
        hook: &Webhook,
    ) -> impl Future<Output = Result<Progress<Self::Outcome>>> + Send {
        let _ = (cx, hook);
        async { Ok(Progress::Unchanged) }
    }

    /// Ends it now, because a driver asks or because [`Process::closes_at`] has come. Without an implementation a
    /// driver is told `not-closable`.
    fn close(&mut self, cx: &Cx<P>) -> impl Future<Output = Result<Progress<Self::Outcome>>> + Send {
        let _ = cx;
        async { Err(Error::not_closable()) }
    }

    /// When the service closes it by itself; `None`: never.
    fn closes_at(&self) -> Option<Timestamp> {
        None
    }

    /// How often it is polled, once a second at most; `None`: as often as the plugin says, [`Plugin::poll_every`].
    fn poll_every(&self) -> Option<Duration> {
        None
    }

    /// What [`Plugin::concerns`] finds it by, such as the id of a poll; `None`: only hooks for every process reach it.
    fn webhook_key(&self) -> Option<String> {
        None
    }
}

/// How far a process has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress<T> {
    /// Nothing that a driver would want to know; the state is saved nevertheless.
    Unchanged,
    /// The outcome so far; the process stays open.
    Updated(T),
    /// The final outcome.
    Completed(T),
}

impl<T> Progress<T> {
    /// The same progress with its outcome turned into something else.
    ///
    /// # Errors
    /// Whatever `turn` fails with.
    pub fn try_map<U, E>(self, turn: impl FnOnce(T) -> Result<U, E>) -> Result<Progress<U>, E> {
        Ok(match self {
            Self::Unchanged => Progress::Unchanged,
            Self::Updated(outcome) => Progress::Updated(turn(outcome)?),
            Self::Completed(outcome) => Progress::Completed(turn(outcome)?),
        })
    }

    /// The outcome, where there is news of it.
    pub fn outcome(&self) -> Option<&T> {
        match self {
            Self::Unchanged => None,
            Self::Updated(outcome) | Self::Completed(outcome) => Some(outcome),
        }
    }
}

/// A process that has been started: its state, where people take part, and what is known already.
///
/// The outcome is checked against the schema of [`Process::Outcome`], as every later one is.
#[derive(Debug)]
pub struct Started<S> {
    pub(crate) state: S,
    pub(crate) url: Option<String>,
    pub(crate) progress: Progress<serde_json::Result<Value>>,
}

impl<S> Started<S> {
    /// Started, and nothing known yet.
    #[must_use]
    pub fn new(state: S) -> Self {
        Self { state, url: None, progress: Progress::Unchanged }
    }

    /// Where people take part.
    #[must_use]
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = Some(url.into());
        self
    }

    /// What the outcome would be if it ended now.
    #[must_use]
    pub fn updated(mut self, outcome: &impl Serialize) -> Self {
        self.progress = Progress::Updated(serde_json::to_value(outcome));
        self
    }

    /// Decided at once; it never becomes pending.
    #[must_use]
    pub fn completed(mut self, outcome: &impl Serialize) -> Self {
        self.progress = Progress::Completed(serde_json::to_value(outcome));
        self
    }
}

impl<S> From<S> for Started<S> {
    fn from(state: S) -> Self {
        Self::new(state)
    }
}
