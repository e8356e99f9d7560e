//! Commands of strangers: words that nobody knows, keys that are used twice, and answers that are wanted elsewhere. Each is
//! answered at once and in words that help, and nothing happens but that.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    command::{Command, Properties, Strange},
    driver::quantile,
    plugins::ended_in,
    rig::{COMMUNITY, Rig, Service, Setup, Size, command},
    table::Row,
};

/// A command whose properties are not as they should be.
pub(crate) fn strange(command: Command, properties: Strange) -> Command {
    Command { properties: Properties::Strange(properties), ..command }
}

/// A command of T41, what it is answered with, and a word of the answer.
struct Unknown {
    command: fn() -> Command,
    problem: Option<&'static str>,
    word: &'static str,
}

fn act(community: &str, parameters: &Value) -> Value {
    json!({ "community": community, "parameters": parameters })
}

fn well() -> Value {
    act(COMMUNITY, &json!({ "deeds": ["succeed"], "calls": false }))
}

const UNKNOWN: &[Unknown] = &[
    Unknown {
        command: || command("action.pupet.keyed", &well()),
        problem: Some("/unknown-plugin"),
        word: "did you mean 'puppet'?",
    },
    Unknown {
        command: || command("plugin.pupet.enable", &json!({ "community": COMMUNITY, "config": {} })),
        problem: Some("/unknown-plugin"),
        word: "did you mean 'puppet'?",
    },
    Unknown {
        command: || command("action.puppet.keyd", &well()),
        problem: Some("/unknown-action"),
        word: "did you mean 'keyed'?",
    },
    Unknown {
        command: || command("process.puppet.balot.start", &act(COMMUNITY, &json!({ "until": 1, "every_ms": 1 }))),
        problem: Some("/unknown-process"),
        word: "did you mean 'ballot'?",
    },
    // The slugs of others are not suggested to anybody.
    Unknown {
        command: || command("action.puppet.keyed", &act("acmee", &json!({ "deeds": [], "calls": false }))),
        problem: Some("/unknown-community"),
        word: "acmee",
    },
    Unknown { command: || command("actoin.puppet.keyed", &well()), problem: Some("/unknown-command"), word: "" },
    Unknown {
        command: || strange(command("action.puppet.keyd", &well()), Strange::default()),
        problem: Some("/unknown-action"),
        word: "did you mean 'keyed'?",
    },
    Unknown {
        command: || strange(command("action.puppet.keyed", &well()), Strange::default()),
        problem: None,
        word: "",
    },
    // As long as AMQP can say it: the wire has no room for 10 kB.
    Unknown {
        command: || {
            let message_id = Some(format!("{:x<255}", Uuid::new_v4().to_string()));
            strange(command("action.puppet.keyed", &well()), Strange { message_id, ..Strange::default() })
        },
        problem: Some("/invalid-property"),
        word: "a UUID is best",
    },
    Unknown {
        command: || {
            let mut body = well();
            body["version"] = 2.into();
            command("action.puppet.keyed", &body)
        },
        problem: Some("/invalid-command"),
        word: "'version'",
    },
    Unknown {
        command: || command("action.puppet.keyed", &act(COMMUNITY, &json!({ "deeds": [], "callz": true }))),
        problem: Some("/invalid-parameters"),
        word: "did you mean 'calls'?",
    },
    Unknown {
        command: || {
            let long = "x".repeat(10 * 1024);
            command("process.puppet.ballot.close", &json!({ "community": COMMUNITY, "process_id": long }))
        },
        problem: Some("/invalid-command"),
        word: "/process_id",
    },
];

