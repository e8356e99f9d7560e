//! A world with a whole service in it: broker prefix, database, workers, scheduler, and a driver.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use metagov::{
    bus::{self, Bus, Destination, Message, Outgoing, Properties, Published},
    config,
    host::Host,
    registry::{Registry, RegistryError},
    scheduler::Scheduler,
    store::{self, Store},
    vault::{KeyEntry, Vault},
    worker::{Parts, Tenancy, Worker},
};
use metagov_sdk::{
    Environment,
    contract::{CommunitySlug, Name, ProcessRecord},
};
use sea_orm::{ConnectionTrait, Database, Statement};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    mailbox::{Mailbox, Received},
    poster::Poster,
    puppet::Puppet,
};
use crate::secrets::Locker;

/// The community of every story.
pub(crate) const COMMUNITY: &str = "acme";

/// A service and its driver.
pub(crate) struct World {
    pub(crate) driver: Bus,
    pub(crate) store: Store,
    pub(crate) mail: Mailbox,
    pub(crate) replies: Mailbox,
    pub(crate) reply_queue: String,
    pub(crate) prefix: String,
    registry: Arc<Registry>,
    running: Vec<Running>,
    database: TestDatabase,
    pub(crate) url: String,
}

/// A role that runs in this process.
pub(crate) struct Running {
    stop: CancellationToken,
    abort: CancellationToken,
    bus: Bus,
    task: JoinHandle<()>,
}

/// A worker that can be killed.
pub(crate) struct Mortal {
    runtime: Option<Runtime>,
    bus: Bus,
}

impl Drop for Mortal {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Mortal {
    /// Takes its connection to the broker for good; what it has in hand it goes on with.
    pub(crate) async fn disconnect(&self) {
        self.bus.close().await;
    }

    /// Kills it: whatever it does ends where it is, and nothing is tidied up.
    pub(crate) async fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        self.bus.close().await;
    }
}

/// The settings of a story's worker.
pub(crate) fn settings() -> config::Worker {
    let defaults = config::Config::load(&config::Sources::default()).expect("the defaults are well-formed");
    config::Worker { max_attempts: 2, concurrency: 64, ..defaults.config.worker }
}

/// A command that a driver sends.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    pub(crate) routing_key: String,
    pub(crate) body: Bytes,
    pub(crate) properties: Properties,
}

impl Command {
    /// A command with a fresh `message_id`.
    pub(crate) fn new(routing_key: &str, body: &Value) -> Self {
        Self::raw(routing_key, body.to_string().into_bytes())
    }

    /// A command whose body is whatever it is.
    pub(crate) fn raw(routing_key: &str, body: impl Into<Bytes>) -> Self {
        let properties = Properties {
            content_type: Some("application/json".to_owned()),
            message_id: Some(Uuid::new_v4().to_string()),
            ..Properties::default()
        };
        Self { routing_key: routing_key.to_owned(), body: body.into(), properties }
    }

    /// The key that it is recognised by.
    pub(crate) fn id(&self) -> String {
        self.properties.message_id.clone().expect("the story gave it a message_id")
    }
}

pub(crate) fn required(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set; run tests/run, which starts the servers that tests need"))
}

/// A database of the story's own.
enum TestDatabase {
    /// The directory goes with it.
    Sqlite {
        _directory: tempfile::TempDir,
    },
    Postgres {
        server: String,
        name: String,
    },
}

impl TestDatabase {
    fn sqlite() -> (Self, String) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let url = format!("sqlite:{}", directory.path().join("metagov.db").display());
        (Self::Sqlite { _directory: directory }, url)
    }

    async fn postgres() -> (Self, String) {
        let server = required("METAGOV_TEST_DATABASE_URL");
        let name = format!("story_{}", Uuid::new_v4().simple());
        let connection = Database::connect(&server).await.expect("the test server answers");
        connection.execute_unprepared(&format!("CREATE DATABASE {name}")).await.expect("the user may create databases");
        connection.close().await.expect("it closes");
        let (base, _) = server.rsplit_once('/').expect("the URL names a database");
        let url = format!("{base}/{name}");
        (Self::Postgres { server, name }, url)
    }

    async fn drop(self) {
        if let Self::Postgres { server, name } = self {
            let connection = Database::connect(&server).await.expect("the test server answers");
            connection
                .execute_unprepared(&format!("DROP DATABASE {name} WITH (FORCE)"))
                .await
                .expect("the user may drop databases");
        }
    }
}

