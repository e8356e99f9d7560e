//! The published JSON Schemas of everything on the wire, made from the types and used to check what comes in.
//!
//! Schemas of plugins' own parameters are in [`crate::Manifest::schemas`]. Up: [`super::Command::decode`]. Down:
//! [`crate::schema::Schema`], which does the checking.

use std::{
    any::TypeId,
    collections::HashMap,
    sync::{LazyLock, RwLock},
};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    ActionCommand, ActionCompleted, ActionFailed, CommandRejected, Community, CommunityApply, CommunityDelete, Event,
    InstanceRecord, PlatformEvent, PluginDisable, PluginEnable, Poll, Problem, ProblemKind, ProcessClose,
    ProcessRecord, ProcessStart, Tick, WebhookCommand, event::SCHEMA_BASE,
};
use crate::schema::{self, Schema, Unknown, bound, integral, summary};

/// Checks a command body against its published schema, then reads it.
///
/// # Errors
/// A problem `invalid-command` that lists every violation.
pub fn read<T: DeserializeOwned + JsonSchema + 'static>(mut value: Value) -> Result<T, Problem> {
    integral(&mut value);
    let mut violations = of::<T>().violations(&value, "");
    if violations.is_empty() {
        match schema::read(value, "") {
            Ok(read) => return Ok(read),
            Err(refused) => violations.push(refused),
        }
    }
    let detail = summary("the body of this command", &violations);
    Err(Problem::new(ProblemKind::InvalidCommand, detail).with_errors(violations))
}

/// The compiled schema of a wire type; compiled at its first use, then shared.
fn of<T: JsonSchema + 'static>() -> &'static Schema {
    static COMPILED: LazyLock<RwLock<HashMap<TypeId, &'static Schema>>> = LazyLock::new(RwLock::default);
    let key = TypeId::of::<T>();
    if let Some(schema) = COMPILED.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(&key) {
        return schema;
    }
    let mut compiled = COMPILED.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    compiled.entry(key).or_insert_with(|| {
        // Leaked on purpose: there are ten wire types, and each lives as long as the program.
        Box::leak(Box::new(Schema::of::<T>(Unknown::AsDeclared).expect("the schema of a wire type is valid")))
    })
}

/// Every published schema by name; its `$id` is where `dataschema` points to. `metagov schemas` prints and exports them,
/// and [`super::asyncapi::document`] is made from the same types.
#[must_use]
pub fn published() -> Vec<(&'static str, Value)> {
    fn entry<T: JsonSchema>(name: &'static str) -> (&'static str, Value) {
        let mut schema = schemars::schema_for!(T);
        schema.insert("$id".to_owned(), Value::from(format!("{SCHEMA_BASE}{name}.json")));
        let mut schema = schema.to_value();
        bound(&mut schema);
        (name, schema)
    }
    vec![
        entry::<CommunityApply>("community-apply"),
        entry::<CommunityDelete>("community-delete"),
        entry::<PluginEnable>("plugin-enable"),
        entry::<PluginDisable>("plugin-disable"),
        entry::<ActionCommand>("action"),
        entry::<ProcessStart>("process-start"),
        entry::<ProcessClose>("process-close"),
        entry::<WebhookCommand>("webhook"),
        entry::<Poll>("poll"),
        entry::<Tick>("tick"),
        entry::<Event>("event"),
        entry::<ActionCompleted>("action-completed"),
        entry::<ActionFailed>("action-failed"),
        entry::<ProcessRecord>("process-record"),
        entry::<PlatformEvent>("platform-event"),
        entry::<InstanceRecord>("plugin-instance"),
        entry::<Community>("community"),
        entry::<CommandRejected>("command-rejected"),
        entry::<Problem>("problem"),
    ]
}
