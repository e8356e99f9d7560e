//! Wires everything once, and owns shutdown.
//!
//! Each role is a function that runs until it is told to stop and then finishes what it has begun. Up: `src/cli`, which
//! has read the config. Down: `src/worker` and `src/scheduler`.

use std::{
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    io::ErrorKind,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use metagov_sdk::{Environment, HttpClient, contract::Name};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    bus::{self, Bus, BusError},
    config::Config,
    health::Health,
    host::Host,
    plugins,
    registry::Registry,
    scheduler::Scheduler,
    shutdown::{Drained, Shutdown},
    store::{self, Store},
    telemetry::measures,
    vault::{KeyEntry, Vault},
    worker::{Parts, Tenancy, Worker},
};

/// How often samples that nobody has fetched are gathered into their histograms.
const UPKEEP: Duration = Duration::from_secs(5);

/// Everything a role needs, connected.
pub struct App {
    /// The settings.
    pub config: Arc<Config>,
    /// The broker.
    pub bus: Bus,
    /// The database.
    pub store: Store,
    /// The plugins of this build.
    pub registry: Arc<Registry>,
    /// The keys to the secrets of configs.
    pub vault: Vault,
    /// Whether every role of the process has been started.
    begun: Arc<AtomicBool>,
}

impl App {
    /// Connects to the broker and the database of the config, with the plugins of this build.
    ///
    /// # Errors
    /// Where a plugin is not well-formed; else as [`Self::with_plugins`].
    pub async fn connect(config: Config) -> anyhow::Result<Self> {
        Self::with_plugins(config, plugins::all().context("a plugin is not well-formed")?).await
    }

    /// The same with a list of plugins of one's own: for programs that link this library.
    ///
    /// # Errors
    /// Where an address is unusable, or the database does not answer. A broker that is away is no error: the bus connects
    /// as soon as it can.
    pub async fn with_plugins(config: Config, registry: Registry) -> anyhow::Result<Self> {
        refuse_unknown_senders(&config)?;
        let vault = open_vault(&config)?;
        let store = connect_store(&config).await?;
        let settings = bus_settings(&config)?;
        // Not ended by a signal: what has finished is still to be acknowledged then.
        let bus = Bus::connect(&settings, CancellationToken::new()).await.context("cannot use broker.url")?;
        Ok(Self { config: Arc::new(config), bus, store, registry: Arc::new(registry), vault, begun: Arc::default() })
    }

    /// The plugins that this worker runs.
    fn served(&self) -> anyhow::Result<Vec<Name>> {
        if self.config.worker.plugins.is_empty() {
            return Ok(self.registry.names().cloned().collect());
        }
        self.config.worker.plugins.iter().map(|name| self.named("worker.plugins", name)).collect()
    }

    /// Refuses a number of handlers for a plugin that this build does not have.
    fn check_plugin_concurrency(&self) -> anyhow::Result<()> {
        let mut named = self.config.worker.plugin_concurrency.iter().map(|own| &own.plugin);
        named.try_for_each(|name| self.named("worker.plugin_concurrency", name).map(drop))
    }

    /// The plugin that a setting names.
    fn named(&self, setting: &str, name: &str) -> anyhow::Result<Name> {
        let name = Name::new(name).with_context(|| format!("{setting} names '{name}'"))?;
        self.registry.find(&name).map_err(|problem| anyhow::anyhow!("{setting}: {}", problem.detail))?;
        Ok(name)
    }

    async fn refuse_old_schema(&self) -> anyhow::Result<()> {
        let pending = self.store.pending_migrations().await.context("cannot read the schema's version")?;
        if !pending.is_empty() {
            bail!("the database misses {} migration(s); run `metagov migrate` first", pending.len());
        }
        Ok(())
    }

    /// What every role needs before it starts: health, the schema, the topology.
    async fn prepare(&self, shutdown: &Shutdown) -> anyhow::Result<()> {
        self.serve_health(shutdown).await?;
        self.refuse_old_schema().await?;
        if self.config.broker.declare {
            let plugins: Vec<_> = self.registry.names().cloned().collect();
            // A broker that is away is waited for, but not against the will of whoever stops us.
            tokio::select! {
                () = shutdown.soft().cancelled_owned() => {}
                applied = self.bus.apply_topology(&plugins) => applied.context("cannot declare exchanges and queues")?,
            }
        }
        Ok(())
    }

