//! The broker runs out of memory or disk: it takes no messages from anybody for a while, and everything else goes on.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::{
    broker::{log_lengths, queue},
    cast::{Place, all_taken},
    checker::Tally,
    rig::{COMMUNITY, QUIET, Rig, Service, Setup, Size},
    table::Row,
    vote::Cast,
    workers::Process,
};

/// An alarm of the broker: it takes no messages from anybody for a while.
struct Alarm {
    id: &'static str,
    what: &'static str,
    raise: [&'static str; 2],
    clear: [&'static str; 2],
}

/// Out of memory.
pub(crate) async fn t12(rig: &mut Rig, size: Size) -> Row {
    let (raise, clear) = (["set_vm_memory_high_watermark", "0"], ["set_vm_memory_high_watermark", "0.4"]);
    alarm(rig, size, Alarm { id: "T12", what: "memory alarm", raise, clear }).await
}

/// Out of disk.
pub(crate) async fn t13(rig: &mut Rig, size: Size) -> Row {
    let (raise, clear) = (["set_disk_free_limit", "100000GB"], ["set_disk_free_limit", "50MB"]);
    alarm(rig, size, Alarm { id: "T13", what: "disk alarm", raise, clear }).await
}

/// While the alarm is on nothing grows and no connection is lost, and what needs no publication is acknowledged; afterwards
/// everything is answered soon.
///
/// A command is acknowledged after its outcome is confirmed, so those that were fetched stay unacknowledged until the broker
/// takes messages again; they are bounded by the prefetch. A webhook for a vote that nobody has open tells nothing. The
/// workers stand still until the alarm is on, so that it finds all of that in their queue however slow the machine is.
async fn alarm(rig: &mut Rig, size: Size, alarm: Alarm) -> Row {
    const WORKERS: usize = 2;
    const CONCURRENCY: usize = 16;
    let (time, count) = (size.of(Duration::from_mins(1), Duration::from_secs(10)), size.of(4_000, 500));
    let settings = vec![("worker.concurrency", CONCURRENCY.to_string()), ("broker.heartbeat_seconds", "60".to_owned())];
    let mut service = rig.service(Setup { workers: WORKERS, settings, ..Setup::default() }).await;
    for process in &service.processes {
        process.logs_within("the worker takes commands", Duration::from_mins(1)).await.expect("a worker starts");
    }
    let (from, before) = (log_lengths(&service), memory(&service));
    all_signalled(&mut service, "STOP");
    let place = Place { community: COMMUNITY, team: None };
    let silent = (0..250).map(|number| place.hook(Some("nobody"), &Cast { number, tells: false }));
    let silent: Vec<_> = silent.collect();
    // Outcomes come well after the webhooks: what is stored with an outcome waits for the broker with it.
    let script = json!({ "deeds": [{ "wait": size.of(100, 500) }], "calls": true });
    let commands = service.commands(count, "keyed", &script);
    service.driver.send(&[silent.clone(), commands.clone()].concat()).await;
    rig.broker.ctl(&alarm.raise).await;
    let began = Instant::now();
    all_signalled(&mut service, "CONT");
    let noticed = service.processes[0].logs_after(from[0], "takes no messages for now", QUIET).await;
    let (mut grown, mut unacknowledged, mut left) = (0, 0, usize::MAX);
    // A quorum queue tells its length every few seconds only.
    while began.elapsed() < time || (left > count && began.elapsed() < QUIET) {
        grown = grown.max(memory(&service).saturating_sub(before));
        unacknowledged = unacknowledged.max(queue(rig, &service, "plugin.puppet", "messages_unacknowledged").await);
        left = queue(rig, &service, "plugin.puppet", "messages").await;
    }
    let answered = service.driver.answered(&commands);
    rig.broker.ctl(&alarm.clear).await;
    let cleared = Instant::now();
    service.answered(&commands, count).await;
    let took = cleared.elapsed();
    let lost =
        service.processes.iter().zip(&from).filter(|(process, from)| process.log_from(**from).contains("lost the c"));
    let lost = lost.count();
    let taken = all_taken(&service, &silent).await;
    let tally = service.settle(&commands, &["action.completed"]).await;
    let tally = Tally::of_hooks(&service.driver.book(), &silent, taken).and(tally);
    Row::new(alarm.id, format!("{} of RabbitMQ for {} s, {count} commands queued", alarm.what, time.as_secs()))
        .counts(tally)
        .holds("publishers are blocked", noticed.is_some() && answered < count)
        .exactly("left in the queue after all others were acknowledged", left, count)
        .exactly("workers that lost a connection", lost, 0)
        .at_most("unacknowledged", unacknowledged, WORKERS * 2 * CONCURRENCY)
        .at_most("MiB grown", grown >> 10, 50)
        .within("all answered after", took, Duration::from_secs(30))
}

fn all_signalled(service: &mut Service, signal: &str) {
    service.processes.iter_mut().for_each(|process| process.signal(signal));
}

/// The memory of the largest worker in KiB.
fn memory(service: &Service) -> usize {
    let largest = service.processes.iter().map(Process::resident_kib).max().unwrap_or(0);
    usize::try_from(largest).expect("it is small")
}
