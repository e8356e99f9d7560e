//! Suspects: a command that kills its process is found out, and those beside it are not taken for it.
//!
//! The broker says of a delivery only that it was handed out before. So the first time a command is handled nothing is
//! written down, and no database is asked. One that comes **again** is a suspect, and each handling of a suspect is a row
//! that is written before the plugin is called and deleted when it has ended, whichever way, as long as the process lives
//! to do it. What has stayed says how often a process died with the command in hand:
//!
//! | rows | deaths behind it | how it is handled |
//! |---|---|---|
//! | 0 | one at most | beside other suspects, a few at a time |
//! | 1 | two at most | alone among the suspects of its worker: whoever dies now has killed itself |
//! | 2 | three | not at all: answered with `worker-crashed`, kept in `metagov.dead` as `killed-its-worker` |
//!
//! An innocent neighbour of a poisonous command shares its first death and perhaps its second, never the one that convicts,
//! for then nobody is beside it but commands that came for the first time, of which no row is kept.
//!
//! **Rolling kills.** `kill -9` from outside looks like a crash. An innocent is convicted only if it is in hand at three of
//! them, the second time among the few suspects that run at once, the third time as the only one. Suspects have a lane of
//! their own and wait for no community's turn, so a command of milliseconds is long done when the next kill comes, however
//! many kills there are: its rows are gone with its outcome. For a handler that takes longer than the time between kills
//! the risk is one command for each worker and kill; it is answered, and kept for a person to look at.
//!
//! **Lost connections** are no deaths: a worker whose session is gone takes its rows back at once, though its handlers go
//! on. As it may need a moment to notice, nobody is convicted before [`SECOND_LOOK`]. An orderly end takes its rows back
//! too. What kills while a body is parsed, before any row, is left to the broker's delivery limit. That limit is high, for an
//! innocent that waits behind many suspects is in hand at each death of its worker, and the broker tells nobody of what it
//! gives up: so what is near it is answered, and set aside, without being handled.
//!
//! A `keyed` or `unsafe` action has to wait for the lease of the attempt that died; it does so up the delay ladder, as a copy
//! that says of itself to be suspect. Up: [`super::settle`]. Down: the table `suspects`.

use std::{sync::Arc, time::Duration};

use metagov_sdk::contract::{Problem, ProblemKind};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use uuid::Uuid;

use super::{envelope::Envelope, intake::suspects_at_once, patience::Patience};
use crate::{
    bus::Receipt,
    store::{Store, StoreError},
};

/// How many rows convict, after a first death that left none.
const CONVICTED_BY: u64 = 2;
/// So long a worker may need to take its rows back after it has lost its connection.
const SECOND_LOOK: Duration = Duration::from_secs(5);
/// So long rows are taken back when the worker goes down.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The suspects of one worker.
#[derive(Debug)]
pub(super) struct Suspects {
    store: Store,
    together: u32,
    permits: Arc<Semaphore>,
}

/// What is to be done with a suspect.
#[derive(Debug)]
pub(super) enum Suspect {
    /// It is handled; the permits are its right to.
    Handle(Run),
    /// It is answered, not handled.
    Convicted,
    /// The worker goes down.
    Unfinished,
}

/// A handling of a suspect that is written down.
#[derive(Debug)]
pub(super) struct Run {
    id: Uuid,
    _permits: OwnedSemaphorePermit,
}

impl Suspects {
    /// For a worker that fetches so many deliveries.
    pub(super) fn new(store: &Store, fetched: usize) -> Self {
        let together = u32::try_from(suspects_at_once(fetched)).unwrap_or(u32::MAX);
        Self { store: store.clone(), together, permits: Arc::new(Semaphore::new(together as usize)) }
    }

    /// Waits until a suspect may be handled, and writes it down.
    pub(super) async fn begin(&self, envelope: &Envelope, abort: &CancellationToken) -> Suspect {
        let begun = self.try_to_begin(envelope);
        tokio::select! {
            () = abort.cancelled() => Suspect::Unfinished,
            suspect = begun => suspect,
        }
    }

    async fn try_to_begin(&self, envelope: &Envelope) -> Suspect {
        if envelope.last_chance {
            error!("so often in hand that the broker is about to give it up; it is not handled again");
            return Suspect::Convicted;
        }
        let command = envelope.suspicion();
        let mut rows = self.rows(command).await;
        if rows >= CONVICTED_BY {
            sleep(SECOND_LOOK).await;
            rows = self.rows(command).await;
        }
        if rows >= CONVICTED_BY {
            error!(
                "three workers died with this in hand, the last time with no other suspect; it is not handled again"
            );
            return Suspect::Convicted;
        }
        let alone = rows > 0;
        let wanted = if alone { self.together } else { 1 };
        let Ok(permits) = Arc::clone(&self.permits).acquire_many_owned(wanted).await else {
            return Suspect::Unfinished;
        };
        if alone {
            warn!("workers died with this in hand; it is handled with no other suspect beside it");
        }
        let id = Uuid::now_v7();
        let begin = || self.store.begin_suspect(command, id, &envelope.routing_key);
        self.insist("written down", begin).await;
        Suspect::Handle(Run { id, _permits: permits })
    }

    /// Takes the row back when the session of the delivery is gone: the command is on its way to somebody else, and nobody
    /// has died. Never returns.
    pub(super) async fn watch(&self, run: &Run, receipt: &Receipt) {
        receipt.turns_stale().await;
        self.insist("taken back", || self.store.end_suspect(run.id)).await;
        std::future::pending::<()>().await;
    }

    /// This handling is over, without an outcome.
    pub(super) async fn end(&self, run: Run) {
        let ending = self.insist("taken back", || self.store.end_suspect(run.id));
        if timeout(LAST_WORDS, ending).await.is_err() {
            warn!("a suspect could not be taken back; the next worker takes this one for dead");
        }
    }

    /// The command has its outcome.
    pub(super) async fn acquit(&self, envelope: &Envelope) {
        let command = envelope.suspicion();
        if timeout(LAST_WORDS, self.insist("acquitted", || self.store.acquit(command))).await.is_err() {
            warn!("a suspect could not be acquitted; its row goes in a week");
        }
    }

    async fn rows(&self, command: Uuid) -> u64 {
        self.insist("looked up", || self.store.begun_and_not_ended(command)).await.unwrap_or(0)
    }

    /// For as long as it takes while the database is only away. What it refuses for good must not stop the command.
    async fn insist<T, F>(&self, what: &str, ask: impl FnMut() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let answer = Patience::new().insist(ask).await;
        answer.inspect_err(|error| warn!(%error, "a suspect could not be {what}")).ok()
    }
}

/// What a convicted command is answered with.
pub(super) fn crashed() -> Problem {
    let detail =
        "worker after worker died while it handled this; its operators find the message among the dead letters";
    Problem::new(ProblemKind::WorkerCrashed, detail)
}