impl World {
    pub(crate) async fn on_sqlite() -> Self {
        let (database, url) = TestDatabase::sqlite();
        Self::new(database, url).await
    }

    pub(crate) async fn on_postgres() -> Self {
        let (database, url) = TestDatabase::postgres().await;
        Self::new(database, url).await
    }

    /// On PostgreSQL through the pooler with this URL.
    pub(crate) async fn through(pooler: &str) -> Self {
        let (database, _) = TestDatabase::postgres().await;
        let TestDatabase::Postgres { name, .. } = &database else { unreachable!("it was just made") };
        let (base, _) = pooler.rsplit_once('/').expect("the URL names a database");
        let url = format!("{base}/{name}");
        Self::new(database, url).await
    }

    async fn new(database: TestDatabase, url: String) -> Self {
        let registry = puppets().expect("the plugins of the stories are well-formed");
        let store = Store::connect(&store::Settings { url: url.clone(), max_connections: 4 })
            .await
            .expect("the database answers");
        store.migrate().await.expect("the schema can be made");
        let prefix = format!("t{}", Uuid::new_v4().simple());
        let driver = connect(&prefix).await;
        let names: Vec<Name> = registry.names().cloned().collect();
        driver.apply_topology(&names).await.expect("the broker lets us declare");
        let mail = Mailbox::of(driver.subscribe(&["#".to_owned()]).await.expect("events can be subscribed to"));
        let replies = driver.subscribe(&[]).await.expect("a queue for replies");
        let reply_queue = replies.queue().to_owned();
        let mut world = Self {
            driver,
            store,
            mail,
            replies: Mailbox::of(replies),
            reply_queue,
            prefix,
            registry: Arc::new(registry),
            running: Vec::new(),
            database,
            url,
        };
        world.start_worker().await;
        world.start_scheduler().await;
        world
    }

    /// One more worker beside those that run.
    pub(crate) async fn start_worker(&mut self) {
        self.start(settings(), Vault::new(&[key("k1", 1)])).await;
    }

    /// One more worker, which runs these plugins only.
    pub(crate) async fn start_worker_of(&mut self, plugins: &[&str]) {
        let plugins: Vec<Name> = plugins.iter().map(|name| name.parse().expect("a name")).collect();
        self.start_with(settings(), Vault::new(&[key("k1", 1)]), &plugins).await;
    }

    /// One more worker with settings of its own.
    pub(crate) async fn start_worker_with(&mut self, settings: config::Worker) {
        self.start(settings, Vault::new(&[key("k1", 1)])).await;
    }

    /// One more worker, with these keys.
    pub(crate) async fn start_worker_with_keys(&mut self, vault: Vault) {
        self.start(settings(), vault).await;
    }

    async fn start(&mut self, settings: config::Worker, vault: Vault) {
        let plugins: Vec<Name> = self.registry.names().cloned().collect();
        self.start_with(settings, vault, &plugins).await;
    }

    async fn start_with(&mut self, settings: config::Worker, vault: Vault, plugins: &[Name]) {
        let bus = connect(&self.prefix).await;
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let worker = Worker::new(self.parts(&bus, &self.store, vault), &settings, &self.prefix, plugins, abort.clone());
        let task = tokio::spawn(worker.run(stop.clone()));
        self.running.push(Running { stop, abort, bus, task });
    }

