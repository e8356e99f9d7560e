//! Plugins that crash, hang and panic, and communities that are slow or many: what one does, the others hardly notice.
//!
//! Where a figure is a multiple of an undisturbed one, [`GRAIN`] is added: on two cores, with the servers beside it, one turn
//! of the scheduler or one write to the disk moves the worst few.

use std::time::Duration;

use rand::Rng;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    checker::Tally,
    dead::convicted,
    driver::{Command, Sending, quantile},
    platform::{Answer, Call},
    rig::{COMMUNITY, Rig, Service, Setup, Size},
    table::Row,
    workers::Role,
};

/// The community that makes the trouble.
const OTHER: &str = "other";
/// What `worker.community_share` is by default, of a hundred.
const SHARE: usize = 75;

/// See above.
pub(crate) const GRAIN: Duration = Duration::from_millis(25);
/// What nobody's p99 may pass, however slow the undisturbed one was.
pub(crate) const AT_ALL: Duration = Duration::from_millis(100);

fn setup(concurrency: usize, deadline: usize) -> Setup {
    let settings =
        vec![("worker.concurrency", concurrency.to_string()), ("worker.deadline_seconds", deadline.to_string())];
    Setup { settings, communities: vec![COMMUNITY.to_owned(), OTHER.to_owned()], ..Setup::default() }
}

fn in_community(service: &Service, count: usize, community: &str, action: &str, script: &Value) -> Vec<Command> {
    (0..count).map(|_| service.command_in(community, action, script)).collect()
}

/// So many commands that are answered at once, sent at a rhythm while the scenario goes on.
fn steadily(service: &Service, per_second: u32, commands: &[Command]) -> Sending {
    service.driver.send_at_in_background(per_second, commands)
}

fn p99(service: &Service, commands: &[Command]) -> Duration {
    quantile(&service.driver.latencies(commands), 990)
}

fn kind(tally: &Tally, kind: &str) -> usize {
    tally.kinds.get(kind).copied().unwrap_or(0)
}

/// How many of these commands ended in this problem.
pub(crate) fn ended_in(service: &Service, commands: &[Command], problem: &str) -> usize {
    let problems = service.driver.problems(commands);
    problems.iter().filter(|said| said["type"].as_str().is_some_and(|url| url.ends_with(problem))).count()
}

/// The calls that a community's commands made, by command.
fn calls_of(rig: &Rig, community: &str) -> Vec<Vec<Call>> {
    rig.platform.calls().into_values().filter(|calls| calls[0].community == community).collect()
}

/// One of ten panics. Whoever asked is told without the details, which are in the log.
pub(crate) async fn t32(rig: &mut Rig, size: Size) -> Row {
    let count = size.of(1_000, 100);
    let environment = vec![("RUST_BACKTRACE".to_owned(), "1".to_owned())];
    let mut service = rig.service(Setup { environment, ..setup(32, 5) }).await;
    let (well, panics) = (json!({ "deeds": ["succeed"], "calls": true }), json!({ "deeds": ["panic"], "calls": true }));
    let poor = service.commands(count, "keyed", &panics);
    let others = service.commands(9 * count, "keyed", &well);
    let mixed: Vec<_> =
        poor.iter().zip(others.chunks(9)).flat_map(|(one, nine)| [std::slice::from_ref(one), nine].concat()).collect();
    service.driver.send(&mixed).await;
    let tally = service.settle(&mixed, &["action.completed", "action.failed"]).await;
    let log = service.processes[0].log_from(0);
    let told = service.driver.problems(&poor).iter().map(Value::to_string).collect::<String>();
    let silent = !["the puppet was told to", ".rs", "backtrace"].iter().any(|detail| told.contains(detail));
    let completed = kind(&tally, "action.completed");
    Row::new("T32", format!("1 of 10 of {} commands panics", 10 * count))
        .exactly("calls repeated", tally.extra_calls, 0)
        .counts(tally)
        .exactly("completed", completed, 9 * count)
        .exactly("failed with `plugin-panicked`", ended_in(&service, &poor, "/plugin-panicked"), count)
        .holds("no detail of the panic in the events", silent)
        .exactly("panics in the log", log.matches("the puppet was told to").count(), count)
        .exactly("backtraces in the log", log.matches("stack backtrace:").count(), count)
}

