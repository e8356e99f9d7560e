//! `metagov keys …`: the keys that seal secrets in plugin configs: drawn, counted, changed while everything runs.
//!
//! A rotation reads every plugin instance and writes those whose secrets are not under the first key. Workers go on
//! meanwhile: an instance that changes in between is read once more, and a row that says the same under another key is
//! news to nobody. Up: operators. Down: [`crate::vault`] and the database.

use std::collections::BTreeMap;

use clap::Subcommand;
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::json;

use super::{
    connection,
    exit::Exit,
    output::{Output, complain},
};
use crate::{
    app,
    config::{Config, ConfigError, Fault},
    host::owner,
    plugins,
    registry::Registry,
    store::{Instance, Store},
    vault::{KeyEntry, Vault, VaultError},
};

/// So many instances are read, sealed and written at once.
const BATCH: u64 = 200;

/// How often a rotation goes over instances that change under its hands.
const MOST_PASSES: u32 = 10;

/// What to do with keys.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(super) enum Keys {
    /// Print a new entry for `secrets.keys`; works whatever the settings are
    Generate,
    /// Each key, and how many plugin instances have secrets under it
    List,
    /// Seal every secret under the first key of `secrets.keys`; workers may run meanwhile
    Rotate,
}

/// What a key is good for in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Use {
    /// It is the first.
    Seals,
    /// It is one of the others.
    Opens,
    /// It is not among the settings, and secrets are under it.
    Missing,
    /// No key at all: secrets from before there were keys.
    Unsealed,
}

impl Use {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Seals => "seals",
            Self::Opens => "opens",
            Self::Missing => "missing",
            Self::Unsealed => "not sealed",
        }
    }
}

/// A line of `keys list`.
#[derive(Serialize)]
struct Row {
    key: Option<String>,
    #[serde(rename = "use")]
    used: Use,
    instances: u64,
}

/// What a rotation has done.
#[derive(Debug, Default)]
struct Rotated {
    resealed: u64,
    unchanged: u64,
    changing: u64,
    /// Why secrets could not be opened, and of how many instances.
    unopened: BTreeMap<String, u64>,
}

impl Keys {
    /// What needs no settings to be loaded.
    pub(super) fn generate(out: Output) -> anyhow::Result<Exit> {
        let entry = KeyEntry::generate();
        let entry = entry.expose_secret();
        out.data(&json!({ "key": entry }), || entry.to_owned())?;
        Ok(Exit::Success)
    }

    pub(super) async fn run(self, out: Output, config: &Config) -> anyhow::Result<Exit> {
        let (registry, vault) = (plugins::all()?, app::open_vault(config)?);
        match self {
            Self::Generate => Self::generate(out),
            Self::List => {
                let rows = count(&connection::store(config).await?, &registry, &vault).await?;
                out.list(&rows, "there are no keys, and nothing to seal", &["KEY", "USE", "INSTANCES"], |row| {
                    let key = row.key.clone().unwrap_or_else(|| "-".to_owned());
                    vec![key, row.used.as_str().to_owned(), row.instances.to_string()]
                })?;
                Ok(Exit::Success)
            }
            Self::Rotate => {
                let first = vault.key_ids().next().ok_or_else(no_keys)?.to_owned();
                let store = connection::store(config).await?;
                let rotated = rotate(&store, &registry, &vault, |words| out.step(words)).await?;
                tell(out, &first, &rotated)
            }
        }
    }
}

fn no_keys() -> ConfigError {
    let reason = "there is no key to seal with; set METAGOV__SECRETS__KEYS_FILE to a file with what `metagov keys \
                  generate` prints";
    let key = Some("secrets.keys".to_owned());
    ConfigError { faults: vec![Fault { origin: "settings".to_owned(), key, reason: reason.to_owned() }] }
}

