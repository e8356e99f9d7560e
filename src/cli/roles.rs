//! The roles, `metagov dev|worker|scheduler|migrate`: what the shell asked for, handed to the app.
//!
//! Up: the shell, systemd, Kubernetes. Down: `src/app.rs`, which wires and runs them.

use std::path::Path;

use anyhow::Context;
use clap::Args;
use secrecy::ExposeSecret;
use serde_json::json;

use super::{
    connection,
    exit::Exit,
    output::{Output, line},
};
use crate::{
    app::{self, App, DevReady},
    config::{Config, ConfigError, Fault, Flag},
    shutdown::Shutdown,
};

/// How to run a worker.
#[derive(Debug, Args)]
pub(super) struct WorkerArguments {
    /// The plugins to run, comma-separated; no handler and no hook of others runs here [default: worker.plugins, else all
    /// of them]
    #[arg(long, value_name = "A,B")]
    plugins: Option<String>,
    /// How many handlers run at once for each queue of a plugin [default: worker.concurrency]
    #[arg(long, value_name = "N")]
    concurrency: Option<String>,
}

impl WorkerArguments {
    /// The settings that the flags override.
    pub(super) fn flags(&self) -> Vec<Flag> {
        let flag = |flag, key, value: &Option<String>| value.clone().map(|value| Flag { flag, key, value });
        [
            flag("--plugins", "worker.plugins", &self.plugins),
            flag("--concurrency", "worker.concurrency", &self.concurrency),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// How to migrate.
#[derive(Debug, Args)]
pub(super) struct MigrateArguments {
    /// Only say what would be applied; the exit code is 1 where something is pending
    #[arg(long)]
    status: bool,
}

impl MigrateArguments {
    pub(super) async fn run(self, out: Output, config: &Config) -> anyhow::Result<Exit> {
        let store = connection::open_store(config).await?;
        let (done, names, none) = if self.status {
            ("pending", store.pending_migrations().await?, "the database is up to date")
        } else {
            ("applied", store.migrate().await?, "the database was up to date")
        };
        if names.is_empty() {
            out.say(none);
        }
        if out.is_json() || !names.is_empty() {
            let lines = || names.iter().map(|name| format!("{done}: {name}")).collect::<Vec<_>>().join("\n");
            out.data(&json!({ done: names }), lines)?;
        }
        Ok(if self.status && !names.is_empty() { Exit::Failure } else { Exit::Success })
    }
}

/// `metagov worker`
pub(super) async fn worker(config: Config) -> anyhow::Result<Exit> {
    needs_broker(&config)?;
    needs_addresses(&config)?;
    let shutdown = listening()?;
    app::run_worker(App::connect(config).await?, shutdown).await?;
    Ok(Exit::Success)
}

/// `metagov scheduler`
pub(super) async fn scheduler(config: Config) -> anyhow::Result<Exit> {
    needs_broker(&config)?;
    let shutdown = listening()?;
    app::run_scheduler(App::connect(config).await?, shutdown).await?;
    Ok(Exit::Success)
}

/// `metagov dev`
pub(super) async fn dev(out: Output, config: Config) -> anyhow::Result<Exit> {
    let _lock = app::lock_data_dir(&config)?;
    let shutdown = listening()?;
    let data_dir = config.data_dir.clone();
    app::make_dev_key(&config)?;
    let app = App::connect(config).await?;
    let greet = |ready: &DevReady| {
        out.say(&greeting(&ready.address.to_string(), &data_dir, &program()));
        if out.is_json() {
            // Whoever started us reads on, or does not; the service runs all the same.
            let _ = line(&json!({ "address": ready.address, "file": ready.file }).to_string());
        }
    };
    app::run_dev(app, shutdown, greet).await?;
    Ok(Exit::Success)
}

/// An end that signals can ask for.
fn listening() -> anyhow::Result<Shutdown> {
    let shutdown = Shutdown::new();
    shutdown.listen().context("cannot listen for signals")?;
    Ok(shutdown)
}

/// The bus in memory ends with its process: nobody could send commands to a role of its own.
fn needs_broker(config: &Config) -> Result<(), ConfigError> {
    if config.broker.url.expose_secret() != "memory" {
        return Ok(());
    }
    let reason = "this role needs a broker; set METAGOV__BROKER__URL, or run `metagov dev`, which holds all roles";
    let fault = Fault { origin: "settings".to_owned(), key: Some("broker.url".to_owned()), reason: reason.to_owned() };
    Err(ConfigError { faults: vec![fault] })
}

/// What is this machine on a laptop is the service's own network in production: there it has to be spelled out.
fn needs_addresses(config: &Config) -> Result<(), ConfigError> {
    if !config.egress.has_loopback() {
        return Ok(());
    }
    let reason = "`loopback` is for `metagov dev` only; name the addresses that plugins may reach, as 127.0.0.1";
    let fault =
        Fault { origin: "settings".to_owned(), key: Some("egress.allow".to_owned()), reason: reason.to_owned() };
    Err(ConfigError { faults: vec![fault] })
}

/// The name that this program was called by, so that the commands to copy work where it is not on the path.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "metagov".to_owned())
}

/// What `metagov dev` says once everything listens.
fn greeting(address: &str, data_dir: &Path, program: &str) -> String {
    let data_dir = data_dir.display();
    format!(
        "\
metagov dev listens on {address}; its files are in {data_dir}

In another terminal:

  {program} plugin enable randomness --community demo --create --config default_low=1 --config default_high=7
  {program} action run randomness.random-int --community demo --wait
  {program} process start randomness.delayed-stochastic-vote --community demo --param 'options=[\"tea\",\"coffee\"]' \
--param delay=0 --watch

Ctrl-C ends it; a second one ends it at once."
    )
}
