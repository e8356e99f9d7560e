//! Workers that stand still for longer than a lease holds, wherever they are in a command, and then go on: another has
//! taken over meanwhile. Each command has one final event all the same, and one effect.
//!
//! A worker stops itself at one of the places that `src/failpoint.rs` marks: before each question to the database, in each
//! transaction, between the steps of a command. Beside it works one that never stops. Once everything is answered and
//! every lease has run out, those that stand still are continued, all at once, with their connections lost and their
//! commands answered by another; then the next round begins. Up: the list of scenarios. Down: the rig.

use std::time::Duration;

use futures::future::join_all;
use rand::{Rng, seq::IndexedRandom};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use crate::{
    cast::{Place, all_taken},
    checker::Tally,
    driver::Command,
    rig::{COMMUNITY, QUIET, Rig, Service, Setup, Size, command},
    table::Row,
    vote::Cast,
    workers::{Process, Role},
};

/// Between the steps of a command, and before, in and after each transaction.
const PLACES: [&str; 10] = [
    "worker::taken",
    "worker::begun",
    "worker::called",
    "store::asking",
    "store::committing",
    "store::committed",
    "worker::committed",
    "worker::published",
    "worker::marked",
    "worker::acknowledged",
];

const HERE: Place = Place { community: COMMUNITY, team: None };
/// The vote that webhooks are for.
const KEY: &str = "crowd";
/// How long an attempt may take, and what is added to it before the attempt counts as dead.
const LEASE: Duration = Duration::from_secs(1 + 15);
/// Votes that wait to be closed, in each round.
const VOTES: usize = 80;
/// Passages of the database's places before a worker takes commands.
const START: usize = 8;
/// Commands that are sent at a time, and how often, until everybody who is to stand still does.
const PART: usize = 3;
const PARTS: usize = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Start,
    Close,
    Keyed,
    Apply,
    Webhook,
    Clock,
}

const KINDS: [Kind; 6] = [Kind::Start, Kind::Close, Kind::Keyed, Kind::Apply, Kind::Webhook, Kind::Clock];

impl Kind {
    /// Whether its commands come by this place.
    fn passes(self, place: &str) -> bool {
        match place {
            "worker::begun" => !matches!(self, Self::Apply | Self::Webhook),
            "worker::called" => self != Self::Apply,
            _ => true,
        }
    }
}

/// Commands of one kind, the worker that never stands still, and behind it those that do, each at a place of its own.
struct Line {
    kind: Kind,
    service: Service,
    places: Vec<&'static str>,
    /// How often a worker stood still, by place.
    freezes: Vec<usize>,
    commands: Vec<Command>,
    hooks: Vec<Command>,
    /// Votes that are to end, and how many of them nobody has asked to.
    votes: Vec<Uuid>,
    open: usize,
}

impl Line {
    async fn begin(rig: &mut Rig, kind: Kind, size: Size) -> Self {
        let settings = [
            ("worker.deadline_seconds", "1"),
            ("worker.concurrency", "16"),
            ("broker.heartbeat_seconds", "2"),
            ("broker.declare", "false"),
            ("database.max_connections", "3"),
        ];
        let settings = settings.map(|(key, value)| (key, value.to_owned())).to_vec();
        let schedulers = usize::from(kind == Kind::Clock);
        let service = rig.service(Setup { schedulers, settings, ..Setup::default() }).await;
        let all: Vec<_> = PLACES.into_iter().filter(|place| kind.passes(place)).collect();
        let places: Vec<_> = all.choose_multiple(&mut rig.random, size.of(all.len(), 2)).copied().collect();
        let freezes = vec![0; places.len()];
        let (commands, hooks, votes) = (Vec::new(), Vec::new(), Vec::new());
        Self { kind, service, places, freezes, commands, hooks, votes, open: 0 }
    }

    /// Starts the workers that stand still so often, once the first one has answered what they must not touch.
    async fn arm(&mut self, rig: &mut Rig, times: usize) {
        self.prepare().await;
        for place in self.places.clone() {
            // It asks the database before it takes commands.
            let at_start = if place.starts_with("store::") { START } else { 0 };
            let freeze = |passages| format!("{passages}*off->1*return(freeze)");
            let passages =
                (0..times * 2).map(|time| rig.random.random_range(0..5) + if time == 0 { at_start } else { 0 });
            let all: Vec<_> = passages.map(freeze).collect();
            self.service.set("FAILPOINTS", Some(&format!("{place}={}", all.join("->"))));
            self.service.start(Role::Worker);
        }
    }

