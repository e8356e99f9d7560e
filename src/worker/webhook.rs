//! Webhooks and ticks: what platforms tell, and what they are asked.
//!
//! A webhook is verified first, over the raw bytes, and then shown to the plugin and to the open processes that it
//! concerns. All that comes of it is one unit: a vote is counted with the webhook that brought it, or not at all. Where none
//! of the processes can take it, it is refused ([`super::refusal`]), and its next delivery counts; where some can, the others
//! say in their `errors` what went wrong. [`super::delivery`] says what it is recognised by. Up: [`super::handle`]. Down: the plugin, through [`super::guard`].

use std::{collections::BTreeSet, sync::Arc};

use metagov_sdk::{
    Call, Concerns, Effects, Error, Finished, PluginDefinition, Webhook,
    contract::{Name, Problem, ProblemKind, Tick, WebhookCommand},
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    delivery::key_of,
    envelope::{Envelope, Run},
    guard::{Called, guarded},
    handle::{Detour, Handlers, Step, expired, platform_events},
    process::{or_the_next, unit},
    serial::{Handler, Report, RowKey, Shared, Turn},
    transition::{Answer, Moved, advance},
    verdict::Verdict,
    wait::LONGEST,
};
use crate::host::LoadedInstance;

impl Handlers {
    pub(super) async fn webhook(
        &self,
        envelope: &mut Envelope,
        plugin: &Name,
        body: WebhookCommand,
        is_late: bool,
    ) -> Step {
        let plugin = Arc::clone(self.registry.find(plugin)?);
        let instance = self.concerned(&plugin, &body).await?;
        let hook = Arc::new(Webhook::from_command(&body)?);
        // Also where only the platform's id of it was named.
        envelope.community = Some(instance.stored.community.clone());
        envelope.know_by(key_of(instance.stored.id, &hook));
        let envelope = &*envelope;
        if is_late && !self.has_begun(envelope).await? {
            return Err(expired().into());
        }
        let verified = plugin.verify_webhook(self.call(envelope, &instance), Arc::clone(&hook));
        if let Err(error) = in_time(guarded(envelope, verified, self.deadline).await).result {
            return Ok(self.refused(envelope, error));
        }
        // Only now: a forged one must not have the events of the true one published again.
        if envelope.run == Run::First {
            // Later runs find out when they are stored: each question costs a crowd dearly.
            self.unless_seen(envelope).await?;
        }
        let concerned = self.concerned_processes(&plugin, &instance, &hook).await?;
        let community = &instance.stored.community;
        let mut rows: BTreeSet<_> = concerned.iter().map(|id| RowKey::Process(community.clone(), *id)).collect();
        let its_state = RowKey::Instance(community.clone(), instance.stored.id);
        if self.takes_turns(envelope, &its_state, &handler_of(&plugin)) {
            rows.insert(its_state);
        }
        let turn = self.serial.turn(rows).await;
        let decided = self.receive(envelope, &plugin, &instance, &hook, &concerned, &turn).await;
        turn.end(decided).await
    }

