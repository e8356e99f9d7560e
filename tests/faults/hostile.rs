//! Bodies that no reader should trust: too large, too deep, too many, and no JSON at all. Each is answered, none is read
//! further than it has to be, and the worker is as it was.
//!
//! What can be told from an answer stands in `tests/stories/hostile.rs`, one document after the other; here it is many
//! of each in a row, and what they cost. Of nameless ones some are sent, too: nobody can recognise the answer to those, so
//! they are dead letters besides.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    checker::Tally,
    command::{Command, Properties},
    dead::dead_letters,
    plugins::ended_in,
    rig::{COMMUNITY, Rig, Service, Setup, Size},
    table::Row,
};

/// What bodies may have, by default.
const LIMIT: usize = 1024 * 1024;
/// How much is on its way at a time: in full what a worker fetches at once, 512 of the largest bodies that it takes.
fn in_flight(size: Size) -> usize {
    size.of(512, 64) * LIMIT
}

/// Documents that are larger than this are sent for so long, instead of so often.
const LARGE: usize = 16 * 1024;

fn raw(body: &[u8]) -> Command {
    Command::new("action.puppet.pure", body.to_vec())
}

fn nameless(body: &[u8]) -> Command {
    Command { properties: Properties::Nameless, ..raw(body) }
}

