//! A governance process without its types.
//!
//! Up: [`super::PluginDefinition::process`]. Down: [`Process`].

use std::{fmt, sync::Arc};

use serde_json::Value;

use super::{BEAT, Declared, check, check_answer, unreadable};
use crate::{
    Call, Cx, Error, Handling, Plugin, Process, Progress, RegistrationError, Result, Snapshot, StartedProcess,
    SteppedProcess, Webhook,
    contract::{Name, Problem, ProblemKind},
    environment::whole_millis,
    registrar::{answer_schema, object_schema},
    schema::{Schema, of_reader, read},
};

/// A process, ready to be called.
pub struct ProcessDefinition {
    name: Name,
    description: &'static str,
    parameters: Schema,
    outcome: Arc<Schema>,
    declared: Declared,
    start: fn(Declared, Arc<Schema>, Call, Value) -> Handling<StartedProcess>,
    step: fn(Declared, Arc<Schema>, Call, Value, Step) -> Handling<SteppedProcess>,
}

/// Why an open process is called.
enum Step {
    Poll,
    Webhook(Arc<Webhook>),
    Close,
}

impl ProcessDefinition {
    pub(crate) fn of<P: Plugin, S: Process<P>>(name: Name) -> Result<Self, RegistrationError> {
        let parameters = object_schema::<P, S::Parameters>(|| format!("the parameters of process '{}'", S::NAME))?;
        let outcome = answer_schema::<P, S::Outcome>(|| format!("the outcome of process '{}'", S::NAME))?;
        Ok(Self {
            name,
            description: S::DESCRIPTION,
            parameters,
            outcome: Arc::new(outcome),
            declared: Declared::default(),
            start: start::<P, S>,
            step: step::<P, S>,
        })
    }

    pub(super) fn declare(&mut self, events: &Declared) {
        self.declared = events.clone();
    }

    /// The process's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// What it decides, [`Process::DESCRIPTION`]; may be empty.
    #[must_use]
    pub fn description(&self) -> &'static str {
        self.description
    }

    /// The schema of the parameters, unknown members refused.
    #[must_use]
    pub fn parameters_schema(&self) -> &Schema {
        &self.parameters
    }

    /// The schema of the outcome.
    #[must_use]
    pub fn outcome_schema(&self) -> &Schema {
        &self.outcome
    }

    /// Fills in the defaults and checks the parameters. Pointers start with `/parameters`.
    ///
    /// # Errors
    /// A problem `invalid-parameters` that names every violation.
    pub fn check(&self, mut parameters: Value) -> Result<Value, Problem> {
        check(&self.parameters, &mut parameters, "/parameters", ProblemKind::InvalidParameters, "the parameters")?;
        Ok(parameters)
    }

    /// Starts a process with parameters from [`Self::check`].
    #[must_use]
    pub fn start(&self, call: Call, parameters: Value) -> Handling<StartedProcess> {
        (self.start)(self.declared.clone(), self.outcome.clone(), call, parameters)
    }

    /// Polls an open process.
    #[must_use]
    pub fn poll(&self, call: Call, state: Value) -> Handling<SteppedProcess> {
        (self.step)(self.declared.clone(), self.outcome.clone(), call, state, Step::Poll)
    }

    /// Hands a verified webhook to an open process.
    #[must_use]
    pub fn receive_webhook(&self, call: Call, state: Value, hook: Arc<Webhook>) -> Handling<SteppedProcess> {
        (self.step)(self.declared.clone(), self.outcome.clone(), call, state, Step::Webhook(hook))
    }

    /// Closes an open process.
    #[must_use]
    pub fn close(&self, call: Call, state: Value) -> Handling<SteppedProcess> {
        (self.step)(self.declared.clone(), self.outcome.clone(), call, state, Step::Close)
    }
}

fn start<P: Plugin, S: Process<P>>(
    declared: Declared,
    outcome: Arc<Schema>,
    call: Call,
    parameters: Value,
) -> Handling<StartedProcess> {
    handling!(P, declared, call, |cx| {
        let parameters: S::Parameters = read(parameters, "/parameters").map_err(|refused| {
            Error::Rejected(Box::new(unreadable(refused, ProblemKind::InvalidParameters, "the parameters")))
        })?;
        let started = S::start(cx, parameters).await?;
        let progress = checked(started.progress.try_map(|outcome| outcome)?, &outcome)?;
        Ok(StartedProcess { snapshot: snapshot::<P, S>(&started.state, cx)?, url: started.url, progress })
    })
}

fn step<P: Plugin, S: Process<P>>(
    declared: Declared,
    outcome: Arc<Schema>,
    call: Call,
    state: Value,
    step: Step,
) -> Handling<SteppedProcess> {
    handling!(P, declared, call, |cx| {
        let mut process: S = serde_json::from_value(state).map_err(|error| {
            Error::failed(format!(
                "the stored state of the process cannot be read by this version of the plugin: {}",
                of_reader(&error)
            ))
        })?;
        let progress = match &step {
            Step::Poll => process.poll(cx).await,
            Step::Webhook(hook) => process.receive_webhook(cx, hook).await,
            Step::Close => process.close(cx).await,
        }?;
        let progress = checked(progress.try_map(serde_json::to_value)?, &outcome)?;
        Ok(SteppedProcess { snapshot: snapshot::<P, S>(&process, cx)?, progress })
    })
}

fn checked(progress: Progress<Value>, schema: &Schema) -> Result<Progress<Value>> {
    if let Some(outcome) = progress.outcome() {
        check_answer(schema, outcome, "the outcome of the process")?;
    }
    Ok(progress)
}

fn snapshot<P: Plugin, S: Process<P>>(process: &S, cx: &Cx<P>) -> Result<Snapshot> {
    let poll_every = process.poll_every().unwrap_or_else(P::poll_every).max(BEAT);
    Ok(Snapshot {
        state: serde_json::to_value(process)?,
        closes_at: process.closes_at().map(whole_millis),
        poll_every: (!cx.nothing_to_poll()).then_some(poll_every),
        webhook_key: process.webhook_key(),
    })
}

impl fmt::Debug for ProcessDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessDefinition").field("name", &self.name).finish_non_exhaustive()
    }
}
