//! Every due time that was claimed, and every poll command that was made of one.
//!
//! A trigger in the scenario's database notes each claim in the transaction that makes it, and a queue beside the
//! plugin's own takes a copy of each poll command. Where the two agree, no due time was missed and none came twice. Up:
//! the scenarios of the scheduler. Down: PostgreSQL and the broker, without the service.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::StreamExt;
use lapin::{
    Connection, ConnectionProperties,
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use metagov_sdk::contract::Poll;
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, Statement, TransactionTrait};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::{checker::Tally, rig::Service};

/// A process and a due time, in microseconds.
type Due = (Uuid, i64);

/// The claims as they are made, and a gate in front of them: whoever holds the lock keeps every claim waiting in its
/// transaction, however short a time a session waits for locks otherwise.
const NOTE_CLAIMS: [&str; 3] = [
    "CREATE TABLE claims (process uuid NOT NULL, due_at timestamptz NOT NULL)",
    "CREATE FUNCTION note_claim() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$ BEGIN \
         PERFORM pg_advisory_xact_lock_shared(26); \
         INSERT INTO claims VALUES (OLD.id, OLD.due_at); \
         RETURN NULL; \
     END $$",
    "CREATE TRIGGER note_claim AFTER UPDATE ON processes FOR EACH ROW \
         WHEN (OLD.due_at <= clock_timestamp() AND NEW.due_at > OLD.due_at) EXECUTE FUNCTION note_claim()",
];

/// The watch over the polls of one service.
pub(crate) struct Polls {
    database: DatabaseConnection,
    made: Arc<Mutex<HashMap<Due, Vec<DateTime<Utc>>>>>,
    _connection: Connection,
    _listener: AbortOnDropHandle<()>,
}

/// What was found: each due time once, or not.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Due times that were claimed.
    pub(crate) claimed: usize,
    /// Of them, those with exactly one command.
    pub(crate) once: usize,
    /// Those with none.
    pub(crate) missed: usize,
    /// Due times with more than one command, or more than one claim.
    pub(crate) repeated: usize,
    /// Commands for a due time that nobody has claimed.
    pub(crate) unclaimed: usize,
    /// From each due time to its first command, in order of length.
    pub(crate) lags: Vec<Duration>,
    /// The longest time between two commands of one process.
    pub(crate) gap: Duration,
}

