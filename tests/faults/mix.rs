//! What a living community does besides a scenario's own commands: votes that webhooks fill, that are looked at, closed and
//! closed by the clock; a plugin that remembers; and communities and plugins that change meanwhile.
//!
//! It goes on while a scenario breaks things, and is judged with it: every vote counts once, whatever it met. The votes that
//! stay open to the end have counted what was sent; those that end in between have counted what they announced. Up: scenarios.
//! Down: [`crate::cast`].

use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep},
};
use uuid::Uuid;

use crate::{
    cast::{Place, again, all_taken, forged},
    checker::Tally,
    driver::{Command, Driver},
    heard::Sum,
    rig::{QUIET, Rig, Service, command},
    table::Row,
    vote::{Cast, Memory},
};

/// The community of the mix, with two instances of the puppet, of which one comes and goes.
const GUILD: Place = Place { community: "guild", team: Some("T1") };
const SECOND: &str = "T2";
/// Votes that stay open to the end.
const LONG: usize = 2;
/// A short vote begins every so many turns, and ends after so many if nobody else ends it.
const SHORT_EVERY: usize = 6;
/// The rhythm of the turns in the background.
const TURN: Duration = Duration::from_millis(200);

/// How a short vote ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With the scenario.
    Last,
    /// A driver closes it at this turn.
    Closed { at: usize },
    /// The clock closes it.
    Clock,
    /// It has been closed.
    Over,
}

struct Ballot {
    process: Uuid,
    key: String,
    start: Command,
    end: End,
    sent: Sum,
}

/// Commands of which each waits for the answer of the one before, so that none of them may be refused.
struct Line {
    next: fn(u64) -> Command,
    turn: u64,
    last: Option<Command>,
}

/// The mix of one service.
pub(crate) struct Mix {
    driver: Driver,
    random: ChaCha8Rng,
    turn: usize,
    number: u64,
    ballots: Vec<Ballot>,
    lines: [Line; 2],
    commands: Vec<Command>,
    hooks: Vec<Command>,
    /// Webhooks beside them that count nothing.
    beside: Vec<Command>,
    /// What the plugin has to remember.
    added: Memory,
}

/// A mix that goes on in the background.
pub(crate) struct Mixing {
    stop: oneshot::Sender<()>,
    turns: JoinHandle<Mix>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mixed {
    ballots: usize,
    /// Votes that have not counted what they should have.
    miscounted: usize,
    votes: usize,
    open: usize,
    /// Webhooks that made an event although they were repeated or forged.
    answered: usize,
    added: [Memory; 2],
}

fn renamed(turn: u64) -> Command {
    command("community.apply", &json!({ "slug": GUILD.community, "readable_name": format!("Guild {turn}") }))
}

fn changed(turn: u64) -> Command {
    let enable = |config| command("plugin.puppet.enable", &json!({ "community": GUILD.community, "config": config }));
    match turn % 3 {
        0 => enable(json!({ "team": GUILD.team, "edition": turn })),
        1 => enable(json!({ "team": SECOND })),
        _ => {
            command("plugin.puppet.disable", &json!({ "community": GUILD.community, "community_platform_id": SECOND }))
        }
    }
}

impl Line {
    fn new(next: fn(u64) -> Command) -> Self {
        Self { next, turn: 0, last: None }
    }

    fn next(&mut self, driver: &Driver) -> Option<Command> {
        let waits = self.last.iter().any(|last| driver.answered(std::slice::from_ref(last)) == 0);
        (!waits).then(|| {
            let command = (self.next)(self.turn);
            self.turn += 1;
            self.last = Some(command.clone());
            command
        })
    }
}

impl Mix {
    /// Enables the community and starts the votes that stay open.
    pub(crate) async fn begin(rig: &mut Rig, service: &Service) -> Self {
        let plugins = json!([{ "name": "puppet", "config": { "team": GUILD.team } }]);
        let apply = command("community.apply", &json!({ "slug": GUILD.community, "plugins": plugins }));
        let mut mix = Self {
            driver: service.driver.clone(),
            random: ChaCha8Rng::seed_from_u64(rig.random.random()),
            turn: 0,
            number: 0,
            ballots: Vec::new(),
            lines: [Line::new(renamed), Line::new(changed)],
            commands: vec![apply],
            hooks: Vec::new(),
            beside: Vec::new(),
            added: Memory::default(),
        };
        mix.driver.send(&mix.commands).await;
        service.answered(&mix.commands, 1).await;
        for _ in 0..LONG {
            let start = mix.start(End::Last);
            mix.driver.send(std::slice::from_ref(&start)).await;
        }
        service.answered(&mix.commands, mix.commands.len()).await;
        mix
    }

