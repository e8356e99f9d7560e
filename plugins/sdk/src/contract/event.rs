//! Events: what happened, as `CloudEvents` 1.0 in structured JSON.
//!
//! An [`Event`] is built once, from an [`EventBody`] and the [`EventScope`] it happened in, is stored as it is and goes
//! over the wire as it was stored. Up: `src/worker`, where outcomes are known. Down: `src/store`, then `src/bus`.
//!
//! Sources: <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md> and the RabbitMQ
//! binding of knative's eventing-rabbitmq.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{
    Community, CommunitySlug, Initiator, InstanceRecord, MessageId, Name, Problem, ProcessRecord, ProcessStatus,
    Timestamp, json::anything, routing::safe_word,
};

/// The content type of an event's AMQP message.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

/// What the published schemas of `data` are named under.
pub const SCHEMA_BASE: &str = "https://metagov.org/schemas/v1/";

/// The namespace of derived ids: UUIDv5 of the URL namespace and `https://metagov.org/`.
const NAMESPACE: Uuid = Uuid::from_u128(0xd25c_08cf_a114_5629_8541_500b_eaa0_2dc1);

/// How the id of an event is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventId(pub Uuid);

impl EventId {
    /// The id of the event of this kind that this command causes: however often the command is delivered, it is the same.
    #[must_use]
    pub fn derive(community: Option<&CommunitySlug>, command: &MessageId, kind: &str) -> Self {
        Self(derive_uuid(&["event", community.map_or("_", CommunitySlug::as_str), command.as_str(), kind]))
    }
}

/// A UUIDv5 of some words; for everything that must come out the same on every delivery.
#[must_use]
pub fn derive_uuid(words: &[&str]) -> Uuid {
    Uuid::new_v5(&NAMESPACE, words.join("\n").as_bytes())
}

/// `data` of `action.completed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ActionCompleted {
    /// The action.
    pub action: Name,
    /// What it answered, as its output schema says.
    #[schemars(schema_with = "anything")]
    pub output: Value,
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<Initiator>,
    /// How often the handler was called, this time included.
    pub attempts: u32,
}

/// `data` of `action.failed` and `action.uncertain`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ActionFailed {
    /// The action.
    pub action: Name,
    /// Why.
    pub problem: Problem,
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<Initiator>,
    /// How often the handler was called.
    pub attempts: u32,
}

/// `data` of `platform.<plugin>.<event>`: something happened on the platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlatformEvent {
    /// The platform's own word for it.
    pub event_type: String,
    /// What the plugin tells about it.
    #[schemars(schema_with = "anything")]
    pub data: Value,
    /// Who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<Initiator>,
}

/// `data` of `command.rejected`: nothing was executed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CommandRejected {
    /// The routing key that the command came under.
    pub routing_key: String,
    /// Why.
    pub problem: Problem,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum EventBody {
    /// `action.completed`
    ActionCompleted(ActionCompleted),
    /// `action.failed`
    ActionFailed(ActionFailed),
    /// `action.uncertain`
    ActionUncertain(ActionFailed),
    /// `process.started`
    ProcessStarted(ProcessRecord),
    /// `process.updated`
    ProcessUpdated(ProcessRecord),
    /// `process.completed`
    ProcessCompleted(ProcessRecord),
    /// `process.failed`
    ProcessFailed(ProcessRecord),
    /// `platform.<plugin>.<event>`
    Platform(PlatformEvent),
    /// `plugin.enabled`
    PluginEnabled(InstanceRecord),
    /// `plugin.updated`
    PluginUpdated(InstanceRecord),
    /// `plugin.disabled`
    PluginDisabled(InstanceRecord),
    /// `community.applied`
    CommunityApplied(Community),
    /// `community.deleted`
    CommunityDeleted(Community),
    /// `command.rejected`
    CommandRejected(CommandRejected),
}

/// Where and why something happened: everything of an event but what happened.
#[derive(Debug, Clone, PartialEq)]
pub struct EventScope {
    /// The community; `None` where a rejected command named none.
    pub community: Option<CommunitySlug>,
    /// The plugin; `None` for events of the core.
    pub plugin: Option<Name>,
    /// The driver's `correlation_id`, its `message_id` where absent; for what happens to a process, of the command that started it.
    pub correlation_id: Option<String>,
    /// The `message_id` of the command that caused the event.
    pub causation_id: Option<String>,
    /// The trace that the event belongs to.
    pub traceparent: Option<String>,
    /// When it happened.
    pub time: Timestamp,
}

