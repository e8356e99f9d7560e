//! Crashes in the middle of 2 000 commands: a worker killed, the broker restarted, the database restarted.
//!
//! The real binary runs in processes of its own, against a RabbitMQ node and a PostgreSQL cluster that belong to the
//! test. Nothing may be lost, nothing doubled, and each command has one final event id.

mod driver;
mod servers;

use std::process::{Child, Command, Stdio};

use sea_orm::{ConnectionTrait, Database, DatabaseBackend, Statement};
use serde_json::json;
use uuid::Uuid;

use crate::{
    driver::{Driver, Figures},
    servers::Server,
};

const COMMANDS: usize = 2000;
const PREFIX: &str = "crash";

/// The service in processes of its own.
struct Service {
    broker: Server,
    database: Server,
    directory: tempfile::TempDir,
    processes: Vec<Child>,
}

impl Service {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        // PostgreSQL runs as a user of its own, who has to get through.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(directory.path(), mode).expect("the directory is ours");
        let broker = Server::start("rabbitmq", directory.path());
        let database = Server::start("postgres", directory.path());
        let mut service = Self { broker, database, directory, processes: Vec::new() };
        for setup in [&["migrate"][..], &["topology", "apply"]] {
            let done = service.metagov(setup).output().expect("the binary runs");
            assert!(done.status.success(), "metagov {setup:?}: {}", String::from_utf8_lossy(&done.stderr));
        }
        for role in [&["worker"][..], &["worker"], &["scheduler"]] {
            service.spawn(role);
        }
        service
    }

    fn metagov(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_metagov"));
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("METAGOV__BROKER__URL", &self.broker.url)
            .env("METAGOV__BROKER__PREFIX", PREFIX)
            .env("METAGOV__DATABASE__URL", &self.database.url)
            .env("METAGOV__LOG__FILTER", "warn")
            .stdin(Stdio::null());
        command
    }

    fn spawn(&mut self, arguments: &[&str]) {
        let process = self.metagov(arguments).spawn().expect("the binary runs");
        self.processes.push(process);
    }

    /// SIGKILL for the first worker, and a new one in its place.
    fn kill_a_worker(&mut self) {
        let mut worker = self.processes.remove(0);
        worker.kill().expect("it runs");
        worker.wait().expect("it is gone");
        self.spawn(&["worker"]);
    }

    /// How many runs of actions are stored.
    async fn stored_runs(&self) -> usize {
        let connection = Database::connect(&self.database.url).await.expect("the database answers");
        let sql = "SELECT COUNT(*) AS runs FROM action_runs WHERE status = 'completed'";
        let row = connection
            .query_one_raw(Statement::from_string(DatabaseBackend::Postgres, sql))
            .await
            .expect("the table is there")
            .expect("a count is one row");
        usize::try_from(row.try_get::<i64>("", "runs").expect("a count")).expect("not negative")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// 2 000 commands, with something that happens once a quarter of them is answered.
async fn disturbed_by(what: &str, disturb: impl FnOnce(&mut Service)) {
    let mut service = Service::start();
    let driver = Driver::connect(&service.broker.url, PREFIX).await;
    let apply = json!({
        "slug": "acme",
        "plugins": [{ "name": "randomness", "config": { "default_low": 1, "default_high": 7 } }]
    });
    let setup = (Uuid::new_v4().to_string(), "community.apply".to_owned(), apply.to_string().into_bytes());
    let set_up = vec![setup.0.clone()];
    driver.publish(&[setup]).await;
    driver.wait_for(&set_up, 1).await;
    let body = json!({ "community": "acme", "parameters": {} }).to_string().into_bytes();
    let commands: Vec<_> = (0..COMMANDS)
        .map(|_| (Uuid::new_v4().to_string(), "action.randomness.random-int".to_owned(), body.clone()))
        .collect();
    let ids: Vec<_> = commands.iter().map(|(id, ..)| id.clone()).collect();
    let publisher = driver.clone();
    let publishing = tokio::spawn(async move { publisher.publish(&commands).await });
    driver.wait_for(&ids, COMMANDS / 4).await;
    let before = driver.answered(&ids);
    tokio::task::block_in_place(|| disturb(&mut service));
    publishing.await.expect("the driver publishes");
    driver.wait_for(&ids, COMMANDS).await;
    let figures = driver.figures(&ids);
    let stored = service.stored_runs().await;
    println!("{what}: {figures:?}, {stored} runs stored, disturbed after {before} answers");
    assert_eq!(stored, COMMANDS, "one run is stored for each command");
    assert!(before < COMMANDS, "everything was answered before anything happened");
    assert_eq!(figures, Figures { attempted: COMMANDS, lost: 0, doubled: 0, several_ids: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_loses_and_doubles_nothing() {
    disturbed_by("kill -9 of a worker", Service::kill_a_worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_broker_loses_and_doubles_nothing() {
    disturbed_by("restart of RabbitMQ", |service| service.broker.restart()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_database_loses_and_doubles_nothing() {
    disturbed_by("restart of PostgreSQL", |service| service.database.restart()).await;
}
