//! The disk of the database is full.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::{
    checker::Tally,
    driver::Command,
    mounts::Disk,
    rig::{COMMUNITY, Rig, Service, Setup, Size},
    table::Row,
    workers::{Process, Role},
};

/// What a worker says about it, once in [`ONCE_IN`].
const TROUBLE: &str = "the database is in trouble";
const ONCE_IN: Duration = Duration::from_secs(30);

/// What was seen of one database.
struct Seen {
    tally: Tally,
    /// Until a worker said that there is trouble.
    told: Option<Duration>,
    /// What it said.
    reason: String,
    /// The most lines of one process, and as many as it may write.
    lines: (usize, usize),
    answered_meanwhile: usize,
    open: usize,
    /// From when there was room again until something was answered, and until everything was.
    goes_on: Duration,
    all: Option<Duration>,
    /// Commands whose outcome another connection finds in the database.
    present: usize,
}

fn lines(process: &Process, from: u64) -> usize {
    process.log_from(from).matches(TROUBLE).count()
}

/// Fills the disk in the middle of a stream of commands, for so long, and makes room again. While it is full, the last
/// process of several is killed: what it has acknowledged without having stored it is lost.
async fn fill(service: &mut Service, disk: &Disk, commands: &[Command], per_second: u32, time: Duration) -> Seen {
    let sending = service.driver.send_at_in_background(per_second, commands);
    service.answered(commands, commands.len() / 4).await;
    let from: Vec<_> = service.processes.iter().map(Process::log_length).collect();
    if service.database_url.starts_with("sqlite:") {
        // A log that has grown takes many commits more without taking more room.
        service.sql("PRAGMA wal_checkpoint(TRUNCATE)").await;
    }
    let filled = Instant::now();
    disk.fill();
    let told = service.processes[0].logs_after(from[0], TROUBLE, Duration::from_mins(1)).await;
    let early = service.driver.answered(commands);
    sending.done().await;
    // The fault is that it lasts.
    tokio::time::sleep(time.saturating_sub(filled.elapsed())).await;
    let answered = service.driver.answered(commands);
    let most = service.processes.iter().zip(&from).map(|(process, from)| lines(process, *from)).max().unwrap_or(0);
    let allowed = filled.elapsed().as_secs() / ONCE_IN.as_secs() + 1;
    let log = service.processes[0].log_from(from[0]);
    let reason = log.lines().find(|line| line.contains(TROUBLE)).unwrap_or_default().to_owned();
    let last = service.processes.len() - 1;
    if last > 0 {
        service.replace_by(last, Role::Worker);
    }
    disk.free();
    let freed = Instant::now();
    service.answered(commands, (answered + 1).min(commands.len())).await;
    let goes_on = freed.elapsed();
    let all = service.driver.wait_for(commands, commands.len(), Duration::from_mins(1)).await;
    let all = all.then(|| freed.elapsed());
    let tally = service.settle(commands, &["action.completed"]).await;
    let present = service.sql("SELECT COUNT(*) FROM action_runs WHERE status = 'completed'").await;
    let lines = (most, usize::try_from(allowed).expect("it is small"));
    Seen {
        tally,
        told,
        reason,
        lines,
        answered_meanwhile: answered - early,
        open: commands.len() - answered,
        goes_on,
        all,
        present,
    }
}

fn mixed(service: &Service, count: usize) -> Vec<Command> {
    let script = json!({ "deeds": ["succeed"], "calls": true });
    (0..count).map(|n| service.command_in(COMMUNITY, if n % 2 == 0 { "keyed" } else { "pure" }, &script)).collect()
}

fn judge(row: Row, name: &str, seen: &Seen, reason: &str) -> Row {
    let named = |figure: &str| format!("{name}: {figure}");
    row.within(&named("told after"), seen.told, Duration::from_secs(15))
        .holds(&named("the log says that the disk is full"), seen.reason.contains(reason))
        .at_most(&named("lines in the log of a process"), seen.lines.0, seen.lines.1)
        .note(&named("answered meanwhile"), seen.answered_meanwhile.to_string())
        .at_least(&named("open when there was room again"), seen.open, seen.tally.attempted / 2)
        .within(&named("answering again after"), seen.goes_on, Duration::from_secs(15))
        .within(&named("all answered after"), seen.all, Duration::from_mins(2))
        .exactly(&named("commands present"), seen.present, seen.tally.attempted)
}

/// Full under `metagov dev` with SQLite, then under two workers with PostgreSQL. Commands are held meanwhile, and go on
/// when there is room.
pub(crate) async fn t24(rig: &mut Rig, size: Size) -> Row {
    let time = size.of(Duration::from_secs(65), Duration::from_secs(5));
    let sqlite = {
        let disk = Disk::mount(&rig.logs, "sqlite", 8);
        let setup = Setup { workers: 0, devs: 1, sqlite: true, disk: Some(disk.path.clone()), ..Setup::default() };
        let mut service = rig.service(setup).await;
        let commands = mixed(&service, size.of(600, 200));
        fill(&mut service, &disk, &commands, 20, time).await
    };
    let postgres = {
        let mut disk = Disk::mount(&rig.logs, "postgres", 64);
        let settings = vec![("worker.deadline_seconds", "2".to_owned())];
        let setup = Setup { workers: 0, communities: Vec::new(), settings, ..Setup::default() };
        let mut service = rig.service(setup).await;
        disk.take_in(&rig.database, &service.prefix);
        service.start(Role::Worker);
        service.start(Role::Worker);
        service.enable(&[COMMUNITY.to_owned()]).await;
        let commands = mixed(&service, size.of(3_000, 600));
        fill(&mut service, &disk, &commands, 50, time).await
    };
    let row = Row::new("T24", format!("disk full for {} s: SQLite on 8 MiB, PostgreSQL on 64 MiB", time.as_secs()))
        .counts(sqlite.tally.clone().and(postgres.tally.clone()));
    let row = judge(row, "SQLite", &sqlite, "database or disk is full");
    judge(row, "PostgreSQL", &postgres, "No space left on device")
}
