//! Clocks that jump, that of the service's processes and that of its database, and processes that stand still.
//!
//! The clock of a process is moved from outside, by libfaketime and a file that says how far off it is; monotonic time is
//! left alone, as by an administrator who sets the clock. Up: the list of scenarios. Down: [`crate::polls`], which notes
//! when each poll was made by the harness's own clock.

use std::{fs, path::PathBuf, time::Duration};

use chrono::Utc;
use serde_json::json;
use tokio::time::sleep;

use crate::{
    polls::Polls,
    rig::{Rig, Setup, Size},
    scheduler::ballots,
    servers::Server,
    table::Row,
};

/// How often each process is polled.
const EVERY: Duration = Duration::from_secs(3);
/// How far the clock is off, one after the other: an hour ahead, back, a day ahead, back, an hour behind.
const OFFSETS: [i64; 5] = [3_600, 0, 86_400, 0, -3_600];
/// Those of both clocks, and back.
const JUMPS: usize = 2 * (OFFSETS.len() + 1);
/// By when polls must come again, whatever has happened.
const SOON: Duration = Duration::from_secs(5);

/// A clock that can be set.
struct Clock {
    file: PathBuf,
}

impl Clock {
    fn new(file: PathBuf) -> Self {
        let clock = Self { file };
        clock.set(0);
        clock
    }

    /// How many seconds it is off from now on.
    fn set(&self, seconds: i64) {
        // In one step: whoever reads half of it would be off by something else.
        let next = self.file.with_extension("next");
        fs::write(&next, format!("{seconds:+}\n")).expect("the directory is ours");
        fs::rename(next, &self.file).expect("the directory is ours");
    }

    /// What a process needs to go by it.
    fn environment(&self) -> Vec<(String, String)> {
        let variables = [
            ("LD_PRELOAD", library().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            // Every process is to see the jump at once, as it would that of a real clock.
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        variables.map(|(name, value)| (name.to_owned(), value)).into()
    }
}

/// Where Debian keeps the library.
fn library() -> PathBuf {
    let places = fs::read_dir("/usr/lib").into_iter().flatten().filter_map(Result::ok);
    let mut files = places.map(|place| place.path().join("faketime/libfaketimeMT.so.1"));
    files.find(|file| file.exists()).expect("libfaketime is installed: run tests/services/install faketime")
}

/// What was polled after the clock was set, or after a standstill.
#[derive(Default)]
struct Seen {
    /// The longest time without any poll.
    silence: Duration,
    /// The most polls of one process within one interval: the one that was coming, and one to catch up.
    most: usize,
}

impl Seen {
    /// Watches for two intervals.
    async fn watch(&mut self, polls: &Polls) {
        let from = Utc::now();
        sleep(EVERY).await;
        self.most = self.most.max(polls.of_each_since(from).into_values().max().unwrap_or(0));
        sleep(EVERY).await;
        self.silence = self.silence.max(polls.longest_gap(from, Utc::now()));
    }
}

/// Whichever clock jumps, processes go on being polled, without a burst and without a silence, and nothing is done twice.
pub(crate) async fn t29(rig: &mut Rig, size: Size) -> Row {
    let (count, frozen) = size.of((500, Duration::from_mins(5)), (50, Duration::from_secs(20)));
    let (ours, theirs) = (Clock::new(rig.logs.join("ours")), Clock::new(rig.logs.join("theirs")));
    let jumping = Server::start_with("postgres", &rig.logs, &["fsync=on"], theirs.environment()).await;
    let steady = std::mem::replace(&mut rig.database, jumping);
    let setup = Setup { workers: 2, schedulers: 2, environment: ours.environment(), ..Setup::default() };
    let mut service = rig.service(setup).await;
    let polls = Polls::watch(&rig.broker.url, &service).await;
    let mut commands = ballots(count, usize::MAX, EVERY);
    service.driver.send(&commands).await;
    service.answered(&commands, count).await;
    let (mut jumps, mut standstill) = (Seen::default(), Seen::default());
    for clock in [&ours, &theirs] {
        for offset in OFFSETS {
            // They are at work when it happens.
            let part = service.commands(20, "keyed", &json!({ "deeds": [{ "wait": 2_000 }], "calls": true }));
            service.driver.send(&part).await;
            clock.set(offset);
            jumps.watch(&polls).await;
            commands.extend(part);
        }
        clock.set(0);
        jumps.watch(&polls).await;
    }
    let repeated = rig.platform.repeated();
    for process in &mut service.processes {
        process.signal("STOP");
    }
    sleep(frozen).await;
    for process in &mut service.processes {
        process.signal("CONT");
    }
    standstill.watch(&polls).await;
    for scheduler in &mut service.processes[2..] {
        scheduler.signal("TERM");
        scheduler.ended_within(Duration::from_secs(30)).await.expect("a scheduler has little to finish");
    }
    let tally = service.settle(&commands, &["action.completed", "process.started"]).await;
    let found = polls.found().await;
    let row = Row::new("T29", format!("{JUMPS} jumps of up to a day of either clock, then a standstill of {frozen:?}"))
        .exactly("calls repeated by the jumps", repeated, 0)
        .at_most("and by the standstill", tally.extra_calls - repeated, count)
        .counts(found.tally(&tally));
    std::mem::replace(&mut rig.database, steady).end();
    row.within("longest time without a poll, interval 3 s", jumps.silence, SOON)
        .at_most("polls of one process in an interval", jumps.most, 2)
        .within("the same after the standstill", standstill.silence, SOON)
        .at_most("and", standstill.most, 2)
}
