//! Workers that stand still: their runtime is not driven, until others have done what there was to do.
//!
//! On SQLite whoever holds its one lock holds up everybody. So one that stands still within a transaction goes on at once,
//! beside the worker after it: its lease is over all the same, and its deliveries are with the other.

use std::{path::Path, thread, time::Duration};

use metagov::failpoint::{RELEASED, SPARED};
use sea_orm::ConnectionTrait;
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::stage::connect;

/// After so long the others are taken to wait for what this one holds.
const STUCK: Duration = Duration::from_secs(2);
/// How often it is looked whether a transaction is open: the threads of SQLite finish what they were asked for.
const LOOKS: u32 = 3;

/// A worker that runs.
pub(crate) struct Working {
    /// Ends it in order.
    pub(crate) stop: CancellationToken,
    /// Resolves when it has ended.
    pub(crate) task: JoinHandle<()>,
}

/// A worker that stands still.
pub(crate) struct Frozen {
    others_are_done: oneshot::Sender<()>,
    life: thread::JoinHandle<()>,
}

impl Frozen {
    /// What was driven on this runtime until now.
    pub(crate) fn new(runtime: Runtime, working: Working, file: &Path) -> Self {
        let patience = if is_locked(file) { Duration::ZERO } else { STUCK };
        let (others_are_done, mut done) = oneshot::channel();
        let life = thread::spawn(move || {
            let _ = runtime_of_its_own().block_on(async { timeout(patience, &mut done).await });
            // What is still to come is for the others.
            SPARED.set(true);
            RELEASED.notify_waiters();
            runtime.block_on(async {
                if !done.is_terminated() {
                    let _ = done.await;
                }
                working.stop.cancel();
                working.task.await.expect("the worker does not panic");
            });
        });
        Self { others_are_done, life }
    }

    /// Lets it go on, and finish what it has begun.
    pub(crate) fn thaw(self) {
        let _ = self.others_are_done.send(());
        self.life.join().expect("the worker does not panic");
    }
}

/// Whether somebody is in the middle of a transaction.
fn is_locked(file: &Path) -> bool {
    runtime_of_its_own().block_on(async {
        let connection = connect(file).await;
        let mut locked = false;
        for _ in 0..LOOKS {
            sleep(Duration::from_millis(3)).await;
            let begin = "PRAGMA busy_timeout = 0; BEGIN IMMEDIATE; ROLLBACK";
            locked = connection.execute_unprepared(begin).await.is_err();
        }
        locked
    })
}

fn runtime_of_its_own() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}
