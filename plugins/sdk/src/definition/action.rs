//! An action without its types.
//!
//! Up: [`super::PluginDefinition::action`]. Down: [`Action::run`].

use std::{fmt, sync::Arc, time::Duration};

use serde_json::Value;

use super::{Declared, check, check_answer, unreadable};
use crate::{
    Action, Call, Effect, Error, Handling, Plugin, RegistrationError, Result, Steps,
    contract::{Name, Problem, ProblemKind},
    registrar::{answer_schema, object_schema},
    schema::{Schema, read},
};

/// An action, ready to be called.
pub struct ActionDefinition {
    name: Name,
    effect: Effect,
    deadline: Option<Duration>,
    parameters: Schema,
    output: Arc<Schema>,
    declared: Declared,
    run: fn(Declared, Arc<Schema>, Call, Value) -> Handling<Value>,
}

impl ActionDefinition {
    pub(crate) fn of<P: Plugin, A: Action<P>>(name: Name) -> Result<Self, RegistrationError> {
        let parameters = object_schema::<P, A>(|| format!("the parameters of action '{}'", A::NAME))?;
        let output = answer_schema::<P, A::Output>(|| format!("the output of action '{}'", A::NAME))?;
        Ok(Self {
            name,
            effect: A::EFFECT,
            deadline: A::deadline(),
            parameters,
            output: Arc::new(output),
            declared: Declared::default(),
            run: run::<P, A>,
        })
    }

    pub(super) fn declare(&mut self, events: &Declared) {
        self.declared = events.clone();
    }

    /// The action's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// What happens when it is called twice.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.effect
    }

    /// How long one call may take, where the action says so itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// The schema of the parameters, unknown members refused.
    #[must_use]
    pub fn parameters_schema(&self) -> &Schema {
        &self.parameters
    }

    /// The schema of the output.
    #[must_use]
    pub fn output_schema(&self) -> &Schema {
        &self.output
    }

    /// Fills in the defaults and checks the parameters. Pointers start with `/parameters`.
    ///
    /// # Errors
    /// A problem `invalid-parameters` that names every violation.
    pub fn check(&self, mut parameters: Value) -> Result<Value, Problem> {
        check(&self.parameters, &mut parameters, "/parameters", ProblemKind::InvalidParameters, "the parameters")?;
        Ok(parameters)
    }

    /// Runs the action with parameters from [`Self::check`]. An answer that breaks the output schema is `Failed` with
    /// `invalid-output`.
    #[must_use]
    pub fn run(&self, mut call: Call, parameters: Value) -> Handling<Value> {
        call.may_keep_state &= self.effect.may_keep_state();
        if self.effect == Effect::Pure {
            call.steps = Steps::refused();
        }
        (self.run)(self.declared.clone(), self.output.clone(), call, parameters)
    }
}

fn run<P: Plugin, A: Action<P>>(
    declared: Declared,
    output: Arc<Schema>,
    call: Call,
    parameters: Value,
) -> Handling<Value> {
    handling!(P, declared, call, |cx| {
        let action: A = read(parameters, "/parameters").map_err(|refused| {
            Error::Rejected(Box::new(unreadable(refused, ProblemKind::InvalidParameters, "the parameters")))
        })?;
        let answer = serde_json::to_value(action.run(cx).await?)?;
        check_answer(&output, &answer, "the output of the action")?;
        Ok(answer)
    })
}

impl fmt::Debug for ActionDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActionDefinition")
            .field("name", &self.name)
            .field("effect", &self.effect)
            .finish_non_exhaustive()
    }
}