impl Polls {
    /// Watches from now on.
    pub(crate) async fn watch(broker_url: &str, service: &Service) -> Self {
        let database = Database::connect(&service.database_url).await.expect("the database answers");
        for statement in NOTE_CLAIMS {
            database.execute_unprepared(statement).await.expect("the rig owns the database");
        }
        let connection =
            Connection::connect(broker_url, ConnectionProperties::default()).await.expect("the broker answers");
        let channel = connection.create_channel().await.expect("the broker answers");
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare("".into(), exclusive, FieldTable::default()).await.expect("it is ours");
        let (name, exchange) = (queue.name().as_str(), format!("{}.commands", service.prefix));
        channel
            .queue_bind(
                name.into(),
                exchange.into(),
                "poll.#".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .expect("the exchange is there");
        let unacknowledged = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let mut copies = channel
            .basic_consume(name.into(), "".into(), unacknowledged, FieldTable::default())
            .await
            .expect("the queue is there");
        let made = Arc::<Mutex<HashMap<Due, Vec<DateTime<Utc>>>>>::default();
        let noted = Arc::clone(&made);
        let listener = tokio::spawn(async move {
            while let Some(Ok(copy)) = copies.next().await {
                let poll: Poll = serde_json::from_slice(&copy.data).expect("every poll command has its body");
                let due = (poll.process_id, poll.due_at.timestamp_micros());
                noted.lock().expect("nobody panics while holding it").entry(due).or_default().push(Utc::now());
            }
        });
        Self { database, made, _connection: connection, _listener: AbortOnDropHandle::new(listener) }
    }

    /// How many due times have a command.
    pub(crate) fn made(&self) -> usize {
        self.book().len()
    }

    /// How often each process was polled since then.
    pub(crate) fn of_each_since(&self, from: DateTime<Utc>) -> HashMap<Uuid, usize> {
        let mut counts = HashMap::new();
        for ((process, _), arrivals) in self.book().iter() {
            let since = arrivals.iter().filter(|at| **at >= from).count();
            if since > 0 {
                *counts.entry(*process).or_default() += since;
            }
        }
        counts
    }

    /// The longest time between these two in which nothing was polled.
    pub(crate) fn longest_gap(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Duration {
        let mut times: Vec<_> = self.book().values().flatten().copied().filter(|at| (from..=to).contains(at)).collect();
        times.extend([from, to]);
        times.sort_unstable();
        let gaps = times.windows(2).filter_map(|pair| (pair[1] - pair[0]).to_std().ok());
        gaps.max().unwrap_or_default()
    }

    /// Runs a statement on the service's database.
    pub(crate) async fn execute(&self, statement: &str) {
        self.database.execute_unprepared(statement).await.expect("the statement is right");
    }

    /// Keeps claims waiting in their transactions until the gate is committed; returns once so many wait, be it for the
    /// gate or for each other.
    pub(crate) async fn hold(&self, service: &Service, claims: usize) -> DatabaseTransaction {
        const WAITING: &str = "SELECT COUNT(DISTINCT pid) FROM pg_locks WHERE NOT granted";
        let gate = self.database.begin().await.expect("the database answers");
        gate.execute_unprepared("SELECT pg_advisory_xact_lock(26)").await.expect("the lock is ours");
        let waiting = async {
            while service.sql(WAITING).await < claims {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("so much is claimed");
        gate
    }

    /// Compares what was claimed with what was made of it.
    pub(crate) async fn found(&self) -> Found {
        const CLAIMS: &str = "SELECT process, (EXTRACT(epoch FROM due_at) * 1000000)::bigint FROM claims";
        let statement = Statement::from_string(self.database.get_database_backend(), CLAIMS);
        let rows = self.database.query_all_raw(statement).await.expect("the query is right");
        let claims: Vec<Due> = rows
            .iter()
            .map(|row| {
                let process: Uuid = row.try_get_by_index(0).expect("it is an id");
                (process, row.try_get_by_index(1).expect("it is a number"))
            })
            .collect();
        let claimed: HashSet<Due> = claims.iter().copied().collect();
        let made = self.book();
        let mut found = Found { claimed: claimed.len(), ..Found::default() };
        found.repeated = claims.len() - claimed.len();
        let mut times: HashMap<Uuid, Vec<DateTime<Utc>>> = HashMap::new();
        for due in &claimed {
            match made.get(due).map(Vec::as_slice) {
                None => found.missed += 1,
                Some([_]) => found.once += 1,
                Some(_) => found.repeated += 1,
            }
        }
        for ((process, due_at), arrivals) in made.iter() {
            found.unclaimed += usize::from(!claimed.contains(&(*process, *due_at)));
            let first = arrivals[0];
            let lag = first.timestamp_micros().saturating_sub(*due_at);
            found.lags.push(Duration::from_micros(u64::try_from(lag).unwrap_or(0)));
            times.entry(*process).or_default().push(first);
        }
        for mut times in times.into_values() {
            times.sort_unstable();
            let longest = times.windows(2).filter_map(|pair| (pair[1] - pair[0]).to_std().ok()).max();
            found.gap = found.gap.max(longest.unwrap_or_default());
        }
        found.lags.sort_unstable();
        found
    }

    fn book(&self) -> MutexGuard<'_, HashMap<Due, Vec<DateTime<Utc>>>> {
        self.made.lock().expect("nobody panics while holding it")
    }
}

impl Found {
    /// The counts, with a due time that was claimed for what was attempted, and its one command for the outcome; what
    /// the starts of the processes broke counts as well.
    pub(crate) fn tally(&self, starts: &Tally) -> Tally {
        Tally {
            attempted: self.claimed,
            acknowledged: self.claimed - self.missed,
            ok: self.once,
            lost: self.missed + starts.lost,
            duplicated: self.repeated + starts.duplicated,
            unexpected: self.unclaimed + starts.unexpected,
            ..starts.clone()
        }
    }
}
