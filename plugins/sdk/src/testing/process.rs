//! A process under test, with the same rules for its record as the worker has.
//!
//! Up: [`super::Tester::start`]. Down: [`crate::ProcessDefinition`].

use std::{fmt, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Tester, typed};
use crate::{
    Clock as _, Error, Finished, Plugin, Progress, Result, Snapshot, SteppedProcess, Webhook,
    contract::{Name, Problem, ProblemKind, ProcessStatus, Timestamp},
};

/// How soon the service looks again at a process that should have closed and has not.
const AGAIN: Duration = Duration::from_secs(30);

/// What the database would hold of a process.
pub(super) struct Record {
    name: Name,
    snapshot: Snapshot,
    status: ProcessStatus,
    url: Option<String>,
    outcome: Value,
    errors: Vec<Problem>,
    problem: Option<Problem>,
    pub(super) due_at: Option<Timestamp>,
}

impl Record {
    pub(super) fn new(name: Name, started: crate::StartedProcess, now: Timestamp) -> Self {
        let mut record = Self {
            name,
            snapshot: started.snapshot.clone(),
            status: ProcessStatus::Pending,
            url: started.url,
            outcome: Value::Null,
            errors: Vec::new(),
            problem: None,
            due_at: None,
        };
        record.take(started.snapshot, started.progress, now);
        record
    }

    /// Ends the process without an outcome, unless it has ended.
    pub(super) fn fail(&mut self, problem: &Problem) {
        if !self.status.is_terminal() {
            self.status = ProcessStatus::Failed;
            self.problem = Some(problem.clone());
            self.due_at = None;
        }
    }

    fn take(&mut self, snapshot: Snapshot, progress: Progress<Value>, now: Timestamp) {
        self.snapshot = snapshot;
        match progress {
            Progress::Unchanged => {}
            Progress::Updated(outcome) => self.outcome = outcome,
            Progress::Completed(outcome) => {
                self.outcome = outcome;
                self.status = ProcessStatus::Completed;
            }
        }
        self.schedule(now, false);
    }

    /// Works out when the scheduler would look at the process next.
    fn schedule(&mut self, now: Timestamp, tried_to_close: bool) {
        let poll = self.snapshot.poll_every.map(|every| now + every);
        let close = match self.snapshot.closes_at {
            Some(at) if tried_to_close && at <= now => Some(now + AGAIN),
            other => other,
        };
        let next = poll.into_iter().chain(close).min();
        self.due_at = if self.status.is_terminal() { None } else { next };
    }
}

/// A process under test.
pub struct ProcessUnderTest<P> {
    pub(super) tester: Tester<P>,
    pub(super) index: usize,
}

impl<P: Plugin> ProcessUnderTest<P> {
    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> ProcessStatus {
        self.read(|record| record.status)
    }

    /// Whether it is still open.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.status() == ProcessStatus::Pending
    }

    /// The outcome so far; `None`: there is none.
    ///
    /// # Panics
    /// Where it is not a `T`.
    #[must_use]
    pub fn outcome<T: DeserializeOwned>(&self) -> Option<T> {
        let outcome = self.read(|record| record.outcome.clone());
        (!outcome.is_null()).then(|| typed(&outcome))
    }

    /// What the process remembers.
    ///
    /// # Panics
    /// Where it is not a `T`.
    #[must_use]
    pub fn state<T: DeserializeOwned>(&self) -> T {
        typed(&self.read(|record| record.snapshot.state.clone()))
    }

    /// Where people take part.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        self.read(|record| record.url.clone())
    }

    /// When the service closes it.
    #[must_use]
    pub fn closes_at(&self) -> Option<Timestamp> {
        self.read(|record| record.snapshot.closes_at)
    }

    /// What webhooks find it by.
    #[must_use]
    pub fn webhook_key(&self) -> Option<String> {
        self.read(|record| record.snapshot.webhook_key.clone())
    }

    /// What went wrong on the way without ending it.
    #[must_use]
    pub fn errors(&self) -> Vec<Problem> {
        self.read(|record| record.errors.clone())
    }

    /// Why it failed, once it has.
    #[must_use]
    pub fn problem(&self) -> Option<Problem> {
        self.read(|record| record.problem.clone())
    }

    /// Polls it now.
    ///
    /// # Errors
    /// What `poll` answered, or `already-completed`. A failure is kept in [`Self::errors`] as well.
    pub async fn poll(&self) -> Result<()> {
        self.step(Step::Poll).await
    }

    /// Hands it a webhook, without asking whether the webhook concerns it.
    ///
    /// # Errors
    /// What `receive_webhook` answered, or `already-completed`. A failure is kept in [`Self::errors`] as well.
    pub async fn receive_webhook(&self, hook: Webhook) -> Result<()> {
        self.receive_webhook_shared(Arc::new(hook)).await
    }

    /// Closes it, as a driver would.
    ///
    /// # Errors
    /// What `close` answered, or `already-completed`. A failure is kept in [`Self::errors`] as well.
    pub async fn close(&self) -> Result<()> {
        self.step(Step::Close).await
    }

    pub(super) async fn receive_webhook_shared(&self, hook: Arc<Webhook>) -> Result<()> {
        self.step(Step::Webhook(hook)).await
    }

    /// Does what the scheduler would have done by now.
    pub(super) async fn handle_due(&self) {
        let now = self.tester.now();
        let close = self.closes_at().is_some_and(|at| at <= now);
        // What went wrong stands in the process; the scheduler comes again.
        let _ = self.step(if close { Step::Close } else { Step::Poll }).await;
        self.tester.instance().processes[self.index].schedule(now, close);
    }

    async fn step(&self, step: Step) -> Result<()> {
        let (name, state, status) =
            self.read(|record| (record.name.clone(), record.snapshot.state.clone(), record.status));
        if status.is_terminal() {
            let problem =
                Problem::new(ProblemKind::AlreadyCompleted, "the process has ended and does not change again");
            return Err(Error::Rejected(Box::new(problem)));
        }
        let definition = self.tester.inner.definition.process(name.as_str()).expect("it has been started");
        let call = self.tester.call();
        let finished: Finished<SteppedProcess> = match step {
            Step::Poll => definition.poll(call, state).await,
            Step::Webhook(hook) => definition.receive_webhook(call, state, hook).await,
            Step::Close => definition.close(call, state).await,
        };
        let result = self.tester.settle(finished);
        let now = self.tester.inner.clock.now();
        let mut instance = self.tester.instance();
        let record = &mut instance.processes[self.index];
        match result {
            Ok(stepped) => {
                record.take(stepped.snapshot, stepped.progress, now);
                Ok(())
            }
            Err(error) => {
                if let Error::Failed(problem) = &error {
                    record.errors.push((**problem).clone());
                }
                Err(error)
            }
        }
    }

    fn read<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        look(&self.tester.instance().processes[self.index])
    }
}

enum Step {
    Poll,
    Webhook(Arc<Webhook>),
    Close,
}

impl<P> fmt::Debug for ProcessUnderTest<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessUnderTest").field("index", &self.index).finish_non_exhaustive()
    }
}