    /// Shows a verified webhook to the plugin and to the processes that it concerns, in its turn at them.
    async fn receive(
        &self,
        envelope: &Envelope,
        plugin: &Arc<PluginDefinition>,
        instance: &LoadedInstance,
        hook: &Arc<Webhook>,
        concerned: &[Uuid],
        turn: &Turn,
    ) -> Step {
        // The plugin's state goes from call to call, and is stored once.
        let mut now_is = self.as_it_is(plugin, instance, turn).await?;
        let received = plugin.receive_webhook(self.call(envelope, &now_is), Arc::clone(hook));
        let Finished { result, effects } = in_time(guarded(envelope, received, self.deadline).await);
        if let Err(error) = result {
            return Ok(self.refused(envelope, error));
        }
        let mut unit = unit(envelope, None, Vec::new(), Vec::new());
        let mut shared = Shared::new();
        let scope = envelope.scope(Some(plugin.name()), self.now());
        unit.events = platform_events(envelope, &scope, effects.events, "plugin");
        let mut state = effects.state;
        let (mut taken, mut failure) = (false, None);
        for process in turn.processes(&self.store, &instance.stored.community, concerned).await? {
            let Some(definition) = plugin.process(process.process.as_str()) else { continue };
            if process.record.status.is_terminal() {
                continue;
            }
            keep(&mut now_is, state.as_ref());
            let call = self.call(envelope, &now_is);
            let handling = definition.receive_webhook(call, process.state.clone(), Arc::clone(hook));
            let Finished { result, effects } = in_time(guarded(envelope, handling, self.deadline).await);
            if let Err(error @ Error::Retry { .. }) = result {
                return Ok(self.refused(envelope, error));
            }
            let failed = result.as_ref().err().map(|error| Box::new(error.problem().clone()));
            let (now, label) = (self.now(), process.record.id.to_string());
            unit.events.extend(platform_events(envelope, &envelope.scope_of(&process, now), effects.events, &label));
            state = effects.state.or(state);
            if let Some(Moved { process, is_visible }) = advance(&process, result, now, Answer::IfChanged) {
                let (row, label) = (RowKey::of(&process), format!("webhook/{label}"));
                shared.reports.extend(is_visible.then_some(Report { row, label, time: now, last: false }));
                shared.processes.push(process);
                // Who changes nothing may only have seen that it is not meant.
                taken |= failed.is_none();
            }
            failure = failure.or(failed);
        }
        if let (Some(problem), false) = (failure, taken) {
            return Ok(Verdict::Reject(problem));
        }
        if let Some(state) = state {
            self.keep_state(&handler_of(plugin), &now_is, state, turn.has_instance(), &mut unit, &mut shared);
        }
        // Stored also where nothing changed: the platform's next delivery of the same hook is recognised.
        Ok(Verdict::Commit { unit: Box::new(unit), shared: Some(Box::new(shared)), problem: None })
    }

    /// The instance as it is when its turn has come.
    async fn as_it_is(&self, plugin: &PluginDefinition, read: &LoadedInstance, turn: &Turn) -> Step<LoadedInstance> {
        if !turn.has_instance() {
            return Ok(read.clone());
        }
        if let Some(latest) = turn.latest_instance() {
            return Ok(Arc::unwrap_or_clone(latest));
        }
        let stored = self.store.instance(&read.stored.community, read.stored.id).await?;
        match stored {
            Some(stored) => Ok(self.host.load(plugin, stored)?),
            // It was disabled meanwhile, which the next run finds out.
            None => Err(Detour::Verdict(Verdict::Rerun)),
        }
    }

    /// The open processes that a webhook is about, the oldest first.
    async fn concerned_processes(
        &self,
        plugin: &PluginDefinition,
        instance: &LoadedInstance,
        hook: &Webhook,
    ) -> Step<Arc<[Uuid]>> {
        let key = match plugin.concerns(hook) {
            Concerns::NoProcess => return Ok(Arc::default()),
            Concerns::EveryProcess => None,
            Concerns::Process(key) => Some(key),
        };
        let stored = &instance.stored;
        Ok(self.lookups.open_process_ids(&stored.community, stored.id, key).await?)
    }

    pub(super) async fn tick(&self, envelope: &Envelope, plugin: &Name, body: &Tick) -> Step {
        let plugin = Arc::clone(self.registry.find(plugin)?);
        let its_state = RowKey::Instance(body.community.clone(), body.instance_id);
        let takes_turns = self.takes_turns(envelope, &its_state, &handler_of(&plugin));
        let turn = self.serial.turn(takes_turns.then_some(its_state).into_iter().collect()).await;
        let decided = self.tick_in_turn(envelope, &plugin, body, &turn).await;
        turn.end(decided).await
    }

