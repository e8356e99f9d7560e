//! What a plugin offers, as one JSON document.
//!
//! Each plugin keeps its manifest as a reviewed snapshot, so that a change of what drivers see is seen by its author
//! first. The same plugin always gives the same document, byte for byte. Up: `metagov plugins show`. Down: the schemas
//! of the plugin's types.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    ActionDefinition, Effect, Plugin, ProcessDefinition,
    contract::{Name, event::SCHEMA_BASE, routing::safe_word},
    schema::Schema,
};

/// What a plugin offers. Members of maps are in alphabetical order, durations in seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Manifest {
    /// The plugin's name.
    pub name: Name,
    /// What it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The schema of its config.
    pub config: Value,
    /// Its actions by name.
    pub actions: BTreeMap<Name, ActionManifest>,
    /// Its governance processes by name.
    pub processes: BTreeMap<Name, ProcessManifest>,
    /// The events that it tells, by type.
    pub events: BTreeMap<String, EventManifest>,
    /// How often it asks its platform for news.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tick_every_seconds: Option<u64>,
}

/// One action.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ActionManifest {
    /// What it does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What happens when it is called twice.
    pub effect: Effect,
    /// How long one call may take, where the action says so itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u64>,
    /// The schema of its parameters.
    pub parameters: Value,
    /// The schema of its output.
    pub output: Value,
}

/// One governance process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProcessManifest {
    /// What it decides.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The schema of its parameters.
    pub parameters: Value,
    /// The schema of its outcome.
    pub outcome: Value,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EventManifest {
    /// When it is told.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The schema of its data.
    pub data: Value,
}

impl Manifest {
    /// Every schema in it by name, such as `slack.action.post.parameters`, with an `$id` of its own: what is published beside
    /// the schemas of the contract.
    #[must_use]
    pub fn schemas(&self) -> Vec<(String, Value)> {
        let plugin = &self.name;
        let mut all = vec![(format!("{plugin}.config"), &self.config)];
        for (name, action) in &self.actions {
            all.push((format!("{plugin}.action.{name}.parameters"), &action.parameters));
            all.push((format!("{plugin}.action.{name}.output"), &action.output));
        }
        for (name, process) in &self.processes {
            all.push((format!("{plugin}.process.{name}.parameters"), &process.parameters));
            all.push((format!("{plugin}.process.{name}.outcome"), &process.outcome));
        }
        for (event_type, event) in &self.events {
            all.push((format!("{plugin}.event.{}.data", safe_words(event_type)), &event.data));
        }
        let with_id = |(name, schema): (String, &Value)| {
            let mut schema = schema.clone();
            if let Value::Object(members) = &mut schema {
                members.insert("$id".to_owned(), format!("{SCHEMA_BASE}plugins/{name}.json").into());
            }
            (name, schema)
        };
        all.into_iter().map(with_id).collect()
    }

    pub(crate) fn new<P: Plugin>(
        name: &Name,
        config: &Schema,
        actions: &BTreeMap<Name, ActionDefinition>,
        processes: &BTreeMap<Name, ProcessDefinition>,
        events: &BTreeMap<&'static str, Schema>,
    ) -> Self {
        let action = |action: &ActionDefinition| ActionManifest {
            description: description("", action.parameters_schema()),
            effect: action.effect(),
            deadline_seconds: action.deadline().map(|deadline| deadline.as_secs()),
            parameters: sorted(action.parameters_schema().document()),
            output: sorted(action.output_schema().document()),
        };
        let process = |process: &ProcessDefinition| ProcessManifest {
            description: description(process.description(), process.parameters_schema()),
            parameters: sorted(process.parameters_schema().document()),
            outcome: sorted(process.outcome_schema().document()),
        };
        let event =
            |schema: &Schema| EventManifest { description: description("", schema), data: sorted(schema.document()) };
        Self {
            name: name.clone(),
            description: description(P::DESCRIPTION, config),
            config: sorted(config.document()),
            actions: actions.iter().map(|(name, found)| (name.clone(), action(found))).collect(),
            processes: processes.iter().map(|(name, found)| (name.clone(), process(found))).collect(),
            events: events.iter().map(|(name, schema)| ((*name).to_owned(), event(schema))).collect(),
            tick_every_seconds: P::tick_every().map(|every| every.as_secs()),
        }
    }
}

/// The type of an event, safe in a name of a file and in a reference.
fn safe_words(event_type: &str) -> String {
    event_type.split('.').map(safe_word).collect::<Vec<_>>().join(".")
}

/// What the author says, else the doc comment of the type.
fn description(said: &str, schema: &Schema) -> String {
    if said.is_empty() {
        schema.document().get("description").and_then(Value::as_str).unwrap_or_default().to_owned()
    } else {
        said.to_owned()
    }
}

/// The same document with its members in alphabetical order, whatever order the build's `serde_json` keeps.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let ordered: BTreeMap<&String, &Value> = members.iter().collect();
            Value::Object(ordered.into_iter().map(|(name, value)| (name.clone(), sorted(value))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}
