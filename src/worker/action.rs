//! Actions: one call, one outcome.
//!
//! How an action is kept from happening twice depends on its effect. `pure` and `idempotent` ones simply run, and the
//! commit finds out whether the key was used before. For `keyed` and `unsafe` ones an attempt is written down *before*
//! the platform is called, so that after a crash a `keyed` action is repeated under the same key, and an `unsafe` one
//! ends as uncertain ([`super::attempt`]). Up: [`super::handle`]. Down: the plugin, through [`super::guard`].

use std::sync::Arc;

use metagov_sdk::{
    ActionDefinition, Effect, Effects, Error, Finished, PluginDefinition,
    contract::{ActionCommand, ActionCompleted, ActionFailed, EventBody, Initiator, Name, Problem, ProblemKind},
};
use serde_json::Value;

use super::{
    attempt::{Attempt, decide},
    envelope::{Envelope, Run},
    guard::{Called, guarded},
    handle::{Handlers, Step, platform_events},
    serial::{Shared, Turn},
    verdict::Verdict,
};
use crate::{
    host::{LoadedInstance, Request},
    registry::unknown_action,
    store::{ActionRun, InstanceVersion, KeptCommand, NewAttempt, RunStatus, Unit},
};

/// An action that is about to run.
struct Asked<'a> {
    envelope: &'a Envelope,
    plugin: &'a Arc<PluginDefinition>,
    action: &'a ActionDefinition,
    initiator: Option<Initiator>,
    /// Its turn at the instance, where other commands are changing the plugin's state, too.
    turn: Option<&'a Turn>,
    /// What it takes to run it again, where it may end so that somebody has to decide on that.
    command: Option<KeptCommand>,
}

impl Handlers {
    pub(super) async fn action(&self, envelope: &Envelope, plugin: &Name, action: &Name, body: ActionCommand) -> Step {
        let plugin = self.registry.find(plugin)?;
        let definition = plugin.action(action.as_str()).ok_or_else(|| unknown_action(plugin, action))?;
        let asked = Asked::new(envelope, plugin, definition, &body);
        let (handler, platform_id) =
            ((plugin.name().clone(), action.to_string()), body.community_platform_id.as_deref());
        let contended = self.contended_instance(envelope, plugin, &body.community, platform_id, &handler).await;
        // On record first: that takes long, and in the turn others wait.
        let attempt = self.attempt_at(&asked).await?;
        let turn = self.serial.turn_at(contended).await;
        let asked = Asked { turn: turn.as_ref(), ..asked };
        let decided = match definition.effect() {
            Effect::Pure => self.run_freely(&asked, &attempt, body).await,
            Effect::Idempotent => decide(self.run_freely(&asked, &attempt, body)).await,
            Effect::Unsafe if asked.may_have_happened(&attempt) => Ok(asked.uncertain(self, &attempt)),
            Effect::Keyed | Effect::Unsafe => decide(self.find_and_run(&asked, &attempt, body)).await,
        };
        let ended = self.end(envelope, &attempt, turn.as_ref(), decided).await;
        match turn {
            Some(turn) => turn.end(ended).await,
            None => ended,
        }
    }

    /// An attempt at an action, on record as its effect asks for.
    async fn attempt_at(&self, asked: &Asked<'_>) -> Step<Attempt> {
        let Asked { envelope, action, .. } = *asked;
        let deadline = action.deadline().unwrap_or(self.deadline);
        match action.effect() {
            Effect::Pure => {
                if envelope.suspect {
                    // It may have been answered, or refused, before; then it is not run once more for nothing.
                    self.unless_seen(envelope).await?;
                }
                Ok(Attempt::off_record(envelope))
            }
            Effect::Idempotent => self.begin_at_first_step(envelope, asked.new_attempt(), deadline).await,
            Effect::Keyed | Effect::Unsafe => self.begin(envelope, asked.new_attempt(), deadline).await,
        }
    }

    /// Runs an action that may run twice: on the instance at hand, for the commit finds out whether it still holds.
    async fn run_freely(&self, asked: &Asked<'_>, attempt: &Attempt, body: ActionCommand) -> Step {
        if asked.is_on_fresh_state() {
            return self.find_and_run(asked, attempt, body).await;
        }
        let (community, platform_id) = (body.community, body.community_platform_id);
        let instance = self.instances.cached(asked.plugin, &community, platform_id.as_deref()).await?;
        let parameters = asked.action.check(Value::Object(body.parameters))?;
        let verdict = self.run(asked, attempt, &instance, parameters.clone()).await?;
        if !matches!(verdict, Verdict::Reject(_)) {
            return Ok(verdict);
        }
        // A refusal commits nothing, so nothing would find out that it was one of yesterday's config.
        let fresh = self.instances.fresh(asked.plugin, &community, platform_id.as_deref()).await?;
        if fresh.stored.version == instance.stored.version {
            return Ok(verdict);
        }
        self.instances.forget(&community);
        self.run(asked, attempt, &fresh, parameters).await
    }

    async fn find_and_run(&self, asked: &Asked<'_>, attempt: &Attempt, body: ActionCommand) -> Step {
        let platform_id = body.community_platform_id.as_deref();
        let instance = self.instance_in_turn(asked.plugin, &body.community, platform_id, asked.turn).await?;
        let parameters = asked.action.check(Value::Object(body.parameters))?;
        self.run(asked, attempt, &instance, parameters).await
    }

