//! Tenants on one broker: what RabbitMQ refuses by the exported permissions, and what the service refuses by the user that
//! RabbitMQ vouches for.
//!
//! The whole of it on a node of the test's own: `metagov topology export` is imported, and the service runs with the
//! rights of its exported users and no others.

mod client;
mod node;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command as Process,
    sync::atomic::{AtomicBool, Ordering},
};

use lapin::{
    BasicProperties,
    options::{
        BasicGetOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
        QueueDeleteOptions, QueuePurgeOptions,
    },
    types::FieldTable,
};
use metagov::{
    app::{self, App},
    bus::{Bus, Destination, Outgoing, Properties},
    config::{Config, Sources},
    registry::Registry,
    shutdown::Shutdown,
};
use metagov_sdk::{contract::Name, prelude::*};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    client::{Client, Command, Inbox, assert_refused},
    node::Node,
};

const PREFIX: &str = "tenants";

/// Slugs that begin alike, and users too.
const USERS: &str = "bot=acme,bot-2=acme-2,ops=*";

/// A platform that is away at first.
struct Hesitant;

/// Needs none.
#[derive(Serialize, Deserialize, JsonSchema)]
struct NoConfig {}

impl Plugin for Hesitant {
    const NAME: &'static str = "hesitant";
    type Config = NoConfig;

    fn register(plugin: &mut Registrar<Self>) {
        plugin.action::<Echo>().action::<Hesitate>();
    }
}

/// What was said.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Said {
    text: String,
}

/// Says it again.
#[action(Echo, "echo", effect = "pure")]
async fn echo(
    _cx: &Cx<Hesitant>,
    /// What to say.
    text: String,
) -> Result<Said> {
    Ok(Said { text })
}

static WAS_AWAY: AtomicBool = AtomicBool::new(false);

/// Says it again, at the second attempt.
#[action(Hesitate, "hesitate", effect = "idempotent")]
async fn hesitate(
    _cx: &Cx<Hesitant>,
    /// What to say.
    text: String,
) -> Result<Said> {
    if WAS_AWAY.swap(true, Ordering::SeqCst) { Ok(Said { text }) } else { Err(Error::retry("the platform is away")) }
}

/// A service with two tenants and an operator, each with exactly the rights that were exported.
struct Tenants {
    node: Node,
    directory: tempfile::TempDir,
    shutdown: Shutdown,
    worker: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Tenants {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let node = Node::start(directory.path());
        let mut tenants = Self { node, directory, shutdown: Shutdown::new(), worker: None };
        tenants.import();
        let admin = tenants.bus("admin").await;
        admin.apply_topology(&[Name::new("hesitant").expect("a name")]).await.expect("the admin may declare");
        admin.close().await;
        tenants.metagov("worker", &["migrate"]);
        let app = App::with_plugins(
            tenants.config("worker"),
            Registry::builder().add::<Hesitant>().expect("it is well-formed").build(),
        );
        let app = app.await.expect("broker and database are there");
        tenants.worker = Some(tokio::spawn(app::run_worker(app, tenants.shutdown.clone())));
        tenants
    }

    /// Puts the export on the broker and checks that it stands there, word for word.
    fn import(&self) {
        let file = self.directory.path().join("definitions.json");
        let path = file.to_str().expect("the path is UTF-8");
        self.metagov("guest", &["topology", "export", "--output", path]);
        self.node.ctl(&["import_definitions", path]);
        let exported: Value =
            serde_json::from_str(&std::fs::read_to_string(&file).expect("it was written")).expect("it is JSON");
        for user in exported["users"].as_array().expect("users") {
            let name = user["name"].as_str().expect("a name");
            self.node.ctl(&["change_password", name, name]);
        }
        let same = |verb: &str, section: &str| {
            let stands: Vec<BTreeMap<String, Value>> =
                serde_json::from_str(&self.node.ctl(&["--quiet", "--formatter", "json", verb])).expect("it is JSON");
            let words = |row: &BTreeMap<String, Value>| {
                let row = row.iter().filter(|(name, _)| *name != "vhost");
                row.map(|(name, value)| format!("{name}={value}")).collect::<BTreeSet<_>>()
            };
            let stands: BTreeSet<_> = stands.iter().filter(|row| row["user"] != "guest").map(words).collect();
            let wanted: Vec<BTreeMap<String, Value>> =
                serde_json::from_value(exported[section].clone()).expect("a list of objects");
            assert_eq!(stands, wanted.iter().map(words).collect(), "{verb}");
        };
        same("list_permissions", "permissions");
        same("list_topic_permissions", "topic_permissions");
    }

