//! What a plugin may touch: the clock, random numbers, HTTP, its own config and state.
//!
//! The host turns a stored plugin instance into the [`Call`] that a handler sees. It hands out no broker and no
//! database. Up: `src/worker`, which knows the command. Down: the SDK's `Cx`, which shows the call to the author.

use std::sync::Arc;

use metagov_sdk::{
    Call, Environment, LoadedConfig, PluginDefinition, Steps,
    contract::{Initiator, Problem},
};
use serde_json::Value;
use uuid::Uuid;

use crate::store::Instance;

/// A plugin instance, ready to be called: its config is read once, not at each call.
#[derive(Debug, Clone)]
pub struct LoadedInstance {
    /// As it is stored; `version` tells whether it still is.
    pub stored: Instance,
    /// The config, checked and typed.
    pub config: LoadedConfig,
    /// The plugin's state, shared between the calls that read it.
    pub state: Option<Arc<Value>>,
}

impl LoadedInstance {
    /// Reads the stored config as the plugin's type.
    ///
    /// # Errors
    /// `invalid-config`, where the plugin's schema has become stricter than what was once stored.
    pub fn load(definition: &PluginDefinition, stored: Instance) -> Result<Self, Problem> {
        let config = definition.load_config(stored.config.clone(), "/config")?;
        let state = stored.state.clone().map(Arc::new);
        Ok(Self { stored, config, state })
    }
}

/// Who asks, and how a repetition is told: what differs from call to call.
#[derive(Debug, Clone)]
pub struct Request {
    /// Who asked.
    pub initiator: Option<Initiator>,
    /// The key that platforms are given, the same however often the command is delivered.
    pub idempotency_key: Uuid,
    /// How often the handler was called for this command, this time included.
    pub attempt: u32,
    /// Whether the handler may change the plugin's state; a `pure` action and an `unsafe` one may not.
    pub may_keep_state: bool,
    /// Where the handler's finished steps are kept.
    pub steps: Steps,
}

/// Hands out calls.
#[derive(Clone)]
pub struct Host {
    environment: Environment,
}

impl Host {
    /// A host over this clock, this randomness and this HTTP client.
    #[must_use]
    pub fn new(environment: Environment) -> Self {
        Self { environment }
    }

    /// The clock, random numbers and HTTP client of every call.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The call of a handler on behalf of this instance.
    #[must_use]
    pub fn call(&self, instance: &LoadedInstance, request: Request) -> Call {
        Call {
            community: instance.stored.community.clone(),
            community_platform_id: instance.stored.platform_id.clone(),
            instance_id: instance.stored.id,
            config: instance.config.clone(),
            state: instance.state.clone(),
            initiator: request.initiator,
            idempotency_key: request.idempotency_key,
            attempt: request.attempt,
            may_keep_state: request.may_keep_state,
            steps: request.steps,
            environment: self.environment.clone(),
        }
    }
}
