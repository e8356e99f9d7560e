//! The stage: a bus that outlives workers, a database file, a driver's commands, and what must hold at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fail::FailScenario;
use futures::FutureExt;
use metagov::{
    bus::{Bus, DeadVerdict, Destination, Message, Outgoing, Properties, Published},
    config,
    failpoint::MET,
    host::Host,
    registry::Registry,
    store::{self, Store},
    vault::Vault,
    worker::{Parts, Tenancy, Worker},
};
use metagov_sdk::{
    Environment,
    contract::{Event, Name},
};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, Statement};
use serde_json::{Value, json};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::Notify,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Deed, Interruption,
    puppet::{self, Puppet},
};

/// How long a schedule may take before something is stuck in it.
const PATIENCE: Duration = Duration::from_mins(1);

/// What all schedules share.
pub(crate) struct Stage {
    /// Where buses live.
    bus: Handle,
    registry: Arc<Registry>,
    host: Host,
    settings: config::Worker,
    directory: tempfile::TempDir,
    template: PathBuf,
}

/// A command with its key.
#[derive(Clone)]
struct Command {
    id: String,
    key: &'static str,
    body: Value,
}

impl Command {
    fn new(key: &'static str, body: Value) -> Self {
        Self { id: Uuid::new_v4().to_string(), key, body }
    }

    fn act(key: &'static str, fails: bool) -> Self {
        Self::new(key, json!({ "community": "acme", "parameters": { "fails": fails } }))
    }
}

/// What a driver sends: each act when the one before is answered, with how many different events it waits for.
struct Play {
    acts: Vec<Vec<Command>>,
    /// For each `message_id`: the kinds of events that may answer it, each command one of them.
    expected: BTreeMap<String, Vec<&'static [&'static str]>>,
}

/// The state of a schedule, across its workers.
struct Run<'a> {
    bus: Bus,
    heard: Arc<Heard>,
    play: &'a Play,
    act: usize,
    sent: bool,
    upcoming: Vec<Interruption>,
    met: usize,
}

/// Everything that a driver heard.
#[derive(Default)]
struct Heard {
    events: Mutex<Vec<Event>>,
    news: Notify,
}

/// Why a worker is no more.
#[derive(PartialEq)]
enum End {
    Interrupted,
    Done,
}

impl Play {
    fn of(acts: Vec<Vec<(Command, &'static [&'static str])>>) -> Self {
        let mut expected: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for (command, kinds) in acts.iter().flatten().filter(|(_, kinds)| !kinds.is_empty()) {
            expected.entry(command.id.clone()).or_default().push(*kinds);
        }
        let acts = acts.into_iter().map(|act| act.into_iter().map(|(command, _)| command).collect()).collect();
        Self { acts, expected }
    }

    /// Each effect, a failure, a process with a poll and a webhook, a repetition, a conflict.
    fn workload() -> Self {
        const COMPLETED: &[&str] = &["action.completed"];
        const REJECTED: &[&str] = &["command.rejected"];
        const KNOWN_OR_NOT: &[&str] = &["action.completed", "action.uncertain"];
        const FAILED: &[&str] = &["action.failed"];
        const STARTED: &[&str] = &["process.started"];
        const UPDATED: &[&str] = &["process.updated"];
        const ENDED: &[&str] = &["process.completed"];
        const NOTHING_NEW: &[&str] = &[];
        let process_id = Uuid::new_v4();
        let pure = Command::act("action.puppet.pure-act", false);
        let keyed = Command::act("action.puppet.keyed-act", false);
        let other = Command { id: pure.id.clone(), ..Command::act("action.puppet.pure-act", true) };
        let now = chrono::Utc::now();
        let hook = json!({
            "community": "acme",
            "received_at": now,
            "request": { "method": "POST", "path": "/", "query": "", "headers": [], "body_base64": "" },
        });
        let start = json!({ "community": "acme", "parameters": {}, "process_id": process_id });
        let poll = json!({ "community": "acme", "process_id": process_id, "due_at": now });
        let close = json!({ "community": "acme", "process_id": process_id });
        Self::of(vec![
            vec![
                (pure, COMPLETED),
                (Command::act("action.puppet.idempotent-act", false), COMPLETED),
                (keyed.clone(), COMPLETED),
                (Command::act("action.puppet.unsafe-act", false), KNOWN_OR_NOT),
                (Command::act("action.puppet.keyed-act", true), FAILED),
                (Command::new("process.puppet.ballot.start", start), STARTED),
            ],
            vec![(Command::new("poll.puppet.ballot", poll), UPDATED)],
            vec![(Command::new("webhook.puppet", hook), ENDED), (keyed, NOTHING_NEW), (other, REJECTED)],
            vec![(Command::new("process.puppet.ballot.close", close), REJECTED)],
        ])
    }
}