    fn settings(&self, user: &str) -> Vec<(String, String)> {
        let url = match user {
            "guest" => self.node.url("guest"),
            role => self.node.url(&format!("{PREFIX}-{role}")),
        };
        let database = format!("sqlite:{}", self.directory.path().join("metagov.db").display());
        [
            ("METAGOV__BROKER__URL", url.as_str()),
            ("METAGOV__BROKER__PREFIX", PREFIX),
            ("METAGOV__BROKER__DECLARE", "false"),
            ("METAGOV__DATABASE__URL", &database),
            ("METAGOV__TENANCY__REQUIRED", "true"),
            ("METAGOV__TENANCY__USERS", USERS),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    fn config(&self, role: &str) -> Config {
        let environment = self.settings(role).into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Config::load(&Sources { environment, ..Sources::default() }).expect("the settings are usable").config
    }

    fn metagov(&self, role: &str, arguments: &[&str]) -> Value {
        let output = Process::new(env!("CARGO_BIN_EXE_metagov"))
            .args(arguments)
            .arg("--json")
            .current_dir(self.directory.path())
            .envs(self.settings(role))
            .output()
            .expect("it was built");
        assert!(output.status.success(), "metagov {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    async fn bus(&self, role: &str) -> Bus {
        let mut settings = app::bus_settings(&self.config(role)).expect("the URL is usable");
        settings.declare = role == "admin";
        Bus::connect(&settings, CancellationToken::new()).await.expect("the URL is usable")
    }

    async fn client(&self, user: &str) -> Client {
        Client::connect(&self.node.url(user), user).await
    }

    /// A tenant with a queue for its events and one for its replies.
    async fn tenant(&self, user: &str, pattern: &str) -> (Client, Inbox, Inbox) {
        let client = self.client(user).await;
        let (events, replies) = (format!("{user}.events"), format!("{user}.replies"));
        client.declare(&events).await.expect("its own queue");
        client.declare(&replies).await.expect("its own queue");
        client.bind(&events, pattern).await.expect("its own events");
        let (events, replies) = (client.consume(&events).await, client.consume(&replies).await);
        (client, events.expect("its own queue"), replies.expect("its own queue"))
    }

    async fn finish(mut self) {
        self.shutdown.begin();
        let worker = self.worker.take().expect("it was started");
        worker.await.expect("it does not panic").expect("it ends in order");
    }
}

fn apply(user: &'static str, slug: &str) -> Command {
    let body = json!({ "slug": slug, "plugins": [{ "name": "hesitant", "config": {} }] });
    Command::new(user, "community.apply", body)
}

fn echo_in(user: &'static str, slug: &str) -> Command {
    let body = json!({ "community": slug, "parameters": { "text": "hello" } });
    Command { reply_to: (user == "bot").then_some("bot.replies"), ..Command::new(user, "action.hesitant.echo", body) }
}

fn problem(event: &Value) -> &str {
    let kind = event["data"]["problem"]["type"].as_str().unwrap_or_default();
    kind.strip_prefix("https://metagov.org/problems/").unwrap_or(kind)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_of_one_broker_neither_hear_nor_command_each_other() {
    let tenants = Tenants::start().await;
    let (bot, mut events, mut replies) = tenants.tenant("bot", "acme.#").await;
    let (bot_2, mut events_2, mut replies_2) = tenants.tenant("bot-2", "acme-2.#").await;
    let (_ops, mut everything, _) = tenants.tenant("ops", "#").await;

    // Each has a community of its own, and is heard and answered.
    for (client, inbox, command) in
        [(&bot, &mut events, apply("bot", "acme")), (&bot_2, &mut events_2, apply("bot-2", "acme-2"))]
    {
        client.send(&command).await.expect("it may command");
        let told = inbox.until_answered(&command).await;
        let last = told.last().expect("the answer");
        assert_eq!(last.event["type"], "org.metagov.community.applied", "{} {last:?}", client.user());
    }

    // A copy on the delay ladder is the service's own message, and keeps its author.
    let body = json!({ "community": "acme", "parameters": { "text": "again" } });
    let hesitant = Command::new("bot", "action.hesitant.hesitate", body);
    bot.send(&hesitant).await.expect("it may command");
    let told = events.until_answered(&hesitant).await;
    let last = &told.last().expect("the answer").event;
    assert_eq!(
        (&last["type"], &last["data"]["attempts"]),
        (&json!("org.metagov.action.completed"), &json!(2)),
        "{last}"
    );

    forged_commands_are_refused(&bot, &bot_2, &mut replies, &mut events_2).await;

    // The refusals were told under `_`, which only the operator hears.
    let mut refused = 0;
    while refused < 5 {
        let received = everything.next().await;
        if problem(&received.event) == "forbidden" {
            assert_eq!(received.routing_key, "_.hesitant.command.rejected");
            assert!(!received.event.to_string().contains("acme"), "{}", received.event);
            refused += 1;
        }
    }

    // Answers go to nobody else's queue.
    let elsewhere = Command { reply_to: Some("bot-2.replies"), ..echo_in("bot", "acme") };
    bot.send(&elsewhere).await.expect("the broker knows no reply_to");
    let told = events.until_answered(&elsewhere).await;
    assert_eq!(problem(&told.last().expect("the answer").event), "invalid-reply-to");
    let own = Command { reply_to: Some("bot-2.replies"), ..echo_in("bot-2", "acme-2") };
    bot_2.send(&own).await.expect("it may command");
    let first = replies_2.next().await;
    assert_eq!(first.event["causationid"], own.message_id.as_str(), "nothing came before its own: {first:?}");

    the_broker_keeps_drivers_apart(&bot).await;
    the_broker_keeps_the_service_to_its_work(&tenants).await;
    tenants.finish().await;
}

/// Commands for the other's community, and under another's name.
async fn forged_commands_are_refused(bot: &Client, bot_2: &Client, replies: &mut Inbox, events_2: &mut Inbox) {
    let theirs = echo_in("bot-2", "acme-2");
    bot_2.send(&theirs).await.expect("it may command");
    events_2.until_answered(&theirs).await;

    let forged = [
        echo_in("bot", "acme-2"),
        // The very command that was answered before: its stored events are not published to whoever repeats it.
        Command { message_id: theirs.message_id.clone(), ..echo_in("bot", "acme-2") },
        Command { forged_author: Some("bot-2"), ..echo_in("bot", "acme-2") },
        Command { forged_author: Some("tenants-worker"), user_id: None, ..echo_in("bot", "acme-2") },
        Command { user_id: None, ..echo_in("bot", "acme") },
    ];
    for command in &forged {
        bot.send(command).await.expect("the broker does not know what it is about");
        let told = replies.until_answered(command).await;
        let last = &told.last().expect("the answer").event;
        assert_eq!(problem(last), "forbidden", "{last}");
    }
    let under_another_name = Command { user_id: Some("bot-2"), ..echo_in("bot", "acme-2") };
    assert_refused("another's name", bot.send(&under_another_name).await, "PRECONDITION_FAILED");
    let as_the_service = Command { user_id: Some("tenants-worker"), ..echo_in("bot", "acme-2") };
    assert_refused("the service's name", bot.send(&as_the_service).await, "PRECONDITION_FAILED");

    let own = echo_in("bot-2", "acme-2");
    bot_2.send(&own).await.expect("it may command");
    let seen = events_2.until_answered(&own).await;
    assert_eq!(seen.len(), 1, "the other's community heard of it: {seen:?}");
}

async fn the_broker_keeps_drivers_apart(bot: &Client) {
    const NO: &str = "ACCESS_REFUSED";
    for pattern in ["#", "acme-2.#", "*.#", "_.#", "acme.#.#"] {
        let bound = bot.bind("bot.events", pattern).await;
        if pattern.starts_with("acme.") { bound.expect("its own") } else { assert_refused(pattern, bound, NO) }
    }
    assert_refused("another's queue", bot.consume("bot-2.events").await, NO);
    assert_refused("the service's queue", bot.consume("tenants.core").await, NO);
    assert_refused("a queue of another's name", bot.declare("bot-2.more").await, NO);
    assert_refused("a queue of no name", bot.declare("more").await, NO);
    for (exchange, key) in [
        ("", "bot-2.replies"),
        ("tenants.events", "acme.hesitant.action.echo.completed"),
        ("tenants.delay.1s", "action.hesitant.echo"),
        ("tenants.dead", "action.hesitant.echo"),
        ("tenants.commands", "poll.hesitant.vote"),
        ("tenants.commands", "webhook.hesitant"),
    ] {
        let published = bot.publish(exchange, key, BasicProperties::default(), b"{}").await;
        assert_refused(&format!("publishing {key} to '{exchange}'"), published, NO);
    }
}

/// The worker takes and answers, but declares nothing; the scheduler only publishes.
async fn the_broker_keeps_the_service_to_its_work(tenants: &Tenants) {
    const NO: &str = "ACCESS_REFUSED";
    let worker = tenants.client("tenants-worker").await;
    let (durable, none) = (QueueDeclareOptions::durable(), FieldTable::default);
    let queue = "tenants.plugin.hesitant";
    let declared = worker.channel().await.queue_declare(queue.into(), durable, none()).await;
    assert_refused("declaring a queue", declared, NO);
    let deleted = worker.channel().await.queue_delete(queue.into(), QueueDeleteOptions::default()).await;
    assert_refused("deleting a queue", deleted, NO);
    let options = QueueBindOptions::default();
    let bound =
        worker.channel().await.queue_bind(queue.into(), "tenants.events".into(), "#".into(), options, none()).await;
    assert_refused("binding a queue", bound, NO);
    let (kind, options) = (lapin::ExchangeKind::Topic, ExchangeDeclareOptions::default());
    let declared = worker.channel().await.exchange_declare("tenants.more".into(), kind, options, none()).await;
    assert_refused("declaring an exchange", declared, NO);
    let deleted =
        worker.channel().await.exchange_delete("tenants.events".into(), ExchangeDeleteOptions::default()).await;
    assert_refused("deleting an exchange", deleted, NO);
    assert_refused("reading dead letters", worker.consume("tenants.dead").await, NO);
    assert_refused(
        "commanding",
        worker.publish("tenants.commands", "community.apply", BasicProperties::default(), b"{}").await,
        NO,
    );

    let scheduler = tenants.client("tenants-scheduler").await;
    for queue in ["tenants.plugin.hesitant", "tenants.poll.hesitant", "tenants.core"] {
        assert_refused(queue, scheduler.consume(queue).await, NO);
        let got = scheduler.channel().await.basic_get(queue.into(), BasicGetOptions::default()).await;
        assert_refused(queue, got, NO);
        let purged = scheduler.channel().await.queue_purge(queue.into(), QueuePurgeOptions::default()).await;
        assert_refused(queue, purged, NO);
    }
    assert_refused(
        "an event",
        scheduler.publish("tenants.events", "acme.x", BasicProperties::default(), b"{}").await,
        NO,
    );
    // What it is there for, signed with its name.
    let bus = tenants.bus("scheduler").await;
    let message = metagov::bus::Message {
        routing_key: "tick.hesitant".to_owned(),
        body: b"{}".as_slice().into(),
        properties: Properties::default(),
    };
    let published = bus.publish(vec![Outgoing { to: Destination::Commands, message }]).await.expect("it may publish");
    assert_eq!(published, [metagov::bus::Published::Routed]);
    bus.close().await;
}
