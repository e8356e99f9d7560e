//! Webhooks and ticks: what platforms tell, and what they are asked.
//!
//! A webhook is verified first, over the raw bytes, and then shown to the open processes that it concerns and to the
//! plugin. All that comes of it is one unit: a vote is counted with the webhook that brought it, or not at all. Up:
//! [`super::handle`]. Down: the plugin, through [`super::guard`].

use std::sync::Arc;

use metagov_sdk::{
    Concerns, Effects, Error, PluginDefinition, Webhook,
    contract::{Name, Problem, ProblemKind, Tick, WebhookCommand},
};

use super::{
    envelope::Envelope,
    guard::guarded,
    handle::{Handlers, Step, platform_events, state_change},
    process::{Answer, advance, commit},
    verdict::Verdict,
};
use crate::{
    host::LoadedInstance,
    store::{Change, OutboxEvent},
};

impl Handlers {
    pub(super) async fn webhook(&self, envelope: &Envelope, plugin: &Name, body: WebhookCommand) -> Step {
        let plugin = Arc::clone(self.registry.find(plugin)?);
        let instance = self.concerned(&plugin, &body).await?;
        // From here on the community is known, whether the address named it or the platform's id did.
        let envelope = &envelope.in_community(&instance.stored.community);
        self.unless_seen(envelope).await?;
        let hook = Arc::new(Webhook::from_command(&body)?);
        let call = || self.host.call(&instance, Self::request(envelope, None));
        let verified = guarded(plugin.verify_webhook(call(), Arc::clone(&hook)), self.deadline).await.into_finished();
        if let Err(error) = verified.result {
            return Ok(self.refused(envelope, error));
        }
        let webhook_key = match plugin.concerns(&hook) {
            Concerns::NoProcess => None,
            Concerns::EveryProcess => Some(None),
            Concerns::Process(key) => Some(Some(key)),
        };
        let (mut changes, mut events) = (Vec::new(), Vec::new());
        let received = guarded(plugin.receive_webhook(call(), Arc::clone(&hook)), self.deadline).await.into_finished();
        if let Err(error) = received.result {
            return Ok(self.refused(envelope, error));
        }
        self.keep(envelope, &plugin, &instance, received.effects, &mut changes, &mut events);
        if let Some(key) = webhook_key {
            let (community, id) = (&instance.stored.community, instance.stored.id);
            for process in self.store.open_processes(community, id, key.as_deref()).await? {
                let Some(definition) = plugin.process(process.process.as_str()) else { continue };
                let handling = definition.receive_webhook(call(), process.state.clone(), Arc::clone(&hook));
                let finished = guarded(handling, self.deadline).await.into_finished();
                if let Err(Error::Retry { .. }) = &finished.result {
                    let Err(error) = finished.result else { continue };
                    return Ok(self.refused(envelope, error));
                }
                let now = self.now();
                let label = process.record.id.to_string();
                events.extend(platform_events(envelope, plugin.name(), now, finished.effects.events, &label));
                if let Some(moved) = advance(&process, finished.result, now, Answer::IfChanged) {
                    let scope = envelope.scope(Some(plugin.name()), now);
                    events.extend(moved.event.map(|body| envelope.event(&scope, &format!("webhook/{label}"), &body)));
                    changes.push(moved.change);
                }
            }
        }
        // Committed also where nothing changed: the platform's next delivery of the same hook is recognised.
        Ok(commit(envelope, None, changes, events))
    }

    pub(super) async fn tick(&self, envelope: &Envelope, plugin: &Name, body: &Tick) -> Step {
        let plugin = Arc::clone(self.registry.find(plugin)?);
        let Some(stored) = self.store.instance(&body.community, body.instance_id).await? else {
            return Ok(Verdict::Done);
        };
        let instance = LoadedInstance::load(&plugin, stored)?;
        let call = self.host.call(&instance, Self::request(envelope, None));
        let finished = guarded(plugin.tick(call), self.deadline).await.into_finished();
        if let Err(error) = finished.result {
            let problem = error.problem();
            tracing::warn!(%problem, "the plugin's tick failed; the next one comes");
            return Ok(Verdict::Done);
        }
        let (mut changes, mut events) = (Vec::new(), Vec::new());
        self.keep(envelope, &plugin, &instance, finished.effects, &mut changes, &mut events);
        if changes.is_empty() && events.is_empty() {
            return Ok(Verdict::Done);
        }
        Ok(commit(envelope, None, changes, events))
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
            (Some(stored), true) => Ok(Arc::new(LoadedInstance::load(plugin, stored)?)),
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
            Error::Retry { after, problem } => self.again(envelope.attempt, after).unwrap_or(Verdict::Reject(problem)),
        }
    }

    fn keep(
        &self,
        envelope: &Envelope,
        plugin: &PluginDefinition,
        instance: &LoadedInstance,
        effects: Effects,
        changes: &mut Vec<Change>,
        events: &mut Vec<OutboxEvent>,
    ) {
        changes.extend(state_change(instance, effects.state));
        events.extend(platform_events(envelope, plugin.name(), self.now(), effects.events, "plugin"));
    }
}