/// A command for the puppet of exactly so many bytes, all of which have to be read.
fn command_of(bytes: usize) -> Vec<u8> {
    const DEED: &str = ",\"succeed\"";
    let with = |deeds: &str, space: &str| {
        format!(r#"{{"community":"{COMMUNITY}","parameters":{{"deeds":["succeed"{deeds}],"calls":false}}{space}}}"#)
    };
    let room = bytes - with("", "").len();
    let body = with(&DEED.repeat(room / DEED.len()), &" ".repeat(room % DEED.len()));
    assert_eq!(body.len(), bytes);
    body.into_bytes()
}

/// Sends them, so much at a time, until all are answered or nothing comes any more.
async fn flood(service: &Service, commands: &[Command], in_flight: usize) {
    let size = commands.first().map_or(1, |command| command.body.len().max(1));
    for part in commands.chunks((in_flight / size).clamp(1, 1024)) {
        service.driver.send(part).await;
        if !service.driver.wait_for(part, part.len(), Duration::from_secs(30)).await {
            return;
        }
    }
}

/// Bodies of one size, and what becomes of them.
struct Bodies {
    name: &'static str,
    commands: Vec<Command>,
    /// What they are answered with; `None` where they are right.
    problem: Option<&'static str>,
}

/// Too large by far, by a byte, and not at all: what is too large is refused before anybody looks into it.
pub(crate) async fn t39(rig: &mut Rig, size: Size) -> Row {
    const EACH: Duration = Duration::from_millis(5);
    /// To carry a megabyte costs something, whatever becomes of it then.
    const MEGABYTE: Duration = Duration::from_millis(1);
    let mut service = rig.service(Setup::default()).await;
    let many = |count: usize, body: &[u8]| (0..count).map(|_| raw(body)).collect::<Vec<_>>();
    // Whoever looked into these would say that they are no JSON.
    let (huge, over) = (vec![b'{'; 10_000_000], vec![b'{'; LIMIT + 1]);
    let mut all = [
        Bodies { name: "10 MB", commands: many(size.of(200, 10), &huge), problem: Some("/too-large") },
        Bodies { name: "1 MiB + 1", commands: many(size.of(500, 50), &over), problem: Some("/too-large") },
        Bodies { name: "empty", commands: many(size.of(1_000, 200), b""), problem: Some("/invalid-json") },
        Bodies { name: "64 KiB", commands: many(size.of(500, 20), &command_of(64 * 1024)), problem: None },
        Bodies { name: "1 MiB", commands: many(size.of(512, 10), &command_of(LIMIT)), problem: None },
    ];
    let set_aside = size.of(10, 2);
    for bodies in &mut all[..2] {
        let body = bodies.commands[0].body.clone();
        bodies.commands.extend((0..set_aside).map(|_| nameless(&body)));
    }
    let (mut row, mut told) = (Row::new("T39", "bodies of 10 MB, 1 MiB + 1, nothing, 64 KiB and 1 MiB"), 0);
    let (mut commands, mut costs) = (Vec::new(), Vec::new());
    for bodies in all {
        let before = service.processes[0].processor_time();
        flood(&service, &bodies.commands, in_flight(size)).await;
        let spent = service.processes[0].processor_time().saturating_sub(before);
        let each = spent / u32::try_from(bodies.commands.len()).expect("it is small");
        let name = format!("{} × {}: processor time of each", bodies.commands.len(), bodies.name);
        // A build that is not optimised takes longer than that to carry the bytes.
        let judged = !cfg!(debug_assertions) && bodies.problem.is_some();
        let carried = u32::try_from(bodies.commands[0].body.len() / 1_000_000).expect("it is small");
        row = if judged {
            row.within(&name, each, EACH + MEGABYTE * carried)
        } else {
            row.note(&name, format!("{each:.1?}"))
        };
        if let Some(problem) = bodies.problem {
            told += bodies.commands.len() - ended_in(&service, &bodies.commands, problem);
        }
        costs.push(each);
        commands.extend(bodies.commands);
    }
    let tally = service.settle(&commands, &["action.completed", "command.rejected"]).await;
    let completed = tally.kinds.get("action.completed").copied().unwrap_or(0);
    let dead = dead_for(rig, &service, "too-large").await;
    row.counts(tally)
        .within("1 MiB + 1, beside an eighth of what it costs to read 1 MiB", costs[1], costs[4] / 8)
        .exactly("refused in other words", told, 0)
        .exactly("completed", completed, size.of(1_012, 30))
        .exactly("dead letters for `too-large`", dead, 2 * set_aside)
}

/// How many dead letters there are for this reason; all others count, too, so that the figure tells of them.
async fn dead_for(rig: &Rig, service: &Service, reason: &str) -> usize {
    let dead = dead_letters(rig, service).await;
    let others: Vec<_> = dead.iter().filter_map(|letter| letter.reason()).filter(|said| *said != reason).collect();
    assert!(others.is_empty(), "dead letters for {others:?}");
    dead.len()
}

/// Documents that no reader should trust, each with the problem that it is answered with.
fn documents() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let with = |parameters: &str| format!(r#"{{"community":"{COMMUNITY}","parameters":{parameters}}}"#).into_bytes();
    let nested = |depth: usize| with(&format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth)));
    let members = |count: usize| (0..count).map(|n| format!(r#""k{n}":1"#)).collect::<Vec<_>>().join(",");
    vec![
        ("129 deep", nested(127), "/invalid-json"),
        ("128 deep", nested(124), "/invalid-parameters"),
        ("a member twice", with(r#"{"deeds":[],"calls":false,"calls":true}"#), "/invalid-json"),
        ("a member twice, once escaped", with(r#"{"deeds":[],"calls":false,"c\u0061lls":true}"#), "/invalid-json"),
        ("a community twice", with(&format!(r#"{{}},"community":"{COMMUNITY}""#)), "/invalid-json"),
        ("1e400", with(r#"{"deeds":[{"wait":1e400}],"calls":false}"#), "/invalid-json"),
        ("NUL, escaped", with(r#"{"deeds":["\u0000"],"calls":false}"#), "/invalid-json"),
        ("NUL", [with("{}"), b"\0".to_vec()].concat(), "/invalid-json"),
        ("lone surrogate", with(r#"{"deeds":["\ud800"],"calls":false}"#), "/invalid-json"),
        ("no UTF-8", b"{\"community\":\"\xff\"}".to_vec(), "/invalid-json"),
        ("overlong UTF-8", b"{\"community\":\"\xc0\xaf\"}".to_vec(), "/invalid-json"),
        ("byte order mark", [b"\xef\xbb\xbf".as_slice(), &with("{}")].concat(), "/invalid-json"),
        ("trailing bytes", [with("{}"), b" {}".to_vec()].concat(), "/invalid-json"),
        ("100 000 deep", nested(100_000), "/invalid-json"),
        ("as many members as fit", with(&format!("{{{}}}", members(80_000))), "/invalid-parameters"),
        ("a million members", with(&format!("{{{}}}", members(1_000_000))), "/too-large"),
    ]
}

/// The most memory of a worker, looked at while something goes on.
async fn most_memory(service: &Service, work: impl Future<Output = ()>) -> u64 {
    let (mut most, mut looks) = (0, interval(Duration::from_millis(100)));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(work);
    loop {
        tokio::select! {
            () = &mut work => return most.max(service.processes[0].resident_kib()),
            _ = looks.tick() => most = most.max(service.processes[0].resident_kib()),
        }
    }
}

/// Many of each in a row, and all of that twice: every one is answered, and the second time takes no more memory than what
/// the allocator has kept of the first.
pub(crate) async fn t40(rig: &mut Rig, size: Size) -> Row {
    const MOST: u64 = 50 * 1024;
    let (many, time) = size.of((5_000, Duration::from_secs(30)), (50, Duration::from_millis(500)));
    let mut service = rig.service(Setup::default()).await;
    let fresh = service.processes[0].resident_kib();
    let (mut commands, mut told, mut set_aside, mut large) = (Vec::new(), 0, 0, BTreeMap::new());
    let (mut after, mut most, mut heaviest) = (Vec::new(), 0, "");
    for _ in 0..2 {
        for (name, body, problem) in documents() {
            let began = commands.len();
            let mut peak = 0;
            if body.len() <= LARGE {
                let mut part: Vec<_> = (0..many).map(|_| raw(&body)).collect();
                if problem == "/invalid-json" {
                    part.push(nameless(&body));
                    set_aside += 1;
                }
                peak = most_memory(&service, flood(&service, &part, in_flight(size))).await;
                commands.extend(part);
            } else {
                let until = Instant::now() + time;
                while Instant::now() < until {
                    let at_once = size.of((in_flight(size) / body.len()).min(512), 2);
                    let part: Vec<_> = (0..at_once).map(|_| raw(&body)).collect();
                    peak = peak.max(most_memory(&service, flood(&service, &part, in_flight(size))).await);
                    commands.extend(part);
                }
                *large.entry(name).or_insert(0) += commands.len() - began;
            }
            told += commands.len() - began - ended_in(&service, &commands[began..], problem);
            if peak > most {
                (most, heaviest) = (peak, name);
            }
        }
        after.push(service.processes[0].resident_kib());
    }
    let tally = service.settle(&commands, &["command.rejected"]).await;
    let dead = dead_for(rig, &service, "invalid-json").await;
    let large: Vec<_> = large.iter().map(|(name, count)| format!("{count} {name}")).collect();
    row_of_t40(2 * many, &large, tally)
        .exactly("answered in other words", told, 0)
        .exactly("dead letters for `invalid-json`", dead, set_aside)
        .note("MiB at first", format!("{}, after the first half {}", fresh / 1024, after[0] / 1024))
        .note("MiB at the most", format!("{} ({heaviest})", most / 1024))
        .at_most("MiB grown in the second half", megabytes(after[1].saturating_sub(after[0])), megabytes(MOST))
}

fn megabytes(kib: u64) -> usize {
    usize::try_from(kib / 1024).unwrap_or(usize::MAX)
}

fn row_of_t40(many: usize, large: &[String], tally: Tally) -> Row {
    Row::new("T40", format!("{many} each of 13 documents that are no JSON or not to be read; {}", large.join(", ")))
        .counts(tally)
}
