//! `metagov schemas …`: the published JSON Schemas of what crosses the broker. Needs neither settings nor a service.
//!
//! Those of the contract, and beside them those of each plugin's config, parameters, outputs, outcomes and events. Up: driver
//! authors. Down: [`metagov_sdk::contract::schemas`] and the manifests of the plugins.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Subcommand;
use metagov_sdk::{contract::schemas, schema::nearest};
use serde_json::{Value, json};

use super::{
    exit::{Exit, Stop},
    output::Output,
};
use crate::plugins;

/// What to do with schemas.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum Schemas {
    /// Every schema: bodies of commands, the event, each kind of its `data`, and those of the plugins
    List,
    /// One schema
    Show {
        /// Its name, as `list` shows it
        name: String,
    },
    /// Write each schema to DIR/NAME.json; files of these names are replaced
    Export {
        /// The directory; created where it is missing
        dir: PathBuf,
    },
}

impl Schemas {
    pub(super) fn run(&self, out: Output) -> anyhow::Result<Exit> {
        match self {
            Self::List => {
                let listed: Vec<Value> = published()?.iter().map(|(name, schema)| summary(name, schema)).collect();
                out.list(&listed, "there are no schemas", &["NAME", "DESCRIPTION"], |schema| {
                    ["name", "description"].map(|member| text(schema, member).to_owned()).to_vec()
                })?;
            }
            Self::Show { name } => {
                let (_, schema) =
                    published()?.into_iter().find(|(known, _)| known == name).ok_or_else(|| missing(name))?;
                out.document(&schema)?;
            }
            Self::Export { dir } => {
                let written = export(dir)?;
                let lines = || written.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join("\n");
                out.data(&json!({ "written": written }), lines)?;
            }
        }
        Ok(Exit::Success)
    }
}

/// Everything that is published, by name.
fn published() -> anyhow::Result<Vec<(String, Value)>> {
    let contract = schemas::published().into_iter().map(|(name, schema)| (name.to_owned(), schema));
    Ok(contract.chain(plugins::all()?.schemas()).collect())
}

fn summary(name: &str, schema: &Value) -> Value {
    json!({ "name": name, "id": schema["$id"], "description": text(schema, "description") })
}

fn text<'a>(schema: &'a Value, member: &str) -> &'a str {
    schema[member].as_str().unwrap_or_default()
}

fn missing(name: &str) -> Stop {
    let names: Vec<String> = published().into_iter().flatten().map(|(name, _)| name).collect();
    let hint = nearest(name, names.iter().map(String::as_str)).map_or_else(
        || "`metagov schemas list` names all of them".to_owned(),
        |meant| format!("did you mean '{meant}'?"),
    );
    Stop::NotFound(format!("there is no schema '{name}'; {hint}"))
}

fn export(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let write = |(name, schema): (String, Value)| {
        let path = dir.join(format!("{name}.json"));
        fs::write(&path, format!("{schema:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    };
    published()?.into_iter().map(write).collect()
}