    fn start(&mut self, end: End) -> Command {
        let (process, key) = (Uuid::new_v4(), format!("vote-{}", self.ballots.len()));
        let closes_in_ms = (end == End::Clock).then_some(2_000);
        let parameters = json!({ "key": key, "every_ms": 1_000, "closes_in_ms": closes_in_ms });
        let start = GUILD.start(process, &parameters);
        self.ballots.push(Ballot { process, key, start: start.clone(), end, sent: Sum::default() });
        self.commands.push(start.clone());
        start
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// A little of everything.
    pub(crate) async fn turn(&mut self) {
        let (mut commands, mut hooks): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
        let driver = self.driver.clone();
        commands.extend(self.lines.iter_mut().filter_map(|line| line.next(&driver)));
        for _ in 0..3 {
            let (place, number) = (self.random.random_range(0..self.ballots.len()), self.next_number());
            let ballot = &mut self.ballots[place];
            // Before it is open nobody knows its key.
            if driver.answered(std::slice::from_ref(&ballot.start)) == 1 {
                ballot.sent = Sum { times: ballot.sent.times + 1, sum: ballot.sent.sum + number };
                hooks.push(GUILD.hook(Some(&ballot.key), &Cast { number, tells: true }));
            }
        }
        let [one, other] = [self.next_number(), self.next_number()];
        hooks.push(GUILD.hook(None, &Cast { number: one, tells: false }));
        commands.push(GUILD.count(other));
        self.added = Memory { times: self.added.times + 2, sum: self.added.sum + one + other };
        self.commands.extend(commands.iter().cloned());
        if self.turn.is_multiple_of(SHORT_EVERY) {
            let at = self.turn + 2 * SHORT_EVERY;
            let end = if self.random.random() { End::Clock } else { End::Closed { at } };
            commands.push(self.start(end));
        }
        let now = self.turn;
        commands.extend(self.close(|end| matches!(end, End::Closed { at } if at <= now)));
        self.turn += 1;
        let beside = self.beside(&hooks);
        self.driver.send(&[commands, beside.clone(), hooks.clone()].concat()).await;
        self.hooks.extend(hooks);
        self.beside.extend(beside);
    }

    /// What comes beside these webhooks and counts nothing: the same deliveries once more, and forgeries under their ids.
    fn beside(&mut self, hooks: &[Command]) -> Vec<Command> {
        let of = [again, forged];
        hooks.iter().filter_map(|hook| of.get(self.random.random_range(0..4)).map(|of| of(hook))).collect()
    }

    /// Closes the votes of these ends that are open.
    fn close(&mut self, which: impl Fn(End) -> bool) -> Vec<Command> {
        let driver = &self.driver;
        let open = |ballot: &&mut Ballot| driver.answered(std::slice::from_ref(&ballot.start)) == 1;
        let due = self.ballots.iter_mut().filter(|ballot| which(ballot.end)).filter(open);
        let closes: Vec<_> = due
            .map(|ballot| {
                ballot.end = End::Over;
                GUILD.close(ballot.process)
            })
            .collect();
        self.commands.extend(closes.iter().cloned());
        closes
    }

    /// Waits until all that was sent so far is answered or taken, or nothing comes any more.
    pub(crate) async fn calm(&self, service: &Service) {
        self.driver.wait_for(&self.commands, self.commands.len(), QUIET).await;
        all_taken(service, &self.hooks).await;
    }

    /// Goes on by itself, turn after turn.
    pub(crate) fn go_on(mut self) -> Mixing {
        let (stop, mut stopped) = oneshot::channel();
        let turns = tokio::spawn(async move {
            while stopped.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
                self.turn().await;
                sleep(TURN).await;
            }
            self
        });
        Mixing { stop, turns }
    }

