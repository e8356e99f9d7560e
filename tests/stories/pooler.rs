//! A pooler of transactions, `PgBouncer`, between the service and PostgreSQL.

use std::{collections::BTreeSet, path::PathBuf, process::Command as Program, time::Duration};

use serde_json::{Value, json};

use crate::{
    support::{
        Command, Received, World,
        world::{COMMUNITY, required},
    },
    webhooks::{ballot, hook},
};

/// How many webhooks, and how many actions, come at once.
const CROWD: u64 = 300;

/// One that a story may kill.
struct Pooler {
    script: PathBuf,
    directory: tempfile::TempDir,
    url: String,
}

impl Pooler {
    fn start(settings: &[&str]) -> Self {
        let script = PathBuf::from(required("METAGOV_TEST_SERVICES")).join("pgbouncer");
        let directory = tempfile::tempdir().expect("a directory");
        let mut pooler = Self { script, directory, url: String::new() };
        let server = required("METAGOV_TEST_DATABASE_URL");
        pooler.url = pooler.tell("start", &[&[server.as_str()], settings].concat());
        pooler
    }

    /// A verb of `tests/services/pgbouncer`.
    fn tell(&self, verb: &str, arguments: &[&str]) -> String {
        let mut program = Program::new(&self.script);
        let output = program.arg(verb).arg(self.directory.path()).args(arguments).output().expect("it can be run");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "pgbouncer {verb} {arguments:?}: {out}{err}");
        out.trim().to_owned()
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = Program::new(&self.script).arg("stop").arg(self.directory.path()).output();
    }
}

fn is_outcome(received: &Received) -> bool {
    received.event.event_type.starts_with("org.metagov.action.") || is_rejected(received)
}

fn is_rejected(received: &Received) -> bool {
    received.event.event_type == "org.metagov.command.rejected"
}

/// Every role and the command line go through it, and it dies while all of them have something to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_counted_twice_through_a_pooler_that_dies_in_the_middle() {
    // Fewer sessions than the service has connections, so that each transaction finds what others have left.
    let pooler = Pooler::start(&["default_pool_size=3"]);
    let mut world = World::through(&pooler.url).await;
    world.start_worker().await;
    world.with_puppet().await;
    let polled = ballot(&world, &json!({ "quorum": 9, "key": "polled", "tag": "polled", "script": ["answer"] })).await;
    let id = ballot(&world, &json!({ "quorum": 2 * CROWD, "key": "voted" })).await;

    let count = json!({ "community": COMMUNITY, "parameters": { "tag": "pooled", "script": ["answer"] } });
    let actions: Vec<_> = (0..CROWD).map(|_| Command::new("action.puppet.idempotent-act", &count)).collect();
    let votes: Vec<_> = (0..CROWD).map(|_| hook(&json!([["X-Puppet-Ballot", "voted"]]))).collect();
    let (before, after) = (actions.split_at(actions.len() / 2), votes.split_at(votes.len() / 2));
    world.send_all(before.0).await;
    world.send_all(after.0).await;
    world.mail.wait_for(10, "the first outcomes", is_outcome).await;
    pooler.tell("kill", &[]);
    world.send_all(before.1).await;
    world.send_all(after.1).await;
    pooler.tell("start", &[]);

    let ended = world.mail.wait_for(actions.len(), "an outcome for each", is_outcome).await;
    for received in &ended {
        assert_eq!(received.event.event_type, "org.metagov.action.completed", "{}", received.event.data);
    }
    let causes: BTreeSet<_> = ended.iter().map(|received| received.event.causationid.clone()).collect();
    assert_eq!(causes.len(), actions.len(), "each command has its own");
    let ended = |r: &Received| r.event.event_type == "org.metagov.process.completed";
    let ended = world.mail.wait_for(1, "the end of the vote", ended).await.remove(0);
    assert_eq!((World::record(&ended).id, &ended.event.data["outcome"]["votes"]), (id, &json!(2 * CROWD)));
    let instances = world.store.instances(&World::community()).await.expect("the database answers");
    let counted = instances[0].state.as_ref().and_then(Value::as_u64).expect("a count");
    assert!((CROWD..=CROWD + 1).contains(&counted), "{counted} webhooks, and the first tick");
    let polled = |r: &Received| r.event.data["outcome"]["polls"] == 1 && World::record(r).id == polled;
    world.mail.wait_for(1, "what a poll has found", polled).await;
    assert!(world.mail.all().iter().all(|received| !is_rejected(received)), "nothing is refused");

    let (code, stdout, stderr) = world.metagov(&["migrate"]).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    let listing = ["events", "list", "-c", COMMUNITY, "--json"];
    let (code, stdout, stderr) = world.metagov_with(&listing, &[("METAGOV__LOG__FILTER", "info")]).await;
    assert!(code == 0 && stdout.contains("action.completed"), "{stdout}{stderr}");
    assert!(stderr.contains("through a pooler"), "{stderr}");
    // What was out when its mark was lost goes out once more, after a minute.
    let marked = async {
        while world.store.overdue(Duration::ZERO).await.expect("the database answers") > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(3), marked).await.expect("the relay publishes what has no mark");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_of_single_statements_is_refused_in_one_line() {
    let pooler = Pooler::start(&["pool_mode=statement"]);
    let program = Program::new(env!("CARGO_BIN_EXE_metagov"))
        .arg("migrate")
        .env("METAGOV__DATABASE__URL", &pooler.url)
        .output()
        .expect("the program was built");
    let stderr = String::from_utf8_lossy(&program.stderr);
    assert_eq!(program.status.code(), Some(5), "{stderr}");
    assert!(stderr.contains("statement pooling mode"), "{stderr}");
}
