//! What is stored and shown: communities, plugin instances, governance processes.
//!
//! These are the shapes of the records *on the wire*; how they are stored is the business of `src/store`. Up:
//! [`super::command`], which asks for changes. Down: [`super::event`], which reports them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{CommunitySlug, Name, Problem, Timestamp, json::anything};

/// Who asked, in the words of an identity provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Initiator {
    /// The user's id at the provider.
    pub user_id: String,
    /// The provider, such as `slack` or `github`.
    pub provider: String,
    /// Whatever else the driver wants to find again in the outcome.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// A community and the plugins that are enabled in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Community {
    /// Its address.
    pub slug: CommunitySlug,
    /// Its name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readable_name: Option<String>,
    /// The enabled plugins, secrets masked, by name and platform id.
    pub plugins: Vec<InstanceRecord>,
}

/// A plugin instance: a plugin that is enabled in one community with one config.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceRecord {
    /// The instance's own id.
    pub id: Uuid,
    /// The plugin.
    pub name: Name,
    /// The community it is enabled in.
    pub community: CommunitySlug,
    /// The platform's own id of the community (a Slack team, a GitHub organisation), where the plugin has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub community_platform_id: Option<String>,
    /// The config, defaults filled in, secrets masked.
    #[schemars(schema_with = "anything")]
    pub config: Value,
    /// When it was enabled.
    pub created_at: Timestamp,
    /// When its config was last changed.
    pub updated_at: Timestamp,
}

/// Where a governance process stands. Terminal records never change again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProcessStatus {
    /// Accepted, and its start is being tried.
    Created,
    /// Started, and open.
    Pending,
    /// Ended with an outcome.
    Completed,
    /// Ended without one.
    Failed,
}

impl ProcessStatus {
    /// Whether the record can never change again.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Pending => "pending",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }
}

/// A governance process as drivers see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessRecord {
    /// Its id: the driver's choice, else made from the command's `message_id`.
    pub id: Uuid,
    /// `<plugin>.<process>`.
    pub name: String,
    /// The community that decides.
    pub community: CommunitySlug,
    /// Which instance of the plugin runs it, where the plugin tells instances apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub community_platform_id: Option<String>,
    /// Where it stands.
    pub status: ProcessStatus,
    /// Where people take part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What it was started with, defaults filled in.
    #[schemars(schema_with = "anything")]
    pub parameters: Value,
    /// The outcome so far; final once the status is `completed`. `null` before there is one.
    #[schemars(schema_with = "anything")]
    pub outcome: Value,
    /// What went wrong on the way without ending it; empty when all is well.
    pub errors: Vec<Problem>,
    /// Why it failed, once the status is `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<Initiator>,
    /// Where the driver wants to be called back, kept for the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback_url: Option<String>,
    /// Counts the changes of this record from 1; the `sequence` of its events.
    #[schemars(range(min = 1, max = 9_007_199_254_740_991_i64))]
    pub version: i64,
    /// When it was started.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it will be closed by the clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closes_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<Timestamp>,
}
