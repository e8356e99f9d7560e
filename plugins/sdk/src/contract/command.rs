//! Commands: what a driver, the gateway or the scheduler asks for.
//!
//! [`Command::decode`] turns routing key and body into a typed command or into the [`Problem`] that the driver is
//! answered with; it looks neither at plugins nor at the database. Up: the consumer in `src/bus`. Down: `src/worker`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{CommandKey, CommunitySlug, Initiator, Name, Problem, ProblemKind, Timestamp, json, schemas};

/// Body of `community.apply`: creates the community or updates it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommunityApply {
    /// The community's address.
    pub slug: CommunitySlug,
    /// Its name for people; absent leaves it as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readable_name: Option<String>,
    /// Absent leaves the plugins alone; present makes the set exactly so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugins: Option<Vec<PluginConfig>>,
}

/// One plugin of `community.apply`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PluginConfig {
    /// The plugin.
    pub name: Name,
    /// Its config, as the plugin's config schema wants it.
    pub config: Map<String, Value>,
}

/// Body of `community.delete`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommunityDelete {
    /// The community's address.
    pub slug: CommunitySlug,
}

/// Body of `plugin.<plugin>.enable`: enables, or updates the config in place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PluginEnable {
    /// The community.
    pub community: CommunitySlug,
    /// The config, as the plugin's config schema wants it.
    pub config: Map<String, Value>,
}

/// Body of `plugin.<plugin>.disable`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PluginDisable {
    /// The community.
    pub community: CommunitySlug,
    /// Which instance, where several are enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub community_platform_id: Option<String>,
}

/// Body of `action.<plugin>.<action>`: one call with one outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActionCommand {
    /// The community.
    pub community: CommunitySlug,
    /// Which instance, where several are enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub community_platform_id: Option<String>,
    /// The parameters, as the action's schema wants them.
    pub parameters: Map<String, Value>,
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<Initiator>,
}

/// Body of `process.<plugin>.<process>.start`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessStart {
    /// The community.
    pub community: CommunitySlug,
    /// Which instance, where several are enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub community_platform_id: Option<String>,
    /// The parameters, as the process's schema wants them.
    pub parameters: Map<String, Value>,
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<Initiator>,
    /// Where the driver wants to be called back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback_url: Option<String>,
    /// An id of the driver's choice; without it one is made from the `message_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_id: Option<Uuid>,
}

/// Body of `process.<plugin>.<process>.close`: end it now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessClose {
    /// The community.
    pub community: CommunitySlug,
    /// The process.
    pub process_id: Uuid,
}

/// Body of `webhook.<plugin>`: an HTTP request of the platform, as the gateway received it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookCommand {
    /// The community that the address names; absent for a hook of the whole platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub community: Option<CommunitySlug>,
    /// The platform's id of the community, where the address or the body names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub community_platform_id: Option<String>,
    /// The platform's own id of this delivery; a repeated one has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery_id: Option<String>,
    /// When the gateway received it.
    pub received_at: Timestamp,
    /// The request itself.
    pub request: HttpRequest,
}

/// An HTTP request, its body as the very bytes that were signed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpRequest {
    /// `POST`, mostly.
    pub method: String,
    /// The path of the address.
    pub path: String,
    /// The query string without its question mark; may be empty.
    #[serde(default)]
    pub query: String,
    /// The headers in their order, each as name and value; names as they came.
    #[schemars(schema_with = "pairs_of_texts")]
    pub headers: Vec<(String, String)>,
    /// The raw body in base64 (RFC 4648, with padding).
    #[schemars(extend("contentEncoding" = "base64"))]
    pub body_base64: String,
}

/// Pairs, said so that readers of every dialect of JSON Schema understand it.
fn pairs_of_texts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": { "type": "array", "items": { "type": "string" }, "minItems": 2, "maxItems": 2 }
    })
}

/// Body of `poll.<plugin>.<process>`, from the scheduler: look at this open process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Poll {
    /// The community.
    pub community: CommunitySlug,
    /// The process.
    pub process_id: Uuid,
    /// When it was due, by the database's clock.
    pub due_at: Timestamp,
}