/// One schedule at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

impl Stage {
    /// Sets the stage: a database in which the community has its plugin.
    pub(crate) fn set() -> Self {
        const APPLIED: &[&str] = &["community.applied"];
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let bus = runtime.handle().clone();
        std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        let registry = Registry::builder().add::<Puppet>().expect("the puppet is well-formed").build();
        let defaults = config::Config::load(&config::Sources::default()).expect("the defaults are well-formed");
        // Memory, where the machine has it as a file system: nothing here is to survive it.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
        let template = directory.path().join("template.db");
        let host = Host::new(Environment::system(), Vault::new(&[]));
        let settings = defaults.config.worker;
        let stage = Self { bus, registry: Arc::new(registry), host, settings, directory, template };
        let apply = json!({ "slug": "acme", "plugins": [{ "name": "puppet", "config": {} }] });
        let play = Play::of(vec![vec![(Command::new("community.apply", apply), APPLIED)]]);
        let first = stage.directory.path().join("first.db");
        runtime_of_a_worker().block_on(async {
            open(&first).await.migrate().await.expect("the schema can be made");
        });
        stage.perform(&first, &play, &[]);
        runtime_of_a_worker().block_on(async {
            // One whole file, whatever stands in the log of the first.
            let copy = format!("VACUUM INTO '{}'", stage.template.display());
            connect(&first).await.execute_unprepared(&copy).await.expect("it can be copied");
        });
        stage
    }

    /// Plays the workload with these interruptions, each for one worker, and says how many of them were met.
    pub(crate) fn play(&self, schedule: &[Interruption]) -> usize {
        let words: Vec<String> = schedule.iter().map(ToString::to_string).collect();
        let words = words.join(", then ");
        let file = self.directory.path().join(format!("{}.db", Uuid::new_v4().simple()));
        std::fs::copy(&self.template, &file).expect("the template can be copied");
        let play = Play::workload();
        // The places and the platform's book are the process's.
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        puppet::calls().clear();
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let (met, heard, dead) = self.perform(&file, &play, schedule);
            judge(&file, &play, &heard, dead);
            met
        }));
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", file.display()));
        }
        match played {
            Ok(met) => met,
            Err(panic) => {
                eprintln!("the schedule was: {words}");
                std::panic::resume_unwind(panic)
            }
        }
    }

    fn perform(&self, file: &Path, play: &Play, schedule: &[Interruption]) -> (usize, Vec<Event>, usize) {
        let armed = FailScenario::setup();
        while MET.notified().now_or_never().is_some() {}
        let heard = Arc::new(Heard::default());
        let bus = start_bus(&self.bus, &heard, &self.registry);
        let upcoming = schedule.iter().rev().copied().collect();
        let mut run = Run { bus, heard, play, act: 0, sent: false, upcoming, met: 0 };
        run.arm();
        loop {
            let runtime = runtime_of_a_worker();
            let end = runtime.block_on(self.work(file, &mut run));
            // What has not finished is gone with its worker.
            drop(runtime);
            if end == End::Done {
                break;
            }
        }
        armed.teardown();
        runtime_of_a_worker().block_on(self.sweep(file, &run.bus));
        let heard = std::mem::take(&mut *run.heard.events.lock().expect("nobody panics over it"));
        let mut dead = 0;
        let runtime = runtime_of_a_worker();
        runtime.block_on(async {
            let mut count = |_: &_| {
                dead += 1;
                DeadVerdict::Discard
            };
            run.bus.dead_letters(&mut count).await.expect("the bus shows them");
            run.bus.close().await;
        });
        (run.met, heard, dead)
    }

    /// Lets time pass for events that are out and could not be marked, and a worker sweep them.
    async fn sweep(&self, file: &Path, bus: &Bus) {
        let store = open(file).await;
        if store.overdue(Duration::ZERO).await.expect("the database answers") == 0 {
            return;
        }
        let long_ago = "UPDATE outbox SET created_at = '2000-01-01 00:00:00+00:00' WHERE published_at IS NULL";
        connect(file).await.execute_unprepared(long_ago).await.expect("the table is there");
        let stop = CancellationToken::new();
        let working = tokio::spawn(self.worker(store.clone(), bus).run(stop.clone()));
        let swept = async {
            while store.overdue(Duration::ZERO).await.expect("the database answers") > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, swept).await.expect("the sweeper publishes what is not marked");
        stop.cancel();
        working.await.expect("the worker does not panic");
    }

    fn worker(&self, store: Store, bus: &Bus) -> Worker {
        let plugins: Vec<Name> = self.registry.names().cloned().collect();
        let registry = Arc::clone(&self.registry);
        let parts = Parts { registry, host: self.host.clone(), bus: bus.clone(), store, tenancy: Tenancy::default() };
        Worker::new(parts, &self.settings, "stage", &plugins, CancellationToken::new())
    }

    /// The life of one worker.
    async fn work(&self, file: &Path, run: &mut Run<'_>) -> End {
        let store = open(file).await;
        // The leases of those who were ended have run out since.
        let connection = connect(file).await;
        connection
            .execute_unprepared("UPDATE inbox SET lease_until = created_at WHERE lease_until IS NOT NULL")
            .await
            .expect("the table is there");
        let stop = CancellationToken::new();
        let mut working = tokio::spawn(self.worker(store, &run.bus).run(stop.clone()));
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(act) = run.play.acts.get(run.act).filter(|_| !run.sent) {
                publish(&run.bus, act).await;
                run.sent = true;
            }
            let last = run.act == run.play.acts.len();
            if last {
                stop.cancel();
            }
            let heard = Arc::clone(&run.heard);
            let (play, act) = (run.play, run.act);
            let next = async {
                tokio::select! {
                    biased;
                    () = MET.notified() => true,
                    () = heard.all(play, act), if !last => false,
                    ended = &mut working, if last => {
                        ended.expect("the worker does not panic");
                        false
                    }
                }
            };
            let met = timeout_at(deadline, next).await.unwrap_or_else(|_| {
                let heard: Vec<_> = heard.events.lock().expect("nobody panics over it").iter().map(summary).collect();
                panic!("stuck in act {act}; heard: {heard:#?}")
            });
            if met {
                run.met += 1;
                let interruption = run.upcoming.pop().expect("one was armed");
                fail::remove(interruption.place);
                run.arm();
                if interruption.deed == Deed::End {
                    return End::Interrupted;
                }
            } else if last {
                return End::Done;
            } else {
                (run.act, run.sent) = (run.act + 1, false);
            }
        }
    }
}

