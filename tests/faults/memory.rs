//! A plugin that takes all the memory of its worker. The neighbours have a worker of their own, and notice nothing.
//!
//! The limit is one of the process, set at its start: there the allocation fails and the process aborts. Where the limit
//! is one of its control group, the kernel kills it instead. To everybody outside that is the same.

use std::time::Duration;

use rand::Rng;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    dead::convicted,
    double::DOUBLE,
    driver::{Command, quantile},
    plugins::{AT_ALL, GRAIN},
    rig::{COMMUNITY, Rig, Service, Setup, Size, command},
    table::Row,
    workers::{MEMORY, Role},
};

/// The community that has the double.
const OTHER: &str = "other";
/// What the double's worker may take, in MiB.
const LIMIT: usize = 512;
/// What a process writes when it is refused.
const REFUSED: &str = "memory allocation of";
/// Which plugins a worker serves.
const SERVES: &str = "METAGOV__WORKER__PLUGINS";

/// Deaths of the double's worker.
#[derive(Debug, Default)]
struct Deaths {
    all: usize,
    /// Those in which it was refused memory.
    refused: usize,
}

/// One worker for the puppet, and one with a limit for the double, which one community has.
async fn service(rig: &mut Rig) -> Service {
    let environment = vec![(DOUBLE.to_owned(), String::new())];
    let settings = vec![("worker.plugins", "puppet".to_owned())];
    let mut service = rig.service(Setup { settings, environment, ..Setup::default() }).await;
    service.set(SERVES, Some("double"));
    service.set(MEMORY, Some(&LIMIT.to_string()));
    service.start(Role::Worker);
    // It declares the double's queues before it takes anything.
    let up = service.processes[1].logs_within("the worker takes commands", Duration::from_secs(30)).await;
    up.expect("a worker starts within the limit");
    let plugins = json!([{ "name": "double", "config": {} }]);
    let apply = [command("community.apply", &json!({ "slug": OTHER, "plugins": plugins }))];
    service.driver.send(&apply).await;
    service.answered(&apply, 1).await;
    service
}

fn of_double(count: usize, deed: &Value) -> Vec<Command> {
    let body = json!({ "community": OTHER, "parameters": { "deeds": [deed], "calls": true } });
    (0..count).map(|_| command("action.double.idempotent", &body)).collect()
}

/// Starts the double's worker anew whenever it has died, until everything is answered, or until so many have died that
/// it is no use.
async fn supervise(service: &mut Service, commands: &[Command], most: usize) -> Deaths {
    let (mut deaths, until) = (Deaths::default(), Instant::now() + Duration::from_mins(10));
    while service.driver.answered(commands) < commands.len() && deaths.all < most && Instant::now() < until {
        if service.processes[1].has_died() {
            deaths.all += 1;
            deaths.refused += usize::from(service.processes[1].log_from(0).contains(REFUSED));
            service.replace_by(1, Role::Worker);
        }
        sleep(Duration::from_millis(50)).await;
    }
    deaths
}

/// Commands that take more memory than there is, beside others of their plugin, and a neighbour with a worker of its own.
pub(crate) async fn t34(rig: &mut Rig, size: Size) -> Row {
    const CRASHES: usize = 3;
    const PER_SECOND: u32 = 20;
    let (count, greedy, time) = (size.of(2_000, 200), size.of(3, 1), size.of(60, 10));
    let mut service = service(rig).await;
    let beside = usize::try_from(PER_SECOND).expect("it is small") * time;
    let script = json!({ "deeds": ["succeed"], "calls": true });
    let (calm, neighbours) =
        (service.commands(beside / 2, "keyed", &script), service.commands(beside, "keyed", &script));
    service.driver.send_at(PER_SECOND, &calm).await;
    service.answered(&calm, calm.len()).await;

    let poison = of_double(greedy, &json!({ "allocate": 2 * LIMIT }));
    let mut doubles = of_double(count, &json!({ "wait": 50 }));
    for command in &poison {
        // Among the first, so that each death has many beside it.
        doubles.insert(rig.random.random_range(0..count / 4), command.clone());
    }
    let sending = (service.driver.send_at_in_background(PER_SECOND, &neighbours), service.send(&doubles));
    let deaths = supervise(&mut service, &doubles, 4 * CRASHES * greedy).await;
    sending.1.done().await;
    sending.0.done().await;
    let commands = [calm.clone(), neighbours.clone(), doubles].concat();
    let tally = service.settle(&commands, &["action.completed", "action.failed"]).await;

    let (convicted, other_letters) = convicted(rig, &service, &poison).await;
    let problems = service.driver.problems(&poison);
    let told = problems
        .iter()
        .filter(|said| said["type"].as_str().is_some_and(|url| url.ends_with("/worker-crashed")))
        .count();
    let completed = tally.kinds.get("action.completed").copied().unwrap_or(0);
    let calls: Vec<_> = rig.platform.calls().into_values().collect();
    let most = calls.iter().filter(|calls| calls[0].community == OTHER).map(Vec::len).max().unwrap_or(0);
    let repeated =
        calls.iter().filter(|calls| calls[0].community == COMMUNITY).map(|calls| calls.len() - 1).sum::<usize>();
    let p99 = |commands: &[Command]| quantile(&service.driver.latencies(commands), 990);
    let solo = p99(&calm);
    let done = format!("{greedy} of {} commands take more than the {LIMIT} MiB of their worker", count + greedy);
    let row = Row::new("T34", done)
        .counts(tally)
        .at_least("crashes", deaths.all, 1)
        .exactly("crashes without memory being refused", deaths.all - deaths.refused, 0)
        .at_most("crashes in all", deaths.all, CRASHES * greedy)
        .at_most("crashes of one command", most, CRASHES)
        .exactly("answered with `worker-crashed`", told, greedy)
        .exactly("dead letters for having killed a worker", convicted, greedy)
        .exactly("others completed", completed, calm.len() + neighbours.len() + count)
        .exactly("others dead-lettered", other_letters, 0)
        .exactly("calls repeated for the neighbour", repeated, 0)
        .note("p99 of the neighbour alone", format!("{solo:.1?}"));
    row.within("p99 of the neighbour", p99(&neighbours), (solo * 2 + GRAIN).min(AT_ALL))
}
