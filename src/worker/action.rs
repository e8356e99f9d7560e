//! Actions: one call, one outcome.
//!
//! How an action is kept from happening twice depends on its effect. `pure` and `idempotent` ones simply run, and the
//! commit finds out whether the key was used before. For `keyed` and `unsafe` ones an attempt is written down *before*
//! the platform is called, so that after a crash a `keyed` action is repeated under the same key, and an `unsafe` one
//! ends as uncertain. Up: [`super::handle`]. Down: the plugin, through [`super::guard`].

use std::{sync::Arc, time::Duration};

use metagov_sdk::{
    ActionDefinition, Effect, Effects, Error, Finished, PluginDefinition,
    contract::{ActionCommand, ActionCompleted, ActionFailed, EventBody, Initiator, Name, Problem, ProblemKind},
};
use serde_json::Value;

use super::{
    envelope::Envelope,
    guard::{Called, guarded},
    handle::{Handlers, Step, conflict, platform_events, state_change},
    verdict::Verdict,
};
use crate::{
    host::{LoadedInstance, Request},
    registry::unknown,
    store::{ActionRun, Begun, InboxEntry, InstanceVersion, Keep, NewAttempt, RunStatus, Unit},
};

/// Added to a handler's deadline before an attempt counts as dead: the commit takes time too.
const LEASE_MARGIN: Duration = Duration::from_secs(15);

/// An action that is about to run.
struct Asked<'a> {
    envelope: &'a Envelope,
    plugin: &'a Arc<PluginDefinition>,
    action: &'a ActionDefinition,
    instance: Arc<LoadedInstance>,
    parameters: Value,
    initiator: Option<Initiator>,
}

/// An attempt that is written down: whose writes count, and how many there were.
#[derive(Clone, Copy)]
struct Attempt {
    fence: Option<i64>,
    number: u32,
}

impl Handlers {
    pub(super) async fn action(
        &self,
        envelope: &Envelope,
        plugin: &Name,
        action: &Name,
        body: ActionCommand,
        redelivered: bool,
    ) -> Step {
        let plugin = self.registry.find(plugin)?;
        let definition = plugin
            .action(action.as_str())
            .ok_or_else(|| unknown(ProblemKind::UnknownAction, "action", action, plugin.action_names()))?;
        let parameters = definition.check(Value::Object(body.parameters))?;
        let (community, platform_id) = (&body.community, body.community_platform_id.as_deref());
        let may_run_twice = matches!(definition.effect(), Effect::Pure | Effect::Idempotent);
        let instance = if may_run_twice {
            self.instances.cached(plugin, community, platform_id).await?
        } else {
            self.instances.fresh(plugin, community, platform_id).await?
        };
        let initiator = body.initiator;
        let asked = Asked { envelope, plugin, action: definition, instance, parameters, initiator };
        if may_run_twice {
            return self.run(asked, Attempt { fence: None, number: envelope.attempt }).await;
        }
        self.attempt(asked, redelivered).await
    }

    /// Runs an action that touches a platform: the attempt is on record before the call.
    async fn attempt(&self, asked: Asked<'_>, redelivered: bool) -> Step {
        let effect = asked.action.effect();
        let Some(entry) = asked.envelope.inbox() else {
            // Without a key nothing can be written down. What was delivered before may have happened.
            let attempt = Attempt { fence: None, number: asked.envelope.attempt };
            if effect == Effect::Unsafe && redelivered {
                return Ok(asked.uncertain(self, attempt));
            }
            return self.run(asked, attempt).await;
        };
        let lease = asked.action.deadline().unwrap_or(self.deadline) + LEASE_MARGIN;
        let (fence, number, died) = match self.store.begin_attempt(&entry, &asked.new_attempt(), lease).await? {
            Begun::Fresh { fence } => (fence, 1, false),
            Begun::Again { fence, attempts, died } => (fence, attempts, died),
            Begun::Running { until } => {
                let wait = (until - self.now())
                    .to_std()
                    .unwrap_or_default()
                    .clamp(Duration::from_secs(1), Duration::from_secs(5));
                return Ok(Verdict::Later { after: wait, counted: false });
            }
            Begun::Finished(events) => return Ok(Verdict::Repeat(events)),
            Begun::Conflict => return Err(conflict().into()),
        };
        let attempt = Attempt { fence: Some(fence), number };
        if died && effect == Effect::Unsafe {
            return Ok(asked.uncertain(self, attempt));
        }
        let verdict = self.run(asked, attempt).await?;
        self.let_go(&entry, fence, &verdict).await?;
        Ok(verdict)
    }

    /// Gives up an attempt that ends without an outcome: refused leaves nothing behind, a retry may begin at once.
    async fn let_go(&self, entry: &InboxEntry, fence: i64, verdict: &Verdict) -> Step<()> {
        match verdict {
            Verdict::Reject(_) => self.store.release_attempt(entry, fence, Keep::Nothing).await?,
            Verdict::Later { .. } => self.store.release_attempt(entry, fence, Keep::ForRetry).await?,
            Verdict::Commit(_) | Verdict::Repeat(_) | Verdict::Done => {}
        }
        Ok(())
    }

