//! Webhooks and ticks: what platforms tell, and what they are asked.
//!
//! A webhook is verified first, over the raw bytes, and then shown to the plugin and to the open processes that it
//! concerns. All that comes of it is one unit: a vote is counted with the webhook that brought it, or not at all. Where none
//! of the processes can take it, it is refused, and its next delivery counts; where some can, the others say in their
//! `errors` what went wrong. Up: [`super::handle`]. Down: the plugin, through [`super::guard`].

use std::sync::Arc;

use metagov_sdk::{
    Call, Concerns, Effects, Error, Finished, PluginDefinition, Webhook,
    contract::{Name, Problem, ProblemKind, Tick, WebhookCommand},
};

use serde_json::Value;

use super::{
    envelope::Envelope,
    guard::{Called, guarded},
    handle::{Handlers, Step, platform_events, state_change},
    process::{Answer, advance, or_the_next, unit},
    verdict::Verdict,
    wait::LONGEST,
};
use crate::host::LoadedInstance;

impl Handlers {
    pub(super) async fn webhook(&self, envelope: &mut Envelope, plugin: &Name, body: WebhookCommand) -> Step {
        let plugin = Arc::clone(self.registry.find(plugin)?);
        let instance = self.concerned(&plugin, &body).await?;
        // From here on the community is known, whether the address named it or the platform's id did.
        envelope.community = Some(instance.stored.community.clone());
        let envelope = &*envelope;
        self.unless_seen(envelope).await?;
        let hook = Arc::new(Webhook::from_command(&body)?);
        // The plugin's state goes from call to call, and is stored once.
        let mut now_is = (*instance).clone();
        let verified = plugin.verify_webhook(self.call(envelope, &now_is), Arc::clone(&hook));
        if let Err(error) = in_time(guarded(envelope, verified, self.deadline).await).result {
            return Ok(self.refused(envelope, error));
        }
        let received = plugin.receive_webhook(self.call(envelope, &now_is), Arc::clone(&hook));
        let Finished { result, effects } = in_time(guarded(envelope, received, self.deadline).await);
        if let Err(error) = result {
            return Ok(self.refused(envelope, error));
        }
        let mut changes = Vec::new();
        let mut events = platform_events(envelope, plugin.name(), self.now(), effects.events, "plugin");
        keep_state(&mut now_is, effects.state);
        let webhook_key = match plugin.concerns(&hook) {
            Concerns::NoProcess => None,
            Concerns::EveryProcess => Some(None),
            Concerns::Process(key) => Some(Some(key)),
        };
        let concerned = match &webhook_key {
            Some(key) => {
                let (community, id) = (&instance.stored.community, instance.stored.id);
                self.store.open_processes(community, id, key.as_deref()).await?
            }
            None => Vec::new(),
        };
        let (mut taken, mut failure) = (false, None);
        for process in concerned {
            let Some(definition) = plugin.process(process.process.as_str()) else { continue };
            let call = self.call(envelope, &now_is);
            let handling = definition.receive_webhook(call, process.state.clone(), Arc::clone(&hook));
            let Finished { result, effects } = in_time(guarded(envelope, handling, self.deadline).await);
            if let Err(error @ Error::Retry { .. }) = result {
                return Ok(self.refused(envelope, error));
            }
            let failed = result.as_ref().err().map(|error| Box::new(error.problem().clone()));
            let now = self.now();
            let label = process.record.id.to_string();
            events.extend(platform_events(envelope, plugin.name(), now, effects.events, &label));
            keep_state(&mut now_is, effects.state);
            if let Some(moved) = advance(&process, result, now, Answer::IfChanged) {
                let scope = envelope.scope(Some(plugin.name()), now);
                events.extend(moved.event.map(|body| envelope.event(&scope, &format!("webhook/{label}"), &body)));
                changes.push(moved.change);
                // Who changes nothing may only have seen that it is not meant.
                taken |= failed.is_none();
            }
            failure = failure.or(failed);
        }
        if let (Some(problem), false) = (failure, taken) {
            return Ok(Verdict::Reject(problem));
        }
        if now_is.state != instance.state {
            changes.extend(state_change(&instance, now_is.state.as_deref().cloned()));
        }
        // Committed also where nothing changed: the platform's next delivery of the same hook is recognised.
        Ok(Verdict::commit(unit(envelope, None, changes, events)))
    }

    pub(super) async fn tick(&self, envelope: &Envelope, plugin: &Name, body: &Tick) -> Step {
        let plugin = Arc::clone(self.registry.find(plugin)?);
        let Some(stored) = self.store.instance(&body.community, body.instance_id).await? else {
            return Ok(Verdict::Done);
        };
        let instance = match self.host.load(&plugin, stored) {
            Ok(instance) => instance,
            Err(why) => return or_the_next(why.into()),
        };
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
        let changes: Vec<_> = state_change(&instance, effects.state).into_iter().collect();
        let events = platform_events(envelope, plugin.name(), self.now(), effects.events, "plugin");
        if changes.is_empty() && events.is_empty() {
            return Ok(Verdict::Done);
        }
        Ok(Verdict::commit(unit(envelope, None, changes, events)))
    }

    fn call(&self, envelope: &Envelope, instance: &LoadedInstance) -> Call {
        self.host.call(instance, Self::request(envelope, None))
    }

    /// The one instance that a webhook is for.
    async fn concerned(&self, plugin: &PluginDefinition, body: &WebhookCommand) -> Step<Arc<LoadedInstance>> {
        if let Some(community) = &body.community {
            return Ok(self.instances.fresh(plugin, community, body.community_platform_id.as_deref()).await?);
        }
        let Some(platform_id) = &body.community_platform_id else {
            let detail = "a webhook must name its community or its community_platform_id";
            return Err(Problem::new(ProblemKind::InvalidCommand, detail).into());
        };
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

fn keep_state(instance: &mut LoadedInstance, state: Option<Value>) {
    if let Some(state) = state {
        instance.state = Some(Arc::new(state));
    }
}
