//! The broker goes away, hangs, runs out of something, or closes a channel.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::{
    driver::Command,
    rig::{Rig, Service, Setup, Size},
    table::Row,
};

/// What a worker logs when it is connected again.
const BACK: &str = "the connection for consuming is back";
/// How soon after the broker is back the service must be, too: the longest pause between two attempts.
const SOON: Duration = Duration::from_secs(5);

/// Commands of every kind of way through the worker.
fn mixed(service: &Service, count: usize) -> Vec<Command> {
    let script = json!({ "deeds": ["succeed"], "calls": true });
    let mut commands = service.commands(count / 2, "pure", &script);
    commands.extend(service.commands(count - count / 2, "keyed", &script));
    commands
}

/// How long the slowest worker takes from now on to be connected again; `None` where one is not within a minute.
/// `from` are the lengths of the logs before the fault.
async fn all_back(service: &Service, from: &[usize]) -> Option<Duration> {
    let began = Instant::now();
    for (process, from) in service.processes.iter().zip(from) {
        process.logs_after(*from, BACK, Duration::from_mins(1)).await?;
    }
    Some(began.elapsed())
}

fn log_lengths(service: &Service) -> Vec<usize> {
    service.processes.iter().map(|process| process.log().len()).collect()
}

/// How often each worker was connected again; the least of them.
fn reconnects(service: &Service) -> usize {
    service.processes.iter().map(|process| process.log().matches(BACK).count()).min().unwrap_or(0)
}

/// The broker stops and starts, by turns as an application and as a whole, in the middle of a stream of commands.
pub(crate) async fn t08(rig: &mut Rig, size: Size) -> Row {
    let (rounds, count) = (size.of(10, 2), size.of(5_000, 1_000));
    let mut service = rig.service(Setup { workers: 2, ..Setup::default() }).await;
    let mut commands = Vec::new();
    let mut slowest = Some(Duration::ZERO);
    for round in 0..rounds {
        let part = mixed(&service, count);
        let sending = service.send(&part);
        service.answered(&part, count / 4).await;
        let from = log_lengths(&service);
        if round % 2 == 0 {
            rig.broker.ctl(&["stop_app"]).await;
            rig.broker.ctl(&["start_app"]).await;
        } else {
            rig.broker.restart().await;
        }
        let took = all_back(&service, &from).await;
        slowest = slowest.zip(took).map(|(slowest, took)| slowest.max(took));
        sending.done().await;
        service.answered(&part, count).await;
        commands.extend(part);
    }
    let tally = service.settle(&commands, &["action.completed"]).await;
    Row::new("T08", format!("RabbitMQ restarted {rounds} ×, by turns `stop_app` and the whole node"))
        .counts(tally)
        .at_least("reconnects of each worker", reconnects(&service), rounds)
        .within("consuming again after", slowest, SOON)
}
