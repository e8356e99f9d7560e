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

use super::lookups::Lookups;
use crate::{
    host::{Host, LoadedInstance, Unloadable},
    store::{Instance, Store, StoreError},
};

/// More entries than this are not kept; a worker with more busy communities reads more often.
const MOST_CACHED: usize = 20_000;

/// Community, plugin and the platform id that a command names.
type Key = (CommunitySlug, Name, Option<String>);

/// The instances of this worker's plugins.
pub(super) struct Instances {
    store: Store,
    lookups: Arc<Lookups>,
    host: Host,
    cache: RwLock<HashMap<Key, Arc<LoadedInstance>>>,
}

/// Why there is no instance to call.
#[derive(Debug)]
pub(super) enum NoInstance {
    /// The driver's fault, told to it.
    Problem(Box<Problem>),
    /// It is there and cannot be called.
    Unloadable(Unloadable),
    /// The database's trouble.
    Store(StoreError),
}

impl From<Unloadable> for NoInstance {
    fn from(why: Unloadable) -> Self {
        Self::Unloadable(why)
    }
}

impl From<StoreError> for NoInstance {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Problem> for NoInstance {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl Instances {
    /// Nothing cached yet.
    #[must_use]
    pub(super) fn new(store: Store, lookups: Arc<Lookups>, host: Host) -> Self {
        Self { store, lookups, host, cache: RwLock::default() }
    }

    /// The one instance that a command means, possibly from the cache. That something is missing is always read afresh.
    ///
    /// # Errors
    /// `unknown-community`, `plugin-not-enabled`, `ambiguous-instance`, `invalid-config` where a stored config no longer
    /// fits the plugin, a config that does not open, or the database's trouble.
    pub(super) async fn cached(
        &self,
        definition: &PluginDefinition,
        community: &CommunitySlug,
        platform_id: Option<&str>,
    ) -> Result<Arc<LoadedInstance>, NoInstance> {
        let key = (community.clone(), definition.name().clone(), platform_id.map(str::to_owned));
        if let Some(instance) = self.hit(&key) {
            return Ok(instance);
        }
        let instance = self.fresh(definition, community, platform_id).await?;
        // Where the plugin tells instances apart and the command does not, a second one makes the command ambiguous.
        if instance.stored.platform_id.as_deref() == platform_id {
            let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
            if cache.len() >= MOST_CACHED {
                cache.clear();
            }
            cache.insert(key, Arc::clone(&instance));
        }
        Ok(instance)
    }

    fn hit(&self, key: &Key) -> Option<Arc<LoadedInstance>> {
        self.cache.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
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
        let stored = self.stored(definition.name(), community, platform_id).await?;
        let key = (community.clone(), definition.name().clone(), platform_id.map(str::to_owned));
        let hit = self.hit(&key).filter(|hit| (hit.stored.id, hit.stored.version) == (stored.id, stored.version));
        match hit {
            // The same version has the same config and state: it need not be opened once more.
            Some(instance) => Ok(instance),
            None => Ok(Arc::new(self.host.load(definition, stored)?)),
        }
    }

    /// The row of the one instance that a command means; its config may be one that the plugin no longer reads.
    ///
    /// # Errors
    /// As [`Self::cached`], but for `invalid-config`.
    pub(super) async fn stored(
        &self,
        plugin: &Name,
        community: &CommunitySlug,
        platform_id: Option<&str>,
    ) -> Result<Instance, NoInstance> {
        let found = self.lookups.instances_of(community, plugin).await?;
        if found.is_empty() && self.store.community(community).await?.is_none() {
            return Err(unknown_community(community).into());
        }
        Ok(choose(&found, plugin, platform_id)?)
    }

    /// Forgets what was cached of a community: somebody was found to have changed it.
    pub(super) fn forget(&self, community: &CommunitySlug) {
        self.cache.write().unwrap_or_else(PoisonError::into_inner).retain(|(slug, ..), _| slug != community);
    }
}

/// The problem of a community that is not there. Others' slugs are never suggested.
#[must_use]
pub(super) fn unknown_community(community: &CommunitySlug) -> Problem {
    let detail =
        format!("there is no community '{community}'; create it with community.apply (`metagov community apply`)");
    Problem::new(ProblemKind::UnknownCommunity, detail)
}

fn choose(found: &[Instance], plugin: &Name, platform_id: Option<&str>) -> Result<Instance, Problem> {
    let mut candidates =
        found.iter().filter(|instance| platform_id.is_none_or(|id| instance.platform_id.as_deref() == Some(id)));
    let Some(first) = candidates.next() else {
        let which = if platform_id.is_some() { " with this community_platform_id" } else { "" };
        let detail = format!(
            "'{plugin}' is not enabled here{which}; enable it with plugin.{plugin}.enable (`metagov plugin enable {plugin} -c …`)"
        );
        return Err(Problem::new(ProblemKind::PluginNotEnabled, detail));
    };
    if candidates.next().is_some() {
        let detail = format!("several instances of '{plugin}' are enabled; name one with community_platform_id");
        return Err(Problem::new(ProblemKind::AmbiguousInstance, detail));
    }
    Ok(first.clone())
}
