//! Between a plugin and the worker: a deadline, a net under panics, a bound on what it answers, and an eye on who blocks a
//! thread.
//!
//! A handler runs in a task of its own, so that whatever it does ends as a value. Its deadline ends the waiting, also where
//! the handler never yields and cannot be cancelled: such a one keeps its thread, the others go on with those that are left,
//! and the log says which plugin it is. A command that is convicted of killing workers is not called at all: it ends as if
//! it had been cut off. Up: [`super::action`] and its neighbours. Down: the plugin's code, and [`super::bound`].

use std::time::Duration;

use metagov_sdk::{
    Effects, Error, Finished, Handling,
    contract::{Problem, ProblemKind},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};
use tracing::{Instrument, error, warn};

use super::{
    bound::{Answer, bounded},
    envelope::Envelope,
    suspects::crashed,
};
use crate::{failpoint::failpoint, telemetry::measures};

/// A cancelled handler that is still there after so long has not come to any `await`.
const TO_BE_CANCELLED: Duration = Duration::from_secs(1);

/// How a call of a plugin ended.
#[derive(Debug)]
pub(super) enum Called<T> {
    /// The plugin answered, well or not.
    Answered(Finished<T>),
    /// It did not: it panicked, or ran out of time. What it did until then is not known.
    Cut(Box<Problem>),
}

impl<T> Called<T> {
    /// The answer, with a call that was cut taken for a failure.
    pub(super) fn into_finished(self) -> Finished<T> {
        match self {
            Self::Answered(finished) => finished,
            Self::Cut(problem) => Finished { result: Err(Error::Failed(problem)), effects: Effects::default() },
        }
    }
}

/// Calls a plugin on behalf of this command.
pub(super) async fn guarded<T: Answer + Send + 'static>(
    envelope: &Envelope,
    handling: Handling<T>,
    deadline: Duration,
) -> Called<T> {
    if envelope.convicted {
        return Called::Cut(Box::new(crashed()));
    }
    let mut task = tokio::spawn(handling.in_current_span());
    let ended = timeout(deadline, &mut task).await;
    failpoint!("worker::called");
    match ended {
        Ok(Ok(finished)) => Called::Answered(bounded(finished)),
        Ok(Err(_panic)) => {
            let detail = "the plugin crashed while it handled this; its operators find the reason in the log";
            Called::Cut(Box::new(Problem::new(ProblemKind::PluginPanicked, detail)))
        }
        Err(_elapsed) => {
            task.abort();
            let plugin = envelope.plugin.as_ref().map_or("core", |plugin| plugin.as_str()).to_owned();
            tokio::spawn(watch(task, plugin, deadline).in_current_span());
            let detail = format!("the plugin did not answer within {} s", deadline.as_secs_f64());
            Called::Cut(Box::new(Problem::new(ProblemKind::Timeout, detail)))
        }
    }
}

/// Sees a cancelled handler off.
async fn watch<T>(mut task: JoinHandle<T>, plugin: String, deadline: Duration) {
    let cancelled = Instant::now();
    if timeout(TO_BE_CANCELLED, &mut task).await.is_ok() {
        return;
    }
    metrics::counter!(measures::BLOCKED_HANDLERS, "plugin" => plugin.clone()).increment(1);
    error!(
        plugin,
        "a handler blocks its thread: {deadline:?} are over and it cannot be cancelled, for it never awaits"
    );
    // Its value has nobody to go to any more.
    let _ = task.await;
    warn!(plugin, "the handler has let go of its thread, {:?} after its deadline", cancelled.elapsed());
}
