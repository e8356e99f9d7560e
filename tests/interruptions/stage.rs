//! The stage: a bus that outlives workers, a database file, a clock that stands still, and lives of workers on it.
//!
//! Up: the schedules of `main.rs`. Down: [`Play`], what is played, and [`judge`](mod@crate::judge), what must hold.

use std::{
    cell::{Cell, RefCell},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fail::FailScenario;
use futures::FutureExt;
use metagov::{
    bus::{Bus, DeadVerdict, Destination, Message, Outgoing, Properties, Published},
    config,
    failpoint::{MET, SPARED},
    host::Host,
    registry::Registry,
    scheduler::Scheduler,
    store::{self, Store},
    vault::Vault,
    worker::{Parts, Tenancy, Worker},
};
use metagov_sdk::{
    Environment,
    contract::{Event, Name},
};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Deed, Interruption, WAITING,
    clock::{self, StageClock},
    frozen::{Frozen, Working},
    heard::Heard,
    judge::{Performance, judge},
    play::{Act, Command, Play},
    puppet::{self, POLLED_EVERY, Puppet},
};

/// How long a schedule may take before something is stuck in it.
const PATIENCE: Duration = Duration::from_mins(1);

/// What passes between the end of one worker and the next one's begin: every lease has run out then, and what is not
/// published is overdue.
const PAUSE: Duration = Duration::from_mins(10);

/// After so many waits of its runtime a worker is ended; at 0, never.
static WAITS_LEFT: AtomicUsize = AtomicUsize::new(0);

/// One schedule at a time: places, clock and the platform's book are the process's.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

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

/// The state of a schedule, across its workers.
struct Run<'a> {
    bus: Bus,
    heard: Arc<Heard>,
    play: &'a Play,
    act: usize,
    /// Whether the driver's part of the act is done: it says nothing twice.
    said: Cell<bool>,
    schedule: RefCell<Schedule>,
}

/// What is still to come, and what came.
struct Schedule {
    upcoming: Vec<Interruption>,
    met: usize,
    deaths: bool,
}

/// Why a worker is no more.
#[derive(PartialEq)]
enum End {
    Interrupted(Deed),
    Done,
}

impl Stage {
    /// Sets the stage: a database in which the community has its plugin.
    pub(crate) fn set() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let bus = runtime.handle().clone();
        std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        let registry = Registry::builder().add::<Puppet>().expect("the puppet is well-formed").build();
        let defaults = config::Config::load(&config::Sources::default()).expect("the defaults are well-formed");
        // Memory, where the machine has it as a file system: nothing here is to survive it.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
        let template = directory.path().join("template.db");
        let host = Host::new(Environment { clock: Arc::new(StageClock), ..Environment::system() }, Vault::new(&[]));
        let settings = defaults.config.worker;
        let stage = Self { bus, registry: Arc::new(registry), host, settings, directory, template };
        let first = stage.directory.path().join("first.db");
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        clock::stop();
        runtime_of_a_worker().block_on(async {
            open(&first).await.migrate().await.expect("the schema can be made");
        });
        stage.perform(&first, &Play::prologue(), &[]);
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
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        clock::stop();
        puppet::calls().clear();
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let (met, performance) = self.perform(&file, &play, schedule);
            runtime_of_a_worker().block_on(async {
                judge(&open(&file).await, &connect(&file).await, &play, &performance).await;
            });
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

    fn perform(&self, file: &Path, play: &Play, schedule: &[Interruption]) -> (usize, Performance) {
        let armed = FailScenario::setup();
        while MET.notified().now_or_never().is_some() {}
        let heard = Arc::new(Heard::default());
        let bus = start_bus(&self.bus, &heard, &self.registry);
        let schedule = Schedule { upcoming: schedule.iter().rev().copied().collect(), met: 0, deaths: false };
        schedule.arm();
        let schedule = RefCell::new(schedule);
        let mut run = Run { bus, heard, play, act: 0, said: Cell::new(false), schedule };
        let mut frozen = Vec::new();
        loop {
            let runtime = runtime_of_a_worker();
            let (end, working) = runtime.block_on(self.work(file, &mut run));
            match end {
                End::Done => break,
                End::Interrupted(Deed::Freeze) => {
                    run.bus.lose_consumers();
                    frozen.push(Frozen::new(runtime, working, file));
                }
                // What has not finished is gone with its worker.
                End::Interrupted(_) => drop(runtime),
            }
            clock::pass(PAUSE);
        }
        frozen.into_iter().for_each(Frozen::thaw);
        armed.teardown();
        WAITS_LEFT.store(0, Ordering::SeqCst);
        runtime_of_a_worker().block_on(async {
            self.sweep(file, &run.bus).await;
            run.heard.everything(&run.bus).await;
            let mut dead = 0;
            let mut count = |_: &_| {
                dead += 1;
                DeadVerdict::Discard
            };
            run.bus.dead_letters(&mut count).await.expect("the bus shows them");
            run.bus.close().await;
            let events = std::mem::take(&mut *run.heard.events());
            let Schedule { met, deaths, .. } = run.schedule.into_inner();
            (met, Performance { events, dead, deaths })
        })
    }

