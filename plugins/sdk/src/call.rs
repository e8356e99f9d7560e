//! One call of a handler, from the service's side: what goes in and what comes out.
//!
//! These types are the seam between the service (and the test kit) and the definitions; authors of plugins see
//! [`crate::Cx`] in their place. Nothing here talks to a broker or a database. Up: `src/host`. Down:
//! [`crate::PluginDefinition`].

use std::{pin::Pin, sync::Arc, time::Duration};

use serde_json::Value;
use uuid::Uuid;

use crate::{
    Environment, Error, LoadedConfig, Progress, Steps,
    contract::{CommunitySlug, Initiator, PlatformEvent, Timestamp},
};

/// Everything a handler is told about the call.
#[derive(Debug, Clone)]
pub struct Call {
    /// The community on whose behalf it is.
    pub community: CommunitySlug,
    /// The platform's own id of the community, where the plugin has one.
    pub community_platform_id: Option<String>,
    /// The plugin instance.
    pub instance_id: Uuid,
    /// The instance's config, from [`crate::PluginDefinition::load_config`].
    pub config: LoadedConfig,
    /// What the plugin remembers for this instance; `None`: nothing yet.
    pub state: Option<Arc<Value>>,
    /// Who asked.
    pub initiator: Option<Initiator>,
    /// The same for every attempt at the same command.
    pub idempotency_key: Uuid,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Whether the plugin's state may be changed. Actions further narrow it by their effect.
    pub may_keep_state: bool,
    /// Where the results of finished steps are kept. Pure actions have none.
    pub steps: Steps,
    /// Time, randomness, HTTP.
    pub environment: Environment,
}

/// What a call did besides answering, to be stored together with the answer. Empty where the call failed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Effects {
    /// The plugin's new state, where it changed.
    pub state: Option<Value>,
    /// Events of the platform, in the order in which they were emitted.
    pub events: Vec<PlatformEvent>,
}

/// A call that has returned.
#[derive(Debug)]
pub struct Finished<T> {
    /// The answer.
    pub result: Result<T, Error>,
    /// What else it did.
    pub effects: Effects,
}

/// A call under way. Dropping it stops the handler where it waits.
pub type Handling<T> = Pin<Box<dyn Future<Output = Finished<T>> + Send>>;

/// A process between two calls: its state and what the service has to know of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// What is handed in at the next call.
    pub state: Value,
    /// When the service closes it.
    pub closes_at: Option<Timestamp>,
    /// How often it is polled; `None`: never.
    pub poll_every: Option<Duration>,
    /// What webhooks find it by.
    pub webhook_key: Option<String>,
}

/// A process that has been started. It may have ended at once.
#[derive(Debug, Clone, PartialEq)]
pub struct StartedProcess {
    /// What to keep.
    pub snapshot: Snapshot,
    /// Where people take part.
    pub url: Option<String>,
    /// How far it is.
    pub progress: Progress<Value>,
}

/// A process after a poll, a webhook or a close.
#[derive(Debug, Clone, PartialEq)]
pub struct SteppedProcess {
    /// What to keep.
    pub snapshot: Snapshot,
    /// How far it is.
    pub progress: Progress<Value>,
}