/// A `CloudEvents` 1.0 event, its members in the order of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Always `1.0`.
    pub specversion: String,
    /// UUIDv5 of the command and the kind of event.
    pub id: Uuid,
    /// `/communities/<slug>/plugins/<plugin>`, or `/communities/<slug>` for events of the core.
    pub source: String,
    /// `org.metagov.…`
    #[serde(rename = "type")]
    pub event_type: String,
    /// `<plugin>.<action>`, or the process id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When it happened.
    pub time: Timestamp,
    /// Always `application/json`.
    pub datacontenttype: String,
    /// The published schema of `data`.
    pub dataschema: String,
    /// The community's slug, for filters; `_` where a rejected command named none.
    pub community: String,
    /// The plugin, for filters; `core` for events of the core.
    pub plugin: String,
    /// The driver's `correlation_id`, its `message_id` where absent; for what happens to a process, of the command that started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlationid: Option<String>,
    /// The `message_id` of the command that caused the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causationid: Option<String>,
    /// For process events, the version of the record. An integer, so that it compares as one.
    #[schemars(range(min = 1, max = 9_007_199_254_740_991_i64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<i64>,
    /// W3C trace context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// What happened, in the shape that `dataschema` names.
    #[schemars(schema_with = "anything")]
    pub data: Value,
}

impl EventBody {
    /// The kind within its family, `completed` of `action.completed`: the last word of type and routing key.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ActionCompleted(_) => "action.completed",
            Self::ActionFailed(_) => "action.failed",
            Self::ActionUncertain(_) => "action.uncertain",
            Self::ProcessStarted(_) => "process.started",
            Self::ProcessUpdated(_) => "process.updated",
            Self::ProcessCompleted(_) => "process.completed",
            Self::ProcessFailed(_) => "process.failed",
            Self::Platform(_) => "platform",
            Self::PluginEnabled(_) => "plugin.enabled",
            Self::PluginUpdated(_) => "plugin.updated",
            Self::PluginDisabled(_) => "plugin.disabled",
            Self::CommunityApplied(_) => "community.applied",
            Self::CommunityDeleted(_) => "community.deleted",
            Self::CommandRejected(_) => "command.rejected",
        }
    }

    /// That a process has changed: it has ended, or it is open and has something new.
    #[must_use]
    pub fn process_changed(record: ProcessRecord) -> Self {
        match record.status {
            ProcessStatus::Completed => Self::ProcessCompleted(record),
            ProcessStatus::Failed => Self::ProcessFailed(record),
            ProcessStatus::Created | ProcessStatus::Pending => Self::ProcessUpdated(record),
        }
    }

    /// The process whose record this is, if it is one.
    #[must_use]
    pub fn process(&self) -> Option<&ProcessRecord> {
        match self {
            Self::ProcessStarted(record)
            | Self::ProcessUpdated(record)
            | Self::ProcessCompleted(record)
            | Self::ProcessFailed(record) => Some(record),
            _ => None,
        }
    }

    /// The name of the published schema of `data`.
    fn schema(&self) -> &'static str {
        match self {
            Self::ActionCompleted(_) => "action-completed",
            Self::ActionFailed(_) | Self::ActionUncertain(_) => "action-failed",
            Self::ProcessStarted(_) | Self::ProcessUpdated(_) | Self::ProcessCompleted(_) | Self::ProcessFailed(_) => {
                "process-record"
            }
            Self::Platform(_) => "platform-event",
            Self::PluginEnabled(_) | Self::PluginUpdated(_) | Self::PluginDisabled(_) => "plugin-instance",
            Self::CommunityApplied(_) | Self::CommunityDeleted(_) => "community",
            Self::CommandRejected(_) => "command-rejected",
        }
    }

    fn data(&self) -> Value {
        match self {
            Self::ActionCompleted(data) => serde_json::to_value(data),
            Self::ActionFailed(data) | Self::ActionUncertain(data) => serde_json::to_value(data),
            Self::ProcessStarted(data)
            | Self::ProcessUpdated(data)
            | Self::ProcessCompleted(data)
            | Self::ProcessFailed(data) => serde_json::to_value(data),
            Self::Platform(data) => serde_json::to_value(data),
            Self::PluginEnabled(data) | Self::PluginUpdated(data) | Self::PluginDisabled(data) => {
                serde_json::to_value(data)
            }
            Self::CommunityApplied(data) | Self::CommunityDeleted(data) => serde_json::to_value(data),
            Self::CommandRejected(data) => serde_json::to_value(data),
        }
        .expect("event data is plain data with string keys")
    }

    /// The routing key on `metagov.events`: `<community>.<plugin>.<family>.….<kind>`.
    #[must_use]
    pub fn routing_key(&self, scope: &EventScope) -> String {
        let community = scope.community.as_ref().map_or("_", CommunitySlug::as_str);
        let plugin = scope.plugin.as_ref().map_or("core", Name::as_str);
        let middle = match self {
            Self::ActionCompleted(data) => format!("action.{}.completed", data.action),
            Self::ActionFailed(data) => format!("action.{}.failed", data.action),
            Self::ActionUncertain(data) => format!("action.{}.uncertain", data.action),
            Self::ProcessStarted(record)
            | Self::ProcessUpdated(record)
            | Self::ProcessCompleted(record)
            | Self::ProcessFailed(record) => {
                let process = record.name.split_once('.').map_or(record.name.as_str(), |(_, process)| process);
                format!("process.{}.{}", safe_word(process), self.kind().trim_start_matches("process."))
            }
            Self::Platform(data) => format!("platform.{}", safe_word(&data.event_type)),
            Self::PluginEnabled(_)
            | Self::PluginUpdated(_)
            | Self::PluginDisabled(_)
            | Self::CommunityApplied(_)
            | Self::CommunityDeleted(_)
            | Self::CommandRejected(_) => self.kind().to_owned(),
        };
        format!("{community}.{plugin}.{middle}")
    }
}

