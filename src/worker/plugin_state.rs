//! The state that a plugin keeps for an instance: who takes turns at it, and how it is written.
//!
//! Most handlers never change it, and those that do rarely meet. So a handler runs at once, and its change is compared and
//! set; once it has lost that race, or while others take turns at the instance, it takes its turn, too ([`super::serial`]).
//! Called by the commands whose handlers may change it.

use std::sync::Arc;

use metagov_sdk::{PluginDefinition, contract::CommunitySlug};
use serde_json::Value;

use super::{
    envelope::{Envelope, Run},
    handle::Handlers,
    instances::NoInstance,
    serial::{Handler, RowKey, Shared, Turn, state_change},
};
use crate::{host::LoadedInstance, store::Unit};

impl Handlers {
    /// The instance of a command, where others are changing the plugin's state as it may: it takes its turn there.
    pub(super) async fn contended_instance(
        &self,
        envelope: &Envelope,
        plugin: &PluginDefinition,
        community: &CommunitySlug,
        platform_id: Option<&str>,
        handler: &Handler,
    ) -> Option<RowKey> {
        if !self.serial.is_stateful(handler) {
            return None;
        }
        // Whatever is wrong with the instance is said where it is read to be used.
        let instance = self.instances.cached(plugin, community, platform_id).await.ok()?.stored.id;
        let row = RowKey::Instance(community.clone(), instance);
        self.takes_turns(envelope, &row, handler).then_some(row)
    }

    /// The one instance that a command means, as it is in its turn: as the command before has left it, or else as the
    /// database has it.
    pub(super) async fn instance_in_turn(
        &self,
        plugin: &PluginDefinition,
        community: &CommunitySlug,
        platform_id: Option<&str>,
        turn: Option<&Turn>,
    ) -> Result<Arc<LoadedInstance>, NoInstance> {
        match turn.and_then(Turn::latest_instance) {
            Some(instance) => Ok(instance),
            None => self.instances.fresh(plugin, community, platform_id).await,
        }
    }

    /// Whether a command takes turns with the others that change its plugin's state.
    pub(super) fn takes_turns(&self, envelope: &Envelope, instance: &RowKey, handler: &Handler) -> bool {
        self.serial.is_contended(instance, handler) || (envelope.run != Run::First && self.serial.is_stateful(handler))
    }

    /// Notes the plugin's new state: in the command's turn at the instance, or else to be compared and set.
    pub(super) fn keep_state(
        &self,
        handler: &Handler,
        instance: &LoadedInstance,
        state: Value,
        has_instance: bool,
        unit: &mut Unit,
        shared: &mut Shared,
    ) {
        self.serial.note_stateful(handler);
        let after = with_state(instance, state);
        if has_instance {
            shared.instance = Some(Arc::new(after));
        } else {
            unit.changes.push(state_change(&after, instance.stored.version));
        }
    }
}

/// An instance with the state that its plugin keeps from now on.
fn with_state(instance: &LoadedInstance, state: Value) -> LoadedInstance {
    let state = Some(Arc::new(state));
    LoadedInstance { state, ..instance.clone() }
}
