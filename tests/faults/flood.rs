//! One community floods, and many others have one command a second each.
//!
//! The broker's queue is first in, first out: whoever comes after a flood is reached when the flood before it has been
//! fetched, and handled or parked. So two things are judged apart. A flood that goes on, faster than it can be handled and
//! slower than it can be fetched, must hardly be noticed: a parked command costs the broker three writes, and where two
//! cores do all of that the others wait for them, some tenths of a second. One that is there all at once must be passed in
//! the time that fetching it takes, and only once: what was parked must not stand in the way again. Up: the list of
//! scenarios.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, interval};

use crate::{
    driver::{Command, quantile},
    rig::{Rig, Service, Setup, Size},
    table::Row,
};

/// The community that floods.
const FLOOD: &str = "flood";
/// What a flood that goes on may cost the others.
const HARDLY: Duration = Duration::from_millis(500);

/// What the others went through.
struct Passed {
    p99: Duration,
    slowest: Duration,
    /// Of the flood, what was not answered when they were through.
    open: usize,
    /// Memory of the worker.
    grown_mib: usize,
}

/// One command a second for each community, for so many seconds.
fn one_a_second(service: &Service, names: &[String], seconds: usize) -> Vec<Command> {
    let quick = json!({ "deeds": ["succeed"], "calls": true });
    (0..seconds).flat_map(|_| names.iter().map(|name| service.command_in(name, "keyed", &quick))).collect()
}

/// Sends the commands of the others at their rhythm, beside a flood, and waits until they are answered.
async fn beside(
    service: &Service,
    rhythm: u32,
    others: &[Command],
    flood: &[Command],
    per_second: Option<u32>,
) -> Passed {
    let before = service.processes[0].resident_kib();
    let flooding = match per_second {
        Some(per_second) => service.driver.send_at_in_background(per_second, flood),
        None => service.send(flood),
    };
    let sending = service.driver.send_at_in_background(rhythm, others);
    let (mut most, mut looks, mut since) = (before, interval(Duration::from_millis(200)), Instant::now());
    let mut last = 0;
    while last < others.len() && since.elapsed() < Duration::from_mins(3) {
        looks.tick().await;
        most = most.max(service.processes[0].resident_kib());
        let answered = service.driver.answered(others);
        if answered > last {
            (last, since) = (answered, Instant::now());
        }
    }
    sending.done().await;
    let open = flood.len() - service.driver.answered(flood);
    flooding.done().await;
    let latencies = service.driver.latencies(others);
    Passed {
        p99: quantile(&latencies, 990),
        slowest: latencies.last().copied().unwrap_or_default(),
        open,
        grown_mib: usize::try_from(most.saturating_sub(before) / 1024).unwrap_or(usize::MAX),
    }
}

/// Others hardly notice a flood that goes on, and get past one that came at once.
pub(crate) async fn t37(rig: &mut Rig, size: Size) -> Row {
    let (communities, seconds) = size.of((99, 60), (20, 10));
    let (count, at_once) = size.of((100_000, 20_000), (5_000, 3_000));
    let names: Vec<_> = (0..communities).map(|number| format!("small-{number}")).collect();
    let mut service =
        rig.service(Setup { communities: [names.clone(), vec![FLOOD.to_owned()]].concat(), ..Setup::default() }).await;
    // A community's share is 192 handlers, so 384 of these a second.
    let slow = |count: usize| -> Vec<_> {
        let slow: Value = json!({ "deeds": [{ "wait": 500 }], "calls": true });
        (0..count).map(|_| service.command_in(FLOOD, "keyed", &slow)).collect()
    };
    let rhythm = u32::try_from(communities).expect("it is small");
    let per_second = u32::try_from(count / seconds).expect("it is small");
    let calm = one_a_second(&service, &names, seconds);
    let alone = beside(&service, rhythm, &calm, &[], None).await;
    let (steady, flood) = (one_a_second(&service, &names, seconds), slow(count));
    let during = beside(&service, rhythm, &steady, &flood, Some(per_second)).await;
    service.answered(&flood, flood.len()).await;
    let (late, burst) = (one_a_second(&service, &names, seconds), slow(at_once));
    let after = beside(&service, rhythm, &late, &burst, None).await;
    let commands = [calm, steady, late, flood, burst].concat();
    let tally = service.settle(&commands, &["action.completed"]).await;
    let throttled = service.processes[0].log_from(0).contains("over its share");
    Row::new(
        "T37",
        format!(
            "{count} slow commands of one community, {per_second}/s, then {at_once} at once; {communities} others with 1/s"
        ),
    )
    .exactly("calls repeated", tally.extra_calls, 0)
    .counts(tally)
    .holds("the log names who is over its share", throttled)
    .at_least("of the flood open when the others were through", during.open.min(after.open), 1)
    .at_most("MiB grown", during.grown_mib.max(after.grown_mib), 50)
    .note("p99 of the others alone", format!("{:.1?}", alone.p99))
    .within("p99 of the others beside the flood", during.p99, HARDLY)
    .note("p99 of the others after the burst", format!("{:.1?}", after.p99))
    .within("the slowest of them", after.slowest, Duration::from_secs(1) * u32::try_from(at_once / 1_000).expect("it is small"))
}
