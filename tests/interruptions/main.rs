//! Interruptions: a worker and its scheduler are ended, made to stand still, or refused by their database, at each step and
//! each `await`.
//!
//! Beneath the fault rig, which kills processes: here everything is in this process (bus, a file of SQLite in memory, a
//! clock that stands still, a platform that keeps book), so that a schedule takes a blink. A worker lives on a runtime of
//! its own, and ending it is dropping that runtime: while a task stands still at a marked place, or at the nth moment at
//! which every task waits for something. Whatever the schedule, what is promised must hold; see [`judge::judge`]. The seed
//! is printed; `METAGOV_SEED=<seed>` draws the same schedules again, and `METAGOV_SCHEDULES=<n>` so many of them.

mod clock;
mod frozen;
mod heard;
mod judge;
mod play;
mod puppet;
mod stage;

use std::{fmt, time::Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use stage::Stage;

/// Every place between two steps.
const PLACES: [&str; 12] = [
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
    "scheduler::claimed",
    "scheduler::published",
];

/// No place of its own: a moment at which all tasks wait, each at an `await` of its own.
const WAITING: &str = "an await";

/// Those at which the database can refuse: before it is asked anything, before it has committed, and afterwards, so that
/// its answer is lost.
const REFUSALS: [&str; 3] = ["store::asking", "store::committing", "store::committed"];

/// So often at least all tasks of a worker wait in one play. How often exactly depends on how fast the threads of SQLite and
/// of the bus are.
const FEWEST_WAITS: usize = 20;

/// Schedules with several interruptions, where nobody asks for more.
const DRAWN: usize = 150;

/// A command that three workers die of is taken for their murderer, and answered as such; that is another story.
const MOST_DEATHS: usize = 2;

/// What happens to one worker.
#[derive(Clone, Copy, PartialEq)]
struct Interruption {
    place: &'static str,
    /// At which passage, from 1.
    passage: usize,
    deed: Deed,
}

#[derive(Clone, Copy, PartialEq)]
enum Deed {
    /// It ends there.
    End,
    /// It stands still there, until others are done.
    Freeze,
    /// The database refuses there, once.
    Refuse,
}

impl Interruption {
    /// In the words of the crate `fail`.
    fn action(self) -> String {
        let deed = match self.deed {
            Deed::End => "return(halt)",
            Deed::Freeze => "return(hold)",
            Deed::Refuse => "return(a test says that the database is away)",
        };
        match self.passage {
            1 => format!("1*{deed}->off"),
            passage => format!("{}*off->1*{deed}->off", passage - 1),
        }
    }
}

impl fmt::Display for Interruption {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} at {} #{}", self.deed, self.place, self.passage)
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::End => "ended",
            Self::Freeze => "frozen",
            Self::Refuse => "refused",
        })
    }
}

#[test]
fn an_interruption_at_any_passage_of_any_place_breaks_no_promise() {
    at_every_passage(
        PLACES.map(|place| (place, Deed::End)).into_iter().chain(REFUSALS.map(|place| (place, Deed::Refuse))),
    );
}

#[test]
fn a_worker_that_stands_still_at_any_passage_of_any_place_breaks_no_promise() {
    // The scheduler is ended with its worker, and not driven after that.
    let of_workers = PLACES.into_iter().filter(|place| !place.starts_with("scheduler::"));
    at_every_passage(of_workers.map(|place| (place, Deed::Freeze)));
}

fn at_every_passage(deeds: impl Iterator<Item = (&'static str, Deed)>) {
    let began = Instant::now();
    let stage = Stage::set();
    let mut schedules = 0;
    for (place, deed) in deeds {
        let mut passage = 1;
        loop {
            let interruption = Interruption { place, passage, deed };
            let met = stage.play(&[interruption]);
            schedules += 1;
            if met == 0 {
                break;
            }
            passage += 1;
        }
        assert!(passage > 1, "nothing passes {place}");
        println!("{place}, {deed}: {} passages", passage - 1);
    }
    report(schedules, began);
}

#[test]
fn an_end_at_any_await_breaks_no_promise() {
    at_every_await(Deed::End);
}

#[test]
fn a_worker_that_stands_still_at_any_await_breaks_no_promise() {
    at_every_await(Deed::Freeze);
}

fn at_every_await(deed: Deed) {
    let began = Instant::now();
    let stage = Stage::set();
    let mut passage = 1;
    while stage.play(&[Interruption { place: WAITING, passage, deed }]) == 1 {
        passage += 1;
    }
    println!("{} moments at which all tasks wait", passage - 1);
    assert!(passage > FEWEST_WAITS, "a worker cannot have waited so seldom");
    report(passage, began);
}

#[test]
fn several_interruptions_in_a_row_break_no_promise() {
    let began = Instant::now();
    let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse().ok());
    let seed = number("METAGOV_SEED").unwrap_or_else(|| rand::rng().random());
    let count = number("METAGOV_SCHEDULES").map_or(DRAWN, |count: u64| usize::try_from(count).expect("it fits"));
    println!("METAGOV_SEED={seed}");
    let mut lots = ChaCha8Rng::seed_from_u64(seed);
    let stage = Stage::set();
    let mut met = 0;
    for _ in 0..count {
        let schedule: Vec<_> = (0..lots.random_range(2..=5))
            .map(|drawn| {
                let place = *PLACES.get(lots.random_range(0..=PLACES.len())).unwrap_or(&WAITING);
                let refuses = REFUSALS.contains(&place) && lots.random();
                // Later passages are met seldom, and what is drawn after them then never.
                let passage = lots.random_range(
                    1..=match place {
                        WAITING => FEWEST_WAITS,
                        "scheduler::claimed" | "scheduler::published" => 1,
                        _ => 6,
                    },
                );
                if refuses || drawn >= MOST_DEATHS {
                    let place = if refuses { place } else { REFUSALS[lots.random_range(0..REFUSALS.len())] };
                    Interruption { place, passage, deed: Deed::Refuse }
                } else {
                    let freezes = !place.starts_with("scheduler::") && lots.random();
                    Interruption { place, passage, deed: if freezes { Deed::Freeze } else { Deed::End } }
                }
            })
            .collect();
        met += stage.play(&schedule);
    }
    println!("{met} interruptions were met");
    assert!(met > count, "hardly any schedule is played as it was drawn");
    report(count, began);
}

fn report(schedules: usize, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    let figure = u32::try_from(schedules).map(f64::from).expect("it is small");
    println!("{schedules} schedules in {seconds:.1} s, {:.0} in a minute", figure / seconds * 60.0);
}
