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
    handle::{Detour, Handlers, Step, conflict, platform_events, state_change},
    verdict::Verdict,
};
use crate::{
    failpoint::failpoint,
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
        if matches!(definition.effect(), Effect::Pure | Effect::Idempotent) {
            self.run_freely(envelope, plugin, definition, body).await
        } else {
            self.attempt(envelope, plugin, definition, body, redelivered).await
        }
    }

    /// Runs an action that may run twice: on the instance at hand, for the commit finds out whether it still holds.
    async fn run_freely(
        &self,
        envelope: &Envelope,
        plugin: &Arc<PluginDefinition>,
        action: &ActionDefinition,
        body: ActionCommand,
    ) -> Step {
        let (community, platform_id) = (body.community.clone(), body.community_platform_id.clone());
        let instance = self.instances.cached(plugin, &community, platform_id.as_deref()).await?;
        let attempt = Attempt { fence: None, number: envelope.attempt };
        let asked = Asked { envelope, plugin, action, initiator: body.initiator.clone() };
        let parameters = action.check(Value::Object(body.parameters.clone()))?;
        let verdict = self.run(&asked, attempt, &instance, parameters.clone()).await?;
        if !matches!(verdict, Verdict::Reject(_)) {
            return Ok(verdict);
        }
        // A refusal commits nothing, so nothing would find out that it was one of yesterday's config.
        let fresh = self.instances.fresh(plugin, &community, platform_id.as_deref()).await?;
        let verdict = if fresh.stored.version == instance.stored.version {
            verdict
        } else {
            self.instances.forget(&community);
            self.run(&asked, attempt, &fresh, parameters).await?
        };
        if let (Verdict::Reject(_), true, Some(entry)) = (&verdict, attempt.number > 1, envelope.inbox()) {
            self.store.forget_retry(&entry).await?;
        }
        Ok(verdict)
    }

    /// Runs an action that touches a platform: the attempt is on record before anything else is looked at, so that
    /// whatever happens to community or config, what may have been done is not forgotten.
    async fn attempt(
        &self,
        envelope: &Envelope,
        plugin: &Arc<PluginDefinition>,
        action: &ActionDefinition,
        body: ActionCommand,
        redelivered: bool,
    ) -> Step {
        let asked = Asked { envelope, plugin, action, initiator: body.initiator.clone() };
        let Some(entry) = envelope.inbox() else {
            // Without a key nothing can be written down. What was delivered before may have happened.
            let attempt = Attempt { fence: None, number: envelope.attempt };
            if action.effect() == Effect::Unsafe && redelivered {
                return Ok(asked.uncertain(self, attempt));
            }
            return self.find_and_run(&asked, attempt, body).await;
        };
        let lease = action.deadline().unwrap_or(self.deadline) + LEASE_MARGIN;
        let (fence, number, died) = match self.store.begin_attempt(&entry, &asked.new_attempt(), lease).await? {
            Begun::Fresh { fence } => (fence, 1, false),
            Begun::Again { fence, attempts, died } => (fence, attempts, died),
            Begun::Running { until } => {
                let wait = (until - self.now()).to_std().unwrap_or_default();
                let after = wait.clamp(Duration::from_secs(1), Duration::from_secs(5));
                return Ok(Verdict::Later { after, problem: None });
            }
            Begun::Finished(events) => return Ok(Verdict::Repeat(events)),
            Begun::Conflict => return Err(conflict().into()),
        };
        failpoint!("worker::begun");
        let attempt = Attempt { fence: Some(fence), number };
        if died && action.effect() == Effect::Unsafe {
            return Ok(asked.uncertain(self, attempt));
        }
        let verdict = match self.find_and_run(&asked, attempt, body).await {
            Ok(verdict) | Err(Detour::Verdict(verdict)) => verdict,
            Err(Detour::Store(error)) => {
                // Nothing has been called yet, so the next run must not take this one for dead.
                self.release(&entry, fence, Keep::ForRetry).await?;
                return Err(error.into());
            }
        };
        self.let_go(&entry, fence, &verdict).await?;
        Ok(verdict)
    }

    async fn find_and_run(&self, asked: &Asked<'_>, attempt: Attempt, body: ActionCommand) -> Step {
        let platform_id = body.community_platform_id.as_deref();
        let instance = self.instances.fresh(asked.plugin, &body.community, platform_id).await?;
        let parameters = asked.action.check(Value::Object(body.parameters))?;
        self.run(asked, attempt, &instance, parameters).await
    }

    /// Gives up an attempt that ends without an outcome: refused leaves nothing behind, a retry may begin at once.
    async fn let_go(&self, entry: &InboxEntry, fence: i64, verdict: &Verdict) -> Step<()> {
        match verdict {
            Verdict::Reject(_) => self.release(entry, fence, Keep::Nothing).await?,
            Verdict::Later { .. } => self.release(entry, fence, Keep::ForRetry).await?,
            Verdict::Commit { .. } | Verdict::Repeat(_) | Verdict::Done => {}
        }
        Ok(())
    }

    async fn run(
        &self,
        asked: &Asked<'_>,
        attempt: Attempt,
        instance: &Arc<LoadedInstance>,
        parameters: Value,
    ) -> Step {
        let effect = asked.action.effect();
        let request = Request {
            initiator: asked.initiator.clone(),
            idempotency_key: asked.envelope.idempotency_key(),
            attempt: attempt.number,
            may_keep_state: effect != Effect::Unsafe,
        };
        let call = self.host.call(instance, request);
        let deadline = asked.action.deadline().unwrap_or(self.deadline);
        let called = guarded(asked.action.run(call, parameters), deadline).await;
        if effect == Effect::Unsafe && matches!(called, Called::Cut(_)) {
            return Ok(asked.uncertain(self, attempt));
        }
        let Finished { result, effects } = called.into_finished();
        match result {
            Ok(output) => Ok(asked.completed(self, attempt, instance, output, effects)),
            Err(Error::Rejected(problem)) => Ok(Verdict::Reject(problem)),
            Err(Error::Failed(problem)) => Ok(asked.failed(self, attempt, instance, *problem)),
            Err(Error::Retry { after, problem }) => match self.again(attempt.number, after, &problem) {
                Some(later) => {
                    if let (None, Some(entry)) = (attempt.fence, asked.envelope.inbox()) {
                        self.store.note_retry(&entry, &asked.new_attempt(), attempt.number).await?;
                    }
                    Ok(later)
                }
                None => Ok(asked.failed(self, attempt, instance, *problem)),
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

    fn completed(
        &self,
        handlers: &Handlers,
        attempt: Attempt,
        instance: &LoadedInstance,
        output: Value,
        effects: Effects,
    ) -> Verdict {
        let body = EventBody::ActionCompleted(ActionCompleted {
            action: self.action.name().clone(),
            output,
            initiator: self.initiator.clone(),
            attempts: attempt.number,
        });
        let mut unit = self.outcome(handlers, attempt, RunStatus::Completed, &body);
        // The outcome stays the last of the events.
        let emitted = platform_events(self.envelope, self.plugin.name(), handlers.now(), effects.events, "action");
        unit.events.splice(0..0, emitted);
        unit.changes.extend(state_change(instance, effects.state));
        unit.saw = self.saw(instance);
        Verdict::commit(unit)
    }

    fn failed(&self, handlers: &Handlers, attempt: Attempt, instance: &LoadedInstance, problem: Problem) -> Verdict {
        let body = EventBody::ActionFailed(self.failure(attempt, problem.clone()));
        let mut unit = self.outcome(handlers, attempt, RunStatus::Failed, &body);
        unit.saw = self.saw(instance);
        Verdict::Commit { unit: Box::new(unit), problem: Some(Box::new(problem)) }
    }

    fn uncertain(&self, handlers: &Handlers, attempt: Attempt) -> Verdict {
        let detail = "the call was cut off after it may have reached the platform, and the action must not be \
                      repeated; look at the platform, then decide";
        let problem = Problem::new(ProblemKind::OutcomeUncertain, detail);
        let body = EventBody::ActionUncertain(self.failure(attempt, problem.clone()));
        let unit = self.outcome(handlers, attempt, RunStatus::Uncertain, &body);
        Verdict::Commit { unit: Box::new(unit), problem: Some(Box::new(problem)) }
    }

    fn failure(&self, attempt: Attempt, problem: Problem) -> ActionFailed {
        ActionFailed {
            action: self.action.name().clone(),
            problem,
            initiator: self.initiator.clone(),
            attempts: attempt.number,
        }
    }

    /// What has touched a platform is never run again because the config changed meanwhile.
    fn saw(&self, instance: &LoadedInstance) -> Option<InstanceVersion> {
        let may_run_twice = matches!(self.action.effect(), Effect::Pure | Effect::Idempotent);
        may_run_twice.then_some(InstanceVersion { id: instance.stored.id, version: Some(instance.stored.version) })
    }

    /// The unit of an outcome: the run and its event. Completed, failed or uncertain, it is the command's one outcome, so
    /// it has one id.
    fn outcome(&self, handlers: &Handlers, attempt: Attempt, status: RunStatus, body: &EventBody) -> Unit {
        let scope = self.envelope.scope(Some(self.plugin.name()), handlers.now());
        let outcome = self.envelope.last_event(&scope, "outcome", body);
        let run = ActionRun {
            id: self.envelope.derive("action-run"),
            community: outcome.community.clone(),
            message_id: self.envelope.message_id.clone(),
            plugin: self.plugin.name().clone(),
            action: self.action.name().clone(),
            effect: self.action.effect().as_str(),
            status,
            attempts: attempt.number,
            event_id: outcome.id,
            initiator: self.initiator(),
        };
        Unit {
            inbox: self.envelope.inbox(),
            fence: attempt.fence,
            run: Some(run),
            events: vec![outcome],
            ..Unit::default()
        }
    }
}