impl Run<'_> {
    fn arm(&self) {
        if let Some(next) = self.upcoming.last() {
            fail::cfg(next.place, &next.action()).expect("the action is well-formed");
        }
    }
}

/// Starts a bus on its own runtime, with a driver that listens.
fn start_bus(runtime: &Handle, heard: &Arc<Heard>, registry: &Registry) -> Bus {
    let (answer, bus) = std::sync::mpsc::channel();
    let (heard, plugins) = (Arc::clone(heard), registry.names().cloned().collect::<Vec<_>>());
    runtime.spawn(async move {
        let bus = Bus::in_process("stage");
        bus.apply_topology(&plugins).await.expect("it can be declared");
        let mut events = bus.subscribe(&["#".to_owned()]).await.expect("events can be subscribed to");
        answer.send(bus).expect("somebody waits for it");
        while let Some(message) = events.recv().await {
            let event = serde_json::from_slice(&message.body).expect("every message is an event");
            heard.events.lock().expect("nobody panics over it").push(event);
            heard.news.notify_waiters();
        }
    });
    bus.recv().expect("the bus starts")
}

impl Heard {
    /// Waits until every command of this act is answered.
    async fn all(&self, play: &Play, act: usize) {
        let news = self.news.notified();
        tokio::pin!(news);
        loop {
            news.as_mut().enable();
            let answers = answers(&self.events.lock().expect("nobody panics over it"));
            let all = play.acts[act].iter().all(|command| {
                let wanted = play.expected.get(&command.id).map_or(0, |expected| match act {
                    // The key that is used again, for another command, is answered a second time later.
                    0 => 1,
                    _ => expected.len(),
                });
                answers.get(&command.id).map_or(0, BTreeSet::len) >= wanted
            });
            if all {
                return;
            }
            news.as_mut().await;
            news.set(self.news.notified());
        }
    }
}