async fn count(store: &Store, registry: &Registry, vault: &Vault) -> anyhow::Result<Vec<Row>> {
    let kinds = std::iter::once(Use::Seals).chain(std::iter::repeat(Use::Opens));
    let mut rows: Vec<Row> = vault
        .key_ids()
        .zip(kinds)
        .map(|(key, kind)| Row { key: Some(key.to_owned()), used: kind, instances: 0 })
        .collect();
    let mut add = |key: Option<String>| {
        if let Some(row) = rows.iter_mut().find(|row| row.key == key) {
            row.instances += 1;
        } else {
            let kind = if key.is_some() { Use::Missing } else { Use::Unsealed };
            rows.push(Row { key, used: kind, instances: 1 });
        }
    };
    let mut last = None;
    loop {
        let page = store.every_instance(last, BATCH).await?;
        let Some(end) = page.last() else { return Ok(rows) };
        last = Some(end.id);
        for instance in &page {
            instance.config.key_ids().into_iter().for_each(|key| add(Some(key)));
            let plugin = registry.get(instance.plugin.as_str()).map(AsRef::as_ref);
            if !instance.config.clear_secrets(plugin).is_empty() {
                add(None);
            }
        }
    }
}

/// Goes over all instances until none is left that could be sealed anew.
async fn rotate(store: &Store, registry: &Registry, vault: &Vault, step: impl Fn(&str)) -> anyhow::Result<Rotated> {
    let mut total = Rotated::default();
    for _ in 0..MOST_PASSES {
        let pass = go_over(store, registry, vault, |resealed, read| {
            step(&format!("{read} instances read, {} sealed anew", total.resealed + resealed));
        })
        .await?;
        let resealed = total.resealed + pass.resealed;
        total = Rotated { resealed, unchanged: pass.unchanged.saturating_sub(total.resealed), ..pass };
        if total.changing == 0 {
            break;
        }
    }
    Ok(total)
}

async fn go_over(
    store: &Store,
    registry: &Registry,
    vault: &Vault,
    step: impl Fn(u64, u64),
) -> anyhow::Result<Rotated> {
    let mut pass = Rotated::default();
    let (mut last, mut read) = (None, 0);
    loop {
        let page = store.every_instance(last, BATCH).await?;
        let Some(end) = page.last() else { return Ok(pass) };
        last = Some(end.id);
        read += page.len() as u64;
        let mut resealed = Vec::with_capacity(page.len());
        for instance in page {
            let plugin = registry.get(instance.plugin.as_str()).map(AsRef::as_ref);
            match vault.reseal(plugin, owner(&instance), &instance.config) {
                Ok(Some(config)) => resealed.push((instance, config)),
                Ok(None) => pass.unchanged += 1,
                Err(error) => *pass.unopened.entry(words(&instance, &error)).or_default() += 1,
            }
        }
        if !resealed.is_empty() {
            let wanted = resealed.len() as u64;
            let written = store.reseal(resealed).await?;
            pass.resealed += written;
            pass.changing += wanted - written;
        }
        step(pass.resealed, read);
    }
}

/// A missing key is told once; what was damaged is told by its place.
fn words(instance: &Instance, error: &VaultError) -> String {
    match error {
        VaultError::Damaged { .. } => {
            format!("{error} ('{}' in '{}', {})", instance.plugin, instance.community, instance.id)
        }
        _ => error.to_string(),
    }
}

fn tell(out: Output, key: &str, rotated: &Rotated) -> anyhow::Result<Exit> {
    let Rotated { resealed, unchanged, changing, unopened } = rotated;
    let data = json!({
        "key": key,
        "resealed": resealed,
        "unchanged": unchanged,
        "changing": changing,
        "unopened": unopened.values().sum::<u64>(),
    });
    out.data(&data, || format!("sealed anew under '{key}': {resealed}; already so, or without secrets: {unchanged}"))?;
    for (reason, instances) in unopened {
        complain(&format!("{reason}; {instances} left as they are"));
    }
    if *changing > 0 {
        complain(&format!("{changing} changed again and again meanwhile; rotate once more"));
    }
    Ok(if unopened.is_empty() && *changing == 0 { Exit::Success } else { Exit::Failure })
}