    fn parts(&self, bus: &Bus, store: &Store, vault: Vault) -> Parts {
        Parts {
            registry: Arc::clone(&self.registry),
            host: Host::new(Environment::system(), vault),
            bus: bus.clone(),
            store: store.clone(),
            tenancy: Tenancy::default(),
        }
    }

    /// A worker that can be killed: everything of it but the connection runs on threads of its own.
    pub(crate) async fn start_mortal(&self) -> Mortal {
        let bus = connect(&self.prefix).await;
        let runtime =
            Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads can be started");
        let database = store::Settings { url: self.url.clone(), max_connections: 4 };
        let opened = runtime.spawn(async move { Store::connect(&database).await });
        let store = opened.await.expect("it does not panic").expect("the database answers");
        let plugins: Vec<Name> = self.registry.names().cloned().collect();
        let entered = runtime.enter();
        let parts = self.parts(&bus, &store, Vault::new(&[key("k1", 1)]));
        let worker = Worker::new(parts, &settings(), &self.prefix, &plugins, CancellationToken::new());
        let running = worker.run(CancellationToken::new());
        drop(entered);
        runtime.spawn(running);
        Mortal { runtime: Some(runtime), bus }
    }

    /// Ends everything that runs in good order.
    pub(crate) async fn stop(&mut self) {
        for running in self.running.drain(..) {
            running.stop.cancel();
            running.task.await.expect("no role panicked");
            running.bus.close().await;
        }
    }

    /// One more scheduler beside those that run.
    pub(crate) async fn start_scheduler(&mut self) {
        let bus = connect(&self.prefix).await;
        let stop = CancellationToken::new();
        let scheduler = Scheduler::new(self.store.clone(), bus.clone(), 500);
        let running = scheduler.run(stop.clone());
        let task = tokio::spawn(async move { running.await.expect("the scheduler starts") });
        self.running.push(Running { stop, abort: CancellationToken::new(), bus, task });
    }

    /// Ends everything that runs as a crash would: nothing is finished, nothing acknowledged. What was told so far is
    /// marked as told before, for a death between the two is a story of `tests/interruptions`.
    pub(crate) async fn crash(&mut self) {
        let marked = async { while self.store.overdue(Duration::ZERO).await.expect("the database answers") > 0 {} };
        tokio::time::timeout(Duration::from_mins(1), marked).await.expect("what is told is marked");
        for running in self.running.drain(..) {
            running.abort.cancel();
            running.task.abort();
            running.bus.close().await;
            let _ = running.task.await;
        }
    }

    /// Publishes a command; every story's commands must find a queue.
    pub(crate) async fn send(&self, command: &Command) {
        self.send_all(std::slice::from_ref(command)).await;
    }

    /// Publishes commands all at once.
    pub(crate) async fn send_all(&self, commands: &[Command]) {
        let outgoing = commands.iter().map(|command| {
            let message = Message {
                routing_key: command.routing_key.clone(),
                body: command.body.clone(),
                properties: command.properties.clone(),
            };
            Outgoing { to: Destination::Commands, message }
        });
        let published = self.driver.publish(outgoing.collect()).await.expect("the broker confirms");
        for (command, published) in commands.iter().zip(published) {
            assert_eq!(published, Published::Routed, "{} reached no queue", command.routing_key);
        }
    }

    /// Publishes a command and waits for the answer to it.
    pub(crate) async fn ask(&self, command: &Command) -> Received {
        self.send(command).await;
        self.answer(command).await
    }

    /// The first event that answers a command.
    pub(crate) async fn answer(&self, command: &Command) -> Received {
        let id = command.id();
        let what = format!("an answer to {}", command.routing_key);
        let answers = [
            ".completed",
            ".failed",
            ".uncertain",
            ".started",
            ".updated",
            ".enabled",
            ".disabled",
            ".applied",
            ".deleted",
            ".rejected",
        ];
        let is_answer = |received: &Received| {
            received.event.causationid.as_deref() == Some(&id)
                && answers.iter().any(|end| received.event.event_type.ends_with(end))
                // A community's plugins are told before the community itself.
                && (!command.routing_key.starts_with("community.")
                    || received.event.event_type.contains(".community.")
                    || received.event.event_type.ends_with(".rejected"))
        };
        self.mail.wait_for(1, &what, is_answer).await.remove(0)
    }

