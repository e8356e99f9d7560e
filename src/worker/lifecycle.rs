//! What happens to one plugin instance: enabled, reconfigured, disabled.
//!
//! Each step calls the plugin and gives the changes and events that come of it; whoever asked puts several of them into
//! one unit. A changed config keeps state and open processes; a disabled plugin leaves no open process behind. Up:
//! [`super::community`]. Down: the plugin, through [`super::guard`].

use std::sync::Arc;

use metagov_sdk::{
    Effects, Error, Finished, LoadedConfig, PluginDefinition,
    contract::{CommunitySlug, EventBody, InstanceRecord, Problem, ProblemKind},
};
use tracing::warn;
use uuid::Uuid;

use super::{
    envelope::Envelope,
    guard::guarded,
    handle::{Detour, Handlers, Step, platform_events},
    transition::abandon,
    verdict::Verdict,
};
use crate::{
    host::{LoadedInstance, Unloadable, owner},
    store::{Change, Instance, NewInstance, OutboxEvent},
    vault::{Owner, VaultError},
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
        let existing = match existing {
            Some(stored) => Some((self.before(envelope, plugin, &stored, &config)?, stored)),
            None => None,
        };
        let (stored, change, body, effects) = match existing {
            None => {
                let id = new_instance_id(envelope, plugin, &config);
                let owner = Owner { community, plugin: plugin.name(), instance: id };
                let stored = Instance {
                    id,
                    community: community.clone(),
                    plugin: plugin.name().clone(),
                    platform_id: config.platform_id.clone(),
                    config: self.host.seal(plugin, owner, &config)?,
                    state: None,
                    version: 1,
                    tick_every: plugin.tick_every(),
                    created_at: now,
                    updated_at: now,
                };
                let call = self.host.call(&loaded(&stored, &config), Self::request(envelope, None));
                let effects = self.lifecycle(envelope, plugin.enabled(call)).await?;
                let state = effects.state.clone();
                let body = EventBody::PluginEnabled(self.registry.show(&stored));
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
            Some((Before::Same, stored)) => {
                let body = EventBody::PluginUpdated(self.registry.show(&stored));
                (stored, None, body, Effects::default())
            }
            Some((before, stored)) => {
                let sealed = self.host.seal(plugin, owner(&stored), &config)?;
                let after = Instance { config: sealed, updated_at: now, ..stored };
                let call = self.host.call(&loaded(&after, &config), Self::request(envelope, None));
                // A config that the plugin no longer reads is as good as none: this one is its first.
                let handling = match before {
                    Before::Other(before) => plugin.config_changed(call, before),
                    Before::Same | Before::Unreadable => plugin.enabled(call),
                };
                let effects = self.lifecycle(envelope, handling).await?;
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
                let body = EventBody::PluginUpdated(self.registry.show(&after));
                (after, Some(change), body, effects)
            }
        };
        let label = stored.id.to_string();
        let mut events = platform_events(envelope, &scope, effects.events, &label);
        events.push(envelope.event(&scope, &format!("instance/{label}"), &body));
        let after = Some(self.registry.show(&stored));
        Ok(Outcome { changes: change.into_iter().collect(), events, after })
    }

    /// Disables a plugin: its open processes end with an event that says so.
    pub(super) async fn remove_instance(&self, envelope: &Envelope, stored: Instance) -> Step<Outcome> {
        let now = self.now();
        let (name, label) = (stored.plugin.clone(), stored.id.to_string());
        let scope = envelope.scope(Some(&name), now);
        let mut outcome = Outcome {
            events: platform_events(envelope, &scope, self.take_leave(envelope, &stored).await?.events, &label),
            ..Outcome::default()
        };
        for process in self.store.open_processes(&stored.community, stored.id, None).await? {
            let detail = format!("'{name}' was disabled while this process was open");
            let kind = format!("abandoned/{}", process.record.id);
            let scope = envelope.scope_of(&process, now);
            let (change, body) = abandon(process, Problem::new(ProblemKind::PluginDisabled, detail), now);
            outcome.events.push(envelope.event(&scope, &kind, &body));
            outcome.changes.push(change);
        }
        outcome.changes.push(Change::DeleteInstance {
            id: stored.id,
            community: stored.community.clone(),
            expected: stored.version,
        });
        let body = EventBody::PluginDisabled(self.registry.show(&stored));
        outcome.events.push(envelope.event(&scope, &format!("instance/{label}"), &body));
        Ok(outcome)
    }

    /// Lets the plugin take back what it set up, and goes on without where it cannot: a plugin that this build does not
    /// have, that no longer reads its old config, or that fails must not keep a community from getting rid of it.
    async fn take_leave(&self, envelope: &Envelope, stored: &Instance) -> Step<Effects> {
        let Some(plugin) = self.registry.get(stored.plugin.as_str()) else { return Ok(Effects::default()) };
        let left = match self.host.load(plugin, stored.clone()) {
            Ok(instance) => {
                let call = self.host.call(&instance, Self::request(envelope, None));
                guarded(envelope, plugin.disabled(call), self.deadline).await.into_finished()
            }
            Err(why) => Finished { result: Err(unreadable(why)), effects: Effects::default() },
        };
        if let Err(Error::Retry { after, problem }) = &left.result
            && let Some(later) = self.again(envelope.attempt, *after, problem)
        {
            return Err(Detour::Verdict(later));
        }
        if let Err(error) = left.result {
            warn!(error = %error.problem(), "the plugin is disabled all the same");
        }
        Ok(left.effects)
    }

    /// How the config that an instance has stands to the one that is wanted.
    fn before(
        &self,
        envelope: &Envelope,
        plugin: &PluginDefinition,
        stored: &Instance,
        wanted: &LoadedConfig,
    ) -> Step<Before> {
        if self.host.has_config(stored, wanted) == Ok(true) {
            return Ok(Before::Same);
        }
        match self.host.load(plugin, stored.clone()) {
            Ok(instance) => Ok(Before::Other(instance.config)),
            // Another worker may have the key, and another attempt may find it; but a key that is lost must not keep a
            // community from giving its plugin a new config.
            Err(why) => match unreadable(why) {
                Error::Retry { after, problem } => match self.again(envelope.attempt, after, &problem) {
                    Some(later) => Err(Detour::Verdict(later)),
                    None => Ok(Before::Unreadable),
                },
                Error::Rejected(_) | Error::Failed(_) => Ok(Before::Unreadable),
            },
        }
    }

    /// Refuses, before any plugin is called, what could not be stored afterwards: a config with secrets that are not to
    /// be had in the clear.
    pub(super) fn can_seal(
        &self,
        plugin: &PluginDefinition,
        config: &LoadedConfig,
        existing: Option<&Instance>,
    ) -> Step<()> {
        match self.host.vault().can_seal(plugin, &config.value) {
            // What stays as it is is not stored.
            Err(error) if existing.is_none_or(|stored| self.host.has_config(stored, config) != Ok(true)) => {
                Err(error.into())
            }
            _ => Ok(()),
        }
    }

    async fn lifecycle(&self, envelope: &Envelope, handling: metagov_sdk::Handling<()>) -> Step<Effects> {
        let finished = guarded(envelope, handling, self.deadline).await.into_finished();
        match finished.result {
            Ok(()) => Ok(finished.effects),
            Err(Error::Rejected(problem) | Error::Failed(problem)) => Err(Detour::Verdict(Verdict::Reject(problem))),
            Err(Error::Retry { after, problem }) => {
                let later = self.again(envelope.attempt, after, &problem);
                Err(Detour::Verdict(later.unwrap_or(Verdict::Reject(problem))))
            }
        }
    }
}