/// Words that nobody knows: told what is wrong, with the nearest word that would be right, at the first attempt.
pub(crate) async fn t41(rig: &mut Rig, size: Size) -> Row {
    const PER_SECOND: u32 = 50;
    let many = size.of(250, 20);
    let mut service = rig.service(Setup::default()).await;
    let kinds: Vec<Vec<Command>> =
        UNKNOWN.iter().map(|unknown| (0..many).map(|_| (unknown.command)()).collect()).collect();
    let mixed: Vec<_> = (0..many).flat_map(|turn| kinds.iter().map(move |kind| kind[turn].clone())).collect();
    service.driver.send_at(PER_SECOND, &mixed).await;
    let tally = service.settle(&mixed, &["action.completed", "command.rejected"]).await;
    let (mut told, mut helped) = (0, 0);
    for (unknown, commands) in UNKNOWN.iter().zip(&kinds) {
        match unknown.problem {
            Some(problem) => told += ended_in(&service, commands, problem),
            None => told += service.driver.answered(commands) - service.driver.problems(commands).len(),
        }
        let problems = service.driver.problems(commands);
        helped += problems.iter().filter(|problem| problem.to_string().contains(unknown.word)).count();
    }
    let log = service.processes[0].log_from(0);
    let refused = mixed.len() - many;
    let first = log.lines().filter(|line| line.contains("rejected error=") && line.contains(" attempt=1 ")).count();
    let latencies = service.driver.latencies(&mixed);
    Row::new("T41", format!("{many} each of {} commands with a word that nobody knows", UNKNOWN.len()))
        .exactly("calls at the platform", tally.keys, 0)
        .counts(tally)
        .exactly("answered as they should be", told, mixed.len())
        .exactly("with the word that helps", helped, refused)
        .exactly("refused at the first attempt", first, refused)
        .exactly("tried again", log.matches("tried again later").count(), 0)
        .within("p99", quantile(&latencies, 990), Duration::from_millis(50))
}

/// How many copies of its final events have come, in all.
fn arrived(service: &Service, command: &Command) -> usize {
    let book = service.driver.book();
    let entry = book.entries.get(&command.id).expect("it was sent");
    entry.finals.iter().map(|last| usize::try_from(last.copies).unwrap_or(usize::MAX)).sum()
}

/// Waits until as many copies of its final event have come as there are of it; `false` where they do not.
async fn all_arrive(service: &Service, command: &Command, copies: usize) -> bool {
    let until = Instant::now() + Duration::from_mins(1);
    while arrived(service, command) < copies && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    arrived(service, command) == copies
}

/// One command fifty times at once, for four workers; then its key once more, for something else.
pub(crate) async fn t47(rig: &mut Rig, size: Size) -> Row {
    const COPIES: usize = 50;
    let rounds = size.of(25, 1);
    let mut service = rig.service(Setup { workers: 4, ..Setup::default() }).await;
    let script = json!({ "deeds": ["succeed"], "calls": true });
    // The same parameters, and still another command: a deed more.
    let other = json!({ "deeds": ["succeed", "succeed"], "calls": true });
    let (mut equal, mut others, mut incomplete) = (Vec::new(), Vec::new(), 0);
    for _ in 0..rounds {
        let began = equal.len();
        for action in ["keyed", "unsafe", "keyed", "unsafe"] {
            equal.push(service.command_in(COMMUNITY, action, &script));
        }
        for command in &equal[began..] {
            service.driver.send_copies(command, COPIES).await;
        }
        // A copy that finds its command in hand comes back later, and then finds the outcome.
        for command in &equal[began..] {
            incomplete += usize::from(!all_arrive(&service, command, COPIES).await);
            let message_id = Some(command.id.clone());
            let conflict = Command { key: command.key.clone(), ..service.command_in(COMMUNITY, "keyed", &other) };
            others.push(strange(conflict, Strange { message_id, ..Strange::default() }));
        }
        service.driver.send(&others[began..]).await;
    }
    service.answered(&others, others.len()).await;
    let commands = [equal.clone(), others.clone()].concat();
    let tally = service.settle(&commands, &["action.completed", "command.rejected"]).await;
    let completed = tally.kinds.get("action.completed").copied().unwrap_or(0);
    Row::new("T47", format!("{} × one command {COPIES} times at once on 4 workers, then its key again", equal.len()))
        .exactly("executions", tally.keys + tally.extra_calls, equal.len())
        .exactly("answers beyond the first, all of the same id", tally.copies, equal.len() * (COPIES - 1))
        .counts(tally)
        .exactly("not answered once for each copy", incomplete, 0)
        .exactly("completed", completed, equal.len())
        .exactly("refused with `conflict`", ended_in(&service, &others, "/conflict"), others.len())
}
