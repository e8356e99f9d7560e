//! The `AsyncAPI` 3 document of the wire contract: every channel, made from the same types as the bodies that cross it.
//!
//! It describes the service: where it is, what it receives and what it sends, each with its routing key, and the schemas of its
//! plugins. Up: `metagov asyncapi`. Down: [`super::schemas`], which publishes the
//! same types as JSON Schemas of their own.
//!
//! Sources: <https://www.asyncapi.com/docs/reference/specification/v3.0.0> and
//! <https://www.asyncapi.com/docs/reference/bindings/amqp>.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::schema::bound;

use super::{
    ActionCommand, ActionCompleted, ActionFailed, CommandRejected, Community, CommunityApply, CommunityDelete, Event,
    InstanceRecord, PlatformEvent, PluginDisable, PluginEnable, Poll, ProcessClose, ProcessRecord, ProcessStart, Tick,
    WebhookCommand,
    event::{CONTENT_TYPE, SCHEMA_BASE},
};

/// The words of a routing key that differ from message to message.
const PARAMETERS: [(&str, &str); 5] = [
    ("community", "The community's slug; `_` where a rejected command named none."),
    ("plugin", "The plugin's name; `core` for events of the core."),
    ("action", "The action's name."),
    ("process", "The name of the governance process."),
    ("event", "The platform's word for what happened, with every character outside `[A-Za-z0-9_-]` as `_`."),
];

const ABOUT: &str = "Commands in through RabbitMQ, outcomes out as CloudEvents 1.0. A command's AMQP properties: \
    `content_type` application/json, `message_id` (the idempotency key), optional `correlation_id`, `reply_to` and \
    `timestamp`. Its answer is the event whose `causationid` is that `message_id`. With `reply_to` the answer is also \
    sent there, through the default exchange.";

/// What the types do not say: where the service is found, and what its plugins have.
#[derive(Debug, Clone, Copy)]
pub struct Service<'a> {
    /// The exchange of commands.
    pub commands: &'a str,
    /// The exchange of events.
    pub events: &'a str,
    /// `amqp` or `amqps`.
    pub protocol: &'a str,
    /// Host and port of the broker.
    pub host: &'a str,
    /// The virtual host.
    pub vhost: &'a str,
    /// The schemas of the plugins, from [`crate::Manifest::schemas`].
    pub plugins: &'a [(String, Value)],
}

/// The document.
#[must_use]
pub fn document(service: &Service) -> Value {
    let Service { commands, events, .. } = *service;
    let mut generator = SchemaSettings::draft07()
        // The one dialect that every reader of AsyncAPI takes.
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let sides = [(commands, "receive", received(&mut generator)), (events, "send", sent(&mut generator))];
    let (mut channels, mut operations, mut messages) = (Map::new(), Map::new(), Map::new());
    for (exchange, action, side) in sides {
        for Message { address, body } in side {
            let key = kind(address).replace('.', "-");
            let reference = |place: &str| json!({ "$ref": format!("#/{place}/{key}") });
            channels.insert(key.clone(), channel(address, exchange, &key, &reference("components/messages")));
            let operation = json!({
                "action": action,
                "channel": reference("channels"),
                "bindings": { "amqp": { "deliveryMode": 2, "bindingVersion": BINDING } },
            });
            operations.insert(format!("{action}-{key}"), operation);
            messages.insert(key, body);
        }
    }
    let parameters: Map<_, _> =
        PARAMETERS.map(|(name, is)| (name.to_owned(), json!({ "description": is }))).into_iter().collect();
    let server = json!({
        "host": service.host,
        "protocol": service.protocol,
        "protocolVersion": "0-9-1",
        "pathname": format!("/{}", service.vhost.replace('%', "%25").replace('/', "%2F")),
        "description": "RabbitMQ 3.10 or newer.",
    });
    let mut schemas = generator.take_definitions(true);
    schemas.extend(service.plugins.iter().map(|(name, schema)| (name.clone(), embedded(name, schema))));
    let mut document = json!({
        "asyncapi": "3.0.0",
        "info": { "title": "Metagov", "version": "1.0.0", "description": ABOUT, "license": { "name": "MIT" } },
        "defaultContentType": "application/json",
        "servers": { "broker": server },
        "channels": channels,
        "operations": operations,
        "components": { "messages": messages, "parameters": parameters, "schemas": schemas },
    });
    bound(&mut document["components"]["schemas"]);
    document
}

/// A schema with definitions of its own, as a part of the document: its references lead to where they are now.
fn embedded(name: &str, schema: &Value) -> Value {
    match schema {
        Value::Object(members) => members
            .iter()
            // Both would make it a document of its own, from whose root references count.
            .filter(|(member, _)| !matches!(member.as_str(), "$id" | "$schema"))
            .map(|(member, value)| {
                let value = match value.as_str().and_then(|reference| reference.strip_prefix("#/")) {
                    Some(place) if member == "$ref" => format!("#/components/schemas/{name}/{place}").into(),
                    _ => embedded(name, value),
                };
                (member.clone(), value)
            })
            .collect(),
        Value::Array(items) => items.iter().map(|item| embedded(name, item)).collect(),
        other => other.clone(),
    }
}

