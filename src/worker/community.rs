//! Communities and the set of their plugins.
//!
//! Each command here is one unit: either the community and all its plugins are as asked, or nothing has changed and the
//! driver is told why. Up: [`super::handle`]. Down: [`super::lifecycle`], one plugin at a time.

use std::{collections::HashSet, sync::Arc};

use metagov_sdk::{
    LoadedConfig, PluginDefinition,
    contract::{
        Community, CommunityApply, CommunityDelete, CommunitySlug, EventBody, InstanceRecord, Name, PluginConfig,
        PluginDisable, PluginEnable, Problem, ProblemKind,
    },
};
use serde_json::Value;

use super::{
    envelope::Envelope,
    handle::{Handlers, Step},
    instances::unknown_community,
    lifecycle::Outcome,
    process::unit,
    verdict::Verdict,
};
use crate::store::{Change, Instance, OutboxEvent, StoredCommunity};

/// A plugin that a community wants, checked.
struct Wanted {
    plugin: Arc<PluginDefinition>,
    config: LoadedConfig,
}

impl Wanted {
    fn is(&self, stored: &Instance) -> bool {
        stored.plugin == *self.plugin.name() && stored.platform_id == self.config.platform_id
    }
}

impl Handlers {
    pub(super) async fn apply_community(&self, envelope: &Envelope, body: CommunityApply) -> Step {
        self.must_have(body.plugins.iter().flatten().map(|plugin| &plugin.name))?;
        let wanted = body.plugins.map(|plugins| self.wanted(plugins)).transpose()?;
        self.unless_seen(envelope).await?;
        let existing = self.store.community(&body.slug).await?;
        let stored = self.store.instances(&body.slug).await?;
        if wanted.is_some() {
            self.must_have(stored.iter().map(|stored| &stored.plugin))?;
        }
        let readable_name = body.readable_name.or_else(|| existing.as_ref()?.readable_name.clone());
        let mut changes = vec![match &existing {
            None => Change::InsertCommunity { slug: body.slug.clone(), readable_name: readable_name.clone() },
            Some(community) => Change::UpdateCommunity {
                slug: body.slug.clone(),
                readable_name: readable_name.clone(),
                expected: community.version,
            },
        }];
        let mut events = Vec::new();
        let plugins = match wanted {
            None => self.shown(&stored),
            Some(wanted) => self.make_so(envelope, &body.slug, wanted, stored, &mut changes, &mut events).await?,
        };
        let community = Community { slug: body.slug, readable_name, plugins };
        let scope = envelope.scope(None, self.now());
        events.push(envelope.last_event(&scope, "community", &EventBody::CommunityApplied(community)));
        Ok(Verdict::commit(unit(envelope, None, changes, events)))
    }

    pub(super) async fn delete_community(&self, envelope: &Envelope, body: CommunityDelete) -> Step {
        self.unless_seen(envelope).await?;
        self.existing(&body.slug).await?;
        self.must_have(self.store.instances(&body.slug).await?.iter().map(|stored| &stored.plugin))?;
        // However long it takes: what follows is one small unit, on the state as it is then.
        self.store.clear_history(&body.slug).await?;
        let existing = self.existing(&body.slug).await?;
        let stored = self.store.instances(&body.slug).await?;
        let plugins = self.shown(&stored);
        let (mut changes, mut events) = (Vec::new(), Vec::new());
        for instance in stored {
            add(self.remove_instance(envelope, instance).await?, &mut changes, &mut events);
        }
        changes.push(Change::DeleteCommunity { slug: body.slug.clone(), expected: existing.version });
        let community = Community { slug: body.slug, readable_name: existing.readable_name, plugins };
        let scope = envelope.scope(None, self.now());
        events.push(envelope.last_event(&scope, "community", &EventBody::CommunityDeleted(community)));
        Ok(Verdict::commit(unit(envelope, None, changes, events)))
    }

    pub(super) async fn enable_plugin(&self, envelope: &Envelope, plugin: &Name, body: PluginEnable) -> Step {
        let plugin = self.registry.find(plugin)?;
        let config = plugin.load_config(Value::Object(body.config), "/config")?;
        self.unless_seen(envelope).await?;
        let community = self.existing(&body.community).await?;
        let wanted = Wanted { plugin: Arc::clone(plugin), config };
        let stored = self.store.instances_of(&body.community, plugin.name()).await?;
        let existing = stored.into_iter().find(|stored| wanted.is(stored));
        let outcome = self.put_instance(envelope, plugin, &body.community, wanted.config, existing).await?;
        Ok(answered(envelope, community, outcome))
    }