    /// Waits until everything has ended, and counts it together with the scenario's own commands.
    pub(crate) async fn settle(
        mut self,
        service: &mut Service,
        commands: &[Command],
        allowed: &[&str],
    ) -> (Tally, Mixed) {
        const ANSWERS: [&str; 6] = [
            "action.completed",
            "community.applied",
            "plugin.enabled",
            "plugin.updated",
            "plugin.disabled",
            "process.started",
        ];
        self.calm(service).await;
        let closes = self.close(|end| !matches!(end, End::Clock | End::Over));
        self.driver.send(&closes).await;
        let all = [commands, &self.commands].concat();
        let allowed = [allowed, &ANSWERS, &["process.completed"]].concat();
        let open = self.still_open(service).await;
        let tally = self.tally(service).await.and(service.settle(&all, &allowed).await);
        let added = [self.added, GUILD.memory(service).await];
        let votes = self.ballots.iter().map(|ballot| usize::try_from(ballot.sent.times).expect("it is small")).sum();
        let answered = self.driver.answered(&self.beside);
        let mixed = Mixed { ballots: self.ballots.len(), miscounted: self.miscounted(), votes, open, answered, added };
        (tally, mixed)
    }

    /// Votes that nobody has closed, after some time.
    async fn still_open(&self, service: &Service) -> usize {
        let open = "SELECT COUNT(*) FROM processes WHERE community = 'guild' AND status NOT IN ('completed')";
        let until = Instant::now() + QUIET;
        let mut left = service.sql(open).await;
        while left > 0 && Instant::now() < until {
            sleep(Duration::from_millis(250)).await;
            left = service.sql(open).await;
        }
        left
    }

    /// A webhook is answered by being taken.
    async fn tally(&self, service: &Service) -> Tally {
        let taken = all_taken(service, &self.hooks).await;
        Tally::of_hooks(&self.driver.book(), &self.hooks, taken)
    }

    fn miscounted(&self) -> usize {
        let book = self.driver.book();
        let is_right = |ballot: &&Ballot| {
            let announced = book.heard.announced(&ballot.key);
            let outcome = book.heard.record(ballot.process).map(|record| &record["outcome"]);
            let counted = outcome.map(|outcome| Sum {
                times: outcome["times"].as_u64().unwrap_or(0),
                sum: outcome["sum"].as_u64().unwrap_or(0),
            });
            // What was counted and then closed is what was announced; what stayed open has counted what was sent.
            let stayed = self.ballots.iter().take(LONG).any(|long| long.process == ballot.process);
            counted == Some(announced) && (!stayed || announced == ballot.sent)
        };
        self.ballots.iter().filter(|ballot| !is_right(ballot)).count()
    }
}

impl Mixing {
    /// Ends after the turn that goes on.
    pub(crate) async fn end(self) -> Mix {
        let _ = self.stop.send(());
        self.turns.await.expect("the mix does not panic")
    }
}

impl Mixed {
    /// What came of the mixes of two services.
    pub(crate) fn and(self, other: Self) -> Self {
        let added = [0, 1].map(|at| {
            let (one, two) = (self.added[at], other.added[at]);
            Memory { times: one.times + two.times, sum: one.sum + two.sum }
        });
        Self {
            ballots: self.ballots + other.ballots,
            miscounted: self.miscounted + other.miscounted,
            votes: self.votes + other.votes,
            open: self.open + other.open,
            answered: self.answered + other.answered,
            added,
        }
    }

    /// What it adds to a scenario's row.
    pub(crate) fn judge(&self, row: Row) -> Row {
        let [wanted, found] = self.added;
        let number = |number: u64| usize::try_from(number).expect("it is small");
        row.note("of the mix: votes cast", format!("{} in {}", self.votes, self.ballots))
            .exactly("miscounted", self.miscounted, 0)
            .exactly("still open", self.open, 0)
            .exactly("answers to repeated or forged webhooks", self.answered, 0)
            .exactly("times that its plugin remembers", number(found.times), number(wanted.times))
            .exactly("their sum", number(found.sum), number(wanted.sum))
    }
}
