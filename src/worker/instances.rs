//! Plugin instances at hand: read from the database once, not for each command.
//!
//! A cached instance may be out of date, for another worker may have changed it. So whoever acts on one says which
//! version it saw, and the commit refuses what was seen too early; the command then runs again on a fresh read. Only
//! actions that may run twice use the cache. Up: the handlers. Down: `src/store`.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use metagov_sdk::{
    PluginDefinition,
    contract::{CommunitySlug, Name, Problem, ProblemKind},
};

use crate::{
    host::LoadedInstance,
    store::{Store, StoreError},
};

/// More entries than this are not kept; a worker with more busy communities reads more often.
const MOST_CACHED: usize = 20_000;

type Found = Arc<[Arc<LoadedInstance>]>;

/// The instances of this worker's plugins.
#[derive(Debug)]
pub(super) struct Instances {
    store: Store,
    cache: RwLock<HashMap<(CommunitySlug, Name), Found>>,
}

/// Why there is no instance to call.
#[derive(Debug)]
pub(super) enum NoInstance {
    /// The driver's fault, told to it.
    Problem(Box<Problem>),
    /// The database's trouble.
    Store(StoreError),
}

impl From<StoreError> for NoInstance {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Instances {
    /// Nothing cached yet.
    #[must_use]
    pub(super) fn new(store: Store) -> Self {
        Self { store, cache: RwLock::default() }
    }

    /// The one instance that a command means, possibly from the cache.
    ///
    /// # Errors
    /// `unknown-community`, `plugin-not-enabled`, `ambiguous-instance`, or the database's trouble.
    pub(super) async fn cached(
        &self,
        definition: &PluginDefinition,
        community: &CommunitySlug,
        platform_id: Option<&str>,
    ) -> Result<Arc<LoadedInstance>, NoInstance> {
        let key = (community.clone(), definition.name().clone());
        let hit = self.cache.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        match hit {
            // Only a hit is answered from the cache: that something is missing is always read afresh.
            Some(found) => match choose(&found, definition.name(), platform_id) {
                Ok(instance) => Ok(instance),
                Err(_) => self.fresh(definition, community, platform_id).await,
            },
            None => self.fresh(definition, community, platform_id).await,
        }
    }

    /// The one instance that a command means, as the database has it now.
    ///
    /// # Errors
    /// As [`Self::cached`].
    pub(super) async fn fresh(
        &self,
        definition: &PluginDefinition,
        community: &CommunitySlug,
        platform_id: Option<&str>,
    ) -> Result<Arc<LoadedInstance>, NoInstance> {
        let found = self.all(definition, community).await?;
        if found.is_empty() && self.store.community(community).await?.is_none() {
            return Err(NoInstance::Problem(Box::new(unknown_community(community))));
        }
        choose(&found, definition.name(), platform_id).map_err(|problem| NoInstance::Problem(Box::new(problem)))
    }

    /// Every instance of the plugin in the community, as the database has it now.
    ///
    /// # Errors
    /// `invalid-config` where a stored config no longer fits the plugin, or the database's trouble.
    pub(super) async fn all(
        &self,
        definition: &PluginDefinition,
        community: &CommunitySlug,
    ) -> Result<Found, NoInstance> {
        let stored = self.store.instances_of(community, definition.name()).await?;
        let found: Found = stored
            .into_iter()
            .map(|stored| LoadedInstance::load(definition, stored).map(Arc::new))
            .collect::<Result<_, _>>()
            .map_err(|problem| NoInstance::Problem(Box::new(problem)))?;
        let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= MOST_CACHED {
            cache.clear();
        }
        cache.insert((community.clone(), definition.name().clone()), Arc::clone(&found));
        Ok(found)
    }

    /// Forgets what was cached of a community: somebody was found to have changed it.
    pub(super) fn forget(&self, community: &CommunitySlug) {
        self.cache.write().unwrap_or_else(PoisonError::into_inner).retain(|(slug, _), _| slug != community);
    }
}

/// The problem of a community that is not there. Others' slugs are never suggested.
#[must_use]
pub(super) fn unknown_community(community: &CommunitySlug) -> Problem {
    let detail = format!("there is no community '{community}'; create it with community.apply");
    Problem::new(ProblemKind::UnknownCommunity, detail)
}

fn choose(found: &Found, plugin: &Name, platform_id: Option<&str>) -> Result<Arc<LoadedInstance>, Problem> {
    let mut candidates =
        found.iter().filter(|instance| platform_id.is_none_or(|id| instance.stored.platform_id.as_deref() == Some(id)));
    let Some(first) = candidates.next() else {
        let which = if platform_id.is_some() { " with this community_platform_id" } else { "" };
        let detail = format!("'{plugin}' is not enabled here{which}; enable it with plugin.{plugin}.enable");
        return Err(Problem::new(ProblemKind::PluginNotEnabled, detail));
    };
    if candidates.next().is_some() {
        let detail = format!("several instances of '{plugin}' are enabled; name one with community_platform_id");
        return Err(Problem::new(ProblemKind::AmbiguousInstance, detail));
    }
    Ok(Arc::clone(first))
}
