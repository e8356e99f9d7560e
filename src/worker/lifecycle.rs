//! What happens to one plugin instance: enabled, reconfigured, disabled.
//!
//! Each step calls the plugin and gives the changes and events that come of it; whoever asked puts several of them into
//! one unit. A changed config keeps state and open processes; a disabled plugin leaves no open process behind. Up:
//! [`super::community`]. Down: the plugin, through [`super::guard`].

use std::sync::Arc;

use metagov_sdk::{
    Effects, Error, LoadedConfig, PluginDefinition,
    contract::{CommunitySlug, EventBody, InstanceRecord, Problem, ProblemKind, Timestamp},
};
use uuid::Uuid;

use super::{
    envelope::Envelope,
    guard::guarded,
    handle::{Detour, Handlers, Step, platform_events},
    process::abandon,
    verdict::Verdict,
};
use crate::{
    host::LoadedInstance,
    store::{Change, Instance, NewInstance, OutboxEvent},
};

/// What came of a step: what is to be written, what is to be told, and how the instance stands afterwards.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) changes: Vec<Change>,
    pub(super) events: Vec<OutboxEvent>,
    pub(super) after: Option<InstanceRecord>,
}

impl Handlers {
    /// Enables a plugin, or updates its config in place where it is enabled already.
    pub(super) async fn put_instance(
        &self,
        envelope: &Envelope,
        plugin: &Arc<PluginDefinition>,
        community: &CommunitySlug,
        config: LoadedConfig,
        existing: Option<Instance>,
    ) -> Step<Outcome> {
        let now = self.now();
        let scope = envelope.scope(Some(plugin.name()), now);
        let (stored, change, body, effects) = match existing {
            None => {
                let stored = Instance {
                    id: new_instance_id(envelope, plugin, &config),
                    community: community.clone(),
                    plugin: plugin.name().clone(),
                    platform_id: config.platform_id.clone(),
                    config: (*config.value).clone(),
                    state: None,
                    version: 1,
                    tick_every: plugin.tick_every(),
                    created_at: now,
                    updated_at: now,
                };
                let call = self.host.call(&loaded(&stored, &config), Self::request(envelope, None));
                let effects = self.lifecycle(envelope, plugin.enabled(call)).await?;
                let state = effects.state.clone();
                let body = EventBody::PluginEnabled(record(plugin, &stored, now));
                let change = Change::InsertInstance(NewInstance {
                    id: stored.id,
                    community: community.clone(),
                    plugin: plugin.name().clone(),
                    platform_id: stored.platform_id.clone(),
                    config: stored.config.clone(),
                    state,
                    created_at: now,
                    tick_every: stored.tick_every,
                });
                (stored, Some(change), body, effects)
            }
            Some(stored) if stored.config == *config.value => {
                let body = EventBody::PluginUpdated(record(plugin, &stored, stored.updated_at));
                (stored, None, body, Effects::default())
            }
            Some(stored) => {
                let before = plugin.load_config(stored.config.clone(), "/config")?;
                let after = Instance { config: (*config.value).clone(), updated_at: now, ..stored };
                let call = self.host.call(&loaded(&after, &config), Self::request(envelope, None));
                let effects = self.lifecycle(envelope, plugin.config_changed(call, before)).await?;
                let change = Change::UpdateInstance {
                    id: after.id,
                    community: community.clone(),
                    expected: after.version,
                    platform_id: config.platform_id.clone(),
                    config: Some(after.config.clone()),
                    state: effects.state.clone(),
                    updated_at: now,
                    tick_every: plugin.tick_every(),
                };
                let body = EventBody::PluginUpdated(record(plugin, &after, now));
                (after, Some(change), body, effects)
            }
        };
        let label = stored.id.to_string();
        let mut events = platform_events(envelope, plugin.name(), now, effects.events, &label);
        events.push(envelope.event(&scope, &format!("instance/{label}"), &body));
        let after = Some(record(plugin, &stored, stored.updated_at));
        Ok(Outcome { changes: change.into_iter().collect(), events, after })
    }

    /// Disables a plugin: its open processes end with an event that says so.
    pub(super) async fn remove_instance(&self, envelope: &Envelope, stored: Instance) -> Step<Outcome> {
        let now = self.now();
        let plugin = Arc::clone(self.registry.find(&stored.plugin)?);
        let instance = LoadedInstance::load(&plugin, stored)?;
        let stored = &instance.stored;
        let call = self.host.call(&instance, Self::request(envelope, None));
        let effects = self.lifecycle(envelope, plugin.disabled(call)).await?;
        let scope = envelope.scope(Some(plugin.name()), now);
        let label = stored.id.to_string();
        let mut outcome = Outcome {
            events: platform_events(envelope, plugin.name(), now, effects.events, &label),
            ..Outcome::default()
        };
        for process in self.store.open_processes(&stored.community, stored.id, None).await? {
            let detail = format!("'{}' was disabled while this process was open", plugin.name());
            let moved = abandon(&process, Problem::new(ProblemKind::PluginDisabled, detail), now);
            let kind = format!("abandoned/{}", process.record.id);
            outcome.events.extend(moved.event.map(|body| envelope.event(&scope, &kind, &body)));
            outcome.changes.push(moved.change);
        }
        outcome.changes.push(Change::DeleteInstance {
            id: stored.id,
            community: stored.community.clone(),
            expected: stored.version,
        });
        let body = EventBody::PluginDisabled(record(&plugin, stored, stored.updated_at));
        outcome.events.push(envelope.event(&scope, &format!("instance/{label}"), &body));
        Ok(outcome)
    }

    async fn lifecycle(&self, envelope: &Envelope, handling: metagov_sdk::Handling<()>) -> Step<Effects> {
        let finished = guarded(handling, self.deadline).await.into_finished();
        match finished.result {
            Ok(()) => Ok(finished.effects),
            Err(Error::Rejected(problem) | Error::Failed(problem)) => Err(Detour::Verdict(Verdict::Reject(problem))),
            Err(Error::Retry { after, problem }) => {
                Err(Detour::Verdict(self.again(envelope.attempt, after).unwrap_or(Verdict::Reject(problem))))
            }
        }
    }
}

fn loaded(stored: &Instance, config: &LoadedConfig) -> LoadedInstance {
    LoadedInstance { state: stored.state.clone().map(Arc::new), stored: stored.clone(), config: config.clone() }
}

/// The instance as drivers see it: secrets masked.
pub(super) fn record(plugin: &PluginDefinition, stored: &Instance, updated_at: Timestamp) -> InstanceRecord {
    InstanceRecord {
        id: stored.id,
        name: stored.plugin.clone(),
        community: stored.community.clone(),
        community_platform_id: stored.platform_id.clone(),
        config: plugin.mask_config(&stored.config),
        created_at: stored.created_at,
        updated_at,
    }
}

/// The same for every delivery of the command, different for each instance that it enables.
fn new_instance_id(envelope: &Envelope, plugin: &PluginDefinition, config: &LoadedConfig) -> Uuid {
    let platform_id = config.platform_id.as_deref().unwrap_or("");
    envelope.derive(&format!("instance/{}/{platform_id}", plugin.name()))
}
