//! The rig: all that a scenario needs. Whoever writes one reads this page and no other.
//!
//! A scenario is `async fn t01(rig: &mut Rig, size: Size) -> Row` in a file by theme, named in the list of `main.rs`:
//!
//! ```text
//! let mut service = rig.service(Setup { workers: 4, ..Setup::default() }).await;   // database, queues, processes
//! let commands = service.commands(size.of(50_000, 2_000), "keyed", &json!({ "deeds": ["succeed"], "calls": true }));
//! let sending = service.send(&commands);                                           // goes on in the background
//! … rig.broker.kill().await; service.processes[0].signal("STOP"); service.replace(1); proxy.cut(); …
//! sending.await;                                                                   // all are confirmed
//! let tally = service.settle(&commands, &["action.completed"]).await;              // waits for quiet, then counts
//! Row::new("T01", "what was done").counts(tally).at_most("calls repeated", n, limit)
//! ```
//!
//! | to | use |
//! |---|---|
//! | break a server | `rig.broker`, `rig.database`: `kill`, `stop`, `start_again`, `restart`, `pause`, `resume`, `ctl` ([`Server`]) |
//! | break a connection | `Proxy::to(rig.broker.address())` and [`Setup::broker_url`], [`Setup::database_url`] |
//! | break a process | `service.processes[i]`: `kill`, `signal`, `ended_within`, `logs_within`, `resident_kib` ([`Process`]); `service.replace(i)` |
//! | break a plugin | the `deeds` of a command, one for each attempt ([`Deed`](crate::puppet::Deed)) |
//! | break a disk | `Disk::mount(&rig.logs, mib)` and [`Setup::disk`]: `fill`, `free` ([`Disk`](crate::mounts::Disk)) |
//! | break a platform | `rig.platform.answer(…)`, `answer_to(community, …)`, `calls()` ([`Platform`]) |
//! | draw lots | `rig.random`, which follows from the seed |
//! | look | `service.driver` ([`Driver`]: `wait_for`, `latencies`, `book`), `service.sql(…)` |
//! | judge | [`Row`](crate::table::Row): `counts`, `at_most`, `at_least`, `exactly`, `within`, `holds`, `note` |
//!
//! Every service has a database, a broker prefix and a driver of its own; the servers are shared, and whatever a
//! scenario leaves them in, the rig repairs. A process that ends unasked is counted as stuck.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use metagov::bus::{self, Bus};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    driver::{Command, Driver, Sending},
    platform::Platform,
    puppet::PLATFORM,
    rows,
    servers::Server,
    workers::{self, Process, Role},
};

/// The community of every scenario that does not ask for others.
pub(crate) const COMMUNITY: &str = "acme";
/// How long nothing new must come before what is missing counts as lost: longer than leases, the delay ladder's first
/// steps and the sweeper take together.
pub(crate) const QUIET: Duration = Duration::from_secs(100);

/// How much a scenario does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// As much as tells whether a mechanism is there.
    Ci,
    /// As much as the figures are for.
    Full,
}

impl Size {
    /// One of two.
    pub(crate) fn of<T>(self, full: T, ci: T) -> T {
        match self {
            Self::Full => full,
            Self::Ci => ci,
        }
    }
}

/// What all scenarios share.
pub(crate) struct Rig {
    /// RabbitMQ.
    pub(crate) broker: Server,
    /// PostgreSQL.
    pub(crate) database: Server,
    /// What the puppet calls.
    pub(crate) platform: Platform,
    /// Follows from the seed and the scenario, whichever ran before.
    pub(crate) random: ChaCha8Rng,
    directory: tempfile::TempDir,
    /// Of this scenario.
    pub(crate) logs: PathBuf,
}

/// How a service is set up.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// Worker processes.
    pub(crate) workers: usize,
    /// Scheduler processes.
    pub(crate) schedulers: usize,
    /// `metagov dev` processes.
    pub(crate) devs: usize,
    /// Settings by key: `("worker.concurrency", "32")`.
    pub(crate) settings: Vec<(&'static str, String)>,
    /// Further variables for the processes.
    pub(crate) environment: Vec<(String, String)>,
    /// Another way to the broker: through a proxy.
    pub(crate) broker_url: Option<String>,
    /// Another way to the database.
    pub(crate) database_url: Option<String>,
    /// A file of SQLite instead of PostgreSQL.
    pub(crate) sqlite: bool,
    /// The directory of that file, where it is not to lie among the logs.
    pub(crate) disk: Option<PathBuf>,
    /// The communities that have the puppet.
    pub(crate) communities: Vec<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            workers: 1,
            schedulers: 0,
            devs: 0,
            settings: Vec::new(),
            environment: Vec::new(),
            broker_url: None,
            database_url: None,
            sqlite: false,
            disk: None,
            communities: vec![COMMUNITY.to_owned()],
        }
    }
}