/// The version of the AMQP 0-9-1 bindings that is written here.
const BINDING: &str = "0.3.0";

/// What crosses one channel.
struct Message {
    /// The routing key, with its parameters in braces.
    address: &'static str,
    body: Value,
}

/// The commands, by routing key.
fn received(generator: &mut SchemaGenerator) -> Vec<Message> {
    vec![
        command::<CommunityApply>(generator, "community.apply"),
        command::<CommunityDelete>(generator, "community.delete"),
        command::<PluginEnable>(generator, "plugin.{plugin}.enable"),
        command::<PluginDisable>(generator, "plugin.{plugin}.disable"),
        command::<ActionCommand>(generator, "action.{plugin}.{action}"),
        command::<ProcessStart>(generator, "process.{plugin}.{process}.start"),
        command::<ProcessClose>(generator, "process.{plugin}.{process}.close"),
        command::<WebhookCommand>(generator, "webhook.{plugin}"),
        command::<Poll>(generator, "poll.{plugin}.{process}"),
        command::<Tick>(generator, "tick.{plugin}"),
    ]
}

/// The events by routing key, each with the name of the published schema of its `data`.
fn sent(generator: &mut SchemaGenerator) -> Vec<Message> {
    vec![
        event::<ActionCompleted>(generator, "{community}.{plugin}.action.{action}.completed", "action-completed"),
        event::<ActionFailed>(generator, "{community}.{plugin}.action.{action}.failed", "action-failed"),
        event::<ActionFailed>(generator, "{community}.{plugin}.action.{action}.uncertain", "action-failed"),
        event::<ProcessRecord>(generator, "{community}.{plugin}.process.{process}.started", "process-record"),
        event::<ProcessRecord>(generator, "{community}.{plugin}.process.{process}.updated", "process-record"),
        event::<ProcessRecord>(generator, "{community}.{plugin}.process.{process}.completed", "process-record"),
        event::<ProcessRecord>(generator, "{community}.{plugin}.process.{process}.failed", "process-record"),
        event::<PlatformEvent>(generator, "{community}.{plugin}.platform.{event}", "platform-event"),
        event::<InstanceRecord>(generator, "{community}.{plugin}.plugin.enabled", "plugin-instance"),
        event::<InstanceRecord>(generator, "{community}.{plugin}.plugin.updated", "plugin-instance"),
        event::<InstanceRecord>(generator, "{community}.{plugin}.plugin.disabled", "plugin-instance"),
        event::<Community>(generator, "{community}.core.community.applied", "community"),
        event::<Community>(generator, "{community}.core.community.deleted", "community"),
        event::<CommandRejected>(generator, "{community}.{plugin}.command.rejected", "command-rejected"),
    ]
}

fn command<T: JsonSchema>(generator: &mut SchemaGenerator, address: &'static str) -> Message {
    let payload = generator.subschema_for::<T>();
    let body = json!({ "name": kind(address), "headers": headers(), "payload": payload });
    Message { address, body }
}

fn event<T: JsonSchema>(generator: &mut SchemaGenerator, address: &'static str, schema: &str) -> Message {
    let (envelope, data) = (generator.subschema_for::<Event>(), generator.subschema_for::<T>());
    let name = format!("org.metagov.{}", kind(address));
    let mut body = json!({ "name": name, "contentType": CONTENT_TYPE, "headers": headers() });
    // The type of a platform's event goes on with the plugin and the platform's own word.
    let event_type = if kind(address) == "platform" {
        json!({ "pattern": r"^org\.metagov\.platform\." })
    } else {
        body["bindings"] = json!({ "amqp": { "messageType": name, "bindingVersion": BINDING } });
        json!({ "const": name })
    };
    let dataschema = json!({ "const": format!("{SCHEMA_BASE}{schema}.json") });
    let members = json!({ "type": event_type, "dataschema": dataschema, "data": data });
    body["payload"] = json!({ "allOf": [envelope, { "properties": members }] });
    Message { address, body }
}

fn headers() -> Value {
    let traceparent = json!({ "type": "string", "description": "W3C trace context, in its text form." });
    json!({ "type": "object", "properties": { "traceparent": traceparent } })
}

fn channel(address: &str, exchange: &str, message: &str, reference: &Value) -> Value {
    let parameters: Map<_, _> = PARAMETERS
        .iter()
        .filter(|(name, _)| address.contains(&format!("{{{name}}}")))
        .map(|(name, _)| ((*name).to_owned(), json!({ "$ref": format!("#/components/parameters/{name}") })))
        .collect();
    let exchange = json!({ "name": exchange, "type": "topic", "durable": true, "autoDelete": false });
    let mut channel = json!({
        "address": address,
        "messages": { message: reference },
        "bindings": { "amqp": { "is": "routingKey", "exchange": exchange, "bindingVersion": BINDING } },
    });
    if !parameters.is_empty() {
        channel["parameters"] = parameters.into();
    }
    channel
}

/// What a routing key is about: its words without those that differ from message to message.
fn kind(address: &str) -> String {
    address.split('.').filter(|word| !word.starts_with('{') && *word != "core").collect::<Vec<_>>().join(".")
}