    pub(super) async fn disable_plugin(&self, envelope: &Envelope, plugin: &Name, body: PluginDisable) -> Step {
        let plugin = self.registry.find(plugin)?;
        self.unless_seen(envelope).await?;
        let community = self.existing(&body.community).await?;
        let platform_id = body.community_platform_id.as_deref();
        let stored = self.instances.stored(plugin.name(), &body.community, platform_id).await?;
        let outcome = self.remove_instance(envelope, stored).await?;
        Ok(answered(envelope, community, outcome))
    }

    async fn existing(&self, slug: &CommunitySlug) -> Step<StoredCommunity> {
        Ok(self.store.community(slug).await?.ok_or_else(|| unknown_community(slug))?)
    }

    /// Checks every plugin that is asked for before any of them is called.
    fn wanted(&self, plugins: Vec<PluginConfig>) -> Result<Vec<Wanted>, Problem> {
        let mut seen = HashSet::new();
        let mut wanted = Vec::with_capacity(plugins.len());
        for (place, asked) in plugins.into_iter().enumerate() {
            let plugin = Arc::clone(self.registry.find(&asked.name)?);
            let config = plugin.load_config(Value::Object(asked.config), &format!("/plugins/{place}/config"))?;
            if !seen.insert((asked.name, config.platform_id.clone())) {
                let detail = format!("/plugins/{place} repeats a plugin for the same community_platform_id");
                return Err(Problem::new(ProblemKind::InvalidCommand, detail));
            }
            wanted.push(Wanted { plugin, config });
        }
        Ok(wanted)
    }

    /// Makes the set of plugins exactly so: first what goes, then what stays or comes.
    async fn make_so(
        &self,
        envelope: &Envelope,
        slug: &CommunitySlug,
        wanted: Vec<Wanted>,
        stored: Vec<Instance>,
        changes: &mut Vec<Change>,
        events: &mut Vec<OutboxEvent>,
    ) -> Step<Vec<InstanceRecord>> {
        let (mut stays, goes): (Vec<_>, Vec<_>) =
            stored.into_iter().partition(|stored| wanted.iter().any(|wanted| wanted.is(stored)));
        for wanted in &wanted {
            self.can_seal(&wanted.plugin, &wanted.config, stays.iter().find(|stored| wanted.is(stored)))?;
        }
        for instance in goes {
            add(self.remove_instance(envelope, instance).await?, changes, events);
        }
        let mut after = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let place = stays.iter().position(|stored| wanted.is(stored));
            let existing = place.map(|place| stays.swap_remove(place));
            let mut outcome = self.put_instance(envelope, &wanted.plugin, slug, wanted.config, existing).await?;
            after.extend(outcome.after.take());
            // The community's own event tells of plugins that stay as they are.
            if !outcome.changes.is_empty() {
                add(outcome, changes, events);
            }
        }
        after.sort_by(|a, b| (&a.name, &a.community_platform_id).cmp(&(&b.name, &b.community_platform_id)));
        Ok(after)
    }

    fn shown(&self, stored: &[Instance]) -> Vec<InstanceRecord> {
        stored.iter().map(|stored| self.registry.show(stored)).collect()
    }
}

fn add(outcome: Outcome, changes: &mut Vec<Change>, events: &mut Vec<OutboxEvent>) {
    changes.extend(outcome.changes);
    events.extend(outcome.events);
}

/// The unit of a command about one plugin: its last event is the answer. The community's version is the lock on the set
/// of its plugins: whoever makes the set so, or deletes it, finds out that it has changed meanwhile.
fn answered(envelope: &Envelope, community: StoredCommunity, outcome: Outcome) -> Verdict {
    let Outcome { mut changes, mut events, .. } = outcome;
    if let Some(last) = events.last_mut() {
        last.last = true;
    }
    if !changes.is_empty() {
        changes.push(Change::UpdateCommunity {
            slug: community.slug,
            readable_name: community.readable_name,
            expected: community.version,
        });
    }
    Verdict::commit(unit(envelope, None, changes, events))
}
