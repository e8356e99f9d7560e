//! `metagov dead …`: messages that could not be handled, for a person to decide on.
//!
//! They wait until somebody retries or discards them. Up: operators. Down: the queue of dead letters.

use clap::{Args, Subcommand};
use metagov_sdk::schema::MASK;
use serde_json::{Value, json};

use super::{
    confirm::Confirmation,
    connection,
    exit::{Exit, Stop},
    output::{Output, complain, error_object},
};
use crate::{
    bus::{DeadLetter, DeadVerdict},
    config::Config,
    plugins,
    registry::Registry,
};

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub(super) enum Dead {
    /// Every dead letter, the oldest first
    List,
    /// One dead letter with its body; configs of plugins are masked
    Show {
        /// Its message id, as `list` shows it
        id: String,
    },
    /// Publish as a command once more, with all its attempts
    Retry(Chosen),
    /// Delete for good; on a terminal `--all` asks first
    Discard {
        #[command(flatten)]
        chosen: Chosen,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

/// Which dead letters.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Chosen {
    /// Their message ids, as `list` shows them
    ids: Vec<String>,
    /// All of them
    #[arg(long)]
    all: bool,
}

impl Dead {
    pub(super) async fn run(self, out: Output, config: &Config) -> anyhow::Result<Exit> {
        match self {
            Self::List => {
                let letters: Vec<Value> = look(config, |_| DeadVerdict::Keep).await?.iter().map(summary).collect();
                out.list(&letters, "there are no dead letters", &["ID", "ROUTING KEY", "REASON"], |letter| {
                    ["id", "routing_key", "reason"]
                        .map(|member| letter[member].as_str().unwrap_or_default().to_owned())
                        .to_vec()
                })?;
            }
            Self::Show { id } => {
                let registry = plugins::all()?;
                let letters = look(config, |_| DeadVerdict::Keep).await?;
                let letter = letters.iter().find(|letter| letter.id() == id).ok_or_else(|| missing(&id))?;
                out.document(&whole(&registry, letter))?;
            }
            Self::Retry(chosen) => return chosen.settle(out, config, DeadVerdict::Retry, "retried").await,
            Self::Discard { chosen, confirmation } => {
                if !chosen.all || confirmation.given("Delete every dead letter for good?")? {
                    return chosen.settle(out, config, DeadVerdict::Discard, "discarded").await;
                }
                out.done(&settled("discarded", &[], &[]), "nothing was discarded")?;
            }
        }
        Ok(Exit::Success)
    }
}

impl Chosen {
    async fn settle(&self, out: Output, config: &Config, verdict: DeadVerdict, done: &str) -> anyhow::Result<Exit> {
        let chosen = |letter: &DeadLetter| self.all || self.ids.contains(&letter.id());
        let letters = look(config, |letter| if chosen(letter) { verdict } else { DeadVerdict::Keep }).await?;
        let found: Vec<String> = letters.iter().filter(|letter| chosen(letter)).map(DeadLetter::id).collect();
        let absent: Vec<String> = self.ids.iter().filter(|id| !found.contains(id)).cloned().collect();
        let mut object = settled(done, &found, &absent);
        let words: Vec<_> = absent.iter().map(|id| missing(id).to_string()).collect();
        let exit = if absent.is_empty() { Exit::Success } else { Exit::NotFound };
        if exit != Exit::Success {
            object["error"] = error_object(&words.join("; "), exit)["error"].take();
        }
        out.data(&object, || format!("{done}: {}", found.len()))?;
        for words in &words {
            complain(words);
        }
        Ok(exit)
    }
}

/// What was done to which dead letters, and which of those that were asked for there are not.
fn settled(done: &str, found: &[String], absent: &[String]) -> Value {
    json!({ done: found, "missing": absent })
}

async fn look(
    config: &Config,
    mut decide: impl FnMut(&DeadLetter) -> DeadVerdict + Send,
) -> anyhow::Result<Vec<DeadLetter>> {
    let bus = connection::bus(config).await?;
    let letters = bus.dead_letters(&mut decide).await?;
    bus.close().await;
    Ok(letters)
}

fn missing(id: &str) -> Stop {
    Stop::NotFound(format!("there is no dead letter '{id}'"))
}

fn summary(letter: &DeadLetter) -> Value {
    json!({
        "id": letter.id(),
        "routing_key": letter.message.routing_key,
        "reason": letter.reason(),
        "queue": letter.queue(),
        "bytes": letter.message.body.len(),
    })
}

fn whole(registry: &Registry, letter: &DeadLetter) -> Value {
    let mut shown = summary(letter);
    let properties = &letter.message.properties;
    shown["correlation_id"] = json!(properties.correlation_id);
    shown["reply_to"] = json!(properties.reply_to);
    shown["headers"] = json!(properties.headers);
    shown["body"] = body(registry, &letter.message.routing_key, &letter.message.body);
    shown
}

/// The body with the configs of plugins masked. What is not JSON is shown as text, and where a config would be in it, not
/// at all.
fn body(registry: &Registry, routing_key: &str, bytes: &[u8]) -> Value {
    let may_hold_config = routing_key == "community.apply" || routing_key.starts_with("plugin.");
    let Ok(mut body) = serde_json::from_slice::<Value>(bytes) else {
        let hidden = || Value::from(MASK);
        return if may_hold_config { hidden() } else { String::from_utf8_lossy(bytes).into() };
    };
    let mask = |config: &mut Value, plugin: &str| {
        *config = registry.get(plugin).map_or_else(|| MASK.into(), |plugin| plugin.mask_config(config));
    };
    if may_hold_config {
        let plugin = routing_key.split('.').nth(1).unwrap_or_default();
        if let Some(config) = body.get_mut("config") {
            mask(config, plugin);
        }
        for entry in body.get_mut("plugins").and_then(Value::as_array_mut).into_iter().flatten() {
            let name = entry["name"].as_str().unwrap_or_default().to_owned();
            if let Some(config) = entry.get_mut("config") {
                mask(config, &name);
            }
        }
    }
    body
}