/// The different answers to each command: kind and id.
fn answers(events: &[Event]) -> BTreeMap<String, BTreeSet<(String, String)>> {
    let mut answers: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
    for event in events {
        let kind = event.event_type.trim_start_matches("org.metagov.").to_owned();
        if let Some(cause) = event.causationid.clone().filter(|_| !kind.starts_with("plugin.")) {
            answers.entry(cause).or_default().insert((kind, event.id.to_string()));
        }
    }
    answers
}

fn summary(event: &Event) -> String {
    format!("{} {:?} {}", event.event_type, event.causationid, event.data)
}

async fn publish(bus: &Bus, commands: &[Command]) {
    let outgoing = commands.iter().map(|command| Outgoing {
        to: Destination::Commands,
        message: Message {
            routing_key: command.key.to_owned(),
            body: command.body.to_string().into(),
            properties: Properties { message_id: Some(command.id.clone()), ..Properties::default() },
        },
    });
    let published = bus.publish(outgoing.collect()).await.expect("the bus is open");
    assert!(published.iter().all(|published| *published == Published::Routed), "a command reached no queue");
}

/// What must hold, however often a worker was ended.
fn judge(file: &Path, play: &Play, heard: &[Event], dead: usize) {
    let answers = answers(heard);
    for (id, expected) in &play.expected {
        let answers: Vec<_> = answers[id].iter().collect();
        assert_eq!(answers.len(), expected.len(), "one final event id for each command: {answers:?}");
        for kinds in expected {
            assert!(answers.iter().any(|(kind, _)| kinds.contains(&kind.as_str())), "{answers:?}, not {kinds:?}");
        }
    }
    let ids: BTreeSet<_> = heard.iter().map(|event| event.id.to_string()).collect();
    let events: BTreeSet<_> = heard.iter().map(|event| serde_json::to_string(event).expect("it is JSON")).collect();
    // A refusal is not stored: told twice, it may have another time.
    let refused = |event: &&String| event.contains("command.rejected");
    let stored = events.iter().filter(|event| !refused(event)).count();
    let refusals: BTreeSet<_> = heard
        .iter()
        .filter(|event| event.event_type.ends_with("command.rejected"))
        .map(|event| event.id.to_string())
        .collect();
    assert_eq!(stored + refusals.len(), ids.len(), "an event that comes twice is the same event");
    assert_eq!(dead, 0, "dead letters");
    {
        let calls = puppet::calls();
        let keys = |kind| calls.keys().filter(|(of, _)| *of == kind).count();
        assert_eq!(keys("keyed"), 2, "keys at the platform, one for each keyed command: {calls:?}");
        assert!(calls.iter().all(|((kind, _), count)| *kind != "unsafe" || *count <= 1), "unsafe: {calls:?}");
    }
    runtime_of_a_worker().block_on(async {
        let left = open(file).await.unpublished(Duration::ZERO, 10).await.expect("the database answers");
        assert!(left.is_empty(), "events are stored but not published: {left:?}");
        let connection = connect(file).await;
        let figures = [
            (
                "actions, each stored once",
                "SELECT COUNT(*) FROM action_runs WHERE status NOT IN ('running', 'retrying')",
                5,
            ),
            ("actions without an end", "SELECT COUNT(*) FROM action_runs WHERE status IN ('running', 'retrying')", 0),
            ("keys without an end", "SELECT COUNT(*) FROM inbox WHERE status <> 'finished'", 0),
            // Community, five actions, start, poll, webhook; a close that is refused leaves none.
            ("keys", "SELECT COUNT(*) FROM inbox", 9),
            ("processes", "SELECT COUNT(*) FROM processes WHERE status = 'completed'", 1),
            ("polls that count", "SELECT json_extract(outcome, '$.polls') FROM processes", 1),
            ("votes that count", "SELECT json_extract(outcome, '$.votes') FROM processes", 1),
        ];
        for (what, sql, expected) in figures {
            assert_eq!(figure(&connection, sql).await, expected, "{what}");
        }
    });
}

async fn figure(connection: &DatabaseConnection, sql: &str) -> i64 {
    let statement = Statement::from_string(connection.get_database_backend(), sql);
    let row = connection.query_one_raw(statement).await.expect("the table is there").expect("one row");
    row.try_get_by_index(0).expect("a number")
}

async fn open(file: &Path) -> Store {
    let settings = store::Settings { url: format!("sqlite:{}", file.display()), max_connections: 2 };
    Store::connect(&settings).await.expect("the database opens")
}

async fn connect(file: &Path) -> DatabaseConnection {
    Database::connect(format!("sqlite:{}", file.display())).await.expect("the database opens")
}

fn runtime_of_a_worker() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}