    fn is_through(&self, times: usize) -> bool {
        self.freezes.iter().all(|freezes| *freezes >= times)
    }

    /// Has every worker but the first stand still, at its place, in a command of this kind, and continues them when
    /// another has answered it.
    async fn round(&mut self) {
        for _ in 0..PARTS {
            let part = self.part();
            self.service.driver.send(&part).await;
            match self.kind {
                Kind::Webhook => self.hooks.extend(part),
                _ => self.commands.extend(part),
            }
            sleep(Duration::from_millis(100)).await;
            if self.frozen().iter().all(|frozen| *frozen) {
                break;
            }
        }
        let last = Instant::now();
        self.answered().await;
        sleep_until(last + LEASE).await;
        // By the one worker that never stands still.
        self.prepare().await;
        for (place, is_frozen) in self.frozen().into_iter().enumerate() {
            if is_frozen {
                self.freezes[place] += 1;
                self.thaw(place);
            }
        }
    }

    fn first(&self) -> usize {
        self.service.processes.len() - self.places.len()
    }

    fn frozen(&self) -> Vec<bool> {
        self.service.processes[self.first()..].iter().map(Process::is_stopped).collect()
    }

    fn thaw(&mut self, place: usize) {
        let first = self.first();
        self.service.processes[first + place].signal("CONT");
    }

    /// The votes that the next round needs.
    async fn prepare(&mut self) {
        let starts: Vec<_> = match self.kind {
            Kind::Webhook if self.votes.is_empty() => vec![self.start(&json!({ "key": KEY }))],
            Kind::Close => {
                let more = VOTES - self.open;
                self.open = VOTES;
                (0..more).map(|_| self.start(&json!({ "key": Uuid::new_v4(), "calls": true }))).collect()
            }
            // One after another, beginning when those that stood still are back.
            Kind::Clock => {
                let closes = |vote: usize| 4_000 + vote * 150;
                let parameters = |vote| json!({ "key": Uuid::new_v4(), "calls": true, "closes_in_ms": closes(vote) });
                (0..VOTES).map(|vote| self.start(&parameters(vote))).collect()
            }
            _ => Vec::new(),
        };
        self.service.driver.send(&starts).await;
        self.service.answered(&starts, starts.len()).await;
        self.commands.extend(starts);
    }

    fn start(&mut self, parameters: &serde_json::Value) -> Command {
        let process = Uuid::new_v4();
        self.votes.push(process);
        HERE.start(process, parameters)
    }

    /// The next few commands.
    fn part(&mut self) -> Vec<Command> {
        let one = |line: &mut Self| match line.kind {
            Kind::Start => Some(line.start(&json!({ "key": Uuid::new_v4(), "calls": true }))),
            Kind::Close => {
                line.open = line.open.checked_sub(1)?;
                Some(HERE.close(line.votes[line.votes.len() - 1 - line.open]))
            }
            Kind::Keyed => {
                let script = json!({ "deeds": ["succeed"], "calls": true });
                Some(line.service.command_in(COMMUNITY, "keyed", &script))
            }
            Kind::Apply => {
                let name = format!("Guild {}", line.commands.len());
                Some(command("community.apply", &json!({ "slug": "guild", "readable_name": name })))
            }
            Kind::Webhook => {
                let number = u64::try_from(line.hooks.len()).expect("it is small") + 1;
                Some(HERE.hook(Some(KEY), &Cast { number, tells: false }))
            }
            Kind::Clock => None,
        };
        (0..PART).filter_map(|_| one(self)).collect()
    }

    /// Waits until everything that was sent is answered, and what the clock closes is closed.
    async fn answered(&self) {
        self.service.answered(&self.commands, self.commands.len()).await;
        match self.kind {
            Kind::Webhook => drop(all_taken(&self.service, &self.hooks).await),
            Kind::Clock => {
                // What a worker that stands still was to close is closed by a later poll, which may take minutes.
                let until = Instant::now() + 3 * QUIET;
                while self.ended() < self.votes.len() && Instant::now() < until {
                    sleep(Duration::from_millis(100)).await;
                }
            }
            _ => {}
        }
    }

