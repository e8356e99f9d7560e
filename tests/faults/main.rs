//! The fault rig: breaks things on purpose, and counts.
//!
//! `tests/faults/README.md` says what it is and shows what it measured; `rig.rs` says how a scenario is written. In the
//! sizes of CI it is one of the workspace's tests, and counts decide; `tests/run --faults` runs it in full, and judges
//! times as well.

mod alarms;
mod answers;
mod book;
mod broker;
mod cast;
mod checker;
mod clock;
mod command;
mod crashes;
mod crowd;
mod database;
mod dead;
mod disks;
mod double;
mod driver;
mod flood;
mod frozen;
mod heard;
mod hostile;
mod injection;
mod lossy;
mod memory;
mod mix;
mod mounts;
mod neighbours;
mod platform;
mod platforms;
mod plugins;
mod polls;
#[expect(dead_code, reason = "the tests of the bus use the rest")]
#[path = "../bus/proxy.rs"]
mod proxy;
mod puppet;
mod ready;
mod rig;
mod rows;
mod scheduler;
mod schema;
mod secrets;
mod servers;
mod settle;
mod soak;
mod steps;
mod strain;
mod strangers;
mod table;
mod unbound;
mod versions;
mod vote;
mod wiretap;
mod workers;

use std::{panic::AssertUnwindSafe, pin::Pin, process::ExitCode, str::FromStr, time::Duration};

use clap::Parser;
use futures::FutureExt;
use rand::Rng;
use tokio::time::{Instant, timeout};

use crate::{
    rig::{Rig, Size},
    table::Row,
    workers::{ROLE, Role},
};

/// Longer than any scenario takes; whatever hangs ends here.
const LONGEST: Duration = Duration::from_mins(90);

/// Breaks things on purpose, and counts
#[derive(Debug, Parser)]
struct Arguments {
    /// Only scenarios whose id is one of these words, or whose description contains one
    words: Vec<String>,
    /// Full sizes, and the scenarios that CI has no time for
    #[arg(long)]
    full: bool,
    /// Only these scenarios, comma-separated
    #[arg(long, value_delimiter = ',', value_name = "T01,T08")]
    only: Vec<String>,
    /// Where the lots come from; printed at the start
    #[arg(long, env = "METAGOV_SEED")]
    seed: Option<u64>,
    /// Every second of them, so that two rigs may share them: `1/2` and `2/2`
    #[arg(long, value_name = "1/2")]
    share: Option<Share>,
    /// Only say which scenarios there are
    #[arg(long)]
    list: bool,
    /// Write the table into tests/faults/README.md
    #[arg(long, requires = "full")]
    write: bool,
    /// What `cargo test` passes to every test
    #[arg(long, hide = true, action = clap::ArgAction::Count)]
    nocapture: u8,
    #[arg(long, hide = true)]
    test_threads: Option<usize>,
}

/// One part of so many.
#[derive(Debug, Clone, Copy)]
struct Share {
    part: usize,
    of: usize,
}

impl FromStr for Share {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('/').and_then(|(part, of)| Some((part.parse().ok()?, of.parse().ok()?)));
        let share = parts.map(|(part, of)| Self { part, of }).filter(|share| (1..=share.of).contains(&share.part));
        share.ok_or("must be like 1/2")
    }
}

type Run = for<'a> fn(&'a mut Rig, Size) -> Pin<Box<dyn Future<Output = Row> + 'a>>;

/// A scenario of the list.
struct Scenario {
    id: &'static str,
    what: &'static str,
    /// Whether CI has the time for it.
    ci: bool,
    run: Run,
}

macro_rules! scenarios {
    ($($id:literal $size:ident $run:path: $what:literal;)*) => {
        &[$(Scenario {
            id: $id,
            what: $what,
            ci: matches!(Size::$size, Size::Ci),
            run: |rig, size| Box::pin($run(rig, size)),
        }),*]
    };
}