    /// Publishes an ordinary command and waits for its answer.
    pub(crate) async fn tell(&self, routing_key: &str, body: &Value) -> Received {
        self.ask(&Command::new(routing_key, body)).await
    }

    /// The community of the story with the puppet enabled.
    pub(crate) async fn with_puppet(&self) {
        self.with_plugins(&json!([{ "name": "puppet", "config": {} }])).await;
    }

    /// The community of the story with these plugins.
    pub(crate) async fn with_plugins(&self, plugins: &Value) {
        let applied = self.tell("community.apply", &json!({ "slug": COMMUNITY, "plugins": plugins })).await;
        assert_eq!(applied.event.event_type, "org.metagov.community.applied", "{:?}", applied.event.data);
    }

    /// An action of the puppet that follows this script.
    pub(crate) fn act(action: &str, tag: &str, script: &[&str]) -> Command {
        let parameters = json!({ "tag": tag, "script": script });
        Command::new(&format!("action.puppet.{action}"), &json!({ "community": COMMUNITY, "parameters": parameters }))
    }

    /// An action of the poster, whose two steps follow these scripts.
    pub(crate) fn post(action: &str, tag: &str, post: &[&str], pin: &[&str]) -> Command {
        let parameters = json!({ "tag": tag, "post": post, "pin": pin });
        Command::new(&format!("action.poster.{action}"), &json!({ "community": COMMUNITY, "parameters": parameters }))
    }

    /// Lets the lease of this command's attempt run out.
    pub(crate) async fn run_out(&self, command: &Command) {
        let past = "'2000-01-01 00:00:00+00:00'";
        self.sql(&format!("UPDATE inbox SET lease_until = {past} WHERE message_id = '{}'", command.id())).await;
    }

    /// Runs the command line against this world: its exit code, stdout and stderr.
    pub(crate) async fn metagov(&self, arguments: &[&str]) -> (i32, String, String) {
        self.metagov_with(arguments, &[]).await
    }