impl Event {
    /// Puts an event together.
    ///
    /// # Panics
    /// Never: event data is plain data with string keys.
    #[must_use]
    pub fn new(id: EventId, scope: &EventScope, body: &EventBody) -> Self {
        let community = scope.community.as_ref().map_or("_", CommunitySlug::as_str);
        let plugin = scope.plugin.as_ref().map(Name::as_str);
        let subject = match body {
            EventBody::ActionCompleted(data) => Some(format!("{}.{}", plugin.unwrap_or("core"), data.action)),
            EventBody::ActionFailed(data) | EventBody::ActionUncertain(data) => {
                Some(format!("{}.{}", plugin.unwrap_or("core"), data.action))
            }
            _ => body.process().map(|record| record.id.to_string()),
        };
        let event_type = match body {
            EventBody::Platform(data) => {
                format!("org.metagov.platform.{}.{}", plugin.unwrap_or("core"), safe_word(&data.event_type))
            }
            _ => format!("org.metagov.{}", body.kind()),
        };
        Self {
            specversion: "1.0".to_owned(),
            id: id.0,
            source: plugin.map_or_else(
                || format!("/communities/{community}"),
                |plugin| format!("/communities/{community}/plugins/{plugin}"),
            ),
            event_type,
            subject,
            time: scope.time,
            datacontenttype: "application/json".to_owned(),
            dataschema: format!("{SCHEMA_BASE}{}.json", body.schema()),
            community: community.to_owned(),
            plugin: plugin.unwrap_or("core").to_owned(),
            correlationid: scope.correlation_id.clone(),
            causationid: scope.causation_id.clone(),
            sequence: body.process().map(|record| record.version),
            traceparent: scope.traceparent.clone(),
            data: body.data(),
        }
    }

    /// The event as it is stored and goes over the wire.
    ///
    /// # Panics
    /// Never: an event is plain data with string keys.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an event is plain data with string keys")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> EventScope {
        EventScope {
            community: Some(CommunitySlug::new("acme").expect("valid")),
            plugin: Some(Name::new("slack").expect("valid")),
            correlation_id: None,
            causation_id: None,
            traceparent: None,
            time: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn words_of_platforms_are_made_safe_in_key_and_type_but_kept_in_the_data() {
        let body = EventBody::Platform(PlatformEvent {
            event_type: "message.#/new".to_owned(),
            data: Value::Null,
            initiator: None,
        });
        assert_eq!(body.routing_key(&scope()), "acme.slack.platform.message___new");
        let id = EventId::derive(None, &MessageId::new("m").expect("valid"), "platform/0");
        let event = Event::new(id, &scope(), &body);
        assert_eq!(event.event_type, "org.metagov.platform.slack.message___new");
        assert_eq!(event.data["event_type"], "message.#/new");
    }

    #[test]
    fn the_same_command_gives_the_same_event_id_in_one_community_only() {
        let (a, b) = (CommunitySlug::new("a").expect("valid"), CommunitySlug::new("b").expect("valid"));
        let key = MessageId::new("key").expect("valid");
        let id = |community, kind| EventId::derive(Some(community), &key, kind);
        assert_eq!(id(&a, "action"), id(&a, "action"));
        assert_ne!(id(&a, "action"), id(&b, "action"));
        assert_ne!(id(&a, "action"), id(&a, "process.started"));
    }
}