/// Handlers that hang, and one that blocks its thread, round after round: each round finds the handlers of the one before
/// free, and the neighbours hardly notice.
pub(crate) async fn t33(rig: &mut Rig, size: Size) -> Row {
    const HANDS: usize = 16;
    const LIMIT: Duration = Duration::from_secs(2);
    const PER_SECOND: u32 = 20;
    let rounds = size.of(20, 3);
    let mut service = rig.service(setup(HANDS, 2)).await;
    let quick = json!({ "deeds": ["succeed"], "calls": true });
    let beside = usize::try_from(PER_SECOND).expect("it is small") * rounds * 3;
    let (calm, neighbours) = (service.commands(beside, "keyed", &quick), service.commands(beside, "keyed", &quick));
    steadily(&service, PER_SECOND, &calm).done().await;
    service.answered(&calm, calm.len()).await;
    let sending = steadily(&service, PER_SECOND, &neighbours);
    let hangs = json!({ "deeds": ["hang"], "calls": true });
    // Longer than its deadline, and gone before the next round but one.
    let blocks = json!({ "deeds": [{ "block": 4_000 }], "calls": true });
    let (mut stuck, mut repeatable) = (Vec::new(), 0);
    for _ in 0..rounds {
        // As many as a community may run, so that a handler that is not freed is missed in the next round.
        let part = [
            in_community(&service, 1, OTHER, "keyed", &blocks),
            in_community(&service, 1, OTHER, "unsafe", &hangs),
            in_community(&service, HANDS * SHARE / 100 - 2, OTHER, "keyed", &hangs),
        ]
        .concat();
        repeatable += part.len() - 1;
        service.driver.send(&part).await;
        service.driver.wait_for(&part, part.len(), LIMIT * 10).await;
        stuck.extend(part);
    }
    sending.done().await;
    let slowest = service.driver.latencies(&stuck).last().copied();
    let slowest = slowest.filter(|_| service.driver.answered(&stuck) == stuck.len());
    let commands = [calm.clone(), neighbours.clone(), stuck.clone()].concat();
    let tally = service.settle(&commands, &["action.completed", "action.failed", "action.uncertain"]).await;
    let told = service.processes[0].log_from(0).matches("a handler blocks its thread").count();
    let solo = p99(&service, &calm);
    let uncertain = kind(&tally, "action.uncertain");
    Row::new("T33", format!("{rounds} × {} handlers that hang and one that blocks its thread", HANDS * SHARE / 100 - 1))
        .exactly("calls repeated", tally.extra_calls, 0)
        .counts(tally)
        .exactly("failed with `timeout`", ended_in(&service, &stuck, "/timeout"), repeatable)
        .exactly("unsafe and uncertain", uncertain, rounds)
        .within("slowest outcome", slowest, LIMIT + Duration::from_secs(1))
        .exactly("blocked threads in the log", told, rounds)
        .note("p99 of the others alone", format!("{solo:.1?}"))
        .within("p99 of the others", p99(&service, &neighbours), (solo * 2 + GRAIN).min(AT_ALL))
}

