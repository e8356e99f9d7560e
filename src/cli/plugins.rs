//! `metagov plugins …`: what the plugins in this program offer. Needs neither settings nor a service.
//!
//! Up: operators and driver authors. Down: the manifests of the plugins, in [`crate::plugins`].

use std::fmt::Write as _;

use clap::Subcommand;
use metagov_sdk::{
    Manifest,
    contract::{Name, Problem, ProblemKind},
    schema::nearest,
};
use serde_json::{Value, json};

use super::{
    exit::Exit,
    output::{Output, table},
};
use crate::plugins;

/// What to show of the plugins.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum Plugins {
    /// Every plugin with its actions and processes
    List,
    /// One plugin: its config, actions, processes and events
    Show {
        /// The plugin
        name: String,
    },
}

impl Plugins {
    pub(super) fn run(&self, out: Output) -> anyhow::Result<Exit> {
        let registry = plugins::all()?;
        match self {
            Self::List => {
                let manifests: Vec<Value> = registry
                    .names()
                    .filter_map(|name| registry.get(name.as_str()))
                    .map(|plugin| summary(plugin.manifest()))
                    .collect();
                let columns = &["NAME", "ACTIONS", "PROCESSES", "DESCRIPTION"];
                out.list(&manifests, "this program holds no plugins", columns, |plugin| {
                    let words = |member: &str| {
                        let names = plugin[member].as_array().into_iter().flatten().filter_map(Value::as_str);
                        names.collect::<Vec<_>>().join(", ")
                    };
                    let text = |member: &str| plugin[member].as_str().unwrap_or_default().to_owned();
                    vec![text("name"), words("actions"), words("processes"), first_line(&text("description"))]
                })?;
            }
            Self::Show { name } => {
                let plugin = registry.get(name).ok_or_else(|| {
                    let hint = nearest(name, registry.names().map(Name::as_str)).map_or_else(
                        || "`metagov plugins list` names all of them".to_owned(),
                        |meant| format!("did you mean '{meant}'?"),
                    );
                    Problem::new(ProblemKind::UnknownPlugin, format!("there is no plugin '{name}'; {hint}"))
                })?;
                out.data(plugin.manifest(), || describe(plugin.manifest()))?;
            }
        }
        Ok(Exit::Success)
    }
}

fn summary(manifest: &Manifest) -> Value {
    json!({
        "name": manifest.name,
        "description": manifest.description,
        "actions": manifest.actions.keys().collect::<Vec<_>>(),
        "processes": manifest.processes.keys().collect::<Vec<_>>(),
    })
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn describe(manifest: &Manifest) -> String {
    let mut text = format!("{}\n{}\n", manifest.name, manifest.description);
    section(&mut text, "config", "", &manifest.config);
    for (name, action) in &manifest.actions {
        let title = format!("action {}.{name} ({})", manifest.name, action.effect.as_str());
        section(&mut text, &title, &action.description, &action.parameters);
        answers(&mut text, "answers", &action.output);
    }
    for (name, process) in &manifest.processes {
        section(&mut text, &format!("process {}.{name}", manifest.name), &process.description, &process.parameters);
        answers(&mut text, "decides", &process.outcome);
    }
    for (name, event) in &manifest.events {
        section(&mut text, &format!("event {name}"), &event.description, &event.data);
    }
    text
}

fn section(text: &mut String, title: &str, description: &str, schema: &Value) {
    let _ = write!(text, "\n{title}\n");
    if !description.is_empty() {
        let _ = writeln!(text, "  {}", description.replace('\n', "\n  "));
    }
    for line in table(&[], &members(schema)).lines() {
        let _ = writeln!(text, "    {line}");
    }
}

/// What comes back: its members, or its kind where it has none.
fn answers(text: &mut String, verb: &str, schema: &Value) {
    let rows = members(schema);
    if rows.is_empty() {
        let _ = writeln!(text, "  {verb} {}", kind(schema, schema));
        return;
    }
    let _ = writeln!(text, "  {verb}");
    for line in table(&[], &rows).lines() {
        let _ = writeln!(text, "    {line}");
    }
}

/// Each member of an object schema: name, kind, whether it must be there, what it is.
fn members(schema: &Value) -> Vec<Vec<String>> {
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties
        .map(|(name, property)| {
            let default = property.get("default").filter(|default| !default.is_null());
            let needed = match default {
                Some(default) => format!("default {default}"),
                None if required.contains(&name.as_str()) => "required".to_owned(),
                None => "optional".to_owned(),
            };
            let description = first_line(property["description"].as_str().unwrap_or_default());
            vec![name.clone(), kind(schema, property), needed, description]
        })
        .collect()
}

fn kind(root: &Value, property: &Value) -> String {
    let target = property["$ref"].as_str().and_then(|reference| root.pointer(reference.trim_start_matches('#')));
    let schema = target.unwrap_or(property);
    match &schema["type"] {
        Value::String(array) if array == "array" && schema["items"].is_object() => {
            format!("array of {}", kind(root, &schema["items"]))
        }
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        _ => ["anyOf", "oneOf"].iter().find_map(|family| schema[*family].as_array()).map_or_else(
            || "any".to_owned(),
            |variants| {
                let mut kinds: Vec<String> = variants.iter().map(|variant| kind(root, variant)).collect();
                kinds.dedup();
                kinds.join(" or ")
            },
        ),
    }
}