    async fn run(
        &self,
        asked: &Asked<'_>,
        attempt: &Attempt,
        instance: &Arc<LoadedInstance>,
        parameters: Value,
    ) -> Step {
        let effect = asked.action.effect();
        let request = Request {
            initiator: asked.initiator.clone(),
            idempotency_key: asked.envelope.idempotency_key(),
            attempt: attempt.number(),
            may_keep_state: effect != Effect::Unsafe,
            steps: attempt.steps(),
        };
        let call = self.host.call(instance, request);
        let deadline = asked.action.deadline().unwrap_or(self.deadline);
        let called = guarded(asked.envelope, asked.action.run(call, parameters), deadline).await;
        if effect == Effect::Unsafe && matches!(called, Called::Cut(_)) {
            return Ok(asked.uncertain(self, attempt));
        }
        let Finished { result, effects } = called.into_finished();
        match result {
            Ok(output) => Ok(asked.completed(self, attempt, instance, output, effects)),
            Err(Error::Rejected(problem)) => Ok(Verdict::Reject(problem)),
            Err(Error::Failed(problem)) => Ok(asked.failed(self, attempt, instance, *problem)),
            Err(Error::Retry { after, problem }) => match self.again(attempt.number(), after, &problem) {
                Some(later) => {
                    if let (false, Some(entry)) = (attempt.has_begun(), asked.envelope.inbox()) {
                        self.store.note_retry(&entry, &asked.new_attempt(), attempt.number()).await?;
                    }
                    Ok(later)
                }
                None => Ok(asked.failed(self, attempt, instance, *problem)),
            },
        }
    }
}

impl<'a> Asked<'a> {
    fn new(
        envelope: &'a Envelope,
        plugin: &'a Arc<PluginDefinition>,
        action: &'a ActionDefinition,
        body: &ActionCommand,
    ) -> Self {
        let command = (action.effect() == Effect::Unsafe)
            .then(|| KeptCommand { correlation_id: envelope.correlation_id.clone(), body: serde_json::json!(body) });
        Self { envelope, plugin, action, initiator: body.initiator.clone(), turn: None, command }
    }

    /// Whether it runs on what the database has, and not on what is in the cache: then nobody need find out later whether
    /// that still holds, and a plugin whose state changes all the time does not keep it from its outcome.
    fn is_on_fresh_state(&self) -> bool {
        self.turn.is_some() || self.envelope.run != Run::First
    }

    /// Whether an attempt before this one may have reached the platform. Without a key nothing is written down, and what
    /// was delivered before may have.
    fn may_have_happened(&self, attempt: &Attempt) -> bool {
        attempt.is_after_a_death() || (self.envelope.suspect && !attempt.has_begun())
    }

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
        attempt: &Attempt,
        instance: &LoadedInstance,
        output: Value,
        effects: Effects,
    ) -> Verdict {
        let body = EventBody::ActionCompleted(ActionCompleted {
            action: self.action.name().clone(),
            output,
            initiator: self.initiator.clone(),
            attempts: attempt.number(),
        });
        let mut unit = self.outcome(handlers, attempt, RunStatus::Completed, &body);
        // The outcome stays the last of the events.
        let scope = self.envelope.scope(Some(self.plugin.name()), handlers.now());
        let emitted = platform_events(self.envelope, &scope, effects.events, "action");
        unit.events.splice(0..0, emitted);
        unit.saw = self.saw(instance);
        let mut shared = Shared::new();
        if let Some(state) = effects.state {
            let handler = (self.plugin.name().clone(), self.action.name().to_string());
            handlers.keep_state(&handler, instance, state, self.turn.is_some(), &mut unit, &mut shared);
        }
        Verdict::Commit { unit: Box::new(unit), shared: self.turn.map(|_| Box::new(shared)), problem: None }
    }

    fn failed(&self, handlers: &Handlers, attempt: &Attempt, instance: &LoadedInstance, problem: Problem) -> Verdict {
        let body = EventBody::ActionFailed(self.failure(attempt, problem.clone()));
        let mut unit = self.outcome(handlers, attempt, RunStatus::Failed, &body);
        unit.saw = self.saw(instance);
        let shared = self.turn.map(|_| Box::new(Shared::new()));
        Verdict::Commit { unit: Box::new(unit), shared, problem: Some(Box::new(problem)) }
    }

    fn uncertain(&self, handlers: &Handlers, attempt: &Attempt) -> Verdict {
        let detail = "the call was cut off after it may have reached the platform, and the action must not be \
                      repeated; look at the platform, then decide";
        let problem = Problem::new(ProblemKind::OutcomeUncertain, detail);
        let body = EventBody::ActionUncertain(self.failure(attempt, problem.clone()));
        let unit = self.outcome(handlers, attempt, RunStatus::Uncertain, &body);
        Verdict::Commit { unit: Box::new(unit), shared: None, problem: Some(Box::new(problem)) }
    }

    fn failure(&self, attempt: &Attempt, problem: Problem) -> ActionFailed {
        ActionFailed {
            action: self.action.name().clone(),
            problem,
            initiator: self.initiator.clone(),
            attempts: attempt.number(),
        }
    }

    /// What has touched a platform is never run again because the config changed meanwhile.
    fn saw(&self, instance: &LoadedInstance) -> Option<InstanceVersion> {
        let may_run_twice = matches!(self.action.effect(), Effect::Pure | Effect::Idempotent);
        let version = (!self.is_on_fresh_state()).then_some(instance.stored.version);
        may_run_twice.then_some(InstanceVersion { id: instance.stored.id, version })
    }

    /// The unit of an outcome: the run and its event. Completed, failed or uncertain, it is the command's one outcome, so
    /// it has one id.
    fn outcome(&self, handlers: &Handlers, attempt: &Attempt, status: RunStatus, body: &EventBody) -> Unit {
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
            attempts: attempt.number(),
            event_id: outcome.id,
            initiator: self.initiator(),
            command: self.command.clone().filter(|_| status == RunStatus::Uncertain),
        };
        Unit { inbox: self.envelope.inbox(), run: Some(run), events: vec![outcome], ..Unit::default() }
    }
}
