//! How a command reaches the service: the broker, or the socket of a running `metagov dev`, and the database.
//!
//! Reads go to the database, writes are commands on the bus; the service itself is never called. Up: the commands of
//! `src/cli`. Down: `src/bus` and `src/store`.

use std::{borrow::Cow, fs, io::ErrorKind, net::SocketAddr, path::Path, time::Duration};

use anyhow::Context;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::exit::Stop;
use crate::{
    app,
    bus::{Bus, Outgoing, Published},
    config::{Config, mask_url},
    store::Store,
};

/// How long a broker may take to answer before it counts as away.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to do where nothing answers.
const REMEDY: &str = "start `metagov dev`, or set METAGOV__BROKER__URL to the broker of a running service";

/// What a running `metagov dev` tells other commands, in `<data_dir>/dev.json`, which nobody else may read.
#[derive(Deserialize)]
struct DevNote {
    address: SocketAddr,
    token: SecretString,
    pid: u32,
}

/// The bus that the service listens on.
pub(super) async fn bus(config: &Config) -> anyhow::Result<Bus> {
    if config.broker.url.expose_secret() == "memory" {
        return dev_bus(&config.data_dir).await;
    }
    let bus = Bus::connect(&app::bus_settings(config)?, CancellationToken::new()).await?;
    let connected = tokio::time::timeout(PATIENCE, bus.connected()).await;
    if let Err(why) = connected.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs()))) {
        let url = mask_url(config.broker.url.expose_secret());
        return Err(Stop::Unreachable(format!("the broker {url} cannot be used: {why}")).into());
    }
    Ok(bus)
}

/// Publishes, and comes back when the broker has it. What only waiting could heal is told after a while: an alarm of the
/// broker, or a queue that stands there with other arguments than ours.
pub(super) async fn publish(bus: &Bus, outgoing: Vec<Outgoing>) -> anyhow::Result<Vec<Published>> {
    if let Ok(published) = tokio::time::timeout(PATIENCE, bus.publish(outgoing)).await {
        return published.context("cannot publish");
    }
    let why = bus.standing().broker.err().unwrap_or_else(|| "it does not say why".to_owned());
    let words = format!("no confirm within {} s, it may still get there: {why}", PATIENCE.as_secs());
    Err(Stop::Unreachable(words).into())
}

/// The bus of the `metagov dev` that runs on this directory.
pub(super) async fn dev_bus(data_dir: &Path) -> anyhow::Result<Bus> {
    let path = data_dir.join("dev.json");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let words = format!("no service can be found: no `metagov dev` runs on {}; {REMEDY}", data_dir.display());
            return Err(Stop::Unreachable(words).into());
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let note: DevNote = serde_json::from_str(&text)
        .ok()
        .with_context(|| format!("{} cannot be read; start `metagov dev` again", path.display()))?;
    Bus::connect_socket(note.address, note.token).await.map_err(|_| {
        let words = format!("`metagov dev` (process {}) does not answer at {}; {REMEDY}", note.pid, note.address);
        Stop::Unreachable(words).into()
    })
}

/// The database, only where there is one with the tables that we read.
pub(super) async fn store(config: &Config) -> anyhow::Result<Store> {
    let url = config.database.url.expose_secret();
    if let Some(file) = sqlite_file(url)
        && !Path::new(&*file).exists()
    {
        let words = format!("there is no database {file}; start `metagov dev`, or set METAGOV__DATABASE__URL");
        return Err(Stop::Unreachable(words).into());
    }
    let store = open_store(config).await?;
    let pending = store.pending_migrations().await.context("cannot read the version of the database")?;
    if !pending.is_empty() {
        let words = format!("the database misses {} migration(s); run `metagov migrate`", pending.len());
        return Err(Stop::Unreachable(words).into());
    }
    Ok(store)
}

/// The database as it is, which `metagov migrate` needs.
pub(super) async fn open_store(config: &Config) -> anyhow::Result<Store> {
    app::connect_store(config).await
}

/// The file of a SQLite URL that has one.
fn sqlite_file(url: &str) -> Option<Cow<'_, str>> {
    let rest = url.strip_prefix("sqlite:")?;
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let file = rest.split('?').next().unwrap_or(rest);
    (!file.is_empty() && file != ":memory:").then(|| percent_decode_str(file).decode_utf8_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_sqlite_url_is_found() {
        assert_eq!(sqlite_file("sqlite:./data/metagov.db").as_deref(), Some("./data/metagov.db"));
        assert_eq!(sqlite_file("sqlite:///var/lib/x.db?mode=rwc").as_deref(), Some("/var/lib/x.db"));
        assert_eq!(sqlite_file("sqlite:a%252Fb/x.db").as_deref(), Some("a%2Fb/x.db"));
        assert_eq!(sqlite_file("sqlite::memory:"), None);
        assert_eq!(sqlite_file("postgres://h/d"), None);
    }
}
