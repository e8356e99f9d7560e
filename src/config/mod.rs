//! The settings of a process: what can be set, and the one way in which it is found.
//!
//! Layers, each over the one before: the built-in `config.default.toml`, one file, `METAGOV__SECTION__KEY`,
//! `METAGOV__SECTION__KEY_FILE`, flags. An unknown key or an unusable value in any of them refuses the start; nothing is
//! ignored and nothing is guessed. The layers are read in [`layers`], shown by [`explain`]. This module opens no
//! connection. Up: `src/cli`. Down: `src/app.rs`, which wires the roles by it.

mod egress;
mod explain;
mod fault;
mod layers;
mod plugin_concurrency;
mod rules;
mod tenancy;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

pub use self::{
    egress::{Allowed, EgressSettings},
    explain::{Setting, mask_url},
    fault::{ConfigError, Fault},
    layers::{Flag, Sources},
    plugin_concurrency::PluginConcurrency,
    tenancy::{Binding, Communities, ServiceRole, Tenancy},
};
use self::{explain::Origins, layers::Layer};

/// Every setting with its default and one sentence about it.
pub const DEFAULTS: &str = include_str!("../config.default.toml");

/// All settings of a process.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where `metagov dev` keeps its files.
    pub data_dir: PathBuf,
    /// RabbitMQ, or the bus inside `metagov dev`.
    pub broker: Broker,
    /// SQLite or PostgreSQL.
    pub database: Database,
    /// The role that runs plugins.
    pub worker: Worker,
    /// The role that wakes what is due.
    pub scheduler: Scheduler,
    /// Who may speak for which communities.
    pub tenancy: Tenancy,
    /// What seals the secrets of plugins.
    pub secrets: Secrets,
    /// Where plugins may go.
    pub egress: EgressSettings,
    /// Where a role tells how it does.
    pub health: Health,
    /// What is logged, and how.
    pub log: Log,
}

/// Where a role tells how it does.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// The address of `/livez`, `/readyz` and `/metrics`; empty for none.
    pub address: String,
}

/// How the broker is reached.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// `amqp://…`, `amqps://…`, or `memory`.
    pub url: SecretString,
    /// The first word of every exchange and queue.
    pub prefix: String,
    /// Seconds between heartbeats.
    pub heartbeat_seconds: u16,
    /// Whether roles declare the topology at start.
    pub declare: bool,
    /// `x-delivery-limit` of the command queues.
    pub delivery_limit: u32,
    /// The file with the authorities of an `amqps://…` broker; empty for those that are publicly trusted.
    pub tls_ca_pem: PathBuf,
    /// The file with our certificate for it; empty for none.
    pub tls_certificate_pem: PathBuf,
    /// The file with the key of our certificate; empty for none.
    pub tls_key_pem: PathBuf,
}

impl Broker {
    /// The time between heartbeats.
    #[must_use]
    pub fn heartbeat(&self) -> Duration {
        Duration::from_secs(self.heartbeat_seconds.into())
    }
}

/// How the database is reached.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// `sqlite:<file>` or `postgres://…`, with `{data_dir}` already replaced.
    pub url: SecretString,
    /// The most connections of one process.
    pub max_connections: u32,
}

/// How a worker works.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    /// The plugins that it runs; empty for all.
    pub plugins: Vec<String>,
    /// Handlers at once for each queue of a plugin; its consumer fetches twice as many.
    pub concurrency: u16,
    /// The same for the queues of single plugins.
    pub plugin_concurrency: Vec<PluginConcurrency>,
    /// Percent of the handlers of a queue that one community may hold.
    pub community_share: u16,
    /// Commands a second of one community that each queue of a plugin begins, at most; 0 for any number.
    pub community_rate: u32,
    /// Seconds that a handler may take by default.
    pub deadline_seconds: u64,
    /// Tries of one handler, the first included.
    pub max_attempts: u32,
    /// Outcomes in one transaction, at most.
    pub batch: usize,
    /// Batches on their way at once.
    pub batches_in_flight: usize,
    /// The largest body that is parsed.
    pub max_body_bytes: usize,
    /// What the bodies of all fetched commands may take in memory.
    pub prefetch_bytes: usize,
    /// Seconds that running handlers get after the first signal.
    pub drain_seconds: u64,
}

impl Worker {
    /// Handlers at once for each queue of this plugin, or of the service's own queues.
    #[must_use]
    pub fn concurrency_of(&self, plugin: Option<&str>) -> u16 {
        let own = self.plugin_concurrency.iter().find(|own| Some(own.plugin.as_str()) == plugin);
        own.map_or(self.concurrency, |own| own.handlers)
    }

    /// The time that a handler may take by default.
    #[must_use]
    pub const fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline_seconds)
    }

    /// The time that running handlers get after the first signal.
    #[must_use]
    pub const fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}

/// How the scheduler works.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheduler {
    /// Due rows that one scan takes on, at most.
    pub batch: u64,
}

/// What seals the secrets of plugins.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    /// `<id>:<base64 of 32 bytes>` each; the first seals, all of them open.
    pub keys: Vec<SecretString>,
}

/// What is logged, and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// `level` or `target=level,…`, in the words of `tracing_subscriber::EnvFilter`.
    pub filter: String,
}

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    Human,
    /// One JSON object for each line.
    Json,
}

/// The settings, and which layer set each of them.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    origins: Origins,
}

impl Loaded {
    /// Every key in order, with its value (secrets masked) and the layer that set it.
    #[must_use]
    pub fn explain(&self) -> Vec<Setting> {
        self.origins.settings()
    }

    /// Whether any layer but the defaults set this key.
    #[must_use]
    pub fn is_set(&self, key: &str) -> bool {
        self.origins.is_set(key)
    }
}

impl Config {
    /// Reads all layers and checks every key and every value in them.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong, each with the file, variable or flag that it stands in.
    ///
    /// # Panics
    /// Never: the built-in defaults are read by a test.
    pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
        let defaults = Layer::defaults();
        let known = defaults.kinds();
        let mut faults = Vec::new();
        let mut builder = config::Config::builder().add_source(defaults);
        for layer in sources.layers(&known, &mut faults) {
            rules::check(&layer, &mut faults);
            builder = builder.add_source(layer);
        }
        if !faults.is_empty() {
            return Err(ConfigError { faults });
        }
        let merged = builder.build().map_err(ConfigError::unexpected)?;
        let mut origins = Origins::of(&merged);
        let mut config: Self = merged.try_deserialize().map_err(ConfigError::unexpected)?;
        config.database.url = layers::in_data_dir(&config.database.url, &config.data_dir);
        origins.set_url("database.url", config.database.url.expose_secret());
        if let Some(user) = config.tenancy.reserved_user(&config.broker.prefix) {
            let reason = format!("'{user}' is a user or a queue of the service itself; give the driver another name");
            return Err(ConfigError {
                faults: vec![Fault::at(origins.of_key("tenancy.users"), "tenancy.users", reason)],
            });
        }
        Ok(Loaded { config, origins })
    }
}