    /// The same with further variables.
    pub(crate) async fn metagov_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_metagov"));
        command.args(arguments).envs(self.settings()).envs(environment.iter().copied());
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it does not panic");
        let output = output.expect("the program was built");
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        (output.status.code().expect("it was not killed"), text(output.stdout), text(output.stderr))
    }

    /// The record of a process event.
    pub(crate) fn record(received: &Received) -> ProcessRecord {
        serde_json::from_value(received.event.data.clone()).expect("process events carry the record")
    }

    /// The story's community.
    pub(crate) fn community() -> CommunitySlug {
        CommunitySlug::new(COMMUNITY).expect("it is a slug")
    }

    /// What the command line has to be told to find this world.
    pub(crate) fn settings(&self) -> [(&'static str, String); 3] {
        [
            ("METAGOV__BROKER__URL", required("METAGOV_TEST_AMQP_URL")),
            ("METAGOV__BROKER__PREFIX", self.prefix.clone()),
            ("METAGOV__DATABASE__URL", self.url.clone()),
        ]
    }

    /// Changes something behind the service's back.
    pub(crate) async fn sql(&self, statement: &str) {
        let connection = Database::connect(&self.url).await.expect("the database answers");
        connection.execute_unprepared(statement).await.expect("the statement is correct");
        connection.close().await.expect("it closes");
    }

    /// How many rows stand in each table that a command may write to.
    pub(crate) async fn rows(&self) -> Vec<(&'static str, i64)> {
        let connection = Database::connect(&self.url).await.expect("the database answers");
        let mut counts = Vec::new();
        for table in [
            "communities",
            "plugin_instances",
            "processes",
            "action_runs",
            "inbox",
            "outbox",
            "steps",
            "uncertain_runs",
            "suspects",
        ] {
            let sql = format!("SELECT COUNT(*) AS rows FROM {table}");
            let statement = Statement::from_string(connection.get_database_backend(), sql);
            let row = connection.query_one_raw(statement).await.expect("the table is there").expect("one row");
            counts.push((table, row.try_get("", "rows").expect("a count")));
        }
        connection.close().await.expect("it closes");
        counts
    }

    /// Everything that the database keeps: every byte of a SQLite file and its log, every row of PostgreSQL's tables.
    pub(crate) async fn everything_stored(&self) -> String {
        let Some(file) = self.url.strip_prefix("sqlite:") else { return self.everything_stored_now().await };
        let files = [file.to_owned(), format!("{file}-wal")];
        let bytes: Vec<u8> = files.iter().flat_map(|file| std::fs::read(file).unwrap_or_default()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Every row as it is now, without what a file still holds of those before.
    pub(crate) async fn everything_stored_now(&self) -> String {
        let connection = Database::connect(&self.url).await.expect("the database answers");
        let mut all = String::new();
        for (table, columns) in [
            ("communities", "slug, readable_name"),
            ("plugin_instances", "config, state, platform_id"),
            ("processes", "state, parameters, outcome"),
            ("action_runs", "message_id, plugin, action"),
            ("inbox", "message_id, routing_key"),
            ("outbox", "routing_key, event_type, body"),
        ] {
            for column in columns.split(", ") {
                let sql = format!("SELECT CAST({column} AS TEXT) AS text FROM {table} WHERE {column} IS NOT NULL");
                let statement = Statement::from_string(connection.get_database_backend(), sql);
                for row in connection.query_all_raw(statement).await.expect("the column is there") {
                    all.push_str(&row.try_get::<String>("", "text").expect("a text"));
                    all.push('\n');
                }
            }
        }
        connection.close().await.expect("it closes");
        all
    }

    /// Ends the world and checks that it leaves nothing behind: no event unpublished, no dead letter.
    pub(crate) async fn finish(mut self) {
        self.stop().await;
        let left = self.store.unpublished(Duration::ZERO, 10).await.expect("the database answers");
        assert!(left.is_empty(), "events are stored but not published: {left:?}");
        let dead = self.dead_letters().await;
        assert!(dead.is_empty(), "dead letters that the story does not speak of: {dead:?}");
        self.driver.close().await;
        drop(self.store);
        self.database.drop().await;
    }

    /// Takes the dead letters away, with the reason of each.
    pub(crate) async fn dead_letters(&self) -> Vec<(String, BTreeMap<String, String>)> {
        let mut discard = |_: &bus::DeadLetter| bus::DeadVerdict::Discard;
        let letters = self.driver.dead_letters(&mut discard).await.expect("the broker shows dead letters");
        letters.into_iter().map(|letter| (letter.message.routing_key, letter.message.properties.headers)).collect()
    }
}

/// A key of the stories.
pub(crate) fn key(id: &str, byte: u8) -> KeyEntry {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    KeyEntry::parse(&format!("{id}:{}", STANDARD.encode([byte; 32]))).expect("it is a key")
}

fn puppets() -> Result<Registry, RegistryError> {
    let registry = Registry::builder()
        .add::<Puppet>()?
        .add::<Locker>()?
        .add::<Poster>()?
        .add::<metagov_randomness::Randomness>()?
        .add::<metagov_example_plugin::ExamplePlugin>()?;
    Ok(registry.build())
}

async fn connect(prefix: &str) -> Bus {
    let settings = bus::Settings {
        url: SecretString::from(required("METAGOV_TEST_AMQP_URL")),
        prefix: prefix.to_owned(),
        heartbeat: Duration::from_secs(10),
        declare: true,
        delivery_limit: 100,
        service_users: std::collections::BTreeSet::new(),
        tls: metagov::bus::Tls::default(),
    };
    Bus::connect(&settings, CancellationToken::new()).await.expect("the URL of the broker is usable")
}