    async fn run(&self, asked: Asked<'_>, attempt: Attempt) -> Step {
        let effect = asked.action.effect();
        let request = Request {
            initiator: asked.initiator.clone(),
            idempotency_key: asked.envelope.idempotency_key(),
            attempt: attempt.number,
            may_keep_state: effect != Effect::Unsafe,
        };
        let call = self.host.call(&asked.instance, request);
        let deadline = asked.action.deadline().unwrap_or(self.deadline);
        let called = guarded(asked.action.run(call, asked.parameters.clone()), deadline).await;
        if effect == Effect::Unsafe && matches!(called, Called::Cut(_)) {
            return Ok(asked.uncertain(self, attempt));
        }
        let Finished { result, effects } = called.into_finished();
        match result {
            Ok(output) => Ok(asked.completed(self, attempt, output, effects)),
            Err(Error::Rejected(problem)) => Ok(Verdict::Reject(problem)),
            Err(Error::Failed(problem)) => Ok(asked.failed(self, attempt, *problem)),
            Err(Error::Retry { after, problem }) => match self.again(attempt.number, after) {
                Some(later) => {
                    if let (None, Some(entry)) = (attempt.fence, asked.envelope.inbox()) {
                        self.store.note_retry(&entry, &asked.new_attempt(), attempt.number).await?;
                    }
                    Ok(later)
                }
                None => Ok(asked.failed(self, attempt, *problem)),
            },
        }
    }
}

impl Asked<'_> {
    fn new_attempt(&self) -> NewAttempt {
        NewAttempt {
            run_id: self.envelope.derive("action-run"),
            plugin: self.plugin.name().clone(),
            action: Some(self.action.name().clone()),
            effect: self.action.effect().as_str(),
            initiator: self.initiator(),
        }
    }

    fn initiator(&self) -> Option<Value> {
        self.initiator.as_ref().map(|initiator| serde_json::json!(initiator))
    }

    fn completed(self, handlers: &Handlers, attempt: Attempt, output: Value, effects: Effects) -> Verdict {
        let body = EventBody::ActionCompleted(ActionCompleted {
            action: self.action.name().clone(),
            output,
            initiator: self.initiator.clone(),
            attempts: attempt.number,
        });
        self.outcome(handlers, attempt, RunStatus::Completed, &body, effects)
    }

    fn failed(self, handlers: &Handlers, attempt: Attempt, problem: Problem) -> Verdict {
        let body = EventBody::ActionFailed(self.failure(attempt, problem));
        self.outcome(handlers, attempt, RunStatus::Failed, &body, Effects::default())
    }

    fn uncertain(self, handlers: &Handlers, attempt: Attempt) -> Verdict {
        let detail = "the call was cut off after it may have reached the platform, and the action must not be \
                      repeated; look at the platform, then decide";
        let problem = Problem::new(ProblemKind::OutcomeUncertain, detail);
        let body = EventBody::ActionUncertain(self.failure(attempt, problem));
        self.outcome(handlers, attempt, RunStatus::Uncertain, &body, Effects::default())
    }

    fn failure(&self, attempt: Attempt, problem: Problem) -> ActionFailed {
        ActionFailed {
            action: self.action.name().clone(),
            problem,
            initiator: self.initiator.clone(),
            attempts: attempt.number,
        }
    }

    /// The unit of an outcome: the run, its event, and what the handler changed and emitted on the way.
    fn outcome(
        self,
        handlers: &Handlers,
        attempt: Attempt,
        status: RunStatus,
        body: &EventBody,
        effects: Effects,
    ) -> Verdict {
        let now = handlers.now();
        let scope = self.envelope.scope(Some(self.plugin.name()), now);
        // Completed, failed or uncertain: it is the command's one outcome, so it has one id.
        let outcome = self.envelope.last_event(&scope, "outcome", body);
        let run = ActionRun {
            id: self.envelope.derive("action-run"),
            community: self.instance.stored.community.clone(),
            message_id: self.envelope.message_id.clone(),
            plugin: self.plugin.name().clone(),
            action: self.action.name().clone(),
            effect: self.action.effect().as_str(),
            status,
            attempts: attempt.number,
            event_id: outcome.id,
            initiator: self.initiator(),
        };
        let mut events = platform_events(self.envelope, self.plugin.name(), now, effects.events, "action");
        events.push(outcome);
        // What has touched a platform is not run again because the config changed meanwhile.
        let saw = attempt
            .fence
            .is_none()
            .then(|| InstanceVersion { id: self.instance.stored.id, version: self.instance.stored.version });
        Verdict::Commit(Box::new(Unit {
            inbox: self.envelope.inbox(),
            fence: attempt.fence,
            saw,
            changes: state_change(&self.instance, effects.state).into_iter().collect(),
            run: Some(run),
            events,
        }))
    }
}