    async fn tick_in_turn(&self, envelope: &Envelope, plugin: &PluginDefinition, body: &Tick, turn: &Turn) -> Step {
        let Some(stored) = self.store.instance(&body.community, body.instance_id).await? else {
            return Ok(Verdict::Done);
        };
        let instance = match self.host.load(plugin, stored) {
            Ok(instance) => instance,
            Err(why) => return or_the_next(why.into()),
        };
        let instance = turn.latest_instance().map_or(instance, Arc::unwrap_or_clone);
        let call = self.call(envelope, &instance);
        let finished = guarded(envelope, plugin.tick(call), self.deadline).await.into_finished();
        if let Err(error) = finished.result {
            let problem = error.problem();
            tracing::warn!(%problem, "the plugin's tick failed; the next one comes");
            if let Error::Retry { after: Some(after), .. } = error {
                self.store.put_off_tick(&body.community, body.instance_id, after.min(LONGEST)).await?;
            }
            return Ok(Verdict::Done);
        }
        let effects = finished.effects;
        if effects.state.is_none() && effects.events.is_empty() {
            return Ok(Verdict::Done);
        }
        let scope = envelope.scope(Some(plugin.name()), self.now());
        let events = platform_events(envelope, &scope, effects.events, "plugin");
        let (mut unit, mut shared) = (unit(envelope, None, Vec::new(), events), Shared::new());
        if let Some(state) = effects.state {
            self.keep_state(&handler_of(plugin), &instance, state, turn.has_instance(), &mut unit, &mut shared);
        }
        Ok(Verdict::Commit { unit: Box::new(unit), shared: Some(Box::new(shared)), problem: None })
    }

    fn call(&self, envelope: &Envelope, instance: &LoadedInstance) -> Call {
        self.host.call(instance, Self::request(envelope, None))
    }

    /// The one instance that a webhook is for.
    async fn concerned(&self, plugin: &PluginDefinition, body: &WebhookCommand) -> Step<Arc<LoadedInstance>> {
        if let Some(community) = &body.community {
            return Ok(self.instances.fresh(plugin, community, body.community_platform_id.as_deref()).await?);
        }
        let platform_id = body.community_platform_id.as_deref().unwrap_or_default();
        let mut found = self.store.instances_by_platform_id(plugin.name(), platform_id).await?;
        match (found.pop(), found.is_empty()) {
            (Some(stored), true) => Ok(Arc::new(self.host.load(plugin, stored)?)),
            (Some(_), false) => {
                let detail = "several communities share this community_platform_id; the address must name one";
                Err(Problem::new(ProblemKind::AmbiguousInstance, detail).into())
            }
            (None, _) => {
                let detail = format!("no community has '{}' enabled with this community_platform_id", plugin.name());
                Err(Problem::new(ProblemKind::PluginNotEnabled, detail).into())
            }
        }
    }

    /// A webhook that its plugin did not take.
    fn refused(&self, envelope: &Envelope, error: Error) -> Verdict {
        match error {
            Error::Rejected(problem) | Error::Failed(problem) => Verdict::Reject(problem),
            Error::Retry { after, problem } => {
                self.again(envelope.attempt, after, &problem).unwrap_or(Verdict::Reject(problem))
            }
        }
    }
}

/// What a plugin made of a webhook. One that had no time for it may have some later, for nothing of it is stored yet.
fn in_time<T>(called: Called<T>) -> Finished<T> {
    match called {
        Called::Cut(problem) if problem.kind == ProblemKind::Timeout => {
            Finished { result: Err(Error::Retry { after: None, problem }), effects: Effects::default() }
        }
        called => called.into_finished(),
    }
}

fn keep(instance: &mut LoadedInstance, state: Option<&Value>) {
    if let Some(state) = state {
        instance.state = Some(Arc::new(state.clone()));
    }
}

/// Webhooks and ticks of one plugin change its state alike.
fn handler_of(plugin: &PluginDefinition) -> Handler {
    (plugin.name().clone(), "webhook".to_owned())
}