/// The service of one scenario, and its driver. Its processes end with it.
pub(crate) struct Service {
    /// Sends and listens.
    pub(crate) driver: Driver,
    /// Workers first, then schedulers, then `dev`s, in the order of their start.
    pub(crate) processes: Vec<Process>,
    /// The first word of its exchanges and queues.
    pub(crate) prefix: String,
    /// Its database, reached directly.
    pub(crate) database_url: String,
    /// What its puppet calls.
    pub(crate) platform: Platform,
    environment: Vec<(String, String)>,
    directory: PathBuf,
    started: usize,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        // PostgreSQL runs as a user of its own, who has to get through.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(directory.path(), mode).expect("the directory is ours");
        let broker = Server::start("rabbitmq", directory.path(), &[]).await;
        let database = Server::start("postgres", directory.path(), &["fsync=on", "max_connections=400"]).await;
        let platform = Platform::start(&directory.path().join("platform.log")).await;
        let logs = directory.path().to_owned();
        Self { broker, database, platform, random: ChaCha8Rng::seed_from_u64(0), directory, logs }
    }

    /// What every scenario finds: servers that run, lots that follow from the seed and its id, a directory for its logs.
    pub(crate) async fn prepare(&mut self, seed: u64, id: &str, unharmed: bool) {
        self.broker.repair().await;
        if !unharmed {
            // A scenario that ended early may have left an alarm or another setting.
            self.broker.restart().await;
        }
        self.database.repair().await;
        let number = id.bytes().fold(seed, |number, byte| number.wrapping_mul(31).wrapping_add(byte.into()));
        self.random = ChaCha8Rng::seed_from_u64(number);
        self.logs = self.directory.path().join(id);
        std::fs::create_dir_all(&self.logs).expect("the directory is ours");
    }

    /// A database, a prefix, a driver, the processes, and the communities with the puppet enabled.
    pub(crate) async fn service(&mut self, setup: Setup) -> Service {
        self.platform.clear();
        let word = Uuid::new_v4().simple().to_string();
        let prefix = format!("f{}", &word[..8]);
        let database_url = if setup.sqlite {
            rows::in_file(&setup.disk.unwrap_or_else(|| self.logs.clone()), &prefix)
        } else {
            rows::on_server(&self.database, &prefix).await
        };
        rows::migrate(&database_url).await;
        declare(&self.broker.url, &prefix).await;
        let driver = Driver::connect(&self.broker.url, &prefix).await;
        let theirs = match &setup.database_url {
            Some(url) => format!("{}/{prefix}", url.rsplit_once('/').expect("the URL names a database").0),
            None => database_url.clone(),
        };
        let mut environment = vec![
            ("METAGOV__BROKER__URL".to_owned(), setup.broker_url.unwrap_or_else(|| self.broker.url.clone())),
            ("METAGOV__BROKER__PREFIX".to_owned(), prefix.clone()),
            ("METAGOV__DATABASE__URL".to_owned(), theirs),
            ("METAGOV__DATA_DIR".to_owned(), self.logs.join(&prefix).display().to_string()),
            ("METAGOV__LOG__FILTER".to_owned(), "info".to_owned()),
            (PLATFORM.to_owned(), self.platform.address.to_string()),
            // The panics of the puppet need no more lines than one.
            ("RUST_BACKTRACE".to_owned(), "0".to_owned()),
        ];
        let variable = |key: &str| format!("METAGOV__{}", key.to_uppercase().replace('.', "__"));
        environment.extend(setup.settings.iter().map(|(key, value)| (variable(key), value.clone())));
        environment.extend(setup.environment);
        let mut service = Service {
            driver,
            processes: Vec::new(),
            prefix,
            database_url,
            platform: self.platform.clone(),
            environment,
            directory: self.logs.clone(),
            started: 0,
        };
        for (role, count) in
            [(Role::Worker, setup.workers), (Role::Scheduler, setup.schedulers), (Role::Dev, setup.devs)]
        {
            for _ in 0..count {
                service.start(role);
            }
        }
        service.enable(&setup.communities).await;
        service
    }

    /// The last lines of what the scenario's processes logged, for whoever looks into a failure.
    pub(crate) fn logged(&self) -> String {
        let mut files: Vec<_> = std::fs::read_dir(&self.logs)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|kind| kind == "log"))
            .collect();
        files.sort();
        let tail = |path: &PathBuf| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(8)..].join("\n    ");
            format!("  {}\n    {last}", path.file_name().unwrap_or_default().to_string_lossy())
        };
        files.iter().map(tail).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.broker.end();
        self.database.end();
    }
}