/// Every scenario. `Ci` runs in CI sizes too, `Full` with `--full` only.
const SCENARIOS: &[Scenario] = scenarios! {
    "T01" Ci crashes::t01: "one of 4 workers killed every 2 s, keyed action";
    "T02" Full crashes::t02: "one of 4 workers killed every 2 s, unsafe action";
    "T03" Ci steps::t03: "abort at each step of a command";
    "T04" Full steps::t04: "abort between publication and mark";
    "T05" Full crashes::t05: "SIGTERM, once and twice, with handlers at work";
    "T06" Full crashes::t06: "workers restarted in turn under load";
    "T07" Ci crashes::t07: "metagov dev with SQLite killed during writes";
    "T08" Ci broker::t08: "RabbitMQ stopped and started";
    "T09" Full broker::t09: "RabbitMQ away for long";
    "T10" Full broker::t10: "RabbitMQ frozen";
    "T11" Full broker::t11: "half-open link to RabbitMQ";
    "T12" Ci alarms::t12: "memory alarm of RabbitMQ";
    "T13" Full alarms::t13: "disk alarm of RabbitMQ";
    "T14" Full broker::t14: "queue deleted under its consumers";
    "T15" Ci broker::t15: "channel closed for a late acknowledgement";
    "T16" Ci unbound::t16: "no queue bound for events";
    "T17" Ci broker::t17: "connection cut between publication and confirm";
    "T18" Full broker::t18: "queue of dead letters missing";
    "T19" Ci database::t19: "PostgreSQL ended as in a crash and started again";
    "T20" Full database::t20: "sessions of PostgreSQL thrown out";
    "T21" Ci strain::t21: "callers of the database give up while BEGIN is on the wire";
    "T22" Ci strain::t22: "a row that somebody holds, and few connections";
    "T23" Ci strain::t23: "many who read and write on SQLite";
    "T24" Full disks::t24: "disk full under SQLite, then under PostgreSQL";
    "T25" Ci versions::t25: "two versions of schema and plugin at the same time";
    "T26" Ci scheduler::t26: "two schedulers at once";
    "T27" Full scheduler::t27: "one of two schedulers killed";
    "T28" Full scheduler::t28: "a scheduler stopped in the middle of a claim";
    "T29" Full clock::t29: "clocks jump, the service stands still";
    "T30" Ci scheduler::t30: "everything due in one second";
    "T31" Full scheduler::t31: "half-open link from a scheduler to PostgreSQL";
    "T32" Ci plugins::t32: "plugin panics";
    "T33" Full plugins::t33: "plugin hangs, plugin blocks its thread";
    "T34" Ci memory::t34: "plugin takes all the memory of its worker";
    "T35" Ci plugins::t35: "poison that kills its process each time";
    "T36" Full plugins::t36: "platform of one community slow";
    "T37" Full flood::t37: "one community floods";
    "T38" Ci platforms::t38: "platform busy, broken, silent, slow";
    "T39" Ci hostile::t39: "bodies that are too large";
    "T40" Ci hostile::t40: "documents that no reader should trust";
    "T41" Ci strangers::t41: "words that nobody knows";
    "T47" Ci strangers::t47: "one command fifty times at once";
    "T49" Ci injection::t49: "answers and routing keys that point elsewhere";
    "T50" Ci secrets::t50: "secrets, and the keys to them";
    "T66" Ci neighbours::t66: "a row that somebody holds, and its neighbours";
    "T67" Ci neighbours::t67: "a community with a long history deleted beside others";
    "T68" Ci neighbours::t68: "a driver's queue full for long, another's for a moment";
    "T69" Ci neighbours::t69: "bodies that take more memory than there is room for";
    "T71" Ci schema::t71: "schema, rights and prepared statements taken away under load";
    "T56" Full soak::t56: "soak, with workers, RabbitMQ and PostgreSQL failing by lots";
    "T60" Ci crowd::t60: "a crowd votes at once";
    "T61" Ci crowd::t61: "a crowd votes while workers are killed";
    "T62" Ci crowd::t62: "people vote while PostgreSQL is away";
    "T63" Ci crowd::t63: "a crowd changes one state, and a vote is closed in the middle of a crowd";
    "T64" Ci frozen::t64: "workers frozen beyond their lease, wherever they are, and continued";
    "T65" Ci answers::t65: "answers to COMMIT lost under starts without a key";
    "T70" Ci answers::t70: "RabbitMQ restarted between a rejection and its acknowledgement";
};

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(ROLE) {
        return block_on(async move {
            let role = Role::named(&words.next().unwrap_or_default());
            match role.map(Role::run) {
                Ok(running) => running.await,
                Err(error) => Err(error),
            }
        });
    }
    let arguments = Arguments::parse();
    if arguments.list {
        for scenario in SCENARIOS {
            println!("{} {:4} {}", scenario.id, if scenario.ci { "ci" } else { "full" }, scenario.what);
        }
        return ExitCode::SUCCESS;
    }
    block_on(run(arguments))
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    // As many threads as `metagov` has at least: one that is blocked leaves some for the others.
    let threads = std::thread::available_parallelism().map_or(4, |cores| cores.get().max(4));
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(threads).enable_all().build().expect("a runtime can be built");
    match runtime.block_on(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Arguments {
    fn chosen(&self) -> Vec<&'static Scenario> {
        let named = |words: &[String], scenario: &Scenario| {
            words.iter().any(|word| scenario.id.eq_ignore_ascii_case(word) || scenario.what.contains(word.as_str()))
        };
        SCENARIOS
            .iter()
            .filter(|scenario| self.full || scenario.ci || named(&self.only, scenario))
            .filter(|scenario| self.only.is_empty() || named(&self.only, scenario))
            .filter(|scenario| self.words.is_empty() || named(&self.words, scenario))
            .enumerate()
            .filter(|(place, _)| self.share.is_none_or(|share| place % share.of == share.part - 1))
            .map(|(_, scenario)| scenario)
            .collect()
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let chosen = arguments.chosen();
    if chosen.is_empty() {
        anyhow::ensure!(arguments.only.is_empty(), "no scenario is called {}", arguments.only.join(", "));
        return Ok(());
    }
    let seed = arguments.seed.unwrap_or_else(|| rand::rng().random());
    let size = if arguments.full { Size::Full } else { Size::Ci };
    eprintln!("METAGOV_SEED={seed}; {}", table::machine());
    let mut rig = Rig::start().await;
    let mut rows = Vec::new();
    for scenario in chosen {
        eprintln!("{} {} …", scenario.id, scenario.what);
        let began = Instant::now();
        rig.prepare(seed, scenario.id, rows.last().is_none_or(Row::passed)).await;
        let running = AssertUnwindSafe(timeout(LONGEST, (scenario.run)(&mut rig, size))).catch_unwind();
        let row = match running.await {
            Ok(Ok(row)) => row.judged_in(size),
            Ok(Err(_)) => Row::new(scenario.id, scenario.what).holds("came to an end", false),
            // What it was has been printed when it happened.
            Err(_) => Row::new(scenario.id, scenario.what).holds("ran through without a panic", false),
        };
        eprintln!("{}\n({:.0?})", table::markdown(std::slice::from_ref(&row)), began.elapsed());
        if !row.passed() {
            let again = if arguments.full {
                "tests/run --faults"
            } else {
                "cargo test --locked --features failpoints --test faults"
            };
            eprintln!(
                "{} FAILED: {}\n{}\nreplay: {again} -- --only {} --seed {seed}",
                row.id,
                row.broken(),
                rig.logged(),
                row.id
            );
        }
        rows.push(row);
    }
    println!("{}", table::markdown(&rows));
    if arguments.write {
        table::write(&rows)?;
    }
    let failed: Vec<_> = rows.iter().filter(|row| !row.passed()).map(|row| row.id).collect();
    anyhow::ensure!(failed.is_empty(), "broken limits: {}", failed.join(", "));
    Ok(())
}