/// Body of `tick.<plugin>`, from the scheduler: ask the platform for news.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tick {
    /// The community.
    pub community: CommunitySlug,
    /// The plugin instance.
    pub instance_id: Uuid,
    /// When it was due, by the database's clock.
    pub due_at: Timestamp,
}

/// A command that has been read: what its routing key asks for, and its body.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// `community.apply`
    CommunityApply(CommunityApply),
    /// `community.delete`
    CommunityDelete(CommunityDelete),
    /// `plugin.<plugin>.enable`
    PluginEnable(Name, PluginEnable),
    /// `plugin.<plugin>.disable`
    PluginDisable(Name, PluginDisable),
    /// `action.<plugin>.<action>`
    Action(Name, Name, ActionCommand),
    /// `process.<plugin>.<process>.start`
    ProcessStart(Name, Name, ProcessStart),
    /// `process.<plugin>.<process>.close`
    ProcessClose(Name, Name, ProcessClose),
    /// `webhook.<plugin>`
    Webhook(Name, WebhookCommand),
    /// `poll.<plugin>.<process>`
    Poll(Name, Name, Poll),
    /// `tick.<plugin>`
    Tick(Name, Tick),
}

/// A command that cannot be read, with as much of its address as could be found for the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Undecodable {
    /// Why.
    pub problem: Problem,
    /// The community that it names, where it names one that is well-formed.
    pub community: Option<CommunitySlug>,
    /// The plugin of its routing key, where there is one.
    pub plugin: Option<Name>,
}

impl Command {
    /// Reads a command: routing key, strict JSON, the published schema of the body, then the type.
    ///
    /// # Errors
    /// [`Undecodable`] with `unknown-command`, `invalid-json` or `invalid-command`.
    pub fn decode(routing_key: &str, body: &[u8]) -> Result<Self, Box<Undecodable>> {
        let key = CommandKey::parse(routing_key);
        let plugin = key.as_ref().and_then(CommandKey::plugin).cloned();
        let value =
            json::parse(body).map_err(|problem| Undecodable { problem, community: None, plugin: plugin.clone() })?;
        let community = ["community", "slug"]
            .iter()
            .find_map(|member| value.get(member)?.as_str())
            .and_then(|slug| CommunitySlug::new(slug).ok());
        let refuse = |problem| Undecodable { problem, community, plugin };
        let Some(key) = key else {
            let detail = "no command has this routing key; those that exist are community.apply, community.delete, \
                          plugin.<plugin>.enable, plugin.<plugin>.disable, action.<plugin>.<action>, \
                          process.<plugin>.<process>.start and process.<plugin>.<process>.close";
            return Err(Box::new(refuse(Problem::new(ProblemKind::UnknownCommand, detail))));
        };
        Self::typed(key, value).map_err(|problem| Box::new(refuse(problem)))
    }

    fn typed(key: CommandKey, value: Value) -> Result<Self, Problem> {
        Ok(match key {
            CommandKey::CommunityApply => Self::CommunityApply(schemas::read(value)?),
            CommandKey::CommunityDelete => Self::CommunityDelete(schemas::read(value)?),
            CommandKey::PluginEnable(plugin) => Self::PluginEnable(plugin, schemas::read(value)?),
            CommandKey::PluginDisable(plugin) => Self::PluginDisable(plugin, schemas::read(value)?),
            CommandKey::Action(plugin, action) => Self::Action(plugin, action, schemas::read(value)?),
            CommandKey::ProcessStart(plugin, process) => Self::ProcessStart(plugin, process, schemas::read(value)?),
            CommandKey::ProcessClose(plugin, process) => Self::ProcessClose(plugin, process, schemas::read(value)?),
            CommandKey::Webhook(plugin) => Self::Webhook(plugin, schemas::read(value)?),
            CommandKey::Poll(plugin, process) => Self::Poll(plugin, process, schemas::read(value)?),
            CommandKey::Tick(plugin) => Self::Tick(plugin, schemas::read(value)?),
        })
    }