/// Starts a worker wherever one has died, as a supervisor does, until everything is answered, or until so many have died
/// that it is no use. How many died.
async fn supervise(service: &mut Service, commands: &[Command], most: usize) -> usize {
    let (mut crashes, until) = (0, Instant::now() + Duration::from_mins(10));
    while service.driver.answered(commands) < commands.len() && crashes < most && Instant::now() < until {
        for place in 0..service.processes.len() {
            if service.processes[place].has_died() {
                crashes += 1;
                service.replace_by(place, Role::Worker);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    crashes
}

/// Commands that kill their process each time, in the middle of many that do not.
pub(crate) async fn t35(rig: &mut Rig, size: Size) -> Row {
    const DEATHS: usize = 3;
    let count = size.of(10_000, 600);
    let effects = size.of(&["idempotent", "pure", "keyed"][..], &["idempotent"]);
    let mut service = rig.service(Setup { workers: 2, ..setup(32, 5) }).await;
    let slowly = json!({ "deeds": [{ "wait": 50 }], "calls": true });
    let mut innocents = service.commands(count / 2, "keyed", &slowly);
    innocents.extend(service.commands(count / 2, "pure", &slowly));
    let kills = json!({ "deeds": ["kill"], "calls": true });
    let poison: Vec<_> = effects.iter().map(|effect| service.command_in(OTHER, effect, &kills)).collect();
    let mut commands = innocents.clone();
    for command in &poison {
        // Among the first, so that each death has many beside it.
        let place = rig.random.random_range(0..count / 4);
        commands.insert(place, command.clone());
    }
    let sending = service.send(&commands);
    let crashes = supervise(&mut service, &commands, 4 * DEATHS * poison.len()).await;
    sending.done().await;
    let tally = service.settle(&commands, &["action.completed", "action.failed"]).await;
    let completed = kind(&tally, "action.completed");

    let (convicted, other_letters) = convicted(rig, &service, &poison).await;
    let most = calls_of(rig, OTHER).iter().map(Vec::len).max().unwrap_or(0);
    Row::new("T35", format!("{} poisonous among {count} commands, 2 workers under a supervisor", poison.len()))
        .counts(tally)
        .at_least("crashes", crashes, 2)
        .at_most("crashes in all", crashes, DEATHS * poison.len())
        .at_most("crashes of one command", most, DEATHS)
        .exactly("answered with `worker-crashed`", ended_in(&service, &poison, "/worker-crashed"), poison.len())
        .exactly("dead letters for having killed a worker", convicted, poison.len())
        .exactly("innocents completed", completed, count)
        .exactly("innocents dead-lettered", other_letters, 0)
}

/// The most calls that were under way at once, where each takes so long.
fn most_at_once(calls: &[Vec<Call>], each: Duration) -> usize {
    let mut begun: Vec<_> = calls.iter().flatten().map(|call| call.at).collect();
    begun.sort_unstable();
    let under_way = |end: usize| begun[..=end].iter().rev().take_while(|at| begun[end] - **at < each).count();
    (0..begun.len()).map(under_way).max().unwrap_or(0)
}

/// One community's platform is slow, and it has much to do there. Its neighbour goes on as ever, from the first moment.
pub(crate) async fn t36(rig: &mut Rig, size: Size) -> Row {
    const PER_SECOND: u32 = 10;
    let (count, each, hands) = size.of((1_000, 30, 256), (200, 3, 32));
    let (time, cap) = (size.of(120, 15), hands * SHARE / 100);
    let slowly = Duration::from_secs(each);
    let mut service = rig.service(setup(hands, 60)).await;
    rig.platform.answer_to(OTHER, Answer::Slow(slowly));
    let script = json!({ "deeds": ["succeed"], "calls": true });
    let beside = usize::try_from(PER_SECOND).expect("it is small") * time;
    let (calm, neighbours) = (service.commands(beside, "keyed", &script), service.commands(beside, "keyed", &script));
    let slow = in_community(&service, count, OTHER, "keyed", &script);
    steadily(&service, PER_SECOND, &calm).done().await;
    let sending = (steadily(&service, PER_SECOND, &neighbours), service.send(&slow));
    sending.0.done().await;
    sending.1.done().await;
    let open = count - service.driver.answered(&slow);
    let commands = [calm.clone(), neighbours.clone(), slow].concat();
    let tally = service.settle(&commands, &["action.completed"]).await;
    let most = most_at_once(&calls_of(rig, OTHER), slowly);
    let solo = p99(&service, &calm);
    Row::new("T36", format!("{count} commands to a platform that takes {each} s, and a neighbour with {PER_SECOND}/s"))
        .exactly("calls repeated", tally.extra_calls, 0)
        .counts(tally)
        .at_most("handlers of the slow one", most, cap)
        .at_least("handlers of the slow one at its best", most, cap / 2)
        .at_least("of it open when the neighbour was through", open, 1)
        .note("p99 of the neighbour alone", format!("{solo:.1?}"))
        .within("p99 of the neighbour", p99(&service, &neighbours), (solo * 3 / 2 + GRAIN).min(AT_ALL))
}