    /// How many votes have ended.
    fn ended(&self) -> usize {
        let book = self.service.driver.book();
        let has_ended = |vote: &&Uuid| book.heard.record(**vote).is_some_and(|record| record["status"] == "completed");
        self.votes.iter().filter(has_ended).count()
    }

    /// Asks those that stood still to finish what they have begun, and to go.
    async fn dismiss(&mut self) {
        let first = self.first();
        for worker in &mut self.service.processes[first..] {
            worker.signal("TERM");
        }
        for place in 0..self.places.len() {
            let began = Instant::now();
            while self.service.processes[first + place].ended_within(Duration::from_millis(50)).await.is_none() {
                assert!(began.elapsed() < QUIET, "a worker does not end: {}", self.places[place]);
                if self.frozen()[place] {
                    self.thaw(place);
                }
            }
        }
    }

    /// Counts the answers, and the effects.
    async fn count(mut self) -> (Tally, Effects) {
        self.answered().await;
        self.dismiss().await;
        let allowed = match self.kind {
            Kind::Keyed => &["action.completed"][..],
            Kind::Apply => &["community.applied"],
            Kind::Start | Kind::Webhook | Kind::Clock => &["process.started"],
            Kind::Close => &["process.started", "process.completed"],
        };
        let taken = all_taken(&self.service, &self.hooks).await;
        let settled = self.service.settle(&self.commands, allowed).await;
        let (number, closed) = (self.commands.len(), self.votes.len() - self.open);
        let (stored, wanted, keys) = match self.kind {
            Kind::Keyed => (self.service.sql("SELECT COUNT(*) FROM action_runs").await, number, number),
            Kind::Start => (self.service.sql("SELECT COUNT(*) FROM processes").await, number, number),
            Kind::Close | Kind::Clock => (self.ended(), closed, self.votes.len() + closed),
            Kind::Apply => {
                let version = "SELECT version FROM communities WHERE slug = 'guild'";
                (self.service.sql(version).await, number, 0)
            }
            Kind::Webhook => {
                let book = self.service.driver.book();
                let counted = book.heard.record(self.votes[0]).and_then(|record| record["outcome"]["times"].as_u64());
                (usize::try_from(counted.unwrap_or(0)).expect("it is small"), self.hooks.len(), 0)
            }
        };
        let tally = Tally::of_hooks(&self.service.driver.book(), &self.hooks, taken).and(settled);
        (tally, Effects { freezes: self.freezes, stored, wanted, keys })
    }
}

/// What came of a line besides its answers.
struct Effects {
    freezes: Vec<usize>,
    /// Effects on rows, and how many there should be.
    stored: usize,
    wanted: usize,
    /// How many keys the platform should have seen.
    keys: usize,
}

/// A worker that comes back too late publishes nothing.
pub(crate) async fn t64(rig: &mut Rig, size: Size) -> Row {
    let times = size.of(100, 1);
    let mut lines = Vec::new();
    for kind in KINDS {
        lines.push(Line::begin(rig, kind, size).await);
    }
    for line in &mut lines {
        line.arm(rig, times).await;
    }
    let rounds = lines.iter_mut().map(|line| async move {
        for _ in 0..times * 3 / 2 + 2 {
            if !line.is_through(times) {
                line.round().await;
            }
        }
    });
    join_all(rounds).await;
    let counted = join_all(lines.into_iter().map(Line::count)).await;
    let tally = counted.iter().fold(Tally::default(), |all, (tally, _)| all.and(tally.clone()));
    let effects: Vec<_> = counted.into_iter().map(|(_, effects)| effects).collect();
    let freezes: Vec<_> = effects.iter().flat_map(|effects| &effects.freezes).copied().collect();
    let sum = |of: fn(&Effects) -> usize| effects.iter().map(of).sum::<usize>();
    let (keys, places) = (rig.platform.calls().len(), freezes.len());
    Row::new("T64", format!("workers frozen beyond a lease, {times} × at each of {places} places, and continued"))
        .counts(tally)
        .at_least("freezes at one place", freezes.iter().copied().min().unwrap_or(0), times)
        .note("freezes in all", freezes.iter().sum::<usize>().to_string())
        .exactly("effects that are stored", sum(|effects| effects.stored), sum(|effects| effects.wanted))
        .exactly("keys at the platform", keys, sum(|effects| effects.keys))
}