    /// The routing key that this command is published under.
    #[must_use]
    pub fn key(&self) -> CommandKey {
        match self {
            Self::CommunityApply(_) => CommandKey::CommunityApply,
            Self::CommunityDelete(_) => CommandKey::CommunityDelete,
            Self::PluginEnable(plugin, _) => CommandKey::PluginEnable(plugin.clone()),
            Self::PluginDisable(plugin, _) => CommandKey::PluginDisable(plugin.clone()),
            Self::Action(plugin, action, _) => CommandKey::Action(plugin.clone(), action.clone()),
            Self::ProcessStart(plugin, process, _) => CommandKey::ProcessStart(plugin.clone(), process.clone()),
            Self::ProcessClose(plugin, process, _) => CommandKey::ProcessClose(plugin.clone(), process.clone()),
            Self::Webhook(plugin, _) => CommandKey::Webhook(plugin.clone()),
            Self::Poll(plugin, process, _) => CommandKey::Poll(plugin.clone(), process.clone()),
            Self::Tick(plugin, _) => CommandKey::Tick(plugin.clone()),
        }
    }

    /// The body as it goes over the wire.
    ///
    /// # Panics
    /// Never: every body is plain data with string keys.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        match self {
            Self::CommunityApply(body) => serde_json::to_vec(body),
            Self::CommunityDelete(body) => serde_json::to_vec(body),
            Self::PluginEnable(_, body) => serde_json::to_vec(body),
            Self::PluginDisable(_, body) => serde_json::to_vec(body),
            Self::Action(_, _, body) => serde_json::to_vec(body),
            Self::ProcessStart(_, _, body) => serde_json::to_vec(body),
            Self::ProcessClose(_, _, body) => serde_json::to_vec(body),
            Self::Webhook(_, body) => serde_json::to_vec(body),
            Self::Poll(_, _, body) => serde_json::to_vec(body),
            Self::Tick(_, body) => serde_json::to_vec(body),
        }
        .expect("a command body is plain data with string keys")
    }

    /// The community that the command is about; a platform-wide webhook names none.
    #[must_use]
    pub fn community(&self) -> Option<&CommunitySlug> {
        match self {
            Self::CommunityApply(body) => Some(&body.slug),
            Self::CommunityDelete(body) => Some(&body.slug),
            Self::PluginEnable(_, body) => Some(&body.community),
            Self::PluginDisable(_, body) => Some(&body.community),
            Self::Action(_, _, body) => Some(&body.community),
            Self::ProcessStart(_, _, body) => Some(&body.community),
            Self::ProcessClose(_, _, body) => Some(&body.community),
            Self::Webhook(_, body) => body.community.as_ref(),
            Self::Poll(_, _, body) => Some(&body.community),
            Self::Tick(_, body) => Some(&body.community),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_reads_back_as_it_was_written() {
        let body =
            br#"{"community":"acme","parameters":{"low":1,"high":7},"initiator":{"user_id":"U1","provider":"slack"}}"#;
        let command = Command::decode("action.randomness.random-int", body).expect("it is in the contract");
        assert_eq!(command.key().to_string(), "action.randomness.random-int");
        assert_eq!(Command::decode("action.randomness.random-int", &command.body()), Ok(command));
    }

    #[test]
    fn every_violation_of_the_envelope_is_named_at_once() {
        let body = br#"{"community":"Acme!","parameters":[],"surprise":1}"#;
        let refused = Command::decode("action.randomness.random-int", body).expect_err("three things are wrong");
        assert_eq!(refused.problem.kind, ProblemKind::InvalidCommand);
        let pointers: Vec<_> = refused.problem.errors.iter().map(|error| error.pointer.as_str()).collect();
        assert!(pointers.contains(&"/community") && pointers.contains(&"/parameters"), "{pointers:?}");
        assert!(refused.problem.errors.iter().any(|error| error.message.contains("surprise")), "{refused:?}");
        assert_eq!(refused.plugin.expect("the routing key names it").as_str(), "randomness");
    }

    #[test]
    fn an_unknown_routing_key_is_refused_with_the_community_it_names() {
        let refused = Command::decode("action.x", br#"{"community":"acme"}"#).expect_err("no such command");
        assert_eq!(refused.problem.kind, ProblemKind::UnknownCommand);
        assert_eq!(refused.community.expect("it is well-formed").as_str(), "acme");
    }
}
