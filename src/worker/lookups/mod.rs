//! Lookups: what many commands ask the database at the same time is asked once.
//!
//! In a crowd each command asks the same: whether its key was seen, which instance it means, which processes are open. So
//! these questions are asked together ([`together`]). They read what is committed and remember nothing.
//!
//! Called by the handlers of commands. Calls `src/store`.

mod together;

use std::{collections::HashMap, sync::Arc};

use futures::{FutureExt as _, future::try_join_all};
use metagov_sdk::contract::{CommunitySlug, MessageId, Name};
use uuid::Uuid;

use self::together::Together;
use crate::store::{Instance, Seen, Store, StoreError};

/// The key of a command.
type Key = (CommunitySlug, MessageId);
/// A plugin in a community.
type Enabled = (CommunitySlug, Name);
/// A plugin instance, and the webhook key of its processes where one is meant.
type Concerned = (CommunitySlug, Uuid, Option<String>);

/// The questions that commands ask together.
pub(super) struct Lookups {
    seen: Together<Key, Seen>,
    instances: Together<Enabled, Arc<[Instance]>>,
    open_processes: Together<Concerned, Arc<[Uuid]>>,
}

impl Lookups {
    /// Questions for this database.
    pub(super) fn new(store: &Store) -> Self {
        let [of_keys, of_plugins, of_instances] = [store.clone(), store.clone(), store.clone()];
        Self {
            seen: Together::new(move |keys| {
                let store = of_keys.clone();
                async move { store.seen_of(&keys).await }.boxed()
            }),
            instances: Together::new(move |enabled| {
                let store = of_plugins.clone();
                each(enabled, move |(community, plugin): Enabled| {
                    let store = store.clone();
                    async move { Ok(store.instances_of(&community, &plugin).await?.into()) }
                })
                .boxed()
            }),
            open_processes: Together::new(move |concerned| {
                let store = of_instances.clone();
                each(concerned, move |(community, instance, key): Concerned| {
                    let store = store.clone();
                    async move { Ok(store.open_process_ids(&community, instance, key.as_deref()).await?.into()) }
                })
                .boxed()
            }),
        }
    }

    /// Whether this key was seen before.
    ///
    /// # Errors
    /// Of the database.
    pub(super) async fn seen(
        &self,
        community: &CommunitySlug,
        message_id: &MessageId,
    ) -> Result<Option<Seen>, StoreError> {
        self.seen.ask((community.clone(), message_id.clone())).await
    }

    /// The instances of one plugin in a community, by platform id.
    ///
    /// # Errors
    /// Of the database.
    pub(super) async fn instances_of(
        &self,
        community: &CommunitySlug,
        plugin: &Name,
    ) -> Result<Arc<[Instance]>, StoreError> {
        Ok(self.instances.ask((community.clone(), plugin.clone())).await?.unwrap_or_default())
    }

    /// The ids of the processes of an instance that have not ended, the oldest first; only those with this webhook key
    /// where one is given.
    ///
    /// # Errors
    /// Of the database.
    pub(super) async fn open_process_ids(
        &self,
        community: &CommunitySlug,
        instance: Uuid,
        webhook_key: Option<String>,
    ) -> Result<Arc<[Uuid]>, StoreError> {
        Ok(self.open_processes.ask((community.clone(), instance, webhook_key)).await?.unwrap_or_default())
    }
}

/// Asks each question by itself, all at the same time.
async fn each<Q, A, F>(questions: Vec<Q>, ask: impl Fn(Q) -> F) -> Result<HashMap<Q, A>, StoreError>
where
    Q: Eq + std::hash::Hash + Clone,
    F: Future<Output = Result<A, StoreError>>,
{
    let asked = questions.into_iter().map(|question| {
        let answer = ask(question.clone());
        async move { Ok::<_, StoreError>((question, answer.await?)) }
    });
    Ok(try_join_all(asked).await?.into_iter().collect())
}