    /// Tells how the process does, where the settings say so: from before anything is waited for until it has ended, so
    /// that waiting and draining are told, too.
    async fn serve_health(&self, shutdown: &Shutdown) -> anyhow::Result<()> {
        let address = &self.config.health.address;
        if address.is_empty() {
            return Ok(());
        }
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("health.address: cannot use {address}"))?;
        info!(address = %listener.local_addr()?, "answering /livez, /readyz and /metrics");
        let (broker, queues, store) = (self.bus.clone(), self.bus.clone(), self.store.clone());
        let (begun, stop) = (Arc::clone(&self.begun), shutdown.soft());
        let health = Health::new()
            .check("broker", move || std::future::ready(broker.standing().broker))
            .check("queues", move || std::future::ready(queues.standing().queues))
            .check("database", move || {
                let store = store.clone();
                async move { store.ping().await.map_err(|error| format!("the database does not answer: {error}")) }
            })
            .check("running", move || {
                std::future::ready(if stop.is_cancelled() {
                    Err("asked to end; what runs is finished".to_owned())
                } else if begun.load(Ordering::Acquire) {
                    Ok(())
                } else {
                    Err("not begun yet: exchanges and queues are declared first".to_owned())
                })
            });
        let figures = measures::record();
        let upkeep = figures.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(UPKEEP);
            loop {
                ticks.tick().await;
                upkeep.run_upkeep();
            }
        });
        tokio::spawn(health.serve(listener, move || figures.render()));
        Ok(())
    }

    fn spawn_worker(&self, shutdown: &Shutdown) -> anyhow::Result<()> {
        self.check_plugin_concurrency()?;
        let parts = Parts {
            registry: Arc::clone(&self.registry),
            host: Host::new(environment(&self.config), self.vault.clone()),
            bus: self.bus.clone(),
            store: self.store.clone(),
            tenancy: Tenancy::new(&self.config.tenancy, service_users(&self.config)?),
        };
        let prefix = &self.config.broker.prefix;
        let worker = Worker::new(parts, &self.config.worker, prefix, &self.served()?, shutdown.hard());
        let running = worker.run(shutdown.soft());
        shutdown.supervise("worker", async move {
            running.await;
            Ok(())
        });
        Ok(())
    }

    fn spawn_scheduler(&self, shutdown: &Shutdown) {
        let scheduler = Scheduler::new(self.store.clone(), self.bus.clone(), self.config.scheduler.batch);
        shutdown.supervise("scheduler", scheduler.run(shutdown.soft()));
    }

    /// Every role has been started: waits for the end, gives what runs its time, and closes the connections.
    async fn finish(&self, shutdown: &Shutdown) -> anyhow::Result<()> {
        self.begun.store(true, Ordering::Release);
        let budget = self.config.worker.drain();
        if let Drained::Partly(left) = shutdown.drained(budget).await {
            warn!(left, "not everything finished within {budget:?}; the rest is delivered again");
        }
        self.bus.close().await;
        if shutdown.has_failed() {
            bail!("a role ended although nobody asked it to; the log says why");
        }
        info!("stopped");
        Ok(())
    }
}

/// How the bus of the config is used.
///
/// # Errors
/// Where `broker.url` is no URL of a broker.
pub fn bus_settings(config: &Config) -> Result<bus::Settings, BusError> {
    Ok(bus::Settings {
        url: config.broker.url.clone(),
        prefix: config.broker.prefix.clone(),
        heartbeat: config.broker.heartbeat(),
        declare: config.broker.declare,
        delivery_limit: config.broker.delivery_limit,
        service_users: if config.tenancy.is_on() { service_users(config)? } else { BTreeSet::new() },
        tls: broker_tls(config),
    })
}

/// The files that the settings name.
fn broker_tls(config: &Config) -> bus::Tls {
    let named = |file: &PathBuf| Some(file.clone()).filter(|file| !file.as_os_str().is_empty());
    let broker = &config.broker;
    bus::Tls {
        ca: named(&broker.tls_ca_pem),
        certificate: named(&broker.tls_certificate_pem),
        key: named(&broker.tls_key_pem),
    }
}

/// Every user of the service's own, the one that this process connects as among them.
fn service_users(config: &Config) -> Result<BTreeSet<String>, BusError> {
    let own = bus::Login::of(&config.broker.url)?.map(|login| login.user);
    Ok(config.tenancy.service_users(&config.broker.prefix).into_iter().chain(own).collect())
}

/// Opens the database of the config.
///
/// # Errors
/// Where the address is unusable or the database does not answer.
pub async fn connect_store(config: &Config) -> anyhow::Result<Store> {
    let settings = store::Settings {
        url: config.database.url.expose_secret().to_owned(),
        max_connections: config.database.max_connections,
    };
    Store::connect(&settings).await.context("cannot open the database")
}