impl Service {
    /// One more process beside those that run.
    pub(crate) fn start(&mut self, role: Role) {
        let process = self.process(role);
        self.processes.push(process);
    }

    /// SIGKILL for a worker, and a new one in its place.
    pub(crate) fn replace(&mut self, place: usize) {
        self.replace_by(place, Role::Worker);
    }

    /// SIGKILL for a process, and a new one in its place.
    pub(crate) fn replace_by(&mut self, place: usize, role: Role) {
        self.processes[place].kill();
        self.processes[place] = self.process(role);
    }

    /// Sets a variable for the processes that are started from now on, or takes it away.
    pub(crate) fn set(&mut self, variable: &str, value: Option<&str>) {
        self.environment.retain(|(name, _)| name != variable);
        self.environment.extend(value.map(|value| (variable.to_owned(), value.to_owned())));
    }

    fn process(&mut self, role: Role) -> Process {
        self.started += 1;
        let name = format!("{}-{role:?}-{}", self.prefix, self.started).to_lowercase();
        Process::start(role, name, &self.directory, &self.environment)
    }

    /// Commands for an action of the puppet, in the community of every scenario.
    pub(crate) fn commands(&self, count: usize, action: &str, script: &Value) -> Vec<Command> {
        (0..count).map(|_| self.command_in(COMMUNITY, action, script)).collect()
    }

    /// One command in a community.
    #[expect(clippy::unused_self, reason = "a command without a service is of no use")]
    pub(crate) fn command_in(&self, community: &str, action: &str, script: &Value) -> Command {
        let script = json!({ "deeds": script["deeds"], "calls": script["calls"] });
        command(&format!("action.puppet.{action}"), &json!({ "community": community, "parameters": script }))
    }

    /// Sends in the background; the handle resolves once every command is confirmed.
    pub(crate) fn send(&self, commands: &[Command]) -> Sending {
        self.driver.send_in_background(commands)
    }

    /// The one number that a query answers.
    pub(crate) async fn sql(&self, query: &str) -> usize {
        rows::number(&self.database_url, query).await
    }

    /// Enables the puppet in these communities.
    pub(crate) async fn enable(&self, communities: &[String]) {
        let plugins = json!([{ "name": "puppet", "config": {} }]);
        let apply = |slug: &String| command("community.apply", &json!({ "slug": slug, "plugins": plugins }));
        let commands: Vec<_> = communities.iter().map(apply).collect();
        self.driver.send(&commands).await;
        self.answered(&commands, commands.len()).await;
    }
}

/// Any command, with a fresh `message_id`.
pub(crate) fn command(key: &str, body: &Value) -> Command {
    Command::new(key, body.to_string().into_bytes())
}

/// What workers declare at their start, so that the driver need not wait for the first of them; `topology apply`.
pub(crate) async fn declare(url: &str, prefix: &str) {
    let bus = connect(url, prefix).await;
    let plugins: Vec<_> = workers::registry().names().cloned().collect();
    bus.apply_topology(&plugins).await.expect("the broker lets us declare");
    bus.close().await;
}

/// The service's own way to the broker, for what only it knows to read.
pub(crate) async fn connect(url: &str, prefix: &str) -> Bus {
    let settings = bus::Settings {
        url: SecretString::from(url),
        prefix: prefix.to_owned(),
        heartbeat: Duration::from_secs(10),
        declare: true,
        delivery_limit: 100,
        service_users: BTreeSet::new(),
        tls: metagov::bus::Tls::default(),
    };
    Bus::connect(&settings, CancellationToken::new()).await.expect("the URL of the broker is usable")
}