/// A stored config beside the one that is wanted.
enum Before {
    /// It says the same.
    Same,
    /// It says something else.
    Other(LoadedConfig),
    /// The plugin no longer reads it, or nobody opens it.
    Unreadable,
}

/// Why a stored config cannot be used, as an error of its plugin: a key may still come, all else stays as it is.
fn unreadable(why: Unloadable) -> Error {
    match why {
        Unloadable::Config(problem) => Error::Failed(problem),
        Unloadable::Sealed(error) => {
            let problem = Problem::new(ProblemKind::InternalError, error.to_string());
            let lost = matches!(error, VaultError::Damaged { .. });
            if lost { Error::Failed(problem.into()) } else { Error::Retry { after: None, problem: problem.into() } }
        }
    }
}

fn loaded(stored: &Instance, config: &LoadedConfig) -> LoadedInstance {
    LoadedInstance { state: stored.state.clone().map(Arc::new), stored: stored.clone(), config: config.clone() }
}

/// The same for every delivery of the command, different for each instance that it enables.
fn new_instance_id(envelope: &Envelope, plugin: &PluginDefinition, config: &LoadedConfig) -> Uuid {
    let platform_id = config.platform_id.as_deref().unwrap_or("");
    envelope.derive(&format!("instance/{}/{platform_id}", plugin.name()))
}
