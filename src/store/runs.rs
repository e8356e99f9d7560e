//! Action runs: what was run, for whom, how often it was tried and how it ended.
//!
//! Runs are for people and for the command line; deduplication never reads them. Up: [`super::Unit`] carries one for
//! each action. Down: the table `action_runs`.

use metagov_sdk::contract::{CommunitySlug, MessageId, Name};
use serde_json::Value;
use uuid::Uuid;

/// An action that ran to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct ActionRun {
    /// The run's id; kept from the first attempt where there were several.
    pub id: Uuid,
    /// The community it ran for.
    pub community: CommunitySlug,
    /// The command's key.
    pub message_id: Option<MessageId>,
    /// The plugin.
    pub plugin: Name,
    /// The action.
    pub action: Name,
    /// How it may be repeated: `pure`, `idempotent`, `keyed` or `unsafe`.
    pub effect: &'static str,
    /// How it ended.
    pub status: RunStatus,
    /// How often it was tried.
    pub attempts: u32,
    /// The event that tells its outcome.
    pub event_id: Uuid,
    /// Who asked, in the words of an identity provider.
    pub initiator: Option<Value>,
}

/// How an action ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunStatus {
    /// With an output.
    Completed,
    /// With a problem.
    Failed,
    /// Nobody knows: its worker died after it may have acted.
    Uncertain,
}