    /// Lets time pass for events that are out and could not be marked, and a worker sweep them.
    async fn sweep(&self, file: &Path, bus: &Bus) {
        let store = open(file).await;
        clock::pass(PAUSE);
        let stop = CancellationToken::new();
        let working = tokio::spawn(self.worker(store.clone(), bus).run(stop.clone()));
        let swept = async {
            while store.overdue(Duration::ZERO).await.expect("the database answers") > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, swept).await.expect("the sweeper publishes what is not marked");
        stop.cancel();
        working.await.expect("the worker does not panic");
    }

    fn worker(&self, store: Store, bus: &Bus) -> Worker {
        let plugins: Vec<Name> = self.registry.names().cloned().collect();
        let registry = Arc::clone(&self.registry);
        let parts = Parts { registry, host: self.host.clone(), bus: bus.clone(), store, tenancy: Tenancy::default() };
        Worker::new(parts, &self.settings, "stage", &plugins, CancellationToken::new())
    }

    /// The life of one worker, with a scheduler beside it.
    async fn work(&self, file: &Path, run: &mut Run<'_>) -> (End, Working) {
        let store = open(file).await;
        let scheduler = Scheduler::new(store.clone(), run.bus.clone(), 10);
        let stop = CancellationToken::new();
        let task = tokio::spawn(self.worker(store, &run.bus).run(stop.clone()));
        let mut working = Working { stop, task };
        (Self::act(&mut working, scheduler, run).await, working)
    }

    async fn act(working: &mut Working, mut scheduler: Scheduler, run: &mut Run<'_>) -> End {
        let deadline = Instant::now() + PATIENCE;
        while let Some(act) = run.play.acts.get(run.act) {
            let playing = async {
                match act {
                    _ if run.said.get() => {}
                    Act::Commands(commands) => publish(&run.bus, commands).await,
                    Act::Poll => poll(&mut scheduler).await,
                }
                run.said.set(true);
                run.heard.all(run.play, run.act).await;
            };
            if let interrupted @ End::Interrupted(_) = run.uninterrupted(playing, deadline).await {
                return interrupted;
            }
            run.act += 1;
            run.said.set(false);
        }
        working.stop.cancel();
        let ended = async { (&mut working.task).await.expect("the worker does not panic") };
        run.uninterrupted(ended, deadline).await
    }
}

impl Schedule {
    fn arm(&self) {
        match self.upcoming.last() {
            Some(next) if next.place == WAITING => WAITS_LEFT.store(next.passage, Ordering::SeqCst),
            Some(next) => fail::cfg(next.place, &next.action()).expect("the action is well-formed"),
            None => {}
        }
    }

    /// The deed that was armed last was done; the next one is armed.
    fn goes_on(&mut self) -> Deed {
        let Interruption { place, deed, .. } = self.upcoming.pop().expect("one was armed");
        self.met += 1;
        self.deaths |= deed != Deed::Refuse;
        fail::remove(place);
        self.arm();
        deed
    }
}

impl Run<'_> {
    /// Goes on with this to its end, whatever the database refuses meanwhile, unless the worker ends before it.
    async fn uninterrupted(&self, act: impl Future<Output = ()>, deadline: Instant) -> End {
        tokio::pin!(act);
        loop {
            let next = async {
                tokio::select! {
                    biased;
                    () = MET.notified() => true,
                    () = &mut act => false,
                }
            };
            let met = timeout_at(deadline, next).await.unwrap_or_else(|_| {
                let heard: Vec<_> = self.heard.events().iter().map(summary).collect();
                panic!("stuck in act {}; heard: {heard:#?}", self.act)
            });
            if !met {
                return End::Done;
            }
            let deed = self.schedule.borrow_mut().goes_on();
            if deed != Deed::Refuse {
                return End::Interrupted(deed);
            }
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
        heard.listen(&bus, || answer.send(bus.clone()).expect("somebody waits for it")).await;
    });
    bus.recv().expect("the bus starts")
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

/// Lets time pass until something is due, and the scheduler look. A claim whose command is lost comes again with the next
/// interval.
async fn poll(scheduler: &mut Scheduler) {
    loop {
        clock::pass(POLLED_EVERY);
        loop {
            match scheduler.scan().await {
                // The worker has not asked for polls yet.
                Ok(0) => tokio::task::yield_now().await,
                Ok(_) => return,
                Err(_) => break,
            }
        }
    }
}

fn summary(event: &Event) -> String {
    format!("{} {:?} {}", event.event_type, event.causationid, event.data)
}

async fn open(file: &Path) -> Store {
    let settings = store::Settings { url: format!("sqlite:{}", file.display()), max_connections: 2 };
    Store::connect(&settings).await.expect("the database opens")
}

/// A way past the service.
pub(crate) async fn connect(file: &Path) -> DatabaseConnection {
    Database::connect(format!("sqlite:{}", file.display())).await.expect("the database opens")
}

/// A runtime with one thread, which waits whenever no task can go on: then each of them stands at an `await`.
fn runtime_of_a_worker() -> Runtime {
    let count = || {
        if SPARED.get() {
            return;
        }
        let left = WAITS_LEFT.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left == Ok(1) {
            MET.notify_one();
        }
    };
    Builder::new_current_thread().enable_all().on_thread_park(count).build().expect("a runtime")
}