/// The keys of the config; where it has none, those in `<data_dir>/keys`, if that file is there.
///
/// # Errors
/// Where a key is not usable, or the file cannot be read.
pub fn open_vault(config: &Config) -> anyhow::Result<Vault> {
    if !config.secrets.keys.is_empty() {
        return Ok(Vault::new(&KeyEntry::parse_secrets(&config.secrets.keys).context("secrets.keys")?));
    }
    let path = config.data_dir.join(KEYS);
    let text = match fs::read_to_string(&path) {
        Ok(text) => SecretString::from(text),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vault::default()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let entries = text.expose_secret().lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(Vault::new(&KeyEntry::parse_all(entries).with_context(|| path.display().to_string())?))
}

/// What plugins are given of the world; their HTTP reaches what the settings allow.
fn environment(config: &Config) -> Environment {
    Environment { http: HttpClient::new(config.egress.policy()), ..Environment::system() }
}

/// Whether the bus can tell who sends a command, where the settings ask for that.
fn refuse_unknown_senders(config: &Config) -> anyhow::Result<()> {
    if config.tenancy.required && bus::Login::of(&config.broker.url)?.is_none() {
        bail!("tenancy.required needs a broker that knows who sends a command; the bus in memory has no users");
    }
    Ok(())
}

/// Takes the data directory for this `metagov dev`, for as long as the answer is kept: a lock of the operating system, which
/// ends with the process however that ends. Nothing is made where the settings cannot be used.
///
/// # Errors
/// Where another process has it, or the directory cannot be written.
pub fn lock_data_dir(config: &Config) -> anyhow::Result<Option<File>> {
    refuse_unknown_senders(config)?;
    let dir = &config.data_dir;
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let path = dir.join("dev.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            bail!("another `metagov dev` runs on {}; end it, or set METAGOV__DATA_DIR", dir.display())
        }
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
            warn!(%error, "this file system has no locks: see to it that no other `metagov dev` runs on it");
            Ok(None)
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Makes a key for a `metagov dev` that has none, so that it needs no settings.
///
/// # Errors
/// Where the settings refuse the start all the same, and where the file cannot be written.
pub fn make_dev_key(config: &Config) -> anyhow::Result<()> {
    refuse_unknown_senders(config)?;
    let path = config.data_dir.join(KEYS);
    if config.secrets.keys.is_empty() && !path.exists() {
        let text = format!("{}\n", KeyEntry::generate().expose_secret());
        write_private(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The file in `data_dir` that holds the keys of a `metagov dev`.
const KEYS: &str = "keys";

/// Runs a worker until it is told to stop, then finishes what it has begun.
///
/// # Errors
/// Where it cannot start, or ends although nobody asked it to.
pub async fn run_worker(app: App, shutdown: Shutdown) -> anyhow::Result<()> {
    app.prepare(&shutdown).await?;
    app.spawn_worker(&shutdown)?;
    app.finish(&shutdown).await
}

/// Runs a scheduler until it is told to stop.
///
/// # Errors
/// Where it cannot start, or ends although nobody asked it to.
pub async fn run_scheduler(app: App, shutdown: Shutdown) -> anyhow::Result<()> {
    app.prepare(&shutdown).await?;
    app.spawn_scheduler(&shutdown);
    app.finish(&shutdown).await
}

/// What `metagov dev` tells whoever started it.
pub struct DevReady {
    /// Where the other commands find it.
    pub address: std::net::SocketAddr,
    /// The file that tells them.
    pub file: PathBuf,
}

/// Runs all roles in one process until it is told to stop; `ready` is called once everything listens.
///
/// # Errors
/// Where it cannot start, or a role ends although nobody asked it to.
pub async fn run_dev(app: App, shutdown: Shutdown, ready: impl FnOnce(&DevReady)) -> anyhow::Result<()> {
    app.store.migrate().await.context("cannot migrate the database")?;
    app.prepare(&shutdown).await?;
    // What can refuse the start does so before anybody is told that we are here.
    app.served()?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("cannot listen on loopback")?;
    let address = listener.local_addr()?;
    let token = Uuid::new_v4().simple().to_string();
    let file = app.config.data_dir.join("dev.json");
    let note = serde_json::json!({ "address": address, "token": token, "pid": std::process::id() });
    write_private(&file, &note.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
    let lent = app.bus.clone();
    let serving = tokio::spawn(async move { lent.serve(listener, token.into()).await });
    app.spawn_scheduler(&shutdown);
    app.spawn_worker(&shutdown)?;
    ready(&DevReady { address, file: file.clone() });
    let finished = app.finish(&shutdown).await;
    serving.abort();
    // Whoever comes now must not look for a service that has ended.
    let _ = fs::remove_file(&file);
    finished
}

/// Writes a file that nobody else may read: it holds the token of the loopback socket, or a key.
fn write_private(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    use std::{
        fs::{OpenOptions, create_dir_all, remove_file},
        io::Write,
        os::unix::fs::OpenOptionsExt,
    };
    if let Some(parent) = path.parent() {
        create_dir_all(parent)?;
    }
    // A file left by a crash may have other permissions; a new one has ours.
    let _ = remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    // What is sealed under a key is lost with it.
    file.sync_all()
}
